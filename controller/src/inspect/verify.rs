//! `portcullis verify`: compares all rules and sets in the kernel with the desired ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use policy_engine::words::few;
use portcullis_crds::api::inspection::{Difference, EndpointFacts, SetFacts, Verification};

use super::compare::compare;
use super::{NO, Node, OTHER_VERSION, YES, write};
use crate::args::VerifyArgs;
use crate::dataplane::inspection::ChainText;
use crate::node::answers::{Answer, Question};

/// The most comparisons while differences are found: the agent may be applying a change.
const TRIES: usize = 3;
/// The time between two comparisons. The agent removes old rules 0.2 s after a change.
const PAUSE: Duration = Duration::from_millis(700);
/// The most differing rules that are listed for a chain.
const RULES_LISTED: usize = 5;
/// The most pods that are named for a difference.
const PODS_NAMED: usize = 5;

/// Answers `portcullis verify`.
///
/// # Errors
/// When the agent does not answer, or the kernel cannot be read.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let mut found = verify(args)?;
    for _ in 1..TRIES {
        if found.differences.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
        found = verify(args)?;
    }
    let code = if found.differences.is_empty() { YES } else { NO };
    write(args.socket.output, &found, text, code)
}

fn verify(args: &VerifyArgs) -> Result<Verification> {
    let node = Node::find(&args.socket)?;
    let Answer::Endpoints(endpoints) = node.ask(&Question::Endpoints)? else {
        bail!(OTHER_VERSION)
    };
    let sets = all_sets(&node)?;
    let mut differences = Vec::new();
    let (mut chains_compared, mut rules_compared) = (0, 0);
    for family in node.families() {
        let desired = all_chains(&node, family.as_str())?;
        let table = node.table(family)?;
        let pods = Pods::new(&desired, &endpoints);
        let mut add = |name: &str, what: String, pods: Vec<String>| {
            let family = Some(family.as_str().to_owned());
            differences.push(Difference { family, name: name.to_owned(), what, pods });
        };
        for displaced in node.displaced(family, &table) {
            let all = endpoints.iter().map(|found| found.pod.clone()).collect::<BTreeSet<_>>();
            let chain = displaced.hook.chain();
            add(chain, displaced.to_string(), all.into_iter().collect());
        }
        for chain in &desired {
            let is = table.chains.get(&chain.name);
            chains_compared += 1;
            rules_compared += chain.rules.len();
            if is.is_none() {
                add(&chain.name, "is missing in the kernel".to_owned(), pods.of(&chain.name));
                continue;
            }
            let compared = compare(&chain.rules, is.map(Vec::as_slice));
            let wrong = compared.iter().filter_map(|rule| Some((rule, rule.what()?)));
            for (rule, what) in wrong.take(RULES_LISTED) {
                let named = pods.in_rule(&rule.rule);
                let named = if named.is_empty() { pods.of(&chain.name) } else { named };
                add(&chain.name, what, named);
            }
        }
    }
    let in_kernel = node.kernel.sets().context("failed to read the sets")?;
    for set in &sets {
        let what = match in_kernel.get(&set.name) {
            None => "is missing in the kernel".to_owned(),
            Some(is) if is.digest == set.digest => continue,
            Some(is) => format!(
                "has other members in the kernel: {} instead of {}",
                is.members, set.members
            ),
        };
        let what = format!("({}) {what}", set.words);
        let (name, pods) = (set.name.clone(), Vec::new());
        differences.push(Difference { family: None, name, what, pods });
    }
    Ok(Verification {
        node: node.facts,
        endpoints,
        sets,
        chains_compared,
        rules_compared,
        differences,
    })
}

fn all_sets(node: &Node<'_>) -> Result<Vec<SetFacts>> {
    let mut all: Vec<SetFacts> = Vec::new();
    loop {
        let after = all.last().map(|set| set.name.clone());
        let Answer::Sets(part) = node.ask(&Question::Sets { after })? else { bail!(OTHER_VERSION) };
        if part.is_empty() {
            return Ok(all);
        }
        all.extend(part);
    }
}

fn all_chains(node: &Node<'_>, family: &str) -> Result<Vec<ChainText>> {
    let mut all: Vec<ChainText> = Vec::new();
    loop {
        let after = all.last().map(|chain| chain.name.clone());
        let question = Question::Chains { family: family.to_owned(), after };
        let Answer::Chains(part) = node.ask(&question)? else { bail!(OTHER_VERSION) };
        if part.is_empty() {
            return Ok(all);
        }
        all.extend(part);
    }
}

/// Finds the pods whose packets reach a chain.
struct Pods<'a> {
    /// The rules that jump to each chain, with the chain that contains them.
    callers: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    by_address: BTreeMap<String, &'a str>,
}

impl<'a> Pods<'a> {
    fn new(chains: &'a [ChainText], endpoints: &'a [EndpointFacts]) -> Self {
        let mut callers: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for chain in chains {
            for rule in &chain.rules {
                if let Some(target) = target(&rule.rule) {
                    callers.entry(target).or_default().push((&chain.name, &rule.rule));
                }
            }
        }
        let by_address =
            endpoints.iter().map(|found| (found.address.to_string(), found.pod.as_str()));
        Self { callers, by_address: by_address.collect() }
    }

    /// The pod whose address a rule matches.
    fn in_rule(&self, rule: &str) -> Vec<String> {
        let words: Vec<&str> = rule.split(' ').collect();
        let address = words.windows(2).find_map(|pair| match pair {
            ["-s" | "-d" | "saddr" | "daddr", network] => host(network),
            _ => None,
        });
        let pod = address.and_then(|address| self.by_address.get(&address));
        pod.map(|pod| (*pod).to_owned()).into_iter().collect()
    }

    /// The pods of the rules that jump to a chain, directly or through other chains. All pods for a
    /// chain that packets reach before a rule matches the address of a pod.
    fn of(&self, chain: &str) -> Vec<String> {
        let (mut pods, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut waiting = vec![chain.to_owned()];
        while let Some(chain) = waiting.pop() {
            if !seen.insert(chain.clone()) {
                continue;
            }
            for (caller, rule) in self.callers.get(chain.as_str()).into_iter().flatten() {
                let named = self.in_rule(rule);
                if named.is_empty() {
                    waiting.push((*caller).to_owned());
                }
                pods.extend(named);
            }
        }
        if pods.is_empty() {
            pods.extend(self.by_address.values().map(|pod| (*pod).to_owned()));
        }
        pods.into_iter().collect()
    }
}

/// The address in `network`; `None` if the network has more than one address.
fn host(network: &str) -> Option<String> {
    let address = network.parse::<IpAddr>().map(IpNet::from);
    let network: IpNet = address.or_else(|_| network.parse()).ok()?;
    let is_host = network.prefix_len() == network.max_prefix_len();
    is_host.then(|| network.addr().to_string())
}

fn target(rule: &str) -> Option<&str> {
    let mut words =
        rule.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g" | "jump" | "goto"));
    words.nth(1)
}

fn text(found: &Verification) -> String {
    let Verification { node, chains_compared, rules_compared, sets, .. } = found;
    // Writing to memory cannot fail.
    let mut text = format!(
        "node {}: compiled state {}, {} addresses of pods with rules\n\
         compared {rules_compared} rules of {chains_compared} chains and {} sets with the kernel\n",
        node.node,
        node.compiled_state,
        found.endpoints.len(),
        sets.len(),
    );
    for Difference { family, name, what, pods } in &found.differences {
        let family = family.as_deref().map(|family| format!("{family} ")).unwrap_or_default();
        let pods = match pods.as_slice() {
            [] => String::new(),
            pods => format!("; pods: {}", few(pods, PODS_NAMED)),
        };
        let _ = writeln!(text, "DIFFERS: {family}{name} {what}{pods}");
    }
    if found.differences.is_empty() {
        text.push_str("The kernel holds what the agent wants.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::inspection::RuleText;

    #[test]
    fn a_chain_is_one_of_the_pods_whose_rules_lead_to_it() {
        let chain = |name: &str, rules: &[&str]| ChainText {
            name: name.to_owned(),
            rules: rules
                .iter()
                .map(|rule| RuleText {
                    rule: (*rule).to_owned(),
                    words: String::new(),
                    concerns_pod: false,
                })
                .collect(),
        };
        let chains = [
            chain("ROOT", &["-s 10.0.0.0/26 -g T", "-s 10.0.0.9/32 -g R"]),
            chain("T", &["-s 10.0.0.1/32 -g P", "-s 10.0.0.2/32 -g R"]),
            chain("P", &["! -d 10.0.0.1/32 -j R"]),
            chain("R", &["-g DENY"]),
        ];
        let endpoint = |address: &str, pod: &str| EndpointFacts {
            address: address.parse().unwrap(),
            pod: pod.to_owned(),
            ingress: None,
            egress: None,
            audited_ingress: None,
            audited_egress: None,
        };
        let endpoints = [endpoint("10.0.0.1", "a/one"), endpoint("10.0.0.2", "a/two")];
        let pods = Pods::new(&chains, &endpoints);
        assert_eq!(pods.of("P"), ["a/one"]);
        assert_eq!(pods.of("DENY"), ["a/one", "a/two"]);
        assert_eq!(pods.of("ROOT"), ["a/one", "a/two"], "every packet reaches it");
        for rule in ["-s 10.0.0.2/32 -g R", "ip saddr 10.0.0.2 goto R"] {
            assert_eq!((pods.in_rule(rule), target(rule)), (vec!["a/two".to_owned()], Some("R")));
        }
    }
}
