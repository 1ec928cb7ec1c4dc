//! Which addresses pods of this node have lost. Pure; the cost depends on the number of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_engine::labels::Str;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::world::World;

/// The identity of a pod: a pod that was created again under the same name is a different one.
type Identity = (PodKey, i64);

/// The pods of this node that owned the addresses of changed pods before the change.
#[derive(Debug)]
pub struct Owners {
    node: Str,
    before: BTreeMap<IpAddr, Identity>,
}

impl Owners {
    /// A value for `node`, without changes.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), before: BTreeMap::new() }
    }

    /// Notes the owners of the addresses that `change` will touch when it is applied.
    pub fn note(&mut self, world: &World, change: &Change) {
        let Change::Pod(key, pod) = change else { return };
        let old = world.pods().get(key);
        if old == pod.as_ref() {
            return;
        }
        for address in old.into_iter().chain(pod).flat_map(|pod| &pod.addresses) {
            let owner =
                world.subject(*address).filter(|owner| owner.node.as_ref() == Some(&self.node));
            if let Some(owner) = owner {
                self.before.entry(*address).or_insert_with(|| identity(owner));
            }
        }
    }

    /// The addresses that pods of this node have lost since the last call.
    pub fn released(&mut self, world: &World) -> BTreeSet<IpAddr> {
        let before = std::mem::take(&mut self.before);
        let is_lost = |(address, owner): &(IpAddr, Identity)| {
            world.subject(*address).is_none_or(|now| identity(now) != *owner)
        };
        before.into_iter().filter(is_lost).map(|(address, _)| address).collect()
    }
}

fn identity(pod: &Pod) -> Identity {
    (pod.key.clone(), pod.created)
}

#[cfg(test)]
mod tests {
    use policy_engine::labels::Labels;
    use policy_engine::model::Life;
    use policy_engine::world::Options;

    use super::*;

    const ADDRESS: &str = "10.0.0.1";

    fn pod(name: &str, node: &str, created: i64) -> Pod {
        let (node, addresses) = (Some(node.into()), vec![ADDRESS.parse().unwrap()].into());
        Pod { node, addresses, created, ..Pod::new(PodKey::new("shop", name), Labels::default()) }
    }

    fn deleted(name: &str) -> Change {
        Change::Pod(PodKey::new("shop", name), None)
    }

    #[test]
    fn an_address_is_released_when_its_pod_of_this_node_no_longer_has_it() {
        let finished = Pod { life: Life::Finished, ..pod("web", "n1", 1) };
        let terminating = Pod { life: Life::Terminating, ..pod("web", "n1", 1) };
        let host = Pod { host_network: true, ..pod("web", "n1", 1) };
        let moved =
            Pod { addresses: vec!["10.0.0.2".parse().unwrap()].into(), ..pod("web", "n1", 1) };
        let labelled = Pod { labels: [("a", "b")].into_iter().collect(), ..pod("web", "n1", 1) };
        let cases: [(&str, Vec<Change>, bool); 11] = [
            ("deleted", vec![deleted("web")], true),
            ("finished", vec![finished.into()], true),
            ("still terminating", vec![terminating.clone().into()], false),
            ("terminating, then deleted", vec![terminating.into(), deleted("web")], true),
            ("another address", vec![moved.into()], true),
            ("the node's network", vec![host.into()], true),
            ("other labels", vec![labelled.into()], false),
            ("created again", vec![deleted("web"), pod("web", "n1", 2).into()], true),
            ("listed again", vec![deleted("web"), pod("web", "n1", 1).into()], false),
            ("taken over by a younger pod", vec![pod("api", "n1", 2).into()], true),
            ("claimed by an older pod of another node", vec![pod("api", "n2", 0).into()], false),
        ];
        for (name, changes, expected) in cases {
            let (mut world, mut owners) =
                (World::of_node("n1".into(), Options::default()), Owners::new("n1"));
            let mut apply = |owners: &mut Owners, change: Change| {
                owners.note(&world, &change);
                world.apply(change);
            };
            apply(&mut owners, pod("web", "n1", 1).into());
            apply(&mut owners, pod("far", "n2", 0).into());
            for change in changes {
                apply(&mut owners, change);
            }
            let expected = BTreeSet::from_iter(expected.then(|| ADDRESS.parse().unwrap()));
            assert_eq!(owners.released(&world), expected, "{name}");
            assert_eq!(owners.released(&world), BTreeSet::new(), "{name}: once");
        }
    }

    #[test]
    fn addresses_of_pods_of_other_nodes_are_not_watched() {
        let (mut world, mut owners) =
            (World::of_node("n1".into(), Options::default()), Owners::new("n1"));
        for change in [pod("far", "n2", 1).into(), deleted("far")] {
            owners.note(&world, &change);
            world.apply(change);
        }
        assert_eq!(owners.released(&world), BTreeSet::new());
    }
}
