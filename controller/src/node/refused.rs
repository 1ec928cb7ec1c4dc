//! Diagnostics of rules that the tools or the kernel refused. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Endpoint, Target};
use policy_engine::direction::Direction;
use policy_engine::engine::Engine;
use policy_engine::id::RulesetId;
use policy_engine::model::PodKey;
use policy_engine::tier::Tier;
use portcullis_crds::diagnostic::{About, Diagnostic};

use super::status::errors_of_pods;

/// A tier that denies more than the policies of a pod do, because a part of its rules was refused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Denied {
    /// The pod.
    pub pod: PodKey,
    /// The direction.
    pub direction: Direction,
    /// The tier.
    pub tier: Tier,
    /// The error of the tool or the kernel.
    pub why: Arc<str>,
}

/// The pods and tiers that rulesets in `denied` judge: these deny more than the policies do.
#[must_use]
pub fn pods(
    compiled: &Compiled,
    denied: &BTreeMap<(Family, RulesetId), Arc<str>>,
) -> BTreeSet<Denied> {
    let mut found = BTreeSet::new();
    if denied.is_empty() {
        return found;
    }
    for (address, endpoint) in &compiled.endpoints {
        for direction in Direction::BOTH {
            found.extend(of_endpoint(compiled, denied, *address, endpoint, direction));
        }
    }
    found
}

fn of_endpoint(
    compiled: &Compiled,
    denied: &BTreeMap<(Family, RulesetId), Arc<str>>,
    address: IpAddr,
    endpoint: &Endpoint,
    direction: Direction,
) -> Vec<Denied> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut chain: Vec<RulesetId> = endpoint.enforced.get(direction).iter().copied().collect();
    while let Some(id) = chain.pop() {
        let Some(ruleset) = compiled.rulesets.get(&id).filter(|_| seen.insert(id)) else {
            continue;
        };
        if let Some(why) = denied.get(&(Family::of(address), id)) {
            let (pod, tier, why) = (endpoint.pod.clone(), ruleset.tier, why.clone());
            found.push(Denied { pod, direction, tier, why });
        }
        let targets = ruleset.rules.iter().map(|rule| rule.target);
        chain.extend(targets.chain([ruleset.otherwise]).filter_map(|target| match target {
            Target::Next(next) => Some(next),
            Target::Allow | Target::Deny => None,
        }));
    }
    found
}

/// What the node does for these pods, in one line; `None` if `denied` is empty.
#[must_use]
pub fn in_one_line(denied: &BTreeSet<Denied>) -> Option<String> {
    let why = &denied.first()?.why;
    let pods: BTreeSet<&PodKey> = denied.iter().map(|denied| &denied.pod).collect();
    Some(format!(
        "a part of the rules of {} pods was refused, and connections that need it are denied: {why}",
        pods.len()
    ))
}

/// A diagnostic for each policy that may need the refused rules, and one that counts further ones.
#[must_use]
pub fn diagnostics(engine: &Engine, denied: &BTreeSet<Denied>) -> Vec<Diagnostic> {
    let mut pods: BTreeMap<(About, String), BTreeSet<&PodKey>> = BTreeMap::new();
    for Denied { pod, direction, tier, why } in denied {
        let policies = engine.policies_of(pod, *direction, *tier);
        let mut policies = policies.map(|policy| About::Object(policy.name.clone())).peekable();
        let of_pod = policies.peek().is_none().then(|| About::Object(pod.into()));
        let direction = direction.as_str().to_lowercase();
        let why = format!(
            "a part of the {direction} rules of tier {tier} was refused: {why}; connections that need \
             it are denied to"
        );
        for about in policies.chain(of_pod) {
            pods.entry((about, why.clone())).or_default().insert(pod);
        }
    }
    errors_of_pods(pods, "a part of the rules was refused")
}

#[cfg(test)]
mod tests {
    use policy_engine::direction::PerDirection;
    use policy_engine::engine::Scope;
    use policy_engine::labels::Labels;
    use policy_engine::model::{Change, Pod};
    use policy_engine::policy::Policy;
    use policy_engine::selector::Selector;
    use policy_engine::world::Options;

    use super::*;

    fn pod(name: &str, addresses: &[&str]) -> Change {
        let pod = Pod::new(PodKey::new("shop", name), Labels::default());
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Pod { node: Some("n1".into()), addresses, ..pod }.into()
    }

    #[test]
    fn policies_and_pods_of_the_refused_family_are_named() {
        let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
        let rules = PerDirection { ingress: Some(Vec::new()), egress: None };
        let deny = Policy::network_policy("shop", "deny", Selector::everything(), rules);
        let pods = [pod("a", &["10.0.0.1"]), pod("b", &["10.0.0.2", "fd00::2"])];
        pods.into_iter().chain([deny.into()]).for_each(|change| engine.apply(change));
        engine.flush();
        let ruleset = *engine.compiled().rulesets.keys().next().unwrap();
        let reported = |families: &[Family]| {
            let why = |family: &Family| ((*family, ruleset), Arc::from("Hash is full"));
            let denied = super::pods(engine.compiled(), &families.iter().map(why).collect());
            let found = diagnostics(&engine, &denied);
            let found = found.iter().map(ToString::to_string).collect::<Vec<_>>();
            (in_one_line(&denied), found.join("\n"))
        };
        assert_eq!(reported(&[]), (None, String::new()));
        let why = "error: NetworkPolicy shop/deny: a part of the ingress rules of tier NetworkPolicy \
                   was refused: Hash is full; connections that need it are denied to";
        let (line, found) = reported(&[Family::V6]);
        let expected = "a part of the rules of 1 pods was refused, and connections that need it are \
                        denied: Hash is full";
        assert_eq!((line.as_deref(), found), (Some(expected), format!("{why} pod shop/b")));
        let (_, found) = reported(&Family::BOTH);
        assert_eq!(found, format!("{why} 2 pods of this node, such as shop/a"));
    }
}
