//! The pods of this node: their addresses, and the interfaces through which they send.
//!
//! ```text
//! attach ─ Found ─► addresses that the API server does not show yet ─► engine
//!             └───► attachments of the pods that the engine knows ───► dataplane
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::addresses::Addresses;
use policy_engine::engine::Engine;
use policy_engine::labels::Str;
use policy_engine::model::{Change, Pod, PodKey};
use portcullis_crds::diagnostic::Diagnostic;

use crate::dataplane::attachment::{Attachments, InterfaceName};
use crate::node::attach::{Finder, Found};
use crate::node::extra_ranges::ExtraRanges;

/// What the agent knows of the pods of this node in addition to the engine.
#[derive(Debug)]
pub struct LocalPods {
    node: Str,
    finder: Finder,
    found: Found,
    /// Which addresses pods may use in addition to their own.
    extra_ranges: ExtraRanges,
    /// Pods of this node for which the API server shows no address.
    waiting: BTreeMap<PodKey, Arc<Pod>>,
    /// The attachments that were returned last, without addresses that were in two sets.
    given: Attachments,
    /// Whether the attachments may differ from those that were returned last.
    is_changed: bool,
}

impl LocalPods {
    /// The pods of `node`, whose interfaces `finder` finds. They may use more addresses within
    /// `extra_ranges`.
    #[must_use]
    pub fn new(node: &str, finder: Finder, extra_ranges: ExtraRanges) -> Self {
        Self {
            node: node.into(),
            finder,
            extra_ranges,
            found: Found::default(),
            waiting: BTreeMap::new(),
            given: Attachments::default(),
            is_changed: false,
        }
    }

    /// Waits until the interfaces of pods change.
    pub async fn next(&mut self) -> Found {
        self.finder.next().await
    }

    /// Asks for the interfaces of the pods that `engine` knows; returns whether it knows any pods.
    #[must_use]
    pub fn ask(&self, engine: &Engine) -> bool {
        let known: BTreeSet<IpAddr> = engine.subject_addresses().collect();
        let is_any = !known.is_empty();
        self.finder.set_pods(known);
        is_any
    }

    /// Whether an interface was found for each pod that `engine` knows.
    #[must_use]
    pub fn knows_all(&self, engine: &Engine) -> bool {
        let found = &self.found.attachments.addresses;
        engine.subject_addresses().all(|address| found.contains_key(&address))
    }

    /// Stores the interfaces that were found. Returns the changes for pods without an address in
    /// the API server, and the diagnostics of the search.
    pub fn take(&mut self, found: Found) -> (Vec<Change>, Vec<Diagnostic>) {
        let before = std::mem::replace(&mut self.found, found);
        self.is_changed = true;
        let mut changes = Vec::new();
        for (key, pod) in &self.waiting {
            let addresses = self::addresses(&self.found, key);
            if addresses != self::addresses(&before, key) {
                changes.push(with_addresses(pod, addresses));
            }
        }
        (changes, self.found.diagnostics.clone())
    }

    /// Returns the change, with the addresses from the container runtime if it concerns a pod of
    /// this node for which the API server does not show an address yet.
    pub fn complete(&mut self, change: Change, engine: &Engine) -> Change {
        self.is_changed |= self.extra_ranges.concerns(&change, engine.world());
        let Change::Pod(key, pod) = change else { return change };
        self.waiting.remove(&key);
        let own = pod.as_ref().filter(|pod| pod.node.as_ref() == Some(&self.node));
        self.is_changed |= own.is_some() || engine.is_subject(&key);
        match own.filter(|pod| pod.takes_part() && pod.addresses.is_empty()) {
            None => Change::Pod(key, pod),
            Some(own) => {
                let change = with_addresses(own, addresses(&self.found, &key));
                self.waiting.insert(key, own.clone());
                change
            }
        }
    }

    /// The attachments of the pods that `engine` knows, and the diagnostics of the ranges that pods
    /// request; `None` if the attachments have not changed.
    pub fn attachments(&mut self, engine: &Engine) -> Option<(Attachments, Vec<Diagnostic>)> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let known: BTreeSet<IpAddr> = engine.subject_addresses().collect();
        self.finder.set_pods(known.clone());
        let mut attachments = self.found.attachments.clone();
        attachments.bridge_ports = self.bridge_ports();
        let granted = self.extra_ranges.grant(engine.world(), &known, &attachments);
        attachments.extra_ranges = granted.ranges;
        attachments.addresses.retain(|address, _| known.contains(address));
        attachments.unattached =
            known.into_iter().filter(|known| !attachments.addresses.contains_key(known)).collect();
        // Elements leave sets before others join: packets of an address that moves to another set
        // would be dropped in between. So the address is in both sets until the next call.
        let Attachments { addresses, unattached, .. } =
            std::mem::replace(&mut self.given, attachments.clone());
        let no_longer = |address: &IpAddr| attachments.unattached.contains(address);
        let lost: Vec<_> =
            addresses.into_iter().filter(|(address, _)| no_longer(address)).collect();
        let is_found = |address: &IpAddr| attachments.addresses.contains_key(address);
        let found: Vec<IpAddr> = unattached.into_iter().filter(is_found).collect();
        self.is_changed = !(lost.is_empty() && found.is_empty());
        attachments.addresses.extend(lost);
        attachments.unattached.extend(found);
        Some((attachments, granted.diagnostics))
    }

    /// The interfaces on which packets of pods arrive, without the addresses of pods.
    #[must_use]
    pub fn interfaces(&self) -> Attachments {
        Attachments {
            pod_interfaces: self.found.attachments.pod_interfaces.clone(),
            bridge_ports: self.bridge_ports(),
            ..Attachments::default()
        }
    }

    fn bridge_ports(&self) -> BTreeSet<InterfaceName> {
        let found = self.found.attachments.addresses.values();
        found.filter(|at| at.bridge.is_some()).map(|at| at.interface).collect()
    }

    /// Whether [`LocalPods::attachments`] returns new attachments at the next call.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }
}

/// The addresses of a pod from the container runtime; empty if it has two pods of this name.
fn addresses(found: &Found, key: &PodKey) -> Addresses {
    let is_named = |name: &str, namespace: &str| *name == *key.name && *namespace == *key.namespace;
    let mut pods = found.pods.iter().filter(|pod| is_named(&pod.name, &pod.namespace));
    match (pods.next(), pods.next()) {
        (Some(pod), None) => pod.addresses.iter().copied().collect(),
        _ => Addresses::default(),
    }
}

fn with_addresses(pod: &Arc<Pod>, addresses: Addresses) -> Change {
    let pod = if addresses.is_empty() {
        pod.clone()
    } else {
        Arc::new(Pod { addresses, ..Pod::clone(pod) })
    };
    Change::Pod(pod.key.clone(), Some(pod))
}
