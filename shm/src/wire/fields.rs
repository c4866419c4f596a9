//! Fields of frames: little-endian numbers, texts, and small choices, each checked as it is read.

use super::{PeerSegment, Role, TEXT_MAX};
use crate::distance::Relation;
use crate::error::FrameError;
use crate::ring::Start;
use crate::roster::Reason;

/// A frame that grows.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Length-prefixed text, cut at a character border to what the reader accepts.
    pub(super) fn text(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(TEXT_MAX)];
        self.u16(u16::try_from(text.len()).unwrap_or(0));
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn segment(&mut self, segment: &PeerSegment) {
        self.u64(segment.generation);
        self.u128(segment.nonce);
        self.u64(segment.base);
        self.u64(segment.size_bytes);
    }
}

/// A frame that is read from its start.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let expected = self.at + count;
        let found = self.bytes.len();
        let taken =
            self.bytes.get(self.at..expected).ok_or(FrameError::Truncated { found, expected })?;
        self.at = expected;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, FrameError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn role(&mut self) -> Result<Role, FrameError> {
        match self.u8()? {
            1 => Ok(Role::Producer),
            2 => Ok(Role::Consumer),
            found => Err(field("role", u64::from(found), "1 or 2")),
        }
    }

    pub(super) fn start(&mut self) -> Result<Start, FrameError> {
        match self.u8()? {
            0 => Ok(Start::Newest),
            1 => Ok(Start::Oldest),
            found => Err(field("start", u64::from(found), "0 or 1")),
        }
    }

    pub(super) fn relation(&mut self) -> Result<Option<Relation>, FrameError> {
        Ok(Some(match self.u8()? {
            0 => return Ok(None),
            1 => Relation::SameCpu,
            2 => Relation::SameCore,
            3 => Relation::SameL2,
            4 => Relation::SameL3,
            5 => Relation::SameNode,
            6 => Relation::OtherNode,
            found => return Err(field("relation", u64::from(found), "0 to 6")),
        }))
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(field(name, u64::from(found), "0 or 1")),
        }
    }

    pub(super) fn reason(&mut self) -> Result<Reason, FrameError> {
        match self.u8()? {
            1 => Ok(Reason::Behind),
            2 => Ok(Reason::Lied),
            found => Err(field("reason", u64::from(found), "1 or 2")),
        }
    }

    pub(super) fn text(&mut self, name: &'static str, limit: usize) -> Result<String, FrameError> {
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(field(name, len as u64, "a shorter text"));
        }
        let bytes = self.take(len)?.to_vec();
        String::from_utf8(bytes).map_err(|_| FrameError::Text { field: name })
    }

    pub(super) fn segment(&mut self) -> Result<PeerSegment, FrameError> {
        Ok(PeerSegment {
            generation: self.u64()?,
            nonce: self.u128()?,
            base: self.u64()?,
            size_bytes: self.u64()?,
        })
    }
}

pub(super) fn role_byte(role: Role) -> u8 {
    match role {
        Role::Producer => 1,
        Role::Consumer => 2,
    }
}

pub(super) fn start_byte(start: Start) -> u8 {
    match start {
        Start::Newest => 0,
        Start::Oldest => 1,
    }
}

pub(super) fn relation_byte(relation: Option<Relation>) -> u8 {
    match relation {
        None => 0,
        Some(Relation::SameCpu) => 1,
        Some(Relation::SameCore) => 2,
        Some(Relation::SameL2) => 3,
        Some(Relation::SameL3) => 4,
        Some(Relation::SameNode) => 5,
        Some(Relation::OtherNode) => 6,
    }
}

pub(super) fn reason_byte(reason: Reason) -> u8 {
    match reason {
        Reason::Behind => 1,
        Reason::Lied => 2,
    }
}

pub(super) fn field(field: &'static str, found: u64, allowed: &'static str) -> FrameError {
    FrameError::Field { field, found, allowed }
}
