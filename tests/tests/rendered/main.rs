//! The rules as the kernel prints them, read by an interpreter of our own, say what `evaluate` says.
//!
//! Random worlds go through the real dataplane into a real kernel (a network namespace of the
//! test's own), which prints them with `iptables-save` and `ipset save`, or with `nft -j list table`.

mod places;
mod ranges;
mod refused;

use std::net::IpAddr;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use places::Places;
use policy_engine::direction::Direction;
use policy_engine::engine::{Engine, Scope};
use policy_engine::evaluate::{Reason, evaluate, evaluate_as};
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::{Change, PodKey};
use policy_engine::port::Protocol;
use policy_engine::tier::View;
use policy_engine::world::{self, World};
use portcullis_controller::dataplane::denial::{Cause, Denial, Outcome};
use portcullis_controller::dataplane::{
    AcceptAction, Backend, Dataplane, DenyAction, IptablesVariant, LogGroup, Options, UnknownPods,
};
use portcullis_interpreter::{ConntrackState, Packet, Sets, Tables, Transport, Verdict};
use portcullis_tests::worlds;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

/// Each case programs a kernel: fewer than in pure properties, and as many flows as pay for it.
const CASES: u32 = 150;

/// The rules and sets of one family as the kernel prints them.
struct Printed {
    tables: Tables,
    sets: Sets,
}

/// What enforces the rules of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Iptables(IptablesVariant),
    Nftables,
}

impl Printed {
    fn read_with(tool: Tool, address: IpAddr) -> Result<Self> {
        match tool {
            Tool::Iptables(IptablesVariant::Legacy) => Self::read("legacy", address),
            Tool::Iptables(_) => Self::read("nft", address),
            Tool::Nftables => Self::read_nftables(address),
        }
    }

    fn read_nftables(address: IpAddr) -> Result<Self> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let own = output("nft", &["-j", "list", "table", family, "portcullis"])?;
        let bridge = format!("portcullis-{family}");
        let listed = output("nft", &["list", "tables", "bridge"])?;
        let is_there = listed.lines().any(|line| line == format!("table bridge {bridge}"));
        let bridge = is_there.then(|| output("nft", &["-j", "list", "table", "bridge", &bridge]));
        let bridge = bridge.transpose()?;
        let mut sets = Sets::default();
        sets.add_nftables(&own)?;
        let listings: Vec<&str> =
            [Some(&own), bridge.as_ref()].into_iter().flatten().map(String::as_str).collect();
        Ok(Self { tables: Tables::parse_nftables(&listings)?, sets })
    }

    fn read(variant: &str, address: IpAddr) -> Result<Self> {
        let program = if address.is_ipv4() { "iptables" } else { "ip6tables" };
        let tables = output(&format!("{program}-{variant}-save"), &[])?;
        let sets = output("ipset", &["save"])?;
        Ok(Self { tables: Tables::parse(&tables)?, sets: Sets::parse(&sets)? })
    }

    fn says(&self, chain: &str, packet: &Packet) -> Result<Expected> {
        let judgement = self.tables.judge(&self.sets, chain, packet)?;
        let logged = judgement.logged.iter().map(|prefix| {
            Denial::of_prefix(prefix).with_context(|| format!("{prefix} is no kind of denial"))
        });
        let allowed = judgement.verdict == Verdict::Accept;
        Ok(Expected { allowed, logged: logged.collect::<Result<_>>()? })
    }
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs `test` on a thread with a network namespace of its own, which goes with the thread.
fn in_namespace(test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let inside = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("these tests need root")?;
        test()
    });
    inside.join().map_err(|_| anyhow!("the test's thread panicked"))?
}

fn packet(source: IpAddr, destination: IpAddr, traffic: Traffic) -> Packet {
    let (source_port, icmp) = (40_000, if source.is_ipv4() { 8 } else { 128 });
    let transport = match traffic {
        Traffic::Port(Protocol::Tcp, port) => Transport::syn(source_port, port),
        Traffic::Port(Protocol::Udp, destination_port) => {
            Transport::Udp { source_port, destination_port }
        }
        Traffic::Port(Protocol::Sctp, destination_port) => {
            Transport::Sctp { source_port, destination_port, init: true }
        }
        Traffic::Other => Transport::Icmp { kind: icmp, code: 0 },
    };
    Packet::new(source, destination, transport)
}

/// Whether the pod behind an endpoint is one of the node's own.
fn is_local(world: &World, endpoint: &Endpoint) -> bool {
    let Endpoint::Pod(key, _) = endpoint else { return false };
    world.pods().get(key).is_some_and(|pod| pod.node.as_deref() == Some(worlds::OWN_NODE))
}

/// What the node has to do with a packet that opens a connection.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    allowed: bool,
    /// What the log says of it, in order.
    logged: Vec<Denial>,
}

impl Expected {
    /// What policies make of flows, one after the other. Without a log, nothing is logged.
    fn by_policies(world: &World, flows: &[(Direction, Flow)], log: Option<LogGroup>) -> Self {
        let mut expected = Self { allowed: true, logged: Vec::new() };
        for (direction, flow) in flows {
            let direction = *direction;
            let enforced = evaluate(world, flow);
            let audited = evaluate_as(world, flow, View::Audited);
            let (enforced, audited) = (enforced.decision(direction), audited.decision(direction));
            let mut tell = |outcome, tier| {
                let cause = Cause::Policies(tier);
                let denial = Denial { outcome, direction, cause };
                expected.logged.extend(log.map(|_| denial));
            };
            if let (false, Some(tier)) = (enforced.is_allowed(), enforced.tier) {
                tell(Outcome::Denied, tier);
                expected.allowed = false;
                break;
            }
            if let (false, Some(tier)) = (audited.is_allowed(), audited.tier) {
                tell(Outcome::WouldDeny, tier);
            }
        }
        expected
    }
}

/// For a packet that the node forwards, or that is for itself.
fn expected(world: &World, flow: &Flow, log: Option<LogGroup>) -> Option<(&'static str, Expected)> {
    let own = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Node(name, _) if name.as_ref() == worlds::OWN_NODE);
    let reason = evaluate(world, flow).decision(Direction::Ingress).reason;
    if reason == Reason::OwnNode || own(&flow.source) {
        return None; // OUTPUT: no rule of ours is there.
    }
    let chain = if own(&flow.destination) { "INPUT" } else { "FORWARD" };
    let mut flows = Vec::new();
    for (direction, subject) in
        [(Direction::Egress, &flow.source), (Direction::Ingress, &flow.destination)]
    {
        if is_local(world, subject) && (chain == "FORWARD" || direction == Direction::Egress) {
            flows.push((direction, flow.clone()));
        }
    }
    Some((chain, Expected::by_policies(world, &flows, log)))
}

/// Flows in a world, and the rules that the kernel printed for it.
#[derive(Clone, Copy)]
struct Case<'a> {
    world: &'a World,
    /// Of IPv4 and of IPv6.
    printed: &'a [Printed; 2],
    flows: &'a [(IpAddr, IpAddr, Traffic)],
    places: &'a Places,
    options: &'a Options,
    tool: Tool,
}

impl Case<'_> {
    /// What the rules do with a packet.
    fn says(&self, chain: &str, packet: &Packet) -> Result<Expected, TestCaseError> {
        self.printed[usize::from(packet.source.is_ipv6())]
            .says(chain, packet)
            .map_err(|failure| fail(&failure))
    }

    /// The way of a packet, for the message of a failure.
    fn way(&self, chain: &str, packet: &Packet) -> String {
        let Printed { tables, sets } = &self.printed[usize::from(packet.source.is_ipv6())];
        tables.judge(sets, chain, packet).map_or_else(|e| e.to_string(), |it| it.to_string())
    }
}

fn fail(failure: &anyhow::Error) -> TestCaseError {
    TestCaseError::fail(format!("{failure:#}"))
}

fn check(case: Case<'_>) -> Result<(), TestCaseError> {
    let Case { world, flows, places, options, .. } = case;
    let log = options.denial_log;
    for (source, destination, traffic) in flows {
        let flow = world.flow(*source, *destination, *traffic);
        let Some((chain, expected)) = expected(world, &flow, log) else { continue };
        let mut packet = places.at_home(packet(*source, *destination, *traffic));
        // A Service sent it back: nothing else does.
        packet.destination_translated = source == destination;
        let says = |packet: &Packet| case.says(chain, packet);
        let way = case.way(chain, &packet);
        prop_assert_eq!(&says(&packet)?, &expected, "{:?}: {:?} {}", flow, packet, way);
        packet = packet.in_state(ConntrackState::Established);
        if let Traffic::Port(Protocol::Tcp | Protocol::Sctp, _) = traffic {
            // Whatever conntrack remembers of the ports, a SYN or INIT opens a connection.
            prop_assert_eq!(says(&packet)?, expected);
        } else {
            let reply = Expected { allowed: true, logged: Vec::new() };
            prop_assert_eq!(says(&packet)?, reply, "a reply passes");
        }
    }
    Ok(())
}

fn flows() -> impl Strategy<Value = Vec<(IpAddr, IpAddr, Traffic)>> {
    let any = |list: Vec<IpAddr>| prop::sample::select(list);
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        worlds::addresses().into_iter().partition(IpAddr::is_ipv4);
    let pair = prop_oneof![(any(v4.clone()), any(v4)), (any(v6.clone()), any(v6))];
    let flow = (pair, prop::sample::select(worlds::traffic()));
    prop::collection::vec(flow.prop_map(|((from, to), traffic)| (from, to, traffic)), 300)
}

fn options(tool: Tool) -> impl Strategy<Value = Options> {
    let deny = prop::sample::select(vec![DenyAction::Drop, DenyAction::Reject]);
    let (backend, variant, accepts) = match tool {
        Tool::Iptables(variant) => {
            (Backend::Iptables, variant, vec![AcceptAction::Return, AcceptAction::Accept])
        }
        Tool::Nftables => (Backend::Nftables, IptablesVariant::Auto, vec![AcceptAction::Return]),
    };
    let accept = prop::sample::select(accepts);
    let log = prop::option::weighted(0.8, Just(LogGroup::default()));
    let unknown_pods = prop::sample::select(vec![UnknownPods::Deny, UnknownPods::Allow]);
    let anti_spoofing = prop::bool::weighted(0.8);
    (deny, accept, log, anti_spoofing, unknown_pods).prop_map(
        move |(deny, accept, denial_log, anti_spoofing, unknown_pods)| Options {
            backend,
            variant,
            deny,
            accept,
            denial_log,
            anti_spoofing,
            unknown_pods,
            ..Options::default()
        },
    )
}

fn rendered_rules_say_what_evaluate_says(tool: Tool) -> Result<()> {
    in_namespace(move || {
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
        // Thousands of pure cases are hundreds that program a kernel.
        let usual = if tool == Tool::Nftables { CASES / 3 } else { CASES };
        let cases = cases.map_or(usual, |cases: u32| (cases / 10).max(1));
        let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
        let strategy = (worlds::history(0..30), worlds::history(1..10), flows(), options(tool));
        let mut runner = TestRunner::new(config);
        runner.run(&strategy, |(first, then, flows, options)| {
            let fail = |failure: anyhow::Error| fail(&failure);
            let scope = Scope::Node(worlds::OWN_NODE.into());
            let mut engine = Engine::new(scope, world::Options::default());
            // What the case before left behind is taken over, as by an agent that starts again.
            let mut dataplane = Dataplane::open(options.clone()).map_err(|e| fail(e.into()))?;
            for changes in [first, then] {
                changes.into_iter().for_each(|change| engine.apply(change));
                let update = engine.flush();
                let places = Places::new(engine.world());
                dataplane.set_attachments(places.attachments.clone());
                let report = dataplane.enforce(engine.compiled(), &update);
                report.map_err(|failure| fail(failure.into()))?;
                let family = |address: &str| {
                    Printed::read_with(tool, address.parse().expect("an address")).map_err(fail)
                };
                // With all that is out of reach but still there.
                let printed = [family("0.0.0.0")?, family("::")?];
                let (printed, flows) = (&printed, flows.as_slice());
                let (world, places, options) = (engine.world(), &places, &options);
                let case = Case { world, printed, flows, places, options, tool };
                check(case)?;
                if options.anti_spoofing {
                    places::check(case)?;
                    ranges::check(case)?;
                }
            }
            let drift = dataplane.verify(engine.compiled()).map_err(|e| fail(e.into()))?;
            prop_assert!(drift.is_empty(), "read back as written, but {:?}", drift);
            Ok(())
        })?;
        Ok(())
    })
}

#[test]
fn rendered_rules_say_what_evaluate_says_nft() -> Result<()> {
    rendered_rules_say_what_evaluate_says(Tool::Iptables(IptablesVariant::Nft))
}

#[test]
fn rendered_rules_say_what_evaluate_says_legacy() -> Result<()> {
    rendered_rules_say_what_evaluate_says(Tool::Iptables(IptablesVariant::Legacy))
}

#[test]
fn rendered_rules_say_what_evaluate_says_nftables() -> Result<()> {
    rendered_rules_say_what_evaluate_says(Tool::Nftables)
}

/// The rule set of a node stays as small as its content: what follows is counted, not guessed.
#[test]
fn a_thousand_policies_for_one_port_are_one_rule() -> Result<()> {
    in_namespace(|| {
        let mut engine = Engine::new(Scope::Node("n1".into()), world::Options::default());
        big_node(&mut engine, 250, 1_000);
        let update = engine.flush();
        let options = Options { variant: IptablesVariant::Nft, ..Options::default() };
        let mut dataplane = Dataplane::open(options)?;
        let places = Places::on_a_bridge(engine.world());
        dataplane.set_attachments(places.attachments.clone());
        dataplane.enforce(engine.compiled(), &update)?;
        let printed = Printed::read("nft", "0.0.0.0".parse()?)?;
        let rulesets = printed.tables.sizes("PORTCULLIS-R");
        ensure!(
            rulesets.chains == 1 && rulesets.rules == 2,
            "one allow and one goto: {rulesets:?}"
        );
        let sets = printed.sets.sizes("PORTCULLIS-4").sets;
        ensure!(sets == 4, "the peers, the pods, and those isolated in each direction: {sets}");
        let first =
            Packet::new("10.1.3.3".parse()?, "10.0.0.7".parse()?, Transport::syn(40_000, 80));
        let first = places.at_home(first);
        let judged = printed.tables.judge(&printed.sets, "FORWARD", &first)?;
        ensure!(judged.set_lookups == 3 && judged.rules_evaluated <= 30, "{judged}");
        println!(
            "250 pods, 1000 policies: {} ({:?} in all)",
            judged,
            printed.tables.sizes("PORTCULLIS")
        );
        Ok(())
    })
}

fn big_node(engine: &mut Engine, pods: u16, policies: u16) {
    use policy_engine::direction::PerDirection;
    use policy_engine::labels::Labels;
    use policy_engine::model::{Life, Namespace, Pod};
    use policy_engine::policy::*;
    use policy_engine::port::PortRange;
    use policy_engine::selector::Selector;
    use std::sync::Arc;

    for number in 0..pods {
        let [high, low] = number.to_be_bytes();
        let key = PodKey::new("shop", &format!("pod-{number}"));
        let pod = Pod {
            key: key.clone(),
            labels: Labels::default(),
            node: Some("n1".into()),
            addresses: vec![IpAddr::from([10, 0, high, low])].into(),
            ports: [].into(),
            host_network: false,
            life: Life::Active,
            created: 0,
            extra_source_ranges: Box::default(),
        };
        engine.apply(Change::Pod(key, Some(Arc::new(pod))));
    }
    for number in 0..policies {
        let name = format!("team-{number}");
        let labels = Labels::from_iter([("team", name.as_str())]);
        engine.apply(Change::Namespace(name.as_str().into(), Some(Namespace { labels })));
        let peer = PodPeer {
            namespaces: Namespaces::Selected(Selector::label("team", &name)),
            pods: Selector::everything(),
        };
        let port = PortMatch::Numbers(Protocol::Tcp, PortRange::single(80));
        let rule =
            Rule { peers: Peers::Listed(vec![Peer::Pods(peer)]), ports: Ports::Listed(vec![port]) };
        let rules = PerDirection { ingress: Some(vec![rule]), egress: None };
        let everything = Selector::everything();
        engine.apply(Policy::network_policy("shop", name, everything, rules).into());
    }
}
