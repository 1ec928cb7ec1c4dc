//! Entries of the kernel's conntrack: which are read, which are deleted, and how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use policy_engine::direction::PerDirection;
use policy_engine::engine::{Engine, Scope};
use policy_engine::labels::Labels;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::policy::{Peers, Policy, PortMatch, Ports, Rule};
use policy_engine::port::{PortRange, Protocol};
use policy_engine::selector::Selector;
use policy_engine::world::Options;
use portcullis_controller::dataplane::netlink::conntrack::{Connection, Deleter, Handle, Reader};
use portcullis_controller::dataplane::netlink::{addresses, conntrack};
use portcullis_controller::node::connections::judge::RevokeEstablished;
use portcullis_controller::node::connections::metrics::Metrics;
use portcullis_controller::node::connections::{Choices, Connections};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// The pod, in a network that the namespace only routes: it never answers.
const POD: &str = "10.0.0.1";
const POD_V6: &str = "fd00::1";
const NEIGHBOUR: &str = "10.0.0.2";
/// Entries of the large test, half of which must go.
const ENTRIES: u32 = 20_000;

/// A namespace that tracks connections and loses what is sent to 10.1.0.0/16 and `fd01::/64`.
fn node() -> Netns {
    let node = Netns::new();
    node.sh("ip link add lost type veth peer name hole
         ip link set lost arp off up; ip link set hole up
         ip addr add 192.0.2.1/32 dev lost; ip addr add fd02::1/128 dev lost nodad
         ip route add 10.1.0.0/16 dev lost; ip -6 route add fd01::/64 dev lost
         sysctl -qw net.ipv6.ip_nonlocal_bind=1
         for command in iptables ip6tables; do
           $command -w -A OUTPUT -m conntrack --ctstate INVALID -j DROP
         done
         # An entry stays longer than a test takes on a busy machine.
         sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600");
    node
}

/// A UDP socket that sends from an address that the namespace does not have, as a pod.
fn socket(source: &str, port: u16) -> Socket {
    let source = SocketAddr::new(source.parse().unwrap(), port);
    let socket = Socket::new(Domain::for_address(source), Type::DGRAM, None).unwrap();
    if source.is_ipv4() {
        socket.set_ip_transparent_v4(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.bind(&source.into()).unwrap();
    socket
}

fn send(socket: &Socket, to: IpAddr, port: u16) {
    socket.send_to(b"x", &SocketAddr::new(to, port).into()).unwrap();
}

fn destination(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a01_0000 + number).into()
}

/// UDP entries of the namespace.
fn entries() -> Vec<(Connection, Handle)> {
    let (mut reader, mut found) = (Reader::open().unwrap(), Vec::new());
    reader
        .each(|entry| {
            if entry.connection.protocol == 17 {
                found.push((entry.connection, entry.handle()));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(reader.unreadable(), 0, "every entry of the kernel is understood");
    found
}

/// How many UDP entries go to each port.
fn by_port() -> BTreeMap<u16, usize> {
    let mut ports = BTreeMap::new();
    for (connection, _) in entries() {
        *ports.entry(connection.ports.unwrap().1).or_default() += 1;
    }
    ports
}

/// A pod of this node, whose policies select by `name`.
fn pod(name: &str, address: &str) -> Change {
    let (node, addresses) = (Some("n1".into()), vec![address.parse().unwrap()].into());
    let labels = Labels::from_iter([("app", name)]);
    Pod { node, addresses, ..Pod::new(PodKey::new("shop", name), labels) }.into()
}

/// Allows `app` to send to these UDP ports alone.
fn egress(app: &str, ports: &[u16]) -> Change {
    let numbers = |port: &u16| PortMatch::Numbers(Protocol::Udp, PortRange::single(*port));
    let allowed = Ports::Listed(ports.iter().map(numbers).collect());
    let rules = (!ports.is_empty()).then_some(Rule { peers: Peers::Any, ports: allowed });
    let rules = PerDirection { ingress: None, egress: Some(rules.into_iter().collect()) };
    let subject = Selector::label("app", app);
    Policy::network_policy("shop", format!("of-{app}"), subject, rules).into()
}

/// The engine and the connections of an agent, without its dataplane.
struct Agent {
    engine: Engine,
    connections: Connections,
}

impl Agent {
    fn new(revoke: RevokeEstablished) -> Self {
        let choices = Choices { revoke, allow_egress_to_own_node: false };
        let connections = Connections::start("n1", choices, Metrics::default());
        assert_eq!(connections.diagnostics(), []);
        let engine = Engine::new(Scope::Node("n1".into()), Options::default());
        Self { engine, connections }
    }

    /// Applies changes and waits until all that must end has ended.
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.connections.note(self.engine.world(), &change);
            self.engine.apply(change);
        }
        let update = self.engine.flush();
        self.connections.update(&update, self.engine.compiled());
        self.connections.begin(&self.engine);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while !self.connections.is_idle() {
                let report = self.connections.next();
                let report = tokio::time::timeout(Duration::from_mins(1), report).await.unwrap();
                self.connections.handle(report, &self.engine);
            }
        });
    }
}

#[test]
fn one_entry_is_deleted_once_and_its_neighbour_stays() {
    node().enter(|| {
        conntrack::probe().unwrap();
        for (source, to) in [(POD, destination(1)), (POD_V6, "fd01::1".parse().unwrap())] {
            let socket = socket(source, 4000);
            send(&socket, to, 53);
            send(&socket, to, 54);
            let old: Vec<_> =
                entries().into_iter().filter(|(found, _)| found.destination == to).collect();
            assert_eq!(old.len(), 2);
            let connection = |port| Connection {
                source: source.parse().unwrap(),
                dialled: to,
                destination: to,
                answered: source.parse().unwrap(),
                protocol: 17,
                ports: Some((4000, port)),
            };
            let (_, old) = old.iter().find(|(found, _)| *found == connection(53)).unwrap();
            let mut deleter = Deleter::open().unwrap();
            assert!(deleter.delete(old).unwrap());
            assert!(!deleter.delete(old).unwrap(), "it is gone");
            let left: Vec<Connection> = entries().into_iter().map(|(found, _)| found).collect();
            assert!(!left.contains(&connection(53)) && left.contains(&connection(54)), "{left:?}");
        }
    });
}

#[test]
fn the_addresses_of_the_node_are_those_of_its_interfaces() {
    node().enter(|| {
        let found = addresses::local().unwrap();
        for address in ["127.0.0.1", "::1", "192.0.2.1", "fd02::1"] {
            assert!(found.contains(&address.parse().unwrap()), "{address}: {found:?}");
        }
        assert!(!found.contains(&POD.parse::<IpAddr>().unwrap()));
    });
}

#[test]
fn of_20_000_entries_exactly_those_end_that_lost_their_permission() {
    let _alone = crate::alone();
    node().enter(|| {
        let socket = socket(POD, 4000);
        for number in 0..ENTRIES / 2 {
            send(&socket, destination(number), 53);
            send(&socket, destination(number), 54);
        }
        let half = usize::try_from(ENTRIES / 2).unwrap();
        assert_eq!(by_port(), BTreeMap::from([(53, half), (54, half)]));
        let mut agent = Agent::new(RevokeEstablished::Udp);
        agent.apply([pod("web", POD), egress("web", &[53, 54])]);
        assert_eq!(by_port(), BTreeMap::from([(53, half), (54, half)]), "all are allowed");
        let start = Instant::now();
        agent.apply([egress("web", &[53])]);
        let took = start.elapsed();
        assert_eq!(by_port(), BTreeMap::from([(53, half)]));
        // Up to 0.2 s of it are the pause after a pass.
        println!("{ENTRIES} entries judged and {half} of them deleted in {took:.1?}");
    });
}

#[test]
fn policies_end_no_connection_where_the_flag_is_none() {
    let _alone = crate::alone();
    node().enter(|| {
        send(&socket(POD, 4000), destination(1), 53);
        let mut agent = Agent::new(RevokeEstablished::None);
        agent.apply([pod("web", POD), egress("web", &[])]);
        assert_eq!(by_port(), BTreeMap::from([(53, 1)]));
        agent.apply([Change::Pod(PodKey::new("shop", "web"), None)]);
        assert_eq!(by_port(), BTreeMap::new(), "but those of an address without a pod end");
    });
}

#[test]
fn what_the_next_pod_with_an_address_may_do_goes_on() {
    let _alone = crate::alone();
    node().enter(|| {
        let (own, other) = (socket(POD, 4000), socket(NEIGHBOUR, 4000));
        for port in [53, 54] {
            send(&own, destination(1), port);
            send(&other, destination(1), port);
        }
        let mut agent = Agent::new(RevokeEstablished::None);
        agent.apply([pod("web", POD), pod("near", NEIGHBOUR)]);
        assert_eq!(by_port(), BTreeMap::from([(53, 2), (54, 2)]));
        let gone = Change::Pod(PodKey::new("shop", "web"), None);
        agent.apply([gone, pod("next", POD), egress("next", &[53])]);
        let left: BTreeSet<(IpAddr, u16)> = entries()
            .into_iter()
            .map(|(found, _)| (found.source, found.ports.unwrap().1))
            .collect();
        let [own, other] = [POD, NEIGHBOUR].map(|address| address.parse().unwrap());
        assert_eq!(left, BTreeSet::from([(own, 53), (other, 53), (other, 54)]));
    });
}
