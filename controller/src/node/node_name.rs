//! Whether the Node of the agent exists. Pure.
//!
//! An agent whose `--node-name` is not the name of a Node finds no pods of its node and enforces
//! nothing, even if everything else works.

use policy_engine::labels::Str;
use policy_engine::world::World;

/// The name of the agent's node, from its flags.
#[derive(Debug)]
pub struct NodeName {
    name: Str,
    /// Whether the source has the Node of this name if it exists. A directory may contain no Nodes.
    lists_nodes: bool,
}

/// Whether the name is correct, by the objects of the cluster.
#[derive(PartialEq, Eq, Debug)]
pub enum Standing {
    /// A Node has the name, or no object contradicts it.
    Plausible,
    /// No Nodes are known, and no Pod is on a node of this name. Contains the message for users.
    Doubtful(String),
    /// No Node has the name. Contains the message for users.
    Unknown(String),
}

impl NodeName {
    /// The name in `--node-name`. `lists_nodes` is whether the source has the Node of this name if
    /// the cluster has it.
    #[must_use]
    pub fn new(name: &str, lists_nodes: bool) -> Self {
        Self { name: name.into(), lists_nodes }
    }

    /// Whether the name is correct, by all objects, which are in `world`.
    #[must_use]
    pub fn standing(&self, world: &World) -> Standing {
        let (name, nodes, pods) = (&self.name, world.nodes(), world.pods_by_node());
        if nodes.contains_key(name) {
            return Standing::Plausible;
        }
        if self.lists_nodes || !nodes.is_empty() {
            // The other Nodes need not be known, but pods name them.
            let known = nodes.keys().chain(pods.keys().filter(|node| *node != name));
            let similar = known.into_iter().find(|node| is_similar(node, name));
            let similar = similar.map(|node| format!("; did you mean `{node}`?"));
            let effect = if pods.contains_key(name) {
                "policies are enforced only for the Pods that still name it"
            } else {
                "no pod of this node is known, and no policy is enforced here"
            };
            return Standing::Unknown(format!(
                "no Node has the name `{name}`: {effect}; set --node-name (NODE_NAME) to the \
                 metadata.name of the Node{}",
                similar.unwrap_or_default()
            ));
        }
        if pods.is_empty() || pods.contains_key(name) {
            return Standing::Plausible;
        }
        Standing::Doubtful(format!(
            "no Pod has the spec.nodeName `{name}`, so no policy is enforced here; check \
             --node-name (NODE_NAME)"
        ))
    }
}

/// Whether two names differ only in upper and lower case or in a domain, so that a user may have
/// confused them.
fn is_similar(one: &str, other: &str) -> bool {
    let host = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    host(one) == host(other)
}

#[cfg(test)]
mod tests {
    use policy_engine::labels::Labels;
    use policy_engine::model::{Change, Node, Pod, PodKey};
    use policy_engine::world::Options;

    use super::*;

    fn world(nodes: &[&str], nodes_of_pods: &[&str]) -> World {
        let mut world = World::new(Options::default());
        for node in nodes {
            let object = Node { labels: Labels::default(), addresses: Vec::new() };
            world.apply(Change::Node((*node).into(), Some(object)));
        }
        for node in nodes_of_pods {
            let pod = Pod::new(PodKey::new("shop", node), Labels::default());
            world.apply(Pod { node: Some((*node).into()), ..pod }.into());
        }
        world
    }

    fn unknown(name: &str, lists_nodes: bool, world: &World) -> String {
        match NodeName::new(name, lists_nodes).standing(world) {
            Standing::Unknown(why) => why,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_name_is_that_of_a_node_or_unknown() {
        let nodes = world(&["n1", "n2.example.com"], &["n1", "n9"]);
        for lists_nodes in [true, false] {
            for known in ["n1", "n2.example.com"] {
                let name = NodeName::new(known, lists_nodes);
                assert_eq!(name.standing(&nodes), Standing::Plausible);
            }
            for (wrong, similar) in
                [("n1.example.com", "n1"), ("N1", "n1"), ("n2", "n2.example.com")]
            {
                let why = unknown(wrong, lists_nodes, &nodes);
                assert!(why.ends_with(&format!("did you mean `{similar}`?")), "{why}");
            }
            let why = unknown("n9", lists_nodes, &nodes);
            assert!(why.contains("only for the Pods that still name it"), "{why}");
            assert!(why.ends_with("of the Node"), "{why}");
        }
        for (wrong, similar) in [("N2", "n2.example.com"), ("n9.example.com", "n9")] {
            let why = unknown(wrong, true, &world(&[], &["n1", "n2.example.com", "n9"]));
            assert!(why.ends_with(&format!("did you mean `{similar}`?")), "by pods: {why}");
        }
        let why = unknown("n1", true, &world(&[], &["n1"]));
        assert!(why.contains("no Node has the name `n1`"), "an API server without Nodes: {why}");
    }

    #[test]
    fn without_nodes_the_pods_of_a_directory_can_raise_a_doubt() {
        let standing = |pods: &[&str]| NodeName::new("n1", false).standing(&world(&[], pods));
        assert_eq!(standing(&[]), Standing::Plausible);
        assert_eq!(standing(&["n2", "n1"]), Standing::Plausible);
        assert!(matches!(standing(&["n2", "N1"]), Standing::Doubtful(_)));
    }
}
