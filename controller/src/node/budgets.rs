//! Diagnostics of pods whose rules exceed a budget. Pure.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::engine::refused::Refused;
use policy_engine::model::PodKey;
use portcullis_crds::diagnostic::{About, Diagnostic};

use super::status::errors_of_pods;

/// How many pods there are whose rules exceed a budget.
#[must_use]
pub fn pods(refused: &[Refused<'_>]) -> usize {
    refused.iter().map(|refused| refused.pod).collect::<BTreeSet<_>>().len()
}

/// A diagnostic for each policy that is the largest one of such a pod, and one that counts further
/// policies.
#[must_use]
pub fn diagnostics(refused: &[Refused<'_>]) -> Vec<Diagnostic> {
    let mut pods: BTreeMap<(About, String), BTreeSet<&PodKey>> = BTreeMap::new();
    for Refused { pod, direction, tier, exceeded, largest } in refused {
        let about = match largest {
            Some(policy) => About::Object(policy.name.clone()),
            None => About::Object((*pod).into()),
        };
        let direction = direction.as_str().to_lowercase();
        let why = format!(
            "the {direction} rules of tier {tier} need {exceeded} with this policy, which is the \
             largest of them; the tier denies all {direction} of"
        );
        pods.entry((about, why)).or_default().insert(pod);
    }
    errors_of_pods(pods, "rules exceed a budget")
}

#[cfg(test)]
mod tests {
    use policy_engine::budget::Budgets;
    use policy_engine::direction::PerDirection;
    use policy_engine::engine::{Engine, Scope};
    use policy_engine::labels::Labels;
    use policy_engine::model::{Change, Pod};
    use policy_engine::policy::{Peers, Policy, PortMatch, Ports, Rule};
    use policy_engine::port::{PortRange, Protocol};
    use policy_engine::selector::Selector;
    use policy_engine::world::Options;

    use super::*;

    fn pod(name: &str) -> Change {
        let pod = Pod::new(PodKey::new("shop", name), Labels::default());
        Pod { node: Some("n1".into()), ..pod }.into()
    }

    fn ports(name: &str, count: u16) -> Change {
        let port = |n: u16| PortMatch::Numbers(Protocol::Tcp, PortRange::single(n * 2));
        let ports = Ports::Listed((0..count).map(port).collect());
        let rules = vec![Rule { peers: Peers::Any, ports }];
        let rules = PerDirection { ingress: Some(rules), egress: None };
        Policy::network_policy("shop", name, Selector::everything(), rules).into()
    }

    #[test]
    fn the_largest_policy_and_its_pods_are_named_until_it_fits() {
        let budgets = Budgets { port_ranges: 10, ..Budgets::default() };
        let options = Options { budgets, ..Options::default() };
        let mut engine = Engine::new(Scope::Node("n1".into()), options);
        for change in [pod("a"), pod("b"), ports("small", 3), ports("large", 8)] {
            engine.apply(change);
        }
        engine.flush();
        let reported = |engine: &mut Engine| {
            let refused = engine.take_refused()?;
            let found = diagnostics(&refused);
            Some((pods(&refused), found.iter().map(ToString::to_string).collect::<Vec<_>>()))
        };
        assert_eq!(reported(&mut engine), None, "8 ranges: those of the small one are among them");
        engine.apply(ports("large", 11));
        engine.flush();
        let message = "error: NetworkPolicy shop/large: the ingress rules of tier NetworkPolicy need \
                       more than 10 port ranges with this policy, which is the largest of them; the \
                       tier denies all ingress of 2 pods of this node, such as shop/a";
        assert_eq!(reported(&mut engine), Some((2, vec![message.to_owned()])));
        engine.flush();
        assert_eq!(reported(&mut engine), None, "nothing changed");
        engine.apply(ports("large", 1));
        engine.flush();
        assert_eq!(reported(&mut engine), Some((0, Vec::new())));
    }
}
