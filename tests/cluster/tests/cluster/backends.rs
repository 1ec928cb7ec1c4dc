//! Agents that change to nftables and back while connections are made, and what they do with nftables: from
//! the image that has iptables and ipset, and from the one that has neither.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use portcullis_cluster::Cluster;
use portcullis_cluster::options::{Backend, Iptables};
use portcullis_lab::Namespace;
use serde_json::json;

use crate::agents::kernels_are_inspected_traced_and_verified;
use crate::new_pods::isolated_from_the_start;
use crate::operators::{SYSTEM, Traffic};
use crate::whatif::denials_of_all_nodes_are_listed;
use crate::world::image;

/// New pods under a policy that denies everything.
const PODS: usize = 10;
/// Between two requests on a connection that stays open.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long an answer may take on a machine that is busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The agents change to nftables, to the image without iptables and ipset, and to iptables. Meanwhile no packet that
/// policies forbid passes, and none that they allow is lost. Then agents of that image are tried.
pub(crate) fn change_to_nftables_and_back_under_traffic(cluster: &Cluster) -> Result<()> {
    let namespace = "backends";
    let traffic = Traffic::start(cluster, namespace)?;
    let (client, server) =
        (cluster.pod_netns(namespace, "client")?, cluster.pod_netns(namespace, "server")?);
    let addresses = cluster.pod_addresses(namespace, "server")?.into_iter();
    let open = addresses.map(|address| Ok(Kept::open(client.try_clone()?, address)));
    let open = open.collect::<Result<Vec<Kept>>>()?;
    let before = retransmitted(&client)? + retransmitted(&server)?;
    enforce_with(cluster, "nftables", Backend::Auto)?;
    enforce_with(cluster, "nftables", Backend::Nftables)?;
    enforce_with(cluster, "iptables", Backend::Auto)?;
    for kept in open {
        let requests = kept.stop().context("on a connection that was open all the time")?;
        eprintln!("  {requests} requests answered on a connection that was open all the time");
    }
    let lost = retransmitted(&client)? + retransmitted(&server)? - before;
    ensure!(lost == 0, "{lost} segments were sent again");
    traffic.stop(cluster, "while the backend changes")?;
    // Only the image that has iptables removes rules of iptables.
    enforce_with(cluster, "nftables", Backend::Auto)?;
    enforce_with(cluster, "nftables", Backend::Nftables)?;
    denials_of_all_nodes_are_listed(cluster)?;
    kernels_are_inspected_traced_and_verified(cluster)?;
    isolated_from_the_start(cluster, PODS)
}

/// How many segments of TCP the kernel sent again in a network namespace.
fn retransmitted(netns: &Namespace) -> Result<u64> {
    let counters = netns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next(), lines.next());
    let names = names.context("no counters of TCP")?.split(' ');
    let mut both = names.zip(values.context("no values")?.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "RetransSegs").context("no such counter")?;
    Ok(value.parse()?)
}

/// Starts the agents again from the image of `from`, with `--backend BACKEND`; waits until nothing of the other
/// backend is left, and checks that `kubectl get npr -o wide` shows it.
fn enforce_with(cluster: &Cluster, backend: &str, from: Backend) -> Result<()> {
    let env = json!([{"name": "PORTCULLIS_BACKEND", "value": backend}]);
    let container = json!({"name": "node", "image": image(from), "env": env});
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}}).to_string();
    cluster.kubectl(&["-n", SYSTEM, "patch", "daemonset", "portcullis-node", "-p", &patch])?;
    cluster.wait_for_rollout("daemonset/portcullis-node")?;
    let variant = match cluster.options().iptables {
        Iptables::Legacy => "legacy",
        Iptables::Nft => "nft",
    };
    for node in cluster.nodes() {
        let found = node.netns().shell(&format!(
            "nft list tables | grep -E ' portcullis(-ip6?)?$' || true
             ipset list -name | grep PORTCULLIS || true
             for family in iptables ip6tables; do
                 $family-{variant}-save 2>/dev/null | grep ^:PORTCULLIS || true
             done"
        ))?;
        let is_nftables = found.lines().any(|line| line.starts_with("table ip portcullis"));
        let is_iptables = found.contains("PORTCULLIS");
        let expected = (backend == "nftables", backend == "iptables");
        ensure!((is_nftables, is_iptables) == expected, "{backend} on {}: {found}", node.name());
    }
    let shown = cluster.kubectl(&["get", "nodepolicyreports", "-o", "wide"])?;
    let reason = |line: &&str| line.contains(backend) && line.ends_with("chosen by --backend");
    let count = shown.lines().filter(reason).count();
    ensure!(count == cluster.nodes().len(), "{backend}: {shown}");
    Ok(())
}

/// A connection on which one request follows the other.
struct Kept {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Kept {
    fn open(from: Namespace, to: IpAddr) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let observed = Arc::clone(&ended);
        let request = format!("GET /hostname HTTP/1.1\r\nHost: {to}\r\n\r\n");
        let ask = move || -> Result<usize> {
            let mut stream = TcpStream::connect(SocketAddr::new(to, 8080))?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            let (mut buffer, mut requests) = ([0; 4096], 0);
            while !observed.load(Ordering::Relaxed) {
                stream.write_all(request.as_bytes())?;
                let length = stream.read(&mut buffer);
                let length = length.with_context(|| format!("{to}: request {requests}"))?;
                let answer = String::from_utf8_lossy(&buffer[..length]);
                ensure!(answer.starts_with("HTTP/1.1 200"), "{to}: {answer:?}");
                requests += 1;
                thread::sleep(INTERVAL);
            }
            Ok(requests)
        };
        let thread = thread::spawn(move || from.run(ask)?);
        Self { ended, thread }
    }

    /// How many requests were answered: all of them.
    fn stop(self) -> Result<usize> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread panicked"))?
    }
}
