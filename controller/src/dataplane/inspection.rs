//! The desired chains and sets as texts: for people, and for programs that compare them with the
//! kernel. Each answer is a part of limited size, since the agent applies no change while it
//! collects a part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::compiled::AddressSet;
use policy_engine::direction::Direction;
use policy_engine::id::{SetId, digest};
use serde::{Deserialize, Serialize};

use super::Dataplane;
use super::attachment::Attachment;
use super::backend::iptables::{sets, text};
use super::name::{self, ChainName, SetName};
use super::nft_text;
use super::options::Backend;
use super::rule::{Is, IsInterface, Match, Rule, Side, Verdict};
use super::set::{DesiredSet, Source};
use super::words;

/// How many rules one part has, unless one chain has more.
const RULES_AT_ONCE: usize = 2_000;
/// How many members of sets are read for one part, unless one set has more.
const MEMBERS_AT_ONCE: usize = 20_000;
/// How many members of a set are listed.
const MEMBERS_LISTED: usize = 10;

/// A desired chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChainText {
    /// Its name.
    pub name: String,
    /// The rules of the chain, in order.
    pub rules: Vec<RuleText>,
}

/// A desired rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleText {
    /// The text behind `-A CHAIN` in the output of `iptables-save`, or that `nft list` prints. An
    /// element of a map of verdicts counts as a rule.
    pub rule: String,
    /// The effect of the rule, in words.
    pub words: String,
    /// Whether the rule can match a packet of the requested pod.
    pub concerns_pod: bool,
}

/// A desired set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetText {
    /// Its name in the kernel.
    pub name: String,
    /// The engine's name of the set; `None` if its members do not depend on labels.
    pub id: Option<String>,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// A description of the members, in words.
    pub words: String,
    /// How many members the set has.
    pub members: usize,
    /// The first members.
    pub first: Vec<String>,
    /// A hash of all members, as [`digest`] makes it.
    pub digest: String,
}

/// The chains and sets that apply to a pod.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PodRules {
    /// By family (`IPv4`, `IPv6`): the chains that a packet of the pod can enter, in this order.
    pub chains: BTreeMap<String, Vec<ChainText>>,
    /// The sets that these chains refer to.
    pub sets: Vec<SetText>,
}

/// The definition of a set of the engine.
pub type Describe<'a> = &'a dyn Fn(&SetId) -> Option<Vec<String>>;

/// The members of the sets of the engine.
pub type Sets = BTreeMap<SetId, AddressSet>;

impl Dataplane {
    /// How the address of a pod of this node is attached; `None` when that is not known.
    #[must_use]
    pub fn attachment(&self, address: IpAddr) -> Option<Attachment> {
        self.attachments.addresses.get(&address).copied()
    }

    /// The desired chains of a family that follow `after`, as many as one part may have.
    #[must_use]
    pub fn chain_texts(
        &self,
        family: Family,
        after: Option<&str>,
        describe: Describe<'_>,
    ) -> Vec<ChainText> {
        let mut part = Vec::new();
        let mut rules = 0;
        for (name, chain) in self.desired.tables.get(&family).into_iter().flatten() {
            if after.is_some_and(|after| name.to_string().as_str() <= after) {
                continue;
            }
            if rules > 0 && rules + chain.len() > RULES_AT_ONCE {
                break;
            }
            rules += chain.len();
            part.push(self.chain_text(family, *name, chain, &|_| false, describe));
        }
        part
    }

    /// The desired chains of a family that have these names.
    #[must_use]
    pub fn named_chains(
        &self,
        family: Family,
        names: &BTreeSet<String>,
        describe: Describe<'_>,
    ) -> Vec<ChainText> {
        let chains = self.desired.tables.get(&family);
        let wanted = names.iter().filter_map(|name| ChainName::parse(name));
        let found = wanted.filter_map(|name| Some((name, chains?.get(&name)?)));
        let text =
            |name, rules: &[Rule]| self.chain_text(family, name, rules, &|_| false, describe);
        found.map(|(name, rules)| text(name, rules)).collect()
    }

    /// The desired sets that follow `after`, as many as one part may have.
    #[must_use]
    pub fn set_texts(
        &self,
        after: Option<&str>,
        members: &Sets,
        describe: Describe<'_>,
    ) -> Vec<SetText> {
        let (mut found, mut count) = (Vec::new(), 0);
        for (name, set) in &self.desired.sets {
            if after.is_some_and(|after| name.to_string().as_str() <= after) {
                continue;
            }
            let text = set_text(*name, set, members, describe);
            count += text.members + 1;
            found.push(text);
            if count > MEMBERS_AT_ONCE {
                break;
            }
        }
        found
    }

    /// The chains and sets that a packet of a pod with these addresses can meet.
    #[must_use]
    pub fn pod_rules(
        &self,
        addresses: &[IpAddr],
        members: &Sets,
        describe: Describe<'_>,
    ) -> PodRules {
        let mut found = PodRules::default();
        let mut sets = BTreeSet::new();
        for address in addresses {
            let family = Family::of(*address);
            let Some(chains) = self.desired.tables.get(&family) else { continue };
            let texts = found.chains.entry(family.as_str().to_owned()).or_default();
            let at = self.attachment(*address);
            for (direction, first) in entrances() {
                let side = Side::of_subject(direction);
                let concerns = |rule: &Rule| concerns(rule, side, *address, at);
                let mut waiting = VecDeque::from([first]);
                let mut seen = BTreeSet::new();
                while let Some(name) = waiting.pop_front() {
                    let Some(rules) = chains.get(&name).filter(|_| seen.insert(name)) else {
                        continue;
                    };
                    for rule in rules.iter().filter(|rule| concerns(rule)) {
                        sets.extend(rule.sets());
                        if let Verdict::Jump(next) | Verdict::Goto(next) = rule.verdict {
                            waiting.push_back(next);
                        }
                    }
                    let text = self.chain_text(family, name, rules, &concerns, describe);
                    if !texts.iter().any(|known| known.name == text.name) {
                        texts.push(text);
                    }
                }
            }
        }
        let desired =
            sets.into_iter().filter_map(|name| Some((name, self.desired.sets.get(&name)?)));
        found.sets = desired.map(|(name, set)| set_text(name, set, members, describe)).collect();
        found
    }

    fn chain_text(
        &self,
        family: Family,
        name: ChainName,
        rules: &[Rule],
        concerns: &dyn Fn(&Rule) -> bool,
        describe: Describe<'_>,
    ) -> ChainText {
        let set = |name: SetName| words::set(name, self.desired.sets.get(&name), describe);
        let rules = rules.iter().flat_map(|rule| {
            let texts = match self.options.backend {
                Backend::Nftables => nft_text::rules(family, name, rule),
                Backend::Auto | Backend::Iptables => vec![text::rule(rule)],
            };
            let (words, concerns_pod) = (words::rule(name, rule, &set), concerns(rule));
            texts.into_iter().map(move |rule| RuleText { rule, words: words.clone(), concerns_pod })
        });
        ChainText { name: name.to_string(), rules: rules.collect() }
    }
}

fn set_text(name: SetName, set: &DesiredSet, members: &Sets, describe: Describe<'_>) -> SetText {
    let id = match &set.source {
        Source::Engine(id) => Some(id.to_string()),
        Source::Networks(_) | Source::Local(_) => None,
    };
    let elements: Vec<String> = set.elements(members).iter().map(sets::element).collect();
    SetText {
        name: name.to_string(),
        id,
        family: set.family.as_str().to_owned(),
        words: words::set(name, Some(set), describe),
        members: elements.len(),
        first: elements.iter().take(MEMBERS_LISTED).cloned().collect(),
        digest: digest(elements).to_string(),
    }
}

/// The chains that packets of a pod enter first, in the order in which the kernel sends packets to
/// them. Only nftables has chains for frames of bridges.
fn entrances() -> [(Direction, ChainName); 4] {
    let (out, into) = (Direction::Egress, Direction::Ingress);
    let (from_port, to_port) = (name::bridge(out), name::bridge(into));
    [(out, from_port), (out, name::root(out)), (into, to_port), (into, name::root(into))]
}

/// Whether a rule can match packets with this address on one side, of a pod that is attached `at`.
fn concerns(rule: &Rule, side: Side, address: IpAddr, at: Option<Attachment>) -> bool {
    let port = at.filter(|at| at.bridge.is_some()).map(|at| at.interface);
    rule.matches.iter().all(|part| match part {
        Match::BridgePort(of, IsInterface::Named(name)) if *of == side => port == Some(*name),
        Match::Address(of, Is::Within(network)) if *of == side => network.contains(&address),
        Match::Address(of, Is::Outside(network)) if *of == side => !network.contains(&address),
        _ => true,
    })
}
