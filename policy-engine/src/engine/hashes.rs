//! Hashes of the compiled state, kept up to date with it, so that they cost what a change costs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::compiled::{AddressSet, Endpoint, Member, Update};
use crate::id::{ContentHasher, ContentId, SetId, Tally};

/// Hashes of a compiled state. Equal states have equal hashes, on the node and everywhere else.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hashes {
    /// Of the rulesets of all addresses. The name of a ruleset is a hash of its rules.
    pub rules: Tally,
    /// Of the members of all sets.
    pub members: Tally,
}

/// Keeps [`Hashes`] up to date.
#[derive(Default, Debug)]
pub(super) struct Hashed {
    pub(super) hashes: Hashes,
    /// The members of each set, to remove them with it.
    sets: BTreeMap<SetId, Tally>,
}

impl Hashed {
    /// Adds the rulesets of an address, or removes those that it had.
    pub(super) fn toggle(&mut self, address: IpAddr, endpoint: &Endpoint) {
        self.hashes.rules.toggle(of_endpoint(address, endpoint));
    }

    /// Takes over the changes of the members of sets. `sets` have the members after them.
    pub(super) fn update(&mut self, update: &Update, sets: &BTreeMap<SetId, AddressSet>) {
        for id in &update.sets_removed {
            self.hashes.members.toggle_all(self.sets.remove(id).unwrap_or_default());
        }
        for id in &update.sets_created {
            let members = sets.get(id).into_iter().flat_map(|set| &set.members);
            self.toggle_members(*id, members);
        }
        for (id, delta) in &update.sets_changed {
            self.toggle_members(*id, delta.added.iter().chain(&delta.removed));
        }
    }

    fn toggle_members<'m>(&mut self, id: SetId, members: impl Iterator<Item = &'m Member>) {
        let mut changed = Tally::default();
        members.for_each(|member| changed.toggle(of_member(id, member)));
        self.sets.entry(id).or_default().toggle_all(changed);
        self.hashes.members.toggle_all(changed);
    }
}

fn of_endpoint(address: IpAddr, endpoint: &Endpoint) -> ContentId {
    let mut hasher = ContentHasher::new("endpoint");
    add_address(&mut hasher, address);
    hasher.text(&endpoint.pod.namespace);
    hasher.text(&endpoint.pod.name);
    let Endpoint { enforced, audited, .. } = endpoint;
    for ruleset in [enforced.ingress, enforced.egress, audited.ingress, audited.egress] {
        match ruleset {
            Some(id) => hasher.id(id),
            None => hasher.bytes(&[]),
        }
    }
    hasher.finish()
}

fn of_member(set: SetId, member: &Member) -> ContentId {
    let mut hasher = ContentHasher::new("member");
    hasher.id(set);
    add_address(&mut hasher, member.address());
    if let Member::AddressPort(_, protocol, port) = member {
        hasher.bytes(&[&[protocol.number()][..], &port.to_be_bytes()].concat());
    }
    hasher.finish()
}

fn add_address(hasher: &mut ContentHasher, address: IpAddr) {
    match address {
        IpAddr::V4(address) => hasher.bytes(&address.octets()),
        IpAddr::V6(address) => hasher.bytes(&address.octets()),
    }
}
