//! One connection: where the protocol and the transfers meet.
//!
//! One task reads and writes side by side. Requests run as tasks of their own and answer through bounded
//! channels: `answers` for everything that is one frame, and those of `content.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::compress;
use super::content;
use super::door::Visitor;
use super::guard::alone;
use super::incoming::{HOLD, Uploads};
use super::journal::kind;
use super::outgoing::{self, Final};
use super::penalties::Offence;
use super::running::Running;
use super::server::{FAREWELL, Phase, Server};
use super::users::{Peer, User};
use super::verbs;
use crate::proto::{ErrorMessage, Event, Expect, Kind, PutRequest, Request, ServerState, WirePath};
use crate::transfer::{Inbox, PARTS_MAX, Part, Seal, Shelf, Store, TransferError};
use crate::types::ErrorCode;
use crate::wire::{Connection, FrameReader, FrameWriter, Next, WireError, split};

/// How often a session whose admission has an end looks at the clock.
const EXPIRY_CHECK: Duration = Duration::from_secs(2);
/// How long a peer that was sent away may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of somebody who is not served that are dropped before the connection is.
const UNREAD_BYTES: usize = 4 * 1024 * 1024;
/// What those are told who want something of a daemon that ends.
const STOPPING: &str = "the server is stopping; try again later";
/// Answers that may wait for the writer.
const ANSWERS_MAX: usize = 64;

/// What one session's two directions and its requests share.
pub(super) struct Session<S: Store> {
    pub(super) server: Server<S>,
    pub(super) peer: Peer,
    /// Where the peer connects from, for the log.
    pub(super) address: String,
    /// Its network address, which a Unix socket has not.
    source: Option<IpAddr>,
    pub(super) inbox: Arc<Inbox<S>>,
    pub(super) shelf: Shelf<S>,
    pub(super) answers: mpsc::Sender<(u32, Final)>,
    pub(super) parts: content::Sender,
    pub(super) wholes: content::Sender,
    state: Mutex<ServerState>,
    /// Wakes the reader when the last answer is out, because the idle time starts then.
    idle: Notify,
    /// Whom the peer was let in as.
    admitted: Arc<User>,
}

/// What a connection has taken in and not finished.
struct Intake {
    uploads: Uploads,
    /// The connection's place among those that compress, in all and of the user.
    compressed: Option<compress::Place>,
    draining: bool,
}

/// Requests other than puts, so that they can be cancelled, and are when nobody waits for them.
type Tasks = BTreeMap<u32, Running>;

/// What is asked: the verb, and the paths as [`Request::paths`] has them.
type Asked<'a> = (&'static str, (Option<&'a WirePath>, Option<&'a WirePath>));

/// A request that is refused before anybody looks at what it asks for.
pub(super) const UNREAD: Asked<'static> = ("request", (None, None));

/// Why a session ends.
enum End {
    /// The client said goodbye.
    Farewell,
    /// The client is to be told why.
    Told(ErrorMessage),
    /// There is nobody to tell.
    Gone(WireError),
}

/// Serves one authenticated peer until it leaves, breaks the protocol or is no longer wanted.
pub(super) async fn serve<S: Store>(
    connection: Connection,
    peer: Peer,
    mut visitor: Visitor,
    server: Server<S>,
) {
    let live = Arc::clone(&server.live.borrow());
    let (mut reader, mut writer) = split(connection, live.settings.limits.stall_timeout);
    let limits = &live.settings.limits;
    let user = match live.users.admit(&peer, visitor.ip) {
        Ok(user) => Arc::clone(user),
        Err(why) => {
            visitor.penalise(Offence::UnknownKey, limits);
            if let Some(suppressed) = visitor.refusals().admit() {
                let (peer, identity) = (visitor.address.as_str(), peer.to_string());
                tracing::info!(name: kind::UNKNOWN_PEER, peer, identity, result = "AUTH", suppressed, "refused: {why}");
            }
            // The same for all reasons: strangers learn nothing about keys.
            let message = format!("{peer} is not known here; ask the administrator to add it");
            let message = ErrorMessage::new(ErrorCode::Auth, message);
            return tokio::select! {
                biased;
                () = refuse(&mut reader, &mut writer, message) => {}
                () = visitor.evicted() => {}
            };
        }
    };
    let too_many = "too many connections of this user; close one and try again";
    let place = visitor.settle(limits);
    let taken = user.connections.take(limits.connections_per_user).ok_or(too_many);
    // Who is refused keeps what he has taken until he is gone, so that it is counted.
    let places = (place, taken);
    if let (Err(message), _) | (_, Err(message)) = &places {
        verbs::log_turned_away(&user, &peer, &visitor.address, message);
        let message = ErrorMessage::new(ErrorCode::Limit, *message);
        return tokio::select! {
            biased;
            () = refuse(&mut reader, &mut writer, message) => {}
            () = visitor.evicted() => {}
        };
    }
    let Visitor { address, ip: source, .. } = visitor;
    tracing::debug!(peer = %address, user = user.principal.name, "connected");
    let _ = alone(pin!(verbs::make_home(&server.store, &user))).await; // Whatever comes of it.
    let (answers, mut queued_answers) = mpsc::channel(ANSWERS_MAX);
    let (parts, wholes, mut content) = content::channels();
    let state = Mutex::new(ServerState::new(live.settings.limits.requests_per_connection));
    let idle = Notify::new();
    let inbox = Inbox::new(Arc::clone(&server.store));
    let shelf = Shelf::new(Arc::clone(&server.store));
    let session = Arc::new(Session {
        server,
        peer,
        address,
        source,
        inbox,
        shelf,
        answers,
        parts,
        wholes,
        state,
        idle,
        admitted: Arc::clone(&user),
    });
    if writer.control(Kind::Hello, 0, &outgoing::hello(&user, &live.settings.limits)).is_err() {
        return;
    }
    drop(live);
    let mut tasks = Tasks::new();
    let end = {
        let reading = async { alone(pin!(session.read(&mut reader, &mut tasks))).await };
        let mut writing =
            pin!(outgoing::send(&session, &mut writer, &mut queued_answers, &mut content));
        let end = tokio::select! {
            biased; // Each of them ends the session; a simulation has one order of things.
            end = reading => end.unwrap_or_else(End::internal),
            end = session.revoked() => end,
            Err(error) = &mut writing => End::Gone(error),
        };
        if let End::Told(_) | End::Farewell = &end {
            // The writer finishes the frame that it is in, says the last word, and stops.
            let last = if let End::Told(message) = &end { Some(message.clone()) } else { None };
            // Side by side: the queue may be full, and the writer is what makes room in it.
            let ask = session.answers.send((0, Final::Close(last)));
            let _ = timeout(FAREWELL, async { tokio::join!(ask, &mut writing) }).await;
            if matches!(end, End::Told(_)) {
                reader.drain(LINGER, usize::MAX).await;
            }
        }
        end
    };
    drop(tasks); // The last word is said, or there is nobody to hear it.
    match end {
        End::Farewell => tracing::debug!(peer = session.address, "disconnected"),
        End::Told(message) => tracing::info!(
            name: kind::CLOSED,
            peer = session.address,
            identity = session.peer.to_string(),
            result = message.code.name(),
            "closed: {}", message.message,
        ),
        End::Gone(error) => {
            tracing::info!(name: kind::CLOSED, peer = session.address, identity = session.peer.to_string(), "lost: {error}");
        }
    }
}

/// The last word to somebody who is not served, and who may have sent a request without waiting for it.
async fn refuse(reader: &mut FrameReader, writer: &mut FrameWriter, message: ErrorMessage) {
    outgoing::farewell(writer, Some(message)).await;
    reader.drain(LINGER, UNREAD_BYTES).await;
}

impl<S: Store> Session<S> {
    pub(super) fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user that the peer is under the configuration in force.
    pub(super) fn user(&self) -> Option<Arc<User>> {
        self.server.live.borrow().users.admit(&self.peer, self.source).ok().cloned()
    }

    /// Resolves when the peer may no longer be here, whatever it is doing.
    async fn revoked(&self) -> End {
        let mut live = self.server.live.clone();
        loop {
            let expires = {
                let users = &live.borrow_and_update().users;
                match users.admit(&self.peer, self.source) {
                    Ok(_) => users.expires(&self.peer),
                    Err(why) => {
                        tracing::info!(
                            peer = self.address,
                            identity = self.peer.to_string(),
                            "ended: {why}"
                        );
                        break;
                    }
                }
            };
            // The wall clock may be set at any time, so that it is looked at again and again.
            tokio::select! {
                biased;
                changed = live.changed() => if changed.is_err() {
                    return End::stopping(); // Nobody waits for this session any more.
                },
                () = sleep(EXPIRY_CHECK), if expires => {}
            }
        }
        let message = format!("{} is no longer known here", self.peer);
        End::Told(ErrorMessage::new(ErrorCode::Auth, message))
    }

    /// The incoming direction: frames in, work started.
    async fn read(self: &Arc<Self>, reader: &mut FrameReader, tasks: &mut Tasks) -> End {
        let mut intake = Intake { uploads: Uploads::default(), compressed: None, draining: false };
        let mut phase = self.server.phase.clone();
        let (greeting_timeout, idle_timeout) = {
            let live = self.server.live.borrow();
            (live.settings.limits.handshake_timeout, live.settings.limits.idle_timeout)
        };
        let (mut quiet_since, mut was_idle) = (Instant::now(), true);
        loop {
            intake.draining = *phase.borrow_and_update() == Phase::Draining;
            let (is_greeted, is_idle, is_uploading) = {
                let state = self.state();
                (state.is_greeted(), state.is_idle(), state.awaits_content())
            };
            if is_idle && intake.draining {
                return End::stopping();
            }
            if is_idle && !was_idle {
                quiet_since = Instant::now();
                reader.shrink();
            }
            was_idle = is_idle;
            let is_holding = intake.uploads.by_id.values().any(|upload| upload.filling.is_some());
            let deadline = match (is_idle, is_uploading) {
                (true, _) if !is_greeted => quiet_since + greeting_timeout,
                (true, _) => quiet_since + idle_timeout,
                (false, true) => {
                    intake.uploads.look_at.into_iter().fold(reader.stall_deadline(), Instant::min)
                }
                // Only our own answers are due, and the writer watches over them.
                (false, false) => Instant::now() + idle_timeout,
            };
            let until = if is_holding { deadline.min(Instant::now() + HOLD) } else { deadline };
            let next = tokio::select! {
                biased; // A request that comes with the drain or after it finds it.
                changed = phase.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return End::stopping(),
                },
                () = self.idle.notified() => continue,
                next = reader.header(until) => next,
            };
            let outcome = match next {
                Ok(Next::Frame(header)) => {
                    let outcome = self.frame(reader, &header, &mut intake, tasks).await;
                    quiet_since = Instant::now();
                    if intake.uploads.is_one_over(quiet_since, false) {
                        outcome.and(Err(WireError::Timeout("receive content")))
                    } else {
                        outcome
                    }
                }
                Ok(Next::Farewell) => return End::Farewell,
                Ok(Next::Nothing) if is_holding && Instant::now() < deadline => {
                    let since = Instant::now();
                    intake.uploads.hand_over().await;
                    intake.uploads.tally.excuse(reader, since.elapsed());
                    Ok(())
                }
                Ok(Next::Nothing) if is_idle => Err(WireError::Timeout("wait for a request")),
                Ok(Next::Nothing) if is_uploading => {
                    let now = Instant::now();
                    if reader.stall_deadline() <= now || intake.uploads.is_one_over(now, true) {
                        Err(WireError::Timeout("receive content"))
                    } else {
                        Ok(())
                    }
                }
                Ok(Next::Nothing) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return End::of(error);
            }
        }
    }

    async fn frame(
        self: &Arc<Self>,
        reader: &mut FrameReader,
        header: &crate::proto::Header,
        intake: &mut Intake,
        tasks: &mut Tasks,
    ) -> Result<(), WireError> {
        let id = header.id;
        let expect = self.state().header(header)?;
        if expect != Expect::Control {
            let wanted = (expect == Expect::Content).then_some(id);
            return self.content(reader, header.payload_bytes, &mut intake.uploads, wanted).await;
        }
        let payload = reader.control(header).await?;
        let event = self.state().control(header, payload)?;
        let since = Instant::now();
        match event {
            Event::Hello(hello) => {
                let client = hello.client.unwrap_or_default();
                assert!(!cfg!(test) || client != "panics", "a panic, as the test wants it");
                tracing::debug!(peer = %self.address, client = %crate::types::Escaped(client.as_bytes()), "greeted");
            }
            Event::TooMany => {
                let message = "too many requests are in flight";
                self.log_refusal(UNREAD, ErrorCode::Limit, message);
                let message = ErrorMessage::new(ErrorCode::Limit, message);
                let _ = self.answers.send((id, Final::NotAdmitted(message))).await;
            }
            Event::Put(PutRequest { path, .. }) if intake.draining => {
                let asked = ("put", (Some(&path), None));
                self.refuse(id, asked, ErrorCode::Shutdown, STOPPING).await;
            }
            Event::Request(request) if intake.draining => {
                let asked = (request.verb(), request.paths());
                self.refuse(id, asked, ErrorCode::Shutdown, STOPPING).await;
            }
            Event::Put(put) => {
                if !intake.uploads.is_any_open() {
                    reader.resume(); // Nothing was due before.
                }
                self.put(id, put, &mut intake.uploads).await;
            }
            Event::Request(Request::Unknown) => {
                let message = "this server does not know the verb";
                self.refuse(id, UNREAD, ErrorCode::Protocol, message).await;
            }
            Event::Request(Request::Compress { method }) => {
                self.compress(id, &method, reader, &mut intake.compressed).await?;
            }
            Event::Request(request) => {
                tasks.retain(|_, task| !task.is_finished());
                if let Some(user) = self.user() {
                    let task = verbs::start(self, user, id, request);
                    tasks.extend(task.map(|task| (id, task)));
                }
            }
            Event::Eof => {}
            Event::Trailer(trailer) => {
                if let (Some(mut upload), Some(trailer)) =
                    (intake.uploads.by_id.remove(&id), trailer)
                {
                    upload.hand_over().await;
                    let seal = Seal { bytes: trailer.bytes, digest: trailer.sha256 };
                    // A receiver that is gone has said why.
                    let _ = upload.parts.send(Part::End(seal, None)).await;
                }
            }
            Event::Cancelled(running) => {
                let upload = intake.uploads.by_id.remove(&id);
                let was_upload = upload.is_some();
                if let Some(upload) = upload {
                    // Said, because a channel that just closes is a cut, of which something may be kept.
                    let _ = upload.parts.send(Part::Failed(TransferError::Aborted)).await;
                }
                if running
                    && !was_upload
                    && let Some(task) = tasks.get(&id)
                {
                    task.cancel();
                    let _ = self.parts.send((id, Part::Failed(TransferError::Aborted))).await;
                }
            }
        }
        intake.uploads.tally.excuse(reader, since.elapsed()); // All that was ours.
        Ok(())
    }

    async fn put(self: &Arc<Self>, id: u32, put: PutRequest, uploads: &mut Uploads) {
        let Some(user) = self.user() else { return };
        let there = put.resume.as_ref().map_or(0, |resume| resume.offset);
        let due = put.bytes.map(|bytes| bytes.saturating_sub(there));
        let (bytes_max, stall) = {
            let limits = &self.server.live.borrow().settings.limits;
            (user.bytes_max(limits), limits.stall_timeout)
        };
        match verbs::admit_put(&*self.server.store, &user, &put, bytes_max) {
            Ok(admitted) => {
                let (parts, queue) = mpsc::channel(PARTS_MAX);
                verbs::start_put(self, user, id, admitted, queue);
                uploads.begin(id, parts, due, stall);
            }
            Err((code, message)) => {
                self.refuse(id, ("put", (Some(&put.path), None)), code, &message).await;
            }
        }
    }

    fn log_refusal(&self, (verb, paths): Asked<'_>, code: ErrorCode, reason: &str) {
        if let Some(user) = self.user() {
            verbs::log_refusal(self, &user, verb, paths, (code, reason));
        }
    }

    /// Refuses a request before any work, with a line in the log.
    pub(super) async fn refuse(&self, id: u32, asked: Asked<'_>, code: ErrorCode, message: &str) {
        self.log_refusal(asked, code, message);
        // The writer is there for as long as we are.
        let _ = self.answers.send((id, Final::Error(ErrorMessage::new(code, message)))).await;
    }

    /// Notes that the final frame of a request is on its way.
    pub(super) fn finished(&self, id: u32) {
        let mut state = self.state();
        state.finished(id);
        if state.is_idle() {
            self.idle.notify_one();
        }
    }
}

/// The last of its requests is over, and has left its line or was counted.
impl<S: Store> Drop for Session<S> {
    fn drop(&mut self) {
        verbs::log_suppressed(self, &self.admitted);
    }
}

impl End {
    fn stopping() -> Self {
        Self::Told(ErrorMessage::new(ErrorCode::Shutdown, STOPPING))
    }

    fn internal() -> Self {
        let message = "an internal error ended this connection";
        Self::Told(ErrorMessage::new(ErrorCode::Internal, message))
    }

    fn of(error: WireError) -> Self {
        let code = match &error {
            WireError::Protocol(_) => ErrorCode::Protocol,
            WireError::Timeout(_) => ErrorCode::Timeout,
            WireError::Io { .. } | WireError::Tls(_) | WireError::Cut => return Self::Gone(error),
        };
        Self::Told(ErrorMessage::new(code, error.to_string()))
    }
}
