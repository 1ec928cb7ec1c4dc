//! `portcullis trace`: the path of a connection's first packet through the rules in the kernel, and
//! the verdict of the policies for comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use policy_engine::cidr::Family;
use portcullis_interpreter::error::Unanswerable;
use portcullis_interpreter::{JudgeError, Judgement, Packet, Sets, Tables, Transport, Verdict};
use serde::Serialize;

use super::{NO, Node, OTHER_VERSION, YES, write};
use crate::args::{TraceArgs, TraceProtocol};
use crate::dataplane::kernel_text::TableText;
use crate::dataplane::name;
use crate::dataplane::rule::Hook;
use crate::node::answers::{Answer, FlowFacts, ProtocolName, Question, SideFacts, VerdictFacts};

/// The exit code when the verdicts of the kernel and of the policies differ.
const DISAGREES: u8 = 3;
/// The source port of the packet. No rule matches source ports.
const SOURCE_PORT: u16 = 40_000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    node: String,
    connection: String,
    /// The path of one packet for each IP family that both sides have.
    ways: Vec<Way>,
    notes: Vec<String>,
}

/// The path of one packet through the rules.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    family: String,
    source: SideFacts,
    destination: SideFacts,
    /// The rules that matched, in their order.
    steps: Vec<Step>,
    kernel_allows: bool,
    /// The rule that decides; `None` if no rule matches.
    decided_by: Option<Step>,
    /// The verdicts of the policies of this node's pods.
    egress: Option<VerdictFacts>,
    ingress: Option<VerdictFacts>,
    policies_allow: bool,
    agrees: bool,
}

/// A rule that matched.
#[derive(Clone, Debug, Serialize)]
struct Step {
    chain: String,
    /// The number of the rule in the chain, from 1; with nftables, its handle.
    number: usize,
    rule: String,
    /// The effect of the rule as text for people; `None` if it is not a rule of the agent.
    words: Option<String>,
}

/// Answers `portcullis trace`.
///
/// # Errors
/// When the agent does not answer, no side is a pod of its node, or the kernel cannot be read.
pub fn run(args: &TraceArgs) -> Result<ExitCode> {
    let ported = match args.proto {
        TraceProtocol::Tcp => Some(ProtocolName::Tcp),
        TraceProtocol::Udp => Some(ProtocolName::Udp),
        TraceProtocol::Sctp => Some(ProtocolName::Sctp),
        TraceProtocol::Icmp => None,
    };
    let port = match (ported, args.port) {
        (Some(protocol), Some(port)) => Some((protocol, port)),
        (None, None) => None,
        (Some(_), None) => bail!("name the destination port"),
        (None, Some(_)) => bail!("ICMP has no ports"),
    };
    let node = Node::find(&args.socket)?;
    let question =
        Question::Flow { source: args.source.clone(), destination: args.destination.clone(), port };
    let Answer::Flow(flows) = node.ask(&question)? else { bail!(OTHER_VERSION) };
    let mut trace = Trace {
        node: node.facts.node.clone(),
        connection: format!("{} → {} {}", args.source, args.destination, words_of(port)),
        ways: Vec::new(),
        notes: Vec::from_iter(node.note()),
    };
    for flow in flows {
        trace.ways.push(way(&node, flow, port, &mut trace.notes)?);
    }
    let code = if trace.ways.iter().any(|way| !way.agrees) {
        DISAGREES
    } else if trace.ways.iter().all(|way| way.kernel_allows) {
        YES
    } else {
        NO
    };
    write(args.socket.output, &trace, text, code)
}

fn words_of(port: Option<(ProtocolName, u16)>) -> String {
    match port {
        Some((ProtocolName::Tcp, port)) => format!("TCP {port}"),
        Some((ProtocolName::Udp, port)) => format!("UDP {port}"),
        Some((ProtocolName::Sctp, port)) => format!("SCTP {port}"),
        None => "ICMP".to_owned(),
    }
}

fn way(
    node: &Node<'_>,
    flow: FlowFacts,
    port: Option<(ProtocolName, u16)>,
    notes: &mut Vec<String>,
) -> Result<Way> {
    let FlowFacts { source, destination, egress, ingress } = flow;
    if !source.is_local_pod && !destination.is_local_pod {
        let others: BTreeSet<&str> =
            [&source, &destination].into_iter().filter_map(|side| side.node.as_deref()).collect();
        let where_to = if others.is_empty() {
            String::new()
        } else {
            format!(": ask the agents of {}", others.into_iter().collect::<Vec<_>>().join(" and "))
        };
        bail!(
            "neither {} nor {} is a pod of node {} to which policies can apply{where_to}",
            source.name,
            destination.name,
            node.facts.node
        );
    }
    let family = Family::of(source.at.address);
    let table = node.table(family)?;
    let displaced = node.displaced(family, &table);
    notes.extend(displaced.iter().map(ToString::to_string));
    let hook = if destination.is_this_node { Hook::Input } else { Hook::Forward };
    let is_reached = table.chains.contains_key(&hook.target().to_string())
        && !displaced.iter().any(|other| other.is_missing() && other.hook == hook)
        // Packets that the node itself sends do not reach the agent's rules.
        && !source.is_this_node;
    let judgement = if is_reached {
        let packet = packet(&source, &destination, port);
        Some(judge(node, &table, hook, &packet)?)
    } else {
        notes.push(format!(
            "no {} packet of this kind comes to the rules of the agent",
            family.as_str()
        ));
        None
    };
    let steps = match &judgement {
        Some(judgement) => steps(node, family, &table, judgement)?,
        None => Vec::new(),
    };
    let kernel_allows = judgement
        .as_ref()
        .is_none_or(|found| matches!(found.verdict, Verdict::Accept | Verdict::Return));
    let policies_allow = [&egress, &ingress].into_iter().flatten().all(|facts| facts.is_allowed);
    Ok(Way {
        family: family.as_str().to_owned(),
        decided_by: decisive(&steps, kernel_allows),
        steps,
        kernel_allows,
        policies_allow,
        agrees: kernel_allows == policies_allow,
        source,
        destination,
        egress,
        ingress,
    })
}

/// The first packet of the connection, with the values that the node's rules match.
fn packet(
    source: &SideFacts,
    destination: &SideFacts,
    port: Option<(ProtocolName, u16)>,
) -> Packet {
    let (from, to) = (&source.at, &destination.at);
    let transport = match port {
        Some((ProtocolName::Tcp, port)) => Transport::syn(SOURCE_PORT, port),
        Some((ProtocolName::Udp, port)) => {
            Transport::Udp { source_port: SOURCE_PORT, destination_port: port }
        }
        Some((ProtocolName::Sctp, port)) => {
            Transport::Sctp { source_port: SOURCE_PORT, destination_port: port, init: true }
        }
        None if from.address.is_ipv6() => Transport::Icmp { kind: 128, code: 0 },
        None => Transport::Icmp { kind: 8, code: 0 },
    };
    let mut packet = Packet::new(from.address, to.address, transport);
    // If the interface is a port of a bridge, the packet arrives through the bridge.
    packet.in_interface = from.bridge.clone().or_else(|| from.interface.clone());
    packet.in_port = from.bridge.as_ref().and_then(|_| from.interface.clone());
    if !destination.is_this_node {
        packet.out_interface = to.bridge.clone().or_else(|| to.interface.clone());
        let is_bridged = from.bridge.is_some() && from.bridge == to.bridge;
        packet.out_port = to.interface.clone().filter(|_| is_bridged);
    }
    // A pod connects to itself only through a Service.
    packet.destination_translated = from.address == to.address;
    packet
}

/// Judges a packet. Reads only the sets of rules that the packet reaches: sets can be large.
fn judge(node: &Node<'_>, table: &TableText, hook: Hook, packet: &Packet) -> Result<Judgement> {
    let is_nftables = node.kernel.is_nftables();
    let (tables, first) = if is_nftables {
        (Tables::parse_nftables(&table.listings), hook.chain().to_owned())
    } else {
        (Tables::parse(&table.save(&node.facts.table)), hook.target().to_string())
    };
    let tables = super::tables(tables)?;
    let (mut sets, mut known) = (Sets::default(), BTreeSet::new());
    loop {
        match tables.judge(&sets, &first, packet) {
            Ok(judgement) => return Ok(judgement),
            Err(JudgeError::Rule { reason: Unanswerable::NoSet(name), .. })
                if known.insert(name.clone()) =>
            {
                let set = node.kernel.save_set(&name);
                let set = set.with_context(|| format!("failed to read the set {name}"))?;
                let read = if is_nftables { sets.add_nftables(&set) } else { sets.add(&set) };
                read.context("the kernel has a set that cannot be read")?;
            }
            Err(error) => {
                return Err(error).context("the path of the packet through the rules is not known");
            }
        }
    }
}

/// The rules that matched, with their effects as text.
fn steps(
    node: &Node<'_>,
    family: Family,
    table: &TableText,
    judgement: &Judgement,
) -> Result<Vec<Step>> {
    let own = || judgement.path.iter().filter(|hit| hit.chain.starts_with(name::PREFIX));
    let names: BTreeSet<String> = own().map(|hit| hit.chain.clone()).collect();
    let question = Question::NamedChains {
        family: family.as_str().to_owned(),
        names: names.into_iter().collect(),
    };
    let Answer::Chains(chains) = node.ask(&question)? else { bail!(OTHER_VERSION) };
    let words: BTreeMap<(&str, &str), &str> = chains
        .iter()
        .flat_map(|chain| {
            let rules = chain.rules.iter();
            rules.map(|rule| ((chain.name.as_str(), rule.rule.as_str()), rule.words.as_str()))
        })
        .collect();
    let steps = own().map(|hit| {
        let rules = table.chains.get(&hit.chain);
        let rule = rules.and_then(|rules| rules.get(hit.rule - 1));
        let number = rule.map_or(hit.rule, |rule| rule.number);
        let rule = rule.map(|rule| rule.rule.clone()).unwrap_or_default();
        Step {
            words: words.get(&(hit.chain.as_str(), rule.as_str())).map(|words| (*words).to_owned()),
            chain: hit.chain.clone(),
            number,
            rule,
        }
    });
    Ok(steps.collect())
}

/// The rule that decides: the one that leads to a chain of denials, or the last one that matched.
fn decisive(steps: &[Step], is_allowed: bool) -> Option<Step> {
    let denies = |step: &&Step| {
        ["PORTCULLIS-DENY-", "PORTCULLIS-BRIDGE-DENY-"]
            .iter()
            .any(|beginning| step.chain.starts_with(beginning))
    };
    let last = match steps.iter().position(|step| denies(&step)) {
        Some(first) if !is_allowed => first.checked_sub(1).and_then(|index| steps.get(index)),
        _ => steps.last(),
    };
    last.cloned()
}

fn text(trace: &Trace) -> String {
    let mut text = format!("{}, by the rules in the kernel of {}\n", trace.connection, trace.node);
    for way in &trace.ways {
        let side = |side: &SideFacts| match (&side.at.interface, side.is_local_pod) {
            (Some(interface), _) => format!("{} ({interface})", side.at.address),
            (None, true) => format!("{} (interface not known)", side.at.address),
            (None, false) => side.at.address.to_string(),
        };
        // Writing to memory cannot fail.
        let _ =
            writeln!(text, "{}: {} → {}", way.family, side(&way.source), side(&way.destination));
        for Step { chain, number, rule, words } in &way.steps {
            let words = words.as_deref().unwrap_or("not a rule of the agent");
            let _ = writeln!(text, "  {chain} {number}: {words}");
            let _ = writeln!(text, "      {rule}");
        }
        let verdict = if way.kernel_allows { "Allowed" } else { "Denied" };
        let by = match &way.decided_by {
            Some(Step { chain, number, .. }) => format!("rule {number} of {chain}"),
            None => "no rule: none matches".to_owned(),
        };
        let _ = writeln!(text, "  kernel: {verdict} by {by}");
        for (direction, facts) in [("egress", &way.egress), ("ingress", &way.ingress)] {
            let Some(VerdictFacts { is_allowed, why }) = facts else { continue };
            let verdict = if *is_allowed { "Allowed" } else { "Denied" };
            let why = why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let _ = writeln!(text, "  policies, {direction}: {verdict}{why}");
        }
        if !way.agrees {
            text.push_str("  DIFFERS: the kernel does other than the policies say\n");
        }
    }
    for note in &trace.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
