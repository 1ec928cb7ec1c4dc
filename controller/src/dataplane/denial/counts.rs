//! How many packets were denied, as the kernel counted them in the chains of denials. Pure.
//!
//! The first rule of such a chain sees all packets; the log is limited. Counters begin anew with
//! the chain: when its last ruleset went, or when the deny action is another. What it counted is read
//! before that. They also do when somebody resets them (`iptables -Z`), which shows when they say less.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;

use super::kind::Denial;

/// Packets and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// How many packets.
    pub packets: u64,
    /// How many bytes they had, headers of IP included.
    pub bytes: u64,
}

/// What the kernel's counters say now, by family.
pub(in crate::dataplane) type Reading = BTreeMap<(Family, Denial), Counts>;

/// Counts that go on where the kernel's begin anew.
#[derive(Default, Debug)]
pub(in crate::dataplane) struct Totals {
    before: Reading,
    sum: BTreeMap<Denial, Counts>,
}

impl Totals {
    /// Adds what `now` says beyond the last reading; gives the sums of both families.
    pub(in crate::dataplane) fn add(&mut self, now: Reading) -> BTreeMap<Denial, Counts> {
        for (key, counts) in &now {
            let before = self.before.get(key).copied().unwrap_or_default();
            let anew = counts.packets < before.packets || counts.bytes < before.bytes;
            let before = if anew { Counts::default() } else { before };
            let sum = self.sum.entry(key.1).or_default();
            sum.packets += counts.packets.saturating_sub(before.packets);
            sum.bytes += counts.bytes.saturating_sub(before.bytes);
        }
        self.before = now;
        self.sum.clone()
    }

    /// These chains were written anew, or went: whatever they count from now on is more.
    pub(in crate::dataplane) fn begin_anew(&mut self, chains: &BTreeSet<(Family, Denial)>) {
        self.before.retain(|chain, _| !chains.contains(chain));
    }
}

#[cfg(test)]
mod tests {
    use policy_engine::direction::Direction;
    use policy_engine::tier::Tier;

    use super::*;
    use crate::dataplane::denial::{Cause, Outcome};

    const DENIED: Denial = Denial {
        outcome: Outcome::Denied,
        direction: Direction::Ingress,
        cause: Cause::Policies(Tier::NetworkPolicy),
    };

    fn counts(packets: u64, bytes: u64) -> Counts {
        Counts { packets, bytes }
    }

    #[test]
    fn totals_go_on_where_counters_begin_anew() {
        let mut totals = Totals::default();
        let mut read = |v4, v6| {
            let reading = [(Family::V4, v4), (Family::V6, v6)].map(|(family, packets)| {
                let packets: Option<u64> = packets;
                packets.map(|packets| ((family, DENIED), counts(packets, packets * 10)))
            });
            let totals = totals.add(reading.into_iter().flatten().collect());
            totals.get(&DENIED).map(|counts| (counts.packets, counts.bytes))
        };
        assert_eq!(read(Some(5), None), Some((5, 50)));
        assert_eq!(read(Some(7), Some(1)), Some((8, 80)));
        // One family anew, the other goes on.
        assert_eq!(read(Some(2), Some(3)), Some((12, 120)));
        assert_eq!(read(None, Some(3)), Some((12, 120)), "a chain that went");
        assert_eq!(read(Some(1), Some(3)), Some((13, 130)), "and came back");
    }

    #[test]
    fn a_chain_that_was_made_anew_counts_from_nought_however_much_it_counted_since() {
        let mut totals = Totals::default();
        let chain = (Family::V4, DENIED);
        let add = |totals: &mut Totals, packets, bytes| {
            totals.add(BTreeMap::from([(chain, counts(packets, bytes))]))[&DENIED]
        };
        add(&mut totals, 5, 50);
        totals.begin_anew(&BTreeSet::from([chain]));
        assert_eq!(add(&mut totals, 7, 70), counts(12, 120));
        assert_eq!(add(&mut totals, 7, 60), counts(19, 180), "somebody reset it");
    }
}
