//! A look at the frames of one connection, and the law of requests and answers.

use std::collections::BTreeMap;

use super::sim::Sim;
use crate::proto::{Header, Kind};

/// Cuts a stream of bytes into frames.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds bytes, and gives the frames that are complete by now, each with its header.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
        self.bytes.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut from = 0;
        while let Some(raw) = self.bytes[from..].first_chunk::<{ Header::BYTES }>()
            && let Ok(header) = Header::decode(raw)
        {
            let end = from + Header::BYTES + header.payload_bytes as usize;
            let Some(frame) = self.bytes.get(from..end) else { break };
            frames.push((header, frame.to_vec()));
            from = end;
        }
        self.bytes.drain(..from);
        frames
    }
}

/// The requests of one connection, as somebody sees it who reads along.
#[derive(Default)]
pub(crate) struct Tap {
    incoming: Frames,
    outgoing: Frames,
    /// Whether each request has had its final frame.
    requests: BTreeMap<u32, bool>,
}

impl Tap {
    /// The server has read bytes.
    pub(crate) fn came(&mut self, sim: &Sim, bytes: &[u8]) {
        for (header, _) in self.incoming.feed(bytes) {
            sim.note(format_args!("> {} {} {}", header.kind, header.id, header.payload_bytes));
            if header.kind == Kind::Request {
                self.requests.insert(header.id, false);
            }
        }
    }

    /// The server has written bytes: gives the frames, and whether each is final for its request.
    pub(crate) fn went(&mut self, sim: &Sim, bytes: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let frames = self.outgoing.feed(bytes);
        frames
            .into_iter()
            .map(|(header, frame)| {
                let is_final = self.look(sim, &header, &frame[Header::BYTES..]);
                (frame, is_final)
            })
            .collect()
    }

    fn look(&mut self, sim: &Sim, header: &Header, payload: &[u8]) -> bool {
        let Header { kind, id, payload_bytes } = *header;
        sim.note(format_args!("< {kind} {id} {payload_bytes}"));
        if id == 0 {
            let is_told = kind == Kind::Error && !sim.is_hostile();
            if is_told && payload.windows(10).any(|word| word == br#""PROTOCOL""#) {
                let text = String::from_utf8_lossy(payload);
                sim.breach(format_args!("a server says that the protocol was broken: {text}"));
            }
            return false;
        }
        let is_final = match kind {
            Kind::Answer => !payload.starts_with(br#"{"file":"#),
            Kind::Error | Kind::Abort | Kind::Trailer => true,
            _ => false,
        };
        match self.requests.get_mut(&id) {
            None => sim.breach(format_args!("{kind} for request {id}, which was not made")),
            Some(true) => sim.breach(format_args!("{kind} for request {id} after its final frame")),
            Some(ended) => *ended = is_final,
        }
        is_final
    }

    /// Requests that have no final frame.
    pub(crate) fn open(&self) -> Vec<u32> {
        self.requests.iter().filter(|(_, ended)| !**ended).map(|(id, _)| *id).collect()
    }

    /// How many requests were made.
    pub(crate) fn count(&self) -> usize {
        self.requests.len()
    }
}
