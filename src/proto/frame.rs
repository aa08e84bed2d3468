//! The frame header: what keeps messages apart in the stream.

use std::fmt;

use thiserror::Error;

use crate::types::limits::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, PACKED_PAYLOAD_MAX, PACKED_PREFIX};

/// What a frame carries.
///
/// Source: `docs/protocol.md`, "Frame header".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// Who speaks, which versions, which limits.
    Hello = 1,
    /// A verb and its operands.
    Request = 2,
    /// File content.
    Data = 3,
    /// The content is complete.
    Eof = 4,
    /// Length and digest of the content.
    Trailer = 5,
    /// The sender of content cannot go on.
    Abort = 6,
    /// The client wants no more of a request.
    Cancel = 7,
    /// The outcome of a request.
    Answer = 8,
    /// Some entries of a directory.
    Entries = 9,
    /// Why a request, or the connection, failed.
    Error = 10,
    /// File content, compressed.
    Packed = 11,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Hello,
        Self::Request,
        Self::Data,
        Self::Eof,
        Self::Trailer,
        Self::Abort,
        Self::Cancel,
        Self::Answer,
        Self::Entries,
        Self::Error,
        Self::Packed,
    ];

    /// The lengths that a payload of this kind may have, in bytes.
    fn payload_bytes(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Data => 1..=DATA_BYTES_MAX,
            Self::Packed => PACKED_PREFIX + 1..=PACKED_PAYLOAD_MAX,
            Self::Eof | Self::Cancel => 0..=0,
            _ => 1..=CONTROL_BYTES_MAX,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "HELLO",
            Self::Request => "REQUEST",
            Self::Data => "DATA",
            Self::Eof => "EOF",
            Self::Trailer => "TRAILER",
            Self::Abort => "ABORT",
            Self::Cancel => "CANCEL",
            Self::Answer => "ANSWER",
            Self::Entries => "ENTRIES",
            Self::Error => "ERROR",
            Self::Packed => "PACKED",
        })
    }
}

/// One frame header.
///
/// *Shape*: kind `u8`, flags `u8` (0), reserved `u16` (0), request id `u32`, payload length `u32`,
/// big-endian; [`Header::BYTES`] bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Which request it belongs to; 0 is the connection.
    pub id: u32,
    /// How many bytes follow.
    pub payload_bytes: u32,
}

/// Why twelve bytes are no header; final for the connection.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum FrameError {
    /// A kind of frame that this version does not have.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A bit that must be zero is not.
    #[error("flag or reserved bits are set in a {0} frame")]
    ReservedBits(Kind),
    /// A payload shorter or longer than its kind may have; known before any buffer grows.
    #[error("a {kind} frame of {declared} bytes, outside {least} to {most}")]
    Length {
        /// The kind of frame.
        kind: Kind,
        /// The length that the header declares.
        declared: u32,
        /// The least that is allowed.
        least: u32,
        /// The most that is allowed.
        most: u32,
    },
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 12;

    /// Reads one header.
    ///
    /// # Errors
    /// All are final for the connection. The length is checked here, before anything is allocated.
    pub fn decode(raw: &[u8; Self::BYTES]) -> Result<Self, FrameError> {
        let [kind, flags, reserved @ .., i0, i1, i2, i3, n0, n1, n2, n3] = *raw;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(FrameError::UnknownKind(kind))?;
        if flags != 0 || reserved != [0, 0] {
            return Err(FrameError::ReservedBits(kind));
        }
        let declared = u32::from_be_bytes([n0, n1, n2, n3]);
        let allowed = kind.payload_bytes();
        if !allowed.contains(&declared) {
            let (least, most) = (*allowed.start(), *allowed.end());
            return Err(FrameError::Length { kind, declared, least, most });
        }
        Ok(Self { kind, id: u32::from_be_bytes([i0, i1, i2, i3]), payload_bytes: declared })
    }

    /// Writes the header; the inverse of [`Header::decode`].
    pub fn encode(self) -> [u8; Self::BYTES] {
        let [i0, i1, i2, i3] = self.id.to_be_bytes();
        let [n0, n1, n2, n3] = self.payload_bytes.to_be_bytes();
        [self.kind as u8, 0, 0, 0, i0, i1, i2, i3, n0, n1, n2, n3]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(kind: u8, flags: u8, reserved: u8, length: u32) -> [u8; 12] {
        let n = length.to_be_bytes();
        [kind, flags, reserved, 0, 0, 0, 0, 7, n[0], n[1], n[2], n[3]]
    }

    /// Goal: every length is judged from the header alone, at the limit and one past it.
    #[test]
    fn a_header_is_judged_before_its_payload_arrives() {
        for (bytes, ok, why) in [
            (raw(3, 0, 0, 0), false, "empty data"),
            (raw(3, 0, 0, 1), true, "least data"),
            (raw(3, 0, 0, DATA_BYTES_MAX), true, "most data"),
            (raw(3, 0, 0, DATA_BYTES_MAX + 1), false, "one byte too much data"),
            (raw(3, 0, 0, u32::MAX), false, "the largest length there is"),
            (raw(2, 0, 0, CONTROL_BYTES_MAX), true, "most control"),
            (raw(2, 0, 0, CONTROL_BYTES_MAX + 1), false, "one byte too much control"),
            (raw(2, 0, 0, 0), false, "an empty object is still two bytes"),
            (raw(4, 0, 0, 0), true, "EOF"),
            (raw(4, 0, 0, 1), false, "EOF with a payload"),
            (raw(0, 0, 0, 1), false, "kind 0"),
            (raw(11, 0, 0, 4), false, "packed data without any"),
            (raw(11, 0, 0, 5), true, "least packed data"),
            (raw(11, 0, 0, PACKED_PAYLOAD_MAX), true, "most packed data"),
            (raw(11, 0, 0, PACKED_PAYLOAD_MAX + 1), false, "one byte too much packed data"),
            (raw(12, 0, 0, 1), false, "first unknown kind"),
            (raw(3, 1, 0, 1), false, "a flag"),
            (raw(3, 0, 1, 1), false, "a reserved bit"),
        ] {
            assert_eq!(Header::decode(&bytes).is_ok(), ok, "{why}");
        }
    }

    /// Goal: who reads a log or an error finds the kind in the document. Method: its table.
    #[test]
    fn kinds_are_called_what_the_document_calls_them() {
        let document = include_str!("../../docs/protocol.md");
        for kind in Kind::ALL {
            let row = format!("\n| {} | {kind} |", kind as u8);
            assert!(document.contains(&row), "{row}");
        }
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in any::<[u8; 12]>(), kind in 1u8..=11, zero in any::<bool>()) {
            let mut bytes = bytes;
            if zero {
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
                bytes[8..10].copy_from_slice(&[0, 0]);
            }
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
