//! Counting what lies below a directory: without recursion, and confined as everything here.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::ledger::Usage;
use super::resolve::{DIRECTORY, open_below, open_directory};
use super::{FsError, Kind, Listing, Tree};
use crate::types::RelPath;

/// Bytes of a path that are resolved at once; the kernel takes 4,096 with the final NUL.
const HOP_BYTES_MAX: usize = 3_000;

impl Tree {
    /// Counts the homes that are not counted yet, one after the other; gives what it has found.
    pub fn count(&self) -> Vec<(Option<RelPath>, Result<Usage, FsError>)> {
        let count = |home: Option<RelPath>| {
            let counted = self.ledger.count(home.as_ref(), || self.count_below(home.as_ref()));
            // A reload may have taken it away meanwhile.
            counted.transpose().map(|counted| (home, counted))
        };
        self.ledger.uncounted().into_iter().filter_map(count).collect()
    }

    /// Counts names, and bytes of regular files, below a directory, which does not count itself. What is
    /// not there is nothing; mount points count as names.
    pub(super) fn count_below(&self, path: Option<&RelPath>) -> Result<Usage, FsError> {
        let fail = FsError::at("count what lies below the directory");
        let mut usage = Usage::default();
        let top = match open_directory(&self.top, path) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(usage),
            opened => opened.map_err(&fail)?,
        };
        // The directories on the way to where we are, each with those beside it that are to come.
        let mut pending: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut way: Vec<Vec<u8>> = Vec::new();
        loop {
            let opened = descend(&top, &way);
            let mut below = Vec::new();
            match opened {
                Ok(directory) => {
                    for entry in Listing::new(directory).map_err(&fail)? {
                        let entry = entry?;
                        usage.names += 1;
                        usage.bytes = usage.bytes.saturating_add(entry.bytes);
                        if entry.kind == Kind::Directory {
                            below.push(entry.name);
                        }
                    }
                }
                // Gone meanwhile, which only a local process can do; or closed to us, and so to everybody.
                Err(
                    Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::EXDEV,
                ) => {}
                Err(error) => return Err(fail(error)),
            }
            pending.push(below);
            // On to the next one: below, beside, or beside one above.
            loop {
                let Some(level) = pending.last_mut() else { return Ok(usage) };
                if let Some(next) = level.pop() {
                    way.push(next);
                    break;
                }
                pending.pop();
                way.pop();
            }
        }
    }
}

/// Opens a directory that may lie deeper than the kernel resolves at once.
fn descend(top: &OwnedFd, way: &[Vec<u8>]) -> nix::Result<OwnedFd> {
    let mut directory = open_below(top, b".", DIRECTORY, Mode::empty())?;
    let mut hop = Vec::new();
    for name in way {
        if hop.len() + 1 + name.len() > HOP_BYTES_MAX {
            directory = open_below(&directory, &hop, DIRECTORY, Mode::empty())?;
            hop.clear();
        }
        if !hop.is_empty() {
            hop.push(b'/');
        }
        hop.extend_from_slice(name);
    }
    if hop.is_empty() {
        Ok(directory)
    } else {
        open_below(&directory, &hop, DIRECTORY, Mode::empty())
    }
}
