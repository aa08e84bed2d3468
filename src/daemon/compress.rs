//! Which connections may carry compressed content: as many as there is memory for.

use super::door::Taken;
use super::outgoing::Final;
use super::session::{Session, UNREAD};
use crate::transfer::Store;
use crate::types::ErrorCode;
use crate::wire::{FrameReader, WireError};

/// A connection's place among those that compress: of its user, and in all.
pub(super) type Place = (Taken, Taken);

impl<S: Store> Session<S> {
    /// Allows compressed content, where memory for one more stream in each direction may be spent.
    pub(super) async fn compress(
        &self,
        id: u32,
        method: &str,
        reader: &mut FrameReader,
        place: &mut Option<Place>,
    ) -> Result<(), WireError> {
        let Some(user) = self.user() else { return Ok(()) };
        if method != "zstd" {
            let message = "this server compresses with zstd only";
            self.refuse(id, UNREAD, ErrorCode::Protocol, message).await;
            return Ok(());
        }
        if place.is_none() {
            let most = self.server.live.borrow().settings.limits.compressed_connections;
            let own = user.compressed.take(most.div_ceil(2));
            *place = own.and_then(|own| Some((own, self.server.compressed.take(most)?)));
        }
        if place.is_none() {
            let message = "as many connections are compressed as may be; go on without";
            self.refuse(id, UNREAD, ErrorCode::Limit, message).await;
            return Ok(());
        }
        reader.unpack()?;
        let _ = self.answers.send((id, Final::Compress)).await;
        Ok(())
    }
}
