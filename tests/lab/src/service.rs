//! A Service as kube-proxy in iptables mode renders it. Text only; the lab loads it.
//!
//! ```text
//! PREROUTING, OUTPUT → KUBE-SERVICES → KUBE-SVC-… → KUBE-SEP-… → DNAT
//!                      └ to a local address → KUBE-NODEPORTS → KUBE-EXT-… → (mark 0x4000) ┘
//! POSTROUTING        → KUBE-POSTROUTING: what is marked is masqueraded
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::address;
use super::options::Family;

/// The transport of a listener or a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, as far as its first exchange.
    Sctp,
}

impl Transport {
    /// The word that iptables knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service. Two ports are two of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What it is called; a service of the same name is replaced.
    pub name: String,
    /// The virtual addresses, at most one a family.
    pub cluster_ips: Vec<IpAddr>,
    /// The port of the virtual addresses.
    pub port: u16,
    /// The port of the backends.
    pub target_port: u16,
    /// The transport.
    pub protocol: Transport,
    /// The port on every node's own addresses, where wanted.
    pub node_port: Option<u16>,
    /// Pod addresses of any family; one without backends of a family is rejected there.
    pub backends: Vec<IpAddr>,
}

/// The nat and filter rules of all services in one family, and the chains they need.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    /// Input of `iptables-restore --noflush`.
    pub(super) text: String,
    /// The chains of single services in the nat table.
    pub(super) chains: BTreeSet<String>,
}

/// Renders every service; chains in `installed` that are no longer needed are deleted.
pub(super) fn render<'a>(
    services: impl Iterator<Item = &'a ServiceSpec>,
    family: Family,
    installed: &BTreeSet<String>,
) -> Rendered {
    let mut rules = Rules { family, ..Rules::default_for(family) };
    for service in services {
        rules.add(service);
    }
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n");
    for chain in rules.chains.union(installed) {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    text.push_str(&rules.nat);
    text.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    for stale in installed.difference(&rules.chains) {
        let _ = writeln!(text, "-X {stale}");
    }
    let _ = write!(text, "COMMIT\n*filter\n:KUBE-SERVICES - [0:0]\n{}COMMIT\n", rules.filter);
    Rendered { text, chains: rules.chains }
}

#[derive(Debug)]
struct Rules {
    family: Family,
    nat: String,
    filter: String,
    chains: BTreeSet<String>,
}

impl Rules {
    fn default_for(family: Family) -> Self {
        Self { family, nat: String::new(), filter: String::new(), chains: BTreeSet::new() }
    }

    fn add(&mut self, service: &ServiceSpec) {
        let protocol = service.protocol.name();
        let backends: Vec<IpAddr> = self.mine(&service.backends).collect();
        let suffix = chain_suffix(&[&service.name]);
        let (svc, ext) = (format!("KUBE-SVC-{suffix}"), format!("KUBE-EXT-{suffix}"));
        let virtuals: Vec<IpAddr> = self.mine(&service.cluster_ips).collect();
        let mut entries: Vec<String> = Vec::new();
        for ip in virtuals {
            entries.push(format!("-d {ip} -p {protocol} --dport {}", service.port));
        }
        if backends.is_empty() {
            for entry in &entries {
                let _ = writeln!(self.filter, "-A KUBE-SERVICES {entry} -j REJECT");
            }
            return;
        }
        let pods = address::pod_network(self.family);
        for entry in &entries {
            let _ = writeln!(self.nat, "-A KUBE-SERVICES {entry} -j {svc}");
            let _ = writeln!(self.nat, "-A {svc} ! -s {pods} {entry} -j KUBE-MARK-MASQ");
        }
        if let Some(port) = service.node_port {
            let _ = writeln!(self.nat, "-A KUBE-NODEPORTS -p {protocol} --dport {port} -j {ext}");
            let _ = writeln!(self.nat, "-A {ext} -j KUBE-MARK-MASQ\n-A {ext} -j {svc}");
            self.chains.insert(ext);
        }
        let count = backends.len();
        for (at, backend) in backends.into_iter().enumerate() {
            let endpoint = SocketAddr::new(backend, service.target_port);
            let sep = format!("KUBE-SEP-{}", chain_suffix(&[&service.name, &endpoint.to_string()]));
            let left = count - at;
            let share = if left == 1 {
                String::new()
            } else {
                format!(" -m statistic --mode random --probability 0.{:09}", 1_000_000_000 / left)
            };
            let _ = writeln!(self.nat, "-A {svc}{share} -j {sep}");
            // A pod that reaches itself through its service must not answer itself directly.
            let _ = writeln!(self.nat, "-A {sep} -s {backend} -j KUBE-MARK-MASQ");
            let _ =
                writeln!(self.nat, "-A {sep} -p {protocol} -j DNAT --to-destination {endpoint}");
            self.chains.insert(sep);
        }
        self.chains.insert(svc);
    }

    fn mine<'a>(&self, addresses: &'a [IpAddr]) -> impl Iterator<Item = IpAddr> + use<'a> {
        let family = self.family;
        addresses.iter().copied().filter(move |&address| Family::of(address) == family)
    }
}

/// Sixteen characters for a chain's name: FNV-1a, with each part's length before it.
fn chain_suffix(parts: &[&str]) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for part in parts {
        for byte in part.len().to_be_bytes().iter().chain(part.as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
    format!("{hash:016X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(backends: &[&str]) -> ServiceSpec {
        ServiceSpec {
            name: "shop/web".into(),
            cluster_ips: vec!["10.96.0.10".parse().unwrap(), "fd96::10".parse().unwrap()],
            port: 80,
            target_port: 8080,
            protocol: Transport::Tcp,
            node_port: Some(30080),
            backends: backends.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn each_family_sees_its_own_backends_and_shares_are_equal() {
        let service = web(&["10.244.1.10", "fd44::1", "10.244.2.10"]);
        let v4 = render([&service].into_iter(), Family::V4, &BTreeSet::new());
        assert!(v4.text.contains("--probability 0.500000000"), "{}", v4.text);
        assert!(v4.text.contains("--to-destination 10.244.2.10:8080"), "{}", v4.text);
        assert!(!v4.text.contains("fd"), "{}", v4.text);
        let v6 = render([&service].into_iter(), Family::V6, &BTreeSet::new());
        assert!(v6.text.contains("--to-destination [fd44::1]:8080"), "{}", v6.text);
        assert!(!v6.text.contains("statistic"), "{}", v6.text);
    }

    #[test]
    fn a_service_without_backends_is_rejected_and_its_chains_are_deleted() {
        let full = render([&web(&["10.244.1.10"])].into_iter(), Family::V4, &BTreeSet::new());
        let empty = render([&web(&[])].into_iter(), Family::V4, &full.chains);
        assert!(empty.text.contains("-A KUBE-SERVICES -d 10.96.0.10 -p tcp --dport 80 -j REJECT"));
        assert_eq!(empty.text.matches("-X KUBE-").count(), full.chains.len());
    }
}
