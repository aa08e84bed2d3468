//! A bad network: a proxy before a daemon's Unix socket that cuts connections, and counts.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::TestResult;

/// What a proxy has seen, and will do.
#[derive(Default)]
struct Plan {
    /// After so many bytes of the counted direction each connection is cut, in turn; the rest is not.
    cuts: Vec<u64>,
    connections: AtomicUsize,
    up: AtomicU64,
    down: AtomicU64,
}

/// A proxy; it serves until it is dropped.
pub struct Proxy {
    pub path: PathBuf,
    plan: Arc<Plan>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Cuts each connection after the next of these many bytes, in both directions together.
    pub fn start(path: PathBuf, target: &Path, cuts: &[u64]) -> Result<Self, std::io::Error> {
        let listener = UnixListener::bind(&path)?;
        let plan = Arc::new(Plan { cuts: cuts.to_vec(), ..Plan::default() });
        let (target, shared) = (target.to_owned(), Arc::clone(&plan));
        let accepting = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                if number == usize::MAX / 2 {
                    return; // `drop` has asked for it.
                }
                if let Ok(server) = UnixStream::connect(&target) {
                    let most = shared.cuts.get(number).copied().unwrap_or(u64::MAX);
                    // A connection that is cut is no fault of the proxy's.
                    let _ = serve(&client, &server, most, &shared);
                }
            }
        });
        Ok(Self { path, plan, accepting: Some(accepting) })
    }

    pub fn server(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.plan.connections.load(Ordering::SeqCst)
    }

    /// Bytes to the daemon, and from it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.plan.up.load(Ordering::SeqCst), self.plan.down.load(Ordering::SeqCst))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.plan.connections.store(usize::MAX / 2, Ordering::SeqCst);
        if UnixStream::connect(&self.path).is_ok()
            && let Some(accepting) = self.accepting.take()
        {
            let _ = accepting.join();
        }
    }
}

fn serve(client: &UnixStream, server: &UnixStream, most: u64, plan: &Arc<Plan>) -> TestResult {
    let left = Arc::new(AtomicU64::new(most));
    let spawn = |from: &UnixStream, to: &UnixStream, is_up: bool| {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        let (left, plan) = (Arc::clone(&left), Arc::clone(plan));
        Ok::<_, std::io::Error>(std::thread::spawn(move || {
            let mut room = vec![0; 64 * 1024];
            while let Ok(read) = from.read(&mut room) {
                let before = left.fetch_sub(read as u64, Ordering::SeqCst);
                if read == 0 || before < read as u64 {
                    break;
                }
                // Before it arrives: who has it may ask at once.
                let counter = if is_up { &plan.up } else { &plan.down };
                counter.fetch_add(read as u64, Ordering::SeqCst);
                if to.write_all(&room[..read]).is_err() {
                    break;
                }
            }
            let _ = from.shutdown(std::net::Shutdown::Both); // The other side may be gone.
            let _ = to.shutdown(std::net::Shutdown::Both);
        }))
    };
    let (up, down) = (spawn(client, server, true)?, spawn(server, client, false)?);
    let _ = (up.join(), down.join());
    Ok(())
}
