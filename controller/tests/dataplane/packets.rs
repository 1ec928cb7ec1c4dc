//! Real packets between two pods of a node, for each variant and family.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{TrafficMatch, Update};
use policy_engine::model::Direction;
use portcullis_controller::dataplane::{Dataplane, IptablesVariant, Options};

use crate::each_variant;
use crate::netns::Netns;
use crate::world::{World, allow, ip, pod, rules_changed, tcp};

/// A node that routes between pods a and b.
struct Lab {
    node: Netns,
    a: Netns,
    b: Netns,
}

pub fn addresses(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("10.1.0.2", "10.1.0.3"),
        Family::V6 => ("fd00:1::2", "fd00:1::3"),
    }
}

impl Lab {
    fn new() -> Self {
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
    fn connects(from: &Netns, to: &Netns, address: IpAddr, port: u16) -> bool {
        let target = SocketAddr::new(address, port);
        // Bound to any address: a fresh address of the pod may not be usable yet.
        let any: IpAddr = if address.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
        let _listener = to.enter(|| TcpListener::bind(SocketAddr::new(any, port)).unwrap());
        from.enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(300)).is_ok())
    }

    fn a_reaches_b(&self, family: Family, port: u16) -> bool {
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
            lab.node.enter(|| dataplane.apply(&world.compiled, update).unwrap())
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

fn open(variant: IptablesVariant) -> Dataplane {
    Dataplane::open(Options { variant, ..Options::default() }).unwrap()
}
