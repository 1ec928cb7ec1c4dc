//! What the kernel ought to hold for a [`Compiled`]: chains as text, sets by name. Pure.
//!
//! ```text
//! FORWARD 1 ─► PORTCULLIS-FORWARD ─► PORTCULLIS-JUDGE ─► EGRESS tree, then INGRESS tree ─► R…
//! INPUT 1   ─► PORTCULLIS-INPUT   ─────────────────────► EGRESS tree ────────────────────► R…
//! R… of one tier ─► R… of the next that decides ─► DENY-… of the kind of denial
//! A… for policies in audit, likewise            ─► AUDIT-…
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::compiled::Compiled;
use policy_engine::direction::Direction;
use policy_engine::id::RulesetId;
use policy_engine::tier::View;

use super::denial::deny_rules;
use super::options::{AcceptAction, Options};
use super::rule::Rule;
use super::ruleset::{Renderer, match_set};
use super::set::{DesiredSet, Kind, Source};
use super::tree::Judges;
use super::{name, tree};

/// Chains by name, with their rules in the spelling of `iptables-save`.
pub type Chains = BTreeMap<String, Vec<String>>;

/// A chain of the kernel's own that sends packets to ours, by its first rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// From FORWARD to [`name::FORWARD`].
    Forward,
    /// From INPUT to [`name::INPUT`].
    Input,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Input];

    /// The kernel's chain.
    #[must_use]
    pub fn chain(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }

    /// Our rule in it.
    #[must_use]
    pub fn rule(self) -> String {
        let target = match self {
            Self::Forward => name::FORWARD,
            Self::Input => name::INPUT,
        };
        Rule::jump(target).to_string()
    }
}

/// What the kernel ought to hold. Sets borrow their members from the engine.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    /// Our chains of each family that is enforced.
    pub tables: BTreeMap<Family, Chains>,
    /// The hooks of each of these families.
    pub hooks: BTreeSet<Hook>,
    /// Our sets.
    pub sets: BTreeMap<String, DesiredSet<'a>>,
}

impl<'a> Desired<'a> {
    /// What enforces `compiled` for `families`.
    #[must_use]
    pub fn new(compiled: &'a Compiled, options: &Options, families: &[Family]) -> Self {
        let mut desired = Self {
            tables: BTreeMap::new(),
            hooks: BTreeSet::from([Hook::Forward]),
            sets: BTreeMap::new(),
        };
        if !options.allow_egress_to_own_node {
            desired.hooks.insert(Hook::Input);
        }
        for family in families {
            desired.add_family(*family, compiled, options);
        }
        desired
    }

    fn add_family(&mut self, family: Family, compiled: &'a Compiled, options: &Options) {
        let mut chains = skeleton(family, options);
        let mut used = BTreeSet::new();
        let mut local = BTreeSet::new();
        for direction in Direction::BOTH {
            let mut leaves = BTreeMap::new();
            for (address, endpoint) in &compiled.endpoints {
                if Family::of(*address) != family || address.is_unspecified() {
                    continue;
                }
                // Without its ruleset nothing is known that audit could tell.
                let audited = endpoint.audited.get(direction).as_ref();
                let audited = audited.filter(|id| compiled.rulesets.contains_key(*id));
                let enforced = endpoint.enforced.get(direction).as_ref();
                used.extend(enforced.map(|id| (View::Enforced, *id)));
                used.extend(audited.map(|id| (View::Audited, *id)));
                // Policies in audit change nothing: not even what is accepted.
                local.extend(enforced.map(|_| *address));
                let judges = Judges {
                    enforced: enforced.map(|id| name::ruleset(View::Enforced, id)),
                    audited: audited.map(|id| name::ruleset(View::Audited, id)),
                };
                if judges != Judges::default() {
                    leaves.insert(*address, judges);
                }
            }
            chains.extend(tree::chains(direction, &leaves));
        }
        self.add_rulesets(family, compiled, options, used, &mut chains);
        if options.accept == AcceptAction::Accept {
            self.sets.insert(name::local_set(family), local_set(family, local));
        }
        self.tables.insert(family, chains);
    }

    /// Adds the chains of the rulesets in `used`, and of all that they lead to.
    fn add_rulesets(
        &mut self,
        family: Family,
        compiled: &'a Compiled,
        options: &Options,
        mut used: BTreeSet<(View, RulesetId)>,
        chains: &mut Chains,
    ) {
        let mut renderer = Renderer::new(family, compiled);
        while let Some((view, id)) = used.pop_first() {
            let name = name::ruleset(view, &id);
            if chains.contains_key(&name) {
                continue;
            }
            let rules = match compiled.rulesets.get(&id) {
                Some(ruleset) => renderer.rules(view, ruleset),
                // Whose it was is not known either: it denies all, in nobody's name.
                None => deny_rules(family, options.deny).iter().map(ToString::to_string).collect(),
            };
            chains.insert(name, rules);
            used.extend(mem::take(&mut renderer.next).into_iter().map(|next| (view, next)));
        }
        for denial in renderer.denials {
            let rules = denial.rules(family, options.deny, options.denial_log);
            chains.insert(denial.chain(), rules);
        }
        self.sets.append(&mut renderer.needed);
    }
}

fn local_set<'a>(family: Family, addresses: BTreeSet<IpAddr>) -> DesiredSet<'a> {
    DesiredSet { kind: Kind::Address, family, source: Source::Local(addresses) }
}

/// The chains that are there whatever the policies are.
fn skeleton(family: Family, options: &Options) -> Chains {
    let mut chains = Chains::new();
    let accept = options.accept == AcceptAction::Accept;
    let established = if accept { Rule::goto(name::ACCEPT) } else { Rule::jump("RETURN") };
    chains.insert(name::FORWARD.to_owned(), entry(family, name::JUDGE, established));
    if !options.allow_egress_to_own_node {
        // Never a terminal accept here: the node's own firewall decides on.
        let egress = name::root(Direction::Egress);
        chains.insert(name::INPUT.to_owned(), entry(family, egress, Rule::jump("RETURN")));
    }
    let egress = Rule::jump(name::root(Direction::Egress));
    let ingress = name::root(Direction::Ingress);
    let judge = if accept {
        let local = name::local_set(family);
        let accept_local = |side| Rule::jump("ACCEPT").matching(match_set(&local, side));
        let rules = ["src", "dst"].map(accept_local).map(|rule| rule.to_string());
        chains.insert(name::ACCEPT.to_owned(), rules.into());
        vec![egress, Rule::jump(ingress), Rule::goto(name::ACCEPT)]
    } else {
        vec![egress, Rule::goto(ingress)]
    };
    chains.insert(name::JUDGE.to_owned(), judge.iter().map(ToString::to_string).collect());
    chains
}

/// Which packets are judged at all.
fn entry(family: Family, judge: &str, established: Rule) -> Vec<String> {
    // A SYN opens a connection whatever conntrack remembers of its ports: an entry in state
    // CLOSE or LAST_ACK would make it ESTABLISHED.
    let syn = "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack ! --ctstate RELATED";
    let mut rules = vec![
        Rule::goto(judge).protocol("tcp").matching(syn),
        established.matching("-m conntrack --ctstate RELATED,ESTABLISHED"),
    ];
    if family == Family::V6 {
        rules.push(Rule::goto(judge).not_protocol("ipv6-icmp"));
        // Multicast listener discovery and neighbour discovery: without them there is no IPv6.
        rules.extend((130..=137).chain([143]).map(|number: u8| {
            let kind = format!("-m icmp6 --icmpv6-type {number}");
            Rule::jump("RETURN").protocol("ipv6-icmp").matching(kind)
        }));
    }
    rules.push(Rule::goto(judge));
    rules.iter().map(ToString::to_string).collect()
}
