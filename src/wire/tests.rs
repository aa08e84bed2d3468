//! Goal: a connection carries every byte, tells an end from a cut, and lets no peer spin it.
//! Method: our side against rustls' ordinary interface over a real socket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::identity::{PrivateKey, Signer, client_config, server_config};
use crate::proto::{Header, Kind};

type TestResult = Result<(), Box<dyn std::error::Error>>;
type Client = StreamOwned<ClientConnection, StdStream>;

/// Our server's end, and what `act` did with the client's.
async fn with_client<T: Send + 'static>(
    act: impl FnOnce(&mut Client) -> T + Send + 'static,
) -> Result<(Connection, tokio::task::JoinHandle<T>), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let signer = Signer::from_private(PrivateKey::generate()?);
    let client = client_config(&signer, Arc::new(|_| true))?;
    let peer = tokio::task::spawn_blocking(move || {
        let stream = StdStream::connect(address).unwrap_or_else(|error| panic!("connect: {error}"));
        let name = ServerName::try_from("ftd").unwrap_or_else(|error| panic!("name: {error}"));
        let connection =
            ClientConnection::new(client, name).unwrap_or_else(|error| panic!("client: {error}"));
        let mut client = StreamOwned::new(connection, stream);
        client.flush().unwrap_or_else(|error| panic!("handshake: {error}"));
        act(&mut client)
    });
    let (stream, _) = listener.accept().await?;
    let config = server_config(PrivateKey::generate()?)?;
    Ok((Connection::accept(Socket::tcp(stream)?, config).await?, peer))
}

fn frame(kind: Kind, id: u32, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&Header { kind, id, payload_bytes }.encode()[..], payload].concat()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Content of every size around a record and a buffer arrives, in pieces of any size.
#[tokio::test]
async fn content_arrives_whole_whatever_the_pieces() -> TestResult {
    let sizes = [1, 2, 16_383, 16_384, 16_385, 300_000, 1 << 20];
    let (connection, peer) = with_client(move |client| {
        for (id, size) in (1..).zip(sizes) {
            let content: Vec<u8> = (0..=250).cycle().take(size).collect();
            client.write_all(&frame(Kind::Data, id, &content))?;
        }
        client.conn.send_close_notify();
        client.flush()
    })
    .await?;
    let (mut reader, _writer) = split(connection, Duration::from_secs(20));
    for (id, size) in (1..).zip(sizes) {
        let Next::Frame(header) = reader.header(soon()).await? else {
            return Err("no frame".into());
        };
        assert_eq!((header.kind, header.id, header.payload_bytes as usize), (Kind::Data, id, size));
        let (mut content, mut filled) = (vec![0; size], 0);
        while filled < size {
            let end = (filled + 7 + filled / 3).min(size);
            filled += reader.content(&mut content[filled..end], None).await?.unwrap_or(0);
        }
        assert!(content.iter().copied().eq((0..=250).cycle().take(size)), "{size}");
    }
    assert_eq!(reader.header(soon()).await?, Next::Farewell);
    peer.await??;
    Ok(())
}

/// A connection that ends without a farewell is cut, also between two frames.
#[tokio::test]
async fn an_end_without_farewell_is_a_cut() -> TestResult {
    for length in [0, 5, 12, 15] {
        let (connection, peer) = with_client(move |client| {
            client.write_all(&frame(Kind::Data, 1, b"abcdef")[..length])?;
            client.flush()?;
            client.sock.shutdown(std::net::Shutdown::Both)
        })
        .await?;
        let (mut reader, _writer) = split(connection, Duration::from_secs(20));
        let outcome = match reader.header(soon()).await {
            Ok(Next::Frame(_)) => loop {
                match reader.content(&mut [0; 6], None).await {
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            },
            other => other.map(drop),
        };
        assert!(matches!(outcome, Err(WireError::Cut)), "{length}: {outcome:?}");
        peer.await??;
    }
    Ok(())
}

/// F-13: a peer that only ever changes its keys is cut off, and soon.
#[tokio::test]
async fn key_updates_without_end_are_cut_off() -> TestResult {
    let (connection, peer) = with_client(|client| {
        for count in 0..10_000 {
            if client.conn.refresh_traffic_keys().is_err() || client.flush().is_err() {
                return count;
            }
        }
        10_000
    })
    .await?;
    let (mut reader, writer) = split(connection, Duration::from_secs(20));
    let outcome = reader.header(soon()).await;
    assert!(matches!(outcome, Err(WireError::Tls(_) | WireError::Cut)), "{outcome:?}");
    drop((reader, writer));
    assert!(peer.await? < 10_000);
    Ok(())
}

/// F-11: a client that names no protocol, or another, is refused by our own side too.
#[tokio::test]
async fn a_client_of_another_protocol_is_refused() -> TestResult {
    for protocols in [vec![], vec![b"h2".to_vec()]] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let signer = Signer::from_private(PrivateKey::generate()?);
        let mut config = rustls::ClientConfig::clone(&*client_config(&signer, Arc::new(|_| true))?);
        config.alpn_protocols = protocols;
        let peer = tokio::task::spawn_blocking(move || -> std::io::Result<usize> {
            let name = ServerName::try_from("ftd").map_err(std::io::Error::other)?;
            let connection =
                ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
            StreamOwned::new(connection, StdStream::connect(address)?).read(&mut [0; 1])
        });
        let (stream, _) = listener.accept().await?;
        let config = server_config(PrivateKey::generate()?)?;
        assert!(Connection::accept(Socket::tcp(stream)?, config).await.is_err());
        assert!(peer.await?.is_err());
    }
    Ok(())
}

/// Key updates between frames are answered and lose nothing.
#[tokio::test]
async fn keys_may_change_between_frames() -> TestResult {
    let (connection, peer) = with_client(|client| {
        for id in 1..=50 {
            client.conn.refresh_traffic_keys().map_err(std::io::Error::other)?;
            client.write_all(&frame(Kind::Data, id, &[7; 1000]))?;
            client.flush()?;
            let mut answer = [0; 12];
            client.read_exact(&mut answer)?;
            assert_eq!(answer[7], u8::try_from(id).unwrap_or(0));
        }
        client.conn.send_close_notify();
        client.flush()
    })
    .await?;
    let (mut reader, mut writer) = split(connection, Duration::from_secs(20));
    while let Next::Frame(header) = reader.header(soon()).await? {
        let (mut content, mut left) = ([0; 1000], header.payload_bytes as usize);
        while left > 0 {
            left -= reader.content(&mut content[..left], None).await?.unwrap_or(0);
        }
        writer.empty(Kind::Eof, header.id)?;
        writer.flush().await?;
    }
    peer.await??;
    Ok(())
}

/// A peer that does not read holds a writer for the stall time and no longer.
#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() -> TestResult {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (connection, peer) = with_client(move |_| held.recv().is_err()).await?;
    let (_reader, mut writer) = split(connection, Duration::from_millis(200));
    let outcome = loop {
        writer.content(1, &vec![0; 1 << 20]).await?;
        if let Err(error) = writer.flush().await {
            break error;
        }
    };
    assert!(matches!(outcome, WireError::Timeout(_)), "{outcome:?}");
    drop(release);
    assert!(peer.await?);
    Ok(())
}

/// A peer that sends first and reads later still reads the last word: no reset overtakes it.
#[tokio::test]
async fn a_last_word_reaches_a_peer_that_is_still_sending() -> TestResult {
    let (connection, peer) = with_client(|client| {
        client.write_all(&vec![7; 8 << 20])?;
        let mut word = [0; 12];
        client.read_exact(&mut word).map(|()| word[0])
    })
    .await?;
    let (mut reader, mut writer) = split(connection, Duration::from_secs(20));
    reader.content(&mut [0; 100], None).await?;
    writer.empty(Kind::Eof, 1)?;
    writer.close(Duration::from_secs(20)).await;
    reader.drain(Duration::from_secs(20), usize::MAX).await;
    drop((reader, writer));
    assert_eq!(peer.await??, Kind::Eof as u8);
    Ok(())
}
