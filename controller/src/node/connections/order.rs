//! Which connections have to be judged again after a change. Pure.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use policy_engine::compiled::{Compiled, Match, Member, Target, Update};
use policy_engine::id::SetId;

use super::judge::RevokeEstablished;
use crate::dataplane::netlink::conntrack::Entry;

/// With more peers than this, the connections of all isolated pods are judged.
const PEERS_MAX: usize = 10_000;

/// What one pass over the kernel's connections has to judge. Orders that wait for the same pass are
/// merged.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Order {
    /// Addresses that pods of this node have lost.
    pub released: BTreeSet<IpAddr>,
    /// Addresses that joined or left a set, where this can deny a connection.
    peers: BTreeSet<IpAddr>,
    /// Whether all connections of isolated pods are judged.
    all: bool,
    /// Whether an answer may have opened a connection again that has just ended.
    revived: bool,
}

impl Order {
    /// Judges all connections of isolated pods.
    #[must_use]
    pub fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Judges connections that an answer opened again.
    #[must_use]
    pub fn revived() -> Self {
        Self { revived: true, ..Self::default() }
    }

    /// Judges the connections that an update of the rules can deny.
    #[must_use]
    pub fn of(update: &Update, compiled: &Compiled) -> Self {
        let mut order = Self { all: update.rules_changed, ..Self::default() };
        let mut denying = None;
        for (id, delta) in &update.sets_changed {
            order.peers.extend(delta.removed.iter().map(Member::address));
            // A new member is denied something only by a rule that does not allow.
            let denies = |id| denying.get_or_insert_with(|| not_allowing(compiled)).contains(id);
            if !delta.added.is_empty() && !order.all && { denies }(id) {
                order.peers.extend(delta.added.iter().map(Member::address));
            }
        }
        order.limited()
    }

    /// Adds another order to this one.
    pub fn merge(&mut self, other: Self) {
        self.released.extend(other.released);
        self.peers.extend(other.peers);
        self.all |= other.all;
        self.revived |= other.revived;
        *self = std::mem::take(self).limited();
    }

    /// Whether there is no connection to judge.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The filter for the connections to judge, with the policies of `compiled`.
    #[must_use]
    pub fn filter(&self, compiled: &Compiled, revoke: RevokeEstablished) -> Filter {
        let endpoints = compiled.endpoints.keys().filter(|_| self.all);
        let judged = self.peers.iter().chain(endpoints).copied().collect();
        Filter { released: self.released.iter().copied().collect(), judged, revoke }
    }

    fn limited(mut self) -> Self {
        if self.all || self.peers.len() > PEERS_MAX {
            (self.all, self.peers) = (true, BTreeSet::new());
        }
        self
    }
}

/// The sets in rules that do not allow.
fn not_allowing(compiled: &Compiled) -> BTreeSet<SetId> {
    let rules = compiled.rulesets.values().flat_map(|ruleset| &ruleset.rules);
    let denying = rules.filter(|rule| rule.target != Target::Allow);
    denying
        .filter_map(|rule| match &rule.matches {
            Match::Peers { labelled, .. } => *labelled,
            Match::PeerPorts { set } => Some(*set),
        })
        .collect()
}

/// Finds the connections to judge. It is asked once for each entry of the kernel.
#[derive(Debug)]
pub struct Filter {
    released: HashSet<IpAddr>,
    /// Connections with one of these as source, or as destination after DNAT.
    judged: HashSet<IpAddr>,
    revoke: RevokeEstablished,
}

impl Filter {
    /// Whether an entry has to be judged.
    #[must_use]
    pub fn concerns(&self, entry: &Entry<'_>) -> bool {
        let connection = &entry.connection;
        // Other zones are other networks, which may use the same addresses.
        if entry.zone != 0 {
            return false;
        }
        let is_judged = !entry.is_expected
            && self.revoke.covers(connection.protocol)
            && [connection.source, connection.destination]
                .iter()
                .any(|address| self.judged.contains(address));
        is_judged
            || !self.released.is_empty()
                && connection.addresses().iter().any(|address| self.released.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy_engine::cidr::CidrSet;
    use policy_engine::compiled::{Rule, Ruleset, SetDelta, TrafficMatch};
    use policy_engine::direction::Direction;
    use policy_engine::id::{ContentHasher, RulesetId};
    use policy_engine::tier::Tier;

    use super::*;

    fn ip(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    fn set() -> SetId {
        SetId::new(ContentHasher::new("test").finish())
    }

    fn using(target: Target) -> Compiled {
        let (traffic, cidrs) = (TrafficMatch::Any, CidrSet::default());
        let matches = Match::Peers { traffic, labelled: Some(set()), cidrs };
        let (direction, tier) = (Direction::Ingress, Tier::Admin);
        let rules = vec![Rule { matches, target }];
        let ruleset = Ruleset { direction, tier, rules, otherwise: Target::Allow };
        let id = RulesetId::new(ContentHasher::new("test").finish());
        Compiled { rulesets: [(id, Arc::new(ruleset))].into(), ..Compiled::default() }
    }

    fn members(added: impl IntoIterator<Item = u32>, removed: &[u32]) -> Update {
        let added = added.into_iter().map(|number| Member::Address(ip(number))).collect();
        let removed = removed.iter().map(|number| Member::Address(ip(*number))).collect();
        Update { sets_changed: [(set(), SetDelta { added, removed })].into(), ..Update::default() }
    }

    #[test]
    fn members_are_looked_at_when_they_lose_what_a_set_allows_or_join_one_that_denies() {
        let id = RulesetId::new(ContentHasher::new("next").finish());
        for (name, target, update, expected) in [
            ("join an allowing set", Target::Allow, members([1], &[]), &[][..]),
            ("leave an allowing set", Target::Allow, members([1], &[2]), &[2]),
            ("join a denying set", Target::Deny, members([1], &[]), &[1]),
            ("join a set that is passed", Target::Next(id), members([1], &[2]), &[1, 2]),
        ] {
            let order = Order::of(&update, &using(target));
            let peers = expected.iter().map(|number| ip(*number)).collect();
            assert_eq!(order, Order { peers, ..Order::default() }, "{name}");
            assert_eq!(order.is_empty(), expected.is_empty(), "{name}");
        }
    }

    #[test]
    fn other_rules_and_very_many_members_concern_all_isolated_pods() {
        let rules = Update { rules_changed: true, ..members([1], &[2]) };
        assert_eq!(Order::of(&rules, &using(Target::Deny)), Order::all());
        let many = members(0..10_001, &[]);
        assert_eq!(Order::of(&many, &using(Target::Deny)), Order::all());
        let mut order = Order::of(&members([1], &[]), &using(Target::Deny));
        order.merge(Order { released: [ip(9)].into(), ..Order::default() });
        order.merge(Order::all());
        assert_eq!(order, Order { released: [ip(9)].into(), ..Order::all() });
    }
}
