//! Reads the table of our chains and its counters from the output of the iptables tools. Pure.

use std::collections::{BTreeMap, HashMap};

use super::text;
use crate::dataplane::applied::{HookPlaces, Table};
use crate::dataplane::backend::error::{ParseError, unknown};
use crate::dataplane::denial::{Counts, Denial};
use crate::dataplane::kernel_text::CountedRule;
use crate::dataplane::name::ChainName;
use crate::dataplane::options::TableName;
use crate::dataplane::rule::{Chains, Hook, Rule, Verdict};

/// Reads the output of `iptables-save -t TABLE` for the table `name`. A rule of our chains with the
/// same text as one in `desired` is that rule.
///
/// # Errors
/// When the dump is empty, cut off, or has an unknown line.
pub(super) fn parse_table(
    dump: &str,
    name: TableName,
    desired: &Chains,
) -> Result<Table, ParseError> {
    let mut table = Table::default();
    let mut chains = BTreeMap::new();
    let mut state = State::Before;
    for line in dump.lines() {
        match (state, line) {
            (_, "") => {}
            (_, comment) if comment.starts_with('#') => {}
            (State::Before, line) if line.strip_prefix('*') == Some(name.name()) => {
                state = State::Within;
            }
            (State::Within, "COMMIT") => state = State::After,
            (State::Within, line) => {
                parse_line(&mut table, &mut chains, line)
                    .ok_or_else(|| unknown("iptables-save", line))?;
            }
            _ => return Err(unknown("iptables-save", line)),
        }
    }
    // iptables-save can be cut off and yet end with exit code 0.
    if state != State::After || !dump.ends_with('\n') {
        return Err(ParseError::TableCutOff { lines: dump.lines().count() });
    }
    recognise(&mut chains, desired);
    table.chains = chains.into_iter().map(|(name, rules)| (name, rules.into())).collect();
    Ok(table)
}

fn parse_line(
    table: &mut Table,
    chains: &mut BTreeMap<ChainName, Vec<Rule>>,
    line: &str,
) -> Option<()> {
    if let Some(declaration) = line.strip_prefix(':') {
        let chain = declaration.split(' ').next().and_then(ChainName::parse);
        chains.extend(chain.map(|chain| (chain, Vec::new())));
        return Some(());
    }
    let (chain, rule) = line.strip_prefix("-A ")?.split_once(' ')?;
    if let Some(chain) = ChainName::parse(chain) {
        let rule = Rule::all(Verdict::Unknown(text::normalise(rule).into()));
        chains.get_mut(&chain)?.push(rule);
    } else {
        foreign_rule(table, chain, rule);
    }
    Some(())
}

fn foreign_rule(table: &mut Table, chain: &str, rule: &str) {
    if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.chain() == chain) {
        let places = table.hooks.entry(hook).or_default();
        if rule == text::hook(hook) {
            places.count += 1;
            return;
        }
        if places.count == 0 {
            places.in_front.push(rule.to_owned());
        }
    }
    table.wanted_by_others.extend(target_of(rule).and_then(ChainName::parse));
}

/// Reads the positions of our hooks from the output of `iptables -S CHAIN` or `iptables-save`.
pub(super) fn parse_hooks(printed: &str) -> BTreeMap<Hook, HookPlaces> {
    let mut table = Table::default();
    let rules = printed.lines().filter_map(|line| line.strip_prefix("-A ")?.split_once(' '));
    rules.for_each(|(chain, rule)| foreign_rule(&mut table, chain, rule));
    table.hooks
}

/// Replaces rules by the desired rules with the same text.
fn recognise(chains: &mut BTreeMap<ChainName, Vec<Rule>>, desired: &Chains) {
    // Ends the new rules of a chain that still has old ones.
    let end = Rule::all(Verdict::Return);
    for (name, rules) in chains {
        let Some(desired) = desired.get(name) else { continue };
        let known: HashMap<String, &Rule> =
            desired.iter().chain([&end]).map(|known| (text::rule(known), known)).collect();
        for rule in rules {
            let Verdict::Unknown(text) = &rule.verdict else { continue };
            if let Some(known) = known.get(&**text) {
                *rule = Rule::clone(known);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    After,
}

/// The chain or target of a rule of another program.
fn target_of(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g"));
    words.nth(1)
}

/// Reads the counters of all kinds from the output of `iptables-save -c -t TABLE`.
///
/// # Errors
/// When the dump is cut off.
pub(super) fn parse_counts(dump: &str) -> Result<BTreeMap<Denial, Counts>, ParseError> {
    if !dump.lines().any(|line| line == "COMMIT") {
        return Err(ParseError::TableCutOff { lines: dump.lines().count() });
    }
    let kinds: BTreeMap<ChainName, Denial> =
        Denial::all().map(|kind| (kind.chain(), kind)).collect();
    let mut counts = BTreeMap::new();
    for line in dump.lines() {
        let rule = line.strip_prefix('[').and_then(|rest| rest.split_once("] -A "));
        let Some((counters, rule)) = rule else { continue };
        let chain = rule.split(' ').next().and_then(ChainName::parse);
        let Some(kind) = chain.and_then(|chain| kinds.get(&chain)) else { continue };
        let counters = counters.split_once(':').and_then(|(packets, bytes)| read(packets, bytes));
        let counters = counters.ok_or_else(|| unknown("iptables-save", line))?;
        // Only the first rule counts all packets.
        counts.entry(*kind).or_insert(counters);
    }
    Ok(counts)
}

/// Reads our chains and the counters of their rules from the output of `iptables-save -c -t TABLE`.
///
/// # Errors
/// When the dump is cut off, or has a rule without counters.
pub(in crate::dataplane) fn counted_rules(
    dump: &str,
) -> Result<BTreeMap<String, Vec<CountedRule>>, ParseError> {
    if !dump.lines().any(|line| line == "COMMIT") {
        return Err(ParseError::TableCutOff { lines: dump.lines().count() });
    }
    let mut chains: BTreeMap<String, Vec<CountedRule>> = BTreeMap::new();
    for line in dump.lines() {
        if let Some(declaration) = line.strip_prefix(':') {
            let chain = declaration.split(' ').next().and_then(ChainName::parse);
            chains.extend(chain.map(|chain| (chain.to_string(), Vec::new())));
        }
        let rule = line.strip_prefix('[').and_then(|rest| rest.split_once("] -A "));
        let Some((counters, rule)) = rule else { continue };
        let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
        let Some(rules) = chains.get_mut(chain) else { continue };
        let counters = counters.split_once(':').and_then(|(packets, bytes)| read(packets, bytes));
        let Counts { packets, .. } = counters.ok_or_else(|| unknown("iptables-save", line))?;
        let (rule, number) = (text::normalise(rule), rules.len() + 1);
        rules.push(CountedRule { rule, number, packets: Some(packets) });
    }
    Ok(chains)
}

/// The positions of our hooks in the output of `iptables-save -c`.
pub(in crate::dataplane) fn hooks_of(dump: &str) -> BTreeMap<Hook, HookPlaces> {
    let rules = dump.lines().filter_map(|line| {
        let (_, rule) = line.strip_prefix('[')?.split_once("] ")?;
        Some(format!("{rule}\n"))
    });
    parse_hooks(&rules.collect::<String>())
}

/// Reads the counters of the rule in the output of `iptables -nvxL CHAIN 1`.
///
/// # Errors
/// When the output has no rule.
pub(super) fn parse_count(rule: &str) -> Result<Counts, ParseError> {
    let mut words = rule.split_whitespace();
    let counters = words.next().zip(words.next()).and_then(|(packets, bytes)| read(packets, bytes));
    counters.ok_or_else(|| unknown("iptables", rule))
}

fn read(packets: &str, bytes: &str) -> Option<Counts> {
    Some(Counts { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use policy_engine::direction::Direction;
    use policy_engine::tier::Tier;

    use super::*;
    use crate::dataplane::denial::{Cause, Outcome};
    use crate::dataplane::name;

    const DUMP: &str = "# Generated by iptables-save v1.8.9\n*filter\n:INPUT ACCEPT [0:0]\n\
        :FORWARD DROP [3:4]\n:OUTPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n\
        :PORTCULLIS-FORWARD - [0:0]\n:PORTCULLIS-JUDGE - [0:0]\n-A INPUT -j KUBE-FIREWALL\n\
        -A FORWARD -m comment --comment \"a -j b\" -j KUBE-FORWARD\n\
        -A FORWARD -j PORTCULLIS-FORWARD\n-A FORWARD -j PORTCULLIS-FORWARD\n\
        -A KUBE-FORWARD -g PORTCULLIS-JUDGE\n-A PORTCULLIS-FORWARD -g PORTCULLIS-JUDGE\n\
        COMMIT\n# Completed\n";

    #[test]
    fn only_what_is_ours_is_read() {
        let goto = Rule::all(Verdict::Goto(name::JUDGE));
        let desired = Chains::from([(name::FORWARD, [goto.clone()].into())]);
        let table = parse_table(DUMP, TableName::Filter, &desired).unwrap();
        let chains = Chains::from([(name::FORWARD, [goto].into()), (name::JUDGE, [].into())]);
        assert_eq!(table.chains, chains);
        let forward = &table.hooks[&Hook::Forward];
        assert_eq!((forward.count, forward.in_front.len()), (2, 1));
        assert_eq!(table.hooks[&Hook::Input].count, 0);
        assert_eq!(table.wanted_by_others, BTreeSet::from([name::JUDGE]));
        assert_eq!(parse_hooks(DUMP), table.hooks);
    }

    #[test]
    fn a_rule_that_is_not_desired_stays_text() {
        let table = parse_table(DUMP, TableName::Filter, &Chains::new()).unwrap();
        let unknown = Rule::all(Verdict::Unknown("-g PORTCULLIS-JUDGE".into()));
        assert_eq!(table.chains[&name::FORWARD].as_ref(), [unknown]);
    }

    #[test]
    fn a_dump_that_is_cut_anywhere_is_an_error() {
        let end = DUMP.find("# Completed").unwrap();
        for length in 0..end {
            let read = parse_table(&DUMP[..length], TableName::Filter, &Chains::new());
            assert!(read.is_err(), "{}", &DUMP[..length]);
        }
        assert!(parse_table(&DUMP[..end], TableName::Filter, &Chains::new()).is_ok());
        assert!(parse_table(DUMP, TableName::Mangle, &Chains::new()).is_err(), "another table");
    }

    #[test]
    fn rules_are_read_with_their_counters() {
        let dump = "*mangle\n:FORWARD ACCEPT [0:0]\n:PORTCULLIS-FORWARD - [0:0]\n\
            :PORTCULLIS-JUDGE - [0:0]\n[1:60] -A FORWARD -j DOCKER\n\
            [3:180] -A FORWARD -j PORTCULLIS-FORWARD\n\
            [2:120] -A PORTCULLIS-FORWARD -p 58 -g PORTCULLIS-JUDGE\nCOMMIT\n";
        let rule = "-p ipv6-icmp -g PORTCULLIS-JUDGE".to_owned();
        let rule = CountedRule { rule, number: 1, packets: Some(2) };
        let chains = [(name::FORWARD.to_string(), vec![rule]), (name::JUDGE.to_string(), vec![])];
        assert_eq!(counted_rules(dump).unwrap(), BTreeMap::from(chains));
        let forward = &hooks_of(dump)[&Hook::Forward];
        assert_eq!(
            (forward.count, forward.in_front.as_slice()),
            (1, ["-j DOCKER".to_owned()].as_slice())
        );
        assert!(counted_rules(&dump.replace("COMMIT\n", "")).is_err());
    }

    #[test]
    fn the_first_rule_counts_all() {
        let (direction, cause) = (Direction::Ingress, Cause::Policies(Tier::NetworkPolicy));
        let denied = Denial { outcome: Outcome::Denied, direction, cause };
        let counted = Counts { packets: 9, bytes: 540 };
        let dump = "*filter\n:PORTCULLIS-DENY-IN-POLICY - [0:0]\n\
            [9:540] -A PORTCULLIS-DENY-IN-POLICY -m comment --comment \"denied\"\n\
            [2:120] -A PORTCULLIS-DENY-IN-POLICY -j NFLOG --nflog-prefix \"portcullis 1\"\n\
            [9:540] -A PORTCULLIS-DENY-IN-POLICY -j DROP\n[1:60] -A OTHER -j DROP\nCOMMIT\n";
        assert_eq!(parse_counts(dump).unwrap(), BTreeMap::from([(denied, counted)]));
        assert!(parse_counts(&dump.replace("COMMIT\n", "")).is_err());
        let rule =
            "       9      540            0    --  *      *       ::/0    ::/0    /* denied */\n";
        assert_eq!(parse_count(rule).unwrap(), counted);
        assert!(parse_count("").is_err());
    }
}
