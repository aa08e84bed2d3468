//! Content on its way from a session's requests to its writer, through two bounded channels that take
//! turns: parts of what is streamed, few of which may wait, and small files, each of which is one part.

use tokio::sync::mpsc;

use crate::transfer::{PARTS_MAX, Part};

/// Small files that may wait for the writer.
const WHOLES_MAX: usize = 64;

/// A part, and the request that it is of.
pub(super) type Sender = mpsc::Sender<(u32, Part)>;
type Receiver = mpsc::Receiver<(u32, Part)>;

/// The writer's end of both.
pub(super) struct Content {
    parts: Receiver,
    wholes: Receiver,
    turn: bool,
}

/// Both channels: for parts, for small files, and the writer's end.
pub(super) fn channels() -> (Sender, Sender, Content) {
    let (parts, queued_parts) = mpsc::channel(PARTS_MAX);
    let (wholes, queued_wholes) = mpsc::channel(WHOLES_MAX);
    (parts, wholes, Content { parts: queued_parts, wholes: queued_wholes, turn: false })
}

impl Content {
    /// Waits for a part. Safe to cancel.
    pub(super) async fn recv(&mut self) -> Option<(u32, Part)> {
        let (first, second) = self.in_turn();
        tokio::select! {
            biased; // A simulation has one order of things.
            part = first.recv() => part,
            part = second.recv() => part,
        }
    }

    /// A part that is there.
    pub(super) fn try_recv(&mut self) -> Option<(u32, Part)> {
        let (first, second) = self.in_turn();
        first.try_recv().or_else(|_| second.try_recv()).ok()
    }

    /// The channels, each first every other time.
    fn in_turn(&mut self) -> (&mut Receiver, &mut Receiver) {
        self.turn = !self.turn;
        if self.turn {
            (&mut self.parts, &mut self.wholes)
        } else {
            (&mut self.wholes, &mut self.parts)
        }
    }
}
