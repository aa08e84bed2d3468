//! Goal: a reader takes frames whatever the pieces and to the last byte of their time, a writer sends what it was given.
//! Method: a pair of Unix sockets, time that stands still until everybody waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, advance};

use super::*;
use crate::proto::{Header, Kind};
use crate::types::limits::CONTROL_BYTES_MAX;
use crate::wire::{Connection, Socket, WireError};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const STALL: Duration = Duration::from_mins(1);
/// From the first byte of a control frame to its last.
const CONTROL: Duration = Duration::from_secs(30);

fn pair() -> Result<(FrameReader, FrameWriter, UnixStream), Box<dyn std::error::Error>> {
    let (ours, peer) = UnixStream::pair()?;
    let (reader, writer) = split(Connection::plain(Socket::Unix(ours)), STALL);
    Ok((reader, writer, peer))
}

fn encoded(kind: Kind, id: u32, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&Header { kind, id, payload_bytes }.encode()[..], payload].concat()
}

fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

fn timed_out<T: std::fmt::Debug>(outcome: &Result<T, WireError>) -> bool {
    matches!(outcome, Err(WireError::Timeout(_)))
}

#[tokio::test(start_paused = true)]
async fn a_header_may_come_byte_by_byte_over_several_waits() -> TestResult {
    let (mut reader, _writer, mut peer) = pair()?;
    let frame = encoded(Kind::Request, 7, b"{}");
    for byte in &frame[..Header::BYTES - 1] {
        peer.write_all(&[*byte]).await?;
        assert_eq!(reader.header(in_seconds(1)).await?, Next::Nothing);
    }
    peer.write_all(&frame[Header::BYTES - 1..]).await?;
    let Next::Frame(header) = reader.header(in_seconds(1)).await? else {
        return Err("no frame".into());
    };
    assert_eq!(header, Header { kind: Kind::Request, id: 7, payload_bytes: 2 });
    assert_eq!(reader.control(&header).await?, b"{}");
    assert_eq!(reader.header(in_seconds(1)).await?, Next::Nothing, "nothing more was sent");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_control_frame_has_thirty_seconds_from_its_first_byte() -> TestResult {
    for (sent, waited) in [(1, 0), (11, 0), (1, 29), (Header::BYTES + 1, 0)] {
        let (mut reader, _writer, mut peer) = pair()?;
        let begun = Instant::now();
        assert_eq!(reader.header(in_seconds(100)).await?, Next::Nothing, "no byte, no frame");
        assert_eq!(begun.elapsed(), Duration::from_secs(100));
        peer.write_all(&encoded(Kind::Request, 1, b"{\"a\":1}")[..sent]).await?;
        let begun = Instant::now();
        let mut next = reader.header(in_seconds(waited)).await;
        if let Ok(Next::Nothing) = next {
            next = reader.header(in_seconds(100)).await;
        }
        let outcome = match next {
            Ok(Next::Frame(header)) => reader.control(&header).await.map(|_| Next::Nothing),
            other => other,
        };
        assert!(timed_out(&outcome), "{sent} bytes: {outcome:?}");
        assert_eq!(begun.elapsed(), CONTROL, "{sent} bytes, {waited} s waited before");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_end_in_a_frame_is_a_cut_wherever_it_comes() -> TestResult {
    let frame = encoded(Kind::Request, 1, b"{}");
    for sent in 0..frame.len() {
        let (mut reader, _writer, mut peer) = pair()?;
        peer.write_all(&frame[..sent]).await?;
        drop(peer);
        let outcome = match reader.header(in_seconds(1)).await {
            Ok(Next::Frame(header)) => reader.control(&header).await.map(|_| Next::Nothing),
            other => other,
        };
        match sent {
            0 => assert!(matches!(outcome, Ok(Next::Farewell)), "{outcome:?}"),
            _ => assert!(matches!(outcome, Err(WireError::Cut)), "{sent}: {outcome:?}"),
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_largest_control_frame_arrives_whole() -> TestResult {
    let (mut reader, _writer, mut peer) = pair()?;
    let payload: Vec<u8> = (0..=250).cycle().take(CONTROL_BYTES_MAX as usize).collect();
    let frame = encoded(Kind::Hello, 0, &payload);
    let sender = tokio::spawn(async move { peer.write_all(&frame).await.map(|()| peer) });
    let Next::Frame(header) = reader.header(in_seconds(1)).await? else {
        return Err("no frame".into());
    };
    assert_eq!(reader.control(&header).await?, payload);
    sender.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn content_waits_until_it_is_told_and_no_longer_than_the_stall() -> TestResult {
    let (mut reader, _writer, mut peer) = pair()?;
    let begun = Instant::now();
    assert_eq!(reader.stall_deadline(), begun + STALL);
    assert_eq!(reader.content(&mut [0; 4], Some(in_seconds(5))).await?, None);
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    peer.write_all(b"abc").await?;
    let mut dest = [0; 4];
    assert_eq!(reader.content(&mut dest, None).await?, Some(3));
    assert_eq!(&dest[..3], b"abc");
    assert!(timed_out(&reader.content(&mut dest, Some(in_seconds(3600))).await));
    assert_eq!(begun.elapsed(), STALL, "three bytes are no progress");
    reader.resume();
    assert_eq!(reader.stall_deadline(), Instant::now() + STALL);
    advance(Duration::from_secs(1)).await;
    assert!(timed_out(&reader.content(&mut dest, None).await));
    assert_eq!(begun.elapsed(), STALL + STALL);
    drop(peer);
    reader.resume();
    assert!(matches!(reader.content(&mut dest, None).await, Err(WireError::Cut)));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn content_that_moves_moves_the_end_of_patience() -> TestResult {
    let (mut reader, _writer, mut peer) = pair()?;
    advance(Duration::from_secs(50)).await;
    peer.write_all(&vec![7; 64 * 1024]).await?;
    let (mut dest, mut left) = (vec![0; 64 * 1024], 64 * 1024);
    while left > 0 {
        left -= reader.content(&mut dest[..left], None).await?.unwrap_or(0);
    }
    assert_eq!(reader.stall_deadline(), Instant::now() + STALL);
    Ok(())
}

/// Nothing leaves before it is flushed, and then all of it does, in order.
#[tokio::test(start_paused = true)]
async fn a_writer_sends_what_was_queued_and_says_when_it_is_much() -> TestResult {
    let (_reader, mut writer, mut peer) = pair()?;
    let content = vec![7; 100];
    writer.control(Kind::Answer, 1, &serde_json::json!({"done": {}}))?;
    writer.raw_control(Kind::Error, 2, b"{}")?;
    writer.empty(Kind::Eof, 3)?;
    writer.content(4, b"").await?;
    writer.content(5, &content).await?;
    assert!(!writer.is_full());
    assert!(peer.try_read(&mut [0; 1]).is_err(), "before it is flushed");
    let expected = [
        encoded(Kind::Answer, 1, b"{\"done\":{}}"),
        encoded(Kind::Error, 2, b"{}"),
        encoded(Kind::Eof, 3, b""),
        encoded(Kind::Data, 5, &content),
    ]
    .concat();
    writer.flush().await?;
    let mut got = vec![0; expected.len()];
    peer.read_exact(&mut got).await?;
    assert_eq!(got, expected);
    // A header stands before it: at the limit, and one below.
    writer.content(6, &vec![7; 256 * 1024 - Header::BYTES - 1]).await?;
    assert!(!writer.is_full());
    writer.empty(Kind::Eof, 6)?;
    assert!(writer.is_full());
    Ok(())
}

/// What a peer has read was sent, whatever becomes of that which was queued with it.
#[tokio::test]
async fn who_waits_for_a_frame_hears_of_it_and_not_of_the_last_one() -> TestResult {
    let (_reader, mut writer, mut peer) = pair()?;
    let content = vec![7; 1 << 20];
    let mut sent = Vec::new();
    for id in 0..4 {
        writer.content(id, &content).await?;
        let (receipt, told) = oneshot::channel();
        writer.tell_when_sent(receipt);
        sent.push(told);
    }
    let mut got = vec![0; 2 * (Header::BYTES + content.len())];
    let (read, flushed) = tokio::join!(
        async {
            let read = peer.read_exact(&mut got).await;
            drop(peer);
            read
        },
        writer.flush()
    );
    read?;
    assert!(flushed.is_err(), "nobody reads the rest");
    let told: Vec<bool> = sent.iter_mut().map(|told| told.try_recv().is_ok()).collect();
    assert_eq!(told, [true, true, false, false]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_farewell_waits_for_a_peer_only_so_long() -> TestResult {
    let (reader, mut writer, mut peer) = pair()?;
    writer.empty(Kind::Eof, 1)?;
    writer.close(Duration::from_secs(5)).await;
    drop((reader, writer));
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await?;
    assert_eq!(got, encoded(Kind::Eof, 1, b""));

    let (_reader, mut writer, _peer) = pair()?;
    writer.content(1, &vec![7; 1 << 20]).await?;
    let begun = Instant::now();
    writer.close(Duration::from_secs(5)).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    writer.content(2, b"x").await?;
    assert!(timed_out(&writer.flush().await), "and a flush as long as anybody may stall");
    assert_eq!(begun.elapsed(), Duration::from_secs(5) + STALL);
    Ok(())
}

/// Memory of a busy connection is given back, and the next frame needs none of it.
#[tokio::test(start_paused = true)]
async fn a_connection_that_shrank_goes_on() -> TestResult {
    let (mut reader, mut writer, mut peer) = pair()?;
    for _ in 0..2 {
        peer.write_all(&encoded(Kind::Request, 1, b"{}")).await?;
        let Next::Frame(header) = reader.header(in_seconds(1)).await? else {
            return Err("no frame".into());
        };
        assert_eq!(reader.control(&header).await?, b"{}");
        reader.shrink();
        writer.empty(Kind::Eof, 1)?;
        writer.flush().await?;
    }
    assert_eq!(reader.control.capacity(), 0);
    Ok(())
}

/// What a PACKED frame holds is known when its header and its length of plain content are here, and not before.
#[tokio::test(start_paused = true)]
async fn what_is_packed_arrives_as_plain_content_whatever_the_pieces() -> TestResult {
    let content = b"the same again, ".repeat(5000);
    let (reader, mut writer, mut peer) = pair()?;
    writer.pack()?;
    writer.content(7, &content).await?;
    writer.empty(Kind::Eof, 7)?;
    writer.flush().await?;
    drop((reader, writer));
    let mut raw = Vec::new();
    peer.read_to_end(&mut raw).await?;
    assert_eq!(raw[0], Kind::Packed as u8);
    assert!(raw.len() < content.len() / 10, "{} bytes", raw.len());

    let (mut reader, _writer, mut peer) = pair()?;
    reader.unpack()?;
    for byte in &raw[..PACKED_HEADER - 1] {
        peer.write_all(&[*byte]).await?;
        assert_eq!(reader.header(in_seconds(1)).await?, Next::Nothing);
    }
    peer.write_all(&raw[PACKED_HEADER - 1..]).await?;
    let Next::Frame(header) = reader.header(in_seconds(1)).await? else {
        return Err("no frame".into());
    };
    let payload_bytes = u32::try_from(content.len())?;
    assert_eq!(header, Header { kind: Kind::Data, id: 7, payload_bytes });
    let (mut got, mut filled) = (vec![0; content.len()], 0);
    while filled < got.len() {
        let end = (filled + 1000).min(got.len());
        filled += reader.content(&mut got[filled..end], None).await?.unwrap_or(0);
    }
    assert_eq!(got, content);
    let eof = Header { kind: Kind::Eof, id: 7, payload_bytes: 0 };
    assert_eq!(reader.header(in_seconds(1)).await?, Next::Frame(eof));

    // Who has not agreed to it judges it by its header, as any other frame.
    let (mut reader, _writer, mut peer) = pair()?;
    peer.write_all(&raw[..Header::BYTES]).await?;
    let Next::Frame(header) = reader.header(in_seconds(1)).await? else {
        return Err("no frame".into());
    };
    assert_eq!(header.kind, Kind::Packed);
    Ok(())
}

/// What is packed takes time, and little of it waits to be sent: others on the thread have their turn all the
/// same, whether files are large or small.
#[tokio::test]
async fn packing_lets_others_have_their_turn() -> TestResult {
    for bytes in [4 * 1024, 60 * 1024, 512 * 1024] {
        let (_reader, mut writer, _peer) = pair()?;
        writer.pack()?;
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let content = vec![b'a'; bytes];
        for id in 0..u32::try_from((4 << 20) / bytes)? {
            writer.content(id, &content).await?;
        }
        assert!(!writer.is_full(), "only the writer's own turns were counted");
        other.abort();
        let turns = turns.load(Ordering::Relaxed);
        assert!((24..=40).contains(&turns), "{turns} turns in 4 MiB, in pieces of {bytes}");
    }
    Ok(())
}
