//! How many packets were denied, as the kernel counted them in the chains of denials. Pure.
//!
//! The first rule of such a chain counts all packets; the log is limited. Counters start from zero
//! when the chain is deleted with its last ruleset, or is written again for another deny action.
//! They are read before that. They also start again when a user resets them (`iptables -Z`): then
//! they decrease.

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

/// The values of the kernel's counters, by family.
pub(in crate::dataplane) type Reading = BTreeMap<(Family, Denial), Counts>;

/// Counts that continue where the kernel's counters start again.
#[derive(Default, Debug)]
pub(in crate::dataplane) struct Totals {
    before: Reading,
    sum: BTreeMap<Denial, Counts>,
}

impl Totals {
    /// Adds the increase of `now` since the last reading. Returns the sums of both families.
    pub(in crate::dataplane) fn add(&mut self, now: Reading) -> BTreeMap<Denial, Counts> {
        for (key, counts) in &now {
            let before = self.before.get(key).copied().unwrap_or_default();
            let was_reset = counts.packets < before.packets || counts.bytes < before.bytes;
            let before = if was_reset { Counts::default() } else { before };
            let sum = self.sum.entry(key.1).or_default();
            sum.packets += counts.packets.saturating_sub(before.packets);
            sum.bytes += counts.bytes.saturating_sub(before.bytes);
        }
        self.before = now;
        self.sum.clone()
    }

    /// Records that these chains were written again or deleted: their counters start from zero.
    pub(in crate::dataplane) fn reset(&mut self, chains: &BTreeSet<(Family, Denial)>) {
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
    fn totals_continue_where_counters_start_again() {
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
        // The counter of IPv4 starts again, that of IPv6 continues.
        assert_eq!(read(Some(2), Some(3)), Some((12, 120)));
        assert_eq!(read(None, Some(3)), Some((12, 120)), "a chain that was deleted");
        assert_eq!(read(Some(1), Some(3)), Some((13, 130)), "and came back");
    }

    #[test]
    fn a_chain_that_was_written_again_counts_from_zero_however_much_it_counted_since() {
        let mut totals = Totals::default();
        let chain = (Family::V4, DENIED);
        let add = |totals: &mut Totals, packets, bytes| {
            totals.add(BTreeMap::from([(chain, counts(packets, bytes))]))[&DENIED]
        };
        add(&mut totals, 5, 50);
        totals.reset(&BTreeSet::from([chain]));
        assert_eq!(add(&mut totals, 7, 70), counts(12, 120));
        assert_eq!(add(&mut totals, 7, 60), counts(19, 180), "a user reset it");
    }
}
