//! Pods and services come and go in a running lab.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use super::address;
use super::namespace::Namespace;
use super::options::{Family, Topology};
use super::pod::{Pod, PodSpec};
use super::service::{self, ServiceSpec, Transport};
use super::wire::{self, PodWire};
use super::{Lab, build, listener, process};

/// The longest that a new link may take until it runs.
const LINKS_RUN_WITHIN: Duration = Duration::from_secs(10);

impl Lab {
    /// Adds a pod; its listeners answer when this returns.
    ///
    /// # Errors
    /// When the name or an address is taken, when the node does not exist, or when a port is in use
    /// (hostNetwork). The lab is as before then.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let key = spec.key();
        self.add_pods([spec])?;
        self.pod(&key)
    }

    /// Adds pods, all or none; faster than one by one.
    ///
    /// # Errors
    /// As [`Lab::add_pod`].
    pub fn add_pods(&mut self, specs: impl IntoIterator<Item = PodSpec>) -> Result<()> {
        let mut pods: BTreeMap<String, (PodSpec, Vec<IpAddr>)> = BTreeMap::new();
        for spec in specs {
            let key = spec.key();
            let addresses =
                self.plan(&spec, &pods).with_context(|| format!("failed to plan pod {key}"))?;
            pods.insert(key, (spec, addresses));
        }
        let mut wires = BTreeMap::new();
        for (key, (spec, addresses)) in pods.iter().filter(|(_, (spec, _))| !spec.host_network) {
            wires.insert(
                key.clone(),
                PodWire {
                    namespace: self.claim.name(&format!("pod.{}.{}", spec.namespace, spec.name)),
                    node: self.node(&spec.node)?.index(),
                    serial: self.next_serial,
                    addresses: addresses.clone(),
                },
            );
            // 65,535 pods one after the other are more than a test has time for.
            self.next_serial =
                self.next_serial.checked_add(1).context("no more pods in this lab")?;
        }
        let keys: Vec<String> = pods.keys().cloned().collect();
        let result = self.wire_pods(&wires).and_then(|()| self.start_pods(pods, &wires));
        if result.is_err() {
            for key in &keys {
                self.server.remove(key);
                self.pods.remove(key);
            }
            for wire in wires.values() {
                // Some may not exist yet.
                let _ = process::ip(None, &format!("netns del {}\n", wire.namespace));
            }
        }
        result
    }

    /// Removes a pod: its sockets are closed, its links and addresses gone when this returns.
    ///
    /// # Errors
    /// When there is no such pod or it cannot be removed.
    pub fn remove_pod(&mut self, key: &str) -> Result<()> {
        let pod = self.pods.remove(key).with_context(|| format!("the lab has no pod {key}"))?;
        self.server.remove(key);
        let Some(link) = &pod.link else { return Ok(()) };
        // The kernel takes a deleted namespace apart later; routes and names must be free now.
        let node = self.node(pod.node())?.netns().name();
        process::ip(Some(node), &format!("link del {link}\n"))
            .and_then(|()| process::ip(None, &format!("netns del {}\n", pod.netns.name())))
            .with_context(|| format!("failed to remove pod {key}"))
    }

    /// Removes the pod of the same name, if there is one, and adds this one.
    ///
    /// # Errors
    /// As [`Lab::remove_pod`] and [`Lab::add_pod`]; after a failure to add, the old pod is gone.
    pub fn replace_pod(&mut self, spec: PodSpec) -> Result<&Pod> {
        let key = spec.key();
        if self.pods.contains_key(&key) {
            self.remove_pod(&key)?;
        }
        self.add_pod(spec)
    }

    /// Chooses addresses, and refuses what contradicts the lab or the pods `before` it.
    fn plan(
        &self,
        spec: &PodSpec,
        before: &BTreeMap<String, (PodSpec, Vec<IpAddr>)>,
    ) -> Result<Vec<IpAddr>> {
        spec.check()?;
        let key = spec.key();
        ensure!(
            !self.pods.contains_key(&key) && !before.contains_key(&key),
            "there is a pod of that name"
        );
        let node = self.node(&spec.node)?;
        if spec.host_network {
            let sctp = spec.listeners.iter().any(|l| l.protocol == Transport::Sctp);
            ensure!(!sctp, "the node answers SCTP itself; a hostNetwork pod cannot");
            return Ok(node.addresses().to_vec());
        }
        let taken = |address: IpAddr| {
            self.pods.values().any(|pod| pod.addresses.contains(&address))
                || before.values().any(|(_, addresses)| addresses.contains(&address))
                || address == address::gateway(node.index(), Family::of(address))
                || address == address::tunnel(node.index(), Family::of(address))
        };
        let mut addresses = Vec::new();
        for (&family, cidr) in self.options.families.each().iter().zip(node.pod_cidrs()) {
            let wanted: Vec<IpAddr> = spec
                .addresses
                .iter()
                .copied()
                .filter(|&address| Family::of(address) == family)
                .collect();
            match wanted.as_slice() {
                [] => {
                    let hosts = address::FIRST_POD..=address::LAST_POD;
                    let free = || {
                        let all =
                            hosts.clone().map(|host| address::pod(node.index(), host, family));
                        all.filter(|&address| !taken(address))
                    };
                    // Addresses are used again, as by a CNI, only after all others.
                    let fresh = free().find(|address| !self.used_addresses.contains(address));
                    let chosen = fresh.or_else(|| free().next());
                    addresses.push(chosen.context("the node's pod CIDR has no free address")?);
                }
                [address] => {
                    ensure!(!taken(*address), "address {address} is taken");
                    ensure!(IpNet::contains(cidr, address), "address {address} is outside {cidr}");
                    addresses.push(*address);
                }
                _ => bail!("a pod has one address a family, not {wanted:?}"),
            }
        }
        let given = spec.addresses.iter().all(|address| addresses.contains(address));
        ensure!(given, "an address is of a family that the lab does not have");
        Ok(addresses)
    }

    fn wire_pods(&self, wires: &BTreeMap<String, PodWire>) -> Result<()> {
        let options = &self.options;
        let names: Vec<String> = wires.values().map(|wire| wire.namespace.clone()).collect();
        build::create(&names)?;
        let mut links = String::new();
        let mut on_nodes: BTreeMap<&str, String> = BTreeMap::new();
        for node in self.nodes.values() {
            for wire in wires.values().filter(|wire| wire.node == node.index()) {
                let namespace = node.netns().name();
                links.push_str(&wire::pod_link(options, wire, namespace));
                on_nodes.entry(namespace).or_default().push_str(&wire::pod_on_node(options, wire));
            }
        }
        process::ip(None, &links)?;
        for (namespace, commands) in on_nodes {
            process::ip(Some(namespace), &commands)?;
        }
        for wire in wires.values() {
            process::ip(Some(&wire.namespace), &wire::pod(options, wire))?;
            self.forget_neighbours(wire)?;
        }
        for wire in wires.values() {
            until_links_run(&Namespace::open(&wire.namespace)?)?;
        }
        let concerned = |index| wires.values().any(|wire| wire.node == index);
        self.nodes
            .values()
            .filter(|node| concerned(node.index()))
            .try_for_each(|node| until_links_run(node.netns()))
    }

    /// A reused address has another MAC address now. Bridged neighbours would ask only after the
    /// old one stopped answering; a CNI announces the new one.
    fn forget_neighbours(&self, wire: &PodWire) -> Result<()> {
        let mut commands = String::new();
        for address in wire.addresses.iter().filter(|a| self.used_addresses.contains(a)) {
            let _ = writeln!(commands, "neigh flush to {address}");
        }
        if commands.is_empty() || self.options.topology != Topology::Bridge {
            return Ok(());
        }
        let node = self.nodes.values().find(|node| node.index() == wire.node);
        if let Some(node) = node {
            process::ip(Some(node.netns().name()), &commands)?;
            for pod in self.pods.values().filter(|pod| pod.node() == node.name()) {
                process::ip(Some(pod.netns().name()), &commands)?;
            }
        }
        Ok(())
    }

    fn start_pods(
        &mut self,
        pods: BTreeMap<String, (PodSpec, Vec<IpAddr>)>,
        wires: &BTreeMap<String, PodWire>,
    ) -> Result<()> {
        for (key, (spec, addresses)) in pods {
            let node = self.node(&spec.node)?;
            let wire = wires.get(&key);
            let (netns, bound_to) = match wire {
                Some(wire) => (Arc::new(Namespace::open(&wire.namespace)?), addresses.clone()),
                None => (Arc::clone(&node.netns), node.local_addresses()),
            };
            let families = self.options.families;
            let sockets =
                listener::open(&netns, families, &bound_to, &spec.listeners, wire.is_some())
                    .with_context(|| format!("failed to start the listeners of pod {key}"))?;
            self.server.add(&key, &key, sockets);
            let link = wire.map(PodWire::host_link);
            if wire.is_some() {
                self.used_addresses.extend(addresses.iter().copied());
            }
            self.pods.insert(key, Pod { spec, addresses, netns, link });
        }
        Ok(())
    }

    /// Installs a service on every node, in place of one of the same name.
    ///
    /// # Errors
    /// When a node refuses the rules.
    pub fn add_service(&mut self, service: ServiceSpec) -> Result<()> {
        self.services.insert(service.name.clone(), service);
        self.sync_services()
    }

    /// Removes a service from every node.
    ///
    /// # Errors
    /// When there is no such service, or when a node refuses the rules.
    pub fn remove_service(&mut self, name: &str) -> Result<()> {
        self.services.remove(name).with_context(|| format!("the lab has no service {name}"))?;
        self.sync_services()
    }

    fn sync_services(&mut self) -> Result<()> {
        for &family in self.options.families.each() {
            let installed = self.service_chains.entry(family).or_default();
            let rendered = service::render(self.services.values(), family, installed);
            for node in self.nodes.values() {
                let program = self.options.iptables.program(family);
                process::restore(node.netns(), program, &rendered.text)?;
            }
            *installed = rendered.chains;
        }
        Ok(())
    }
}

/// Waits until the links of a namespace run: the kernel looks at new ones once a second when there
/// are many, and drops what is sent over one before that.
fn until_links_run(namespace: &Namespace) -> Result<()> {
    let deadline = Instant::now() + LINKS_RUN_WITHIN;
    loop {
        let links = namespace.shell("ip -o link show type veth")?;
        let Some(idle) = links.lines().find(|link| !link.contains(" state UP ")) else {
            return Ok(());
        };
        ensure!(Instant::now() < deadline, "a link of {} does not run: {idle}", namespace.name());
        thread::sleep(Duration::from_millis(5));
    }
}
