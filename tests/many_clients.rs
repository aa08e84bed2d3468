//! Goal: many connections at once keep nobody from being served, and those that do nothing cost little.
//! Method: a real daemon with 1,000 idle connections and 200 that put and look without pause, beside one that moves a
//! large file. Counts are compared, never times.
#![allow(clippy::disallowed_methods, reason = "tests look at the served files from outside")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ftd::identity::{PrivateKey, Signer, client_config, read_key_file};
use ftd::proto::{ClientHello, Kind};
use ftd::wire::{Connection, FrameReader, FrameWriter, Next, Socket, split};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ClientConfig;
use serde_json::json;
use support::{ALL_RIGHTS, PATIENCE, Setup, TestResult, noise, sha256};
use tokio::time::Instant;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Pieces of work for each active connection, if all of them got the same share.
const SHARE: usize = 20;
/// The daemon, the test and 1,200 connections need that many descriptors.
const DESCRIPTORS: u64 = 4096;

/// One client, as small as can be.
struct Client {
    reader: FrameReader,
    writer: FrameWriter,
    id: u32,
}

impl Client {
    async fn connect(address: &str, config: &Arc<ClientConfig>) -> Fallible<Self> {
        let socket = Socket::tcp(tokio::net::TcpStream::connect(address).await?)?;
        let connection = Connection::connect(socket, Arc::clone(config)).await?;
        let (reader, writer) = split(connection, PATIENCE);
        let mut client = Self { reader, writer, id: 0 };
        client.answer(Kind::Hello).await?;
        client.writer.control(Kind::Hello, 0, &ClientHello { version: 1, client: None })?;
        client.writer.flush().await?;
        client.reader.shrink();
        Ok(client)
    }

    /// Waits for as long as it takes: what is measured is whether everybody's turn comes.
    async fn answer(&mut self, kind: Kind) -> Fallible<()> {
        loop {
            match self.reader.header(Instant::now() + PATIENCE).await? {
                Next::Nothing => {}
                Next::Frame(header) if header.kind == kind => {
                    self.reader.control(&header).await?;
                    return Ok(());
                }
                other => return Err(format!("{other:?} in place of {kind}").into()),
            }
        }
    }

    async fn stat(&mut self) -> Fallible<()> {
        self.id += 1;
        self.writer.raw_control(Kind::Request, self.id, br#"{"verb":"stat"}"#)?;
        self.writer.flush().await?;
        self.answer(Kind::Answer).await
    }

    async fn put(&mut self, path: &str, content: &[u8]) -> Fallible<()> {
        self.id += 1;
        let request = json!({"verb": "put", "path": path}).to_string();
        let trailer = json!({"bytes": content.len(), "sha256": sha256(content)}).to_string();
        self.writer.raw_control(Kind::Request, self.id, request.as_bytes())?;
        self.writer.content(self.id, content).await?;
        self.writer.empty(Kind::Eof, self.id)?;
        self.writer.raw_control(Kind::Trailer, self.id, trailer.as_bytes())?;
        self.writer.flush().await?;
        self.answer(Kind::Answer).await
    }
}

fn how_many(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn config(key: &Path) -> Fallible<Arc<ClientConfig>> {
    let key = PrivateKey::parse_openssh(&read_key_file(key)?, None)?;
    Ok(client_config(&Signer::from_private(key), Arc::new(|_| true))?)
}

/// While one client moves a large file and 200 small ones ask without pause, each gets its turn, and 1,000 idle
/// connections are still served afterwards. `FTD_IDLE` and `FTD_ACTIVE` say how many.
#[test]
#[ignore = "1,200 connections; run with: make long-test"]
fn nobody_starves_among_many() -> TestResult {
    let (idle, active) = (how_many("FTD_IDLE", 1000), how_many("FTD_ACTIVE", 200));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS.min(hard), hard)?;
    let limits = "durability = \"none\"\n[limits]\nconnections = 2048\nconnections-per-user = 2048\nconnections-per-source = 2048";
    let daemon = Setup::with(ALL_RIGHTS, limits)?.start()?;
    std::fs::File::create(daemon.path("bulk"))?.set_len(1 << 30)?;
    let config = config(&daemon.path("key")).map_err(|error| error.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before = daemon.memory("VmRSS")?;
    let counts = runtime.block_on(async {
        let mut quiet = Vec::with_capacity(idle);
        for _ in 0..idle {
            quiet.push(Client::connect(&daemon.address, &config).await?);
        }
        let after = daemon.memory("VmRSS").map_err(|error| error.to_string())?;
        let each = after.saturating_sub(before) * 1024 / idle as u64;
        println!("assurance: many clients: {idle} idle connections, {each} bytes of the daemon's memory each");
        let mut busy = Vec::with_capacity(active);
        for _ in 0..active {
            busy.push(Client::connect(&daemon.address, &config).await?);
        }
        let bulk = daemon.ftc_tls().spawn(["put".as_ref(), daemon.path("bulk").as_os_str(), ":bulk".as_ref()]);
        let mut bulk = bulk.map_err(|error| error.to_string())?;
        let done = Arc::new(AtomicUsize::new(0));
        let mut working = tokio::task::JoinSet::new();
        for (number, mut client) in busy.into_iter().enumerate() {
            let (done, content) = (Arc::clone(&done), noise(4096, number as u64));
            working.spawn(async move {
                let mut count = 0;
                while done.fetch_add(1, Ordering::Relaxed) < active * SHARE {
                    client.stat().await?;
                    client.put(&format!("f{number}"), &content).await?;
                    count += 1;
                }
                Fallible::Ok(count)
            });
        }
        let mut counts = Vec::new();
        while let Some(count) = working.join_next().await {
            counts.push(count??);
        }
        let bulk_ran = bulk.try_wait()?.is_none();
        let bulk = tokio::task::spawn_blocking(move || bulk.wait()).await??;
        assert!(bulk.success(), "the large file");
        for client in &mut quiet {
            client.stat().await?;
        }
        counts.sort_unstable();
        let when = if bulk_ran { "not yet over" } else { "over before" };
        println!("assurance: many clients: the large file was {when} when the small ones were");
        Fallible::Ok(counts)
    });
    let counts: Vec<usize> = counts.map_err(|error| error.to_string())?;
    let (least, median, most) = (counts[0], counts[counts.len() / 2], counts[counts.len() - 1]);
    println!(
        "assurance: many clients: of {active} active connections the least served got {least} turns, the median {median}, the most {most}"
    );
    assert!(least * 4 >= SHARE, "{counts:?}");
    Ok(())
}
