//! Probes whether a kernel accepts our rules, by transactions that change nothing in the end.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::port::{PortRange, Protocol};

use super::kernel::{Kernel, refused};
use super::transaction::Transaction;
use crate::dataplane::attachment::InterfaceName;
use crate::dataplane::denial::Denial;
use crate::dataplane::feature::Feature;
use crate::dataplane::name::{self, ChainName, SetName};
use crate::dataplane::options::{DenyAction, LogGroup};
use crate::dataplane::plan::{HookChange, NewSet, Plan, Swap, TableChange};
use crate::dataplane::rule::{Hook, IsInterface, Match, Rule, Side, Verdict};
use crate::dataplane::set::Kind;

const CHAIN: ChainName = ChainName::short("PROBE");

/// An interface that every node has.
const LOOPBACK: IsInterface = IsInterface::Named(InterfaceName::LOOPBACK);

/// Whether the kernel accepts the rules that every node needs, or why not.
pub(in crate::dataplane) fn probe(family: Family) -> Result<(), String> {
    let digit = match family {
        Family::V4 => '4',
        Family::V6 => '6',
    };
    let set = |kind: char| SetName::written(format_args!("{digit}{kind}PROBE"));
    let sets = [('a', Kind::Address), ('p', Kind::AddressPort), ('n', Kind::Network)];
    let create = sets.map(|(letter, kind)| NewSet {
        name: set(letter),
        swap: Swap::Never,
        kind,
        family,
        maxelem: u32::MAX,
        elements: BTreeSet::new(),
    });
    let ports = [PortRange::single(1), PortRange::ALL];
    let matches = [
        Match::Set(set('a'), Side::Source),
        Match::SetWithPort(set('p'), Side::Source),
        Match::Set(set('n'), Side::Source),
        Match::RelatedOrEstablished,
        Match::NotTranslated,
        Match::TcpSyn,
        Match::Ports(Protocol::Tcp, ports.into()),
        Match::Interface(Side::Source, LOOPBACK),
    ];
    let hooks = Hook::ALL.map(|hook| (hook, HookChange { remove: 0, insert: true }));
    let mut plan = returning(family, matches);
    plan.create = create.into();
    if let Some(change) = plan.tables.get_mut(&family) {
        change.hooks = BTreeMap::from(hooks);
        let nothing: [Rule; 0] = [];
        for hook in Hook::ALL {
            change.write.insert(hook.target(), nothing.clone().into());
        }
    }
    attempt(&plan, family)
}

/// The features that the kernel lacks, and why it refuses them.
pub(in crate::dataplane) fn lacking(family: Family) -> Vec<(Feature, String)> {
    let needs = |feature| match feature {
        Feature::HopLimit if family == Family::V6 => Some(Match::HopLimit(255)),
        Feature::SctpChunks => Some(Match::SctpInit),
        Feature::PodInterfaces => Some(Match::BridgePort(Side::Source, LOOPBACK)),
        // Probed for all backends in the same way.
        Feature::HopLimit | Feature::TwoTags => None,
    };
    let try_out = |feature| {
        let rule = Rule::new([needs(feature)?], Verdict::Return);
        let chain = match feature {
            Feature::PodInterfaces => name::bridge(Direction::Egress),
            Feature::HopLimit | Feature::SctpChunks | Feature::TwoTags => CHAIN,
        };
        let plan = writing(family, chain, vec![rule]);
        attempt(&plan, family).err().map(|why| (feature, why))
    };
    Feature::ALL.into_iter().filter_map(try_out).collect()
}

/// Whether the kernel accepts the rules that log denials.
pub(in crate::dataplane) fn try_log(
    family: Family,
    group: LogGroup,
    deny: DenyAction,
) -> Result<(), String> {
    // One kind is enough: the kinds differ in numbers only.
    let Some(kind) = Denial::all().next() else { return Ok(()) };
    attempt(&writing(family, CHAIN, kind.rules(family, deny, Some(group))), family)
}

fn returning(family: Family, matches: impl IntoIterator<Item = Match>) -> Plan {
    let rules = matches.into_iter().map(|part| Rule::new([part], Verdict::Return));
    writing(family, CHAIN, rules.collect())
}

fn writing(family: Family, chain: ChainName, rules: Vec<Rule>) -> Plan {
    let write = BTreeMap::from([(chain, rules.into())]);
    let change = TableChange { write, ..TableChange::default() };
    Plan { tables: BTreeMap::from([(family, change)]), ..Plan::default() }
}

fn attempt(plan: &Plan, family: Family) -> Result<(), String> {
    let transaction = Transaction::of_probe(plan, family);
    let refusals = Kernel::default().commit(&transaction).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        [error.to_string(), source.unwrap_or_default()].join(": ")
    })?;
    match refusals.first() {
        None => Ok(()),
        Some(refusal) => Err(refused(&transaction, *refusal).to_string()),
    }
}
