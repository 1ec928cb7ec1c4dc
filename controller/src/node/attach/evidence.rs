//! What the kernel reports about addresses that no entry of the cache claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::dataplane::interfaces::Snapshot;

/// The input of [`Evidence::judge`].
pub(super) struct Evidence<'a> {
    /// The interfaces, routes and addresses in the kernel.
    pub(super) snapshot: &'a Snapshot,
    /// Interfaces whose addresses are in the cache: these have no other addresses.
    pub(super) taken: &'a BTreeSet<u32>,
    /// The addresses to find.
    pub(super) wanted: &'a BTreeSet<IpAddr>,
}

impl Evidence<'_> {
    /// The interface of each wanted address that exactly one interface has, and messages about
    /// contradictions.
    pub(super) fn judge(&self) -> (BTreeMap<IpAddr, u32>, Vec<String>) {
        let mut found = BTreeMap::new();
        let mut problems = Vec::new();
        let routes = self.routes();
        let peers = self.peers(&routes, &mut problems);
        for (by, what) in
            [(&routes, "have a host route to it"), (&peers, "have it at the other end")]
        {
            for (address, interfaces) in by {
                match interfaces.iter().next() {
                    Some(index) if interfaces.len() == 1 => {
                        if self.leads_to_pod(*index) && !self.taken.contains(index) {
                            found.insert(*address, *index);
                        }
                    }
                    _ => problems.push(format!(
                        "the interface of {address} is not known: {} {what}",
                        self.names(interfaces)
                    )),
                }
            }
        }
        (found, problems)
    }

    /// The interfaces of host routes to wanted addresses.
    fn routes(&self) -> BTreeMap<IpAddr, BTreeSet<u32>> {
        let mut routes: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
        for (address, index) in &self.snapshot.host_routes {
            if self.wanted.contains(address) {
                routes.entry(*address).or_default().insert(*index);
            }
        }
        routes
    }

    /// The interfaces whose veth peers have wanted addresses. A host route is better evidence, both
    /// for its address and for its interface.
    fn peers(
        &self,
        routes: &BTreeMap<IpAddr, BTreeSet<u32>>,
        problems: &mut Vec<String>,
    ) -> BTreeMap<IpAddr, BTreeSet<u32>> {
        let mut peers: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
        for (index, addresses) in &self.snapshot.peer_addresses {
            if self.taken.contains(index) || !self.leads_to_pod(*index) {
                continue;
            }
            for is_ipv4 in [true, false] {
                let is_wanted = |address: &&IpAddr| {
                    address.is_ipv4() == is_ipv4 && self.wanted.contains(address)
                };
                let is_routed = |(address, interfaces): (&IpAddr, &BTreeSet<u32>)| {
                    address.is_ipv4() == is_ipv4 && interfaces.contains(index)
                };
                let here: Vec<IpAddr> = addresses.iter().filter(is_wanted).copied().collect();
                if routes.iter().any(is_routed) {
                    continue;
                }
                // A pod has one podIP of each family: one of several is another pod's.
                if let [first, second, ..] = here[..] {
                    problems.push(format!(
                        "the addresses of interface {} are not used: it has those of two pods, \
                         {first} and {second}",
                        self.names(&BTreeSet::from([*index]))
                    ));
                    continue;
                }
                for address in here.into_iter().filter(|address| !routes.contains_key(address)) {
                    peers.entry(address).or_default().insert(*index);
                }
            }
        }
        peers
    }

    /// Whether an interface leads to another network namespace, and not to gateways.
    fn leads_to_pod(&self, index: u32) -> bool {
        let interface = self.snapshot.interfaces.get(&index);
        let is_pair = interface.is_some_and(|interface| interface.peer.is_some());
        is_pair && !self.snapshot.uplinks.contains(&index)
    }

    fn names(&self, indexes: &BTreeSet<u32>) -> String {
        let interfaces = indexes.iter().filter_map(|index| self.snapshot.interfaces.get(index));
        let names = interfaces.take(4).map(|interface| interface.name.as_str());
        names.collect::<Vec<_>>().join(" and ")
    }
}
