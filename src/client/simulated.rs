//! The client's parts that a simulation drives: runs, single files, and the connection below them.

use std::io;
use std::sync::Arc;

use clap::Parser as _;

pub(crate) use super::connect::Dialer;
pub(crate) use super::download::{Landing, fetch};
pub(crate) use super::engine::{Chunk, Line, wire};
pub(crate) use super::exit::{Exit, Failure};
pub(crate) use super::job::Job;
pub(crate) use super::operand::Server;
pub(crate) use super::report::Meter;
pub(crate) use super::upload::{Route, whole};

use super::cli::Cli;
use super::connect::STALL;
use super::report::{Report, Style};
use super::settings::Settings;
use crate::wire::{Connection, Socket, split};

/// A run whose connections are what `dial` gives; `seed` decides over its pauses.
pub(crate) fn job(
    dial: impl Fn() -> io::Result<Socket> + Send + Sync + 'static,
    seed: u64,
) -> Arc<Job> {
    let cli = Cli::try_parse_from(["ftc", "--retry", "10min", "ls"]).expect("words that parse");
    let settings = Settings {
        global: cli.global,
        server: None,
        identity: None,
        identity_from: None,
        known_hosts: "known_hosts".into(),
        durability: None,
        servers: std::collections::BTreeMap::new(),
        unasked: true,
    };
    let report = Report::new(Style { quiet: true, ..Style::default() }, None);
    let report = report.unwrap_or_else(|failure| panic!("{}", failure.message));
    Arc::new(Job::dialing(settings, report, Dialer(Some(Arc::new(dial))), seed))
}

/// The server of all runs.
pub(crate) fn server() -> Server {
    Server::Unix("simulated".into())
}

/// The client's end of a connection, opened.
pub(crate) async fn line(socket: Socket) -> Result<Line, Failure> {
    let (reader, writer) = split(Connection::plain(socket), STALL);
    Line::open(reader, writer, Arc::default()).await
}
