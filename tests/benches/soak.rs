//! Random changes for a long time, on three nodes with real agents.
//!
//! `make soak`; `SOAK_CHANGES` is how many, 50,000 if it is not set, and `SOAK_SEED` repeats a run.
//!
//! At the end, what the agents have left in the kernel is what an agent that starts then compiles from
//! the same objects: it changes nothing. And the agents hold no more memory than after a fifth of the
//! changes, but for a tenth and one MiB.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::{Lab, PodSpec};
use portcullis_tests::cluster::Cluster;
use portcullis_tests::random::Random;
use serde_json::{Value, json};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const APPS: usize = 6;
const PODS: usize = 12;
const POLICIES: usize = 80;
/// Pods without a network: peers that come and go.
const PEERS: usize = 200;
const PATIENCE: Duration = Duration::from_mins(2);
/// Agents remove what is unreferenced some seconds after the last change.
const QUIET: Duration = Duration::from_secs(5);
/// From one change to the next.
const PAUSE: Duration = Duration::from_millis(2);

fn main() -> Result<()> {
    let number = |name: &str, otherwise: usize| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}: {text} is no number")),
        Err(_) => Ok(otherwise),
    };
    let (changes, seed) = (number("SOAK_CHANGES", 50_000)?, number("SOAK_SEED", 1)?);
    let pods = (0..PODS)
        .map(|pod| PodSpec::new(namespace(pod), format!("pod-{pod}"), format!("n{}", pod % 3 + 1)));
    let lab = Lab::builder().nodes(3).pods(pods).build()?;
    let mut cluster = Cluster::new(lab, &[])?;
    let mut soak = Soak { random: Random::new(seed.try_into()?), world: World::default() };
    for pod in 0..PODS {
        soak.relabel_pod(&cluster, pod)?;
    }
    cluster.start_agents()?;
    println!("seed {seed}; MiB held by the agents of the three nodes:");
    let (start, mut early) = (Instant::now(), Vec::new());
    for change in 1..=changes {
        soak.change(&cluster)?;
        std::thread::sleep(PAUSE);
        if change % (changes / 10).max(1) == 0 {
            cluster.settle(PATIENCE)?;
            let held = held(&cluster)?;
            println!("{change:7} changes, {:5.0} s: {held:.1?}", start.elapsed().as_secs_f64());
            if early.is_empty() && change >= changes / 5 {
                early = held;
            }
        }
    }
    cluster.settle(PATIENCE)?;
    std::thread::sleep(QUIET);
    for (early, late) in early.into_iter().zip(held(&cluster)?) {
        ensure!(late <= early * 1.1 + 1.0, "an agent held {early:.1} MiB, and holds {late:.1}");
    }
    for node in ["n1", "n2", "n3"] {
        cluster.take_agent(node)?.kill()?;
        let agent = cluster.spawn_agent(node)?;
        let line: Value =
            serde_json::from_str(&agent.wait_for("policies are enforced", PATIENCE)?)?;
        let count = |name: &str| line.get(name).and_then(Value::as_u64);
        for name in ["chains_changed", "sets_created", "members_changed"] {
            let count = count(name).with_context(|| format!("no {name} in {line}"))?;
            ensure!(count == 0, "{node}: a new agent changed {name} {count}: {line}");
        }
        let [rulesets, sets] = ["rulesets", "sets"].map(|name| count(name).unwrap_or_default());
        println!("{node}: {rulesets} rulesets and {sets} sets, as an agent that starts wants them");
    }
    Ok(())
}

/// MiB that each agent holds.
fn held(cluster: &Cluster) -> Result<Vec<f64>> {
    let mebibytes = |bytes: u64| f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0;
    cluster.agents().map(|agent| agent.resident_bytes().map(mebibytes)).collect()
}

fn namespace(pod: usize) -> &'static str {
    NAMESPACES.get(pod / 3 % 3).copied().unwrap_or("a")
}

fn app(random: &mut Random) -> String {
    format!("app-{}", random.below(APPS))
}

/// Which files there are.
#[derive(Default)]
struct World {
    policies: BTreeSet<usize>,
    peers: BTreeSet<usize>,
}

struct Soak {
    random: Random,
    world: World,
}

impl Soak {
    fn change(&mut self, cluster: &Cluster) -> Result<()> {
        match self.random.below(100) {
            0..45 => self.write_policy(cluster),
            45..60 => self.delete_policy(cluster),
            60..70 => {
                let pod = self.random.below(PODS);
                self.relabel_pod(cluster, pod)
            }
            70..75 => self.relabel_namespace(cluster),
            _ => self.change_peer(cluster),
        }
    }

    fn write_policy(&mut self, cluster: &Cluster) -> Result<()> {
        let number = self.random.below(POLICIES);
        self.world.policies.insert(number);
        let rules = |random: &mut Random, key: &str| -> Value {
            (0..random.below(4))
                .map(|_| {
                    let peers: Vec<Value> = (0..random.below(3)).map(|_| peer(random)).collect();
                    let ports: Vec<Value> = (0..random.below(4)).map(|_| port(random)).collect();
                    json!({key: peers, "ports": ports})
                })
                .collect()
        };
        let random = &mut self.random;
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": NAMESPACES[number % 3]},
            "spec": {
                "podSelector": if random.below(4) == 0 { json!({}) } else { selects(random) },
                "policyTypes": match random.below(3) {
                    0 => json!(["Ingress"]),
                    1 => json!(["Egress"]),
                    _ => json!(["Ingress", "Egress"]),
                },
                "ingress": rules(random, "from"), "egress": rules(random, "to")}});
        cluster.write(&format!("policy-{number}.json"), &policy.to_string())
    }

    fn delete_policy(&mut self, cluster: &Cluster) -> Result<()> {
        let at = self.random.below(self.world.policies.len());
        let Some(number) = self.world.policies.iter().nth(at).copied() else { return Ok(()) };
        self.world.policies.remove(&number);
        cluster.remove(&format!("policy-{number}.json"))
    }

    fn relabel_pod(&mut self, cluster: &Cluster, pod: usize) -> Result<()> {
        let (namespace, name) = (namespace(pod), format!("pod-{pod}"));
        let found = cluster.lab.pod(&format!("{namespace}/{name}"))?;
        let addresses: Vec<String> = found.addresses().iter().map(ToString::to_string).collect();
        let object = self.pod(namespace, &name, found.node(), &addresses);
        cluster.write(&format!("{name}.json"), &object.to_string())
    }

    fn change_peer(&mut self, cluster: &Cluster) -> Result<()> {
        let peer = self.random.below(PEERS);
        let file = format!("peer-{peer}.json");
        if self.world.peers.remove(&peer) {
            return cluster.remove(&file);
        }
        self.world.peers.insert(peer);
        let addresses = [format!("10.99.0.{peer}"), format!("fd99::{peer:x}")];
        let namespace = NAMESPACES[peer % 3];
        let object = self.pod(namespace, &format!("peer-{peer}"), "elsewhere", &addresses);
        cluster.write(&file, &object.to_string())
    }

    fn pod(&mut self, namespace: &str, name: &str, node: &str, addresses: &[String]) -> Value {
        let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": app(&mut self.random)}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": 8000 + self.random.below(3)}]}]},
            "status": {"phase": "Running", "podIPs": ips}})
    }

    fn relabel_namespace(&mut self, cluster: &Cluster) -> Result<()> {
        let name = NAMESPACES[self.random.below(NAMESPACES.len())];
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"team": format!("team-{}", self.random.below(3))}}});
        cluster.write(&format!("namespace-{name}.json"), &object.to_string())
    }
}

fn selects(random: &mut Random) -> Value {
    json!({"matchLabels": {"app": app(random)}})
}

fn peer(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!({"ipBlock": {"cidr": format!("10.{}.0.0/16", random.below(4))}}),
        1 => json!({"namespaceSelector": {}}),
        2 => {
            let team = format!("team-{}", random.below(3));
            json!({"namespaceSelector": {"matchLabels": {"team": team}}, "podSelector": selects(random)})
        }
        _ => json!({"podSelector": selects(random)}),
    }
}

fn port(random: &mut Random) -> Value {
    let protocol = ["TCP", "UDP", "SCTP"][random.below(3)];
    let first = 7000 + random.below(200);
    match random.below(4) {
        0 => json!({"protocol": protocol, "port": "web"}),
        1 => json!({"protocol": protocol, "port": first, "endPort": first + random.below(20)}),
        _ => json!({"protocol": protocol, "port": first}),
    }
}
