//! Diagnostics of addresses that pods of two nodes claim. Pure.

use policy_engine::world::owner::Contest;
use portcullis_crds::diagnostic::{About, Diagnostic};
use portcullis_crds::path::FieldPath;

use super::status::errors;

/// A diagnostic for each of the `first` contested addresses, and one that counts the rest of `all`.
#[must_use]
pub fn diagnostics(first: &[Contest], all: usize) -> Vec<Diagnostic> {
    let listed = first.iter().map(|contest| {
        let [(pod, _), _] = &contest.pods;
        (About::Object(pod.into()), contest.to_string())
    });
    let others = all.saturating_sub(first.len());
    let message = format!("pods of two nodes claim one address: {others} more addresses");
    let others = (others > 0).then_some(("Pods", message));
    errors(&FieldPath::new(["status", "podIPs"]), listed, others)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use policy_engine::engine::{Engine, Scope};
    use policy_engine::labels::Labels;
    use policy_engine::model::{Change, Pod, PodKey};
    use policy_engine::world::Options;

    use super::*;
    use crate::node::status::LISTED_MAX;

    fn pod(name: &str, node: &str, address: [u8; 4]) -> Change {
        let pod = Pod::new(PodKey::new("shop", name), Labels::default());
        Pod { node: Some(node.into()), addresses: vec![IpAddr::from(address)].into(), ..pod }.into()
    }

    fn reported(engine: &mut Engine) -> Option<Vec<String>> {
        let (first, all) = engine.take_contests(LISTED_MAX)?;
        Some(diagnostics(&first, all).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_address_that_pods_of_two_nodes_claim_is_reported_until_one_pod_is_deleted() {
        let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
        engine.apply(pod("a", "n1", [10, 0, 0, 5]));
        assert_eq!(reported(&mut engine), None, "one pod");
        engine.apply(pod("b", "n2", [10, 0, 0, 5]));
        let message = "error: Pod shop/a: status.podIPs: address 10.0.0.5 is claimed by pods \
                       shop/a on node n1 and shop/b on node n2; as a peer it belongs to neither \
                       until one of them is gone";
        assert_eq!(reported(&mut engine), Some(vec![message.to_owned()]));
        engine.apply(pod("c", "n2", [10, 0, 0, 6]));
        assert_eq!(reported(&mut engine), None, "another address");
        engine.apply(Change::Pod(PodKey::new("shop", "b"), None));
        assert_eq!(reported(&mut engine), Some(Vec::new()));
    }

    #[test]
    fn of_many_addresses_a_few_are_named_and_the_others_counted() {
        let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
        for number in 0..20_u8 {
            engine.apply(pod(&format!("a{number}"), "n1", [10, 0, 0, number]));
            engine.apply(pod(&format!("b{number}"), "n2", [10, 0, 0, number]));
        }
        let reported = reported(&mut engine).unwrap();
        assert_eq!(reported.len(), LISTED_MAX + 1);
        assert!(reported[LISTED_MAX].ends_with("12 more addresses"), "{reported:?}");
    }
}
