//! Real packets between two pods of a node, for each variant and family.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{Match, TrafficMatch, Update};
use policy_engine::direction::Direction;
use policy_engine::port::Protocol;
use portcullis_controller::dataplane::{
    AcceptAction, Dataplane, DenyAction, IptablesVariant, Options,
};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;
use crate::world::{World, allow, cidrs, ip, pod, rules_changed, service, settle, tcp, traffic};
use crate::{command, each_variant};

/// What is not there by then was dropped.
const TIME_OUT: Duration = Duration::from_millis(300);

/// A node that routes between pods a and b.
pub struct Lab {
    pub node: Netns,
    pub a: Netns,
    pub b: Netns,
}

pub fn addresses(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("10.1.0.2", "10.1.0.3"),
        Family::V6 => ("fd00:1::2", "fd00:1::3"),
    }
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self { node: Netns::new(), a: Netns::new(), b: Netns::new() };
        for (pod, host) in [(&lab.a, 2), (&lab.b, 3)] {
            lab.node.sh(&format!(
                "ip link add veth{host} type veth peer name eth0 netns {pod}
                 ip link set veth{host} up
                 ip addr add 169.254.1.1/32 dev veth{host}
                 ip -6 addr add fe80::1/64 dev veth{host} nodad",
                pod = pod.name()
            ));
            pod.sh(&format!(
                "ip link set eth0 up
                 ip addr add 10.1.0.{host}/32 dev eth0
                 ip route add 169.254.1.1 dev eth0
                 ip route add default via 169.254.1.1
                 ip -6 addr add fd00:1::{host}/128 dev eth0 nodad
                 ip -6 route add default via fe80::1 dev eth0"
            ));
            lab.node.sh(&format!(
                "ip route add 10.1.0.{host}/32 dev veth{host}
                 ip -6 route add fd00:1::{host}/128 dev veth{host}"
            ));
        }
        lab
    }

    /// Whether a connection from `from` to a port of `address` in `to` comes about.
    pub fn connects(from: &Netns, to: &Netns, address: IpAddr, port: u16) -> bool {
        let target = SocketAddr::new(address, port);
        // Bound to any address: a fresh address of the pod may not be usable yet.
        let any: IpAddr = if address.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
        let _listener = to.enter(|| listen(SocketAddr::new(any, port)));
        from.enter(|| TcpStream::connect_timeout(&target, TIME_OUT).is_ok())
    }

    pub fn a_reaches_b(&self, family: Family, port: u16) -> bool {
        Self::connects(&self.a, &self.b, ip(addresses(family).1), port)
    }
}

#[test]
fn a_pod_that_is_isolated_is_reached_by_its_peers_only() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let (a, b) = addresses(family);
        let mut dataplane = open(variant);
        let mut world = World::default();
        let mut apply = |world: &World, update: &Update| {
            lab.node.enter(|| settle(&mut dataplane, &world.compiled, update).unwrap())
        };
        apply(&world, &rules_changed());
        assert!(lab.a_reaches_b(family, 80), "nothing is isolated");

        let peers = world.set("peers", []);
        let rule = allow(tcp(&[(80, 80)]), Some(peers), CidrSet::default());
        let ingress = world.ruleset(Direction::Ingress, vec![rule]);
        world.endpoint(ip(b), ingress);
        apply(&world, &rules_changed());
        assert!(!lab.a_reaches_b(family, 80), "isolated, no peer");

        let update = world.change(peers, &[pod(a)], &[]);
        apply(&world, &update);
        assert!(lab.a_reaches_b(family, 80), "a peer");
        assert!(!lab.a_reaches_b(family, 81), "a peer, another port");

        let egress = world.ruleset(Direction::Egress, vec![]);
        world.endpoint(ip(a), egress);
        apply(&world, &rules_changed());
        assert!(!lab.a_reaches_b(family, 80), "ingress allows, egress does not");
        assert!(Lab::connects(&lab.a, &lab.a, ip(a), 80), "a pod reaches itself");

        let any = allow(TrafficMatch::Any, None, CidrSet::everything());
        let open = world.ruleset(Direction::Egress, vec![any]);
        world.endpoint(ip(a), open);
        apply(&world, &rules_changed());
        assert!(lab.a_reaches_b(family, 80), "both directions allow");
        assert!(!lab.a_reaches_b(family, 81), "open egress does not open ingress");

        world.compiled.endpoints.clear();
        apply(&world, &rules_changed());
        assert!(lab.a_reaches_b(family, 81), "no longer isolated");
    });
}

/// Applies a world with these rulesets for a (egress) and b (ingress) on a lab's node.
struct Case<'a> {
    lab: &'a Lab,
    dataplane: Dataplane,
    world: World,
    family: Family,
}

impl<'a> Case<'a> {
    fn new(lab: &'a Lab, options: Options, family: Family) -> Self {
        let dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
        Self { lab, dataplane, world: World::default(), family }
    }

    fn apply(&mut self, direction: Direction, rules: Vec<Match>) {
        let (a, b) = addresses(self.family);
        let id = self.world.ruleset(direction, rules);
        self.world.endpoint(ip(if direction == Direction::Egress { a } else { b }), id);
        let (dataplane, compiled) = (&mut self.dataplane, &self.world.compiled);
        self.lab.node.enter(|| settle(dataplane, compiled, &rules_changed()).unwrap());
    }

    fn reaches(&self, port: u16) -> bool {
        self.lab.a_reaches_b(self.family, port)
    }
}

#[test]
fn ports_and_peers_of_every_sort_let_their_packets_through() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let (a, b) = addresses(family);
        let options = Options { variant, ..Options::default() };
        let mut case = Case::new(&lab, options, family);
        // The port is the destination's, the address the peer's, in both directions.
        let ingress = case.world.set("ingress", [service(a, Protocol::Tcp, 80)]);
        let egress = case.world.set("egress", [service(b, Protocol::Tcp, 80)]);
        case.apply(Direction::Ingress, vec![Match::PeerPorts { set: ingress }]);
        assert!(case.reaches(80) && !case.reaches(81), "named port, ingress");
        case.apply(Direction::Egress, vec![Match::PeerPorts { set: egress }]);
        assert!(case.reaches(80) && !case.reaches(81), "named port, both directions");
        let any = || vec![allow(TrafficMatch::Any, None, CidrSet::everything())];
        case.apply(Direction::Ingress, any());
        assert!(case.reaches(80) && !case.reaches(81), "named port, egress");

        case.apply(Direction::Egress, any());
        let ours = || cidrs(&["10.1.0.2/31", "fd00:1::2/127"]);
        let two = || cidrs(&["10.1.0.2/32", "10.8.0.0/16", "fd00:1::2/128", "fd00:8::/64"]);
        let others = || cidrs(&["10.1.0.4/30", "10.0.0.0/16", "fd00:1::4/126", "fd00::/32"]);
        let ports: Vec<(u16, u16)> = (1..=20).map(|port| (port * 10, port * 10)).collect();
        for (rule, passes) in [
            (allow(tcp(&ports), None, ours()), [true, false]),
            (allow(tcp(&[(75, 80), (200, 210)]), None, two()), [true, false]),
            (allow(tcp(&[(0, 65_535)]), None, two()), [true, true]),
            (allow(tcp(&[(81, 81), (1000, 1000)]), None, CidrSet::everything()), [false, true]),
            (allow(TrafficMatch::Any, None, others()), [false, false]),
            (allow(traffic(Protocol::Udp, &[(80, 80)]), None, ours()), [false, false]),
            (allow(traffic(Protocol::Sctp, &[(0, 65_535)]), None, ours()), [false, false]),
        ] {
            case.apply(Direction::Ingress, vec![rule.clone()]);
            assert_eq!([80, 81].map(|port| case.reaches(port)), passes, "{rule:?}");
        }
    });
}

#[test]
fn accepted_packets_of_our_pods_pass_a_forward_policy_of_drop() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let iptables = command(variant, family);
        lab.node.sh(&format!("{iptables} -P FORWARD DROP"));
        let options = Options { variant, accept: AcceptAction::Accept, ..Options::default() };
        let mut case = Case::new(&lab, options, family);
        let open = || vec![allow(tcp(&[(80, 81)]), None, CidrSet::everything())];
        let narrow = || vec![allow(tcp(&[(80, 80)]), None, CidrSet::everything())];
        let nobody = World::default();
        let (node, dataplane) = (&lab.node, &mut case.dataplane);
        node.enter(|| settle(dataplane, &nobody.compiled, &rules_changed()).unwrap());
        assert!(!case.reaches(80), "no pod of ours");
        case.apply(Direction::Ingress, open());
        assert!(case.reaches(80) && case.reaches(81), "allowed, so accepted");
        case.apply(Direction::Egress, narrow());
        assert!(case.reaches(80) && !case.reaches(81), "both directions before the accept");
    });
}

#[test]
fn a_rejected_connection_is_refused_at_once() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let options = Options { variant, deny: DenyAction::Reject, ..Options::default() };
        let mut case = Case::new(&lab, options, family);
        case.apply(Direction::Ingress, vec![]);
        let target = SocketAddr::new(ip(addresses(family).1), 80);
        let outcome = lab.a.enter(|| TcpStream::connect_timeout(&target, TIME_OUT));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn egress_holds_for_the_own_node_unless_it_is_allowed() {
    each_variant(|variant, family| {
        for allow_egress_to_own_node in [false, true] {
            let lab = Lab::new();
            let (option, own) = match family {
                Family::V4 => ("", "192.0.2.1"),
                Family::V6 => ("-6 ", "2001:db8::1"),
            };
            lab.node.sh(&format!("ip {option}addr add {own} dev lo"));
            let options = Options { variant, allow_egress_to_own_node, ..Options::default() };
            let mut case = Case::new(&lab, options, family);
            case.apply(Direction::Egress, vec![]);
            let reached = Lab::connects(&lab.a, &lab.node, ip(own), 80);
            assert_eq!(reached, allow_egress_to_own_node);
            case.apply(Direction::Ingress, vec![]);
            assert!(Lab::connects(&lab.node, &lab.b, ip(addresses(family).1), 80), "own node");
        }
    });
}

#[test]
fn a_syn_from_the_port_of_a_reset_connection_is_judged() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let mut case = Case::new(&lab, Options { variant, ..Options::default() }, family);
        case.apply(Direction::Ingress, vec![allow(TrafficMatch::Any, None, cidrs(&["::/0"]))]);
        case.apply(Direction::Ingress, vec![allow(tcp(&[(80, 80)]), None, CidrSet::everything())]);
        let (a, b) = addresses(family);
        let (from, to) = (SocketAddr::new(ip(a), 40_000), SocketAddr::new(ip(b), 80));
        let listener = lab.b.enter(|| TcpListener::bind(to).unwrap());
        {
            let mut client = lab.a.enter(|| connect(from, to).unwrap());
            client.write_all(b"never read").unwrap();
            // Closed with something left to read: the server resets the connection.
            let (server, _) = listener.accept().unwrap();
            server.peek(&mut [0]).unwrap();
            drop(server);
            let outcome = client.read(&mut [0]);
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        case.apply(Direction::Ingress, vec![]);
        assert!(lab.a.enter(|| connect(from, to)).is_err(), "a forbidden SYN passed");
        // Without the rule for SYNs, conntrack takes it for a packet of the old connection.
        lab.node.sh(&format!("{} -t mangle -D PORTCULLIS-FORWARD 1", command(variant, family)));
        assert!(lab.a.enter(|| connect(from, to)).is_ok(), "this test shows nothing");
    });
}

/// Listens. A child of another test, just forked, can hold on to the last listener for a moment.
fn listen(address: SocketAddr) -> TcpListener {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::yield_now();
            }
            outcome => return outcome.unwrap(),
        }
    }
}

/// Connects from a given port.
fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), TIME_OUT)?;
    // Blocking again after a connect with a time-out.
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

fn open(variant: IptablesVariant) -> Dataplane {
    Dataplane::open(Options { variant, ..Options::default() }).unwrap()
}
