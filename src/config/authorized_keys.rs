//! Key files in the form of OpenSSH's `authorized_keys`, of which only what restricts is understood.
//!
//! *Source*: sshd(8), "`AUTHORIZED_KEYS` FILE FORMAT". An option that is not understood may be a
//! restriction, so that a line with one is refused.

use super::admission::{Admission, expiry_time, network};

/// One key: the line from the algorithm on, and what its options say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line<'t> {
    pub key: &'t str,
    pub admission: Admission,
}

/// Reads one line; `None` is a comment or an empty line.
///
/// # Errors
/// A sentence that says what is not understood.
pub(super) fn read_line(line: &str) -> Result<Option<Line<'_>>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut admission = Admission::default();
    if starts_with_algorithm(line) {
        return Ok(Some(Line { key: line, admission }));
    }
    let (options, key) = split_options(line)?;
    let mut met: Vec<String> = Vec::new();
    for option in options {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), Some(unquote(value)?)),
            None => (option.to_ascii_lowercase(), None),
        };
        match (name.as_str(), value) {
            ("from" | "expiry-time", _) if met.contains(&name) => {
                return Err(format!("the option {name} stands there twice"));
            }
            ("from", Some(value)) => {
                let nets = value.split(',').map(|part| {
                    network(part).ok_or_else(|| {
                        format!(
                            "from: {part:?} is no address and no network such as 10.0.0.0/8; names, \
                             wildcards and exceptions are not understood"
                        )
                    })
                });
                admission.from = nets.collect::<Result<_, _>>()?;
            }
            ("expiry-time", Some(value)) => {
                let end = expiry_time(&value).ok_or_else(|| {
                    format!("expiry-time: {value:?} is no time of the form YYYYMMDD[HHMM[SS]][Z]")
                })?;
                admission.expires = Some(end);
            }
            _ => {
                return Err(format!(
                    "the option {name:?} is not understood, and might restrict; from=\"…\" and \
                     expiry-time=\"…\" are"
                ));
            }
        }
        met.push(name);
    }
    Ok(Some(Line { key, admission }))
}

fn starts_with_algorithm(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start))
        && !word.contains(['=', ',', '"'])
}

/// Splits the options, which end at the first space outside quotes, from the key.
fn split_options(line: &str) -> Result<(Vec<&str>, &str), String> {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    let mut options = Vec::new();
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ',' if !quoted => {
                options.push(&line[start..at]);
                start = at + 1;
            }
            ' ' | '\t' if !quoted => {
                options.push(&line[start..at]);
                return Ok((options, line[at..].trim_start()));
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    Err(if quoted { "a quote is not closed" } else { "there is no key in the line" }.to_owned())
}

fn unquote(value: &str) -> Result<String, String> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains(['"', '\\']) => Ok(inner.to_owned()),
        _ => {
            Err("the value of an option stands in double quotes, without others inside".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAA alice@laptop";

    fn read(options: &str) -> Result<Option<Admission>, String> {
        read_line(&format!("{options}{KEY}")).map(|line| {
            line.map(|line| {
                assert_eq!(line.key, KEY);
                line.admission
            })
        })
    }

    #[test]
    fn what_restricts_is_understood_and_nothing_else_passes() {
        let open = Admission::default();
        let nets = |texts: &[&str]| texts.iter().filter_map(|text| network(text)).collect();
        for (options, expected) in [
            ("", open.clone()),
            ("from=\"10.0.0.0/8\" ", Admission { from: nets(&["10.0.0.0/8"]), ..open.clone() }),
            (
                "FROM=\"10.0.0.0/8,::1\",expiry-time=\"20270131Z\"\t ",
                Admission {
                    from: nets(&["10.0.0.0/8", "::1"]),
                    expires: expiry_time("20270131"),
                    ..open.clone()
                },
            ),
        ] {
            assert_eq!(read(options), Ok(Some(expected)), "{options}");
        }
        for (options, part) in [
            ("no-pty ", "\"no-pty\" is not understood"),
            ("command=\"a b, c\",from=\"::1\" ", "\"command\" is not understood"),
            ("cert-authority,from=\"::1\" ", "\"cert-authority\""),
            ("from ", "\"from\" is not understood"),
            ("from=10.0.0.1 ", "double quotes"),
            ("from=\"*.example.org\" ", "is no address"),
            ("from=\"!10.0.0.1,10.0.0.0/8\" ", "is no address"),
            ("from=\"\" ", "is no address"),
            ("from=\"::1\",from=\"::2\" ", "twice"),
            ("expiry-time=\"soon\" ", "is no time"),
            ("from=\"::1 ", "quote is not closed"),
            (", ", "\"\" is not understood"),
        ] {
            assert!(
                read(options).is_err_and(|told| told.contains(part)),
                "{options}: {:?}",
                read(options)
            );
        }
        for nothing in ["", "  ", "# ssh-ed25519 AAAA", "\r"] {
            assert_eq!(read_line(nothing), Ok(None), "{nothing:?}");
        }
        assert!(read_line("from=\"::1\"").is_err_and(|told| told.contains("no key")));
    }
}
