//! A node that starts again: from when on its isolated pods can be reached, and until when.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use portcullis_cluster::Cluster;
use portcullis_cluster::probe::{Answer, get};
use portcullis_lab::Namespace;

use crate::new_pods::{LAST_ADDRESSES, next_addresses};
use crate::world::{apply, create_namespace, default_deny, delete_namespace, deploy, server};

/// How long the agent of the node may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long isolation is tried after that.
const AFTER: Duration = Duration::from_secs(3);
/// The addresses of pods that are tried: those that the node gives next.
const ADDRESSES: u8 = 8;
const TIMEOUT: Duration = Duration::from_millis(50);

/// n2 is drained, loses its power, and starts again, first without and then with the service of
/// deploy/boot. What policy forbids stays forbidden while its agent is ready, and with the service
/// from its start on. The times are printed.
pub(crate) fn a_node_is_drained_and_restarted(cluster: &mut Cluster) -> Result<()> {
    let (namespace, clients) = ("drained", "drained-clients");
    create_namespace(cluster, namespace)?;
    create_namespace(cluster, clients)?;
    let world = "
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server, namespace: drained}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: server, image: IMAGE, args: [netexec, --http-port=8080]}]
";
    apply(cluster, &format!("{world}{}", default_deny(namespace)))?;
    apply(cluster, &server(clients, "client", "client", "n1"))?;
    for namespace in [namespace, clients] {
        cluster.wait_until_pods_are_ready(namespace)?;
    }
    let client = cluster.pod_netns(clients, "client")?;
    let drain = ["--ignore-daemonsets", "--force", "--timeout=60s", "--delete-emptydir-data"];
    cluster.kubectl(&[&["drain", "n2"], &drain[..]].concat())?;
    let table = deploy().join("boot/portcullis-boot.nft");
    let service = format!("nft -f {}", table.display());
    for (service, what) in [("", "without"), (service.as_str(), "with")] {
        let Boot { ready, connected } = restart(cluster, &client, service)?;
        let seconds = |time: &Duration| format!("{:.2} s", time.as_secs_f64());
        let ends = connected.first().zip(connected.last());
        let open = ends.map(|(first, last)| format!("{} to {}", seconds(first), seconds(last)));
        eprintln!(
            "  {what} the service of deploy/boot, after the start of the node: pods that a policy \
             isolates were reached from {}, {} connections; the agent was ready after {}",
            open.as_deref().unwrap_or("never"),
            connected.len(),
            seconds(&ready)
        );
        let late = connected.iter().filter(|time| **time > ready).count();
        ensure!(late == 0, "{late} connections after the agent was ready");
        if !service.is_empty() {
            ensure!(connected.is_empty(), "{} connections {what} the service", connected.len());
            let tables = cluster.node("n2")?.netns().shell("nft list tables")?;
            ensure!(!tables.contains("portcullis-boot"), "the agent leaves it: {tables}");
        }
    }
    cluster.kubectl(&["uncordon", "n2"])?;
    cluster.wait_until_nodes_are_ready()?;
    cluster.wait_for_rollout("daemonset/portcullis-node")?;
    delete_namespace(cluster, clients)?;
    delete_namespace(cluster, namespace)
}

/// What was seen, as times after the start of the node.
struct Boot {
    /// When the agent reported that it enforces.
    ready: Duration,
    /// When connections to its pods were made.
    connected: Vec<Duration>,
}

fn restart(cluster: &mut Cluster, client: &Namespace, service: &str) -> Result<Boot> {
    let last = cluster.node("n2")?.shell(LAST_ADDRESSES)?;
    let addresses: Vec<IpAddr> =
        last.lines().flat_map(|last| next_addresses(last, ADDRESSES)).collect();
    let ended = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for address in addresses.clone() {
        let (client, ended) = (client.try_clone()?, Arc::clone(&ended));
        let run = move || client.run(|| connections(address, &ended));
        threads.push(thread::spawn(run));
    }
    let started = Instant::now();
    cluster.node_mut("n2")?.reboot(service)?;
    let (node, observed) = (cluster.node("n2")?.netns().try_clone()?, Arc::clone(&ended));
    let quick = thread::spawn(move || node.run(|| look_again_soon(&observed)));
    while !agent_is_ready(cluster)? {
        ensure!(started.elapsed() < READY_WITHIN, "no agent is ready after {READY_WITHIN:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let ready = started.elapsed();
    // Its own node always reaches a pod: the server runs, and has one of the addresses.
    let own = cluster.node("n2")?.netns();
    while !own.run(|| addresses.iter().any(|address| connects(*address)))? {
        ensure!(started.elapsed() < READY_WITHIN, "no server runs on n2 after {READY_WITHIN:?}");
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(AFTER);
    ended.store(true, Ordering::Relaxed);
    quick.join().map_err(|_| anyhow!("a thread panicked"))??;
    let mut connected = Vec::new();
    for thread in threads {
        let instants = thread.join().map_err(|_| anyhow!("a client panicked"))??;
        connected.extend(instants.iter().map(|at| at.saturating_duration_since(started)));
    }
    connected.sort_unstable();
    Ok(Boot { ready, connected })
}

/// As soon as the node has a bridge of pods, it looks for an address that no pod had yet again after 10 ms.
/// Otherwise, it would wait for a second.
fn look_again_soon(ended: &AtomicBool) {
    for family in ["ipv4", "ipv6"] {
        let file = format!("/proc/sys/net/{family}/neigh/cni0/retrans_time_ms");
        while fs::write(&file, "10").is_err() && !ended.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn connections(to: IpAddr, ended: &AtomicBool) -> Vec<Instant> {
    let mut made = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        if connects(to) {
            made.push(Instant::now());
        }
        thread::sleep(Duration::from_millis(10));
    }
    made
}

fn connects(to: IpAddr) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(to, 8080), TIMEOUT).is_ok()
}

/// Asks the agent of n2 itself: what the API server has may be from before the restart.
fn agent_is_ready(cluster: &Cluster) -> Result<bool> {
    let health = SocketAddr::from(([127, 0, 0, 1], 9467));
    let answer = get(cluster.node("n2")?.netns(), health, "/readyz");
    Ok(matches!(answer.context("in the namespace of n2")?, Answer::Body(_)))
}
