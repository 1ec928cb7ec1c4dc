//! Finds the interface of each pod, from the contents of libcni's cache, of the kernel and of the
//! API server. Pure.
//!
//! ```text
//! cache entry whose interface exists ─► exactly its addresses are on that interface
//! otherwise a host route             ─► the interface that the route leads to
//! otherwise an address of the peer   ─► the interface whose veth peer has the address
//! ```
//!
//! A pod with `NET_ADMIN` can add any address to its own interface, so the address of a peer is the
//! weakest evidence; only the runtime writes the cache, and only the node's plugins write routes.
//! An address with contradictory evidence of one sort has no interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::CniPod;
use super::cache::Entry;
use super::evidence::Evidence;
use crate::dataplane::attachment::{Attachment, Attachments, InterfaceName};
use crate::dataplane::interfaces::{Interface, InterfaceKind, Snapshot, is_pod_address};

/// The result of [`resolve`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Resolved {
    /// The interfaces of the pods.
    pub(super) attachments: Attachments,
    /// The pods of the cache whose interface exists.
    pub(super) pods: Vec<CniPod>,
    /// Messages about contradictions, and about interfaces that cannot be used.
    pub(super) problems: Vec<String>,
    /// Files of the cache that name an interface that does not exist.
    pub(super) stale: Vec<String>,
}

/// Finds the interfaces of pods. `pods` are the addresses of this node's pods in the API server. An
/// address that is neither in `pods` nor in the cache does not belong to a pod, but for example to
/// a container that Kubernetes did not create.
pub(super) fn resolve<'a>(
    snapshot: &Snapshot,
    entries: impl Iterator<Item = &'a Entry>,
    pods: &BTreeSet<IpAddr>,
) -> Resolved {
    let mut resolver = Resolver {
        snapshot,
        resolved: Resolved::default(),
        found: BTreeMap::new(),
        contested: BTreeSet::new(),
    };
    let claims = resolver.claims(entries);
    let claims = resolver.without_contradictions(claims);
    resolver.claim_addresses(&claims);
    resolver.find_others(&claims, pods);
    resolver.attach(&claims);
    resolver.resolved
}

/// Entries of the cache, and the interface that each of them names.
#[derive(Default)]
struct Claims<'a> {
    /// The entries by the index of the interface that they name.
    by_interface: BTreeMap<u32, Vec<&'a Entry>>,
    /// Entries whose result names no interface of the node.
    unnamed: Vec<&'a Entry>,
}

struct Resolver<'a> {
    snapshot: &'a Snapshot,
    resolved: Resolved,
    /// The interface of each address.
    found: BTreeMap<IpAddr, u32>,
    /// Addresses that the cache claims for several interfaces.
    contested: BTreeSet<IpAddr>,
}

impl Resolver<'_> {
    fn problem(&mut self, problem: String) {
        self.resolved.problems.push(problem);
    }

    /// The interface that each entry names, if it exists.
    fn claims<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> Claims<'e> {
        let interfaces = self.snapshot.interfaces.iter();
        let by_name: BTreeMap<&str, (u32, &Interface)> = interfaces
            .map(|(index, interface)| (interface.name.as_str(), (*index, interface)))
            .collect();
        let mut claims = Claims::default();
        for entry in entries {
            let named = entry.interfaces.iter().map(|name| by_name.get(name.as_str()));
            let named: Vec<Option<&(u32, &Interface)>> = named.collect();
            let existing = named.iter().flatten();
            let pairs: BTreeSet<u32> = existing
                .filter(|(_, interface)| interface.peer.is_some())
                .map(|(index, _)| *index)
                .collect();
            match pairs.len() {
                1 => {
                    claims
                        .by_interface
                        .entry(*pairs.iter().min().expect("one"))
                        .or_default()
                        .push(entry);
                }
                0 if named.iter().any(Option::is_none) => {
                    self.resolved.stale.push(entry.file.clone());
                }
                0 => claims.unnamed.push(entry),
                _ => self.problem(format!(
                    "CNI result {} is ignored: more than one of its interfaces leads to another \
                     network namespace",
                    entry.file
                )),
            }
        }
        claims
    }

    /// Keeps one entry for each interface: the one that agrees with host routes. If a plugin uses
    /// the name of an interface again (as Calico does), an old file looks current.
    fn without_contradictions<'e>(&mut self, mut claims: Claims<'e>) -> Claims<'e> {
        let routes = &self.snapshot.host_routes;
        for (index, entries) in &mut claims.by_interface {
            if entries.len() > 1 {
                let files = list(entries.iter().map(|entry| entry.file.as_str()));
                let is_routed = |entry: &&Entry| {
                    entry.addresses.iter().any(|to| routes.contains(&(*to, *index)))
                };
                entries.retain(is_routed);
                if entries.len() != 1 {
                    entries.clear();
                    let name = self.snapshot.interfaces.get(index).map_or("", |found| &found.name);
                    self.resolved.problems.push(format!(
                        "CNI results {files} are ignored: all of them name interface {name}"
                    ));
                }
            }
        }
        claims.by_interface.retain(|_, entries| !entries.is_empty());
        claims
    }

    /// Takes the addresses of the cache; an address for two interfaces belongs to none of them.
    fn claim_addresses(&mut self, claims: &Claims<'_>) {
        let mut files: BTreeMap<IpAddr, BTreeMap<u32, &str>> = BTreeMap::new();
        for (index, entries) in &claims.by_interface {
            for entry in entries {
                for address in &entry.addresses {
                    files.entry(*address).or_default().insert(*index, &entry.file);
                }
            }
        }
        for (address, claimants) in files {
            if let (Some(index), 1) = (claimants.keys().next(), claimants.len()) {
                self.found.insert(address, *index);
                continue;
            }
            self.contested.insert(address);
            let files = list(claimants.values().copied());
            self.problem(format!(
                "the interface of {address} is not known: CNI results {files} claim it for \
                 different interfaces"
            ));
        }
    }

    /// Finds the interfaces of addresses that are not in the cache, from the kernel.
    fn find_others(&mut self, claims: &Claims<'_>, pods: &BTreeSet<IpAddr>) {
        let unnamed = claims.unnamed.iter().flat_map(|entry| &entry.addresses);
        let wanted = pods.iter().chain(unnamed).copied();
        let wanted: BTreeSet<IpAddr> = wanted
            .filter(|address| is_pod_address(*address))
            .filter(|address| !self.found.contains_key(address))
            .filter(|address| !self.contested.contains(address))
            .collect();
        let has_addresses = |entries: &Vec<&Entry>| entries.iter().any(|e| !e.addresses.is_empty());
        let taken = claims.by_interface.iter().filter(|(_, entries)| has_addresses(entries));
        let taken: BTreeSet<u32> = taken.map(|(index, _)| *index).collect();
        let evidence = Evidence { snapshot: self.snapshot, taken: &taken, wanted: &wanted };
        let (found, problems) = evidence.judge();
        self.found.extend(found);
        self.resolved.problems.extend(problems);
    }

    /// Stores the result, with names of interfaces instead of indexes.
    fn attach(&mut self, claims: &Claims<'_>) {
        let mut used: BTreeSet<u32> = claims.by_interface.keys().copied().collect();
        let mut refused: BTreeSet<u32> = BTreeSet::new();
        for (address, index) in std::mem::take(&mut self.found) {
            used.insert(index);
            match self.attachment(index) {
                Ok(attachment) => {
                    self.resolved.attachments.addresses.insert(address, attachment);
                }
                Err(why) if refused.insert(index) => {
                    self.problem(format!("the interface of {address} is not used: {why}"));
                }
                Err(_) => {}
            }
        }
        let (named, unnamed) = (&claims.by_interface, &claims.unnamed);
        let named =
            named.iter().flat_map(|(index, all)| all.iter().map(|entry| (Some(*index), *entry)));
        let all = named.chain(unnamed.iter().map(|entry| (None, *entry)));
        let pods = all.filter_map(|(index, entry)| self.cni_pod(index, entry)).collect();
        self.resolved.pods = pods;
        self.resolved.attachments.pod_interfaces = self.pod_interfaces(&used);
    }

    /// How a pod behind the pair `index` is attached, or why rules cannot match its interface.
    fn attachment(&self, index: u32) -> Result<Attachment, String> {
        let unnamed = || "it disappeared".to_owned();
        let interface = self.snapshot.interfaces.get(&index).ok_or_else(unnamed)?;
        let name = self.name(index)?;
        self.carries_no_vlan(index)?;
        let Some(master) = interface.master else {
            return Ok(Attachment { interface: name, bridge: None });
        };
        let master_interface = self.snapshot.interfaces.get(&master).ok_or_else(unnamed)?;
        if master_interface.kind != InterfaceKind::Bridge {
            return Err(format!(
                "{name} is a port of {}, which is not a bridge",
                master_interface.name
            ));
        }
        if master_interface.master.is_some() {
            return Err(format!("bridge {} is part of another interface", master_interface.name));
        }
        // Routed packets arrive from the VLAN, bridged packets from the bridge.
        self.carries_no_vlan(master)?;
        Ok(Attachment { interface: name, bridge: Some(self.name(master)?) })
    }

    fn name(&self, index: u32) -> Result<InterfaceName, String> {
        let name = self.snapshot.interfaces.get(&index).map_or("", |interface| &interface.name);
        InterfaceName::new(name).ok_or_else(|| format!("rules cannot match the name {name:?}"))
    }

    fn carries_no_vlan(&self, index: u32) -> Result<(), String> {
        let is_on =
            |other: &&Interface| other.kind == InterfaceKind::Vlan && other.lower == Some(index);
        match self.snapshot.interfaces.values().find(is_on) {
            Some(vlan) => Err(format!("VLAN interface {} is on it", vlan.name)),
            None => Ok(()),
        }
    }

    /// The pod of an entry, if its interface is known.
    fn cni_pod(&self, index: Option<u32>, entry: &Entry) -> Option<CniPod> {
        let attachments = &self.resolved.attachments.addresses;
        let interface = if let Some(index) = index {
            self.name(index).ok()?
        } else {
            let found = entry.addresses.iter().find_map(|address| attachments.get(address));
            found?.interface
        };
        let is_here = |address: &&IpAddr| {
            let is_contested = self.contested.contains(*address);
            let found = attachments.get(*address);
            !is_contested && found.is_none_or(|found| found.interface == interface)
        };
        Some(CniPod {
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
            uid: entry.uid.clone(),
            addresses: entry.addresses.iter().filter(is_here).copied().collect(),
            interface,
        })
    }

    /// The interfaces on which only packets of pods arrive. `used` are the veth pairs that lead to
    /// a pod.
    fn pod_interfaces(&self, used: &BTreeSet<u32>) -> BTreeSet<InterfaceName> {
        let mut names = BTreeSet::new();
        for index in used {
            let Ok(attachment) = self.attachment(*index) else { continue };
            let Some(interface) = self.snapshot.interfaces.get(index) else { continue };
            let is_own = match interface.master {
                None => !self.snapshot.uplinks.contains(index),
                Some(bridge) => self.has_pods_only(bridge),
            };
            if is_own {
                names.insert(attachment.bridge.unwrap_or(attachment.interface));
            }
        }
        names
    }

    /// Whether all ports of a bridge lead to other network namespaces, and it leads to no gateway.
    fn has_pods_only(&self, bridge: u32) -> bool {
        let interfaces = self.snapshot.interfaces.values();
        let mut ports = interfaces.filter(|interface| interface.master == Some(bridge));
        !self.snapshot.uplinks.contains(&bridge) && ports.all(|port| port.peer.is_some())
    }
}

/// The first few names.
fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.take(4).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
