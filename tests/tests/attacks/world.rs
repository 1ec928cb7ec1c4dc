//! The world that attacks happen in: a lab, its manifests and its agents.
//!
//! ```text
//! internet ─┬─ n1 ── mallory, friend, victim, caged, claimed, shared, unborn, bystander
//!           └─ n2 ── stranger
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Expected, Families, Family, Frames, IptablesVariant, Lab, Listener,
    Namespace, PodSpec, Probe, Topology, internet,
};
use portcullis_tests::cluster::Cluster;
use portcullis_tests::shop::node_object;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::attack::{ANY_TCP, ANY_UDP, HOST_PORT, Host, UNTRACKED, WEB, Who};
use crate::packet::Mac;
use crate::table::ranges::Extra;

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The namespace of all pods.
pub(crate) const NAMESPACE: &str = "town";
/// The host end of each veth in the routed topology.
const ROUTED_GATEWAY: Mac = [0xee; 6];

/// What the agents grant to pods that ask for it. The last two are a mistake: addresses of pods.
const EXTRA_SOURCE_RANGES: [&str; 4] =
    ["203.0.113.0/28", "2001:db8:113::/112", "10.244.1.0/24", "fd44:0:0:1::/64"];

/// A cluster with hosts that attack and are attacked.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) topology: Topology,
    pub(crate) hosts: BTreeMap<Who, Host>,
    /// What the UDP listener of the node received.
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    /// Where the agents remember that they enforced policies.
    _state: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl World {
    /// The world without agents: everybody reaches everybody.
    pub(crate) fn new(
        topology: Topology,
        variant: IptablesVariant,
        families: Families,
    ) -> Result<Self> {
        let pods = Who::PODS.map(|(_, name, node)| {
            let pod = PodSpec::new(NAMESPACE, name, node);
            pod.listen(Listener::tcp(WEB)).listen(Listener::udp(WEB)).listen(Listener::sctp(WEB))
        });
        let lab = Lab::builder()
            .nodes(2)
            .topology(topology)
            .families(families)
            .iptables(variant)
            .direct_internet(true)
            .pods(pods)
            .build()?;
        for node in lab.nodes() {
            prepare(node.netns(), &lab)?;
        }
        // As a connection that its kernel knows: it does not reset what the other side sends.
        for family in lab.families().each() {
            let iptables = lab.iptables().program(*family);
            lab.pod(&format!("{NAMESPACE}/mallory"))?
                .netns()
                .shell(&format!("{iptables} -w -A OUTPUT -p tcp --tcp-flags RST RST -j DROP"))?;
        }
        for (name, extra) in [("victim", Extra::Victim), ("bystander", Extra::Bystander)] {
            extra.route(&lab, topology, name)?;
        }
        let hosts = hosts(&lab, topology)?;
        let (received, ended) = (Arc::default(), Arc::default());
        let state = tempfile::tempdir()?;
        let state_dir = format!("--state-dir={}", state.path().display());
        let networks = EXTRA_SOURCE_RANGES.join(",");
        let flags = [state_dir, format!("--extra-source-ranges={networks}")];
        let mut cluster = Cluster::new(lab, &flags.each_ref().map(String::as_str))?;
        cluster.write_cni_results()?;
        let world = Self { cluster, topology, hosts, received, ended, _state: state };
        for who in [Who::Victim, Who::Node, Who::Bystander] {
            world.listen(who)?;
        }
        world.write_manifests()?;
        world.warm_up()?;
        Ok(world)
    }

    pub(crate) fn host(&self, who: Who) -> Result<&Host> {
        self.hosts.get(&who).with_context(|| format!("{who:?} is not in the world"))
    }

    /// Whether the UDP listener of the node received a token.
    pub(crate) fn node_received(&self, token: &[u8]) -> bool {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().any(|data| contains(data, token))
    }

    /// Opens the listeners at every address, which the lab's own are not.
    fn listen(&self, who: Who) -> Result<()> {
        let netns = &self.host(who)?.netns;
        let (tcp, udp) = netns.run(|| {
            let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            anyhow::Ok((TcpListener::bind(any(ANY_TCP))?, UdpSocket::bind(any(ANY_UDP))?))
        })??;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (received, ended) = (Arc::clone(&self.received), Arc::clone(&self.ended));
        thread::spawn(move || {
            // The kernel itself answers what connects.
            let _tcp = tcp;
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                let data = buffer.get(..length).unwrap_or_default();
                if who == Who::Node {
                    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
                    received.push(data.to_vec());
                }
                // A policy may forbid the answer.
                let _ = udp.send_to(data, from);
            }
        });
        Ok(())
    }

    fn write_manifests(&self) -> Result<()> {
        let lab = &self.cluster.lab;
        let mut items: Vec<Value> = lab.nodes().map(node_object).collect();
        for pod in lab.pods().filter(|pod| pod.name() != "unborn") {
            let mut manifest = pod_manifest(pod.name(), pod.node(), "2026-01-01", pod.addresses());
            let ranges = self.extra_source_ranges(pod.name())?;
            manifest["metadata"]["annotations"] =
                json!({"portcullis.dev/extra-source-ranges": ranges});
            items.push(manifest);
        }
        let claimed = lab.pod(&format!("{NAMESPACE}/claimed"))?;
        items.push(pod_manifest("thief", "n2", "2026-02-02", claimed.addresses()));
        let shared = lab.pod(&format!("{NAMESPACE}/shared"))?;
        items.push(pod_manifest("elder", "n2", "2025-12-12", shared.addresses()));
        let mut host = pod_manifest("host", "n2", "2026-02-02", shared.addresses());
        host["spec"]["hostNetwork"] = json!(true);
        items.push(host);
        for receiver in ["victim", "claimed", "shared", "unborn"] {
            let rule = json!({"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]});
            items.push(policy(receiver, "Ingress", &json!({"ingress": [rule]})));
        }
        let rule = json!({"to": [{"podSelector": {"matchLabels": {"app": "friend"}}}]});
        items.push(policy("caged", "Egress", &json!({"egress": [rule]})));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.cluster.write("town.json", &list.to_string())
    }

    /// What a pod asks for: mallory for what is not hers to have, others for their extra addresses.
    fn extra_source_ranges(&self, pod: &str) -> Result<String> {
        let addresses: Vec<IpAddr> = match pod {
            "mallory" => {
                let friend = self.host(Who::Friend)?;
                let refused = Family::BOTH.map(|family| Extra::Refused.address(family));
                [friend.v4.into(), friend.v6.into()].into_iter().chain(refused).collect()
            }
            "caged" => Family::BOTH.map(|family| Extra::Caged.address(family)).into(),
            "victim" => Family::BOTH.map(|family| Extra::Victim.address(family)).into(),
            "bystander" => Family::BOTH.map(|family| Extra::Bystander.address(family)).into(),
            _ => Vec::new(),
        };
        let networks = addresses.into_iter().map(|address| IpNet::from(address).to_string());
        Ok(networks.collect::<Vec<_>>().join(","))
    }

    /// Everybody learns the MAC addresses of everybody: frames that are not asked for must not wait.
    fn warm_up(&self) -> Result<()> {
        let lab = &self.cluster.lab;
        let mut probes = Vec::new();
        for from in lab.pods().map(|pod| Endpoint::pod(pod.key())).chain([Endpoint::Internet]) {
            for to in lab.pods().flat_map(portcullis_lab::Pod::addresses) {
                probes.push((Probe::icmp(from.clone(), *to), Expected::Open));
            }
        }
        let settled = lab.probe_until(&probes, DEFAULT_TIMEOUT, Duration::from_secs(10))?;
        let closed = probes.iter().zip(settled).filter(|(_, state)| !state.agrees).count();
        ensure!(closed == 0, "{closed} of {} pairs do not reach each other", probes.len());
        Ok(())
    }
}

/// Whether some bytes are in others.
pub(crate) fn contains(data: &[u8], token: &[u8]) -> bool {
    data.windows(token.len()).any(|window| window == token)
}

/// What a node has before an agent starts.
fn prepare(node: &Namespace, lab: &Lab) -> Result<()> {
    for &family in lab.families().each() {
        let iptables = lab.iptables().program(family);
        let victim = lab.pod(&format!("{NAMESPACE}/victim"))?.address(family)?;
        let to = SocketAddr::new(victim, WEB);
        let n1 = lab.node("n1")?.address(family)?;
        // kube-proxy drops what conntrack calls INVALID. Policies must not depend on it.
        node.shell(&format!(
            "{iptables} -w -D KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
             {iptables} -w -t raw -A PREROUTING -p udp --dport {UNTRACKED} -j NOTRACK
             {iptables} -w -t nat -A PREROUTING -d {n1} -p udp --dport {HOST_PORT} \
             -j DNAT --to-destination {to}"
        ))?;
    }
    // With the first setting, the kernel forwards by source routes. The others are for how long it
    // keeps what it tracks: longer than a busy machine takes.
    node.shell(
        "for setting in /proc/sys/net/ipv4/conf/*/accept_source_route; do echo 1 > $setting; done
         cd /proc/sys/net/netfilter
         echo 600 > nf_conntrack_udp_timeout
         for state in cookie_wait cookie_echoed closed; do
             echo 600 > nf_conntrack_sctp_timeout_$state
         done",
    )?;
    Ok(())
}

fn hosts(lab: &Lab, topology: Topology) -> Result<BTreeMap<Who, Host>> {
    let gateway = |node: &str| match (topology, node) {
        (Topology::Routed, _) => ROUTED_GATEWAY,
        (Topology::Bridge, "n1") => [0x02, 0x62, 0x72, 0x69, 0x64, 1],
        (Topology::Bridge, _) => [0x02, 0x62, 0x72, 0x69, 0x64, 2],
    };
    let on_bridge = |node: &str| topology == Topology::Bridge && node == "n1";
    let mut hosts = BTreeMap::new();
    for (who, name, node) in Who::PODS {
        let pod = lab.pod(&format!("{NAMESPACE}/{name}"))?;
        let of = |family| pod.address(family);
        let host = host(pod.netns(), of, gateway(node), on_bridge(node))?;
        hosts.insert(who, host);
    }
    for (who, name) in [(Who::Node, "n1"), (Who::FarNode, "n2")] {
        let node = lab.node(name)?;
        let of = |family| node.address(family);
        let outside = host(node.netns(), of, gateway(name), on_bridge(name))?;
        // As its pods see it.
        let (mac, link_local) = (gateway(name), link_local(gateway(name)));
        hosts.insert(who, Host { mac, link_local, ..outside });
    }
    let fabric = lab.fabric().run(|| Frames::open("wan"))??.mac();
    let of = |family| Ok(internet(family));
    hosts.insert(Who::Internet, host(lab.netns(&Endpoint::Internet)?, of, fabric, false)?);
    Ok(hosts)
}

fn host(
    netns: &Namespace,
    address: impl Fn(Family) -> Result<IpAddr>,
    gateway: Mac,
    on_bridge: bool,
) -> Result<Host> {
    let eth0 = netns.run(|| Frames::open("eth0"))??;
    let IpAddr::V4(v4) = address(Family::V4)? else { bail!("not an IPv4 address") };
    // In a cluster with IPv4 alone there is none.
    let v6 = match address(Family::V6) {
        Ok(IpAddr::V6(v6)) => v6,
        _ => Ipv6Addr::UNSPECIFIED,
    };
    let (mac, link) = (eth0.mac(), eth0.index());
    let netns = netns.try_clone()?;
    Ok(Host { netns, mac, gateway, v4, v6, link_local: link_local(mac), link, on_bridge })
}

/// The link-local address that a kernel makes of a MAC address: RFC 4291, appendix A.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [first, second, third, fourth, fifth, sixth] = mac;
    let octets = [first ^ 2, second, third, 0xff, 0xfe, fourth, fifth, sixth];
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(octets)))
}

/// A pod that was created on this day.
pub(crate) fn pod_manifest(name: &str, node: &str, day: &str, addresses: &[IpAddr]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"app": name},
            "creationTimestamp": format!("{day}T00:00:00Z")},
        "spec": {"nodeName": node}, "status": {"phase": "Running", "podIPs": ips}})
}

/// A policy of one pod for one direction.
pub(crate) fn policy(app: &str, direction: &str, rules: &Value) -> Value {
    let mut policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": app},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [direction]}});
    if let (Some(spec), Some(rules)) = (policy["spec"].as_object_mut(), rules.as_object()) {
        spec.extend(rules.clone());
    }
    policy
}
