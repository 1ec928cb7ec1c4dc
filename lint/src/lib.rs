//! Finds probable mistakes in policies. Pure: from objects to findings.
//!
//! ```text
//! Input ─► Pods (groups of pods that no policy distinguishes) ─► one file per question:
//!   subjects   pods that policies select    peers      pods and blocks that rules name
//!   ports      ports that rules name        direction  directions that are not isolated
//!   pairs      connections with two sides   redundant  policies and rules without an effect
//!   tiers      policies of the cluster,     dns        pods that cannot look up names
//!              and policies in audit        addresses  addresses that pods of two nodes claim
//!   frontends  Services and Ingresses whose pods policies close to clients
//!   api_server pods that policies deny the API server
//! lint       all findings, with hints that contain the nearest names: `kubectl whatif lint`
//! mistakes   policies without an effect, with constant messages: Events of the controller
//! ```
//!
//! The cost follows the number of policies and of groups, not of pods or of pairs of pods.

pub mod near;
pub mod pods;

mod addresses;
mod answers;
mod api_server;
mod code;
mod direction;
mod dns;
mod frontends;
mod implies;
mod input;
mod pairs;
mod peers;
mod ports;
mod redundant;
mod subjects;
mod tiers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::IpAddr;
use std::rc::Rc;

use policy_engine::direction::Direction;
use policy_engine::flow::Endpoint;
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use policy_engine::object::ObjectRef;
use policy_engine::policy::{IpBlock, PodPeer, Policy, Rule};
use policy_engine::reach::{ClassId, Reach};
use policy_engine::tier::{Tier, View};
use policy_engine::words;
use policy_engine::world::World;
use portcullis_crds::convert::service::Service;
use portcullis_crds::diagnostic::{About, Diagnostic, Origin, Severity as Read};
use portcullis_crds::path::FieldPath;

pub use answers::Names;
pub use code::Code;
pub use frontends::{ClosedBackend, OpenBackend};
pub use input::{Input, Services};

use self::answers::Answers;
use self::pods::{Group, Pods};

/// The name of a pod in messages, and the place where it is written.
#[derive(Clone, Debug)]
pub struct Called {
    /// The workload of the pod, or the pod itself: `shop/deployment/api`.
    pub name: Str,
    /// The place of the workload's name, when it is in a file.
    pub origin: Option<Origin>,
}

/// The severity of a finding, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Information.
    Note,
    /// Probably a mistake.
    Warning,
    /// The policy is not enforced as written.
    Error,
}

impl Severity {
    /// The severity in lower case, as SARIF and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A probable mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The kind of mistake.
    pub code: Code,
    /// The severity.
    pub severity: Severity,
    /// The object, or what else the finding is about.
    pub about: About,
    /// The field; empty for the object as a whole.
    pub field: FieldPath,
    /// The mistake, the consequence and the fix.
    pub message: String,
    /// The place in a file; `None` for an object of an API server.
    pub origin: Option<Origin>,
    /// Other places that belong to the finding, each with a description.
    pub related: Vec<(Origin, String)>,
}

impl Finding {
    fn new(code: Code, about: About, field: FieldPath, message: String) -> Self {
        let severity = code.severity();
        Self { code, severity, about, field, message, origin: None, related: Vec::new() }
    }

    /// The order in which findings are shown: by files and lines, then by objects and fields.
    #[must_use]
    pub fn order(&self) -> impl Ord + '_ {
        (&self.origin, &self.about, self.code, &self.field, &self.message)
    }
}

/// A diagnostic from reading an object is a finding too.
impl From<&Diagnostic> for Finding {
    fn from(read: &Diagnostic) -> Self {
        let code = match read.severity {
            Read::Error => Code::Unreadable,
            Read::Warning => Code::Odd,
        };
        let message = read.message.clone();
        let finding = Self::new(code, read.about.clone(), read.field.clone(), message);
        Self { origin: read.source.clone(), ..finding }
    }
}

/// Policies in `world` that cannot have an effect: subjects and peers that match no pod, port names
/// that no pod has. `pods` are those of `world`.
///
/// A message does not change unless its policy does.
#[must_use]
pub fn mistakes(world: &World, pods: &Pods) -> Vec<Finding> {
    let answers = Answers::new(world, pods, None);
    let mut found = Vec::new();
    for policy in world.policies() {
        if !policy.name.kind.is_namespaced() {
            found.extend(tiers::selects_nothing(&answers, policy));
            continue;
        }
        found.extend(subjects::selects_nothing(&answers, policy));
        for place in places(policy) {
            found.extend(peers::unmatched(&answers, place));
            found.extend(ports::unknown(&answers, place));
        }
    }
    found
}

/// The probable mistakes in the policies of `input`, in the order of [`Finding::order`].
#[must_use]
pub fn lint(input: Input<'_>) -> Vec<Finding> {
    let mut pods = Pods::default();
    pods.refresh(input.world, input.services);
    let context = Context::new(input, &pods);
    let mut found = Vec::new();
    let network_policies: Vec<&Policy> = context.network_policies().collect();
    for policy in &network_policies {
        found.extend(direction::not_enforced(&context, policy));
        found.extend(peers::null(&context, policy));
        found.extend(ports::admin(policy));
    }
    found.extend(redundant::findings(&context));
    found.extend(tiers::findings(&context));
    // Without any pod, only findings that do not depend on pods are useful.
    if pods.all().next().is_some() {
        for policy in network_policies {
            found.extend(subjects::findings(&context, policy));
            found.extend(peers::findings(&context, policy));
            found.extend(ports::findings(&context, policy));
            found.extend(pairs::half_open(&context, policy));
            found.extend(frontends::hidden_clients(&context, policy));
        }
        found.extend(subjects::without_policy(&context));
        found.extend(addresses::contested(&context));
        found.extend(frontends::findings(&context));
        found.extend(dns::findings(&context));
        found.extend(api_server::findings(&context));
        found.extend(tiers::about_pods(&context));
    }
    for finding in &mut found {
        if let (Some(policy), None) = (finding.about.object(), &finding.origin) {
            // The name of the object is a better place than its first line, `apiVersion`.
            let field = if finding.field.is_empty() { &name_field() } else { &finding.field };
            finding.origin = context.origin(policy, field);
        }
    }
    found.sort_by(|left, right| left.order().cmp(&right.order()));
    found
}

/// The ports of Services that objects lead connections to, and that policies close to all of their
/// clients.
#[must_use]
pub fn closed_backends(input: Input<'_>) -> Vec<ClosedBackend> {
    let exposed = |service: &Service| service.exposure.is_some_and(|found| found.load_balancer);
    if input.frontends.is_empty() && !input.services.values().any(exposed) {
        return Vec::new();
    }
    let mut pods = Pods::default();
    pods.refresh(input.world, input.services);
    frontends::all(&Context::new(input, &pods))
}

/// The ports of Services that Ingresses and routes lead connections to, with the pods that their clients
/// can connect to.
#[must_use]
pub fn open_backends(input: Input<'_>) -> BTreeSet<OpenBackend> {
    if input.frontends.is_empty() {
        return BTreeSet::new();
    }
    let mut pods = Pods::default();
    pods.refresh(input.world, input.services);
    frontends::open(&Context::new(input, &pods))
}

/// The field with the name of an object.
#[must_use]
pub fn name_field() -> FieldPath {
    FieldPath::new(["metadata", "name"])
}

/// A field of the spec.
fn spec(field: &str) -> FieldPath {
    FieldPath::new(["spec", field])
}

/// How many names a message lists.
const NAMES_SHOWN: usize = 4;

/// The first names, and how many more there are.
fn few(names: &BTreeSet<String>) -> String {
    words::few(names, NAMES_SHOWN)
}

/// `is` for one, `are` for more.
fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// A finding about a field of a policy; an empty path is the whole policy.
fn finding(code: Code, policy: &ObjectRef, field: FieldPath, message: String) -> Finding {
    Finding::new(code, About::Object(policy.clone()), field, message)
}

/// The name of a pod in messages: its workload, else its own name.
fn name(names: &Names<'_>, pod: &Pod) -> String {
    match names.get(&pod.key) {
        Some(called) => called.name.to_string(),
        None => format!("{}/pod/{}", pod.key.namespace, pod.key.name),
    }
}

/// Classes by peer and view.
type PeerClasses<'c> = BTreeMap<(&'c PodPeer, usize), Rc<BTreeSet<ClassId>>>;

/// The state that the checks share.
struct Context<'c> {
    input: Input<'c>,
    world: &'c World,
    pods: &'c Pods,
    answers: Answers<'c>,
    reach: Reach<'c>,
    /// The reachability if policies in audit were enforced; `None` where no policy is in audit.
    audited: Option<Reach<'c>>,
    /// Per view the classes of the pods of a group, which may differ by address; by the first pod
    /// of the group. Empty for hostNetwork pods.
    classes: Vec<BTreeMap<&'c PodKey, BTreeSet<ClassId>>>,
    /// The addresses of the pods that can be peers, ascending.
    addresses: Vec<(IpAddr, &'c Pod)>,
    blocks: RefCell<BTreeMap<IpBlock, peers::Inside<'c>>>,
    peers: RefCell<BTreeMap<&'c PodPeer, Rc<[&'c Group]>>>,
    /// The classes of the groups of a peer, in a view.
    peer_classes: RefCell<PeerClasses<'c>>,
}

/// A rule, and its place in the policy.
#[derive(Clone, Copy)]
struct Place<'c> {
    policy: &'c Policy,
    direction: Direction,
    rule: &'c Rule,
    at: usize,
}

impl<'c> Context<'c> {
    fn new(input: Input<'c>, pods: &'c Pods) -> Self {
        let world = input.world;
        let reach = Reach::new(world);
        let audited = world.has_audit().then(|| Reach::new_as(world, View::Audited));
        let classes = iter::once(&reach).chain(&audited).map(|reach| {
            let of = |group: &'c Group| {
                group.pods().iter().filter_map(|pod| reach.class_of(&pod.key)).collect()
            };
            pods.all().map(|group| (&group.first().key, of(group))).collect()
        });
        let classes = classes.collect();
        let peers = world.pods().values().filter(|pod| pod.takes_part());
        let addresses = peers.flat_map(|pod| world.owned_addresses(pod).map(|a| (a, pod.as_ref())));
        let mut addresses: Vec<(IpAddr, &Pod)> = addresses.collect();
        addresses.sort_by_key(|(address, _)| *address);
        Self {
            input,
            world,
            pods,
            answers: Answers::new(world, pods, Some(input.names)),
            reach,
            audited,
            classes,
            addresses,
            blocks: RefCell::default(),
            peers: RefCell::default(),
            peer_classes: RefCell::default(),
        }
    }

    /// The views in which policies may differ, in the order of [`Context::classes`].
    fn views(&self) -> impl Iterator<Item = &Reach<'c>> {
        iter::once(&self.reach).chain(&self.audited)
    }

    /// The NetworkPolicies, by namespace and name.
    fn network_policies(&self) -> impl Iterator<Item = &'c Policy> + use<'c> {
        let all = self.world.policies().map(AsRef::as_ref);
        all.filter(|policy: &&Policy| policy.tier == Tier::NetworkPolicy)
    }

    /// The groups that a peer matches; never hostNetwork pods.
    fn peer(&self, peer: &'c PodPeer) -> Rc<[&'c Group]> {
        let mut known = self.peers.borrow_mut();
        known.entry(peer).or_insert_with(|| self.pods.peer(peer).collect()).clone()
    }

    /// The classes of a group, by the policies that are enforced.
    fn classes_of(&self, group: &'c Group) -> BTreeSet<ClassId> {
        self.classes_in(&[group], 0)
    }

    /// The classes of groups, in a view.
    fn classes_in(&self, groups: &[&'c Group], view: usize) -> BTreeSet<ClassId> {
        let Some(classes) = self.classes.get(view) else { return BTreeSet::new() };
        let found = groups.iter().filter_map(|group| classes.get(&group.first().key));
        found.flatten().copied().collect()
    }

    /// The classes of the groups that a peer matches, in a view. Many policies have equal peers.
    fn peer_classes(&self, peer: &'c PodPeer, view: usize) -> Rc<BTreeSet<ClassId>> {
        if let Some(known) = self.peer_classes.borrow().get(&(peer, view)) {
            return known.clone();
        }
        let found: Rc<BTreeSet<ClassId>> = self.classes_in(&self.peer(peer), view).into();
        self.peer_classes.borrow_mut().insert((peer, view), found.clone());
        found
    }

    /// A pod that stands for its class.
    fn pod_of(&self, class: ClassId) -> Option<&'c Pod> {
        let key = self.reach.classes().get(class)?.pods.first()?;
        self.world.pods().get(key).map(AsRef::as_ref)
    }

    /// The place of a field of a policy, or of the nearest field around it.
    fn origin(&self, policy: &ObjectRef, field: &FieldPath) -> Option<Origin> {
        Some(self.input.documents.get(policy)?.origin_at(field))
    }

    /// The same place, with a description, as a related place of a finding.
    fn related(
        &self,
        policy: &ObjectRef,
        field: &FieldPath,
        what: &str,
    ) -> Option<(Origin, String)> {
        Some((self.origin(policy, field)?, what.to_owned()))
    }

    /// The name of a pod in messages.
    fn name(&self, pod: &Pod) -> String {
        name(self.input.names, pod)
    }

    /// The names of the workloads of groups, the first few.
    fn names<'g>(&self, groups: impl IntoIterator<Item = &'g Group>) -> String {
        let pods = groups.into_iter().flat_map(Group::pods);
        few(&pods.map(|pod| self.name(pod)).collect())
    }
}

/// All rules of a policy with their places.
fn places(policy: &Policy) -> impl Iterator<Item = Place<'_>> {
    Direction::BOTH.into_iter().flat_map(move |direction| {
        let rules = policy.rules(direction).enumerate();
        rules.map(move |(at, rule)| Place { policy, direction, rule, at })
    })
}

/// The endpoints of a pod in flows.
fn sides(world: &World, pod: &Pod) -> Vec<Endpoint> {
    let owned = world.owned_addresses(pod);
    let mut sides: Vec<_> =
        owned.map(|address| Endpoint::Pod(pod.key.clone(), Some(address))).collect();
    if sides.is_empty() {
        sides.push(Endpoint::Pod(pod.key.clone(), None));
    }
    sides
}

impl Place<'_> {
    /// The field of the rule.
    fn field(&self) -> FieldPath {
        spec(self.direction.field()).index(self.at)
    }

    /// The field of a peer of the rule.
    fn peer(&self, number: usize) -> FieldPath {
        self.field().key(self.direction.peers_field()).index(number)
    }

    /// The field of a port of the rule.
    fn port(&self, number: usize) -> FieldPath {
        self.field().key("ports").index(number).key("port")
    }
}
