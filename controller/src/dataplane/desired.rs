//! What the kernel should hold for a [`Compiled`]: chains, hooks and sets as values. Pure.
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
use super::name::{self, ChainName, SetName};
use super::options::{AcceptAction, Options};
use super::rule::{Chains, Hook, Match, Rule, Side, Verdict};
use super::ruleset::Renderer;
use super::set::{DesiredSet, Kind, Source};
use super::tree::{self, Judges};

/// What the kernel should hold. Sets borrow their members from the engine.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    /// Our chains of each family that is enforced.
    pub tables: BTreeMap<Family, Chains>,
    /// The hooks of each of these families.
    pub hooks: BTreeSet<Hook>,
    /// Our sets.
    pub sets: BTreeMap<SetName, DesiredSet<'a>>,
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
                None => deny_rules(family, options.deny),
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
    let established = if accept { Verdict::Goto(name::ACCEPT) } else { Verdict::Return };
    chains.insert(name::FORWARD, entry(family, name::JUDGE, established));
    if !options.allow_egress_to_own_node {
        // Never a terminal accept here: the node's own firewall decides on.
        let egress = name::root(Direction::Egress);
        chains.insert(name::INPUT, entry(family, egress, Verdict::Return));
    }
    let [ingress, egress] = Direction::BOTH.map(name::root);
    let judge = if accept {
        let local = name::local_set(family);
        let accept_local = |side| Rule::new([Match::Set(local, side)], Verdict::Accept);
        let rules = [Side::Source, Side::Destination].map(accept_local);
        chains.insert(name::ACCEPT, rules.into());
        vec![Verdict::Jump(egress), Verdict::Jump(ingress), Verdict::Goto(name::ACCEPT)]
    } else {
        vec![Verdict::Jump(egress), Verdict::Goto(ingress)]
    };
    chains.insert(name::JUDGE, judge.into_iter().map(Rule::all).collect());
    chains
}

/// Which packets are judged at all.
fn entry(family: Family, judge: ChainName, established: Verdict) -> Vec<Rule> {
    // A SYN opens a connection whatever conntrack remembers of its ports: an entry in state
    // CLOSE or LAST_ACK would make it ESTABLISHED.
    let syn = [Match::TcpSyn, Match::NotRelated];
    let mut rules = vec![
        Rule::new(syn, Verdict::Goto(judge)),
        Rule::new([Match::RelatedOrEstablished], established),
    ];
    if family == Family::V6 {
        rules.push(Rule::new([Match::NotIcmpv6], Verdict::Goto(judge)));
        // Multicast listener discovery and neighbour discovery: without them there is no IPv6.
        let kinds = (130..=137).chain([143]);
        rules.extend(kinds.map(|kind| Rule::new([Match::Icmpv6(kind)], Verdict::Return)));
    }
    rules.push(Rule::all(Verdict::Goto(judge)));
    rules
}
