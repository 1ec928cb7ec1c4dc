//! Answers to questions of other programs on the node, see [`crate::node::answers`]. Each answer
//! is a part of what the agent knows, of limited size.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::engine::blame::Blame;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::id::SetId;
use policy_engine::model::PodKey;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Policy;
use policy_engine::tier::{Mode, Tier, View};
use policy_engine::words::and_more;
use portcullis_crds::api::inspection::{EndpointFacts, NodeFacts, OptionFacts, SetFacts};
use portcullis_crds::api::node_policy_report::CompiledState;

use super::Agent;
use crate::dataplane::backend::iptables::Variant;
use crate::dataplane::inspection::SetText;
use crate::node::answers::{
    AddressFacts, Answer, FlowFacts, Inquiries, Inquiry, PodFacts, PolicyFacts, Question,
    SideFacts, VerdictFacts,
};

/// Waits for the next question; never returns where there is no socket.
pub(super) async fn next(inquiries: Option<&mut Inquiries>) -> Inquiry {
    if let Some(inquiries) = inquiries
        && let Some(inquiry) = inquiries.recv().await
    {
        return inquiry;
    }
    std::future::pending().await
}

impl Agent {
    pub(super) fn answer(&self, inquiry: Inquiry) {
        let answer = self.answer_to(inquiry.question).unwrap_or_else(Answer::Unknown);
        // The program that asked may have ended.
        let _ = inquiry.answer.send(answer);
    }

    fn answer_to(&self, question: Question) -> Result<Answer, String> {
        let sets = &self.engine.compiled().sets;
        let describe = |set: &SetId| self.engine.describe_set(set);
        Ok(match question {
            Question::Node => Answer::Node(Box::new(self.node_facts())),
            Question::Pod { namespace, name } => {
                Answer::Pod(Box::new(self.pod_facts(&PodKey::new(&namespace, &name))?))
            }
            Question::Flow { source, destination, port } => {
                let traffic = port.map_or(Traffic::Other, |(protocol, number)| {
                    Traffic::Port(protocol.into(), number)
                });
                Answer::Flow(self.flows(&source, &destination, traffic)?)
            }
            Question::NamedChains { family, names } => {
                let names: BTreeSet<String> = names.into_iter().collect();
                let family = self::family(&family)?;
                Answer::Chains(self.dataplane.named_chains(family, &names, &describe))
            }
            Question::Chains { family, after } => {
                let (family, after) = (self::family(&family)?, after.as_deref());
                Answer::Chains(self.dataplane.chain_texts(family, after, &describe))
            }
            Question::Sets { after } => {
                let part = self.dataplane.set_texts(after.as_deref(), sets, &describe);
                Answer::Sets(part.into_iter().map(set_facts).collect())
            }
            Question::Endpoints => Answer::Endpoints(EndpointFacts::all(self.engine.compiled())),
        })
    }

    fn node_facts(&self) -> NodeFacts {
        let options = &self.engine.world().options;
        let families = self.dataplane.families().iter();
        NodeFacts {
            node: self.engine.world().node().map(ToString::to_string).unwrap_or_default(),
            variant: match self.dataplane.variant() {
                Some(Variant::Legacy) => "legacy".to_owned(),
                Some(Variant::Nft) => "nft".to_owned(),
                None => "nftables".to_owned(),
            },
            table: self.dataplane.table().to_string(),
            families: families.map(|family| family.as_str().to_owned()).collect(),
            is_applied: self.is_applied(),
            compiled_state: CompiledState::new(&self.engine.hashes(), OptionFacts::new(options)),
        }
    }

    fn pod_facts(&self, key: &PodKey) -> Result<PodFacts, String> {
        let world = self.engine.world();
        let pod = world.pods().get(key).ok_or_else(|| format!("there is no pod {key}"))?;
        if !self.engine.is_subject(key) {
            return Err(match (pod.takes_part(), &pod.node) {
                (false, _) => format!(
                    "no policy applies to {key}: it uses the network of its node, or it has ended"
                ),
                (true, Some(node)) => format!("{key} runs on node {node}"),
                (true, None) => format!("{key} does not run on a node yet"),
            });
        }
        let owned: Vec<IpAddr> = world.owned_addresses(pod).collect();
        let rulesets = self.engine.rulesets_of(key);
        let describe = |set: &SetId| self.engine.describe_set(set);
        let policies = self.engine.policies_selecting(key);
        Ok(PodFacts {
            pod: key.to_string(),
            addresses: owned.iter().map(|address| self.address_facts(*address)).collect(),
            isolated: (rulesets.ingress.is_some(), rulesets.egress.is_some()),
            policies: policies
                .map(|policy| policy_facts(policy, world.mode(policy, &key.namespace)))
                .collect(),
            rules: self.dataplane.pod_rules(&owned, &self.engine.compiled().sets, &describe),
        })
    }

    fn address_facts(&self, address: IpAddr) -> AddressFacts {
        let attachment = self.dataplane.attachment(address);
        AddressFacts {
            address,
            interface: attachment.map(|at| at.interface.to_string()),
            bridge: attachment.and_then(|at| at.bridge).map(|bridge| bridge.to_string()),
        }
    }

    fn flows(
        &self,
        source: &str,
        destination: &str,
        traffic: Traffic,
    ) -> Result<Vec<FlowFacts>, String> {
        let (sources, destinations) = (self.sides(source)?, self.sides(destination)?);
        let mut flows = Vec::new();
        for family in Family::BOTH {
            let first = |sides: &[(Endpoint, IpAddr)]| {
                sides.iter().find(|(_, address)| Family::of(*address) == family).cloned()
            };
            let (Some(from), Some(to)) = (first(&sources), first(&destinations)) else { continue };
            let flow = Flow { source: from.0.clone(), destination: to.0.clone(), traffic };
            flows.push(FlowFacts {
                source: self.side(&from),
                destination: self.side(&to),
                egress: self.verdict(&flow, Direction::Egress),
                ingress: self.verdict(&flow, Direction::Ingress),
            });
        }
        if flows.is_empty() {
            return Err(format!("{source} and {destination} have no addresses of one IP family"));
        }
        Ok(flows)
    }

    /// The endpoints and addresses for the text of a user: a pod, a node or an address.
    fn sides(&self, text: &str) -> Result<Vec<(Endpoint, IpAddr)>, String> {
        let world = self.engine.world();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![(world.endpoint(address), address)]);
        }
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| format!("{text} is not NAMESPACE/POD, node/NAME, or an address"))?;
        if namespace == "node" {
            let node = world.nodes().get(name).ok_or_else(|| {
                format!(
                    "the agent does not know node {name}: unless a policy names nodes, it knows only \
                     its own; use an address of the node instead"
                )
            })?;
            let addresses = node.addresses.iter();
            return Ok(addresses
                .map(|address| (Endpoint::Node(name.into(), Some(*address)), *address))
                .collect());
        }
        let key = PodKey::new(namespace, name);
        let pod = world.pods().get(&key).ok_or_else(|| format!("there is no pod {key}"))?;
        let addresses = pod.addresses.iter().map(|address| (world.endpoint(*address), *address));
        let addresses: Vec<_> = addresses.collect();
        if addresses.is_empty() {
            return Err(format!("pod {key} has no address yet"));
        }
        Ok(addresses)
    }

    fn side(&self, (endpoint, address): &(Endpoint, IpAddr)) -> SideFacts {
        let world = self.engine.world();
        let node = match endpoint {
            Endpoint::Pod(key, _) => world.pods().get(key).and_then(|pod| pod.node.clone()),
            Endpoint::Node(name, _) => Some(name.clone()),
            Endpoint::External(_) => None,
        };
        let own = world.node();
        SideFacts {
            name: endpoint.to_string(),
            at: self.address_facts(*address),
            is_local_pod: match endpoint {
                Endpoint::Pod(key, _) => self.engine.is_subject(key),
                Endpoint::Node(..) | Endpoint::External(_) => false,
            },
            is_this_node: matches!(endpoint, Endpoint::Node(name, _) if own == Some(name)),
            node: node.map(|node| node.to_string()),
        }
    }

    /// The verdict of the policies of a flow's subject in one direction; `None` if the subject is
    /// not a pod of this node.
    fn verdict(&self, flow: &Flow, direction: Direction) -> Option<VerdictFacts> {
        let (subject, peer) = flow.sides(direction);
        let Endpoint::Pod(key, Some(address)) = subject else { return None };
        if !self.engine.is_subject(key) {
            return None;
        }
        let compiled = self.engine.compiled();
        // Packets from a node to its own pods are not judged.
        let own = self.engine.world().node();
        if matches!(peer, Endpoint::Node(name, _) if own == Some(name))
            && (direction == Direction::Ingress
                || self.engine.world().options.allow_egress_to_own_node)
        {
            return Some(VerdictFacts {
                is_allowed: true,
                why: Some("the peer is the pod's own node".to_owned()),
            });
        }
        let other = peer.address()?;
        let is_allowed = compiled.allows_in(direction, *address, other, flow.traffic);
        let view = if is_allowed { View::Audited } else { View::Enforced };
        let blame = self.engine.blame(flow, direction, view);
        Some(VerdictFacts { is_allowed, why: blame.map(|blame| because(&blame, view)) })
    }
}

fn set_facts(set: SetText) -> SetFacts {
    let SetText { name, id, family, words, members, first, digest } = set;
    SetFacts { name, id, family, words, members, first, digest }
}

fn family(text: &str) -> Result<Family, String> {
    Family::named(text).ok_or_else(|| format!("{text} is no IP family"))
}

fn policy_facts(policy: &Policy, mode: Mode) -> PolicyFacts {
    let directions = Direction::BOTH.into_iter().filter(|direction| policy.applies(*direction));
    PolicyFacts {
        name: policy.name.short(),
        tier: policy.tier.to_string(),
        directions: directions.map(|direction| direction.to_string()).collect(),
        is_audited: mode == Mode::Audit,
    }
}

fn because(blame: &Blame, view: View) -> String {
    let verb = if view == View::Audited { "would be denied" } else { "denied" };
    let by = match (&blame.denied_by, blame.tier) {
        (Some(rule), _) => format!("{verb} by {rule}"),
        (None, Tier::Admin | Tier::Baseline) => {
            format!("{verb} by a ClusterNetworkPolicy of tier {}", blame.tier)
        }
        (None, Tier::NetworkPolicy | Tier::Default) => {
            let named = blame.isolated_by.iter().map(ObjectRef::short).collect::<Vec<_>>();
            let by = and_more(named.join(", "), blame.isolating - blame.isolated_by.len());
            format!("{verb}: isolated by {by}, and no rule allows it")
        }
    };
    match &blame.closest {
        Some(rule) => format!("{by}; closest is {rule}"),
        None => by,
    }
}
