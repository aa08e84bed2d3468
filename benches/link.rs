//! A long line in one process: a TCP proxy that delays, and on request limits the rate, of what it carries.
//!
//!     link --delay-ms 20 [--rate BYTES_PER_SECOND] LISTEN=TARGET...
//!
//! Each way takes `delay-ms`, so a round trip takes twice that. What a proxy would hide, the handshake of TCP, is
//! charged: what a client sends counts as sent a round trip after it connected, and the target sees the connection when
//! the third packet of the handshake would have arrived. Loss and congestion windows are not modelled; without a rate,
//! one direction carries up to [`IN_FLIGHT`] bytes, which no line here fills. With a rate, the queue before the line holds a
//! quarter of a second, as that of a good router does. Prints one line for each listening address once all listen.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

/// Bytes that one direction carries at once.
const IN_FLIGHT: usize = 256 << 20;
/// Bytes that are read at once, without a rate and with one.
const CHUNK: usize = 256 * 1024;
const SLOW_CHUNK: usize = 8 * 1024;

/// What the line is like.
#[derive(Clone, Copy)]
struct Line {
    delay: Duration,
    rate: Option<u32>,
}

/// Bytes, when they are due at the other end, and their place on the line. No bytes are the end of the stream.
struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut line = Line { delay: Duration::ZERO, rate: None };
    let mut pairs: Vec<(SocketAddr, SocketAddr)> = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--delay-ms" => {
                let millis: f64 = words.next().ok_or("--delay-ms needs a number")?.parse()?;
                line.delay = Duration::from_secs_f64(millis / 1000.0);
            }
            "--rate" => line.rate = Some(words.next().ok_or("--rate needs a number")?.parse()?),
            pair => {
                let (listen, target) = pair.split_once('=').ok_or("what is not LISTEN=TARGET?")?;
                pairs.push((listen.parse()?, target.parse()?));
            }
        }
    }
    for (listen, target) in pairs {
        let listener = TcpListener::bind(listen).await?;
        println!("{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // A connection that fails is its two ends' affair.
                    let _ = connection(client, target, line).await;
                });
            }
        });
    }
    std::future::pending().await
}

async fn connection(client: TcpStream, target: SocketAddr, line: Line) -> std::io::Result<()> {
    let opened = Instant::now();
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (up_in, up_out) = queue(line);
    tokio::spawn(take(from_client, up_in, opened + 2 * line.delay, line));
    sleep_until(opened + 3 * line.delay).await;
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    let (from_server, to_server) = server.into_split();
    let (down_in, down_out) = queue(line);
    tokio::spawn(take(from_server, down_in, opened, line));
    tokio::join!(give(to_client, down_out), give(to_server, up_out));
    Ok(())
}

/// What feeds a direction: its queue, and room on the line.
struct Feed {
    parcels: mpsc::UnboundedSender<Parcel>,
    room: Arc<Semaphore>,
    chunk: usize,
}

fn queue(line: Line) -> (Feed, mpsc::UnboundedReceiver<Parcel>) {
    let (parcels, out) = mpsc::unbounded_channel();
    let (room, chunk) = match line.rate {
        None => (IN_FLIGHT, CHUNK),
        Some(rate) => {
            let seconds = line.delay.as_secs_f64() + 0.25;
            let bytes = Duration::from_secs_f64(seconds).as_millis() * u128::from(rate) / 1000;
            (usize::try_from(bytes).unwrap_or(IN_FLIGHT).max(2 * SLOW_CHUNK), SLOW_CHUNK)
        }
    };
    (Feed { parcels, room: Arc::new(Semaphore::new(room)), chunk }, out)
}

/// Reads one direction, and stamps what it reads with the moment at which it is due.
async fn take(mut from: OwnedReadHalf, feed: Feed, not_before: Instant, line: Line) {
    let mut free_at = not_before;
    let mut buffer = vec![0; feed.chunk];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let bytes = u32::try_from(read).unwrap_or(u32::MAX);
        let room = Arc::clone(&feed.room).acquire_many_owned(bytes).await;
        let Ok(place) = room else { return };
        free_at = free_at.max(Instant::now());
        if let Some(rate) = line.rate {
            free_at += Duration::from_secs_f64(f64::from(bytes) / f64::from(rate));
        }
        let due = free_at + line.delay;
        let parcel = Parcel { due, bytes: buffer[..read].to_vec(), _place: place };
        if feed.parcels.send(parcel).is_err() || read == 0 {
            return;
        }
    }
}

async fn give(mut to: OwnedWriteHalf, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
    while let Some(Parcel { due, bytes, _place }) = parcels.recv().await {
        // The timer counts in milliseconds and rounds up: what is almost due goes at once.
        if due > Instant::now() + Duration::from_micros(500) {
            sleep_until(due).await;
        }
        if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await; // The other side may be gone.
}
