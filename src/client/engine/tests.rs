//! The engine against servers that say little, or other things than they should.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::super::connect::STALL;
use super::*;
use crate::proto::Header;
use crate::types::Sha256Digest;
use crate::wire::{Connection, Socket, split};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const GREETING: &[u8] = br#"{"protocol":"ftd","versions":{"min":1,"max":1},"server":"s","user":"u","rights":[],"limits":{"control_bytes":16384,"data_bytes":1048576,"requests":4,"uploads":1,"file_bytes":1}}"#;

fn frame(kind: Kind, id: u32, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&Header { kind, id, payload_bytes }.encode()[..], payload].concat()
}

fn told(failure: Failure) -> String {
    failure.message
}

/// A line to a server that says `script`, and from then on one byte a minute of a frame that never ends.
async fn against(script: Vec<u8>, trickles: bool) -> Result<Line, Failure> {
    let (ours, mut theirs) =
        UnixStream::pair().map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
    tokio::spawn(async move {
        let _ = theirs.write_all(&script).await;
        let endless = frame(Kind::Error, 0, &[b' '; 10_000]);
        for byte in endless {
            tokio::time::sleep(Duration::from_mins(1)).await;
            if trickles && theirs.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    let (reader, writer) = split(Connection::plain(Socket::Unix(ours)), STALL);
    Line::open(reader, writer, Arc::default()).await
}

fn put_request() -> PutRequest {
    PutRequest {
        path: WirePath(b"f".to_vec()),
        bytes: None,
        mode: None,
        mtime_ns: None,
        replace: true,
        resumable: false,
        resume: None,
    }
}

/// Goal: how long a client waits is its own affair, whatever a server says or does not say (L-06).
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() -> TestResult {
    const FILE: &[u8] = br#"{"file":{"bytes":3,"mode":420,"mtime_ns":0}}"#;
    let path = WirePath(b"f".to_vec());
    let gave_up = |failure: Option<Failure>| {
        failure.is_some_and(|failure| matches!(failure.exit, Exit::Connect | Exit::Protocol))
    };
    for trickles in [false, true] {
        let started = Instant::now();
        assert!(gave_up(against(Vec::new(), trickles).await.err()));
        for half in [Vec::new(), frame(Kind::Answer, 1, FILE)] {
            let script = [frame(Kind::Hello, 0, GREETING), half].concat();
            let line = against(script.clone(), trickles).await.map_err(told)?;
            assert!(gave_up(line.ask(&Request::Stat { path: None }).await.err()));
            assert!(line.is_broken(), "nothing more is asked there");
            let line = against(script.clone(), trickles).await.map_err(told)?;
            let mut listing = line.list(None).await.map_err(told)?;
            assert!(gave_up(listing.next().await.err()));
            let line = against(script, trickles).await.map_err(told)?;
            let request = Request::Get { path: path.clone(), offset: 0, version: None };
            match line.get(&request, &Meter::default()).await {
                Err(failure) => assert!(gave_up(Some(failure))),
                Ok(mut download) => {
                    assert!(download.parts.recv().await.is_none());
                    assert!(gave_up(download.why.take()));
                }
            }
        }
        let line = against(frame(Kind::Hello, 0, GREETING), trickles).await.map_err(told)?;
        let upload = line.put(put_request()).await.map_err(told)?;
        let seal = Seal { bytes: 0, digest: Sha256Digest([0; 32]) };
        assert!(gave_up(upload.finish(seal, Meter::default()).await.err()));
        assert!(started.elapsed() < Duration::from_hours(1), "{:?}", started.elapsed());
    }
    Ok(())
}

/// Goal: the server's limits are kept however much is asked for at once.
#[tokio::test]
async fn no_more_is_in_flight_than_the_server_takes() -> TestResult {
    let (ours, mut theirs) = UnixStream::pair()?;
    let server = tokio::spawn(async move {
        let mut most = 0;
        theirs.write_all(&frame(Kind::Hello, 0, GREETING)).await?;
        let (mut open, mut answered) = (Vec::new(), 0);
        while answered < 40 {
            // What has come by now is answered only when nothing more comes.
            let read = tokio::time::timeout(Duration::from_millis(20), async {
                let mut header = [0; Header::BYTES];
                theirs.read_exact(&mut header).await?;
                let header = Header::decode(&header).map_err(std::io::Error::other)?;
                let mut payload = vec![0; header.payload_bytes as usize];
                theirs.read_exact(&mut payload).await?;
                Ok::<_, std::io::Error>(header)
            });
            match read.await {
                Ok(header) => {
                    let header = header?;
                    if header.kind == Kind::Request {
                        open.push(header.id);
                    }
                    most = most.max(open.len());
                }
                Err(_) => {
                    for id in open.drain(..) {
                        answered += 1;
                        theirs.write_all(&frame(Kind::Answer, id, br#"{"removed":{}}"#)).await?;
                    }
                }
            }
        }
        Ok::<_, std::io::Error>(most)
    });
    let (reader, writer) = split(Connection::plain(Socket::Unix(ours)), STALL);
    let line = Line::open(reader, writer, Arc::default()).await.map_err(told)?;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let line = line.clone();
        asking.spawn(async move {
            line.ask(&Request::Remove { path: WirePath(b"f".to_vec()) }).await.is_ok()
        });
    }
    while let Some(answered) = asking.join_next().await {
        assert!(answered?);
    }
    assert_eq!(server.await??, 4);
    Ok(())
}
