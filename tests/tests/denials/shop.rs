//! The cluster that packets are denied in, and what its agents say of it.
//!
//! ```text
//! n1: web        n2: api (the server), other
//! ```

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_controller::dataplane::denial::Denial;
use portcullis_lab::{Family, IptablesVariant, Lab, Listener, PodSpec};
use portcullis_tests::cluster::{Agent, Cluster};
use portcullis_tests::shop::node_object;
use serde_json::{Value, json};

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The port of every pod's listeners.
pub(crate) const PORT: u16 = 80;

const METRICS: u16 = 7002;

/// The cluster with its objects as manifests, without agents and policies.
pub(crate) fn shop(variant: IptablesVariant) -> Result<Cluster> {
    let pods = [("web", "n1"), ("other", "n2"), ("api", "n2")].map(|(name, node)| {
        let pod = PodSpec::new("shop", name, node);
        pod.listen(Listener::tcp(PORT)).listen(Listener::udp(PORT))
    });
    let lab = Lab::builder().nodes(2).iptables(variant).direct_internet(true).pods(pods).build()?;
    let metrics = format!("--metrics-address=:{METRICS}");
    let cluster = Cluster::new(lab, &[&metrics])?;
    let mut items = vec![json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}})];
    items.extend(cluster.lab.nodes().map(node_object));
    items.extend(cluster.lab.pods().map(|pod| {
        let ips: Vec<_> = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": pod.name(), "labels": {"app": pod.name()}},
            "spec": {"nodeName": pod.node()}, "status": {"phase": "Running", "podIPs": ips}})
    }));
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": items});
    cluster.write("objects.json", &objects.to_string())?;
    Ok(cluster)
}

/// A NetworkPolicy that allows nothing to, or from, one pod.
pub(crate) fn isolate(app: &str, types: &str) -> String {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": [types]}})
    .to_string()
}

/// The address of a pod of the shop.
pub(crate) fn address(cluster: &Cluster, pod: &str, family: Family) -> Result<IpAddr> {
    cluster.lab.pod(&format!("shop/{pod}"))?.address(family)
}

/// The first denial of the log behind the first `after` lines that has all of these fields, and
/// how many lines there were up to it.
pub(crate) fn told(
    agent: &Agent,
    after: usize,
    fields: &[(&str, &str)],
    limit: Duration,
) -> Result<(Value, usize)> {
    let found = RefCell::new(None);
    let lines = agent
        .find_after(after, limit, |line| {
            let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
            let has = |(field, value): &(&str, &str)| {
                line.get(*field).is_some_and(|has| match has {
                    Value::String(text) => text == value,
                    Value::Number(number) => number.to_string() == *value,
                    _ => false,
                })
            };
            let matches = line.get("verdict").is_some() && fields.iter().all(has);
            if matches {
                *found.borrow_mut() = Some(line);
            }
            matches
        })
        .with_context(|| format!("no denial was told with {fields:?}"))?;
    Ok((found.into_inner().context("the line is there")?, lines))
}

/// A text of a line.
pub(crate) fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What an agent serves at /metrics.
pub(crate) fn metrics(cluster: &Cluster, node: &str) -> Result<String> {
    cluster.lab.node(node)?.netns().run(|| -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?
}

/// The value of a series, which is a whole number.
pub(crate) fn value(metrics: &str, series: &str) -> Result<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {series} in\n{metrics}"))?.parse()?)
}

/// Waits until a series has a value.
pub(crate) fn wait_for_value(
    cluster: &Cluster,
    node: &str,
    series: &str,
    wanted: impl Fn(u64) -> bool,
) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Denials are in the metrics once they were counted for the first time.
        let found = value(&metrics(cluster, node)?, series);
        if let Ok(found) = &found
            && wanted(*found)
        {
            return Ok(*found);
        }
        ensure!(Instant::now() < deadline, "{series} stays {found:?}");
        std::thread::yield_now();
    }
}

/// What the kernel's counters say of a kind of denial, in both families.
pub(crate) fn kernel_count(cluster: &Cluster, node: &str, denial: Denial) -> Result<u64> {
    let mut packets = 0;
    for family in cluster.lab.families().each() {
        let iptables = cluster.lab.iptables().program(*family);
        let list = format!("{iptables} -w -t mangle -nvxL {} 1", denial.chain());
        let rule = cluster.lab.node(node)?.shell(&list)?;
        packets += rule.split_whitespace().next().context("no counter")?.parse::<u64>()?;
    }
    Ok(packets)
}
