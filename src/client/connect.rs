//! From a server's name to a connection on which both sides know who the other is.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::ask::{Echo, ask};
use super::engine::{Early, Line, Throttle};
use super::exit::{Exit, Failure, said, tell};
use super::operand::Server;
use super::settings::{Settings, home};
use super::shell_word;
use crate::identity::{
    KeyError, KnownHosts, PrivateKey, Signer, agent_keys, client_config, fingerprint,
    parse_public_line, public_line, read_key_file,
};
use crate::types::{ErrorCode, PublicKey};
use crate::wire::{Connection, Socket, WireError, split};

/// How long reaching a server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take for its handshake; longer, because an agent's user may have to confirm.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a transfer may move less than 64 KiB.
pub(super) const STALL: Duration = Duration::from_mins(1);
/// Passphrases that are asked for before giving up.
const PASSPHRASES_MAX: usize = 3;
/// Keys that are tried before giving up.
const TRIES_MAX: usize = 6;

/// Connects, and finds a key that the server knows.
///
/// # Errors
/// Each says what to do next.
pub async fn connect(
    server: &Server,
    settings: &Settings,
    keys: &Keys,
    dialer: &Dialer,
    throttle: &Arc<Throttle>,
    stood: &Arc<AtomicBool>,
) -> Result<Line, Failure> {
    match server {
        Server::Unix(path) => {
            let doing = || format!("connect to unix:{}", path.display());
            let socket = dialer.dial(path).await.map_err(|error| {
                Failure::new(Exit::Connect, said(&error))
                    .doing(doing())
                    .hint("is ftd running there?")
            })?;
            let (reader, writer) = split(Connection::plain(socket), STALL);
            let line = Line::open(reader, writer, Arc::clone(throttle)).await;
            line.map_err(|failure| failure.doing(doing()))
        }
        Server::Tcp { host, port } => {
            let address = (host.as_str(), *port);
            connect_tls(&server.name(), address, settings, keys, throttle, stood).await
        }
    }
}

/// What opens Unix sockets: the kernel, if nobody stands in for it.
#[derive(Clone, Default)]
pub struct Dialer(pub(super) Option<Arc<dyn Fn() -> io::Result<Socket> + Send + Sync>>);

impl Dialer {
    async fn dial(&self, path: &Path) -> io::Result<Socket> {
        match &self.0 {
            None => UnixStream::connect(path).await.map(Socket::Unix),
            Some(dial) => dial(),
        }
    }
}

/// The keys that servers have taken, by server, and those of files that were read: so that nobody is asked twice
/// for a passphrase.
#[derive(Default)]
pub struct Keys {
    taken: Mutex<HashMap<String, Signer>>,
    at_hand: tokio::sync::Mutex<HashMap<PathBuf, Signer>>,
}

impl Keys {
    fn taken(&self) -> MutexGuard<'_, HashMap<String, Signer>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn signer(&self, candidate: &Candidate, settings: &Settings) -> Result<Signer, Failure> {
        let path = match &candidate.source {
            Source::Agent(socket, key) => {
                return Ok(Signer::from_agent(socket.clone(), key.clone()));
            }
            Source::File(path) => path,
        };
        let mut at_hand = self.at_hand.lock().await;
        if let Some(signer) = at_hand.get(path) {
            return Ok(signer.clone());
        }
        let signer = unlock(path, settings).await?;
        at_hand.insert(path.clone(), signer.clone());
        Ok(signer)
    }
}

async fn connect_tls(
    name: &str,
    address: (&str, u16),
    settings: &Settings,
    keys: &Keys,
    throttle: &Arc<Throttle>,
    stood: &Arc<AtomicBool>,
) -> Result<Line, Failure> {
    let mut trust = Trust::load(name, settings)?;
    // With one key there is nothing to decide when the server has judged it, so that work begins at once.
    let early = |signer: &Signer| {
        let (name, line) = (name.to_owned(), public_line(signer.public()));
        let refused = Box::new(move |failure| refused(failure, &name, &line));
        (!settings.global.verbose).then(|| Early { stood: Arc::clone(stood), refused })
    };
    let doing = |failure: Failure| failure.doing(format!("connect to {name}"));
    let taken = keys.taken().get(name).cloned();
    if let Some(signer) = taken {
        let early = early(&signer);
        return attempt(address, &signer, &mut trust, throttle, early).await.map_err(doing);
    }
    let mut unknown = Vec::new();
    let tries = if settings.unasked { 1 } else { TRIES_MAX };
    let candidates = candidates(settings);
    let is_only = candidates.len() == 1;
    for candidate in candidates.into_iter().take(tries) {
        let signer = keys.signer(&candidate, settings).await?;
        if settings.global.verbose {
            tell(format_args!("ftc: offer {} ({})", fingerprint(signer.public()), candidate.from));
        }
        let early = if is_only { early(&signer) } else { None };
        match attempt(address, &signer, &mut trust, throttle, early).await {
            Err(failure) if failure.code == Some(ErrorCode::Auth) => {
                unknown.push((signer, failure));
            }
            Ok(line) => {
                keys.taken().insert(name.to_owned(), signer);
                return Ok(line);
            }
            // Who has answered a question is not asked it again.
            Err(failure) => {
                let is_cut = failure.is_cut && !trust.was_asked;
                return Err(doing(Failure { is_cut, ..failure }));
            }
        }
    }
    Err(match unknown.into_iter().next() {
        Some((signer, failure)) => refused(failure, name, &public_line(signer.public())),
        None => no_key(name),
    })
}

/// What is said when a server answers a handshake with anything but hello; `line` is the key that it was shown.
fn refused(failure: Failure, name: &str, line: &str) -> Failure {
    if failure.code != Some(ErrorCode::Auth) {
        return failure.doing(format!("connect to {name}"));
    }
    failure
        .doing(format!("log in to {name}"))
        .hint(format!("ask the administrator to add this line to your keys in ftd.toml: {line}"))
}

/// There is nothing to offer: says where was looked, and what was found there instead.
fn no_key(name: &str) -> Failure {
    let agent = match agent_socket() {
        None => "no agent runs (SSH_AUTH_SOCK is not set)".to_owned(),
        Some(socket) => match agent_keys(&socket) {
            Ok(_) => "the agent holds no key that ftd can use".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    let mut text = format!("log in to {name}: there is no key to log in with: {agent}");
    text += ", and there is no ~/.ssh/id_ed25519 or id_ecdsa";
    let directory = home().unwrap_or_default().join(".ssh");
    for (file, kind) in [
        ("id_rsa", "an RSA key"),
        ("id_ed25519_sk", "a FIDO (sk-) key"),
        ("id_ecdsa_sk", "a FIDO (sk-) key"),
    ] {
        if is_there(&directory.join(file)) {
            text += &format!("; ~/.ssh/{file} is {kind}, which TLS has no use for");
        }
    }
    Failure::new(Exit::Auth, text).hint(
        "make one with: ssh-keygen -t ed25519, or name one with -i FILE, or load it with: ssh-add",
    )
}

#[expect(clippy::disallowed_methods, reason = "the user's own keys")]
fn is_there(path: &Path) -> bool {
    path.exists()
}

/// One connection with one key; a server that is new may need a second to be asked about in between.
async fn attempt(
    address: (&str, u16),
    signer: &Signer,
    trust: &mut Trust,
    throttle: &Arc<Throttle>,
    early: Option<Early>,
) -> Result<Line, Failure> {
    loop {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| {
                Failure::new(Exit::Connect, "no answer")
                    .hint("is the address right, is the port open?")
            })?
            .map_err(|error| {
                let is_name = error.to_string().contains("lookup");
                let hint = if is_name { "is the name right?" } else { "is ftd running there?" };
                Failure::new(Exit::Connect, said(&error)).hint(hint)
            })?;
        let check = {
            let judge = trust.judge.clone();
            Arc::new(move |key: &PublicKey| judge.check(key))
        };
        let config = client_config(signer, check)
            .map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        let handshake = Connection::connect(Socket::tcp(stream)?, config);
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Err(_) => {
                return Err(Failure::new(
                    Exit::Connect,
                    "the server did not finish the TLS handshake in time",
                ));
            }
            Ok(Ok(connection)) => {
                let (reader, writer) = split(connection, STALL);
                let throttle = Arc::clone(throttle);
                if let Some(early) = early.filter(|_| trust.is_settled()) {
                    return Line::open_early(reader, writer, throttle, early);
                }
                let line = Line::open(reader, writer, throttle).await;
                if line.is_ok() {
                    trust.remember()?;
                }
                return line;
            }
            Ok(Err(error)) => {
                if let Some(error) = signer.last_error() {
                    return Err(Failure::new(Exit::Auth, error.to_string()).hint(
                        "look at the agent's keys with: ssh-add -l, or name a key file with -i",
                    ));
                }
                match trust.judge.seen() {
                    Some(key) if !trust.judge.trusts(&key) => trust.ask(&key).await?, // And once more.
                    _ => return Err(of_handshake(error)),
                }
            }
        }
    }
}

fn of_handshake(error: WireError) -> Failure {
    match error {
        WireError::Tls(rustls::Error::AlertReceived(alert)) => Failure::new(
            Exit::Protocol,
            format!("the server refused the TLS handshake ({alert:?})"),
        ),
        WireError::Tls(error) => Failure::new(Exit::Protocol, format!("TLS: {error}"))
            .hint("is this an ftd, and the right port?"),
        error => error.into(),
    }
}

/// What decides, in the middle of a handshake, whether the server's key is good.
#[derive(Clone, Default)]
struct Judge(Arc<Mutex<Judged>>);

#[derive(Default)]
struct Judged {
    good: Vec<PublicKey>,
    fingerprint: Option<String>,
    accept_new: bool,
    seen: Option<PublicKey>,
}

impl Judge {
    fn with<T>(&self, act: impl FnOnce(&mut Judged) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check(&self, key: &PublicKey) -> bool {
        self.with(|judged| judged.seen = Some(key.clone()));
        self.trusts(key)
    }

    fn trusts(&self, key: &PublicKey) -> bool {
        self.with(|judged| match &judged.fingerprint {
            Some(wanted) => *wanted == fingerprint(key),
            None if judged.good.is_empty() => judged.accept_new,
            None => judged.good.contains(key),
        })
    }

    fn seen(&self) -> Option<PublicKey> {
        self.with(|judged| judged.seen.clone())
    }
}

/// What is known about the server, and what the user allows.
struct Trust {
    judge: Judge,
    host: String,
    file: PathBuf,
    /// What of the command line has to be said again, before the verb.
    options: String,
    known: Vec<PublicKey>,
    unasked: bool,
    is_told: bool,
    was_asked: bool,
}

impl Trust {
    fn load(host: &str, settings: &Settings) -> Result<Self, Failure> {
        let known = KnownHosts::load(&settings.known_hosts)
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?
            .lookup(host);
        let judge = Judge::default();
        judge.with(|judged| {
            judged.good.clone_from(&known);
            judged.fingerprint.clone_from(&settings.global.fingerprint);
            judged.accept_new = settings.global.accept_new;
        });
        let (host, file) = (host.to_owned(), settings.known_hosts.clone());
        let is_told = !settings.global.quiet && !settings.global.json;
        let identity = settings.identity.as_ref().filter(|_| settings.global.has_identity_option());
        let options = identity.map(|path| format!("-i {} ", shell_word(path.as_os_str())));
        let options = options.unwrap_or_default();
        Ok(Self {
            judge,
            host,
            file,
            options,
            known,
            unasked: settings.unasked,
            is_told,
            was_asked: false,
        })
    }

    /// The server showed a key that is not good yet: asks, if there is somebody to ask.
    async fn ask(&mut self, key: &PublicKey) -> Result<(), Failure> {
        let (host, options, shown) = (&self.host, &self.options, fingerprint(key));
        if let Some(wanted) = self.judge.with(|judged| judged.fingerprint.clone()) {
            return Err(Failure::new(
                Exit::Auth,
                format!(
                    "the server's key is {shown}, not {wanted} as --fingerprint says: nothing was sent"
                ),
            )
            .hint("compare it with what ftd fingerprint prints there"));
        }
        if let Some(known) = self.known.first() {
            let known = fingerprint(known);
            return Err(Failure::new(
                Exit::Auth,
                format!(
                    "THE SERVER'S KEY HAS CHANGED: it is {shown}, and {known} is trusted; somebody may be in \
                     between; nothing was sent"
                ),
            )
            .hint(format!(
                "ask the administrator what ftd fingerprint prints there; if it is the new key, trust that instead \
                 with: ftc --fingerprint … {options}ls ftd://{host}/"
            )));
        }
        let nobody = || {
            Failure::new(
                Exit::Auth,
                format!("the server {host} is not known; its key is {shown}"),
            )
            .hint(format!(
                "if this is what ftd fingerprint prints there, trust it with: ftc --fingerprint {shown} {options}ls ftd://{host}/"
            ))
        };
        let is_there = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if self.unasked || !is_there {
            return Err(nobody());
        }
        let question = format!(
            "The server {host} is not known.\nIts key is {shown}.\nThe administrator sees it with: ftd fingerprint\n\
             Trust it from now on (yes/no)? "
        );
        self.was_asked = true;
        match ask(&question, Echo::Shown).await {
            Ok(answer) if matches!(answer.trim(), "yes" | "y") => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(nobody()),
            _ => {
                return Err(Failure::new(
                    Exit::Auth,
                    "the server is not trusted; nothing was sent",
                ));
            }
        }
        self.judge.with(|judged| judged.good.push(key.clone()));
        Ok(())
    }

    /// Whether the key that the server showed needs no remembering.
    fn is_settled(&self) -> bool {
        self.judge.seen().is_some_and(|key| self.known.contains(&key))
    }

    /// Remembers the key that was good. One that the user vouched for takes the place of those before it:
    /// whoever still has one of them is no longer the server.
    fn remember(&mut self) -> Result<(), Failure> {
        let Some(key) = self.judge.seen().filter(|key| !self.known.contains(key)) else {
            return Ok(());
        };
        let remember = if self.known.is_empty() { KnownHosts::append } else { KnownHosts::replace };
        remember(&self.file, &self.host, &key)
            .map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        for old in self.known.drain(..).filter(|_| self.is_told) {
            let (old, new) = (fingerprint(&old), fingerprint(&key));
            tell(format_args!(
                "ftc: {} is trusted by {new} from now on, no longer by {old}",
                self.host
            ));
        }
        self.known.push(key);
        Ok(())
    }
}

/// A key that may be tried, not yet unlocked.
struct Candidate {
    from: String,
    source: Source,
}

enum Source {
    Agent(PathBuf, PublicKey),
    File(PathBuf),
}

/// The keys to try: the one that is named, or those of the agent and then the usual files.
fn candidates(settings: &Settings) -> Vec<Candidate> {
    if let Some(path) = &settings.identity {
        return vec![Candidate {
            from: path.display().to_string(),
            source: Source::File(path.clone()),
        }];
    }
    let (mut found, mut trouble) = (Vec::new(), None);
    if let Some(socket) = agent_socket() {
        match agent_keys(&socket) {
            Ok(keys) => found.extend(keys.into_iter().map(|(key, comment)| Candidate {
                from: format!("agent: {}", crate::types::Escaped(comment.as_bytes())),
                source: Source::Agent(socket.clone(), key),
            })),
            Err(error) => trouble = Some(error),
        }
    }
    if let Some(home) = home() {
        for name in ["id_ed25519", "id_ecdsa"] {
            let path = home.join(".ssh").join(name);
            if is_there(&path) {
                let from = path.display().to_string();
                found.push(Candidate { from, source: Source::File(path) });
            }
        }
    }
    let is_told = !settings.unasked && (found.is_empty() || settings.global.verbose);
    if let Some(error) = trouble.filter(|_| is_told) {
        tell(format_args!("ftc: {error}"));
    }
    found
}

fn agent_socket() -> Option<PathBuf> {
    std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads a key file. One with a passphrase is first looked for in the agent; then the passphrase is
/// asked for.
async fn unlock(path: &Path, settings: &Settings) -> Result<Signer, Failure> {
    let fail = |error: KeyError| match error {
        error @ KeyError::File { .. } => {
            let failure = Failure::new(Exit::Auth, error.to_string());
            failure.hint(match &settings.identity_from {
                Some(from) => format!("{from} names it; -i FILE names another private key"),
                None => "-i FILE names another private key".to_owned(),
            })
        }
        error @ KeyError::Unsupported { .. } => Failure::new(Exit::Auth, error.to_string())
            .doing(path.display())
            .hint("TLS 1.3 has no use for RSA, DSA and FIDO (sk-) keys as ssh keeps them"),
        error => Failure::new(Exit::Auth, error.to_string()).doing(path.display()),
    };
    let pem = read_key_file(path).map_err(fail)?;
    match PrivateKey::parse_openssh(&pem, None) {
        Err(KeyError::Encrypted) => {}
        key => return key.map(Signer::from_private).map_err(fail),
    }
    if let Some(signer) = from_agent(path) {
        if settings.global.verbose {
            tell(format_args!("ftc: the agent has {}", path.display()));
        }
        return Ok(signer);
    }
    if settings.unasked {
        return Err(fail(KeyError::Encrypted));
    }
    for _ in 0..PASSPHRASES_MAX {
        let prompt = format!("Passphrase of {}: ", path.display());
        let passphrase = ask(&prompt, Echo::Hidden).await.map_err(|_| {
            let text = "the key has a passphrase, and nobody is there to be asked";
            Failure::new(Exit::Auth, text)
                .doing(path.display())
                .hint(format!("load it with: ssh-add {}", path.display()))
        })?;
        match PrivateKey::parse_openssh(&pem, Some(&passphrase)) {
            Err(KeyError::WrongPassphrase) => tell(format_args!("ftc: the passphrase is wrong")),
            key => return key.map(Signer::from_private).map_err(fail),
        }
    }
    Err(fail(KeyError::WrongPassphrase)
        .hint(format!("ssh-keygen -y -f {} tells whether you know it", path.display())))
}

fn from_agent(path: &Path) -> Option<Signer> {
    let socket = agent_socket()?;
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    let line = read_public(Path::new(&public))?;
    let (key, _) = parse_public_line(&line).ok()?;
    let has_it = agent_keys(&socket).ok()?.iter().any(|(known, _)| *known == key);
    has_it.then(|| Signer::from_agent(socket, key))
}

#[expect(clippy::disallowed_methods, reason = "the user's own key")]
fn read_public(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// When the server must have said hello.
pub(super) fn hello_deadline() -> Instant {
    Instant::now() + HANDSHAKE_TIMEOUT
}
