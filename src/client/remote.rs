//! Names on a server: patterns that stand for many, directories that are read whole.

use super::engine::{Listing, wire};
use super::exit::{Exit, Failure};
use super::held::Held;
use super::job::Job;
use super::operand::{Remote, Server};
use crate::proto::{Answer, Entry, EntryType, Request, StatInfo};
use crate::types::{ErrorCode, Escaped, RelPath};

/// A name on a server, and what it is as far as that is known.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its path; `None` is the home.
    pub path: Option<RelPath>,
    /// What it is.
    pub kind: Option<EntryType>,
    /// Whether the operand means what is in it rather than itself.
    pub contents: bool,
}

impl Named {
    /// The path, of what is not the home.
    ///
    /// # Errors
    /// It is the home.
    pub fn some(&self, verb: &str) -> Result<&RelPath, Failure> {
        self.path.as_ref().ok_or_else(|| {
            Failure::new(Exit::Usage, format!("your home is no file to {verb}"))
                .hint("name something in it; see: ftc ls")
        })
    }
}

/// What an operand stands for: the one name that it is, or the names that match its pattern. A name that
/// is there is never taken for a pattern, so that a file called `a[1]` can be reached.
///
/// # Errors
/// The path breaks a rule; the server's word about a directory on the way.
pub async fn expand(job: &Job, server: &Server, remote: &Remote) -> Result<Vec<Named>, Failure> {
    let plain = remote.rel_path()?;
    let contents = remote.path.ends_with(b"/") || plain.is_none();
    let literal = Named { path: plain.clone(), kind: None, contents };
    let Some(pattern) = plain.filter(|path| is_pattern(path.raw_bytes())) else {
        return Ok(vec![literal]);
    };
    if let Ok(info) = stat(job, server, Some(&pattern)).await {
        return Ok(vec![Named { kind: Some(info.kind), ..literal }]);
    }
    let mut found: Vec<(Option<RelPath>, Option<EntryType>)> = vec![(None, None)];
    for part in pattern.components() {
        let part = part.raw_bytes();
        let (mut next, mut held) = (Vec::new(), Held::default());
        for (directory, _) in found {
            if !is_pattern(part) {
                next.push((Some(child(directory.as_ref(), part)?), None));
                continue;
            }
            let wanted = |entry: &Entry| matches(part, &entry.name.0);
            let entries = match list_where(job, server, directory.as_ref(), wanted).await {
                // Something on the way is no directory, or is not there: no match.
                Err(failure)
                    if matches!(failure.code, Some(ErrorCode::WrongType | ErrorCode::NotFound)) =>
                {
                    continue;
                }
                entries => entries?,
            };
            for entry in entries {
                let path = child(directory.as_ref(), &entry.name.0)?;
                held.keep(path.raw_bytes())?;
                next.push((Some(path), Some(entry.kind)));
            }
        }
        found = next;
    }
    // A last part without a pattern was not looked for.
    let mut names = Vec::new();
    for (path, kind) in found {
        if kind.is_none() && stat(job, server, path.as_ref()).await.is_err() {
            continue;
        }
        names.push(Named { path, kind, contents });
    }
    names.sort_by(|one, other| {
        let raw = |named: &Named| named.path.as_ref().map(|path| path.raw_bytes().to_vec());
        raw(one).cmp(&raw(other))
    });
    Ok(if names.is_empty() { vec![literal] } else { names })
}

/// A name in a directory, as the server spelled it: one plain component, or refused.
///
/// # Errors
/// It could lead elsewhere.
pub fn child(directory: Option<&RelPath>, name: &[u8]) -> Result<RelPath, Failure> {
    let refuse = |why: String| {
        let mut failure = Failure::new(
            Exit::Usage,
            format!("the server lists a name that cannot be one, {}: {why}", Escaped(name)),
        );
        failure.code = Some(ErrorCode::BadName);
        failure
    };
    let plain = RelPath::parse(name).map_err(|error| refuse(error.to_string()))?;
    if plain.components().count() != 1 {
        return Err(refuse("it has a '/' in it".to_owned()));
    }
    let whole = plain.below(directory);
    RelPath::parse(whole.raw_bytes()).map_err(|error| refuse(error.to_string()))
}

/// Everything in a directory, again from the start if the connection is lost.
///
/// # Errors
/// The server's word, or the connection's end; or it is more than can be held.
pub async fn list(
    job: &Job,
    server: &Server,
    path: Option<&RelPath>,
) -> Result<Vec<Entry>, Failure> {
    list_where(job, server, path, |_| true).await
}

async fn list_where(
    job: &Job,
    server: &Server,
    path: Option<&RelPath>,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Vec<Entry>, Failure> {
    let mut patience = job.patience();
    loop {
        let outcome = list_once(job, server, path, &wanted).await;
        if !job.again(server, 0, &mut patience, &outcome).await {
            return outcome;
        }
    }
}

async fn list_once(
    job: &Job,
    server: &Server,
    path: Option<&RelPath>,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Vec<Entry>, Failure> {
    let mut listing: Listing = job.line(server, 0).await?.list(path).await?;
    let (mut all, mut held) = (Vec::new(), Held::default());
    while let Some(entries) = listing.next().await? {
        for entry in entries.into_iter().filter(&wanted) {
            held.keep(&entry.name.0)?;
            all.push(entry);
        }
    }
    Ok(all)
}

/// Describes a name; `None` is the home.
///
/// # Errors
/// The server's word, or the connection's end.
pub async fn stat(job: &Job, server: &Server, path: Option<&RelPath>) -> Result<StatInfo, Failure> {
    match job.ask(server, &Request::Stat { path: path.map(wire) }).await? {
        Answer::Stat(info) => Ok(info),
        _ => Err(Failure::new(Exit::Protocol, "the server's answer is not to what was asked")),
    }
}

fn is_pattern(part: &[u8]) -> bool {
    part.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// Whether `name` matches a shell pattern of one component: `*`, `?`, `[a-z]`, `[!a-z]`. A dot at the
/// start is matched by a dot only.
///
/// *Source*: glob(7).
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // Where to go on when the last `*` has to take one byte more.
    let (mut at, mut pos, mut back) = (0, 0, None::<(usize, usize)>);
    while pos < name.len() {
        let step = match pattern.get(at) {
            Some(b'*') => {
                back = Some((at, pos));
                at += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[at..], name[pos]),
            Some(byte) if *byte == name[pos] => Some(1),
            _ => None,
        };
        match (step, back) {
            (Some(length), _) => (at, pos) = (at + length, pos + 1),
            (None, Some((star, from))) => {
                back = Some((star, from + 1));
                (at, pos) = (star + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Whether a byte is in the class that a pattern starts with; gives the class's length if it is. A `[`
/// without its end stands for itself.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let is_negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if is_negated { 2 } else { 1 };
    let end = (start + 1..pattern.len()).find(|at| pattern[*at] == b']');
    let Some(end) = end else { return (byte == b'[').then_some(1) };
    let (mut at, mut is_in) = (start, false);
    while at < end {
        if at + 2 < end && pattern[at + 1] == b'-' {
            is_in |= (pattern[at]..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            is_in |= pattern[at] == byte;
            at += 1;
        }
    }
    (is_in != is_negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*", ".a", false),
            (".*", ".a", true),
            ("*.pdf", "a.pdf", true),
            ("*.pdf", ".pdf", false),
            ("*.pdf", "a.pdfx", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("?", "ab", false),
            ("a?", "ab", true),
            ("[ab]x", "bx", true),
            ("[!ab]x", "bx", false),
            ("[a-c]", "b", true),
            ("[]]", "]", true),
            ("[", "[", true),
            ("a[", "a[", true),
            ("**", "anything", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        // No pattern takes time beyond length times length.
        let long = vec![b'a'; 255];
        assert!(!matches(b"*a*a*a*a*a*a*a*a*a*a*a*a*a*b", &long));
    }

    #[test]
    fn a_listed_name_is_one_plain_component_or_refused() {
        for (name, ok) in [
            (&b"plain"[..], true),
            (b"\xff", true),
            (b"..", false),
            (b".", false),
            (b"", false),
            (b"../x", false),
            (b"/etc/x", false),
            (b"a/b", false),
            (b"a\0b", false),
            (b".ftd-x", false),
            (&[b'x'; 256], false),
        ] {
            assert_eq!(child(None, name).is_ok(), ok, "{}", Escaped(name));
        }
    }
}
