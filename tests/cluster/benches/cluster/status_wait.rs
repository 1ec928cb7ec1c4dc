//! 1,000 tries: a policy is applied, `kubectl whatif status --wait` returns, and packets on every node obey
//! the policy at that moment.
//!
//! ```text
//! 10 tenants at a time:  client (n1) ── one datagram, from a new port ──► server-1 (n1), server-2 (n2)
//! each try:              the policy of both servers allows or denies, the other way round each time
//! ```
//!
//! A datagram is sent once. If it gets lost, the answer was early, and not the machine slow.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, Patch, PatchParams};
use portcullis_cluster::probe::expect_open;
use portcullis_lab::Namespace;
use portcullis_tests::cluster::kubectl_whatif;
use serde_json::json;

use crate::{Bench, PORT, pod, print};

const TENANTS: usize = 10;
const TRIES: usize = 100;
/// How long a datagram may take that a policy allows.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);
/// How long a datagram that a policy denies is waited for.
const LOST_AFTER: Duration = Duration::from_millis(300);

/// What one tenant saw.
#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    early: Vec<String>,
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let tenants = (0..TENANTS).map(|number| Tenant::start(bench, &format!("status-{number}")));
    let tenants = tenants.collect::<Result<Vec<Tenant>>>()?;
    let seen = thread::scope(|scope| {
        let running: Vec<_> =
            tenants.iter().map(|tenant| scope.spawn(|| tenant.tries(bench))).collect();
        let ended = running
            .into_iter()
            .map(|tenant| tenant.join().map_err(|_| anyhow!("a tenant panicked")).flatten());
        ended.collect::<Result<Vec<Seen>>>()
    })?;
    let mut took: Vec<Duration> = seen.iter().flat_map(|seen| seen.took.clone()).collect();
    let early: Vec<&String> = seen.iter().flat_map(|seen| &seen.early).collect();
    print("from a change of a policy to status --wait", &mut took);
    println!("{} of {} answers were early", early.len(), took.len());
    ensure!(early.is_empty(), "{early:#?}");
    Ok(())
}

struct Tenant {
    namespace: String,
    client: Namespace,
    servers: Vec<(SocketAddr, UdpSocket)>,
}

impl Tenant {
    fn start(bench: &Bench, namespace: &str) -> Result<Self> {
        let cluster = &bench.cluster;
        cluster.kubectl(&["create", "namespace", namespace])?;
        let names = ["server-1", "server-2"];
        for (name, node) in [("client", "n1"), (names[0], "n1"), (names[1], "n2")] {
            let mut pod = pod(namespace, name, node);
            pod["metadata"]["labels"]["role"] = name.trim_end_matches(['-', '1', '2']).into();
            cluster.apply(&pod.to_string())?;
        }
        cluster.wait_until_pods_are_ready(namespace)?;
        let client = cluster.pod_netns(namespace, "client")?;
        let mut servers = Vec::new();
        for name in names {
            let addresses = cluster.pod_addresses(namespace, name)?;
            expect_open(name, &client, &addresses, 8080)?;
            let address = *addresses.first().context("a pod has an address")?;
            let netns = cluster.pod_netns(namespace, name)?;
            let socket = netns.run(|| UdpSocket::bind((any(address), PORT)))??;
            servers.push((SocketAddr::new(address, PORT), socket));
        }
        Ok(Self { namespace: namespace.to_owned(), client, servers })
    }

    fn tries(&self, bench: &Bench) -> Result<Seen> {
        let mut seen = Seen::default();
        for number in 0..TRIES {
            let is_allowed = number % 2 == 1;
            self.apply(bench, is_allowed)?;
            let began = Instant::now();
            let answer = Command::new(kubectl_whatif()?)
                .args(["status", "netpol/servers", "-n", &self.namespace])
                .args(["--wait", "--timeout=2m"])
                .env("KUBECONFIG", bench.cluster.kubeconfig())
                .output()?;
            let took = began.elapsed();
            let said = String::from_utf8_lossy(&answer.stdout);
            ensure!(answer.status.success(), "{}: {answer:?}", self.namespace);
            ensure!(said.contains("applied on 2 of 2 nodes"), "{}: {said}", self.namespace);
            seen.took.push(took);
            let arrived = self.datagrams(u8::try_from(number)?)?;
            if arrived.iter().any(|arrived| *arrived != is_allowed) {
                let (namespace, should) = (&self.namespace, if is_allowed { "" } else { "not " });
                let early = format!("{namespace}, try {number}: {should}to arrive: {arrived:?}");
                println!("{early}");
                seen.early.push(early);
            }
        }
        Ok(seen)
    }

    fn apply(&self, bench: &Bench, is_allowed: bool) -> Result<()> {
        let ingress = if is_allowed { json!([{}]) } else { json!([]) };
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "servers", "namespace": self.namespace},
            "spec": {"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"],
                "ingress": ingress},
        });
        let policies: Api<NetworkPolicy> = Api::namespaced(bench.client.clone(), &self.namespace);
        let (parameters, patch) = (PatchParams::apply("bench").force(), Patch::Apply(&policy));
        bench.runtime.block_on(policies.patch("servers", &parameters, &patch))?;
        Ok(())
    }

    /// Sends a datagram to each server. Whether it arrives. One of an earlier try is none.
    fn datagrams(&self, number: u8) -> Result<Vec<bool>> {
        self.client.run(|| {
            self.servers.iter().try_for_each(|(to, _)| {
                UdpSocket::bind((any(to.ip()), 0))?.send_to(&[number], to).map(drop)
            })
        })??;
        let is_allowed = number % 2 == 1;
        let limit = if is_allowed { ARRIVES_WITHIN } else { LOST_AFTER };
        let arrives = |(_, socket): &(SocketAddr, UdpSocket)| -> Result<bool> {
            socket.set_read_timeout(Some(limit))?;
            let mut received = [0];
            loop {
                match socket.recv(&mut received) {
                    Ok(_) if received == [number] => return Ok(true),
                    Ok(_) => println!("{}: try {received:?} arrived late", self.namespace),
                    Err(_) => return Ok(false),
                }
            }
        };
        self.servers.iter().map(arrives).collect()
    }
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
