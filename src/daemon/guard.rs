//! What a panic ends: the work that it happened in, whose name is told, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// Does `work`; `None` when it panicked, which the log tells (`logging.rs`). What it holds it gives back
/// when it is dropped. It is pinned by whoever asks, and there at once: a future is held twice, as large as
/// it is, by one that is given it.
pub(super) async fn alone<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| {
        // Never polled again after a panic, so that nobody sees what it has left half done.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Ready(done)) => Poll::Ready(Some(done)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}
