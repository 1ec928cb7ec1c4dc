//! Failures, rivals and changes under load: nothing forbidden passes, nothing allowed breaks.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{TrafficMatch, Update};
use policy_engine::direction::Direction;
use policy_engine::id::SetId;
use portcullis_controller::dataplane::drift::Drift;
use portcullis_controller::dataplane::preflight::Severity;
use portcullis_controller::dataplane::{
    ApplyReport, Dataplane, IptablesVariant, Options, cleanup, examiner, preflight,
};

use crate::netns::Netns;
use crate::packets::{Lab, addresses};
use crate::rules::every_shape;
use crate::world::{World, allow, ip, pod, rules_changed, settle, tcp};
use crate::{VARIANTS, command, each_variant, save};

fn open(variant: IptablesVariant) -> Dataplane {
    Dataplane::open(Options { variant, initial_maxelem: 8, ..Options::default() }).unwrap()
}

#[test]
fn a_chain_that_others_use_is_kept_empty() {
    for variant in VARIANTS {
        let node = Netns::new();
        node.enter(|| {
            let world = every_shape();
            let nobody = World::default();
            let mut dataplane = open(variant);
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            // A chain that is about to go gets a rule of others, behind the dataplane's back.
            let iptables = format!("{} -t mangle", command(variant, Family::V4));
            let chains = node.sh(&format!("{iptables} -S | grep -m1 -o 'N PORTCULLIS-R.*'"));
            let chain = chains.trim().trim_start_matches("N ");
            node.sh(&format!("{iptables} -A OUTPUT -j {chain}"));
            // The transaction that deletes it is refused; what is there is read then, and it stays.
            settle(&mut dataplane, &nobody.compiled, &rules_changed()).unwrap();
            let rules = node.sh(&format!("{iptables} -S"));
            assert!(rules.contains(&format!("-A OUTPUT -j {chain}")), "{rules}");
            assert_eq!(rules.matches(chain).count(), 2, "kept for the others, but empty: {rules}");
            assert_eq!(dataplane.verify(&nobody.compiled).unwrap(), []);
        });
    }
}

#[test]
fn a_hook_that_others_push_back_again_and_again_is_put_in_front_each_time() {
    for variant in VARIANTS {
        let node = Netns::new();
        let iptables = format!("{} -t mangle", command(variant, Family::V4));
        node.enter(|| {
            let world = every_shape();
            let mut dataplane = open(variant);
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            for _ in 0..6 {
                node.sh(&format!("{iptables} -I FORWARD 1 -j RETURN"));
                let drifts = dataplane.verify(&world.compiled).unwrap();
                let [Drift::Hook(hook)] = drifts.as_slice() else { panic!("{drifts:?}") };
                assert_eq!(hook.places.in_front, ["-j RETURN"]);
                assert_eq!(dataplane.displaced_hooks().unwrap(), []);
            }
            node.sh(&format!("{iptables} -F FORWARD"));
            dataplane.verify(&world.compiled).unwrap();
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), [], "a hook that is gone");
        });
    }
}

#[test]
fn two_agents_at_once_end_in_the_same_state() {
    for variant in VARIANTS {
        let node = Netns::new();
        let world = every_shape();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    node.enter(|| {
                        for _ in 0..5 {
                            // Either can fail because of the other; it says so and goes on.
                            let _ = settle(&mut open(variant), &world.compiled, &Update::default());
                            let nobody = World::default();
                            let _ =
                                settle(&mut open(variant), &nobody.compiled, &Update::default());
                        }
                    });
                });
            }
        });
        node.enter(|| {
            let mut dataplane = open(variant);
            settle(&mut dataplane, &world.compiled, &Update::default()).unwrap();
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        });
    }
}

#[test]
fn changes_under_load_open_nothing_and_break_nothing() {
    let _alone = crate::alone();
    each_variant(|variant, family| {
        let lab = Lab::new();
        let (a, b) = addresses(family);
        let mut world = World::default();
        let peers = world.set("peers", [pod(a)]);
        lab.node.enter(|| {
            isolate(&mut world, b, peers, 0);
            settle(&mut open(variant), &world.compiled, &rules_changed()).unwrap();
        });
        let listen =
            |port| lab.b.enter(|| TcpListener::bind(SocketAddr::new(ip(b), port)).unwrap());
        let listeners = [80, 81].map(listen);
        count(&lab, variant, family);
        let (changed, probed) = (AtomicBool::new(false), AtomicBool::new(false));
        let until_changed =
            |port, limit| lab.a.enter(|| probe(SocketAddr::new(ip(b), port), limit, &changed));
        let [allowed, forbidden] = thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(|| accept(listener, &probed));
            }
            let allowed = scope.spawn(|| until_changed(80, Duration::from_millis(500)));
            let forbidden = scope.spawn(|| until_changed(81, Duration::from_millis(5)));
            lab.node.enter(|| churn(variant, &mut world, b, peers));
            changed.store(true, Ordering::Relaxed);
            let outcomes = [allowed, forbidden].map(|probes| probes.join().unwrap());
            probed.store(true, Ordering::Relaxed);
            outcomes
        });
        println!(
            "allowed: {} passed, forbidden: {} failed",
            allowed.passed,
            forbidden.failed.len()
        );
        // A machine that is busy makes connections slow. Only a rule loses a packet.
        let lost = counted(&lab, variant, family);
        let failed = &allowed.failed;
        assert!(lost.is_empty(), "lost between pods: {lost:?}; failed connections: {failed:?}");
        assert!(allowed.passed > 50, "{} passed, {failed:?}", allowed.passed);
        let (failed, passed) = (forbidden.failed.len(), forbidden.passed);
        assert!(failed > 10 && passed == 0, "forbidden: {failed} failed, {passed} passed");
    });
}

/// What is counted of the connections to port 80: where it leaves, and where it has to arrive.
const COUNTED: [(&str, &str); 2] = [("a to b", "--dport 80"), ("b to a", "--sport 80")];

/// Counts the packets of allowed connections in both pods.
fn count(lab: &Lab, variant: IptablesVariant, family: Family) {
    let tool = command(variant, family);
    for (pod, [out, into]) in [(&lab.a, [0, 1]), (&lab.b, [1, 0])] {
        let (out, into) = (COUNTED[out].1, COUNTED[into].1);
        pod.sh(&format!("{tool} -t raw -A OUTPUT -p tcp {out}"));
        pod.sh(&format!("{tool} -t raw -A PREROUTING -p tcp {into}"));
    }
}

/// The directions in which not as many packets arrived as were sent.
fn counted(lab: &Lab, variant: IptablesVariant, family: Family) -> Vec<String> {
    let tool = command(variant, family);
    let packets = |pod: &Netns, chain: &str| -> u64 {
        let rules = pod.sh(&format!("{tool} -t raw -vxnL {chain} | tail -n 1"));
        let count = rules.split_whitespace().next().unwrap_or_default();
        count.parse().unwrap_or_else(|_| panic!("no count in {rules:?}"))
    };
    let mut lost = Vec::new();
    for ((direction, _), (from, to)) in COUNTED.iter().zip([(&lab.a, &lab.b), (&lab.b, &lab.a)]) {
        let (sent, arrived) = (packets(from, "OUTPUT"), packets(to, "PREROUTING"));
        assert!(sent > 50, "{direction}: the rule counts");
        if sent != arrived {
            lost.push(format!("{direction}: {arrived} of {sent} arrived"));
        }
    }
    lost
}

#[derive(Default, Debug)]
struct Outcomes {
    passed: usize,
    failed: Vec<(Duration, std::io::Error)>,
}

/// Connects to `target` again and again.
fn probe(target: SocketAddr, limit: Duration, done: &AtomicBool) -> Outcomes {
    let mut outcomes = Outcomes::default();
    while !done.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let connected = TcpStream::connect_timeout(&target, limit).and_then(|mut stream| {
            // Until the server took it: faster than it accepts, its queue would run over.
            stream.set_read_timeout(Some(limit))?;
            stream.read(&mut [0])
        });
        match connected {
            Ok(_) => outcomes.passed += 1,
            Err(error) => outcomes.failed.push((begin.elapsed(), error)),
        }
    }
    outcomes
}

fn accept(listener: &TcpListener, done: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !done.load(Ordering::Relaxed) {
        drop(listener.accept());
        thread::yield_now();
    }
}

/// Changes rules, members and sizes of sets, and restarts, for a second.
fn churn(variant: IptablesVariant, world: &mut World, b: &str, peers: SetId) {
    let mut dataplane = open(variant);
    let end = Instant::now() + Duration::from_secs(1);
    let mut number = 0_u16;
    while Instant::now() < end {
        number += 1;
        let other = pod(&format!("10.77.{}.{}", number / 250, number % 250 + 1));
        let update = world.change(peers, &[other], &[]);
        settle(&mut dataplane, &world.compiled, &update).unwrap();
        isolate(world, b, peers, number);
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        if number.is_multiple_of(5) {
            dataplane = open(variant);
        }
    }
}

/// Isolates `b` for ingress but for port 80; `number` makes each ruleset another one.
fn isolate(world: &mut World, b: &str, peers: SetId, number: u16) {
    let rule =
        allow(tcp(&[(80, 80), (1000 + number, 1000 + number)]), Some(peers), CidrSet::default());
    world.compiled.rulesets.clear();
    let id = world.ruleset(Direction::Ingress, vec![rule]);
    world.endpoint(ip(b), id);
    let none = world
        .ruleset(Direction::Egress, vec![allow(TrafficMatch::Any, None, CidrSet::everything())]);
    for host in 0..number % 12 {
        world.endpoint(ip(&format!("10.1.0.{}", 100 + host)), none);
    }
}

#[test]
fn rules_of_the_nft_tool_are_no_reason_to_report_success() {
    let node = Netns::new();
    node.enter(|| {
        let world = every_shape();
        // iptables-nft-save stops at a rule that it does not understand.
        node.sh(
            "iptables-nft -t mangle -A FORWARD -j ACCEPT; iptables-legacy -N KUBE-KUBELET-CANARY
                 nft add rule ip mangle FORWARD ip saddr 10.0.0.0/8 meta mark set 0x1 counter",
        );
        assert!(
            settle(&mut open(IptablesVariant::Nft), &world.compiled, &rules_changed()).is_err()
        );
        // Kubernetes is in the other one, which works; that nft may hold leftovers is said.
        let mut dataplane = open(IptablesVariant::Auto);
        let report = settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        assert!(report.elsewhere_unclean, "{report:?}");
        assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
    });
}

#[test]
fn preflight_finds_what_the_node_lacks_and_leaves_nothing() {
    for variant in VARIANTS {
        let node = Netns::new();
        let options = Options { variant, ..Options::default() };
        node.enter(|| {
            let worst = || {
                let mut findings = preflight(&options);
                findings.extend(examiner(&options, &[]).examine(&[]).findings());
                findings.into_iter().max_by_key(|finding| finding.severity)
            };
            assert_eq!(worst().unwrap().severity, Severity::Info);
            let switches = ["call-iptables", "call-ip6tables", "filter-vlan-tagged"]
                .map(|name| format!("bridge-nf-{name}"));
            for switch in &switches {
                node.sh(&format!("sysctl -qw net.bridge.{switch}=1"));
            }
            node.sh("ip link add cni0 type bridge");
            for switch in &switches {
                node.sh(&format!("sysctl -qw net.bridge.{switch}=0"));
                let finding = worst().unwrap();
                assert_eq!(finding.severity, Severity::Warning, "{finding}");
                assert!(finding.what.contains(&format!("{switch} was 0")), "{finding}");
                assert_eq!(node.sh(&format!("sysctl -n net.bridge.{switch}")).trim(), "1");
                assert_eq!(worst().unwrap().severity, Severity::Info);
            }
            assert!(!save(&node, variant).contains("PORTCULLIS"));
            assert_eq!(cleanup(&options).unwrap().kept, [""; 0]);
            assert_eq!(node.sh("ipset list -name"), "");
        });
    }
}

/// What `enforce` leaves out of reach changes nothing, and goes.
#[test]
fn a_change_is_enforced_before_what_it_replaces_is_gone() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let (a, b) = addresses(family);
        // The kernel opens the connections, which are fewer than wait for a program.
        let _listener = lab.b.enter(|| TcpListener::bind(SocketAddr::new(ip(b), 80)).unwrap());
        let reaches = || {
            let target = SocketAddr::new(ip(b), 80);
            lab.a.enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(100)))
        };
        let mut dataplane = lab.node.enter(|| open(variant));
        let mut world = World::default();
        for round in 0..6 {
            let open = round % 2 == 0;
            let peers = world.set(&format!("{round}"), [pod(if open { a } else { "10.9.9.9" })]);
            isolate(&mut world, b, peers, round);
            lab.node.enter(|| dataplane.enforce(&world.compiled, &rules_changed()).unwrap());
            assert_eq!(reaches().is_ok(), open, "{variant:?} round {round}");
        }
        // Not isolated any more, with all the old rules still there.
        world.compiled.endpoints.clear();
        lab.node.enter(|| dataplane.enforce(&world.compiled, &rules_changed()).unwrap());
        assert!(reaches().is_ok(), "{variant:?}: an old rule still decides");
        let end = Instant::now() + Duration::from_secs(5);
        while let ApplyReport { sets_in_use: 1.., .. } =
            lab.node.enter(|| dataplane.remove_unreferenced(&world.compiled).unwrap())
        {
            assert!(Instant::now() < end, "sets stay in use");
            thread::yield_now();
        }
        let rules = save(&lab.node, variant);
        assert!(!rules.contains("PORTCULLIS-R"), "{rules}");
        // Those of the isolated pods are always there, empty now.
        let sets = lab.node.sh("ipset list -name");
        assert!(sets.lines().all(|set| set.contains("isolated-")), "{sets}");
    });
}
