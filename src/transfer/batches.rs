//! Work on many small files, of which a file thread takes several at once.
//!
//! Nobody waits for company: work that finds no thread at it starts one, and what comes meanwhile is the
//! next batch, whose files share the way to a thread and back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Files, Held, Workers};

/// Files of one batch.
const BATCH_MAX: usize = 64;
/// Batches under way at once.
const BATCHES_MAX: usize = 4;
/// Files that wait behind each batch before there is one more.
const CROWD: usize = 16;

/// What waits, and how many are at work on it.
pub(super) struct Batches<J>(Mutex<Queue<J>>);

struct Queue<J> {
    waiting: VecDeque<J>,
    batches: usize,
}

impl<J: Send + 'static> Batches<J> {
    /// Nothing waits.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue { waiting: VecDeque::new(), batches: 0 })))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` done on a job and on all that wait beside it, each by itself: a panic in `work` itself would
    /// drop its batch. `cost` tells how many descriptors a job takes behind another one; it is asked behind a lock.
    pub(super) fn take_in(
        self: &Arc<Self>,
        job: J,
        workers: &Workers,
        cost: fn(&J, Option<&J>) -> u32,
        work: impl Fn(Vec<J>) + Clone + Send + 'static,
    ) {
        let mut queue = self.queue();
        queue.waiting.push_back(job);
        if queue.batches == BATCHES_MAX || queue.waiting.len() <= queue.batches * CROWD {
            return;
        }
        queue.batches += 1;
        let (batches, workers) = (Arc::clone(self), workers.clone());
        tokio::spawn(async move {
            while batches.has_more() {
                let (batches, work, files) =
                    (Arc::clone(&batches), work.clone(), workers.puts().clone());
                let run = move || {
                    let (batch, held) = batches.next(&files, cost);
                    // Not behind the lock, which connections take too.
                    let first = batch.first().filter(|_| held.is_none());
                    let _alone = first.map(|first| files.alone(cost(first, None)));
                    work(batch);
                };
                // What a panic has dropped is its own answer.
                let _ = workers.run(run).await;
            }
        });
    }

    /// Whether there is another batch to be made; if not, whoever asks is done.
    fn has_more(&self) -> bool {
        let mut queue = self.queue();
        let more = !queue.waiting.is_empty();
        queue.batches -= usize::from(!more);
        more
    }

    /// As many as there are descriptors for, and one at least, of which no others know then.
    fn next(&self, files: &Files, cost: fn(&J, Option<&J>) -> u32) -> (Vec<J>, Option<Held>) {
        let mut queue = self.queue();
        let (mut batch, mut held): (Vec<J>, Option<Held>) = (Vec::new(), None);
        while batch.len() < BATCH_MAX
            && let Some(job) = queue.waiting.pop_front()
        {
            let more = files.try_hold(cost(&job, batch.last()));
            let is_crowded = more.is_none();
            if is_crowded && !batch.is_empty() {
                queue.waiting.push_front(job);
                break;
            }
            held = match (held, more) {
                (Some(held), Some(more)) => Some(held.and(more)),
                (held, more) => held.or(more),
            };
            batch.push(job);
            if is_crowded {
                break; // It goes alone.
            }
        }
        (batch, held)
    }
}
