//! A PACKED frame on its way in: it arrives, is unpacked, and is taken in pieces of any size.

use super::WireError;
use crate::proto::Unpacker;

/// Compressed content on its way in.
pub(super) struct Packed {
    unpacker: Unpacker,
    /// The compressed content of the frame at hand, how long it is (0 without one), and how much of it
    /// has come.
    frame: Vec<u8>,
    frame_bytes: usize,
    arrived: usize,
    /// How long it is announced to be when it is unpacked.
    unpacked_bytes: u32,
    /// What was unpacked, and how much of it was taken.
    content: Vec<u8>,
    taken: usize,
}

impl Packed {
    pub(super) fn new() -> Result<Self, WireError> {
        let unpacker = Unpacker::new().map_err(WireError::io("begin to unpack content"))?;
        Ok(Self {
            unpacker,
            frame: Vec::new(),
            frame_bytes: 0,
            arrived: 0,
            unpacked_bytes: 0,
            content: Vec::new(),
            taken: 0,
        })
    }

    /// Whether a frame is at hand whose content was not all taken.
    pub(super) fn is_due(&self) -> bool {
        self.frame_bytes > 0
    }

    /// So many more bytes are in [`Packed::room`].
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.arrived += bytes;
    }

    /// Gives memory back that only a busy connection needs; the stream remembers what it has to.
    pub(super) fn shrink(&mut self) {
        if !self.is_due() {
            (self.frame, self.content) = (Vec::new(), Vec::new());
        }
    }

    /// A frame begins, with so many bytes of compressed content that will be so many.
    pub(super) fn begin(&mut self, frame_bytes: usize, unpacked_bytes: u32) {
        self.frame.resize(frame_bytes, 0);
        (self.frame_bytes, self.unpacked_bytes, self.arrived) = (frame_bytes, unpacked_bytes, 0);
        self.content.clear();
        self.taken = 0;
    }

    /// Where what is still to come of the frame goes.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        self.frame.get_mut(self.arrived..self.frame_bytes).filter(|room| !room.is_empty())
    }

    /// Gives content of a frame that is here, which is unpacked first, and how much was.
    pub(super) fn take(&mut self, dest: &mut [u8]) -> Result<(usize, usize), WireError> {
        let mut unpacked = 0;
        if self.content.is_empty() {
            let Self { unpacker, frame, content, .. } = self;
            unpacker.unpack(&frame[..self.frame_bytes], self.unpacked_bytes, content)?;
            unpacked = content.len();
        }
        let count = dest.len().min(self.content.len() - self.taken);
        dest[..count].copy_from_slice(&self.content[self.taken..self.taken + count]);
        self.taken += count;
        if self.taken == self.content.len() {
            self.frame_bytes = 0;
        }
        Ok((count, unpacked))
    }
}
