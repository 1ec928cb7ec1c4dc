//! What a packet costs on a node with 250 isolated pods, 1,000 policies of which select its destination.
//!
//! `make bench-packets`, or `cargo bench -p portcullis-tests --bench packets`. With the path of another
//! `portcullis` in `PORTCULLIS_OTHER`, that one is measured beside it.
//!
//! Each row of a table is a lab of its own: two pods of one node. A burst of packets is sent in
//! each of them in turn, again and again, so that what else runs on the machine slows all of them
//! down. On veth pairs, the call that sends a packet does all the work up to the receiving socket, so the
//! time of the calls is the cost. The factor is the median over all turns, each compared with the
//! lone rule that accepts established packets in the same turn.
//!
//! A new UDP connection is one packet, and shows what the rules cost. A TCP connection is opened, accepted
//! and reset, which is the least that a program can do, and shows what a program notices of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::PacketBuilder;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_lab::{Families, Family, IptablesVariant, Lab, PodSpec, Topology};
use portcullis_tests::cluster;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

const NAMESPACE: &str = "bench";
const PODS: usize = 250;
const POLICIES: usize = 1_000;
/// What new connections go to, and what the established one goes to.
const NEW: u16 = 7000;
const OLD: u16 = 7001;
/// Packets that are sent at once.
const BURST: u16 = 2_000;
/// TCP connections that are opened one after the other.
const CONNECTIONS: u16 = 500;
const TURNS: usize = 200;
/// The first of their source ports.
const FIRST_PORT: u16 = 20_000;
/// The source port of the established connection.
const OLD_PORT: u16 = 5_000;

fn main() -> Result<()> {
    // The packets are processed where they are sent: what is measured has one core.
    let mut cores = CpuSet::new();
    cores.set(0)?;
    let own = cluster::portcullis()?;
    let other = std::env::var_os("PORTCULLIS_OTHER").map(PathBuf::from);
    sched_setaffinity(Pid::from_raw(0), &cores)?;
    let kinds = [IptablesVariant::Nft, IptablesVariant::Legacy].into_iter().flat_map(|variant| {
        [Topology::Routed, Topology::Bridge].map(|topology| Kind { variant, topology })
    });
    for kind in kinds {
        let mut worlds = vec![World::start(kind, "a lone conntrack rule", None)?];
        worlds.push(World::start(kind, "iptables backend", Some((&own, &["--backend=iptables"])))?);
        worlds.push(World::start(kind, "nftables backend", Some((&own, &["--backend=nftables"])))?);
        if let Some(other) = &other {
            worlds.push(World::start(kind, "PORTCULLIS_OTHER", Some((other, &[])))?);
        }
        for turn in 0..TURNS {
            for world in &mut worlds {
                world.measure().with_context(|| format!("{}, turn {turn}", world.name))?;
            }
        }
        print(kind, &worlds);
    }
    Ok(())
}

/// What the labs of one table have in common.
#[derive(Clone, Copy)]
struct Kind {
    variant: IptablesVariant,
    topology: Topology,
}

/// Two pods on a node, and what was measured between them.
struct World {
    name: &'static str,
    lab: Lab,
    agent: Option<Child>,
    client: Ends,
    _files: TempDir,
    /// µs per packet that opens a connection, by turn.
    new: Vec<f64>,
    /// µs per packet of the established connection, by turn.
    established: Vec<f64>,
    /// µs per TCP connection, by turn.
    tcp: Vec<f64>,
}

/// The sockets of the two pods.
struct Ends {
    raw: Socket,
    source: Ipv4Addr,
    target: Ipv4Addr,
    client: UdpSocket,
    /// Nobody reads from it: what its buffer cannot take is dropped.
    _sink: UdpSocket,
    server: UdpSocket,
    listener: TcpListener,
}

impl World {
    /// `agent` is a binary with flags of its own; without one, there is a lone rule.
    fn start(kind: Kind, name: &'static str, agent: Option<(&Path, &[&str])>) -> Result<Self> {
        let Kind { variant, topology } = kind;
        let pods = ["client", "server"].map(|name| PodSpec::new(NAMESPACE, name, "n1"));
        let lab = Lab::builder().nodes(1).topology(topology).families(Families::V4);
        let lab = lab.iptables(variant).pods(pods).build()?;
        let client = Ends::open(&lab)?;
        let files = tempfile::tempdir()?;
        let manifests = files.path().join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("all.json"), objects(&lab)?.to_string())?;
        let node = lab.node("n1")?;
        let agent = match agent {
            None => {
                let iptables = lab.iptables().program(Family::V4);
                node.shell(&format!(
                    "{iptables} -w -t mangle -A FORWARD -m conntrack --ctstate \
                     RELATED,ESTABLISHED -j ACCEPT"
                ))?;
                None
            }
            Some((binary, flags)) => {
                let mut command = Command::new(binary);
                command.args(["node", "--node-name=n1", "--metrics-address=127.0.0.1:9000"]);
                command.arg(format!("--source=dir:{}", manifests.display()));
                command.args(flags).arg("--lock-dir").arg(files.path()).stdin(Stdio::null());
                let log = fs::File::create(files.path().join("log"))?;
                Some(node.netns().spawn(command.stderr(log))?)
            }
        };
        let [new, established, tcp] = [const { Vec::new() }; 3];
        let mut world = Self { name, lab, agent, client, _files: files, new, established, tcp };
        if world.agent.is_some() {
            world.wait_for_rules()?;
        }
        Ok(world)
    }

    /// Waits until the agent enforces: a port that no policy allows is closed.
    fn wait_for_rules(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let before = self.received()?;
            self.client.send(FIRST_PORT, 9)?;
            if self.received()? == before {
                // Of a node whose agent has just begun, the first rules may be a moment away.
                std::thread::sleep(Duration::from_secs(1));
                return self.exchange().context("the allowed port is closed, too");
            }
            ensure!(Instant::now() < deadline, "{}: nothing is enforced", self.name);
            std::thread::sleep(Duration::from_millis(100));
            self.forget()?;
        }
    }

    /// One turn.
    fn measure(&mut self) -> Result<()> {
        self.forget()?;
        let new = self.burst(FIRST_PORT, 1)?;
        self.new.push(new);
        self.exchange()?;
        let established = self.burst(OLD_PORT, 0)?;
        self.established.push(established);
        self.forget()?;
        let tcp = self.connections()?;
        self.tcp.push(tcp);
        Ok(())
    }

    /// µs per TCP connection.
    fn connections(&self) -> Result<f64> {
        let pod = self.lab.pod(&format!("{NAMESPACE}/client"))?;
        let open = || Socket::new(Domain::IPV4, Type::STREAM, None);
        let sockets: Vec<Socket> =
            pod.netns().run(|| (0..CONNECTIONS).map(|_| open()).collect::<Result<_, _>>())??;
        for socket in &sockets {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        let to = SocketAddr::from((self.client.target, NEW)).into();
        let start = Instant::now();
        for socket in sockets {
            socket.connect_timeout(&to, Duration::from_secs(5)).context("no TCP connection")?;
            let accepted = self.client.listener.accept()?;
            drop(socket);
            drop(accepted);
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(CONNECTIONS))
    }

    /// µs per packet of a burst, in which the source port grows by `step`.
    fn burst(&self, port: u16, step: u16) -> Result<f64> {
        let destination = if step == 0 { OLD } else { NEW };
        let packets: Vec<Vec<u8>> = (0..BURST)
            .map(|number| self.client.packet(port + number * step, destination))
            .collect::<Result<_>>()?;
        let before = self.received()?;
        let to = SocketAddr::from((self.client.target, 0)).into();
        let start = Instant::now();
        for packet in &packets {
            self.client.raw.send_to(packet, &to)?;
        }
        let took = start.elapsed();
        let arrived = self.received()? - before;
        // ARP has frames of its own.
        let expected = u64::from(BURST)..u64::from(BURST) + 10;
        ensure!(expected.contains(&arrived), "{arrived} of {BURST} packets arrived");
        Ok(took.as_secs_f64() * 1e6 / f64::from(BURST))
    }

    /// A packet each way: from then on, the kernel calls the connection established.
    fn exchange(&self) -> Result<()> {
        let ends = &self.client;
        let mut buffer = [0; 64];
        // What is left of an earlier burst leaves no room.
        ends.server.set_nonblocking(true)?;
        while ends.server.recv(&mut buffer).is_ok() {}
        ends.server.set_nonblocking(false)?;
        ends.client.send_to(b"question", (ends.target, OLD))?;
        ends.server.recv(&mut buffer).context("the question was lost")?;
        ends.server.send_to(b"answer", (ends.source, OLD_PORT))?;
        ends.client.recv(&mut buffer).map(drop).context("no answer")
    }

    fn forget(&self) -> Result<()> {
        self.lab.node("n1")?.shell("conntrack -F 2>/dev/null").map(drop)
    }

    /// Packets that the interface of the server has received.
    fn received(&self) -> Result<u64> {
        let server = self.lab.pod(&format!("{NAMESPACE}/server"))?;
        let text = server.netns().run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let fields = line.context("no eth0")?.split_whitespace().nth(1);
        Ok(fields.context("no counter")?.parse()?)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

impl Ends {
    fn open(lab: &Lab) -> Result<Self> {
        let pod = |name: &str| lab.pod(&format!("{NAMESPACE}/{name}"));
        let (client, server) = (pod("client")?, pod("server")?);
        let [source, target] = [client, server].map(|pod| pod.address(Family::V4));
        let (IpAddr::V4(source), IpAddr::V4(target)) = (source?, target?) else {
            bail!("not IPv4");
        };
        let (raw, asking) = client.netns().run(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
            let asking = UdpSocket::bind((source, OLD_PORT))?;
            asking.set_read_timeout(Some(Duration::from_secs(5)))?;
            anyhow::Ok((raw, asking))
        })??;
        let (sink, server, listener) = server.netns().run(|| {
            let server = UdpSocket::bind((target, OLD))?;
            server.set_read_timeout(Some(Duration::from_secs(5)))?;
            let listener = TcpListener::bind((target, NEW))?;
            anyhow::Ok((UdpSocket::bind((target, NEW))?, server, listener))
        })??;
        Ok(Self { raw, source, target, client: asking, _sink: sink, server, listener })
    }

    fn packet(&self, port: u16, destination: u16) -> Result<Vec<u8>> {
        let (source, target) = (self.source.octets(), self.target.octets());
        let builder = PacketBuilder::ipv4(source, target, 64).udp(port, destination);
        let mut packet = Vec::new();
        builder.write(&mut packet, b"burst")?;
        Ok(packet)
    }

    fn send(&self, port: u16, destination: u16) -> Result<()> {
        let to = SocketAddr::from((self.target, 0)).into();
        self.raw.send_to(&self.packet(port, destination)?, &to)?;
        Ok(())
    }
}

/// The objects: all pods are isolated in both directions, and 1,000 policies name peers of the server.
fn objects(lab: &Lab) -> Result<Value> {
    let pod = |name: &str, address: IpAddr, app: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"app": app}},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]}})
    };
    let mut items = Vec::new();
    for name in ["client", "server"] {
        let address = lab.pod(&format!("{NAMESPACE}/{name}"))?.address(Family::V4)?;
        items.push(pod(name, address, name));
    }
    for number in 2..u32::try_from(PODS)? {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 0).to_bits() + number);
        let app = format!("app-{}", number % 50);
        items.push(pod(&format!("pod-{number}"), address.into(), &app));
    }
    let policy = |name: &str, spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec})
    };
    let selects = |app: &str| json!({"matchLabels": {"app": app}});
    items
        .push(policy("isolated", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})));
    let to_server = json!([{"to": [{"podSelector": selects("server")}]}]);
    let egress = json!({"podSelector": selects("client"), "policyTypes": ["Egress"],
        "egress": to_server});
    items.push(policy("client", egress));
    for number in 0..POLICIES {
        let app =
            if number == POLICIES / 2 { "client".into() } else { format!("app-{}", number % 50) };
        let first = usize::from(NEW) + 2 * (number % 20);
        let ports =
            if number == POLICIES / 2 { [NEW.into(), OLD.into()] } else { [first, first + 1] };
        let ports = ["UDP", "TCP"]
            .map(|protocol| ports.map(|port| json!({"protocol": protocol, "port": port})));
        let ports = ports.as_flattened();
        let ingress = json!([{"from": [{"podSelector": selects(&app)}], "ports": ports}]);
        let spec = json!({"podSelector": selects("server"), "ingress": ingress});
        items.push(policy(&format!("server-{number}"), spec));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

fn print(Kind { variant, topology }: Kind, worlds: &[World]) {
    println!(
        "{variant:?}, {topology:?}, {TURNS} turns of {BURST} packets and {CONNECTIONS} connections; \
         median µs for each, and factor:"
    );
    println!(
        "{:26} {:>20} {:>20} {:>20}",
        "", "new UDP connection", "established", "TCP connection"
    );
    let Some(first) = worlds.first() else { return };
    for world in worlds {
        let cell = |own: &[f64], lone: &[f64]| {
            let factors = own.iter().zip(lone).map(|(own, lone)| own / lone);
            format!("{:.2} {:.3}", median(own.iter().copied()), median(factors))
        };
        let (new, old) =
            (cell(&world.new, &first.new), cell(&world.established, &first.established));
        let tcp = cell(&world.tcp, &first.tcp);
        println!("{:26} {new:>20} {old:>20} {tcp:>20}", world.name);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
