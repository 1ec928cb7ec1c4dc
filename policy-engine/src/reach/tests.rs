//! Worlds of a few pods with expectations written by hand. Other tests compare random worlds
//! (`tests/tests/whatif.rs`).

use std::net::IpAddr;

use super::*;
use crate::cidr::CidrSet;
use crate::direction::{Direction, PerDirection};
use crate::evaluate::evaluate;
use crate::flow::{Endpoint, Traffic};
use crate::labels::Labels;
use crate::model::{Change, NamedPort, Namespace, Node, Pod, PodKey};
use crate::policy::{
    IpBlock, Namespaces, OrderedRule, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule, Subject,
};
use crate::port::{PortRange, Protocol};
use crate::selector::{Operator, Requirement, Selector};
use crate::tier::{Action, Mode, Tier, View};
use crate::world::World;

/// Two apps in `shop`, and the cluster's DNS; `lost` is in a namespace that is not known.
fn world(policies: impl IntoIterator<Item = Change>) -> World {
    let mut world = World::default();
    for namespace in ["shop", "kube-system"] {
        let labels = Labels::from_iter([("name", namespace)]);
        world.apply(Change::Namespace(namespace.into(), Some(Namespace { labels })));
    }
    let labels = Labels::from_iter([("role", "worker")]);
    let addresses = vec!["10.9.0.1".parse().unwrap()];
    world.apply(Change::Node("node".into(), Some(Node { labels, addresses })));
    let pods = [("shop", "web"), ("shop", "api"), ("kube-system", "dns"), ("nowhere", "lost")];
    for (host, (namespace, name)) in (1..).zip(pods) {
        let label = if name == "dns" { ("k8s-app", "kube-dns") } else { ("app", name) };
        let number = 8000 + u16::from(host);
        let pod = Pod::new(PodKey::new(namespace, name), Labels::from_iter([label]));
        let addresses = vec![IpAddr::from([10, 0, 0, host])].into();
        let ports = [NamedPort { name: "http".into(), protocol: Protocol::Tcp, number }].into();
        world.apply(Pod { addresses, ports, ..pod }.into());
    }
    policies.into_iter().for_each(|change| world.apply(change));
    world
}

fn key(name: &str) -> PodKey {
    match name {
        "dns" => PodKey::new("kube-system", name),
        "lost" => PodKey::new("nowhere", name),
        _ => PodKey::new("shop", name),
    }
}

/// The ports on which one pod can connect to another. The edges and `between` agree.
fn connects(reach: &Reach<'_>, source: &str, destination: &str) -> PortSet {
    let (source, destination) = (key(source), key(destination));
    let pair = (reach.class_of(&source).unwrap(), reach.class_of(&destination).unwrap());
    let edges = reach.edges();
    let edge = edges.iter().find(|edge| (edge.source, edge.destination) == pair);
    let mapped = edge.map(|edge| edge.allowed.clone()).unwrap_or_default();
    let side = |key: PodKey| {
        let address = reach.world.pods()[&key].addresses.first().copied();
        Endpoint::Pod(key, address)
    };
    assert_eq!(mapped, reach.between(&side(source), &side(destination)));
    mapped
}

fn tcp(first: u16, last: u16) -> PortSet {
    PortSet::range(Protocol::Tcp, PortRange::new(first, last).unwrap())
}

fn port(first: u16, last: u16) -> Ports {
    let range = PortRange::new(first, last).unwrap();
    Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, range)])
}

fn app(name: &str) -> Peer {
    let namespaces = Namespaces::Selected(Selector::everything());
    Peer::Pods(PodPeer { namespaces, pods: Selector::label("app", name) })
}

fn network(cidr: &str) -> Peer {
    Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except: Vec::new() })
}

fn rule(peer: Peer, ports: Ports) -> Rule {
    Rule { peers: Peers::Listed(vec![peer]), ports }
}

/// A policy for the egress of `app: web`.
fn cluster(name: &str, tier: Tier, priority: i32, rules: &[(Action, Rule)]) -> Change {
    let rules = rules.iter().cloned().map(|(action, rule)| OrderedRule { action, rule });
    let rules = PerDirection { ingress: Vec::new(), egress: rules.collect() };
    let subject = Subject::pods(Selector::label("app", "web"));
    Policy::cluster_network_policy(name, (tier, priority), subject, rules).into()
}

/// Isolates `app: web` for egress.
fn isolating(mode: Mode, rules: Vec<Rule>) -> Change {
    let rules = PerDirection { ingress: None, egress: Some(rules) };
    let web = Selector::label("app", "web");
    Policy { mode, ..Policy::network_policy("shop", "isolating", web, rules) }.into()
}

/// Isolates every pod of every namespace with a name for egress.
fn default(rules: Vec<Rule>) -> Change {
    let has_name = Requirement { key: "name".into(), operator: Operator::Exists };
    let namespaces = Some(Selector::from_iter([has_name]));
    let pods = Some(Selector::everything());
    let subject = Subject { namespaces, pods, spares_system: true };
    let rules = PerDirection { ingress: None, egress: Some(rules) };
    Policy::cluster_default("default", subject, rules, true).into()
}

use Action::{Accept, Deny, Pass};
use Tier::{Admin, Baseline};

#[test]
fn admin_rules_come_before_a_policy_that_isolates() {
    let rules = [(Accept, rule(app("api"), port(80, 80))), (Deny, rule(app("api"), port(90, 95)))];
    let isolating = isolating(Mode::Enforce, vec![rule(app("api"), port(92, 99))]);
    let world = world([cluster("a", Admin, 1, &rules), isolating]);
    let reach = Reach::new(&world);
    assert_eq!(connects(&reach, "web", "api"), tcp(80, 80).union(&tcp(96, 99)));
    assert_eq!(connects(&reach, "web", "dns"), PortSet::default());
    assert_eq!(connects(&reach, "api", "web"), PortSet::everything());
}

#[test]
fn the_first_rule_decides_by_priority_then_name() {
    let one = |action, first| [(action, rule(app("api"), port(first, 99)))];
    let world = world([
        cluster("a", Admin, 2, &one(Deny, 1)),
        cluster("c", Admin, 1, &one(Deny, 50)),
        cluster("b", Admin, 1, &one(Accept, 90)),
    ]);
    let rest = PortSet::everything().difference(&tcp(1, 89));
    assert_eq!(connects(&Reach::new(&world), "web", "api"), rest);
}

#[test]
fn what_a_rule_passes_skips_its_tier_only() {
    let passed = (Pass, rule(app("api"), port(80, 80)));
    let denied = (Deny, rule(app("api"), Ports::Any));
    let admin = cluster("a", Admin, 1, &[passed.clone(), denied.clone()]);
    let reached = |changes: Vec<Change>| connects(&Reach::new(&world(changes)), "web", "api");
    assert_eq!(reached(vec![admin.clone()]), tcp(80, 80));
    let baseline = cluster("b", Baseline, 1, &[denied]);
    assert_eq!(reached(vec![admin.clone(), baseline.clone()]), PortSet::default());
    let allows = |first, last| isolating(Mode::Enforce, vec![rule(app("api"), port(first, last))]);
    assert_eq!(reached(vec![admin, baseline, allows(79, 81)]), tcp(80, 80));
    let accepted = (Accept, rule(app("api"), Ports::Any));
    let admin = cluster("a", Admin, 1, &[passed, accepted]);
    let but_passed = PortSet::everything().difference(&tcp(80, 80));
    assert_eq!(reached(vec![admin, allows(443, 443)]), but_passed);
}

#[test]
fn defaults_isolate_pods_that_no_tier_above_decides_about() {
    let own = Peer::Pods(PodPeer { namespaces: Namespaces::Own, pods: Selector::everything() });
    let default = default(vec![rule(own, port(80, 80))]);
    let baseline = cluster("b", Baseline, 1, &[(Accept, rule(app("api"), port(443, 443)))]);
    let some = world([default.clone(), baseline]);
    let reach = Reach::new(&some);
    let dns = PortSet::of(Traffic::Port(Protocol::Udp, 53)).union(&tcp(53, 53));
    assert_eq!(connects(&reach, "web", "api"), tcp(80, 80).union(&tcp(443, 443)));
    assert_eq!(connects(&reach, "web", "dns"), dns);
    assert_eq!(connects(&reach, "dns", "web"), PortSet::everything(), "a namespace of the system");
    let web = reach.class_of(&key("web")).unwrap();
    let local = CidrSet::network("169.254.20.10/32".parse().unwrap());
    assert_eq!(reach.outside(web, Direction::Egress).parts, [(local, dns)]);
    assert_eq!(reach.classes()[web].isolated_by(Direction::Egress), Some(Tier::Default));
    assert!(!reach.classes()[web].is_isolated(Direction::Ingress));

    let all = world([default, isolating(Mode::Enforce, Vec::new())]);
    let reach = Reach::new(&all);
    assert_eq!(connects(&reach, "web", "api"), PortSet::default());
    let web = reach.class_of(&key("web")).unwrap();
    assert_eq!(reach.classes()[web].isolated_by(Direction::Egress), Some(Tier::NetworkPolicy));
}

#[test]
fn a_pod_of_a_namespace_that_is_not_known_is_one_of_all_namespaces() {
    for (namespaces, denies) in
        [(Selector::everything(), true), (Selector::label("name", "nowhere"), false)]
    {
        let namespaces = Namespaces::Selected(namespaces);
        let peer = Peer::Pods(PodPeer { namespaces, pods: Selector::everything() });
        let deny = [(Action::Deny, rule(peer, Ports::Any))];
        let world = world([cluster("deny", Admin, 1, &deny)]);
        let traffic = Traffic::Port(Protocol::Tcp, 80);
        let flow = world.flow([10, 0, 0, 1].into(), [10, 0, 0, 4].into(), traffic);
        assert_eq!(evaluate(&world, &flow).is_allowed(), !denies);
        assert_eq!(connects(&Reach::new(&world), "web", "lost").is_empty(), denies);
    }
}

#[test]
fn policies_in_audit_count_in_the_audited_view() {
    let world = world([isolating(Mode::Audit, vec![rule(app("api"), port(80, 80))])]);
    let (enforced, audited) = (Reach::new(&world), Reach::new_as(&world, View::Audited));
    assert_eq!(connects(&enforced, "web", "api"), PortSet::everything());
    assert_eq!(connects(&audited, "web", "api"), tcp(80, 80));
    assert_eq!(enforced.classes().len(), 1, "what audit tells apart is one class meanwhile");
    let difference = Difference::new(&enforced, &audited);
    assert!(difference.changes().all(|pair| pair.after != &PortSet::everything()));
    assert_ne!(difference.changes().count(), 0);
}

#[test]
fn a_policy_that_may_apply_to_a_pod_allows_nothing() {
    let subject = Subject { pods: None, ..Subject::pods(Selector::everything()) };
    let all = |action, first| OrderedRule { action, rule: rule(app("api"), port(first, 99)) };
    let egress = vec![all(Accept, 90), all(Pass, 80)];
    let rules = PerDirection { ingress: Vec::new(), egress };
    let policy = Policy::cluster_network_policy("a", (Admin, 1), subject, rules).into();
    let world = world([policy, default(vec![rule(app("api"), Ports::Any)])]);
    let reach = Reach::new(&world);
    assert_eq!(connects(&reach, "web", "api"), PortSet::everything().difference(&tcp(80, 99)));
    assert_eq!(connects(&reach, "lost", "api"), PortSet::default());
}

#[test]
fn a_port_by_name_is_for_pods_by_labels_in_a_cluster_policy() {
    let http = || Ports::Listed(vec![PortMatch::Named(Protocol::Tcp, "http".into())]);
    let rules = [
        (Deny, rule(network("10.0.0.0/24"), http())),
        (Deny, rule(app("api"), http())),
        (Deny, rule(Peer::Nodes(Selector::everything()), http())),
    ];
    let world = world([cluster("a", Admin, 1, &rules)]);
    let reach = Reach::new(&world);
    assert_eq!(connects(&reach, "web", "dns"), PortSet::everything());
    let but_http = PortSet::everything().difference(&tcp(8002, 8002));
    assert_eq!(connects(&reach, "web", "api"), but_http);
}

#[test]
fn nodes_match_by_their_labels_and_other_peers_do_not() {
    let workers = |role| Peer::Nodes(Selector::label("role", role));
    let rules = [
        (Accept, rule(workers("control-plane"), Ports::Any)),
        (Deny, rule(workers("worker"), port(10250, 10250))),
    ];
    let world = world([cluster("a", Admin, 1, &rules)]);
    let reach = Reach::new(&world);
    let web = Endpoint::Pod(key("web"), Some(IpAddr::from([10, 0, 0, 1])));
    let node = Endpoint::Node("node".into(), Some(IpAddr::from([10, 9, 0, 1])));
    let but_kubelet = PortSet::everything().difference(&tcp(10250, 10250));
    assert_eq!(reach.between(&web, &node), but_kubelet);
    assert_eq!(reach.between(&node, &web), PortSet::everything());
    assert_eq!(connects(&reach, "web", "api"), PortSet::everything());
    let web = reach.class_of(&key("web")).unwrap();
    assert_eq!(reach.outside(web, Direction::Egress).parts.len(), 1);
}

#[test]
fn networks_cut_what_is_outside_in_the_order_of_their_rules() {
    let rules = [
        (Pass, rule(network("192.0.2.0/28"), Ports::Any)),
        (Deny, rule(network("192.0.2.0/24"), port(80, 80))),
    ];
    let world = world([cluster("a", Admin, 1, &rules)]);
    let reach = Reach::new(&world);
    let web = reach.class_of(&key("web")).unwrap();
    let set = |cidr: &str| CidrSet::network(cidr.parse().unwrap());
    let cut = set("192.0.2.0/24").difference(&set("192.0.2.0/28"));
    let mut parts = [
        (CidrSet::everything().difference(&cut), PortSet::everything()),
        (cut, PortSet::everything().difference(&tcp(80, 80))),
    ];
    parts.sort();
    assert_eq!(reach.outside(web, Direction::Egress).parts, parts);
}

#[test]
fn a_policy_below_one_that_isolates_tells_no_pods_apart() {
    let baseline = cluster("b", Baseline, 1, &[(Deny, rule(network("192.0.2.0/24"), Ports::Any))]);
    let isolating = isolating(Mode::Enforce, vec![rule(network("10.9.0.0/16"), Ports::Any)]);
    let world = world([isolating.clone(), baseline]);
    let reach = Reach::new(&world);
    let alone = super::tests::world([isolating]);
    assert_eq!(reach.classes().len(), Reach::new(&alone).classes().len());
    let web = reach.class_of(&key("web")).unwrap();
    assert_eq!(reach.rules[reach.classes()[web].rules(Direction::Egress)].len(), 1);
}
