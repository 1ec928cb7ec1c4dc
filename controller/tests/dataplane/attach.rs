//! Finding the interfaces of pods on a real kernel: veth pairs as CNI plugins create them, and
//! files as libcni writes them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_controller::dataplane::interfaces::{Reader, Refresh};
use portcullis_controller::node::attach::{Finder, Found};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::netns::Netns;
use crate::world::ip;

/// Far more than a look takes, and more than the period of looks.
const LIMIT: Duration = Duration::from_secs(30);

/// A node with a thread that looks for the interfaces of its pods.
struct Looking {
    node: Netns,
    finder: Finder,
    runtime: Runtime,
    found: Found,
}

impl Looking {
    fn new(node: Netns, cache: Option<&Path>) -> Self {
        let finder = node.enter(|| Finder::start(cache).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { node, finder, runtime, found: Found::default() }
    }

    /// Attaches a pod as plugins do: a pair whose end `interface` stays on the node.
    fn pod(&self, interface: &str, addresses: &[&str]) -> Netns {
        let pod = Netns::new();
        let (node, inside) = (self.node.name(), pod.name());
        let mut script = format!(
            "ip -n {node} link add {interface} type veth peer name eth0 netns {inside}; \
             ip -n {node} link set {interface} up; ip -n {inside} link set eth0 up; "
        );
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            write!(script, "ip -n {inside} addr add {address} dev eth0 {nodad}; ").unwrap();
        }
        sh(&script);
        pod
    }

    fn set_pods(&self, addresses: &[&str]) {
        self.finder.set_pods(addresses.iter().map(|address| ip(address)).collect());
    }

    /// Waits until the result is `expected`: attachments, then pod interfaces in brackets, then
    /// the pods of the cache.
    fn until(&mut self, expected: &str) {
        let deadline = Instant::now() + LIMIT;
        while shown(&self.found) != expected {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = async { tokio::time::timeout(left, self.finder.next()).await };
            let Ok(found) = self.runtime.block_on(next) else {
                panic!("{:?}, not {expected:?}: {:#?}", shown(&self.found), self.found);
            };
            self.found = found;
        }
    }

    /// Waits until a diagnostic contains `text`.
    fn until_told(&mut self, text: &str) {
        let is_there = |found: &Found| found.diagnostics.iter().any(|d| d.message.contains(text));
        let deadline = Instant::now() + LIMIT;
        while !is_there(&self.found) {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = async { tokio::time::timeout(left, self.finder.next()).await };
            self.found = self.runtime.block_on(next).unwrap_or_else(|_| {
                panic!("no diagnostic contains {text:?}: {:#?}", self.found.diagnostics)
            });
        }
    }
}

fn shown(found: &Found) -> String {
    let addresses = found.attachments.addresses.iter().map(|(address, at)| {
        let bridge = at.bridge.map(|bridge| format!("@{bridge}")).unwrap_or_default();
        format!("{address}={}{bridge}", at.interface)
    });
    let interfaces = found.attachments.pod_interfaces.iter().map(|name| format!("[{name}]"));
    let pods = found.pods.iter().map(|pod| {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        format!("{}/{}({} {})", pod.namespace, pod.name, pod.interface, addresses.join(","))
    });
    addresses.chain(interfaces).chain(pods).collect::<Vec<_>>().join(" ")
}

fn sh(script: &str) {
    let status = std::process::Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

fn bridge() -> Netns {
    let node = Netns::new();
    node.sh("ip link add cni0 type bridge; ip link set cni0 up; ip addr add 10.1.0.1/24 dev cni0");
    node
}

/// The text of a file as libcni writes it.
fn result(pod: &str, interface: &str, address: &str) -> String {
    format!(
        r#"{{"kind":"cniCacheV1","containerId":"{pod}","config":"e30=","ifName":"eth0","networkName":"net",
        "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","{pod}"],["K8S_POD_UID","u-{pod}"]],
        "result":{{"cniVersion":"1.0.0","interfaces":[{{"name":"{interface}"}},{{"name":"eth0","sandbox":"/n"}}],
        "ips":[{{"address":"{address}","interface":1}}]}}}}"#
    )
}

fn write(cache: &Path, pod: &str, interface: &str, address: &str) {
    fs::write(cache.join(format!("net-{pod}-eth0")), result(pod, interface, address)).unwrap();
}

#[test]
fn pods_on_a_bridge_are_found_without_a_cache() {
    let mut looking = Looking::new(bridge(), None);
    let addresses = ["10.1.0.5", "10.1.0.6", "10.1.0.7", "fd00::7"];
    looking.set_pods(&addresses);
    looking.until("");
    let pods = [
        looking.pod("veth1", &["10.1.0.5/24"]),
        looking.pod("veth2", &["10.1.0.6/24"]),
        looking.pod("veth3", &["10.1.0.7/24", "fd00::7/64"]),
    ];
    looking.until(
        "10.1.0.5=veth1 10.1.0.6=veth2 10.1.0.7=veth3 fd00::7=veth3 [veth1] [veth2] [veth3]",
    );
    // Plugins set the bridge at any time: it is a change of the link.
    for port in ["veth1", "veth2", "veth3"] {
        looking.node.sh(&format!("ip link set {port} master cni0"));
    }
    let all = "10.1.0.5=veth1@cni0 10.1.0.6=veth2@cni0 10.1.0.7=veth3@cni0 fd00::7=veth3@cni0";
    looking.until(&format!("{all} [cni0]"));
    // Not only pods are behind a bridge with another port.
    looking.node.sh("ip link add vm0 type veth peer name vm1; ip link set vm0 master cni0");
    looking.until(all);
    looking.node.sh("ip link del vm0");
    looking.until(&format!("{all} [cni0]"));
    looking.node.sh("ip link del veth3");
    looking.until("10.1.0.5=veth1@cni0 10.1.0.6=veth2@cni0 [cni0]");
    looking.set_pods(&addresses[..1]);
    looking.until("10.1.0.5=veth1@cni0 [cni0]");
    drop(pods);
}

#[test]
fn containers_that_are_not_pods_are_not_found() {
    let mut looking = Looking::new(bridge(), None);
    looking.set_pods(&["10.1.0.5"]);
    let container = looking.pod("veth0", &["172.17.0.2/16"]);
    let pod = looking.pod("veth1", &["10.1.0.5/24"]);
    looking.node.sh("ip link add docker0 type bridge; ip link set veth0 master docker0");
    looking.node.sh("ip link set veth1 master cni0");
    looking.until("10.1.0.5=veth1@cni0 [cni0]");
    drop((container, pod));
}

#[test]
fn routed_pods_are_found_by_their_routes() {
    let mut looking = Looking::new(Netns::new(), None);
    looking.set_pods(&["10.1.0.5", "10.1.0.6", "fd00::6"]);
    // As ptp: a gateway on each interface, and a route of the scope host.
    let ptp = looking.pod("veth1", &["10.1.0.5/24"]);
    looking
        .node
        .sh("ip addr add 10.1.0.1/32 dev veth1; ip route add 10.1.0.5/32 dev veth1 scope host");
    // As Calico: an address of 32 bits, and a gateway that no interface has.
    let calico = looking.pod("cali2", &["10.1.0.6/32", "fd00::6/128"]);
    calico.sh("ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1");
    looking.node.sh("ip route add 10.1.0.6/32 dev cali2; ip -6 route add fd00::6/128 dev cali2");
    looking.until("10.1.0.5=veth1 10.1.0.6=cali2 fd00::6=cali2 [cali2] [veth1]");
    // The pods take each other's addresses, and one that is nobody's yet.
    ptp.sh("ip addr add 10.1.0.6/32 dev eth0; ip addr add 10.1.0.7/32 dev eth0");
    calico.sh("ip addr del 10.1.0.6/32 dev eth0");
    looking.set_pods(&["10.1.0.5", "10.1.0.6", "10.1.0.7"]);
    looking.until("10.1.0.5=veth1 10.1.0.6=cali2 [cali2] [veth1]");
    looking.node.sh("ip route del 10.1.0.6/32 dev cali2; ip route add 10.1.0.6/32 dev veth1");
    looking.until("10.1.0.5=veth1 10.1.0.6=veth1 [veth1]");
}

#[test]
fn the_way_out_of_the_node_is_not_a_pods() {
    let mut looking = Looking::new(Netns::new(), None);
    looking.set_pods(&["10.1.0.5", "172.20.0.1"]);
    let outside = looking.pod("eth0", &["172.20.0.1/24"]);
    let pod = looking.pod("veth1", &["10.1.0.5/24"]);
    looking.node.sh("ip addr add 172.20.0.11/24 dev eth0; ip route add default via 172.20.0.1");
    looking.until("10.1.0.5=veth1 [veth1]");
    drop((outside, pod));
}

#[test]
fn a_pod_that_adds_the_address_of_another_pod_is_not_attached_to_it() {
    let mut looking = Looking::new(bridge(), None);
    let attacker = looking.pod("veth1", &["10.1.0.5/24"]);
    looking.node.sh("ip link set veth1 master cni0");
    looking.set_pods(&["10.1.0.5"]);
    looking.until("10.1.0.5=veth1@cni0 [cni0]");
    // Before the other pod exists, as addresses are given in order.
    attacker.sh("ip addr add 10.1.0.6/24 dev eth0");
    looking.set_pods(&["10.1.0.5", "10.1.0.6"]);
    looking.until_told("two pods, 10.1.0.5 and 10.1.0.6");
    assert_eq!(shown(&looking.found), "");
    let victim = looking.pod("veth2", &["10.1.0.6/24"]);
    looking.node.sh("ip link set veth2 master cni0");
    looking.until("10.1.0.6=veth2@cni0 [cni0]");
    drop(victim);
}

#[test]
fn a_bridge_with_a_vlan_on_it_is_left_out() {
    let mut looking = Looking::new(bridge(), None);
    let pod = looking.pod("veth1", &["10.1.0.5/24"]);
    looking.node.sh("ip link set veth1 master cni0");
    looking.set_pods(&["10.1.0.5"]);
    looking.until("10.1.0.5=veth1@cni0 [cni0]");
    let made = "ip link add link cni0 name cni0.5 type vlan id 5 && echo made || true";
    if looking.node.sh(made).is_empty() {
        println!("this kernel has no VLANs");
        return;
    }
    looking.until("");
    looking.until_told("VLAN interface cni0.5 is on it");
    drop(pod);
}

#[test]
fn the_cache_names_pods_before_anybody_knows_their_addresses() {
    let directory = TempDir::new().unwrap();
    let cache = directory.path().join("results");
    let mut looking = Looking::new(Netns::new(), Some(&cache));
    looking.until("");
    let pods = [looking.pod("veth1", &[]), looking.pod("veth2", &[])];
    // The runtime creates the directory with its first result.
    fs::create_dir(&cache).unwrap();
    write(&cache, "a", "veth1", "10.1.0.5/24");
    let a = "shop/a(veth1 10.1.0.5)";
    looking.until(&format!("10.1.0.5=veth1 [veth1] {a}"));
    assert_eq!(looking.found.pods[0].uid.as_deref(), Some("u-a"));
    write(&cache, "b", "veth2", "10.1.0.6/24");
    write(&cache, "stale", "veth9", "10.1.0.6/24");
    looking.until(&format!(
        "10.1.0.5=veth1 10.1.0.6=veth2 [veth1] [veth2] {a} shop/b(veth2 10.1.0.6)"
    ));
    fs::remove_file(cache.join("net-b-eth0")).unwrap();
    looking.until(&format!("10.1.0.5=veth1 [veth1] {a}"));
    looking.node.sh("ip link del veth1");
    looking.until("");
    // The directory is replaced, as by a program that cleans up.
    fs::remove_dir_all(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    write(&cache, "b", "veth2", "10.1.0.6/24");
    looking.until("10.1.0.6=veth2 [veth2] shop/b(veth2 10.1.0.6)");
    assert_eq!(looking.found.diagnostics, []);
    drop(pods);
}

#[test]
fn a_file_that_is_still_written_is_read_when_it_is_complete() {
    let cache = TempDir::new().unwrap();
    let mut looking = Looking::new(Netns::new(), Some(cache.path()));
    let pod = looking.pod("veth1", &[]);
    let (path, text) = (cache.path().join("net-a-eth0"), result("a", "veth1", "10.1.0.5/24"));
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    write(cache.path(), "b", "veth1", "10.1.0.6/24");
    looking.until("10.1.0.6=veth1 [veth1] shop/b(veth1 10.1.0.6)");
    assert_eq!(looking.found.diagnostics, [], "it is younger than two seconds");
    fs::remove_file(cache.path().join("net-b-eth0")).unwrap();
    fs::write(&path, &text).unwrap();
    looking.until("10.1.0.5=veth1 [veth1] shop/a(veth1 10.1.0.5)");
    drop(pod);
}

#[test]
fn a_pod_cannot_escape_by_large_annotations() {
    let cache = TempDir::new().unwrap();
    let mut looking = Looking::new(Netns::new(), Some(cache.path()));
    let pod = looking.pod("veth1", &[]);
    // The most that the API server allows, as Go writes a "<".
    let annotation = "\\u003c".repeat(256 << 10);
    let annotations = format!(r#""io.kubernetes.cri.pod-annotations":{{"a":"{annotation}"}}"#);
    let text = result("a", "veth1", "10.1.0.5/24");
    let text = text.replacen('{', &format!(r#"{{"capabilityArgs":{{{annotations}}},"#), 1);
    fs::write(cache.path().join("net-a-eth0"), text).unwrap();
    looking.until("10.1.0.5=veth1 [veth1] shop/a(veth1 10.1.0.5)");
    drop(pod);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_count() {
    let cache = TempDir::new().unwrap();
    let at = |name: &str| cache.path().join(name);
    write(cache.path(), "a", "veth1", "10.1.0.5/24");
    fs::write(at("net-broken-eth0"), "{").unwrap();
    fs::write(at("net-huge-eth0"), " ".repeat((4 << 20) + 1)).unwrap();
    fs::write(at("cni-loopback-a-lo"), "not read").unwrap();
    fs::create_dir(at("directory")).unwrap();
    sh(&format!("cd {}; mkfifo fifo; ln -s /etc/passwd link", cache.path().display()));
    sh(&format!("cd {}; touch -h -d '1 hour ago' *", cache.path().display()));
    let mut looking = Looking::new(Netns::new(), Some(cache.path()));
    let pod = looking.pod("veth1", &[]);
    looking.until("10.1.0.5=veth1 [veth1] shop/a(veth1 10.1.0.5)");
    let told: Vec<&str> = looking.found.diagnostics.iter().map(|d| d.message.as_str()).collect();
    let expected = [
        "/fifo is ignored: it is not a regular file",
        "/link is ignored: it is not a regular file",
        "/net-broken-eth0 is ignored: EOF while parsing an object at line 1 column 1",
        "/net-huge-eth0 is ignored: it has more than 4194304 bytes",
    ];
    let directory = cache.path().display();
    assert_eq!(told, expected.map(|text| format!("{directory}{text}")));
    drop(pod);
}

/// How long this thread has run so far.
fn cpu_time() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split_whitespace().next().unwrap().parse().unwrap())
}

/// Prints what a look at a node with 250 pods costs.
#[test]
fn a_look_at_many_pods_is_cheap() {
    const PODS: usize = 250;
    let _alone = crate::alone();
    let (node, inside) = (Netns::new(), Netns::new());
    let mut commands = String::from("link add cni0 type bridge\n");
    for pod in 1..=PODS {
        let (name, other) = (format!("veth{pod}"), inside.name());
        writeln!(commands, "link add {name} type veth peer name eth{pod} netns {other}").unwrap();
        writeln!(commands, "link set {name} up master cni0").unwrap();
        writeln!(commands, "route add 10.2.0.{pod} dev {name}").unwrap();
    }
    node.sh(&format!("ip -force -batch - <<'END'\n{commands}END\n"));
    let mut addresses = String::new();
    for pod in 1..=PODS {
        writeln!(addresses, "addr add 10.1.0.{pod}/24 dev eth{pod}").unwrap();
    }
    inside.sh(&format!("ip -batch - <<'END'\n{addresses}END\n"));
    let expected: BTreeSet<IpAddr> = (1..=PODS).map(|pod| ip(&format!("10.1.0.{pod}"))).collect();
    node.enter(|| {
        let mut reader = Reader::default();
        for (what, refresh, skip) in [
            ("all other ends", Refresh::All, false),
            ("all other ends", Refresh::All, false),
            ("no other end", Refresh::New, true),
        ] {
            let (start, ran) = (Instant::now(), cpu_time());
            let snapshot = reader.read(refresh, |_| skip).unwrap();
            let (took, ran) = (start.elapsed(), cpu_time().saturating_sub(ran));
            println!("{PODS} pods, {what}: {took:?}, of which {ran:?} on a CPU");
            assert_eq!(snapshot.interfaces.values().filter(|i| i.peer.is_some()).count(), PODS);
            assert_eq!(snapshot.host_routes.len(), PODS);
            if !skip {
                let found: BTreeSet<IpAddr> =
                    snapshot.peer_addresses.into_values().flatten().collect();
                assert_eq!(found, expected);
            }
        }
    });
}
