//! One whole session of the daemon that reads whatever bytes there are: the law of the fuzzer.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::disk::Disk;
use super::link::{End, Nature, Side, link};
use super::sim::{Planted, Sim};
use super::store::Shelf;
use super::tap::Frames;
use crate::daemon::simulated::Daemon;
use crate::proto::{Header, Kind, Trailer};
use crate::wire::{Socket, Stream as _};

const CONFIG: &str = r#"
root = "/simulated"
listen = ["unix:/simulated.sock"]
[limits]
requests-per-connection = 4
file-workers = 2
buffer-memory = "8MiB"
max-file-size = "1MiB"
[[user]]
name = "user"
unix = ["0"]
home = "."
allow = ["get", "list", "create", "replace", "remove", "rename", "mkdir"]
"#;

/// How long a session may go on without its client: the longest of its deadlines, and some more.
const LONGEST: Duration = Duration::from_mins(15);

/// Lets a client send these bytes; the first decides how, the rest is what.
///
/// The session ends in time, answers each request once, stores only what a trailer names, and gives back
/// what it held.
///
/// # Panics
/// Where that does not hold.
pub fn eat(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O");
    let breaches = runtime.block_on(async {
        let sim = Sim::new(u64::from(*how), Planted::Nothing, false);
        sim.set_hostile();
        Box::pin(serve(&sim, *how, bytes)).await;
        sim.outcome().breaches
    });
    assert!(breaches.is_empty(), "{breaches:#?}");
}

async fn serve(sim: &Sim, how: u8, bytes: &[u8]) {
    let disk: Arc<std::sync::Mutex<Disk>> = Arc::default();
    let shelf = Shelf::new(sim, &disk, 1);
    for (_, payload) in
        Frames::default().feed(bytes).iter().filter(|(header, _)| header.kind == Kind::Trailer)
    {
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(&payload[Header::BYTES..]) {
            shelf.disk().name(trailer.sha256);
        }
    }
    let pause = Arc::new(|| Duration::from_millis(1));
    let daemon = Daemon::start(Arc::new(shelf.clone()), CONFIG, pause);
    let nature = Nature { piece: if how & 1 == 0 { 65_536 } else { 7 }, ..Nature::plain() };
    let (client, server, shared) = link(sim, nature);
    let session = daemon.serve(Socket::Other(Box::new(server)), 0);
    let peer = async {
        send(&client, bytes).await;
        if how & 2 == 0 {
            shared.finish(Side::Client); // Else it stays, and says nothing more.
        }
        let mut told = [0; 4096];
        let reads = how & 4 == 0; // Else what it is told stays where it is.
        loop {
            if !reads {
                break;
            }
            let read = client.try_read(&mut told);
            if matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                poll_fn(|context| client.poll_readable(context)).await.unwrap_or(());
            } else if !read.is_ok_and(|read| read > 0) {
                break;
            }
        }
        pending::<()>().await;
    };
    let started = Instant::now();
    let ended = async {
        tokio::select! {
            biased;
            () = session => {}
            () = peer => {}
        }
    };
    if timeout(LONGEST, Box::pin(ended)).await.is_err() {
        sim.breach(format_args!("the session has not ended after {:?}", started.elapsed()));
        return;
    }
    for left in daemon.stop().await {
        sim.breach(format_args!("the daemon has ended, and {left}"));
    }
    sleep(Duration::from_secs(1)).await;
    let open = shelf.open.load(Ordering::SeqCst);
    if open > 0 {
        sim.breach(format_args!("{open} files are still open"));
    }
}

async fn send(client: &End, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match client.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| client.poll_writable(context)).await.unwrap_or(());
            }
            Err(_) => return,
        }
    }
}

/// What the daemon says to a client that sends byte by byte.
#[cfg(test)]
pub(super) async fn trickle(bytes: &[u8], pause: Duration) -> io::Result<Vec<(Header, Vec<u8>)>> {
    let (_daemon, client) = connected();
    for byte in bytes {
        sleep(pause).await;
        if client.try_write(&[*byte]).is_err() {
            break; // It was sent away.
        }
    }
    said(&client).await
}

/// What the daemon says to a client that sends this, and then nothing for so long.
#[cfg(test)]
pub(super) async fn told_after(bytes: &[u8], time: Duration) -> io::Result<Vec<(Header, Vec<u8>)>> {
    let (_daemon, client) = connected();
    client.try_write(bytes)?;
    sleep(time).await;
    said(&client).await
}

/// What the daemon says to a client that sends this, and stays while the daemon goes.
#[cfg(test)]
pub(super) async fn told_at_the_end(bytes: &[u8]) -> io::Result<Vec<(Header, Vec<u8>)>> {
    let (daemon, client) = connected();
    client.try_write(bytes)?;
    sleep(Duration::from_secs(1)).await;
    drop(daemon);
    said(&client).await
}

#[cfg(test)]
fn connected() -> (Daemon<Shelf>, End) {
    let sim = Sim::new(0, Planted::Nothing, false);
    let shelf = Shelf::new(&sim, &Arc::default(), 1);
    let daemon = Daemon::start(Arc::new(shelf), CONFIG, Arc::new(|| Duration::ZERO));
    let (client, server, _) = link(&sim, Nature::plain());
    daemon.spawn(Socket::Other(Box::new(server)), 0);
    (daemon, client)
}

#[cfg(test)]
async fn said(client: &End) -> io::Result<Vec<(Header, Vec<u8>)>> {
    sleep(Duration::from_secs(1)).await;
    let mut said = [0; 4096];
    let read = client.try_read(&mut said)?;
    Ok(Frames::default().feed(&said[..read]))
}
