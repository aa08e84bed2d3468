//! Content that travels compressed: one zstd stream for each direction of a connection, of which every
//! PACKED frame carries a piece that can be unpacked when it has arrived.
//!
//! Source: `docs/protocol.md`, "compress"; RFC 8878.

use std::io;

use zstd::stream::raw::{
    CParameter, DParameter, Decoder, Encoder, InBuffer, Operation as _, OutBuffer,
};

use super::ProtocolError;
use crate::types::limits::{
    PACKED_BYTES_MAX, PACKED_PAYLOAD_MAX, PACKED_PREFIX, PACKED_WINDOW_LOG,
};

/// How hard to try: a higher level takes a multiple of the time and memory for a few percent
/// (`docs/performance.md`).
const LEVEL: i32 = 5;
/// Content that is shorter goes as it is: what a frame adds would use up what is won.
const LEAST: usize = 64;
/// Bytes that are looked at before content is compressed, in so many places.
const SAMPLE: usize = 4096;
const PLACES: usize = 16;

/// How long the content of a PACKED frame is once it is unpacked.
///
/// # Errors
/// It is nothing, or more than a frame may hold; known before anything is allocated.
pub fn unpacked_bytes(prefix: [u8; PACKED_PREFIX as usize]) -> Result<u32, ProtocolError> {
    let bytes = u32::from_be_bytes(prefix);
    if (1..=PACKED_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(ProtocolError::Packed("the content's length is out of bounds"))
    }
}

/// The sender's end of a stream.
pub struct Packer(Encoder<'static>);

impl Packer {
    /// The beginning of a stream.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> io::Result<Self> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(PACKED_WINDOW_LOG))?;
        Ok(Self(encoder))
    }

    /// Appends the payload of a PACKED frame to `frame`; `false` when the content had better go as it
    /// is, and then nothing has happened. At most [`PACKED_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// There is no memory; the stream is of no more use.
    pub fn pack(&mut self, content: &[u8], frame: &mut Vec<u8>) -> io::Result<bool> {
        let Ok(bytes) = u32::try_from(content.len()) else { return Ok(false) };
        if content.len() < LEAST || bytes > PACKED_BYTES_MAX || is_noise(content) {
            return Ok(false);
        }
        frame.extend_from_slice(&bytes.to_be_bytes());
        let start = frame.len();
        frame.resize(start + (PACKED_PAYLOAD_MAX - PACKED_PREFIX) as usize, 0);
        let mut input = InBuffer::around(content);
        let mut output = OutBuffer::around(&mut frame[start..]);
        loop {
            self.0.run(&mut input, &mut output)?;
            if input.pos() == content.len() && self.0.flush(&mut output)? == 0 {
                break;
            }
            if output.pos() == output.capacity() {
                return Err(io::Error::other("compressed content does not fit its frame"));
            }
        }
        let packed = output.pos();
        frame.truncate(start + packed);
        Ok(true)
    }
}

/// The receiver's end of a stream.
pub struct Unpacker(Decoder<'static>);

impl Unpacker {
    /// The beginning of a stream.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(PACKED_WINDOW_LOG))?;
        Ok(Self(decoder))
    }

    /// Unpacks what stands behind the prefix of a frame into `content`, which becomes `bytes` long and is
    /// never longer.
    ///
    /// # Errors
    /// It is damaged, needs more memory than allowed, or is not as long as its prefix says: final for the
    /// connection.
    pub fn unpack(
        &mut self,
        packed: &[u8],
        bytes: u32,
        content: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        let bytes = bytes.min(PACKED_BYTES_MAX) as usize;
        content.clear();
        content.resize(bytes + 1, 0); // With room to notice that there is more.
        let unpacked = self.run(packed, content);
        content.truncate(bytes);
        match unpacked {
            Some(unpacked) if unpacked == bytes => Ok(()),
            Some(_) => Err(ProtocolError::Packed("the content is not as long as announced")),
            None => Err(ProtocolError::Packed("the content is damaged")),
        }
    }

    /// How much `packed` yields, which `room` may be too small for.
    fn run(&mut self, packed: &[u8], room: &mut [u8]) -> Option<usize> {
        let most = room.len();
        let mut input = InBuffer::around(packed);
        let mut output = OutBuffer::around(room);
        while input.pos() < packed.len() && output.pos() < most {
            let before = (input.pos(), output.pos());
            self.0.run(&mut input, &mut output).ok()?;
            if before == (input.pos(), output.pos()) {
                return None;
            }
        }
        Some(output.pos())
    }
}

/// Whether content looks like what has been compressed or encrypted before: its bytes are all about as
/// frequent. Two bytes of noise are alike once in 256 times; more than half as often again is no noise.
fn is_noise(content: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    let mut sampled = 0_u64;
    let step = content.len().div_ceil(PLACES).max(SAMPLE / PLACES);
    for part in content.chunks(step) {
        for byte in &part[..part.len().min(SAMPLE / PLACES)] {
            counts[usize::from(*byte)] += 1;
            sampled += 1;
        }
    }
    let alike: u64 = counts.iter().map(|count| count * count.saturating_sub(1)).sum();
    alike * 256 * 2 < sampled * sampled.saturating_sub(1) * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// Bytes without any order, the same for a seed.
    fn noise(mut seed: u64, bytes: usize) -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        };
        (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
    }

    fn text(bytes: usize) -> Vec<u8> {
        let source = include_bytes!("packed.rs");
        source.iter().copied().cycle().take(bytes).collect()
    }

    fn unpack(unpacker: &mut Unpacker, payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let (prefix, packed) = payload.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let mut content = Vec::new();
        unpacker.unpack(packed, unpacked_bytes(*prefix)?, &mut content)?;
        Ok(content)
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_and_repetitions_cost_little() -> TestResult {
        let (mut packer, mut unpacker) = (Packer::new()?, Unpacker::new()?);
        let mut sizes = Vec::new();
        for bytes in [64, 65, 5000, 5000, PACKED_BYTES_MAX as usize, PACKED_BYTES_MAX as usize] {
            let (content, mut payload) = (text(bytes), Vec::new());
            assert!(packer.pack(&content, &mut payload)?, "{bytes}");
            assert_eq!(unpack(&mut unpacker, &payload)?, content);
            sizes.push(payload.len());
        }
        assert!(sizes[3] < sizes[2] / 20, "the stream remembers: {sizes:?}");
        Ok(())
    }

    /// Goal: what cannot be made smaller is known by a glance, at every length.
    #[test]
    fn noise_and_crumbs_go_as_they_are() -> TestResult {
        let mut packer = Packer::new()?;
        for seed in 1..200 {
            let bytes = 512 << (seed % 9);
            let mut payload = Vec::new();
            assert!(!packer.pack(&noise(seed, bytes), &mut payload)?, "{seed}: {bytes} bytes");
            assert!(payload.is_empty());
        }
        let zeros = vec![0; PACKED_BYTES_MAX as usize + 1];
        for (content, packs) in [
            (&zeros[..63], false),
            (&zeros[..64], true),
            (&zeros[1..], true),
            (&zeros[..], false),
            (&[], false),
        ] {
            assert_eq!(packer.pack(content, &mut Vec::new())?, packs, "{}", content.len());
        }
        Ok(())
    }

    /// Goal: no frame unpacks to more than it says, and no stream asks for more memory than agreed.
    /// Method: one row per breach, each against the beginning of a stream.
    #[test]
    fn what_is_damaged_or_too_much_is_refused() -> TestResult {
        let mut good = Vec::new();
        Packer::new()?.pack(&text(1000), &mut good)?;
        let with = |bytes: u32| [&bytes.to_be_bytes()[..], &good[4..]].concat();
        let bomb = zstd::bulk::compress(&vec![0; 1 << 26], 1)?;
        let mut wide = Encoder::new(1)?;
        wide.set_parameter(CParameter::WindowLog(PACKED_WINDOW_LOG + 1))?;
        let mut room = vec![0; 4096];
        let mut output = OutBuffer::around(&mut room[..]);
        wide.run(&mut InBuffer::around(&text(1000)), &mut output)?;
        wide.flush(&mut output)?;
        let wide = output.as_slice().to_vec();
        let prefixed = |bytes: u32, packed: &[u8]| [&bytes.to_be_bytes()[..], packed].concat();
        assert!(unpack(&mut Unpacker::new()?, &good).is_ok());
        for (payload, why) in [
            (with(999), "one byte more than announced"),
            (with(1001), "one byte less"),
            (with(0), "nothing announced"),
            (with(PACKED_BYTES_MAX + 1), "more announced than a frame may hold"),
            (with(u32::MAX), "the most that can be announced"),
            (good[..good.len() - 1].to_vec(), "cut"),
            (prefixed(PACKED_BYTES_MAX, &bomb), "a bomb"),
            (prefixed(1000, &wide), "a window that is too large"),
            (prefixed(8, b"no zstd."), "something else"),
            (prefixed(1, b""), "nothing"),
        ] {
            assert!(unpack(&mut Unpacker::new()?, &payload).is_err(), "{why}");
        }
        Ok(())
    }
}
