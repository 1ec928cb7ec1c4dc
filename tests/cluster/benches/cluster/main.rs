//! From the API server's answer to the packet, on a real cluster with the product's image.
//!
//! `make bench-cluster`, or, after `cargo build --release -p portcullis-controller`,
//! `cargo bench -p portcullis-cluster --bench cluster`. Text after `--` selects the rows whose names
//! contain it: `cargo bench -p portcullis-cluster --bench cluster -- 'new pod'`
//!
//! The clock starts when the call that makes a change has returned; resolution 0.2 ms. Calls are
//! kubectl's own requests, by a client that keeps its connection. CPU time and memory are those of
//! the agent on the node of the servers.

mod hostile;
mod new_pods;
mod status_wait;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use portcullis_cluster::probe::expect_open;
use portcullis_cluster::{Cluster, Options, binaries};
use portcullis_lab::Namespace;
use portcullis_tests::cluster::portcullis;
use portcullis_tests::stream::{Becomes, Path, until};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Tries of each kind.
const ROUNDS: usize = 100;
/// Policies that are created as fast as the API server takes them.
const BULK: usize = 500;
const NAMESPACE: &str = "bench";
const PORT: u16 = 9000;

fn main() -> Result<()> {
    // cargo adds flags of its own.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let selected = |row: &str| filter.as_deref().is_none_or(|text| row.contains(text));
    let bench = Bench::start()?;
    println!("from the API server's answer to the kernel enforcing it, 2 nodes:");
    bench.usage("before")?;
    let rounds = |what: &str, once: &dyn Fn(usize) -> Result<Duration>| {
        if selected(what) {
            print(what, &mut (0..ROUNDS).map(once).collect::<Result<Vec<Duration>>>()?);
        }
        anyhow::Ok(())
    };
    rounds("a policy that closes", &|_| bench.closes())?;
    rounds("a policy that opens", &|_| bench.opens())?;
    rounds("a new peer (a pod gets a label)", &|round| bench.new_peer(round))?;
    if selected("a new pod under deny-all") {
        bench.new_pods()?;
    }
    bench.usage("after these")?;
    if selected("with 500 policies of one pod") {
        bench.many_policies()?;
        bench.usage("with these policies")?;
        rounds("a policy that closes, with 500 policies of one pod", &|_| bench.closes())?;
    }
    if selected("beside a hostile tenant") {
        hostile::run(&bench)?;
    }
    // It takes a quarter of an hour: only if it is asked for.
    if filter.is_some() && selected("status --wait") {
        status_wait::run(&bench)?;
    }
    bench.usage("at the end")
}

struct Bench {
    cluster: Cluster,
    runtime: Runtime,
    client: Client,
    from: Namespace,
    server: Server,
    /// The pod that many policies select.
    crowded: Server,
}

struct Server {
    name: &'static str,
    netns: Namespace,
    address: IpAddr,
}

impl Bench {
    fn start() -> Result<Self> {
        let options = Options::default();
        let kubernetes = binaries::kubernetes(&options)?;
        let mut images = binaries::test_images(&kubernetes)?;
        images.push(binaries::product_image(&portcullis()?, "0.1.0")?);
        let cluster = Cluster::start(options, &kubernetes, &images)?;
        cluster.install(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy").as_ref())?;
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
        for (name, node) in
            [("client", "n1"), ("server", "n2"), ("crowded", "n2"), (new_pods::PROBER, "n2")]
        {
            cluster.apply(&pod(NAMESPACE, name, node).to_string())?;
        }
        cluster.wait_until_pods_are_ready(NAMESPACE)?;
        let from = cluster.pod_netns(NAMESPACE, "client")?;
        let server = |name: &'static str| {
            let addresses = cluster.pod_addresses(NAMESPACE, name)?;
            expect_open(name, &from, &addresses, 8080)?;
            let netns = cluster.pod_netns(NAMESPACE, name)?;
            let address = *addresses.first().context("a pod has an address")?;
            anyhow::Ok(Server { name, netns, address })
        };
        let (server, crowded) = (server("server")?, server("crowded")?);
        let runtime = Runtime::new()?;
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { cluster, runtime, client, from, server, crowded })
    }

    fn path<'a>(&'a self, server: &'a Server) -> Path<'a> {
        Path { client: &self.from, server: &server.netns, address: server.address, port: PORT }
    }

    fn policies(&self) -> Api<NetworkPolicy> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Creates a policy; when the API server answered.
    fn create(&self, policy: &Value) -> Result<Instant> {
        let policy = serde_json::from_value(policy.clone())?;
        self.runtime.block_on(self.policies().create(&PostParams::default(), &policy))?;
        Ok(Instant::now())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let (policies, now) = (self.policies(), DeleteParams::default());
        self.runtime.block_on(policies.delete(name, &now))?;
        Ok(())
    }

    fn closes(&self) -> Result<Duration> {
        let took = self.isolate()?;
        self.delete("isolate")?;
        Ok(took)
    }

    fn isolate(&self) -> Result<Duration> {
        let isolate = policy("isolate", self.server.name, &json!([]));
        until(&self.path(&self.server), Becomes::Closed, || self.create(&isolate))
    }

    fn opens(&self) -> Result<Duration> {
        self.isolate()?;
        let allow = policy("allow", self.server.name, &json!([{}]));
        let took = until(&self.path(&self.server), Becomes::Open, || self.create(&allow))?;
        self.delete("isolate")?;
        self.delete("allow")?;
        Ok(took)
    }

    fn new_peer(&self, round: usize) -> Result<Duration> {
        let label = format!("round-{round}");
        let peers = json!([{"from": [{"podSelector": {"matchLabels": {"peer": label}}}]}]);
        let peers = policy("peers", self.server.name, &peers);
        let path = self.path(&self.server);
        until(&path, Becomes::Closed, || self.create(&peers))?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let labelled = Patch::Merge(json!({"metadata": {"labels": {"peer": label}}}));
        let took = until(&path, Becomes::Open, || {
            let params = PatchParams::default();
            self.runtime.block_on(pods.patch("client", &params, &labelled))?;
            Ok(Instant::now())
        })?;
        self.delete("peers")?;
        Ok(took)
    }

    /// Policies of one pod that each allow another port, created without a pause.
    fn many_policies(&self) -> Result<()> {
        let bulk = |number: usize, port: u16| {
            let ports = json!([{"ports": [{"protocol": "UDP", "port": port}]}]);
            policy(&format!("bulk-{number}"), self.crowded.name, &ports)
        };
        let path = self.path(&self.crowded);
        until(&path, Becomes::Closed, || self.create(&bulk(1, PORT + 1)))?;
        let start = Instant::now();
        let mut created = start;
        let took = until(&path, Becomes::Open, || {
            for number in 2..BULK {
                self.create(&bulk(number, PORT + u16::try_from(number)?))?;
            }
            created = self.create(&bulk(BULK, PORT))?;
            Ok(created)
        })?;
        println!(
            "{BULK} policies of one pod, created in {:.1?}: enforced {took:.1?} after the last",
            created.duration_since(start)
        );
        Ok(())
    }

    /// The agent's CPU time and memory so far.
    fn usage(&self, when: &str) -> Result<()> {
        let pid = self.cluster.node("n2")?.shell("pgrep -f '[p]ortcullis node'")?;
        let pid = pid.trim();
        let stat = self.cluster.node("n2")?.shell(&format!("cat /proc/{pid}/stat"))?;
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime, in hundredths of a second: proc_pid_stat(5).
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        let status = self.cluster.node("n2")?.shell(&format!("cat /proc/{pid}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.unwrap_or_default().trim();
        println!("agent {when}: {}.{:02} CPU s, {memory} resident", ticks / 100, ticks % 100);
        Ok(())
    }
}

fn pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "server",
                "image": binaries::AGNHOST,
                "args": ["netexec", "--http-port=8080", "--udp-port=-1"],
            }],
        },
    })
}

/// A policy of the pod `server` for ingress.
fn policy(name: &str, server: &str, ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app": server}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

fn print(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |percent: usize| took.get((took.len() - 1) * percent / 100).copied();
    if let (Some(p50), Some(p90), Some(p99), Some(max)) = (at(50), at(90), at(99), at(100)) {
        println!(
            "{what:<50} p50 {p50:>8.1?}  p90 {p90:>8.1?}  p99 {p99:>8.1?}  max {max:>8.1?}  of {}",
            took.len()
        );
    }
}
