//! Sources that fail again and again are not listened to for a while, as sshd does it.
//!
//! *Source*: `sshd_config(5)`, `PerSourcePenalties`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::strangers::Source;

/// What a source did, by what it costs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Offence {
    /// A key that is not known, or none.
    UnknownKey,
    /// It did not prove who it is in time.
    Timeout,
    /// It holds more places for strangers than it has, and so lost the oldest.
    Crowd,
    /// What it sent is no TLS of ours.
    Garbage,
}

impl Offence {
    fn cost(self) -> Duration {
        match self {
            // Cheap: a client with an agent tries several keys.
            Self::UnknownKey => Duration::from_secs(2),
            // A hundred logins at once from behind one address are none of an attacker's thousands.
            Self::Crowd => Duration::from_millis(100),
            Self::Timeout | Self::Garbage => Duration::from_secs(10),
        }
    }
}

/// From so much on a source is kept out.
const ENFORCED_FROM: Duration = Duration::from_secs(15);
/// No source is kept out longer than this.
const LONGEST: Duration = Duration::from_mins(10);
/// Sources that are remembered; the oldest go first.
const SOURCES_MAX: usize = 65_536;

/// Who is to be kept out, and until when. Penalties decay by the passing of time.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    sources: HashMap<Source, Penalty>,
    /// In the order in which they came to be remembered.
    order: VecDeque<Source>,
}

#[derive(Debug)]
struct Penalty {
    until: Instant,
    enforced: bool,
}

impl Penalties {
    /// Notes an offence.
    pub(super) fn add(&mut self, source: Source, offence: Offence, now: Instant) {
        self.forget(now);
        if !self.sources.contains_key(&source) {
            if self.order.len() >= SOURCES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.sources.remove(&oldest);
            }
            self.order.push_back(source);
        }
        let penalty = self.sources.entry(source).or_insert(Penalty { until: now, enforced: false });
        if penalty.until <= now {
            *penalty = Penalty { until: now, enforced: false };
        }
        penalty.until = (penalty.until + offence.cost()).min(now + LONGEST);
        penalty.enforced |= penalty.until.duration_since(now) >= ENFORCED_FROM;
    }

    /// How long a source is still kept out, if it is.
    pub(super) fn of(&self, source: Source, now: Instant) -> Option<Duration> {
        let penalty = self.sources.get(&source).filter(|penalty| penalty.enforced)?;
        penalty.until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Drops the oldest whose time is over, a few at a time.
    fn forget(&mut self, now: Instant) {
        for _ in 0..2 {
            let Some(oldest) = self.order.front().copied() else { return };
            if self.sources.get(&oldest).is_some_and(|penalty| penalty.until > now) {
                return;
            }
            self.order.pop_front();
            self.sources.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(number: u32) -> Source {
        Source::of(IpAddr::from(number.to_be_bytes()))
    }

    /// one source is kept out, others are not, and time heals.
    #[test]
    fn failures_add_up_and_decay() {
        let (mut penalties, start) = (Penalties::default(), Instant::now());
        let seconds = Duration::from_secs;
        for _ in 0..7 {
            penalties.add(source(1), Offence::UnknownKey, start);
        }
        assert_eq!(penalties.of(source(1), start), None, "an agent full of keys is no attack");
        penalties.add(source(1), Offence::UnknownKey, start);
        assert_eq!(penalties.of(source(1), start), Some(seconds(16)));
        assert_eq!(penalties.of(source(2), start), None);
        assert_eq!(penalties.of(source(1), start + seconds(15)), Some(seconds(1)), "to its end");
        assert_eq!(penalties.of(source(1), start + seconds(16)), None);
        penalties.add(source(1), Offence::Garbage, start + seconds(17));
        assert_eq!(penalties.of(source(1), start + seconds(17)), None, "a new beginning");
        for _ in 0..1000 {
            penalties.add(source(1), Offence::Timeout, start + seconds(18));
        }
        assert_eq!(penalties.of(source(1), start + seconds(18)), Some(LONGEST));
    }

    #[test]
    fn no_flood_of_sources_grows_the_table() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        for number in 0..=u32::try_from(SOURCES_MAX).unwrap_or(u32::MAX) {
            penalties.add(source(number), Offence::Garbage, now);
            penalties.add(source(number), Offence::Garbage, now);
        }
        assert_eq!((penalties.sources.len(), penalties.order.len()), (SOURCES_MAX, SOURCES_MAX));
        assert!(penalties.of(source(0), now).is_none() && penalties.of(source(1), now).is_some());
        penalties.add(source(7), Offence::Garbage, now + LONGEST);
        penalties.add(source(8), Offence::Garbage, now + LONGEST);
        assert!(penalties.order.len() < SOURCES_MAX, "what is over is forgotten");
        assert_eq!(penalties.sources.len(), penalties.order.len());
    }
}
