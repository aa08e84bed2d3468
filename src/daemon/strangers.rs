//! Places for peers that have not yet proved who they are. The newcomer always gets one: when there is
//! none left, whoever holds the most has to give one back, so that a flood displaces itself.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Where a peer comes from, as limits count it: an IPv4 address, or an IPv6 network of 64 bits, which one
/// customer has to himself.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                Self(Ipv6Addr::from(network).into())
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
}

/// All places, and who has them.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Numbers go up, so that the smaller one is the older.
    next: u64,
    slots: HashMap<u64, (Source, oneshot::Sender<()>)>,
    by_source: HashMap<Source, BTreeSet<u64>>,
}

/// A place; giving it back is dropping it.
#[derive(Debug)]
pub(super) struct Slot {
    number: u64,
    evicted: oneshot::Receiver<()>,
    strangers: Arc<Strangers>,
}

impl Strangers {
    /// Gives a place to a newcomer, at most `most` in all and `most_of_source` from one source; who has
    /// to go for it learns it by [`Slot::evicted`]. Also tells whether its own source was crowded.
    pub(super) fn enter(
        self: &Arc<Self>,
        source: Source,
        most: usize,
        most_of_source: usize,
    ) -> (Slot, bool) {
        let mut table = self.table();
        let own = table.by_source.get(&source).map_or(0, BTreeSet::len);
        let is_crowded = own >= most_of_source;
        if is_crowded {
            table.evict_oldest_of(source);
        } else if table.slots.len() >= most
            && let Some(greediest) = table.greediest()
        {
            table.evict_oldest_of(greediest);
        }
        let number = table.next;
        table.next += 1;
        let (sender, evicted) = oneshot::channel();
        table.slots.insert(number, (source, sender));
        table.by_source.entry(source).or_default().insert(number);
        (Slot { number, evicted, strangers: Arc::clone(self) }, is_crowded)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The source with the most places, and of several such the one with the oldest.
    fn greediest(&self) -> Option<Source> {
        let rank =
            |numbers: &BTreeSet<u64>| (numbers.len(), std::cmp::Reverse(numbers.first().copied()));
        let found = self.by_source.iter().max_by_key(|(_, numbers)| rank(numbers));
        found.map(|(source, _)| *source)
    }

    fn evict_oldest_of(&mut self, source: Source) {
        let oldest = self.by_source.get(&source).and_then(|numbers| numbers.first().copied());
        if let Some(number) = oldest {
            self.remove(number); // With the sender gone the receiver knows.
        }
    }

    fn remove(&mut self, number: u64) {
        let Some((source, _)) = self.slots.remove(&number) else { return };
        if let Some(numbers) = self.by_source.get_mut(&source) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }
}

impl Slot {
    /// Resolves when somebody else needs the place.
    pub(super) async fn evicted(&mut self) {
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.strangers.table().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    fn is_evicted(slot: &mut Slot) -> bool {
        slot.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() -> Result<(), std::net::AddrParseError> {
        let of = |text: &str| text.parse().map(Source::of);
        assert_eq!(of("::ffff:192.0.2.1")?, source(1));
        assert_eq!(of("2001:db8::1")?, of("2001:db8::ffff:1:2:3")?);
        assert_ne!(of("2001:db8::1")?, of("2001:db8:0:1::1")?);
        Ok(())
    }

    /// B4: whatever one source does, another one's newcomer gets and keeps a place.
    #[test]
    fn a_flood_displaces_itself() {
        let strangers = Arc::new(Strangers::default());
        let mut quiet = strangers.enter(source(1), 8, 4).0;
        let mut flood: Vec<Slot> = (0..100).map(|_| strangers.enter(source(2), 8, 4).0).collect();
        assert_eq!(flood.iter_mut().map(is_evicted).filter(|gone| !*gone).count(), 4);
        assert!(flood.iter_mut().rev().take(4).all(|slot| !is_evicted(slot)), "the oldest went");
        assert!(!is_evicted(&mut quiet));
        // Full, and from many sources: the greediest gives, and of equals the one with the oldest.
        let mut others: Vec<Slot> =
            (3..8).map(|last| strangers.enter(source(last), 8, 4).0).collect();
        assert!(!is_evicted(&mut quiet) && others.iter_mut().all(|slot| !is_evicted(slot)));
        assert_eq!(flood.iter_mut().map(is_evicted).filter(|gone| !*gone).count(), 2);
        let _more: Vec<Slot> = (8..11).map(|last| strangers.enter(source(last), 8, 4).0).collect();
        assert!(is_evicted(&mut quiet), "all have one, so that the oldest goes");
        assert_eq!(strangers.table().slots.len(), 8);
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let strangers = Arc::new(Strangers::default());
        let mut first = strangers.enter(source(1), 2, 2).0;
        for _ in 0..100 {
            drop(strangers.enter(source(2), 2, 2));
        }
        assert!(!is_evicted(&mut first));
        drop(first);
        let table = strangers.table();
        assert!(table.slots.is_empty() && table.by_source.is_empty());
    }
}
