//! How many packets were denied, as the kernel counted them in the chains of denials. Pure.
//!
//! The first rule of such a chain sees all packets; the log is limited. Counters begin anew with
//! the chain: when its last ruleset went, or when the deny action is another. What it counted is read
//! before that. They also do when somebody resets them (`iptables -Z`), which shows when they say less.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;

use super::Denial;
use crate::dataplane::applied::ParseError;

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

/// Reads the counters of all kinds from what `iptables-save -c -t filter` printed.
///
/// # Errors
/// When the dump is cut off.
pub(in crate::dataplane) fn parse_save(dump: &str) -> Result<BTreeMap<Denial, Counts>, ParseError> {
    if !dump.lines().any(|line| line == "COMMIT") {
        return Err(ParseError::TableCutOff { lines: dump.lines().count() });
    }
    let kinds: BTreeMap<String, Denial> = Denial::all().map(|kind| (kind.chain(), kind)).collect();
    let mut counts = BTreeMap::new();
    for line in dump.lines() {
        let rule = line.strip_prefix('[').and_then(|rest| rest.split_once("] -A "));
        let Some((counters, rule)) = rule else { continue };
        let chain = rule.split(' ').next().unwrap_or_default();
        let Some(kind) = kinds.get(chain) else { continue };
        let counters = counters.split_once(':').and_then(|(packets, bytes)| read(packets, bytes));
        let counters = counters.ok_or_else(|| unknown("iptables-save", line))?;
        // Only the first rule sees all packets.
        counts.entry(*kind).or_insert(counters);
    }
    Ok(counts)
}

/// Reads the counters of the one rule that `iptables -nvxL CHAIN 1` printed.
///
/// # Errors
/// When there is no such rule.
pub(in crate::dataplane) fn parse_list(rule: &str) -> Result<Counts, ParseError> {
    let mut words = rule.split_whitespace();
    let counters = words.next().zip(words.next()).and_then(|(packets, bytes)| read(packets, bytes));
    counters.ok_or_else(|| unknown("iptables", rule))
}

fn read(packets: &str, bytes: &str) -> Option<Counts> {
    Some(Counts { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
}

fn unknown(tool: &'static str, line: &str) -> ParseError {
    ParseError::Line { tool, line: line.to_owned() }
}

#[cfg(test)]
mod tests {
    use policy_engine::direction::Direction;
    use policy_engine::tier::Tier;

    use super::*;
    use crate::dataplane::denial::Outcome;

    const DENIED: Denial = Denial {
        outcome: Outcome::Denied,
        direction: Direction::Ingress,
        tier: Tier::NetworkPolicy,
    };

    fn counts(packets: u64, bytes: u64) -> Counts {
        Counts { packets, bytes }
    }

    #[test]
    fn the_first_rule_counts_all() {
        let dump = "*filter\n:PORTCULLIS-DENY-IN-POLICY - [0:0]\n\
            [9:540] -A PORTCULLIS-DENY-IN-POLICY -m comment --comment \"denied\"\n\
            [2:120] -A PORTCULLIS-DENY-IN-POLICY -j NFLOG --nflog-prefix \"portcullis 1\"\n\
            [9:540] -A PORTCULLIS-DENY-IN-POLICY -j DROP\n[1:60] -A OTHER -j DROP\nCOMMIT\n";
        assert_eq!(parse_save(dump).unwrap(), BTreeMap::from([(DENIED, counts(9, 540))]));
        assert!(parse_save(&dump.replace("COMMIT\n", "")).is_err());
        let rule =
            "       9      540            0    --  *      *       ::/0    ::/0    /* denied */\n";
        assert_eq!(parse_list(rule).unwrap(), counts(9, 540));
        assert!(parse_list("").is_err());
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
