//! Nodes and pods as network namespaces, and questions asked with real packets.
//!
//! ```text
//!  internet 203.0.113.10 ── fabric ──┬── node n1 172.20.0.11 ──┬── pod 10.244.1.10
//!                                    ├── node n2 172.20.0.12   └── pod 10.244.1.11
//!                                    └── node n3 …
//! ```
//!
//! A [`Lab`] is a cluster's network without a cluster: what a CNI and kube-proxy would have built,
//! real kernels' routing, bridging, NAT and connection tracking, and nothing of Portcullis. Tests
//! start agents in its nodes and probe ([`Lab::probe_all`]) who reaches whom.
//!
//! Everything happens inside namespaces that the lab makes; the root namespace gets no link, no
//! address and no rule. Labs do not see each other, so tests may run in parallel; of machine-wide
//! things they share only iptables-legacy's lock. A lab is gone when it is dropped, also by a
//! panic, and a moment after its process was killed; what is left even so, the next lab sweeps.
//!
//! | file | what is in it |
//! |---|---|
//! | `options`, `address` | the choices; the address plan |
//! | `wire`, `firewall`, `service` | text for `ip`, `bridge` and `iptables-restore` |
//! | `process`, `namespace` | the only places that start processes or enter namespaces |
//! | `build`, `cluster` | a lab is built; pods and services come and go |
//! | `listener`, `server`, `sctp` | what answers |
//! | `probe`, `flight`, `volley`, `connection` | what asks |
//! | `frames` | whole frames, sent and captured |
//! | `requirements`, `sweep` | before and after |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

mod address;
mod build;
mod cluster;
mod connection;
mod firewall;
mod flight;
mod frames;
mod listener;
mod namespace;
mod node;
mod options;
mod pod;
mod probe;
mod process;
mod requirements;
mod sctp;
mod server;
mod service;
mod sweep;
mod volley;
mod wire;

pub use address::{internet, node_network, pod_network};
pub use build::LabBuilder;
pub use connection::{Connection, ConnectionSpec, End};
pub use frames::{Capture, Frames};
pub use listener::{Behaviour, Listener};
pub use namespace::Namespace;
pub use node::Node;
pub use options::{Families, Family, ForwardPolicy, IptablesVariant, Topology, Underlay};
pub use pod::{Endpoint, Pod, PodSpec};
pub use probe::{Expected, Observation, Outcome, Probe, Protocol, Settled};
pub use sctp::crc32c;
pub use service::{ServiceSpec, Transport};
pub use sweep::{is_stale, sweep, sweep_stale};

use options::Options;
use server::Server;
use sweep::Claim;

/// How long a probe waits for an answer: far longer than any answer inside one machine takes, and
/// shorter than the second after which TCP sends its SYN again.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(250);
/// The port on which every node itself answers TCP, UDP and SCTP, as its kubelet would.
pub const NODE_PORT: u16 = 10250;
/// The port on which the internet host answers TCP, UDP and SCTP.
pub const INTERNET_PORT: u16 = 443;

/// A running lab. See the [module](self) for what it is; [`Lab::builder`] makes one.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    // Sockets keep a namespace alive, so the server goes before the claim, which is last.
    server: Server,
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<String, Pod>,
    services: BTreeMap<String, ServiceSpec>,
    service_chains: BTreeMap<Family, BTreeSet<String>>,
    fabric: Namespace,
    internet: Arc<Namespace>,
    used_addresses: BTreeSet<IpAddr>,
    next_serial: u16,
    claim: Claim,
}

impl Lab {
    /// Starts the description of a lab: three nodes, [`Topology::Bridge`], [`Underlay::HostGw`],
    /// [`Families::Dual`], [`IptablesVariant::Nft`], no pods.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// What the names of this lab's namespaces start with; [`sweep`] takes it.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.claim.prefix()
    }

    /// The families of the lab.
    #[must_use]
    pub fn families(&self) -> Families {
        self.options.families
    }

    /// The iptables variant of the lab's own rules, for agents to use the same.
    #[must_use]
    pub fn iptables(&self) -> IptablesVariant {
        self.options.iptables
    }

    /// The nodes by name, `n1` first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node of a name such as `n1`.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).with_context(|| format!("the lab has no node {name}"))
    }

    /// The pods by `namespace/name`.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pod `namespace/name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, key: &str) -> Result<&Pod> {
        self.pods.get(key).with_context(|| format!("the lab has no pod {key}"))
    }

    /// The network namespace in which an endpoint's traffic starts.
    ///
    /// # Errors
    /// When there is no such pod or node.
    pub fn netns(&self, endpoint: &Endpoint) -> Result<&Namespace> {
        match endpoint {
            Endpoint::Pod(key) => Ok(self.pod(key)?.netns()),
            Endpoint::Node(name) => Ok(self.node(name)?.netns()),
            Endpoint::Internet => Ok(&self.internet),
        }
    }

    /// The namespace with the bridge between the nodes, for looking at packets on the way.
    #[must_use]
    pub fn fabric(&self) -> &Namespace {
        &self.fabric
    }

    /// The addresses of [`Lab::fabric`] towards the nodes, IPv4 first: nodes reach what listens
    /// there, as they would reach a control plane.
    #[must_use]
    pub fn fabric_addresses(&self) -> Vec<IpAddr> {
        self.families().each().iter().map(|family| address::fabric(*family)).collect()
    }

    /// Who has an address, in the words of [`Outcome::Open`]: a pod, else `node/NAME`, `internet`.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<String> {
        let pod = self
            .pods
            .values()
            .find(|pod| !pod.is_host_network() && pod.addresses().contains(&address));
        if let Some(pod) = pod {
            return Some(pod.key());
        }
        if let Some(node) =
            self.nodes.values().find(|node| node.local_addresses().contains(&address))
        {
            return Some(Endpoint::node(node.name()).to_string());
        }
        (internet(Family::of(address)) == address).then(|| Endpoint::Internet.to_string())
    }
}
