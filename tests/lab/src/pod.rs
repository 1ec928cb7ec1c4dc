//! What a test asks for as a pod, what it gets, and where traffic starts: [`PodSpec`], [`Pod`],
//! [`Endpoint`]. Building them is the lab's work.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::address;
use super::listener::Listener;
use super::namespace::Namespace;
use super::options::Family;

/// A pod to add to a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host_network: bool,
    pub(super) listeners: Vec<Listener>,
}

impl PodSpec {
    /// A pod on `node` without listeners, with addresses that the lab chooses.
    #[must_use]
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        node: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            node: node.into(),
            addresses: Vec::new(),
            host_network: false,
            listeners: Vec::new(),
        }
    }

    /// Adds a listener.
    #[must_use]
    pub fn listen(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Adds an address, in place of the one of its family that the lab would choose.
    ///
    /// It must lie in the node's pod CIDR; one that a removed pod had may be used again.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Puts the pod into its node's network namespace: its addresses are the node's.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(super) fn check(&self) -> Result<()> {
        for name in [&self.namespace, &self.name] {
            let fits = name.len() <= 63
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && !name.is_empty();
            ensure!(fits, "{name:?} is not a DNS label, as names of pods in a lab must be");
        }
        ensure!(
            !self.host_network || self.addresses.is_empty(),
            "pod {} has hostNetwork and addresses of its own",
            self.key()
        );
        Ok(())
    }
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    pub(super) spec: PodSpec,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) netns: Arc<Namespace>,
    pub(super) link: Option<String>,
}

impl Pod {
    /// `namespace/name`, which is also how its listeners identify themselves.
    #[must_use]
    pub fn key(&self) -> String {
        self.spec.key()
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The name of its node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.spec.node
    }

    /// True when the pod shares its node's network namespace.
    #[must_use]
    pub fn is_host_network(&self) -> bool {
        self.spec.host_network
    }

    /// Its addresses, IPv4 first: what `status.podIPs` would hold.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its address of one family.
    ///
    /// # Errors
    /// When the pod has none.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        address::of_family(&self.addresses, family)
            .with_context(|| format!("pod {} has no {family:?} address", self.key()))
    }

    /// The veth on the node's side; none with hostNetwork.
    #[must_use]
    pub fn host_link(&self) -> Option<&str> {
        self.link.as_deref()
    }

    /// Its network namespace: the node's with hostNetwork.
    #[must_use]
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }
}

/// Where a probe or a connection starts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A pod by `namespace/name`.
    Pod(String),
    /// A node by name: its own processes, kubelet for one.
    Node(String),
    /// The host outside the cluster.
    Internet,
}

impl Endpoint {
    /// The pod `namespace/name`.
    #[must_use]
    pub fn pod(key: impl Into<String>) -> Self {
        Self::Pod(key.into())
    }

    /// The node `name`.
    #[must_use]
    pub fn node(name: impl Into<String>) -> Self {
        Self::Node(name.into())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => f.write_str(key),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Internet => f.write_str("internet"),
        }
    }
}
