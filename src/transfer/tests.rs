//! Goal: whatever a store does, a transfer ends once, with the right error, and drops what it staged.
//! Method: a store in memory, the second of its trait, that fails on demand; arbitrary pieces.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::mpsc;

use super::*;
use crate::access::{Hidden, Overwrite};
use crate::fsroot::{FsError, Kept, Kind, Moving, Owner, Parents, Publish, Published, Usage};
use crate::types::{ErrorCode, Quota, RelPath, Reserve, Sha256Digest};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Files by name, and which step is to fail.
#[derive(Default)]
struct Memory {
    files: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    staged: Arc<AtomicUsize>,
    fails: Option<Step>,
}

/// What panics at a file of that name.
const PANICS_WRITTEN: &str = "panics-written";
const PANICS_COMMITTED: &str = "panics-committed";
const PANICS_OPENED: &str = "panics-opened";

fn trip(name: &str, target: &RelPath) {
    assert!(target.raw_bytes() != name.as_bytes(), "a panic, as the test wants it");
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Stage,
    Reserve,
    Write,
    Commit,
    Open,
    Read,
    Change,
}

struct MemoryStaging {
    content: Vec<u8>,
    files: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    staged: Arc<AtomicUsize>,
    fails: Option<Step>,
    target: RelPath,
}

struct MemorySource {
    content: Vec<u8>,
    stat: Stat,
    fails: Option<Step>,
}

fn fail_if(is_due: bool) -> Result<(), FsError> {
    if is_due {
        Err(FsError::new(ErrorCode::NoSpace, "as the test wants it", Some(Errno::ENOSPC)))
    } else {
        Ok(())
    }
}

fn stat_of(content: &[u8]) -> Stat {
    Stat { kind: Kind::File, bytes: content.len() as u64, mtime_ns: 1, mode: 0o644, digest: None }
}

impl Sink for Memory {
    type Staging = MemoryStaging;

    fn stage(&self, target: &RelPath) -> Result<MemoryStaging, FsError> {
        fail_if(self.fails == Some(Step::Stage))?;
        self.staged.fetch_add(1, Ordering::SeqCst);
        let (files, staged) = (Arc::clone(&self.files), Arc::clone(&self.staged));
        Ok(MemoryStaging {
            content: Vec::new(),
            files,
            staged,
            fails: self.fails,
            target: target.clone(),
        })
    }

    fn stat(&self, path: Option<&RelPath>) -> Result<Stat, FsError> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let found = path.and_then(|path| files.get(path.raw_bytes()));
        found
            .map(|content| stat_of(content))
            .ok_or_else(|| FsError::new(ErrorCode::NotFound, "stat", None))
    }
}

impl Store for Memory {
    type Source = MemorySource;
    type Listing = std::vec::IntoIter<Result<Entry, FsError>>;

    fn kept(&self, _owner: &Owner) -> Result<Kept, FsError> {
        Err(FsError::new(ErrorCode::NotFound, "kept", None))
    }

    fn configure(&self, _homes: &[(Option<RelPath>, Quota)], _reserve: Reserve) {}

    fn count(&self) -> Vec<(Option<RelPath>, Result<Usage, FsError>)> {
        Vec::new()
    }

    fn is_counted(&self, _path: &RelPath) -> bool {
        true
    }

    fn check_room(&self, _target: &RelPath, _bytes: u64) -> Result<(), FsError> {
        fail_if(self.fails == Some(Step::Reserve))
    }

    fn expire(&self, _age: Duration) -> usize {
        0
    }

    fn open(&self, path: &RelPath) -> Result<MemorySource, FsError> {
        fail_if(self.fails == Some(Step::Open))?;
        trip(PANICS_OPENED, path);
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let content = files.get(path.raw_bytes()).cloned();
        let content = content.ok_or_else(|| FsError::new(ErrorCode::NotFound, "open", None))?;
        Ok(MemorySource { stat: stat_of(&content), content, fails: self.fails })
    }

    fn make_directory(&self, _path: &RelPath, _parents: Parents) -> Result<usize, FsError> {
        Ok(0)
    }

    fn remove(&self, path: &RelPath, _retain: Option<Duration>) -> Result<(), FsError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = files.remove(path.raw_bytes());
        gone.map(drop).ok_or_else(|| FsError::new(ErrorCode::NotFound, "remove", None))
    }

    fn remove_directory(&self, _path: &RelPath) -> Result<(), FsError> {
        Err(FsError::new(ErrorCode::WrongType, "remove the directory", None))
    }

    fn rename(&self, from: &RelPath, to: &RelPath, _terms: Moving) -> Result<bool, FsError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = files.remove(from.raw_bytes());
        let moved = moved.ok_or_else(|| FsError::new(ErrorCode::NotFound, "rename", None))?;
        Ok(files.insert(to.raw_bytes().to_vec(), moved).is_some())
    }

    fn list(&self, _path: Option<&RelPath>) -> Result<Self::Listing, FsError> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(name, content): (&Vec<u8>, &Vec<u8>)| {
            let bytes = content.len() as u64;
            Ok(Entry { name: name.clone(), kind: Kind::File, bytes, mtime_ns: 0, mode: 0o644 })
        };
        Ok(files.iter().map(entry).collect::<Vec<_>>().into_iter())
    }
}

impl Staging for MemoryStaging {
    fn reserve(&mut self, _bytes: u64) -> Result<(), FsError> {
        fail_if(self.fails == Some(Step::Reserve))
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        trip(PANICS_WRITTEN, &self.target);
        self.content.extend_from_slice(bytes);
        fail_if(self.fails == Some(Step::Write) && self.content.len() > 600_000)
    }

    fn commit(mut self, target: &RelPath, publish: &Publish) -> Result<Published, FsError> {
        fail_if(self.fails == Some(Step::Commit))?;
        trip(PANICS_COMMITTED, target);
        let content = std::mem::take(&mut self.content);
        let stat = stat_of(&content);
        assert_eq!(publish.bytes, stat.bytes);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = files.insert(target.raw_bytes().to_vec(), content).is_some();
        Ok(Published { replaced, stat })
    }
}

impl Drop for MemoryStaging {
    fn drop(&mut self) {
        self.staged.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for MemorySource {
    fn stat(&self) -> Option<&Stat> {
        Some(&self.stat)
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        fail_if(self.fails == Some(Step::Read) && offset > 0)?;
        let rest =
            self.content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn unchanged(&self) -> Result<bool, FsError> {
        Ok(self.fails != Some(Step::Change))
    }
}

fn incoming(name: &str, announced: Option<u64>) -> Result<Incoming, crate::types::NameError> {
    Ok(Incoming {
        target: RelPath::parse(name.as_bytes())?,
        announced,
        bytes_max: 3 << 20,
        overwrite: Overwrite::Allowed,
        retain: None,
        parents: Parents::Make,
        mode: None,
        mtime_ns: None,
        keep: None,
    })
}

fn seal_of(content: &[u8]) -> Seal {
    use sha2::Digest as _;
    Seal { bytes: content.len() as u64, digest: Sha256Digest(sha2::Sha256::digest(content).into()) }
}

async fn receive(
    store: &Arc<Memory>,
    incoming: Incoming,
    parts: mpsc::Receiver<Part>,
) -> Result<Committed, TransferError> {
    Inbox::new(Arc::clone(store)).receive(incoming, parts, &Workers::new(1)).await
}

/// Sends `content` in pieces, then `end` (nothing, to be cut off), and gives what came of it.
async fn put(
    store: &Arc<Memory>,
    incoming: Incoming,
    content: &[u8],
    end: Option<Seal>,
) -> Result<Committed, TransferError> {
    let (parts, queue) = mpsc::channel(PARTS_MAX);
    let (share, workers) = (Pool::new(0).share(), Workers::new(2));
    let receiving = {
        let store = Arc::clone(store);
        tokio::spawn(async move { Inbox::new(store).receive(incoming, queue, &workers).await })
    };
    for piece in content.chunks(300_000) {
        let mut buffer = share.acquire(piece.len() as u64).await;
        buffer.room()[..piece.len()].copy_from_slice(piece);
        buffer.advance(piece.len());
        if parts.send(Part::Data(buffer)).await.is_err() {
            break;
        }
    }
    if let Some(seal) = end {
        let _ = parts.send(Part::End(seal, None)).await;
    }
    drop(parts);
    receiving.await.unwrap_or(Err(TransferError::Panicked))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_committed_or_leaves_nothing() -> TestResult {
    let content: Vec<u8> = (0..=255).cycle().take(1_500_000).collect();
    let good = seal_of(&content);
    let wrong = Seal { digest: seal_of(b"other").digest, ..good };
    let short = Seal { bytes: good.bytes - 1, ..good };
    let big = vec![0; (3 << 20) + 1];
    for announced in [None, Some(good.bytes)] {
        for (fails, body, end, code) in [
            (None, &content, Some(good), None),
            (None, &content, Some(wrong), Some(ErrorCode::BadDigest)),
            (None, &content, Some(short), Some(ErrorCode::BadDigest)),
            (None, &content, None, Some(ErrorCode::Internal)),
            (None, &big, Some(seal_of(&big)), Some(ErrorCode::TooLarge)),
            (Some(Step::Stage), &content, Some(good), Some(ErrorCode::NoSpace)),
            (Some(Step::Write), &content, Some(good), Some(ErrorCode::NoSpace)),
            (Some(Step::Commit), &content, Some(good), Some(ErrorCode::NoSpace)),
        ] {
            let store = Arc::new(Memory { fails, ..Memory::default() });
            let outcome = put(&store, incoming("f", announced)?, body, end).await;
            assert_eq!(
                outcome.as_ref().err().map(TransferError::code),
                code,
                "{fails:?} {outcome:?}"
            );
            assert_eq!(store.staged.load(Ordering::SeqCst), 0, "{fails:?}");
            let stored = store.files.lock().map_err(|_| "poisoned")?.contains_key(&b"f"[..]);
            assert_eq!(stored, code.is_none());
            if let Ok(committed) = outcome {
                assert_eq!(committed.seal(), good);
            }
        }
    }
    Ok(())
}

/// What can be refused beforehand is refused before any content is waited for.
#[tokio::test]
async fn what_cannot_fit_is_refused_before_its_content() -> TestResult {
    let (_parts, queue) = mpsc::channel(1);
    let store = Arc::new(Memory::default());
    let refused = receive(&store, incoming("f", Some(u64::MAX))?, queue).await;
    assert_eq!(refused.err().map(|error| error.code()), Some(ErrorCode::TooLarge));
    let (_parts, queue) = mpsc::channel(1);
    let full = Arc::new(Memory { fails: Some(Step::Reserve), ..Memory::default() });
    let refused = receive(&full, incoming("f", Some(2 << 20))?, queue).await;
    assert_eq!(refused.err().map(|error| error.code()), Some(ErrorCode::NoSpace));
    for (overwrite, exists, code) in
        [(Overwrite::Never, true, ErrorCode::Exists), (Overwrite::Only, false, ErrorCode::Denied)]
    {
        let store = Arc::new(Memory::default());
        if exists {
            store.files.lock().map_err(|_| "poisoned")?.insert(b"f".to_vec(), b"old".to_vec());
        }
        let (_parts, queue) = mpsc::channel(1);
        let incoming = Incoming { overwrite, ..incoming("f", None)? };
        let refused = receive(&store, incoming, queue).await;
        assert_eq!(refused.err().map(|error| error.code()), Some(code));
    }
    Ok(())
}

/// a panic in a file thread ends its request and gives everything back.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_one_request() -> TestResult {
    let (store, content) = (Arc::new(Memory::default()), [1; 1000]);
    let incoming = incoming(PANICS_WRITTEN, None)?;
    let outcome = put(&store, incoming, &content, Some(seal_of(&content))).await;
    assert!(matches!(outcome, Err(TransferError::Panicked)));
    assert_eq!(store.staged.load(Ordering::SeqCst), 0);
    Ok(())
}

/// Does `work` while the only file thread is taken, and lets it go when all of it waits.
async fn in_one_batch<T>(workers: &Workers, work: impl Future<Output = T>) -> T {
    let (started, starts) = tokio::sync::oneshot::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let taken = workers.clone();
    let holding = tokio::spawn(async move {
        let wait = move || {
            let _ = started.send(());
            let _ = held.recv();
        };
        taken.run(wait).await
    });
    assert!(starts.await.is_ok());
    // In this order: the work waits when the thread is let go.
    let (done, ()) = tokio::join!(biased; work, async { drop(release) });
    assert!(matches!(holding.await, Ok(Ok(()))));
    done
}

/// of small files that come in together a panic fails its own; who might have its name is not told that
/// nothing was stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_batch_that_comes_in_fails_its_own_file() -> TestResult {
    for (odd, code) in
        [(PANICS_WRITTEN, ErrorCode::Internal), (PANICS_COMMITTED, ErrorCode::UnknownOutcome)]
    {
        let (store, workers) = (Arc::new(Memory::default()), Workers::new(1));
        let (inbox, share) = (Inbox::new(Arc::clone(&store)), Pool::new(0).share());
        let put = async |name: &str| {
            let (parts, queue) = mpsc::channel(PARTS_MAX);
            let mut buffer = share.acquire(3).await;
            buffer.room()[..3].copy_from_slice(b"abc");
            buffer.advance(3);
            for part in [Part::Data(buffer), Part::End(seal_of(b"abc"), None)] {
                parts.send(part).await.map_err(|_| TransferError::Aborted)?;
            }
            let incoming = incoming(name, Some(3)).map_err(|_| TransferError::Aborted)?;
            inbox.receive(incoming, queue, &workers).await
        };
        let all = async { tokio::join!(biased; put("a"), put(odd), put("z")) };
        let (first, failed, last) = in_one_batch(&workers, all).await;
        assert_eq!(failed.as_ref().err().map(TransferError::code), Some(code), "{failed:?}");
        assert!(first.is_ok() && last.is_ok(), "{odd}: {first:?}, {last:?}");
        let files = store.files.lock().map_err(|_| "poisoned")?;
        assert_eq!(files.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"a", b"z"]);
        assert_eq!(store.staged.load(Ordering::SeqCst), 0);
    }
    Ok(())
}

/// the same of small files that go out together.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_batch_that_goes_out_fails_its_own_file() -> TestResult {
    let (store, workers) = (Arc::new(Memory::default()), Workers::new(1));
    for name in ["a", PANICS_OPENED, "z"] {
        let mut files = store.files.lock().map_err(|_| "poisoned")?;
        files.insert(name.as_bytes().to_vec(), b"abc".to_vec());
    }
    let (shelf, share) = (Shelf::new(Arc::clone(&store)), Pool::new(0).share());
    let [a, odd, z] =
        [RelPath::parse(b"a")?, RelPath::parse(PANICS_OPENED.as_bytes())?, RelPath::parse(b"z")?];
    let take = |path| shelf.take(path, share.clone(), &workers);
    let all = async { tokio::join!(biased; take(a), take(odd), take(z)) };
    let (first, failed, last) = in_one_batch(&workers, all).await;
    assert!(matches!(failed, Err(TransferError::Panicked)));
    assert!(matches!((first, last), (Ok(Taken::Whole(_)), Ok(Taken::Whole(_)))));
    Ok(())
}

/// Stalled transfers, however many, hold no file thread.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_transfers_hold_no_thread() -> TestResult {
    let workers = Workers::new(1);
    let store = Arc::new(Memory::default());
    let mut stalled = Vec::new();
    for number in 0..20 {
        let (parts, queue) = mpsc::channel(1);
        let (store, incoming, workers) =
            (Arc::clone(&store), incoming(&format!("s{number}"), None)?, workers.clone());
        tokio::spawn(async move { Inbox::new(store).receive(incoming, queue, &workers).await });
        stalled.push(parts);
    }
    let free = tokio::time::timeout(Duration::from_secs(20), workers.run(|| ())).await;
    assert!(matches!(free, Ok(Ok(()))), "a thread is free");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_says_the_truth_or_fails() -> TestResult {
    let content: Vec<u8> = (0..=255).cycle().take(1_300_000).collect();
    for (fails, code) in [
        (None, None),
        (Some(Step::Read), Some(ErrorCode::NoSpace)),
        (Some(Step::Change), Some(ErrorCode::Changed)),
    ] {
        let source = MemorySource { stat: stat_of(&content), content: content.clone(), fails };
        let (parts, mut queue) = mpsc::channel(PARTS_MAX);
        let share = Pool::new(0).share();
        let outbox = Outbox { id: 7, parts };
        let sending =
            tokio::spawn(async move { send(source, outbox, share, &Workers::new(1)).await });
        let mut got = Vec::new();
        while let Some((id, part)) = queue.recv().await {
            assert_eq!(id, 7);
            if let Part::Data(buffer) = part {
                got.extend_from_slice(buffer.content());
            }
        }
        let outcome = sending.await?;
        assert_eq!(outcome.as_ref().err().map(TransferError::code), code, "{fails:?}");
        if let Ok(seal) = outcome {
            assert_eq!((got.as_slice(), seal), (content.as_slice(), seal_of(&content)));
        }
    }
    // A file that shrank while it was read.
    let stat = Stat { bytes: 2_000_000, ..stat_of(&content) };
    let source = MemorySource { stat, content, fails: None };
    let (parts, mut queue) = mpsc::channel(PARTS_MAX);
    let share = Pool::new(0).share();
    let sending = tokio::spawn(async move {
        send(source, Outbox { id: 1, parts }, share, &Workers::new(1)).await
    });
    while queue.recv().await.is_some() {}
    assert_eq!(sending.await?.err().map(|error| error.code()), Some(ErrorCode::Changed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_comes_in_batches_and_complete() -> TestResult {
    let store = Arc::new(Memory::default());
    for count in [0, 1, 127, 128, 129, 1000] {
        let names: BTreeMap<_, _> =
            (0..count).map(|number| (format!("f{number}").into_bytes(), vec![0; 3])).collect();
        *store.files.lock().map_err(|_| "poisoned")? = names;
        let (parts, mut queue) = mpsc::channel(PARTS_MAX);
        let outbox = Outbox { id: 1, parts };
        let store = Arc::clone(&store);
        let listing = tokio::spawn(async move {
            list(store, None, &Hidden::default(), &outbox, &Workers::new(1)).await
        });
        let mut seen = 0;
        while let Some((_, part)) = queue.recv().await {
            if let Part::Entries(entries) = part {
                seen += entries.len();
            }
        }
        assert_eq!((listing.await??, seen), (count, usize::try_from(count)?));
    }
    Ok(())
}
