//! What the kernel holds of ours, parsed from `iptables-save` and `ipset save`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;

use super::desired::{Chains, Hook};
use super::name;
use super::rule::normalise;
use super::set::{Element, Kind};

/// What a tool printed is not what it prints when it succeeds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// The dump of the table does not end as it should, or there is none.
    #[error("the filter table was cut off after {lines} lines; it is read again on the next try")]
    TableCutOff {
        /// How many lines there were.
        lines: usize,
    },
    /// A line that no version of the tool should print.
    #[error("did not understand this line of {tool}: {line}")]
    Line {
        /// Who printed it.
        tool: &'static str,
        /// What it printed.
        line: String,
    },
    /// `ipset save` printed other sets than `ipset list -name`.
    #[error("ipset save printed {saved} of {listed} sets; they are read again on the next try")]
    SetsCutOff {
        /// Sets that were printed with their elements.
        saved: usize,
        /// Sets that there are.
        listed: usize,
    },
}

/// What the kernel holds of ours.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Applied {
    /// By family.
    pub tables: BTreeMap<Family, Table>,
    /// By name.
    pub sets: BTreeMap<String, AppliedSet>,
}

impl Applied {
    /// Whether a chain of ours is there.
    #[must_use]
    pub fn has_chain(&self, family: Family, chain: &str) -> bool {
        self.tables.get(&family).is_some_and(|table| table.chains.contains_key(chain))
    }

    /// Sets that nothing of ours refers to, to be destroyed.
    #[must_use]
    pub fn left_overs(&self) -> BTreeSet<String> {
        let unknown = |(_, set): &(&String, &AppliedSet)| set.elements == Elements::Unknown;
        self.sets.iter().filter(unknown).map(|(name, _)| name.clone()).collect()
    }
}

/// What a filter table holds of ours.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    /// Our chains.
    pub chains: Chains,
    /// Where our rules in the kernel's own chains are.
    pub hooks: BTreeMap<Hook, HookPlaces>,
    /// Chains of ours that rules of others, or in chains of others, send packets to.
    pub wanted_by_others: BTreeSet<String>,
}

/// Where our rule in one of the kernel's own chains is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HookPlaces {
    /// How often it is there.
    pub count: usize,
    /// The rules of others before its first place; all rules when it is not there.
    pub in_front: Vec<String>,
}

impl HookPlaces {
    /// The places of a hook that is as it ought to be.
    #[must_use]
    pub fn first() -> Self {
        Self { count: 1, in_front: Vec::new() }
    }
}

/// A set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppliedSet {
    /// Its type and family; none when it is none that we make.
    pub shape: Option<(Kind, Family)>,
    /// How many elements it takes.
    pub maxelem: u32,
    /// What is known of its elements.
    pub elements: Elements,
}

/// What is known of the elements of a set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Elements {
    /// All of them, as read.
    Read(BTreeSet<Element>),
    /// They are what was desired at the last apply, so many. Kept current by deltas.
    AsDesired(u32),
    /// Nothing: the set was left over when it was last looked at.
    Unknown,
}

impl Table {
    /// Reads the filter table from what `iptables-save -t filter` printed.
    ///
    /// # Errors
    /// When the dump is empty, cut off, or holds a line that is none of a dump.
    pub fn parse(dump: &str) -> Result<Self, ParseError> {
        let mut table = Self::default();
        let mut state = State::Before;
        for line in dump.lines() {
            match (state, line) {
                (_, "") => {}
                (_, comment) if comment.starts_with('#') => {}
                (State::Before, "*filter") => state = State::Within,
                (State::Within, "COMMIT") => state = State::After,
                (State::Within, line) => table.parse_line(line)?,
                _ => return Err(unknown("iptables-save", line)),
            }
        }
        // iptables-save can be cut off and yet end with exit code 0.
        if state == State::After && dump.ends_with('\n') {
            Ok(table)
        } else {
            Err(ParseError::TableCutOff { lines: dump.lines().count() })
        }
    }

    fn parse_line(&mut self, line: &str) -> Result<(), ParseError> {
        if let Some(declaration) = line.strip_prefix(':') {
            let chain = declaration.split(' ').next().unwrap_or_default();
            if name::is_ours(chain) {
                self.chains.insert(chain.to_owned(), Vec::new());
            }
            return Ok(());
        }
        let (chain, rule) = line
            .strip_prefix("-A ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or_else(|| unknown("iptables-save", line))?;
        if name::is_ours(chain) {
            let rules = self.chains.get_mut(chain);
            rules.ok_or_else(|| unknown("iptables-save", line))?.push(normalise(rule));
        } else {
            self.foreign_rule(chain, rule);
        }
        Ok(())
    }

    fn foreign_rule(&mut self, chain: &str, rule: &str) {
        if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.chain() == chain) {
            let places = self.hooks.entry(hook).or_default();
            if rule == hook.rule() {
                places.count += 1;
                return;
            }
            if places.count == 0 {
                places.in_front.push(rule.to_owned());
            }
        }
        if let Some(target) = target_of(rule).filter(|target| name::is_ours(target)) {
            self.wanted_by_others.insert(target.to_owned());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    After,
}

/// The chain or target that `rule` sends packets to.
fn target_of(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g"));
    words.nth(1)
}

fn unknown(tool: &'static str, line: &str) -> ParseError {
    ParseError::Line { tool, line: line.to_owned() }
}

/// Reads our sets from what `ipset save` printed; `names` is what `ipset list -name` printed.
///
/// # Errors
/// When the two disagree about our sets, or a line is neither `create` nor `add`.
pub fn parse_sets(save: &str, names: &str) -> Result<BTreeMap<String, AppliedSet>, ParseError> {
    let mut sets: BTreeMap<String, AppliedSet> = BTreeMap::new();
    for line in save.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (Some(command), Some(set), Some(rest)) = (words.next(), words.next(), words.next())
        else {
            return Err(unknown("ipset save", line));
        };
        match command {
            _ if !name::is_ours(set) => {}
            "create" => {
                sets.insert(set.to_owned(), parse_header(rest));
            }
            "add" => {
                let set = sets.get_mut(set).ok_or_else(|| unknown("ipset save", line))?;
                let kind = set.shape.map(|(kind, _)| kind);
                if let Elements::Read(elements) = &mut set.elements {
                    elements.insert(kind.map_or_else(
                        || Element::Unknown(rest.to_owned()),
                        |kind| Element::parse(kind, rest),
                    ));
                }
            }
            _ => return Err(unknown("ipset save", line)),
        }
    }
    let listed = names.lines().filter(|name| name::is_ours(name)).count();
    if sets.len() != listed || !(save.is_empty() || save.ends_with('\n')) {
        return Err(ParseError::SetsCutOff { saved: sets.len(), listed });
    }
    Ok(sets)
}

fn parse_header(rest: &str) -> AppliedSet {
    let mut words = rest.split(' ');
    let kind = match words.next() {
        Some("hash:ip") => Some(Kind::Address),
        Some("hash:ip,port") => Some(Kind::AddressPort),
        Some("hash:net") => Some(Kind::Network),
        _ => None,
    };
    let (mut family, mut maxelem, mut plain) = (None, 0, true);
    while let Some(option) = words.next() {
        match option {
            "family" if words.next() == Some("inet") => family = Some(Family::V4),
            "family" => family = Some(Family::V6),
            "maxelem" => maxelem = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            "hashsize" | "bucketsize" | "initval" => {
                words.next();
            }
            // Timeouts, counters, netmasks and the like: not a set of our making.
            _ => plain = false,
        }
    }
    let shape = kind.zip(family).filter(|_| plain);
    AppliedSet { shape, maxelem, elements: Elements::Read(BTreeSet::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "# Generated by iptables-save v1.8.9\n*filter\n:INPUT ACCEPT [0:0]\n\
        :FORWARD DROP [3:4]\n:OUTPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n\
        :PORTCULLIS-FORWARD - [0:0]\n:PORTCULLIS-JUDGE - [0:0]\n-A INPUT -j KUBE-FIREWALL\n\
        -A FORWARD -m comment --comment \"a -j b\" -j KUBE-FORWARD\n\
        -A FORWARD -j PORTCULLIS-FORWARD\n-A FORWARD -j PORTCULLIS-FORWARD\n\
        -A KUBE-FORWARD -g PORTCULLIS-JUDGE\n-A PORTCULLIS-FORWARD -g PORTCULLIS-JUDGE\n\
        COMMIT\n# Completed\n";

    #[test]
    fn only_what_is_ours_is_read() {
        let table = Table::parse(DUMP).unwrap();
        let chains: Vec<_> = table.chains.into_iter().collect();
        assert_eq!(
            chains,
            [
                ("PORTCULLIS-FORWARD".into(), vec!["-g PORTCULLIS-JUDGE".to_owned()]),
                ("PORTCULLIS-JUDGE".into(), vec![]),
            ]
        );
        let forward = &table.hooks[&Hook::Forward];
        assert_eq!((forward.count, forward.in_front.len()), (2, 1));
        assert_eq!(table.hooks[&Hook::Input].count, 0);
        assert_eq!(table.wanted_by_others, BTreeSet::from(["PORTCULLIS-JUDGE".to_owned()]));
    }

    #[test]
    fn a_dump_that_is_cut_anywhere_is_an_error() {
        let end = DUMP.find("# Completed").unwrap();
        for length in 0..end {
            assert!(Table::parse(&DUMP[..length]).is_err(), "{}", &DUMP[..length]);
        }
        assert!(Table::parse(&DUMP[..end]).is_ok());
    }

    #[test]
    fn sets_that_are_missing_from_the_dump_are_an_error() {
        let save = "create x hash:ip family inet hashsize 64 maxelem 4\nadd x 1.1.1.1\n\
            create PORTCULLIS-4aq hash:ip family inet hashsize 64 maxelem 8 bucketsize 12 \
            initval 0x1\nadd PORTCULLIS-4aq 10.0.0.1\n";
        let sets = parse_sets(save, "x\nPORTCULLIS-4aq\n").unwrap();
        let set = &sets["PORTCULLIS-4aq"];
        assert_eq!((set.shape, set.maxelem), (Some((Kind::Address, Family::V4)), 8));
        let element = Element::Address("10.0.0.1".parse().unwrap());
        assert_eq!(set.elements, Elements::Read(BTreeSet::from([element])));
        let cut = parse_sets(save, "x\nPORTCULLIS-4aq\nPORTCULLIS-6aq\n");
        assert_eq!(cut, Err(ParseError::SetsCutOff { saved: 1, listed: 2 }));
    }

    #[test]
    fn a_set_with_timeouts_is_not_of_our_making() {
        let save = "create PORTCULLIS-4aq hash:ip family inet hashsize 64 maxelem 8 timeout 9\n";
        assert_eq!(parse_sets(save, "PORTCULLIS-4aq\n").unwrap()["PORTCULLIS-4aq"].shape, None);
    }
}
