//! Integers, length-prefixed vectors and the end of the input (RFC 9420 §2.1).

use super::MlsParseError;

/// A reader over the bytes that are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Reads a `ProtocolVersion`, which must be MLS 1.0 (RFC 9420 §6).
    pub(super) fn protocol_version(&mut self) -> Result<(), MlsParseError> {
        match self.u16()? {
            1 => Ok(()),
            other => Err(MlsParseError::Version(other)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the bytes that were read since `earlier`, a position of this reader.
    pub(super) fn since(&self, earlier: &Self) -> &'a [u8] {
        &earlier.rest[..earlier.rest.len() - self.rest.len()]
    }

    /// Requires that no byte is left.
    pub(super) fn finish(self) -> Result<(), MlsParseError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(MlsParseError::Trailing { extra }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MlsParseError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(MlsParseError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, MlsParseError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MlsParseError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, MlsParseError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, MlsParseError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads `opaque data<V>` and returns the vector's content.
    pub(super) fn vector(&mut self) -> Result<&'a [u8], MlsParseError> {
        let len = self.vector_len()?;
        let (content, rest) = self.rest.split_at_checked(len).ok_or(MlsParseError::Truncated)?;
        self.rest = rest;
        Ok(content)
    }

    /// Reads `opaque data<V>` like [`Self::vector`], also with a length of 8 bytes, or of more bytes than it needs.
    pub(super) fn loose_vector(&mut self) -> Result<&'a [u8], MlsParseError> {
        let len = match *self.rest.first().ok_or(MlsParseError::Truncated)? >> 6 {
            0 => u64::from(self.u8()?),
            1 => u64::from(self.u16()? & 0x3fff),
            2 => u64::from(self.u32()? & 0x3fff_ffff),
            _ => self.u64()? & (u64::MAX >> 2),
        };
        let len = usize::try_from(len).map_err(|_| MlsParseError::Truncated)?;
        let (content, rest) = self.rest.split_at_checked(len).ok_or(MlsParseError::Truncated)?;
        self.rest = rest;
        Ok(content)
    }

    /// Reads `T items<V>`: calls `element` until the vector is used up. Returns the vector's content.
    pub(super) fn each(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), MlsParseError>,
    ) -> Result<&'a [u8], MlsParseError> {
        let content = self.vector()?;
        let mut elements = Reader::new(content);
        while !elements.is_empty() {
            element(&mut elements)?;
        }
        Ok(content)
    }

    /// Reads a length of 1, 2 or 4 bytes, as its first two bits say. Only the shortest form is accepted.
    fn vector_len(&mut self) -> Result<usize, MlsParseError> {
        let first = *self.rest.first().ok_or(MlsParseError::Truncated)?;
        let (len, least) = match first >> 6 {
            0 => (u32::from(self.u8()?), 0),
            1 => (u32::from(self.u16()? & 0x3fff), 1 << 6),
            2 => (self.u32()? & 0x3fff_ffff, 1 << 14),
            _ => return Err(MlsParseError::LengthPrefix),
        };
        if len < least {
            return Err(MlsParseError::LengthNotMinimal);
        }
        // Fails only where memory could not hold such a vector anyway.
        usize::try_from(len).map_err(|_| MlsParseError::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(data: &[u8]) -> Result<(&[u8], usize), MlsParseError> {
        let mut reader = Reader::new(data);
        let content = reader.vector()?;
        Ok((content, reader.rest.len()))
    }

    #[test]
    fn a_length_takes_one_two_or_four_bytes() {
        for (len, prefix) in [
            (0, vec![0x00]),
            (63, vec![0x3f]),
            (64, vec![0x40, 0x40]),
            (16_383, vec![0x7f, 0xff]),
            (16_384, vec![0x80, 0x00, 0x40, 0x00]),
            (70_000, vec![0x80, 0x01, 0x11, 0x70]),
        ] {
            let content = vec![7; len];
            let data = [prefix, content.clone(), vec![9]].concat();
            assert_eq!(vector(&data), Ok((&content[..], 1)), "length {len}");
            assert_eq!(vector(&data[..data.len() - 2]).ok().map(|(c, _)| c.len()), None);
        }
    }

    #[test]
    fn a_length_has_one_form() {
        let long = |prefix: &[u8]| [prefix, &[0; 20_000]].concat();
        assert_eq!(vector(&long(&[0x40, 0x3f])), Err(MlsParseError::LengthNotMinimal));
        assert_eq!(vector(&long(&[0x40, 0x00])), Err(MlsParseError::LengthNotMinimal));
        assert_eq!(vector(&long(&[0x80, 0, 0x3f, 0xff])), Err(MlsParseError::LengthNotMinimal));
    }

    #[test]
    fn a_length_of_two_to_the_62_is_refused_by_its_prefix() {
        assert_eq!(vector(&[0xff; 64]), Err(MlsParseError::LengthPrefix));
        assert_eq!(vector(&[0xc0, 0, 0, 0, 0, 0, 0, 1, 5]), Err(MlsParseError::LengthPrefix));
    }

    #[test]
    fn a_length_beyond_the_input_is_truncation() {
        assert_eq!(vector(&[0xbf, 0xff, 0xff, 0xff, 1, 2]), Err(MlsParseError::Truncated));
        assert_eq!(vector(&[]), Err(MlsParseError::Truncated));
        assert_eq!(vector(&[0x40]), Err(MlsParseError::Truncated));
        assert_eq!(vector(&[0x80, 1]), Err(MlsParseError::Truncated));
    }
}
