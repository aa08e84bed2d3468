//! From where, until when, and whether at all a user or a key may come in.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::value::{Datetime, Offset};

/// The conditions of one user or of one key; by default there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// The networks of which one must hold the peer's address. A Unix socket has no address.
    pub from: Vec<IpNet>,
    /// The first moment at which it is over; `None` is never. Whole seconds.
    pub expires: Option<SystemTime>,
    /// Whether it counts at all.
    pub enabled: bool,
}

impl Default for Admission {
    fn default() -> Self {
        let from = vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        Self { from, expires: None, enabled: true }
    }
}

/// Why somebody who is listed may not come in; for the log alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Barred {
    /// `enabled = false`.
    Disabled,
    /// `expires` has passed.
    Expired,
    /// No network of `from` holds the peer's address.
    Source,
}

impl fmt::Display for Barred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "it is not enabled",
            Self::Expired => "it has expired",
            Self::Source => "it may not come from this address",
        })
    }
}

impl Admission {
    /// Whether a peer at `source`, which a Unix socket has not, may come in at `now`.
    ///
    /// # Errors
    /// The condition that does not hold.
    pub fn judge(&self, source: Option<IpAddr>, now: SystemTime) -> Result<(), Barred> {
        if !self.enabled {
            return Err(Barred::Disabled);
        }
        if self.expires.is_some_and(|end| now >= end) {
            return Err(Barred::Expired);
        }
        match source.map(|address| address.to_canonical()) {
            Some(address) if !self.from.iter().any(|net| net.contains(&address)) => {
                Err(Barred::Source)
            }
            _ => Ok(()),
        }
    }
}

/// Reads one network, or one address, which is a network of its own.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    // Bits beyond the prefix are a slip: 10.0.0.5/8 means either 10.0.0.5 or 10.0.0.0/8.
    (net == net.trunc()).then_some(net)
}

/// The moment that a date (its midnight, UTC) or an RFC 3339 time means, in whole seconds.
pub(super) fn moment(text: &str) -> Option<SystemTime> {
    let read: Datetime = text.parse().ok()?;
    let date = read.date?;
    let time =
        read.time.map_or((0, 0, 0), |time| (time.hour, time.minute, time.second.unwrap_or(0)));
    let (hour, minute, second) = time;
    let plain = format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        date.year, date.month, date.day
    );
    let moment = humantime::parse_rfc3339(&plain).ok()?;
    let minutes = match read.offset {
        Some(Offset::Custom { minutes }) => i64::from(minutes),
        Some(Offset::Z) | None => 0,
    };
    let shift = Duration::from_secs(minutes.unsigned_abs() * 60);
    let moment = if minutes > 0 { moment.checked_sub(shift) } else { moment.checked_add(shift) };
    moment.filter(|moment| *moment >= UNIX_EPOCH)
}

/// What OpenSSH's `expiry-time` means: `YYYYMMDD[HHMM[SS]][Z]`, taken as UTC also without the `Z`.
///
/// *Source*: sshd(8), "`AUTHORIZED_KEYS` FILE FORMAT".
pub(super) fn expiry_time(text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize| digits.get(from..from + 2).unwrap_or("00");
    let (year, month, day) = (&digits[..4], part(4), part(6));
    moment(&format!("{year}-{month}-{day}T{}:{}:{}Z", part(8), part(10), part(12)))
}

/// A moment as [`moment`] reads it.
pub(super) fn show_moment(moment: SystemTime) -> String {
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        moment(text)?.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    #[test]
    fn dates_and_times_mean_one_moment() {
        for (text, expected) in [
            ("1970-01-02", Some(86_400)),
            ("2027-01-31", Some(1_801_353_600)),
            ("2027-01-31T12:00:00Z", Some(1_801_396_800)),
            ("2027-01-31T13:00:00+01:00", Some(1_801_396_800)),
            ("2027-01-31 07:30:00.5-04:30", Some(1_801_396_800)),
            ("2027-01-31T12:00:00", Some(1_801_396_800)),
            ("2027-02-30", None),
            ("2027-13-01", None),
            ("12:00:00", None),
            ("1969-12-31", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        for (text, expected) in [
            ("20270131", Some("2027-01-31T00:00:00Z")),
            ("20270131Z", Some("2027-01-31T00:00:00Z")),
            ("202701311230", Some("2027-01-31T12:30:00Z")),
            ("20270131123045Z", Some("2027-01-31T12:30:45Z")),
            ("2027013112", None),
            ("20270230", None),
            ("2027-01-31", None),
            ("2027é131", None),
        ] {
            assert_eq!(expiry_time(text).map(show_moment).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_network_is_written_without_bits_that_mean_nothing() {
        for (text, ok) in [
            ("10.0.0.0/8", true),
            ("10.0.0.5", true),
            ("2001:db8::/32", true),
            ("::1", true),
            ("10.0.0.5/8", false),
            ("10.0.0.0/33", false),
            ("example.org", false),
            ("10.*", false),
            ("!10.0.0.1", false),
        ] {
            assert_eq!(network(text).is_some(), ok, "{text}");
        }
    }

    ///
    #[test]
    fn each_condition_bars_and_the_last_moment_still_counts() {
        let end = UNIX_EPOCH + Duration::from_secs(1000);
        let now = end - Duration::from_secs(1);
        let address = |text: &str| text.parse::<IpAddr>().ok();
        let open = Admission::default();
        let local = Admission { from: network("10.0.0.0/8").into_iter().collect(), ..open.clone() };
        let ends = Admission { expires: Some(end), ..open.clone() };
        for (admission, source, now, expected) in [
            (&open, address("192.0.2.1"), now, Ok(())),
            (&open, address("2001:db8::1"), now, Ok(())),
            (&open, None, now, Ok(())),
            (&local, address("10.1.2.3"), now, Ok(())),
            (&local, address("::ffff:10.1.2.3"), now, Ok(())), // A socket that listens on [::].
            (&local, address("11.0.0.1"), now, Err(Barred::Source)),
            (&local, address("::1"), now, Err(Barred::Source)),
            (&local, None, now, Ok(())),
            (&ends, None, now, Ok(())),
            (&ends, None, end, Err(Barred::Expired)),
            (&Admission { enabled: false, ..open.clone() }, None, now, Err(Barred::Disabled)),
        ] {
            assert_eq!(admission.judge(source, now), expected, "{admission:?} {source:?}");
        }
    }
}
