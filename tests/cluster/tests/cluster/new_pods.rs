//! What new pods can do from their first millisecond on: everything where no policy isolates them,
//! as without Portcullis, and nothing where one does.
//!
//! ```text
//! new pod: first-packets ── TCP and UDP, at once ──► servers, one on each node
//!          ◄── datagrams to each address that a new pod can get ── the server on its node
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use portcullis_cluster::Cluster;
use portcullis_lab::{Capture, Namespace};
use serde_json::{Value, json};

use crate::operators::uninstall;
use crate::world::{
    PROBE_IMAGE, apply, create_namespace, default_deny, delete_namespace, is_full, server,
};

/// Pods of each kind.
const PODS: usize = 50;
/// Pods of each kind that no policy isolates, unless `CLUSTER_FULL=1`.
const SOME_PODS: usize = 16;
/// Pods that no policy isolates, which have to be reached: otherwise the datagrams prove nothing.
const CONTROLS: usize = 4;
/// How many of them are created at the same time. A kubelet that starts more waits for processors.
const AT_ONCE: usize = 5;
/// How long an isolated pod stays: its policies are enforced long before.
const STAY: u64 = 4;
/// Prints the addresses that host-local gave last, one of each range. The files have no end of line.
pub(crate) const LAST_ADDRESSES: &str =
    "for file in /var/lib/cni/networks/pods/last_reserved_ip.*; do cat $file; echo; done";
/// How many addresses behind the last one of a node are tried: those of its new pods are among them.
const NEXT_ADDRESSES: u8 = 60;
const SPRAY_INTERVAL: Duration = Duration::from_millis(10);
/// The port on which new pods count what they receive.
const POD_PORT: u16 = 9999;

/// What the first process of a pod reported.
struct Report {
    pod: String,
    addresses: BTreeSet<IpAddr>,
    /// From the request for all pods to the first process of this one.
    start: Duration,
    /// How long its last connection took.
    connection: Duration,
    connections_tried: u64,
    connections_made: u64,
    datagrams: u64,
    answers: u64,
    /// What it received unasked.
    unasked: u64,
    /// Segments of TCP that it sent again.
    retransmitted: u64,
}

/// Pods without a policy connect in their first millisecond. As many pods of the same cluster do so without
/// Portcullis, half of them before, half of them after.
pub(crate) fn no_packet_is_lost_without_a_policy(cluster: &Cluster) -> Result<()> {
    let daemonsets = cluster.kubectl(&["get", "daemonsets", "-A", "-o", "name"])?;
    if daemonsets.contains("portcullis-node") {
        uninstall(cluster)?;
    }
    let servers = Servers::start(cluster, "first-servers")?;
    // The first pods of an image take longer.
    Batch::run(cluster, &servers, "first-warm", AT_ONCE)?;
    let pods = if is_full() { PODS } else { SOME_PODS };
    let half = pods / 2;
    let mut without = Batch::run(cluster, &servers, "first-before", half)?;
    cluster.install(cluster.options().manifests())?;
    let with = Batch::run(cluster, &servers, "first-with", pods)?;
    uninstall(cluster)?;
    without.extend(Batch::run(cluster, &servers, "first-after", half)?);
    print(&without.reports, &with.reports);
    for (what, batch) in [("without Portcullis", &without), ("with Portcullis", &with)] {
        let Batch { reports, arrived, answered } = batch;
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
        let (connections, made) = (sum(|it| it.connections_tried), sum(|it| it.connections_made));
        let (datagrams, answers) = (sum(|it| it.datagrams), sum(|it| it.answers));
        let again = sum(|it| it.retransmitted);
        eprintln!(
            "  {what}: {made} of {connections} connections, {again} segments sent again; {arrived} of \
             {datagrams} datagrams arrived, {answers} of {answered} answers"
        );
        ensure!(made == connections && again == 0, "{what}: segments were lost");
        ensure!(*arrived == datagrams && answers == *answered, "{what}: datagrams were lost");
    }
    delete_namespace(cluster, servers.namespace)
}

/// Pods that no policy isolates, and what the kernels of the servers counted meanwhile. A server that
/// waits for a processor loses datagrams, which have arrived.
struct Batch {
    reports: Vec<Report>,
    /// Datagrams that arrived at the servers.
    arrived: u64,
    /// Datagrams that the servers sent.
    answered: u64,
}

impl Batch {
    fn run(cluster: &Cluster, servers: &Servers, namespace: &str, count: usize) -> Result<Self> {
        let (arrived, answered) = servers.datagrams()?;
        create_namespace(cluster, namespace)?;
        let mut reports = Vec::new();
        for first in (0..count).step_by(AT_ONCE) {
            let numbers = first..count.min(first + AT_ONCE);
            reports.extend(create(cluster, servers, namespace, numbers, 0)?);
        }
        cluster.kubectl(&["delete", "namespace", namespace, "--timeout=90s"])?;
        let (now_arrived, now_answered) = servers.datagrams()?;
        Ok(Self { reports, arrived: now_arrived - arrived, answered: now_answered - answered })
    }

    fn extend(&mut self, more: Self) {
        self.reports.extend(more.reports);
        self.arrived += more.arrived;
        self.answered += more.answered;
    }
}

/// 50 pods are created under a policy that denies everything. No packet of theirs arrives, and none
/// arrives at them.
pub(crate) fn no_packet_passes_before_isolation(cluster: &Cluster) -> Result<()> {
    isolated_from_the_start(cluster, PODS)
}

/// As [`no_packet_passes_before_isolation`], with so many pods.
pub(crate) fn isolated_from_the_start(cluster: &Cluster, count: usize) -> Result<()> {
    let servers = Servers::start(cluster, "closed-servers")?;
    let namespace = "closed-pods";
    create_namespace(cluster, namespace)?;
    apply(cluster, &default_deny(namespace))?;
    let spray = servers.spray(cluster)?;
    let captures = servers.pods.iter().map(|pod| Capture::start(&pod.netns));
    let captures: Vec<Capture> = captures.collect::<Result<_>>()?;
    let open = "closed-controls";
    create_namespace(cluster, open)?;
    let controls = create(cluster, &servers, open, 0..CONTROLS, STAY)?;
    let pods = create(cluster, &servers, namespace, 0..count, STAY)?;
    let sprayed = spray.stop()?;
    let frames = captures.into_iter().map(Capture::stop).collect::<Result<Vec<_>>>()?.concat();
    let from = |reports: &[Report]| {
        let all: BTreeSet<IpAddr> =
            reports.iter().flat_map(|report| report.addresses.iter().copied()).collect();
        frames.iter().filter(|frame| source(frame).is_some_and(|ip| all.contains(&ip))).count()
    };
    let sum = |reports: &[Report], what: fn(&Report) -> u64| reports.iter().map(what).sum::<u64>();
    let (arrived, unasked) = (from(&pods), sum(&pods, |pod| pod.unasked));
    eprintln!(
        "  {} isolated pods sent {} datagrams, of which {arrived} arrived and {} were answered; {unasked} \
         of {sprayed} datagrams to possible addresses reached them; the {} controls sent {arrived_of} and \
         received {received}",
        pods.len(),
        sum(&pods, |pod| pod.datagrams),
        sum(&pods, |pod| pod.answers),
        controls.len(),
        arrived_of = from(&controls),
        received = sum(&controls, |pod| pod.unasked),
    );
    for Report { pod, connections_tried, connections_made, unasked, .. } in &controls {
        ensure!(connections_made == connections_tried && *unasked > 0, "{pod} is isolated");
    }
    ensure!(from(&controls) > 0, "frames of pods that no policy isolates arrive");
    ensure!(arrived == 0, "{arrived} packets of isolated pods arrived");
    ensure!(unasked == 0, "{unasked} packets arrived at isolated pods");
    let reached = |pod: &Report| pod.connections_made > 0 || pod.answers > 0;
    ensure!(!pods.iter().any(reached), "an isolated pod got an answer");
    delete_namespace(cluster, open)?;
    delete_namespace(cluster, namespace)?;
    delete_namespace(cluster, servers.namespace)
}

/// The pods that new pods connect to, one on each node.
struct Servers {
    namespace: &'static str,
    pods: Vec<Server>,
}

struct Server {
    node: String,
    netns: Namespace,
    addresses: Vec<IpAddr>,
}

impl Servers {
    fn start(cluster: &Cluster, namespace: &'static str) -> Result<Self> {
        create_namespace(cluster, namespace)?;
        let nodes: Vec<String> =
            cluster.nodes().iter().map(|node| node.name().to_owned()).collect();
        let pods = nodes.iter().map(|node| {
            server(namespace, &format!("on-{node}"), "server", node)
                .replace("--http-port=8080]", "--http-port=8080, --udp-port=8081]")
        });
        apply(cluster, &pods.collect::<String>())?;
        cluster.wait_until_pods_are_ready(namespace)?;
        let pods = nodes.into_iter().map(|node| {
            let name = format!("on-{node}");
            let netns = cluster.pod_netns(namespace, &name)?;
            Ok(Server { node, netns, addresses: cluster.pod_addresses(namespace, &name)? })
        });
        Ok(Self { namespace, pods: pods.collect::<Result<_>>()? })
    }

    /// How many datagrams arrived at all servers so far, and how many they sent.
    fn datagrams(&self) -> Result<(u64, u64)> {
        let (mut arrived, mut sent) = (0, 0);
        for server in &self.pods {
            let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            let (v4, v6) = server.netns.run(|| (read("snmp"), read("snmp6")))?;
            let v4 = v4?;
            // InDatagrams, NoPorts, InErrors, OutDatagrams; errors are those of full buffers.
            let line = v4.lines().rfind(|line| line.starts_with("Udp: ")).unwrap_or_default();
            let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
            let [received, _, lost, answers, ..] = fields[..] else { bail!("no counters: {v4}") };
            (arrived, sent) = (arrived + received + lost, sent + answers);
            for line in v6.unwrap_or_default().lines() {
                let (name, value) = line.split_once(char::is_whitespace).unwrap_or_default();
                match name {
                    "Udp6InDatagrams" | "Udp6InErrors" => arrived += value.trim().parse::<u64>()?,
                    "Udp6OutDatagrams" => sent += value.trim().parse::<u64>()?,
                    _ => {}
                }
            }
        }
        Ok((arrived, sent))
    }

    /// Sends datagrams to all addresses that new pods of each node can get, from its server.
    fn spray(&self, cluster: &Cluster) -> Result<Spray> {
        let ended = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for server in &self.pods {
            // Without this, an address that was asked for before its pod exists is asked for again
            // after a second.
            server.netns.run(|| {
                for family in ["ipv4", "ipv6"] {
                    let file = format!("/proc/sys/net/{family}/neigh/eth0/retrans_time_ms");
                    let _ = fs::write(file, "10");
                }
            })?;
            let last = cluster
                .node(&server.node)?
                .shell("for file in /var/lib/cni/networks/pods/last_reserved_ip.*; do cat $file; echo; done")?;
            let addresses: Vec<IpAddr> =
                last.lines().flat_map(|last| next_addresses(last, NEXT_ADDRESSES)).collect();
            ensure!(!addresses.is_empty(), "{} has given no address yet", server.node);
            let (netns, ended) = (server.netns.try_clone()?, Arc::clone(&ended));
            threads.push(thread::spawn(move || netns.run(|| spray(&addresses, &ended))?));
        }
        Ok(Spray { ended, threads })
    }
}

struct Spray {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Spray {
    /// Ends it; how many datagrams were sent.
    fn stop(self) -> Result<u64> {
        self.ended.store(true, Ordering::Relaxed);
        let counts = self
            .threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        counts.sum()
    }
}

fn spray(addresses: &[IpAddr], ended: &AtomicBool) -> Result<u64> {
    let sockets = [UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?];
    let mut sent = 0;
    while !ended.load(Ordering::Relaxed) {
        for address in addresses {
            let [v4, v6] = &sockets;
            let socket = if address.is_ipv4() { v4 } else { v6 };
            // It fails while no pod has the address.
            sent += u64::from(socket.send_to(b"unasked", (*address, POD_PORT)).is_ok());
        }
        thread::sleep(SPRAY_INTERVAL);
    }
    Ok(sent)
}

/// The addresses that host-local gives next, after the one that it gave last.
pub(crate) fn next_addresses(last: &str, count: u8) -> Vec<IpAddr> {
    let next = |offset: u8| match last.trim().parse().ok()? {
        IpAddr::V4(last) => {
            let [a, b, c, host] = last.octets();
            // From 2 to 254: the first one is the bridge.
            let host = (u16::from(host) + u16::from(offset) - 2) % 253 + 2;
            Some(IpAddr::from(Ipv4Addr::new(a, b, c, u8::try_from(host).ok()?)))
        }
        IpAddr::V6(last) => Some(Ipv6Addr::from_bits(last.to_bits() + u128::from(offset)).into()),
    };
    (1..=count).filter_map(next).collect()
}

/// Creates pods on all nodes at the same time, and waits for their reports.
fn create(
    cluster: &Cluster,
    servers: &Servers,
    namespace: &str,
    numbers: Range<usize>,
    stay: u64,
) -> Result<Vec<Report>> {
    let batch = format!("from-{}", numbers.start);
    let addresses = servers.pods.iter().flat_map(|pod| &pod.addresses).map(ToString::to_string);
    let arguments: Vec<String> = [stay.to_string()].into_iter().chain(addresses).collect();
    let pods = numbers.zip(servers.pods.iter().cycle()).map(|(number, server)| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": format!("pod-{number:02}"), "namespace": namespace, "labels": {"batch": batch}},
            "spec": {
                "nodeName": server.node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "first", "image": PROBE_IMAGE, "args": arguments}],
            },
        })
    });
    let pods = json!({"apiVersion": "v1", "kind": "List", "items": pods.collect::<Vec<Value>>()});
    let asked = SystemTime::now();
    cluster.apply(&pods.to_string())?;
    let end = "--for=jsonpath={.status.phase}=Succeeded";
    let batch = format!("batch={batch}");
    let wait = ["wait", "pods", "-l", &batch, "-n", namespace, end, "--timeout=240s"];
    cluster.kubectl(&wait).with_context(|| {
        cluster.kubectl(&["get", "pods", "-n", namespace, "-o", "wide"]).unwrap_or_default()
    })?;
    let pods = cluster.get(&["pods", "-l", &batch, "-n", namespace, "--sort-by=.metadata.name"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    pods.map(|pod| Report::of(pod, asked)).collect()
}

impl Report {
    fn of(pod: &Value, asked: SystemTime) -> Result<Self> {
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let message = ended["message"].as_str().with_context(|| pod["status"].to_string())?;
        let report: Value = serde_json::from_str(message).with_context(|| message.to_owned())?;
        let tries = report["tries"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (connections, datagrams): (Vec<&Value>, Vec<&Value>) =
            tries.iter().partition(|one| one["connected_us"].is_u64());
        let sum = |tries: &[&Value], what: &str| {
            tries.iter().filter_map(|one| one[what].as_u64()).sum::<u64>()
        };
        let number = |what: &str| report[what].as_u64().with_context(|| format!("no {what}"));
        let asked = asked.duration_since(SystemTime::UNIX_EPOCH)?;
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let took = connections.iter().filter_map(|one| one["connected_us"].as_u64()).max();
        Ok(Self {
            pod: [&pod["metadata"]["namespace"], &pod["metadata"]["name"]]
                .map(|name| name.as_str().unwrap_or_default())
                .join("/"),
            addresses: ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
            start: Duration::from_micros(number("began_us")?).saturating_sub(asked),
            connection: Duration::from_micros(took.unwrap_or_default()),
            connections_tried: sum(&connections, "sent"),
            connections_made: sum(&connections, "answered"),
            datagrams: sum(&datagrams, "sent"),
            answers: sum(&datagrams, "answered"),
            unasked: number("unasked")?,
            retransmitted: number("retransmitted")?,
        })
    }
}

/// The source of an IP packet of TCP or UDP in a frame. Pods also send messages of neighbour
/// discovery, which isolation does not concern.
fn source(frame: &[u8]) -> Option<IpAddr> {
    let is_transport = |protocol: &u8| matches!(protocol, 6 | 17);
    match *frame.get(12..14)? {
        [0x08, 0x00] => {
            frame.get(23).filter(|it| is_transport(it))?;
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(26..30)?).ok()?).into())
        }
        [0x86, 0xdd] => {
            frame.get(20).filter(|it| is_transport(it))?;
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(22..38)?).ok()?).into())
        }
        _ => None,
    }
}

/// A duration of a report.
type Of = fn(&Report) -> Duration;

/// Prints medians of both, and of the difference between pods of the same number.
fn print(without: &[Report], with: &[Report]) {
    let start: Of = |report| report.start;
    let connection: Of = |report| report.connection;
    for (what, value) in [
        ("from the request to the first process", start),
        ("for the slowest of its first connections", connection),
    ] {
        let milliseconds = |report: &Report| value(report).as_secs_f64() * 1e3;
        let all = |reports: &[Report]| reports.iter().map(milliseconds).collect::<Vec<f64>>();
        let (without, with) = (all(without), all(with));
        let pairs = without.iter().zip(&with).map(|(without, with)| with - without);
        let difference = median(pairs.collect());
        eprintln!(
            "  {what}, medians: {:.1} ms without Portcullis ({} pods), {:.1} ms with ({} pods); \
             paired difference {difference:.1} ms",
            median(without.clone()),
            without.len(),
            median(with.clone()),
            with.len(),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
