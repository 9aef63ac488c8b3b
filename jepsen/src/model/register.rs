//! One register with compare-and-set.

use crate::check::wgl::Model;

/// A value's number; 0 means that the register is empty.
pub type Value = u32;

/// An operation with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterOp {
    /// It was read.
    Read(Value),
    /// It was written.
    Write(Value),
    /// It held `expected` and was written.
    Cas {
        /// Before.
        expected: Value,
        /// After.
        new: Value,
    },
    /// It did not hold `expected`.
    Mismatch {
        /// What it did not hold.
        expected: Value,
    },
}

/// The register.
pub struct Register;

impl Model for Register {
    type State = Value;
    type Op = RegisterOp;

    fn initial(&self) -> Value {
        0
    }

    fn step(&self, state: &Value, op: &RegisterOp) -> Option<Value> {
        match *op {
            RegisterOp::Read(value) => (value == *state).then_some(*state),
            RegisterOp::Write(value) => Some(value),
            RegisterOp::Cas { expected, new } => (expected == *state).then_some(new),
            RegisterOp::Mismatch { expected } => (expected != *state).then_some(*state),
        }
    }
}

impl RegisterOp {
    /// The value that this operation proves to have been there.
    #[must_use]
    pub fn observes(self) -> Option<Value> {
        match self {
            Self::Read(value) | Self::Cas { expected: value, .. } => Some(value),
            Self::Write(_) | Self::Mismatch { .. } => None,
        }
    }

    /// The value that this operation leaves.
    #[must_use]
    pub fn leaves(self) -> Option<Value> {
        match self {
            Self::Write(value) | Self::Cas { new: value, .. } => Some(value),
            Self::Read(_) | Self::Mismatch { .. } => None,
        }
    }
}
