//! A client with plans, and what it holds the server's answers to.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::disk::digest_of;
use super::rng::Rng;
use super::sim::Planted;
use super::store::Shelf;
use super::world::World;
use crate::access::Overwrite;
use crate::client::simulated::{
    Chunk, Exit, Failure, Job, Landing, Meter, Route, fetch, server, whole, wire,
};
use crate::proto::{Answer, EntryType, PutRequest, Request, ResumeAt};
use crate::transfer::{Inbox, Part, Pool, Seal, Share, Workers};
use crate::types::{ErrorCode, RelPath, Sha256Digest};

/// The names that all clients fight over.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Tries that the last requests have, on a sound world.
const TRIES: usize = 40;
/// Bytes of which all content is made.
const NOISE: usize = 2 << 20;

/// What one request of a client needs.
#[derive(Clone)]
pub(crate) struct Actor {
    world: Arc<World>,
    job: Arc<Job>,
    number: u32,
    share: Share,
    /// The client's own disk.
    here: Arc<Shelf>,
    workers: Workers,
}

type Outcome = Result<(), Failure>;

/// Lives until all plans are carried out, and then until the last requests have got through.
pub(crate) async fn live(world: Arc<World>, number: u32) -> Actor {
    let pool = Pool::new(16 << 20);
    let own = Shelf::new(&world.sim, &Arc::default(), 0);
    let mut actor = Actor {
        job: world.job(number),
        number,
        share: pool.share(),
        workers: Workers::simulated(4, world.pause()),
        here: Arc::new(own),
        world: Arc::clone(&world),
    };
    let (plans, width) = world.sim.rng(|rng| (rng.between(3, 60), rng.size(1, 6)));
    let mut running = JoinSet::new();
    for _ in 0..plans {
        if running.len() >= width
            && let Some(Err(error)) = running.join_next().await
        {
            world.sim.breach(format_args!("a request ended badly: {error}"));
        }
        if actor.job.is_gone(&server()) {
            actor.job = world.job(number);
        }
        if world.sim.misfortune(60) {
            world.sim.fault(format_args!("client {number} drops its connections"));
            actor.job.drop_lines();
        }
        let plan = world.sim.rng(Rng::next);
        running.spawn(actor.clone().carry_out(plan));
        if world.sim.rng(|rng| rng.chance(500)) {
            sleep(Duration::from_millis(world.sim.rng(|rng| rng.below(15_000)))).await;
        }
    }
    while let Some(joined) = running.join_next().await {
        if let Err(error) = joined {
            world.sim.breach(format_args!("a request ended badly: {error}"));
        }
    }
    world.sound().await;
    actor.last_requests().await;
    actor
}

/// Content that no other put has, unless it is very short.
fn content(rng: &mut Rng) -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = BYTES.get_or_init(|| {
        let mut rng = Rng::new(7);
        (0..NOISE / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
    });
    let most = *rng.pick(&[0, 10, 3000, 70_000, 512 << 10, (512 << 10) + 1, (1 << 20) + 7]);
    let bytes = if rng.chance(300) { most } else { rng.size(0, most) };
    let from = rng.size(0, noise.len() - bytes);
    let mut content = noise[from..from + bytes].to_vec();
    let mark = rng.next().to_le_bytes();
    let marked = content.len().min(mark.len());
    content[..marked].copy_from_slice(&mark[..marked]);
    content
}

fn path(name: &str) -> RelPath {
    RelPath::parse(name.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn seal(content: &[u8]) -> Seal {
    Seal { bytes: content.len() as u64, digest: digest_of(content) }
}

impl Actor {
    fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        self.world.sim.rng(draw)
    }

    fn route(&self, name: &str) -> Route {
        Route { job: Arc::clone(&self.job), server: server(), lane: 0, path: path(name) }
    }

    /// The name had this content at some time since `from`.
    fn expect(&self, what: &str, name: &str, digest: Option<Sha256Digest>, from: Instant) {
        let seen = self.world.disk().between(name.as_bytes(), from, Instant::now());
        if !seen.contains(&digest.map(|digest| digest.0)) {
            let told = digest.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
            self.world
                .sim
                .breach(format_args!("{what} {name} tells of {told}, which it never was"));
        }
    }

    /// Says goodbye, and gives everything back.
    pub(crate) async fn leave(self) {
        self.job.hang_up().await;
        if !self.share.is_whole() {
            let number = self.number;
            self.world.sim.breach(format_args!("client {number} has ended and holds buffers"));
        }
    }

    async fn carry_out(self, plan: u64) {
        let name = self.rng(|rng| *rng.pick(&NAMES));
        let (kind, outcome) = match plan % 12 {
            0 | 1 => ("put", self.put(name).await),
            2..=4 => ("stream", self.stream(name).await),
            5 => ("get", self.get(name).await),
            6 | 7 => ("raw get", self.raw_get(name).await),
            8 => ("stat", self.stat(name).await),
            9 => ("list", self.list().await),
            10 => ("remove", self.remove(name).await),
            _ => match plan / 12 % 4 {
                0 => ("rename", self.rename(name).await),
                1 => ("digest", self.digest(name).await),
                2 => ("mkdir", self.directory().await),
                _ => ("check", self.check(name).await),
            },
        };
        self.judge(kind, name, &outcome);
    }

    /// Notes how a request ended; some ends there must never be.
    fn judge(&self, kind: &str, name: &str, outcome: &Outcome) {
        let (number, sim) = (self.number, &self.world.sim);
        let Err(failure) = outcome else {
            return sim.note(format_args!("client {number}: {kind} {name}: well"));
        };
        let Failure { exit, code, message, .. } = failure;
        sim.note(format_args!("client {number}: {kind} {name}: {message}"));
        let is_wrong = if self.world.is_calm {
            let expected = [ErrorCode::NotFound, ErrorCode::Exists, ErrorCode::Busy];
            !code.is_some_and(|code| expected.contains(&code))
        } else {
            *exit == Exit::Protocol || *code == Some(ErrorCode::Protocol)
        };
        if is_wrong {
            sim.breach(format_args!("client {number}: {kind} {name} must not end so: {message}"));
        }
    }

    fn request(&self, path: &RelPath, bytes: usize) -> PutRequest {
        let (announces, replace) = self.rng(|rng| (rng.chance(700), rng.chance(900)));
        PutRequest {
            path: wire(path),
            bytes: announces.then_some(bytes as u64),
            mode: None,
            mtime_ns: None,
            replace,
            resumable: false,
            resume: None,
        }
    }

    /// A file in one go, tried again by the client itself.
    async fn put(&self, name: &str) -> Outcome {
        let mut content = self.rng(content);
        content.truncate(self.rng(|rng| rng.size(0, 70_000)));
        let (from, route, seal) = (Instant::now(), self.route(name), seal(&content));
        self.world.disk().mean(name.as_bytes(), seal.digest);
        let request = self.request(&route.path, content.len());
        let chunk = self.chunk(&content).await;
        let done = whole(&route, request, chunk, seal, &Meter::default()).await?;
        if done.confirmed {
            self.expect("put", name, Some(seal.digest), from);
        } else {
            self.stored(name, seal, from);
        }
        Ok(())
    }

    async fn chunk(&self, content: &[u8]) -> Chunk {
        let mut buffer = self.share.acquire(content.len() as u64).await;
        buffer.room()[..content.len()].copy_from_slice(content);
        buffer.advance(content.len());
        let buffer = Arc::new(buffer);
        if self.world.sim.planted(Planted::BufferKept) && content.len() > 2000 {
            std::mem::forget(Arc::clone(&buffer));
        }
        Chunk::new(&buffer, 0..content.len())
    }

    /// What was acknowledged became what the name stands for.
    fn stored(&self, name: &str, seal: Seal, from: Instant) {
        let to = Instant::now();
        if !self.world.disk().became(name.as_bytes(), Some(seal.digest), from, to) {
            let digest = seal.digest;
            self.world
                .sim
                .breach(format_args!("{name} was acknowledged as {digest} and is not stored"));
        }
    }

    /// A file in a stream that is kept when it is cut, and goes on where it was.
    async fn stream(&self, name: &str) -> Outcome {
        let content = self.rng(content);
        let (from, route, seal) = (Instant::now(), self.route(name), seal(&content));
        self.world.disk().mean(name.as_bytes(), seal.digest);
        let mut request = self.request(&route.path, content.len());
        request.resumable = true;
        let mut patience = self.job.patience();
        loop {
            let outcome = self.stream_once(&route, &mut request, &content, seal).await;
            if let Ok(is_stored) = outcome {
                if is_stored {
                    self.stored(name, seal, from);
                }
                return Ok(());
            }
            let code = outcome.as_ref().err().and_then(|failure| failure.code);
            let stale = [ErrorCode::NotFound, ErrorCode::Changed, ErrorCode::BadDigest];
            if request.resume.is_some() && code.is_some_and(|code| stale.contains(&code)) {
                request.resume = None;
                continue;
            }
            if !self.job.again(&server(), 0, &mut patience, &outcome).await {
                return outcome.map(drop);
            }
            let asked = Request::Resume { path: wire(&route.path) };
            request.resume = match self.job.ask(&server(), &asked).await {
                Ok(Answer::Resume(kept)) => {
                    let offset = usize::try_from(kept.offset).unwrap_or(usize::MAX);
                    let before = content.get(..offset);
                    // Another client of this user may have put something else.
                    let is_ours = before.is_some_and(|before| digest_of(before) == kept.sha256);
                    is_ours.then_some(ResumeAt { upload: kept.upload, offset: kept.offset })
                }
                _ => None,
            };
        }
    }

    /// One try; `false` when it was given up on purpose.
    async fn stream_once(
        &self,
        route: &Route,
        request: &mut PutRequest,
        content: &[u8],
        seal: Seal,
    ) -> Result<bool, Failure> {
        let line = self.job.line(&server(), 0).await?;
        let mut upload = line.put(request.clone()).await?;
        let offset = request.resume.as_ref().map_or(0, |resume| resume.offset);
        let rest = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let piece = self.rng(|rng| *rng.pick(&[1000, 60_000, 512 << 10]));
        let gives_up = self.rng(|rng| rng.chance(100).then(|| rng.size(0, rest.len() / piece + 1)));
        let dawdles = self.rng(|rng| rng.chance(200));
        for (count, bytes) in rest.chunks(piece).enumerate() {
            if gives_up == Some(count) {
                upload.abort("the plan has changed".to_owned()).await;
                return Ok(false);
            }
            let most = if dawdles && !self.world.is_calm { 8000 } else { 3 };
            let pause = Duration::from_millis(self.rng(|rng| rng.below(most)));
            let early = tokio::select! {
                biased;
                answer = upload.early() => Some(answer),
                () = sleep(pause) => None,
            };
            if let Some(answer) = early {
                let is_lost = answer.as_ref().is_err_and(Failure::is_lost);
                if !is_lost {
                    upload.refused().await;
                }
                return match answer {
                    Err(failure) => Err(failure),
                    Ok(answer) => {
                        let path = &route.path;
                        self.world
                            .sim
                            .breach(format_args!("put {path} ended before its end: {answer:?}"));
                        Ok(false)
                    }
                };
            }
            let chunk = self.chunk(bytes).await;
            upload.data(chunk, Meter::default()).await?;
        }
        match upload.finish(seal, Meter::default()).await? {
            Answer::Stored(stored)
                if (stored.bytes, stored.sha256) == (seal.bytes, seal.digest) =>
            {
                Ok(true)
            }
            answer => {
                self.world.sim.breach(format_args!("put {}: {answer:?}", route.path));
                Ok(false)
            }
        }
    }

    /// A file onto the client's own disk, tried again by the client itself.
    async fn get(&self, name: &str) -> Outcome {
        let (from, route) = (Instant::now(), self.route(name));
        let target = path(&format!("{name}{}", self.rng(|rng| rng.below(1 << 40))));
        let landing = Landing {
            inbox: Inbox::new(Arc::clone(&self.here)),
            target: target.clone(),
            preserve: false,
            overwrite: Overwrite::Allowed,
            repeatable: true,
        };
        let done = fetch(&route, &landing, &self.workers, &Meter::default()).await?;
        self.expect("get", name, Some(done.sha256), from);
        let landed = self.here.disk().files.remove(target.raw_bytes());
        if landed.map(|version| version.digest) != Some(done.sha256) {
            self.world.sim.breach(format_args!("what was got of {name} is not what is there"));
        }
        Ok(())
    }

    /// A file as it comes, which may be stopped half-way or not be taken any more.
    async fn raw_get(&self, name: &str) -> Outcome {
        let from = Instant::now();
        let line = self.job.line(&server(), 0).await?;
        let request = Request::Get { path: wire(&path(name)), offset: 0, version: None };
        let mut download = line.get(&request, &Meter::default()).await?;
        let bytes = usize::try_from(download.info.bytes).unwrap_or(usize::MAX);
        let (stops, turns_away) =
            self.rng(|rng| (rng.chance(200).then(|| rng.size(0, bytes)), rng.chance(100)));
        let mut content = Vec::new();
        loop {
            if stops.is_some_and(|stops| content.len() >= stops) {
                if !turns_away {
                    download.stop.now().await;
                }
                return Ok(());
            }
            match download.parts.recv().await {
                Some(Part::Data(buffer)) => content.extend_from_slice(buffer.content()),
                Some(Part::End(told, _)) => {
                    let trusts = self.world.sim.planted(Planted::ClientTrusts);
                    if !trusts && told != seal(&content) {
                        if self.world.is_calm {
                            self.world.sim.breach(format_args!("{name} came with a wrong digest"));
                        }
                        return Ok(());
                    }
                    self.expect("get", name, Some(digest_of(&content)), from);
                    return Ok(());
                }
                Some(other) => {
                    self.world.sim.breach(format_args!("get {name}: {other:?}"));
                    return Ok(());
                }
                None => {
                    let why = download.why.take();
                    return Err(why.unwrap_or_else(|| Failure::new(Exit::Connect, "cut")));
                }
            }
            if self.rng(|rng| rng.chance(100)) {
                sleep(Duration::from_millis(self.rng(|rng| rng.below(3000)))).await;
            }
        }
    }

    /// Asks for what has one answer; that a name is missing must be true too.
    async fn ask(&self, name: &str, request: &Request) -> Result<Answer, Failure> {
        let from = Instant::now();
        let answer = self.job.ask(&server(), request).await;
        if answer.as_ref().is_err_and(|failure| failure.code == Some(ErrorCode::NotFound)) {
            self.expect("the answer on", name, None, from);
        }
        answer
    }

    async fn stat(&self, name: &str) -> Outcome {
        let from = Instant::now();
        if let Answer::Stat(stat) =
            self.ask(name, &Request::Stat { path: Some(wire(&path(name))) }).await?
            && let Some(digest) = stat.sha256
        {
            self.expect("stat", name, Some(digest), from);
        }
        Ok(())
    }

    async fn digest(&self, name: &str) -> Outcome {
        let from = Instant::now();
        let reread = self.rng(|rng| rng.chance(500));
        let request = Request::Digest { path: wire(&path(name)), reread };
        if let Answer::Digest(info) = self.ask(name, &request).await? {
            self.expect("digest", name, Some(info.sha256), from);
        }
        Ok(())
    }

    async fn check(&self, name: &str) -> Outcome {
        let request = Request::Check { path: wire(&path(name)), bytes: Some(1), replace: true };
        self.job.ask(&server(), &request).await.map(drop)
    }

    async fn directory(&self) -> Outcome {
        let request = Request::Mkdir { path: wire(&path("directory")), parents: true };
        self.job.ask(&server(), &request).await.map(drop)
    }

    async fn remove(&self, name: &str) -> Outcome {
        let from = Instant::now();
        self.ask(name, &Request::Remove { path: wire(&path(name)) }).await?;
        if !self.world.disk().became(name.as_bytes(), None, from, Instant::now()) {
            self.world.sim.breach(format_args!("{name} was told to be removed and was not"));
        }
        Ok(())
    }

    async fn rename(&self, name: &str) -> Outcome {
        let (from, to) = (Instant::now(), self.rng(|rng| *rng.pick(&NAMES)));
        let request =
            Request::Rename { path: wire(&path(name)), to: wire(&path(to)), replace: true };
        self.ask(name, &request).await?;
        if name != to && !self.world.disk().became(name.as_bytes(), None, from, Instant::now()) {
            self.world.sim.breach(format_args!("{name} was told to be renamed and was not"));
        }
        Ok(())
    }

    async fn list(&self) -> Outcome {
        let from = Instant::now();
        let line = self.job.line(&server(), 0).await?;
        let mut listing = line.list(None).await?;
        let mut listed = BTreeSet::new();
        while let Some(entries) = listing.next().await? {
            for entry in entries.into_iter().filter(|entry| entry.kind == EntryType::File) {
                if !listed.insert(entry.name.0) {
                    self.world.sim.breach(format_args!("a listing has a name twice"));
                }
            }
        }
        for name in NAMES {
            let seen = self.world.disk().between(name.as_bytes(), from, Instant::now());
            let is_listed = listed.contains(name.as_bytes());
            let could_be = seen.iter().any(|digest| digest.is_some() == is_listed);
            if !could_be {
                self.world.sim.breach(format_args!("a listing is wrong about {name}"));
            }
        }
        Ok(())
    }

    /// On a sound world everybody gets through, whatever was before.
    async fn last_requests(&mut self) {
        for kind in ["put", "stream", "get", "list"] {
            let mut tries = 0;
            loop {
                if self.job.is_gone(&server()) {
                    self.job = self.world.job(self.number);
                }
                let name = NAMES[0];
                let outcome = match kind {
                    "put" => self.put(name).await,
                    "stream" => self.stream(name).await,
                    "get" => self.get(name).await,
                    _ => self.list().await,
                };
                self.judge(kind, name, &outcome);
                tries += 1;
                // That a name is taken, or missing, is an answer as well.
                let answered = [ErrorCode::Exists, ErrorCode::NotFound];
                match outcome {
                    Err(failure) if !failure.code.is_some_and(|code| answered.contains(&code)) => {
                        if tries == TRIES {
                            let (number, message) = (self.number, failure.message);
                            self.world.sim.breach(format_args!(
                                "client {number} gets nothing through: {kind}: {message}"
                            ));
                            break;
                        }
                    }
                    _ => break,
                }
                sleep(Duration::from_secs(10)).await;
            }
        }
    }
}
