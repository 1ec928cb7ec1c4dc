//! Changes of an ordinary tenant while a hostile tenant and faults are at work on the same node.
//!
//! ```text
//! client ── datagrams ──► server (n2)      policies that close and open it, one after another
//! hostile tenant          4 pods (n2)      expensive policies, created and deleted without a pause
//! faults                  n2               one every second, until the changes are measured
//! ```

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::{Bench, pod, print};

/// Changes of each kind.
const ROUNDS: usize = 200;
/// The 99th percentile of each kind of change is below this.
const BOUND: Duration = Duration::from_millis(20);
const HOSTILE: &str = "hostile";
const PODS: [&str; 4] = ["hostile-1", "hostile-2", "hostile-3", "hostile-4"];
/// From one policy of the hostile tenant to its next change.
const PAUSE: Duration = Duration::from_millis(50);
/// From one fault to the next.
const FAULT_PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(1);

/// Makes a change; how long it took until packets obeyed it.
type Change = fn(&Bench) -> Result<Duration>;

/// What a fault is called, and what causes it: shell on the node, in which `$AGENT` is the agent's process.
const FAULTS: [(&str, &str); 6] = [
    ("the tools that the agent keeps are killed", "for tool in $(pgrep -P $AGENT); do kill -9 $tool; done"),
    (
        "ACCEPT stands before the jump from FORWARD",
        "for t in iptables ip6tables; do $t-nft -t mangle -I FORWARD -j ACCEPT; done; sleep 0.3
         for t in iptables ip6tables; do $t-nft -t mangle -D FORWARD -j ACCEPT; done",
    ),
    (
        "another program fills an ipset with 50,000 members",
        "seq 0 49999 | awk 'BEGIN {print \"create foreign hash:ip maxelem 60000\"}
             {print \"add foreign 11.0.\" int($1 / 256) \".\" $1 % 256}' | ipset restore; ipset destroy foreign",
    ),
    (
        "nobody reads the log of the agent for 2 s",
        "shim=$(ps -o ppid= -p $AGENT); kill -STOP $shim; sleep 2; kill -CONT $shim",
    ),
    ("the connections to the API server end", "ss -K state established '( dport = :443 )' > /dev/null"),
    (
        "another program reads all rules 20 times",
        "for i in $(seq 20); do iptables-nft-save -t mangle > /dev/null; done",
    ),
];

/// Measures the ordinary tenant alone, and beside the hostile one.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let foreign = prepare(bench)?;
    measure(bench, "alone")?;
    let agent = agent(bench)?;
    let (stop, changes, faults) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let measured = thread::scope(|scope| {
        let tenant = scope.spawn(|| attack(bench, &stop, &changes));
        let neighbour = scope.spawn(|| inject(bench, &agent, &stop, &faults));
        let measured = measure(bench, "beside a hostile tenant, with faults");
        let measured = measured.with_context(|| {
            let logs =
                ["-n", "portcullis-system", "logs", "daemonset/portcullis-node", "--tail=10"];
            let logs = bench.cluster.kubectl(&logs).unwrap_or_default();
            format!("{}\n{logs}", readyz(bench).unwrap_or_default())
        });
        stop.store(true, Ordering::Relaxed);
        for thread in [tenant, neighbour] {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        measured
    })?;
    println!(
        "{} changes of the hostile tenant, {} faults, and all the time 60 connections to /metrics and a refused ipset",
        changes.load(Ordering::Relaxed),
        faults.load(Ordering::Relaxed)
    );
    ensure!(agent == self::agent(bench)?, "the agent was started again");
    ensure!(readyz(bench)?.contains("refused"), "no set was refused: {}", readyz(bench)?);
    bench.cluster.node("n2")?.shell(&foreign)?;
    for (what, p99) in measured {
        ensure!(p99 < BOUND, "{what}: the 99th percentile is {p99:?}");
    }
    Ok(())
}

/// The 99th percentile of each kind of change.
fn measure(bench: &Bench, when: &str) -> Result<Vec<(String, Duration)>> {
    let kinds: [(&str, Change); 2] =
        [("a policy that closes", Bench::closes), ("a policy that opens", Bench::opens)];
    let rounds = kinds.into_iter().map(|(kind, change)| {
        let mut took = (0..ROUNDS).map(|_| change(bench)).collect::<Result<Vec<Duration>>>()?;
        let what = format!("{kind}, {when}");
        print(&what, &mut took);
        let p99 = took.get((took.len() - 1) * 99 / 100).copied();
        Ok((what, p99.context("nothing was measured")?))
    });
    rounds.collect()
}

/// The pods of the hostile tenant, and a policy of it whose ipset another program holds: gives what lets go of
/// the ipset.
fn prepare(bench: &Bench) -> Result<String> {
    bench.cluster.kubectl(&["create", "namespace", HOSTILE])?;
    for name in PODS {
        bench.cluster.apply(&pod(HOSTILE, name, "n2").to_string())?;
    }
    bench.cluster.wait_until_pods_are_ready(HOSTILE)?;
    let node = bench.cluster.node("n2")?;
    let sets = || -> Result<BTreeSet<String>> {
        let names = node.shell("ipset list -name")?;
        Ok(names
            .lines()
            .filter(|name| name.starts_with("PORTCULLIS-4"))
            .map(str::to_owned)
            .collect())
    };
    let before = sets()?;
    let refused = policy(
        "refused",
        PODS[0],
        &json!([{"from": [
        {"ipBlock": {"cidr": "198.51.100.1/32"}}, {"ipBlock": {"cidr": "198.51.100.3/32"}}]}]),
    );
    create(bench, &refused)?;
    let name = wait(|| Ok(sets()?.difference(&before).next().cloned()))?;
    delete(bench, "refused")?;
    wait(|| Ok((!sets()?.contains(&name)).then_some(())))?;
    let rule = format!("OUTPUT -p tcp -m set --match-set {name} dst");
    node.shell(&format!(
        "ipset create {name} bitmap:port range 0-9; iptables-nft -t raw -A {rule}"
    ))?;
    create(bench, &refused)?;
    wait(|| Ok(readyz(bench)?.contains("refused").then_some(())))?;
    Ok(format!("iptables-nft -t raw -D {rule}"))
}

/// Creates and deletes expensive policies; each is another one than before.
fn attack(bench: &Bench, stop: &AtomicBool, changes: &AtomicUsize) -> Result<()> {
    let shapes: [fn(u32) -> Value; 5] = [nested, blocks, everybody, except, many_ports];
    for (round, shape) in (0..).zip(shapes.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let name = format!("shape-{}", round % 5);
        if round >= 5 {
            delete(bench, &name)?;
        }
        // Not the first one: if its policies exceeded a budget, it would no longer need the refused ipset.
        let of = PODS.get(1 + usize::try_from(round)? % 3).copied().unwrap_or_default();
        create(bench, &policy(&name, of, &shape(round)))?;
        changes.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn inject(bench: &Bench, agent: &str, stop: &AtomicBool, faults: &AtomicUsize) -> Result<()> {
    let node = bench.cluster.node("n2")?;
    let mut idle = Vec::new();
    for (name, fault) in FAULTS.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        idle.clear();
        for _ in 0..60 {
            idle.push(node.netns().run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 9466)))??);
        }
        node.shell(&format!("AGENT={agent}\n{fault}")).with_context(|| (*name).to_owned())?;
        faults.fetch_add(1, Ordering::Relaxed);
        thread::sleep(FAULT_PAUSE);
    }
    Ok(())
}

/// The process of the agent on the node.
fn agent(bench: &Bench) -> Result<String> {
    Ok(bench.cluster.node("n2")?.shell("pgrep -f '[p]ortcullis node'")?.trim().to_owned())
}

fn readyz(bench: &Bench) -> Result<String> {
    bench.cluster.node("n2")?.netns().run(|| -> Result<String> {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 9467)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?
}

fn wait<T>(mut is_there: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is_there()? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "it does not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

fn create(bench: &Bench, policy: &Value) -> Result<()> {
    let policy = serde_json::from_value(policy.clone())?;
    bench.runtime.block_on(policies(bench).create(&PostParams::default(), &policy))?;
    Ok(())
}

fn delete(bench: &Bench, name: &str) -> Result<()> {
    bench.runtime.block_on(policies(bench).delete(name, &DeleteParams::default()))?;
    Ok(())
}

fn policies(bench: &Bench) -> Api<NetworkPolicy> {
    Api::namespaced(bench.client.clone(), HOSTILE)
}

fn policy(name: &str, pod: &str, ingress: &Value) -> Value {
    let mut policy = crate::policy(name, pod, ingress);
    policy["metadata"]["namespace"] = HOSTILE.into();
    policy
}

/// Matches all pods of the cluster, by a selector that no other number has.
fn anybody(number: u32) -> Value {
    json!({"namespaceSelector": {}, "podSelector": {"matchExpressions": [
        {"key": "no", "operator": "NotIn", "values": [number.to_string()]}]}})
}

fn nested(round: u32) -> Value {
    let rule = |n: u32| {
        let label = format!("app-{round}-{n}");
        json!({"from": [{"podSelector": {"matchLabels": {"app": label}}}],
            "ports": [{"port": 1 + n, "endPort": 60_000 - n}]})
    };
    (0..300).map(rule).collect()
}

fn blocks(round: u32) -> Value {
    let block = |n: u32| {
        let address = Ipv4Addr::from(0x1400_0000 + (round * 2_000 + n) * 2);
        json!({"ipBlock": {"cidr": format!("{address}/32")}})
    };
    json!([{"from": (0..2_000).map(block).collect::<Value>(), "ports": [{"port": 80}]}])
}

fn everybody(round: u32) -> Value {
    let rule = |n: u32| json!({"from": [anybody(round * 100 + n)], "ports": [{"port": n * 60 + 1, "endPort": n * 60 + 58}]});
    (0..100).map(rule).collect()
}

fn except(round: u32) -> Value {
    let except = |n: u32| format!("{}/32", Ipv4Addr::from((round + n).wrapping_mul(0x0001_0003)));
    let except: Vec<String> = (0..1_000).map(except).collect();
    json!([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}]}])
}

fn many_ports(round: u32) -> Value {
    let port = |n: u32| json!({"port": 1 + n * 3});
    let rule = |n: u32| json!({"from": [anybody(round * 10 + n)], "ports": (n * 50..n * 50 + 50).map(port).collect::<Value>()});
    (0..5).map(rule).collect()
}
