//! A node: a network namespace with addresses, and a place to run agents.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::address;
use super::namespace::Namespace;
use super::options::{Family, Options, Topology, Underlay};

/// A node of a lab.
#[derive(Debug)]
pub struct Node {
    name: String,
    index: u8,
    addresses: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    tunnels: Vec<IpAddr>,
    pod_cidrs: Vec<IpNet>,
    pub(super) netns: Arc<Namespace>,
}

impl Node {
    pub(super) fn new(options: &Options, index: u8, netns: Arc<Namespace>) -> Self {
        let families = options.families.each();
        let all = |of: fn(u8, Family) -> IpAddr| families.iter().map(|f| of(index, *f)).collect();
        Self {
            name: name(index),
            index,
            addresses: all(address::node),
            gateways: match options.topology {
                Topology::Bridge => all(address::gateway),
                Topology::Routed => Vec::new(),
            },
            tunnels: match options.underlay {
                Underlay::Vxlan => all(address::tunnel),
                Underlay::HostGw => Vec::new(),
            },
            pod_cidrs: families.iter().map(|f| address::pod_cidr(index, *f)).collect(),
            netns,
        }
    }

    /// `n1`, `n2`, …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn index(&self) -> u8 {
        self.index
    }

    /// The addresses that the Node object would list as `InternalIP`, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its address of one family.
    ///
    /// # Errors
    /// When the lab does not have the family.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        address::of_family(&self.addresses, family)
            .with_context(|| format!("node {} has no {family:?} address", self.name))
    }

    /// The addresses of `cni0`; none in [`Topology::Routed`]. The node's packets to its own pods
    /// come from these.
    #[must_use]
    pub fn gateway_addresses(&self) -> &[IpAddr] {
        &self.gateways
    }

    /// The addresses of the vxlan device; none with [`Underlay::HostGw`]. The node's packets to
    /// pods of other nodes come from these.
    #[must_use]
    pub fn tunnel_addresses(&self) -> &[IpAddr] {
        &self.tunnels
    }

    /// All its own addresses.
    pub(super) fn local_addresses(&self) -> Vec<IpAddr> {
        [self.addresses.as_slice(), &self.gateways, &self.tunnels].concat()
    }

    /// What `spec.podCIDRs` would hold, IPv4 first.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// A command that will run on this node; see [`Namespace::command`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.netns.command(program)
    }

    /// Runs a script on this node; see [`Namespace::shell`].
    ///
    /// # Errors
    /// As [`Namespace::shell`].
    pub fn shell(&self, script: &str) -> Result<String> {
        self.netns.shell(script)
    }
}

/// The name of node `index`.
pub(super) fn name(index: u8) -> String {
    format!("n{index}")
}
