//! Connections that lose their permission end, and no other does: the real agent, real packets.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_lab::{ConnectionSpec, Endpoint, IptablesVariant, Lab, Listener, PodSpec};
use portcullis_tests::cluster::Cluster;
use serde_json::json;

use crate::VARIANTS;
use crate::shop::{ECHO, PATIENCE, allow, enforced, lab, shop, write_pod};
use crate::traffic::Stop;

const DNS: u16 = 53;
/// How long an answer may take on a machine that is busy with other tests.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Without an answer for this long, there is none.
const SILENCE: Duration = Duration::from_millis(300);

/// A policy for the ingress of `shop/dns` from these apps, UDP.
pub(crate) fn dns(apps: &[&str]) -> String {
    allow("dns", apps, &[DNS]).replace("{port: 53}", "{protocol: UDP, port: 53}")
}

/// The shop with a UDP server `dns` on n2 and another one, `far`, on n1.
pub(crate) fn with_dns(variant: IptablesVariant, flags: &[&str]) -> Result<Cluster> {
    let server = |name, node| PodSpec::new("shop", name, node).listen(Listener::udp(DNS));
    shop(lab(variant).pods([server("dns", "n2"), server("far", "n1")]), flags)
}

/// A UDP flow from a pod, always from the same port.
pub(crate) struct Flow {
    socket: UdpSocket,
}

impl Flow {
    pub(crate) fn open(lab: &Lab, from: &str, to: IpAddr, port: u16) -> Result<Self> {
        // A port of each family: a socket of IPv6 would have both.
        let any: SocketAddr = match to {
            IpAddr::V4(_) => ([0; 4], port).into(),
            IpAddr::V6(_) => ([0_u16; 8], port + 1).into(),
        };
        let socket =
            lab.netns(&Endpoint::pod(format!("shop/{from}")))?.run(|| UdpSocket::bind(any))??;
        socket.connect((to, DNS))?;
        Ok(Self { socket })
    }

    /// Whether a question is answered.
    pub(crate) fn ask(&self, limit: Duration) -> Result<bool> {
        self.socket.set_read_timeout(Some(limit))?;
        self.socket.send(b"question")?;
        Ok(self.socket.recv(&mut [0; 64]).is_ok())
    }
}

/// The flow has ended within `limit`, and does not come back.
pub(crate) fn ends(flow: &Flow) -> Result<Duration> {
    let start = Instant::now();
    while flow.ask(SILENCE)? {
        ensure!(start.elapsed() < PATIENCE, "the flow goes on");
        thread::sleep(Duration::from_millis(5));
    }
    let took = start.elapsed().saturating_sub(SILENCE);
    for _ in 0..3 {
        ensure!(!flow.ask(SILENCE)?, "the flow came back");
    }
    Ok(took)
}

fn a_flow_ends_beside_another(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    let mut cluster = with_dns(variant, &[])?;
    cluster.write("dns.yaml", &dns(&["web", "stranger"]))?;
    cluster.start_agents()?;
    let lab = &cluster.lab;
    for to in lab.pod("shop/dns")?.addresses() {
        let (flow, other) =
            (Flow::open(lab, "web", *to, 5000)?, Flow::open(lab, "stranger", *to, 5000)?);
        ensure!(flow.ask(ANSWER)? && other.ask(ANSWER)?, "both are allowed");
        let stop = AtomicBool::new(false);
        let asked = thread::scope(|scope| {
            let allowed = scope.spawn(|| {
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    ensure!(other.ask(ANSWER)?, "an answer to an allowed flow was lost");
                    asked += 1;
                }
                Ok(asked)
            });
            let guard = Stop(&stop);
            enforced(&cluster, cluster.agents(), || {
                cluster.write("dns.yaml", &dns(&["stranger"]))
            })?;
            let took = ends(&flow)?;
            println!("{variant:?} {to}: ended {took:.1?} after the policy was enforced");
            drop(guard);
            allowed.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })?;
        ensure!(asked > 10, "too little traffic to tell: {asked}");
        // Without a rule that changes: a label goes, and a set loses a member.
        let stranger = lab.pod("shop/stranger")?;
        enforced(&cluster, cluster.agents(), || write_pod(&cluster, stranger, "gone"))?;
        ends(&other).context("a label that is gone")?;
        write_pod(&cluster, stranger, "stranger")?;
        enforced(&cluster, cluster.agents(), || {
            cluster.write("dns.yaml", &dns(&["web", "stranger"]))
        })?;
        ensure!(flow.ask(ANSWER)? && other.ask(ANSWER)?, "both are allowed again");
    }
    Ok(())
}

#[test]
fn a_udp_flow_that_lost_its_permission_ends_and_an_allowed_one_loses_nothing() -> Result<()> {
    VARIANTS.into_iter().try_for_each(a_flow_ends_beside_another)
}

#[test]
fn flows_go_on_where_the_flag_is_none() -> Result<()> {
    let _alone = crate::alone();
    let mut cluster = with_dns(IptablesVariant::Nft, &["--revoke-established=none"])?;
    cluster.write("dns.yaml", &dns(&["web"]))?;
    cluster.start_agents()?;
    let to = *cluster.lab.pod("shop/dns")?.addresses().first().context("no address")?;
    let flow = Flow::open(&cluster.lab, "web", to, 5000)?;
    ensure!(flow.ask(ANSWER)?, "it is allowed");
    enforced(&cluster, cluster.agents(), || cluster.write("dns.yaml", &dns(&[])))?;
    for _ in 0..5 {
        ensure!(flow.ask(ANSWER)?, "the flow ended");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// A policy for `shop/api`: it answers these apps, and connects to nobody. If it could, its packets
/// would open the connection again, the other way round.
fn only_answers(apps: &[&str]) -> String {
    allow("api", apps, &[ECHO]).replace("[Ingress]", "[Ingress, Egress]")
}

/// TCP: ended by `all`, and not by default.
#[test]
fn tcp_connections_end_where_the_flag_is_all() -> Result<()> {
    let _alone = crate::alone();
    for (flags, goes_on) in [(&[][..], true), (&["--revoke-established=all"], false)] {
        let mut cluster = shop(lab(IptablesVariant::Nft), flags)?;
        cluster.write("api.yaml", &only_answers(&["web", "stranger"]))?;
        cluster.start_agents()?;
        for to in cluster.lab.pod("shop/api")?.addresses() {
            let connect = |from: &str| {
                cluster.lab.connect(&ConnectionSpec {
                    from: Endpoint::pod(format!("shop/{from}")),
                    to: SocketAddr::new(*to, ECHO),
                    source_port: None,
                    timeout: Duration::from_secs(2),
                })
            };
            let (mut held, mut allowed) = (connect("web")?, connect("stranger")?);
            held.exchange()?;
            allowed.exchange()?;
            enforced(&cluster, cluster.agents(), || {
                cluster.write("api.yaml", &only_answers(&["stranger"]))
            })?;
            if !goes_on {
                // The pass begins once the change is enforced.
                let start = Instant::now();
                while held.exchange().is_ok() {
                    ensure!(start.elapsed() < PATIENCE, "the connection goes on");
                }
            }
            for _ in 0..3 {
                ensure!(held.exchange().is_ok() == goes_on, "{flags:?}: goes on: {}", !goes_on);
                allowed.exchange().context("an allowed connection")?;
            }
            enforced(&cluster, cluster.agents(), || {
                cluster.write("api.yaml", &only_answers(&["web", "stranger"]))
            })?;
        }
    }
    Ok(())
}

/// The server may connect to the client: without an entry, what it sends would open the connection
/// again, the other way round.
#[test]
fn a_connection_that_ended_stays_so_when_its_server_speaks_first() -> Result<()> {
    const OWN: u16 = 9000;
    let _alone = crate::alone();
    let mut cluster = shop(lab(IptablesVariant::Nft), &["--revoke-established=all"])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[OWN]))?;
    cluster.start_agents()?;
    let mut connections = Vec::new();
    for to in cluster.lab.pod("shop/api")?.addresses() {
        let in_pod = |name: &str| cluster.lab.netns(&Endpoint::pod(format!("shop/{name}")));
        let listener = in_pod("api")?.run(|| TcpListener::bind((*to, OWN)))??;
        let client = in_pod("web")?.run(|| TcpStream::connect((*to, OWN)))??;
        let (server, _) = listener.accept()?;
        server.set_read_timeout(Some(SILENCE))?;
        connections.push((client, server));
    }
    let hears = |(client, server): &mut (TcpStream, TcpStream)| -> Result<bool> {
        client.write_all(b"client")?;
        Ok(server.read(&mut [0; 64]).is_ok())
    };
    for connection in &mut connections {
        ensure!(hears(connection)?, "it is allowed");
    }
    enforced(&cluster, cluster.agents(), || cluster.write("api.yaml", &allow("api", &[], &[])))?;
    let start = Instant::now();
    for connection in &mut connections {
        while hears(connection)? {
            ensure!(start.elapsed() < PATIENCE, "the connection goes on");
        }
    }
    // For two seconds, the agent looks for connections that answers opened again.
    thread::sleep(Duration::from_millis(2_500));
    for connection in &mut connections {
        for _ in 0..3 {
            connection.1.write_all(b"server")?;
            ensure!(!hears(connection)?, "what the server sent opened the connection again");
        }
    }
    Ok(())
}

fn an_address_is_used_again(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    let mut cluster = with_dns(variant, &["--revoke-established=none"])?;
    // No policy selects `first`; `second` may do nothing.
    cluster.write(
        "second.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {namespace: shop, name: second}\n\
         spec: {podSelector: {matchLabels: {app: second}}, policyTypes: [Ingress, Egress]}\n",
    )?;
    let addresses = cluster.lab.add_pod(PodSpec::new("shop", "first", "n2"))?.addresses().to_vec();
    write_pod(&cluster, cluster.lab.pod("shop/first")?, "first")?;
    cluster.start_agents()?;
    let servers = cluster.lab.pod("shop/far")?.addresses().to_vec();
    let flows = |lab: &Lab, name: &str| -> Result<Vec<Flow>> {
        servers.iter().map(|server| Flow::open(lab, name, *server, 5000)).collect()
    };
    for flow in flows(&cluster.lab, "first")? {
        ensure!(flow.ask(ANSWER)?, "no policy selects the first pod");
    }
    cluster.lab.remove_pod("shop/first")?;
    let next = PodSpec::new("shop", "second", "n2");
    let next = addresses.iter().fold(next, |next, address| next.address(*address));
    ensure!(cluster.lab.add_pod(next)?.addresses() == addresses, "another address");
    enforced(&cluster, cluster.agents(), || {
        cluster.remove("pod-shop-first.json")?;
        write_pod(&cluster, cluster.lab.pod("shop/second")?, "second")
    })?;
    for flow in flows(&cluster.lab, "second")? {
        ends(&flow).context("the next pod with the address")?;
    }
    Ok(())
}

#[test]
fn a_flow_ends_with_its_pod_and_not_with_its_address() -> Result<()> {
    VARIANTS.into_iter().try_for_each(an_address_is_used_again)
}

/// The API server may never learn the address of a pod that does not live long.
#[test]
fn a_flow_ends_with_an_address_that_only_the_results_of_cni_plugins_have() -> Result<()> {
    let _alone = crate::alone();
    let mut cluster = with_dns(IptablesVariant::Nft, &["--revoke-established=none"])?;
    cluster.write_cni_results()?;
    let near = cluster.lab.pod("shop/near")?;
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "near", "labels": {"app": "near"}},
        "spec": {"nodeName": "n2"}, "status": {"phase": "Pending"}});
    cluster.write("pod-shop-near.json", &manifest.to_string())?;
    let (own, server) = (near.addresses().to_vec(), cluster.lab.pod("shop/far")?.addresses());
    let server = server.to_vec();
    cluster.start_agents()?;
    let open = |(number, to): (usize, &IpAddr)| {
        Flow::open(&cluster.lab, "near", *to, 5000 + 10 * u16::try_from(number)?)
    };
    let flows: Vec<Flow> = server.iter().enumerate().map(open).collect::<Result<_>>()?;
    let start = Instant::now();
    for flow in &flows {
        while !flow.ask(SILENCE)? {
            ensure!(start.elapsed() < PATIENCE, "the agent does not know {own:?}");
        }
    }
    cluster.remove_cni_result("n2", "near")?;
    for flow in &flows {
        ends(flow)?;
    }
    Ok(())
}
