//! A file system that folds case, as small as one can be: one directory, in which one other can be made.
//!
//! Shape and source: the kernel's include/uapi/linux/fuse.h, version 7.31; numbers in the machine's order.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes before the body of a request.
const HEADER: usize = 40;

/// The file system, mounted until it is dropped.
pub struct Folding {
    top: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Folding {
    /// Mounts it there; the name of the directory that can be made in it is given.
    pub fn mount(top: &Path, name: &'static str) -> std::io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("folding"), top, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        let server = std::thread::spawn(move || serve(device, name));
        Ok(Self { top: top.to_owned(), server: Some(server) })
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        let unmounted = umount2(&self.top, MntFlags::MNT_DETACH);
        if let (Ok(()), Some(server)) = (unmounted, self.server.take()) {
            let _ = server.join();
        }
    }
}

/// Answers until it is unmounted.
fn serve(mut device: File, name: &str) {
    let (mut request, mut is_made) = (vec![0; 1 << 17], false);
    while let Ok(bytes) = device.read(&mut request) {
        let word = |at: usize| request[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let (opcode, unique, node) = (word(0) >> 32, word(8), word(16));
        let body = &request[HEADER..bytes];
        let is_name = |spelled: &[u8]| {
            spelled.strip_suffix(b"\0").is_some_and(|it| it.eq_ignore_ascii_case(name.as_bytes()))
        };
        let answer = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => continue,
            // LOOKUP, MKDIR
            1 if is_made && is_name(body) => Ok(entry()),
            1 => Err(libc::ENOENT),
            9 if !is_made && is_name(&body[8..]) => {
                is_made = true;
                Ok(entry())
            }
            9 => Err(libc::EEXIST),
            // GETATTR, STATFS
            3 => Ok([vec![0; 16], attributes(node)].concat()),
            17 => Ok([[0; 40].as_slice(), &numbers(&[4096, 255, 4096]), &[0; 28]].concat()),
            // INIT: the version, and how much is written at once
            26 => Ok([numbers(&[7, 31, 0, 0, 0, 4096]), vec![0; 40]].concat()),
            // OPENDIR, RELEASEDIR
            27 => Ok(vec![0; 16]),
            29 => Ok(Vec::new()),
            _ => Err(libc::ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        let header =
            [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()].concat();
        // What nobody waits for any more is refused.
        let _ = device.write_all(&[header, body].concat());
    }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// The directory that can be made: node 2, known for no time.
fn entry() -> Vec<u8> {
    [&2_u64.to_ne_bytes()[..], &[0; 32], &attributes(2)].concat()
}

/// A directory of root's, whose inode is its node.
fn attributes(node: u64) -> Vec<u8> {
    let mode = if node == 1 { 0o40_755 } else { 0o40_700 };
    [&node.to_ne_bytes()[..], &[0; 52], &numbers(&[mode, 2, 0, 0, 0, 4096, 0])].concat()
}
