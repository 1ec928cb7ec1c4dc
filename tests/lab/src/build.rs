//! From a description to a running lab: [`LabBuilder`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::listener::{self, Listener};
use super::namespace::Namespace;
use super::node::{self, Node};
use super::options::{
    Families, Family, ForwardPolicy, IptablesVariant, Options, Topology, Underlay,
};
use super::pod::{Endpoint, PodSpec};
use super::server::Server;
use super::sweep::{Claim, sweep_stale};
use super::{INTERNET_PORT, Lab, NODE_PORT, address, firewall, process, requirements, wire};

/// Set in every namespace before it has a link, so that links start with them.
const EVERYWHERE: [(&str, &str); 9] = [
    // An IPv6 address that waits for duplicate detection drops its first second of packets.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // Ping sockets, for ICMP probes.
    ("ipv4/ping_group_range", "0 2147483647"),
    // By default a kernel answers a burst of refused packets with a few ICMP errors only: the rest
    // of the probes would look dropped. (An IPv6 mask of 0 limits the reserved type 0 alone.)
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/ratemask", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    // The same source port again, also after this side closed first.
    ("ipv4/tcp_tw_reuse", "1"),
];

/// Set where the kernel has it: reuse of a port in `TIME_WAIT` after 1 ms, not 1 s.
const PORT_REUSE_DELAY: (&str, &str) = ("ipv4/tcp_tw_reuse_delay", "1");

const ROUTER: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// A description of a lab. [`Lab::builder`] has the defaults; the last word on each option counts.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    options: Options,
    pods: Vec<PodSpec>,
    node_listeners: Vec<Listener>,
    internet_listeners: Vec<Listener>,
    bare_nodes: bool,
}

impl Default for LabBuilder {
    fn default() -> Self {
        let all = |port| vec![Listener::tcp(port), Listener::udp(port), Listener::sctp(port)];
        Self {
            options: Options {
                nodes: 3,
                topology: Topology::Bridge,
                underlay: Underlay::HostGw,
                families: Families::Dual,
                iptables: IptablesVariant::Nft,
                forward: ForwardPolicy::Accept,
                direct_internet: false,
            },
            pods: Vec::new(),
            node_listeners: all(NODE_PORT),
            internet_listeners: all(INTERNET_PORT),
            bare_nodes: false,
        }
    }
}

impl LabBuilder {
    /// The number of nodes, 1 to 100, named `n1`, `n2`, …
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.options.nodes = nodes;
        self
    }

    /// How pods hang on their node.
    #[must_use]
    pub fn topology(mut self, topology: Topology) -> Self {
        self.options.topology = topology;
        self
    }

    /// How nodes reach each other's pods.
    #[must_use]
    pub fn underlay(mut self, underlay: Underlay) -> Self {
        self.options.underlay = underlay;
        self
    }

    /// The families of all addresses.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.options.families = families;
        self
    }

    /// The iptables variant of the lab's own rules.
    #[must_use]
    pub fn iptables(mut self, variant: IptablesVariant) -> Self {
        self.options.iptables = variant;
        self
    }

    /// What nodes do with forwarded packets that no rule judged.
    #[must_use]
    pub fn forward_policy(mut self, policy: ForwardPolicy) -> Self {
        self.options.forward = policy;
        self
    }

    /// True gives the internet host a route to the pods, so that they see its own address.
    #[must_use]
    pub fn direct_internet(mut self, direct: bool) -> Self {
        self.options.direct_internet = direct;
        self
    }

    /// Adds a pod to start with.
    #[must_use]
    pub fn pod(mut self, pod: PodSpec) -> Self {
        self.pods.push(pod);
        self
    }

    /// Adds pods to start with.
    #[must_use]
    pub fn pods(mut self, pods: impl IntoIterator<Item = PodSpec>) -> Self {
        self.pods.extend(pods);
        self
    }

    /// Adds a listener to every node itself, besides those of [`NODE_PORT`].
    #[must_use]
    pub fn node_listener(mut self, listener: Listener) -> Self {
        self.node_listeners.push(listener);
        self
    }

    /// Adds a listener to the internet host, besides those of [`INTERNET_PORT`].
    #[must_use]
    pub fn internet_listener(mut self, listener: Listener) -> Self {
        self.internet_listeners.push(listener);
        self
    }

    /// Nodes on which a real kubelet and kube-proxy will run: nothing listens there yet, and of the
    /// rules there is only the masquerading of pods towards the internet host.
    #[must_use]
    pub fn bare_nodes(mut self) -> Self {
        self.node_listeners = Vec::new();
        self.bare_nodes = true;
        self
    }

    /// Builds the lab. Sweeps what dead processes left behind first.
    ///
    /// # Errors
    /// When not root, when the machine lacks a tool or a kernel feature (the message lists all of
    /// them), or when a description contradicts itself. Nothing stays behind then.
    pub fn build(self) -> Result<Lab> {
        let options = self.options;
        ensure!(
            (1..=address::MAX_NODES).contains(&options.nodes),
            "a lab has 1 to {} nodes, not {}",
            address::MAX_NODES,
            options.nodes
        );
        check_once(options.iptables)?;
        sweep_stale()?;
        let mut claim = Claim::new()?;
        claim.bequeath()?;
        let (fabric, internet, nodes) = namespaces(&options, &claim)?;
        let server = Server::start()?;
        let mut lab = Lab {
            server,
            nodes: (1..)
                .zip(nodes)
                .map(|(i, ns)| (node::name(i), Node::new(&options, i, ns)))
                .collect(),
            options,
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            service_chains: BTreeMap::new(),
            fabric,
            internet,
            used_addresses: BTreeSet::new(),
            next_serial: 1,
            claim,
        };
        lab.wire_backbone().context("failed to wire the nodes of the lab")?;
        lab.load_base_rules(self.bare_nodes)?;
        lab.listen(&self.node_listeners, &self.internet_listeners)?;
        lab.add_pods(self.pods)?;
        Ok(lab)
    }
}

/// Checks the machine once for each variant: the check costs as much as a small lab.
fn check_once(variant: IptablesVariant) -> Result<()> {
    static CHECKED: Mutex<BTreeSet<IptablesVariant>> = Mutex::new(BTreeSet::new());
    let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    if !checked.contains(&variant) {
        requirements::check(variant)?;
        checked.insert(variant);
    }
    Ok(())
}

type Backbone = (Namespace, Arc<Namespace>, Vec<Arc<Namespace>>);

fn namespaces(options: &Options, claim: &Claim) -> Result<Backbone> {
    let (fabric, internet) = (claim.name("fabric"), claim.name("internet"));
    let nodes: Vec<String> =
        (1..=options.nodes).map(|i| claim.name(&format!("node.{}", node::name(i)))).collect();
    let all = [&[fabric.clone(), internet.clone()], nodes.as_slice()].concat();
    let fabric_and_nodes = nodes.iter().chain([&fabric]);
    create(&all)?;
    for name in fabric_and_nodes {
        Namespace::open(name)?.sysctl(&ROUTER)?;
    }
    let fabric = Namespace::open(fabric)?;
    // The wire between nodes is no place for iptables.
    fabric.sysctl(&[
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
    ])?;
    let nodes = nodes.into_iter().map(|name| Namespace::open(name).map(Arc::new));
    Ok((fabric, Arc::new(Namespace::open(internet)?), nodes.collect::<Result<_>>()?))
}

/// Creates namespaces that are ready for links.
pub(super) fn create(names: &[String]) -> Result<()> {
    let mut commands = String::new();
    for name in names {
        let _ = writeln!(commands, "netns add {name}");
    }
    process::ip(None, &commands)?;
    for name in names {
        let namespace = Namespace::open(name)?;
        namespace.sysctl(&EVERYWHERE)?;
        let _ = namespace.sysctl(&[PORT_REUSE_DELAY]);
    }
    Ok(())
}

impl Lab {
    fn wire_backbone(&self) -> Result<()> {
        let options = &self.options;
        let named = self.nodes.values();
        let links = named.map(|node| (node.name().to_owned(), node.netns().name().to_owned()));
        let (fabric, internet) = (self.fabric.name(), self.internet.name());
        process::ip(None, &wire::backbone(fabric, internet, links))?;
        let ports: Vec<String> = self.nodes.keys().cloned().collect();
        process::ip(Some(fabric), &wire::fabric(options, &ports))?;
        process::ip(Some(internet), &wire::internet(options))?;
        for node in self.nodes.values() {
            if options.topology == Topology::Bridge {
                node.netns().sysctl(&[
                    ("bridge/bridge-nf-call-iptables", "1"),
                    ("bridge/bridge-nf-call-ip6tables", "1"),
                    ("bridge/bridge-nf-filter-vlan-tagged", "1"),
                ])?;
            }
            let name = node.netns().name();
            process::ip(Some(name), &wire::node(options, node.index()))?;
            process::bridge(name, &wire::tunnel_forwarding(options, node.index()))?;
        }
        Ok(())
    }

    fn load_base_rules(&self, bare: bool) -> Result<()> {
        // Both families even in a lab of one: a node has both tables.
        for family in [Family::V4, Family::V6] {
            let rules = if bare {
                firewall::masquerade(family)
            } else {
                firewall::base(family, self.options.forward)
            };
            for node in self.nodes.values() {
                process::restore(node.netns(), self.options.iptables.program(family), &rules)?;
            }
        }
        Ok(())
    }

    fn listen(&self, on_nodes: &[Listener], on_internet: &[Listener]) -> Result<()> {
        let families = self.options.families;
        for node in self.nodes.values() {
            let who = Endpoint::node(node.name()).to_string();
            let addresses = node.local_addresses();
            let sockets = listener::open(node.netns(), families, &addresses, on_nodes, true)?;
            self.server.add(&who, &who, sockets);
        }
        let who = Endpoint::Internet.to_string();
        let addresses: Vec<_> = families.each().iter().map(|f| address::internet(*f)).collect();
        let sockets = listener::open(&self.internet, families, &addresses, on_internet, true)?;
        self.server.add(&who, &who, sockets);
        Ok(())
    }
}
