//! Builds what an engine would hand over.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::compiled::{
    AddressSet, Compiled, Endpoint, Match, Member, Rule, Ruleset, SetDelta, SetKind, Target,
    TrafficMatch, Update,
};
use policy_engine::direction::{Direction, PerDirection};
use policy_engine::id::{ContentHasher, RulesetId, SetId};
use policy_engine::model::PodKey;
use policy_engine::port::{PortRange, Protocol};
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::{ApplyReport, Dataplane, Error};

#[derive(Clone, Default)]
pub struct World {
    pub compiled: Compiled,
}

impl World {
    pub fn set(&mut self, name: &str, members: impl IntoIterator<Item = Member>) -> SetId {
        let mut hasher = ContentHasher::new("set");
        hasher.text(name);
        let id = SetId::new(hasher.finish());
        let members: BTreeSet<Member> = members.into_iter().collect();
        let kind = match members.first() {
            Some(Member::AddressPort(..)) => SetKind::AddressPorts,
            _ => SetKind::Addresses,
        };
        self.compiled.sets.insert(id, AddressSet { kind, members });
        id
    }

    /// A NetworkPolicy's: allows what one of `rules` matches.
    pub fn ruleset(&mut self, direction: Direction, rules: Vec<Match>) -> RulesetId {
        let rules = rules.into_iter().map(|matches| Rule { matches, target: Target::Allow });
        self.tier(direction, Tier::NetworkPolicy, rules.collect(), Target::Deny)
    }

    pub fn tier(
        &mut self,
        direction: Direction,
        tier: Tier,
        rules: Vec<Rule>,
        otherwise: Target,
    ) -> RulesetId {
        let ruleset = Ruleset { direction, tier, rules, otherwise };
        let mut hasher = ContentHasher::new("ruleset");
        hasher.text(&format!("{ruleset:?}"));
        let id = RulesetId::new(hasher.finish());
        self.compiled.rulesets.insert(id, Arc::new(ruleset));
        id
    }

    pub fn endpoint(&mut self, address: IpAddr, id: RulesetId) -> &mut Self {
        let direction = self.compiled.rulesets[&id].direction;
        *self.at(address).enforced.get_mut(direction) = Some(id);
        self
    }

    /// What would hold for `address` with policies in audit.
    pub fn audit(&mut self, address: IpAddr, id: RulesetId) -> &mut Self {
        let direction = self.compiled.rulesets[&id].direction;
        *self.at(address).audited.get_mut(direction) = Some(id);
        self
    }

    fn at(&mut self, address: IpAddr) -> &mut Endpoint {
        let pod = PodKey::new("test", &address.to_string());
        let (enforced, audited) = (PerDirection::default(), PerDirection::default());
        let endpoint = Endpoint { pod, enforced, audited };
        self.compiled.endpoints.entry(address).or_insert(endpoint)
    }

    /// Changes a set's members; gives the update that an engine would.
    pub fn change(&mut self, id: SetId, added: &[Member], removed: &[Member]) -> Update {
        let set = self.compiled.sets.get_mut(&id).unwrap();
        set.members.extend(added);
        set.members.retain(|member| !removed.contains(member));
        let (added, removed) = (added.iter().copied().collect(), removed.iter().copied().collect());
        let mut update = Update::default();
        update.sets_changed.insert(id, SetDelta { added, removed });
        update
    }
}

/// Applies as the agent does: enforces at once, and removes a little later what is unreferenced.
pub fn settle(
    dataplane: &mut Dataplane,
    compiled: &Compiled,
    update: &Update,
) -> Result<ApplyReport, Error> {
    let enforced = dataplane.enforce(compiled, update)?;
    let removed = dataplane.remove_unreferenced(compiled)?;
    Ok(ApplyReport {
        chains_changed: enforced.chains_changed + removed.chains_changed,
        hooks_changed: enforced.hooks_changed + removed.hooks_changed,
        sets_created: enforced.sets_created + removed.sets_created,
        members_changed: enforced.members_changed + removed.members_changed,
        ..removed
    })
}

pub fn rules_changed() -> Update {
    Update { rules_changed: true, ..Update::default() }
}

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub fn pod(address: &str) -> Member {
    Member::Address(ip(address))
}

pub fn service(address: &str, protocol: Protocol, port: u16) -> Member {
    Member::AddressPort(ip(address), protocol, port)
}

pub fn cidrs(networks: &[&str]) -> CidrSet {
    networks.iter().fold(CidrSet::default(), |set, network| {
        set.union(&CidrSet::network(network.parse().unwrap()))
    })
}

pub fn allow(traffic: TrafficMatch, pods: Option<SetId>, cidrs: CidrSet) -> Match {
    Match::Peers { traffic, labelled: pods, cidrs }
}

pub fn tcp(ports: &[(u16, u16)]) -> TrafficMatch {
    traffic(Protocol::Tcp, ports)
}

pub fn traffic(protocol: Protocol, ports: &[(u16, u16)]) -> TrafficMatch {
    let range = |&(first, last): &(u16, u16)| PortRange::new(first, last).unwrap();
    TrafficMatch::Ports(protocol, ports.iter().map(range).collect())
}
