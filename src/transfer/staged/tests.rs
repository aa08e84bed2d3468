//! Goal: only what was received whole and unchanged can be committed, and what is said of it is so.
//! Method: a real directory, contents that are cut, longer, or not what was announced.
#![expect(clippy::disallowed_methods, reason = "tests look at files from outside")]

use super::*;
use crate::fsroot::{Options, Parents, StagingPlace, Tree};
use crate::types::Durability;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn seal(content: &[u8]) -> Seal {
    Seal { bytes: content.len() as u64, digest: digest_of(Sha256::new_with_prefix(content)) }
}

fn terms() -> Terms {
    Terms {
        replace: false,
        must_replace: false,
        retain: None,
        parents: Parents::Make,
        mode: None,
        mtime_ns: None,
    }
}

fn place() -> Result<(tempfile::TempDir, Tree), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (staging, durability) = (StagingPlace::Directory, Durability::None);
    let tree = Tree::open(dir.path(), Options { staging, umask: 0o022, durability })?;
    Ok((dir, tree))
}

#[test]
fn what_is_said_of_a_stored_file_is_so() -> TestResult {
    let (dir, tree) = place()?;
    let path = RelPath::parse(b"a/f")?;
    for (round, content) in [&b"first"[..], b"second"].into_iter().enumerate() {
        let mut staged = Staged::new(tree.stage(&path)?, 1 << 20);
        staged.reserve(content.len() as u64)?;
        for byte in content {
            staged.write(&[*byte])?;
        }
        let verified = staged.verify(seal(content))?;
        let mtime_ns = Some(1_700_000_000_123_456_789 + i64::try_from(round)?);
        let committed =
            verified.commit(&path, &Terms { mtime_ns, replace: round == 1, ..terms() })?;
        assert_eq!((committed.seal(), committed.replaced()), (seal(content), round == 1));
        assert_eq!(Some(committed.mtime_ns()), mtime_ns);
        assert_eq!(std::fs::read(dir.path().join("a/f"))?, content);
    }
    Ok(())
}

#[test]
fn what_is_not_what_was_announced_is_never_verified() -> TestResult {
    let (dir, tree) = place()?;
    let path = RelPath::parse(b"f")?;
    let staged = |content: &[u8]| -> Result<Staged<crate::fsroot::Staging>, TransferError> {
        let mut staged = Staged::new(tree.stage(&path)?, 8);
        staged.write(content)?;
        Ok(staged)
    };
    assert!(matches!(
        staged(b"conten")?.verify(seal(b"content")),
        Err(TransferError::Length { received: 6, announced: 7 })
    ));
    let (wrong, right) = (seal(b"Content"), seal(b"content"));
    assert!(matches!(
        staged(b"content")?.verify(wrong),
        Err(TransferError::Digest { computed, announced })
            if computed == right.digest && announced == wrong.digest
    ));
    // The limit is a limit: its last byte is good, the next is never written.
    assert!(staged(b"8 bytes.")?.verify(seal(b"8 bytes.")).is_ok());
    let mut full = staged(b"8 bytes.")?;
    assert!(matches!(full.write(b"x"), Err(TransferError::TooLarge { limit: 8 })));
    drop(full);
    let left = std::fs::read_dir(dir.path().join(".ftd-stage"))?.count();
    assert_eq!((left, dir.path().join("f").exists()), (0, false));
    assert!(Staged::new(tree.stage(&path)?, 8).reserve(u64::MAX / 2).is_err());
    Ok(())
}

/// A hash that goes on is the hash of all of it; a state of nonsense is none.
#[test]
fn a_hash_goes_on_from_where_it_was_kept() -> TestResult {
    let (_dir, tree) = place()?;
    let path = RelPath::parse(b"f")?;
    let first = Sha256::new_with_prefix(b"first, ");
    let state = first.serialize().to_vec();
    assert_eq!(digest_at(&state)?, seal(b"first, ").digest);
    let mut staging = tree.stage(&path)?;
    crate::transfer::Staging::write_all(&mut staging, b"first, ")?;
    let mut staged = Staged::resumed(staging, &state, 7, 100)?;
    staged.write(b"then")?;
    assert!(staged.verify(seal(b"first, then")).is_ok());
    for nonsense in [&b""[..], &state[1..], &[0xff; 200]] {
        assert!(digest_at(nonsense).is_err());
        assert!(Staged::resumed(tree.stage(&path)?, nonsense, 7, 100).is_err());
    }
    Ok(())
}

/// A file that tells what becomes of it.
struct Told(std::sync::mpsc::Sender<Option<Sha256Digest>>);

impl Staging for Told {
    fn reserve(&mut self, _bytes: u64) -> Result<(), FsError> {
        Ok(())
    }

    fn write_all(&mut self, _bytes: &[u8]) -> Result<(), FsError> {
        Ok(())
    }

    fn keep(self, state: &[u8]) {
        let _ = self.0.send(digest_at(state).ok());
    }

    fn leave(self) {
        let _ = self.0.send(None);
    }

    fn commit(self, _target: &RelPath, _publish: &Publish) -> Result<Published, FsError> {
        Err(FsError::new(ErrorCode::Internal, "nobody commits here", None))
    }
}

#[test]
fn what_is_cut_is_kept_with_the_hash_over_it_or_left_as_it_was() -> TestResult {
    let (tell, told) = std::sync::mpsc::channel();
    let mut staged = Staged::new(Told(tell.clone()), 100);
    staged.write(b"content")?;
    staged.keep();
    Staged::new(Told(tell), 100).leave();
    assert_eq!(told.iter().collect::<Vec<_>>(), [Some(seal(b"content").digest), None]);
    Ok(())
}
