//! The bytes of accumulators, key by key, and their growth. Must not know what the values mean.

use super::accumulator::Accumulator;
use crate::state::StateError;
use crate::state::bytes::{Reader, Writer};

impl Accumulator {
    /// Makes room for keys up to `len`.
    pub fn resize(&mut self, len: usize) {
        match self {
            Self::Count(n) => n.resize(len, 0),
            Self::SumExact(sum, n) => {
                sum.resize(len, 0);
                n.resize(len, 0);
            }
            Self::SumFloat(sum, n) => {
                sum.resize(len, 0.0);
                n.resize(len, 0);
            }
            Self::I64(v, seen) => {
                v.resize(len, 0);
                seen.resize(len, false);
            }
            Self::F64(v, seen) => {
                v.resize(len, 0.0);
                seen.resize(len, false);
            }
            Self::I128(v, seen) => {
                v.resize(len, 0);
                seen.resize(len, false);
            }
            Self::Bytes(v) => v.resize(len, None),
            Self::Distinct(values) => values.resize(len),
        }
    }

    /// Appends the state of one key.
    pub fn encode(&self, key: usize, out: &mut Writer) {
        match self {
            Self::Count(n) => out.i64(n[key]),
            Self::SumExact(sum, n) => {
                out.i128(sum[key]);
                out.i64(n[key]);
            }
            Self::SumFloat(sum, n) => {
                out.f64(sum[key]);
                out.i64(n[key]);
            }
            Self::I64(v, seen) => {
                out.u8(u8::from(seen[key]));
                out.i64(v[key]);
            }
            Self::F64(v, seen) => {
                out.u8(u8::from(seen[key]));
                out.f64(v[key]);
            }
            Self::I128(v, seen) => {
                out.u8(u8::from(seen[key]));
                out.i128(v[key]);
            }
            Self::Bytes(v) => {
                out.u8(u8::from(v[key].is_some()));
                out.bytes(v[key].as_deref().unwrap_or_default());
            }
            Self::Distinct(values) => {
                out.u32(values.count(key));
                values.of(key).for_each(|value| out.bytes(value));
            }
        }
    }

    /// Reads the state of one key, which has none yet.
    ///
    /// # Errors
    /// If the bytes end early.
    pub fn decode(&mut self, key: usize, from: &mut Reader<'_>) -> Result<(), StateError> {
        match self {
            Self::Count(n) => n[key] = from.i64()?,
            Self::SumExact(sum, n) => (sum[key], n[key]) = (from.i128()?, from.i64()?),
            Self::SumFloat(sum, n) => (sum[key], n[key]) = (from.f64()?, from.i64()?),
            Self::I64(v, seen) => (seen[key], v[key]) = (from.u8()? != 0, from.i64()?),
            Self::F64(v, seen) => (seen[key], v[key]) = (from.u8()? != 0, from.f64()?),
            Self::I128(v, seen) => (seen[key], v[key]) = (from.u8()? != 0, from.i128()?),
            Self::Bytes(v) => {
                let some = from.u8()? != 0;
                let value = from.bytes()?;
                v[key] = some.then(|| value.into());
            }
            Self::Distinct(values) => {
                for _ in 0..from.u32()? {
                    values.add(key, from.bytes()?);
                }
            }
        }
        Ok(())
    }
}
