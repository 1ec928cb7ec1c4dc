//! `portcullis inspect pod`: a pod of this node, its desired rules and sets, and how the kernel
//! differs from them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use policy_engine::cidr::Family;
use serde::Serialize;

use super::compare::{ComparedRule, RuleState, compare};
use super::{NO, Node, OTHER_VERSION, YES, nftables, write};
use crate::args::InspectPodArgs;
use crate::dataplane::inspection::SetText;
use crate::dataplane::kernel_text::TableText;
use crate::node::answers::{AddressFacts, Answer, PodFacts, PolicyFacts, Question};

/// A pod, its policies, and its rules and sets compared with the kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodReport {
    node: String,
    pod: String,
    addresses: Vec<AddressFacts>,
    policies: Vec<PolicyFacts>,
    restricts_ingress: bool,
    restricts_egress: bool,
    variant: String,
    table: String,
    /// The chains of each IP family.
    chains: BTreeMap<String, Vec<ComparedChain>>,
    sets: Vec<ComparedSet>,
    /// Other problems, in one line each.
    notes: Vec<String>,
    is_as_desired: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComparedChain {
    name: String,
    /// The table, if it is not the table of the report: that of the frames of bridges.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    is_in_kernel: bool,
    rules: Vec<ComparedRule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComparedSet {
    name: String,
    words: String,
    members: usize,
    first: Vec<String>,
    /// The number of members in the kernel; `None` if the kernel has no such set.
    members_in_kernel: Option<usize>,
    is_as_desired: bool,
}

/// Answers `portcullis inspect pod`.
///
/// # Errors
/// When the agent does not answer, the pod does not run on its node, or the kernel cannot be read.
pub fn run(args: &InspectPodArgs) -> Result<ExitCode> {
    let (namespace, name) =
        args.pod.split_once('/').with_context(|| format!("{} is not NAMESPACE/POD", args.pod))?;
    let node = Node::find(&args.socket)?;
    let question = Question::Pod { namespace: namespace.to_owned(), name: name.to_owned() };
    let Answer::Pod(facts) = node.ask(&question)? else { bail!(OTHER_VERSION) };
    let report = report(&node, *facts)?;
    let code = if report.is_as_desired { YES } else { NO };
    write(args.socket.output, &report, text, code)
}

fn report(node: &Node<'_>, facts: PodFacts) -> Result<PodReport> {
    let mut notes = Vec::from_iter(node.note());
    let mut chains = BTreeMap::new();
    let mut hooks_are_right = true;
    for (family, desired) in facts.rules.chains {
        let of = Family::named(&family);
        let of = of.context(OTHER_VERSION)?;
        let table: TableText = node.table(of)?;
        for displaced in node.displaced(of, &table) {
            hooks_are_right = false;
            notes.push(displaced.to_string());
        }
        let compared = desired.into_iter().map(|chain| {
            let is = table.chains.get(&chain.name);
            ComparedChain {
                rules: compare(&chain.rules, is.map(Vec::as_slice)),
                is_in_kernel: is.is_some(),
                table: nftables::bridge_table(of, &chain.name),
                name: chain.name,
            }
        });
        chains.insert(family, compared.collect::<Vec<_>>());
    }
    let in_kernel = node.kernel.sets().context("failed to read the sets")?;
    let sets: Vec<ComparedSet> = facts
        .rules
        .sets
        .into_iter()
        .map(|SetText { name, words, members, first, digest, .. }| {
            let is = in_kernel.get(&name);
            ComparedSet {
                is_as_desired: is.is_some_and(|is| is.digest == digest),
                members_in_kernel: is.map(|is| is.members),
                name,
                words,
                members,
                first,
            }
        })
        .collect();
    let rules_are_right = chains.values().flatten().all(|chain| {
        chain.is_in_kernel && chain.rules.iter().all(|rule| rule.state == RuleState::AsDesired)
    });
    let is_as_desired =
        hooks_are_right && rules_are_right && sets.iter().all(|set| set.is_as_desired);
    Ok(PodReport {
        node: node.facts.node.clone(),
        pod: facts.pod,
        addresses: facts.addresses,
        policies: facts.policies,
        restricts_ingress: facts.isolated.0,
        restricts_egress: facts.isolated.1,
        variant: node.facts.variant.clone(),
        table: node.facts.table.clone(),
        chains,
        sets,
        notes,
        is_as_desired,
    })
}

/// The report as text. Writing to memory cannot fail.
fn text(report: &PodReport) -> String {
    let mut text = format!("{} on node {}\n", report.pod, report.node);
    for AddressFacts { address, interface, bridge } in &report.addresses {
        let at = match (interface, bridge) {
            (Some(interface), Some(bridge)) => format!("{interface}, a port of bridge {bridge}"),
            (Some(interface), None) => interface.clone(),
            (None, _) => "an interface that is not known".to_owned(),
        };
        let _ = writeln!(text, "  {address} at {at}");
    }
    if report.policies.is_empty() {
        text.push_str("No policy selects it: all its connections are allowed.\n");
    } else {
        text.push_str("Policies that select it:\n");
    }
    for PolicyFacts { name, tier, directions, is_audited } in &report.policies {
        let audit = if *is_audited { ", in audit" } else { "" };
        let _ = writeln!(text, "  {name}  (tier {tier}, {}{audit})", directions.join(" and "));
    }
    for (family, chains) in &report.chains {
        let command = match report.variant.as_str() {
            "nftables" => "nftables".to_owned(),
            variant => format!("iptables-{variant}"),
        };
        let _ = writeln!(text, "{family} rules ({command}, table {}):", report.table);
        chains.iter().for_each(|chain| chain_text(chain, &mut text));
    }
    if !report.sets.is_empty() {
        text.push_str("Sets:\n");
    }
    for set in &report.sets {
        let more = set.members.saturating_sub(set.first.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(text, "  {}: {}", set.name, set.words);
        let _ = writeln!(text, "    {} members: {}{more}", set.members, set.first.join(", "));
        match set.members_in_kernel {
            _ if set.is_as_desired => {}
            Some(count) => {
                let _ = writeln!(text, "    DIFFERS: the kernel has {count} members, or others");
            }
            None => text.push_str("    DIFFERS: the kernel has no such set\n"),
        }
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text.push_str(if report.is_as_desired {
        "The kernel holds these rules and sets as the agent wants them.\n"
    } else {
        "The kernel DIFFERS from what the agent wants.\n"
    });
    text
}

fn chain_text(chain: &ComparedChain, text: &mut String) {
    let missing = if chain.is_in_kernel { "" } else { "  DIFFERS: the kernel has no such chain" };
    let table = chain.table.as_ref().map(|table| format!(" (table {table})")).unwrap_or_default();
    let _ = writeln!(text, "  {}{table}{missing}", chain.name);
    for rule in chain.rules.iter().filter(|rule| rule.concerns_pod) {
        let number = rule.number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let packets = match rule.packets {
            None => String::new(),
            Some(1) => " [1 packet]".to_owned(),
            Some(packets) => format!(" [{packets} packets]"),
        };
        let state = match rule.state {
            RuleState::AsDesired => "",
            RuleState::Missing => "  DIFFERS: missing in the kernel",
            RuleState::Unexpected => "  DIFFERS: not a rule of the agent",
            RuleState::Misplaced => "  DIFFERS: in another place",
        };
        let _ = writeln!(text, "    {number:>3}  {}{packets}{state}", rule.words);
    }
}
