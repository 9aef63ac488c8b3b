//! Little-endian writing and checked reading of state bytes. Must not know what the bytes mean.

use super::StateError;

/// Appends to a byte string.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written.
    pub out: Vec<u8>,
}

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes; every NaN keeps its bits.
    pub fn f64(&mut self, value: f64) {
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    /// Sixteen bytes.
    pub fn i128(&mut self, value: i128) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A length, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.out.extend_from_slice(value);
    }
}

/// Reads what a [`Writer`] wrote; every read is checked.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over all of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        if self.rest.len() < len {
            return Err(StateError(format!(
                "state ends {} bytes early",
                len - self.rest.len()
            )));
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// See [`Writer::u8`].
    ///
    /// # Errors
    /// If the bytes end early; so for all others.
    pub fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.array::<1>()?[0])
    }

    /// See [`Writer::u32`].
    ///
    /// # Errors
    /// If the bytes end early.
    pub fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    /// See [`Writer::i64`].
    ///
    /// # Errors
    /// If the bytes end early.
    pub fn i64(&mut self) -> Result<i64, StateError> {
        self.array().map(i64::from_le_bytes)
    }

    /// See [`Writer::f64`].
    ///
    /// # Errors
    /// If the bytes end early.
    pub fn f64(&mut self) -> Result<f64, StateError> {
        self.array().map(|b| f64::from_bits(u64::from_le_bytes(b)))
    }

    /// See [`Writer::i128`].
    ///
    /// # Errors
    /// If the bytes end early.
    pub fn i128(&mut self) -> Result<i128, StateError> {
        self.array().map(i128::from_le_bytes)
    }

    /// See [`Writer::bytes`].
    ///
    /// # Errors
    /// If the bytes end early.
    pub fn bytes(&mut self) -> Result<&'a [u8], StateError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// Bytes left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// That nothing is left over.
    ///
    /// # Errors
    /// If something is.
    pub fn finish(&self) -> Result<(), StateError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(StateError(format!("{} bytes too many in state", self.rest.len())))
        }
    }
}
