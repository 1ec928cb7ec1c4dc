//! Which addresses a pod may use in addition to its own. The annotation of the pod requests
//! networks. The flag of the agent limits which of them are granted. Addresses of other pods and of
//! nodes are never granted. Pure.
//!
//! ```text
//! annotation ∩ flag − addresses of pods and nodes ─► networks of the pod's interface
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::{CidrSet, Family};
use policy_engine::model::{Change, Pod};
use policy_engine::object::ObjectRef;
use policy_engine::world::World;
use portcullis_crds::diagnostic::{About, Diagnostic};
use portcullis_crds::lean::EXTRA_SOURCE_RANGES_ANNOTATION;
use portcullis_crds::path::FieldPath;

use super::status::{LISTED_MAX, errors};
use crate::dataplane::attachment::{Attachment, Attachments};

/// How many networks a pod can have. Each one costs rules.
const NETWORKS_MAX: usize = 32;

/// The networks that the agent's flag allows: annotations are honoured within them.
#[derive(Clone, Default, Debug)]
pub struct ExtraRanges {
    allowed: Vec<IpNet>,
}

/// The networks that the node's pods get.
#[derive(Default, Debug)]
pub struct Granted {
    /// The networks of each interface.
    pub ranges: BTreeMap<Attachment, BTreeSet<IpNet>>,
    /// An error for each requested network that is not granted.
    pub diagnostics: Vec<Diagnostic>,
}

impl ExtraRanges {
    /// Honours annotations within `allowed`.
    #[must_use]
    pub fn within(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether a change that will be applied to `world` next can change what is granted to other
    /// pods, because it adds or removes an address of a pod or node.
    #[must_use]
    pub fn concerns(&self, change: &Change, world: &World) -> bool {
        let is_within = |addresses: &[IpAddr]| {
            let allowed = |address| self.allowed.iter().any(|network| network.contains(address));
            addresses.iter().any(allowed)
        };
        match change {
            _ if self.allowed.is_empty() => false,
            Change::Pod(key, pod) => {
                let both = pod.iter().chain(world.pods().get(key));
                both.into_iter().any(|pod| is_within(&pod.addresses))
            }
            Change::Node(name, node) => {
                let both = node.iter().chain(world.nodes().get(name));
                both.into_iter().any(|node| is_within(&node.addresses))
            }
            Change::Namespace(..) | Change::Policy(..) | Change::ApiServer(..) => false,
        }
    }

    /// Grants networks to the pods of the node, which have the addresses in `known`.
    #[must_use]
    pub fn grant(&self, world: &World, known: &BTreeSet<IpAddr>, found: &Attachments) -> Granted {
        let (mut granted, mut refused) = (Granted::default(), Vec::new());
        let asking = known.iter().filter_map(|address| world.subject(*address));
        let asking = asking.filter(|pod| !pod.extra_source_ranges.is_empty());
        let asking: BTreeMap<_, _> = asking.map(|pod| (&pod.key, pod)).collect();
        for pod in asking.into_values() {
            let networks = self.networks(pod, world, found, &mut refused);
            let own = pod.addresses.iter().filter(|address| known.contains(*address));
            for attachment in own.filter_map(|address| found.addresses.get(address)) {
                granted.ranges.entry(*attachment).or_default().extend(&networks);
            }
        }
        granted.ranges.retain(|_, networks| !networks.is_empty());
        granted.diagnostics = diagnostics(&refused);
        granted
    }

    /// The networks of a pod. Those that it does not get are added to `refused`, with the reason.
    fn networks(
        &self,
        pod: &Pod,
        world: &World,
        found: &Attachments,
        refused: &mut Vec<(ObjectRef, String)>,
    ) -> BTreeSet<IpNet> {
        let mut networks = BTreeSet::new();
        for range in &pod.extra_source_ranges {
            let refuse = |why: &str| ((&pod.key).into(), format!("{range} is ignored: {why}"));
            if !self.allowed.iter().any(|allowed| allowed.contains(range)) {
                refused.push(refuse("it is not within --extra-source-ranges of the agent"));
                continue;
            }
            let first_and_last = range.network()..=range.broadcast();
            let attached = found.addresses.range(first_and_last).map(|(address, _)| *address);
            let claimed = world.claimed_within(*range).chain(attached);
            let taken: CidrSet = claimed.map(IpNet::from).collect();
            let left = CidrSet::network(*range).difference(&taken);
            let pieces = left.networks(Family::of(range.addr()));
            if networks.len() + pieces.len() > NETWORKS_MAX {
                refused.push(refuse(&format!(
                    "without the addresses of pods and nodes it would be more than {NETWORKS_MAX} \
                     networks; list smaller networks without such addresses"
                )));
                continue;
            }
            networks.extend(pieces);
        }
        networks
    }
}

fn diagnostics(refused: &[(ObjectRef, String)]) -> Vec<Diagnostic> {
    let listed = refused.iter().take(LISTED_MAX);
    let listed = listed.map(|(pod, why)| (About::Object(pod.clone()), why.clone()));
    let others = refused.len().saturating_sub(LISTED_MAX);
    let others = (others > 0).then(|| ("Pods", format!("{others} more ranges are ignored")));
    let field = FieldPath::new(["metadata", "annotations", EXTRA_SOURCE_RANGES_ANNOTATION]);
    errors(&field, listed, others)
}

#[cfg(test)]
mod tests {
    use policy_engine::labels::Labels;
    use policy_engine::model::{Node, PodKey};
    use policy_engine::world::Options;

    use super::*;
    use crate::dataplane::attachment::InterfaceName;

    fn attachment(name: &str) -> Attachment {
        Attachment { interface: InterfaceName::new(name).unwrap(), bridge: None }
    }

    fn pod(name: &str, node: &str, address: &str, ranges: &[&str]) -> Pod {
        let extra_source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let (node, addresses) = (Some(node.into()), vec![address.parse().unwrap()].into());
        let pod = Pod::new(PodKey::new("shop", name), Labels::default());
        Pod { node, addresses, extra_source_ranges, ..pod }
    }

    /// The networks of `ranges` that the pod `gateway`, 10.0.0.1 at `veth1`, gets, and the errors.
    fn granted(allowed: &[&str], ranges: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut world = World::of_node("n1".into(), Options::default());
        world.apply(pod("gateway", "n1", "10.0.0.1", ranges).into());
        world.apply(pod("far", "n2", "192.0.2.3", &[]).into());
        let node = Node { addresses: vec!["192.0.2.5".parse().unwrap()], ..Node::default() };
        world.apply(Change::Node("n3".into(), Some(node)));
        let known = ["10.0.0.1".parse().unwrap()].into();
        let attached = [("10.0.0.1", "veth1"), ("192.0.2.6", "veth-new")];
        let attached = attached.map(|(address, name)| (address.parse().unwrap(), attachment(name)));
        let found = Attachments { addresses: attached.into(), ..Attachments::default() };
        let allowed = allowed.iter().map(|network| network.parse().unwrap()).collect();
        let granted = ExtraRanges::within(allowed).grant(&world, &known, &found);
        assert!(granted.ranges.keys().all(|at| *at == attachment("veth1")));
        let networks = granted.ranges.values().flatten().map(ToString::to_string).collect();
        (networks, granted.diagnostics.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_is_granted_that_the_flag_does_not_contain() {
        let (networks, reported) = granted(&[], &["192.0.2.10/32"]);
        assert_eq!(networks, Vec::<String>::new());
        assert_eq!(
            reported,
            ["error: Pod shop/gateway: \
              metadata.annotations[portcullis.dev/extra-source-ranges]: 192.0.2.10/32 is ignored: \
              it is not within --extra-source-ranges of the agent"]
        );
        let ranges = ["192.0.2.10/32", "192.0.0.0/16", "2001:db8::/64"];
        let (networks, reported) = granted(&["192.0.2.0/24", "2001:db8::/32"], &ranges);
        assert_eq!(networks, ["192.0.2.10/32", "2001:db8::/64"]);
        assert_eq!(reported.len(), 1, "{reported:?}");
    }

    #[test]
    fn addresses_of_other_pods_and_of_nodes_are_left_out() {
        let (networks, reported) = granted(&["192.0.2.0/24"], &["192.0.2.0/29"]);
        let expected = ["192.0.2.0/31", "192.0.2.2/32", "192.0.2.4/32", "192.0.2.7/32"];
        assert_eq!((networks, reported), (expected.map(str::to_owned).into(), Vec::new()));
        let (networks, reported) = granted(&["192.0.2.0/24"], &["192.0.2.3/32"]);
        assert_eq!((networks, reported), (Vec::new(), Vec::new()));
        let (networks, _) = granted(&["0.0.0.0/0"], &["0.0.0.0/0"]);
        assert_eq!(networks, Vec::<String>::new(), "more networks than a pod can have");
    }

    #[test]
    fn of_many_ranges_a_few_are_reported() {
        let ranges: Vec<String> = (0..12).map(|host| format!("198.51.100.{host}/32")).collect();
        let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
        let (_, reported) = granted(&["192.0.2.0/24"], &ranges);
        assert_eq!(reported.len(), LISTED_MAX + 1);
        assert!(reported[LISTED_MAX].ends_with("4 more ranges are ignored"), "{reported:?}");
    }

    #[test]
    fn pods_and_nodes_in_an_allowed_network_concern_the_ranges() {
        let ranges = ExtraRanges::within(vec!["192.0.2.0/24".parse().unwrap()]);
        let mut world = World::of_node("n1".into(), Options::default());
        let inside: Change = pod("far", "n2", "192.0.2.3", &[]).into();
        assert!(ranges.concerns(&inside, &world), "added");
        assert!(!ExtraRanges::default().concerns(&inside, &world), "nothing is allowed");
        assert!(!ranges.concerns(&pod("far", "n2", "10.0.0.3", &[]).into(), &world), "elsewhere");
        world.apply(inside);
        assert!(ranges.concerns(&Change::Pod(PodKey::new("shop", "far"), None), &world), "deleted");
    }
}
