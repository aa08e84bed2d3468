//! What this machine allows, for the report of `make bench`: four small measurements, one a call.
//!
//!     limits unavoidable FILE SCRATCH   CPU seconds of what a verified, encrypted transfer of FILE cannot leave out
//!     limits sink                       take what comes over TCP, to nowhere
//!     limits source ADDRESS BYTES       send so much to a sink, and say how long it took until all had arrived
//!     limits idle ADDRESS KEY COUNT     hold so many connections to an ftd on which nothing is asked, until standard input ends

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ftd::identity::{PrivateKey, Signer, client_config, read_key_file};
use ftd::proto::{ClientHello, Kind};
use ftd::wire::{Connection, FrameReader, FrameWriter, Next, Socket, split};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use sha2::{Digest as _, Sha256};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a buffer, as ftd's are.
const BUFFER: usize = 512 * 1024;
/// Bytes of content in a TLS record.
const RECORD: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_mins(1);

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["unavoidable", file, scratch] => unavoidable(Path::new(file), Path::new(scratch)),
        ["sink"] => sink(),
        ["source", address, bytes] => source(address, bytes.parse()?),
        ["idle", address, key, count] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(idle(address, Path::new(key), count.parse()?))
        }
        _ => Err("usage: limits unavoidable|sink|source|idle, see benches/limits.rs".into()),
    }
}

/// User and system seconds of all of this process's threads.
fn cpu_seconds() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?).as_secs_f64())
}

/// What `work` costs in CPU seconds.
fn cost(work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let before = cpu_seconds()?;
    work()?;
    Ok(cpu_seconds()? - before)
}

/// Two digests, encryption and decryption, and the four copies between user and kernel, each measured by itself.
#[expect(clippy::disallowed_methods, reason = "the benchmark's own files")]
fn unavoidable(file: &Path, scratch: &Path) -> Outcome<()> {
    let bytes = std::fs::metadata(file)?.len();
    let buffers = usize::try_from(bytes)?.div_ceil(BUFFER);
    let mut buffer = vec![7_u8; BUFFER];
    let digest = cost(|| {
        let mut hasher = Sha256::new();
        (0..buffers).for_each(|_| hasher.update(&buffer));
        std::hint::black_box(hasher.finalize());
        Ok(())
    })?;
    let key = || UnboundKey::new(&AES_256_GCM, &[7; 32]).map(LessSafeKey::new);
    let key = key().map_err(|_| "a key of 32 bytes")?;
    let nonce = || Nonce::assume_unique_for_key([7; 12]); // Nobody is kept from reading it.
    let seal = cost(|| {
        for _ in 0..buffers {
            for record in buffer.chunks_mut(RECORD) {
                let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), record);
                let _tag = std::hint::black_box(tag.map_err(|_| "encryption failed")?);
            }
        }
        Ok(())
    })?;
    let copies = cost(|| copy(file, scratch))?;
    std::fs::remove_file(scratch)?;
    // GCM costs the same in both directions.
    println!(
        "{{\"digest\": {digest:.4}, \"aes\": {seal:.4}, \"copies\": {copies:.4}, \"sum\": {:.4}}}",
        2.0 * digest + 2.0 * seal + copies
    );
    Ok(())
}

/// read, send, recv, write: a file to another one over TCP.
#[expect(clippy::disallowed_methods, reason = "the benchmark's own files")]
fn copy(file: &Path, scratch: &Path) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let (mut from, mut to) = (std::fs::File::open(file)?, std::fs::File::create(scratch)?);
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match from.read(&mut buffer)? {
                0 => return sender.shutdown(Shutdown::Write),
                read => sender.write_all(&buffer[..read])?,
            }
        }
    });
    let mut buffer = vec![0; BUFFER];
    loop {
        match receiver.read(&mut buffer)? {
            0 => break,
            read => to.write_all(&buffer[..read])?,
        }
    }
    sending.join().map_err(|_| "the sender died")??;
    Ok(())
}

fn sink() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut buffer = vec![0; BUFFER];
        while stream.read(&mut buffer)? > 0 {}
        stream.write_all(b"!")?;
    }
    Ok(())
}

fn source(address: &str, bytes: u64) -> Outcome<()> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let buffer = vec![7; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left.min(BUFFER as u64))?;
        stream.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    println!("{:.4}", started.elapsed().as_secs_f64());
    Ok(())
}

async fn idle(address: &str, key: &Path, count: usize) -> Outcome<()> {
    let key = PrivateKey::parse_openssh(&read_key_file(key)?, None)?;
    let config = client_config(&Signer::from_private(key), Arc::new(|_| true))?;
    let mut held: Vec<(FrameReader, FrameWriter)> = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::tcp(tokio::net::TcpStream::connect(address).await?)?;
        let connection = Connection::connect(socket, Arc::clone(&config)).await?;
        let (mut reader, mut writer) = split(connection, PATIENCE);
        match reader.header(tokio::time::Instant::now() + PATIENCE).await? {
            Next::Frame(header) if header.kind == Kind::Hello => reader.control(&header).await?,
            other => return Err(format!("no hello, but {other:?}").into()),
        };
        writer.control(Kind::Hello, 0, &ClientHello { version: 1, client: None })?;
        writer.flush().await?;
        reader.shrink();
        held.push((reader, writer));
    }
    println!("{}", held.len());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
