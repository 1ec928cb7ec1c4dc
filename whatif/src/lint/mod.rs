//! What in manifests is probably a mistake: pure, from a cluster to findings.
//!
//! ```text
//! Cluster ─► Groups (pods that nobody tells apart) ─► one file per question:
//!   subjects   whom a policy selects        peers      whom a rule names
//!   ports      which ports it names         direction  what is in force, and what is lacking
//!   pairs      both sides together          redundant  what others say already
//!   reading    what reading told            dns        who answers for names
//!   tiers      policies of the whole cluster, and those in audit
//! all findings, in the order of files and lines
//! ```
//!
//! The cost follows the number of policies and of groups, not of pods or of pairs of pods.

mod code;
mod direction;
mod dns;
mod groups;
mod implies;
mod pairs;
mod peers;
mod ports;
mod reading;
mod redundant;
mod subjects;
mod tiers;
mod words;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::IpAddr;
use std::rc::Rc;

use policy_engine::direction::Direction;
use policy_engine::model::Pod;
use policy_engine::object::ObjectRef;
use policy_engine::policy::{IpBlock, Policy, Rule};
use policy_engine::reach::Reach;
use policy_engine::tier::{Tier, View};
use portcullis_crds::diagnostic::{About, Origin};
use portcullis_crds::path::FieldPath;

pub use code::Code;

use self::groups::{Group, Groups};
use crate::model::Cluster;
use crate::source::Sources;

/// How much a finding matters, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Probably a mistake.
    Warning,
    /// What was written is not what is in force.
    Error,
}

impl Severity {
    /// In lower case, as SARIF and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that is probably a mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind of mistake.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub about: About,
    /// The field; empty for the object as a whole.
    pub field: FieldPath,
    /// What is wrong, what that means, and what to do.
    pub message: String,
    /// Where it is written; `None` for an object of an API server.
    pub origin: Option<Origin>,
    /// Other places that belong to it, each with what it is.
    pub related: Vec<(Origin, String)>,
}

/// Finds what is probably a mistake in the objects of `sources`, which make `cluster`.
#[must_use]
pub fn lint(sources: &Sources, cluster: &Cluster) -> Vec<Finding> {
    let mut found = reading::findings(sources);
    let context = Context::new(sources, cluster);
    let network_policies: Vec<&Policy> = context.network_policies().collect();
    for policy in &network_policies {
        found.extend(direction::not_in_force(&context, policy));
    }
    found.extend(redundant::findings(&context));
    found.extend(tiers::findings(&context));
    // Without any pod there is nobody to select: only what policies say among themselves counts.
    if context.groups.all().next().is_some() {
        for policy in network_policies {
            found.extend(subjects::findings(&context, policy));
            found.extend(peers::findings(&context, policy));
            found.extend(ports::findings(&context, policy));
            found.extend(pairs::half_open(&context, policy));
        }
        found.extend(subjects::without_policy(&context));
        found.extend(dns::findings(&context));
        found.extend(tiers::about_pods(&context));
    }
    found.sort_by(|left, right| key(left).cmp(&key(right)));
    found
}

/// Where an object says what it is called.
fn name_field() -> FieldPath {
    FieldPath::new(["metadata", "name"])
}

/// A field of the spec.
fn spec(field: &str) -> FieldPath {
    FieldPath::new(["spec", field])
}

fn key(finding: &Finding) -> impl Ord + '_ {
    (&finding.origin, &finding.about, finding.code, &finding.field, &finding.message)
}

/// What the checks look at.
struct Context<'c> {
    cluster: &'c Cluster,
    sources: &'c Sources,
    groups: Groups<'c>,
    reach: Reach<'c>,
    /// As if policies in audit were enforced; `None` where there are none.
    audited: Option<Reach<'c>>,
    /// Of the pods that can be peers, ascending.
    addresses: Vec<(IpAddr, &'c Pod)>,
    blocks: RefCell<BTreeMap<IpBlock, peers::Inside<'c>>>,
}

/// A rule, and where it stands.
#[derive(Clone, Copy)]
struct Place<'c> {
    policy: &'c Policy,
    direction: Direction,
    rule: &'c Rule,
    at: usize,
}

impl<'c> Context<'c> {
    fn new(sources: &'c Sources, cluster: &'c Cluster) -> Self {
        let world = &cluster.world;
        let reach = Reach::new(world);
        let audited = world.has_audit().then(|| Reach::new_as(world, View::Audited));
        let views: Vec<&Reach<'_>> = iter::once(&reach).chain(&audited).collect();
        let groups = Groups::new(cluster, &views);
        let pods = world.pods().values().filter(|pod| pod.takes_part());
        let addresses = pods.flat_map(|pod| world.owned_addresses(pod).map(|a| (a, pod.as_ref())));
        let mut addresses: Vec<(IpAddr, &Pod)> = addresses.collect();
        addresses.sort_by_key(|(address, _)| *address);
        Self { cluster, sources, groups, reach, audited, addresses, blocks: RefCell::default() }
    }

    /// The views in which policies may differ, in the order of [`Group::classes`].
    fn views(&self) -> impl Iterator<Item = &Reach<'c>> {
        iter::once(&self.reach).chain(&self.audited)
    }

    /// The NetworkPolicies, by namespace and name.
    fn network_policies(&self) -> impl Iterator<Item = &'c Policy> {
        let all = self.cluster.world.policies().map(AsRef::as_ref);
        all.filter(|policy: &&Policy| policy.tier == Tier::NetworkPolicy)
    }

    /// A finding about a field of a policy; an empty path is the whole policy.
    fn finding(&self, code: Code, policy: &Policy, field: FieldPath, text: String) -> Finding {
        self.finding_about(code, &policy.name, field, text)
    }

    /// The same about the policy of that name.
    fn finding_about(
        &self,
        code: Code,
        policy: &ObjectRef,
        field: FieldPath,
        text: String,
    ) -> Finding {
        // The name tells more than the first line of a document, `apiVersion`.
        let place = if field.is_empty() { &name_field() } else { &field };
        Finding {
            code,
            severity: code.severity(),
            about: About::Object(policy.clone()),
            origin: self.cluster.field_origin(policy, place),
            field,
            message: text,
            related: Vec::new(),
        }
    }

    /// What a pod is called: its workload, else itself.
    fn name(&self, pod: &Pod) -> String {
        match self.cluster.workload_of(&pod.key) {
            Some(workload) => workload.to_string(),
            None => self.cluster.pod_ref(&pod.key),
        }
    }

    /// The workloads of groups, a few by name.
    fn names(&self, groups: &[Rc<Group<'_>>]) -> String {
        let pods = groups.iter().flat_map(|group| group.pods.iter());
        let names: BTreeSet<String> = pods.map(|pod| self.name(pod)).collect();
        words::few(&names)
    }
}

/// All rules of a policy with their places.
fn places(policy: &Policy) -> impl Iterator<Item = Place<'_>> {
    Direction::BOTH.into_iter().flat_map(move |direction| {
        let rules = policy.rules(direction).enumerate();
        rules.map(move |(at, rule)| Place { policy, direction, rule, at })
    })
}

impl Place<'_> {
    /// The rule.
    fn field(&self) -> FieldPath {
        spec(self.direction.field()).index(self.at)
    }

    /// A peer of it.
    fn peer(&self, number: usize) -> FieldPath {
        self.field().key(self.direction.peers_field()).index(number)
    }

    /// A port of it.
    fn port(&self, number: usize) -> FieldPath {
        self.field().key("ports").index(number).key("port")
    }
}
