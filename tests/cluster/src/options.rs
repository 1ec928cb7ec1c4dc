//! What a cluster can be asked to look like: closed choices, which are also the flags of
//! `cluster up`.

use std::path::Path;

use clap::{Args, ValueEnum};
use portcullis_lab::{Families, IptablesVariant, Underlay};

/// How pods are attached to their node, and how nodes reach each other's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cni {
    /// The bridge plugin with host-local addresses; routes between nodes.
    Bridge,
    /// The ptp plugin with host-local addresses: a route for each pod; routes between nodes.
    Ptp,
    /// flanneld with its host-gw backend; the bridge plugin as flannel's own plugin configures it.
    FlannelHostGw,
    /// flanneld with its vxlan backend; the bridge plugin as flannel's own plugin configures it.
    FlannelVxlan,
}

/// The mode of kube-proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KubeProxy {
    /// iptables, of the variant that the node has.
    Iptables,
    /// nftables.
    Nftables,
}

/// The variant of iptables on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Iptables {
    /// iptables-legacy.
    Legacy,
    /// iptables-nft.
    Nft,
}

/// What the agents enforce with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// What they choose, from the image that has iptables and ipset.
    Auto,
    /// nftables, from the image that has neither iptables nor ipset.
    Nftables,
}

/// The address families of nodes, pods and Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IpFamilies {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

/// A description of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Options {
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nodes: u8,
    /// How pods are attached to their node and reach other nodes.
    #[arg(long, value_enum, default_value_t = Cni::Bridge)]
    pub cni: Cni,
    /// Mode of kube-proxy.
    #[arg(long, value_enum, default_value_t = KubeProxy::Iptables)]
    pub kube_proxy: KubeProxy,
    /// Variant of iptables on the nodes.
    #[arg(long, value_enum, default_value_t = Iptables::Nft)]
    pub iptables: Iptables,
    /// Address families of nodes, pods and Services.
    #[arg(long, value_enum, default_value_t = IpFamilies::Dual)]
    pub families: IpFamilies,
    /// What agents enforce with.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Version of Kubernetes, of those that tests/kube can build.
    #[arg(long, default_value = "1.36")]
    pub kubernetes: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 2,
            cni: Cni::Bridge,
            kube_proxy: KubeProxy::Iptables,
            iptables: Iptables::Nft,
            families: IpFamilies::Dual,
            backend: Backend::Auto,
            kubernetes: "1.36".to_owned(),
        }
    }
}

impl Cni {
    /// True where flanneld runs on the nodes and makes the routes between them.
    #[must_use]
    pub fn is_flannel(self) -> bool {
        matches!(self, Self::FlannelHostGw | Self::FlannelVxlan)
    }
}

impl Options {
    /// The set of programs that tests/kube/build.sh must build.
    #[must_use]
    pub fn build_set(&self) -> &'static str {
        if self.cni.is_flannel() || self.needs_containerd_2() { "full" } else { "cluster" }
    }

    /// The directory with the product's manifests for these agents.
    #[must_use]
    pub fn manifests(&self) -> &'static Path {
        Path::new(match self.backend {
            Backend::Auto => concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy"),
            Backend::Nftables => concat!(env!("CARGO_MANIFEST_DIR"), "/nftables"),
        })
    }

    /// Kubelets from 1.37 on refuse containerd 1, which Debian 12 has.
    pub(crate) fn needs_containerd_2(&self) -> bool {
        self.kubernetes != "1.36"
    }

    pub(crate) fn lab_families(&self) -> Families {
        match self.families {
            IpFamilies::Ipv4 => Families::V4,
            IpFamilies::Ipv6 => Families::V6,
            IpFamilies::Dual => Families::Dual,
        }
    }

    pub(crate) fn lab_iptables(&self) -> IptablesVariant {
        match self.iptables {
            Iptables::Legacy => IptablesVariant::Legacy,
            Iptables::Nft => IptablesVariant::Nft,
        }
    }

    /// flanneld makes its own routes; otherwise the lab does.
    pub(crate) fn underlay(&self) -> Option<Underlay> {
        (!self.cni.is_flannel()).then_some(Underlay::HostGw)
    }
}
