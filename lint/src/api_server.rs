//! Pods that have permissions in the API, but whose policies deny them the API server.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;
use policy_engine::evaluate::{Reason, evaluate};
use policy_engine::flow::{Flow, Traffic};
use policy_engine::model::Pod;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::reach::ClassId;

use crate::{Code, Context, Finding, few, finding, sides, spec};

/// One finding for each policy that isolates such pods, while no rule allows the API server. Rules
/// that deny it are not reported: somebody has written them.
pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    if context.input.api_server.is_empty() {
        return Vec::new();
    }
    let mut known: BTreeMap<ClassId, Option<ObjectRef>> = BTreeMap::new();
    let mut denied: BTreeMap<ObjectRef, BTreeSet<String>> = BTreeMap::new();
    for key in context.input.api_clients {
        let Some(class) = context.reach.class_of(key) else { continue };
        let Some(pod) = context.world.pods().get(key) else { continue };
        let policy = known.entry(class).or_insert_with(|| denying(context, pod));
        if let Some(policy) = policy {
            denied.entry(policy.clone()).or_default().insert(context.name(pod));
        }
    }
    let finding = |(policy, names): (ObjectRef, BTreeSet<String>)| {
        let how = match policy.kind {
            Kind::ClusterDefaultNetworkPolicy => "set `allowAPIServer: true`",
            _ => "add a rule for its addresses",
        };
        let listed = context.input.api_server.iter();
        let listed = listed.map(|(address, _, port)| std::net::SocketAddr::new(*address, *port));
        let message = format!(
            "{} may use the API with the token of a ServiceAccount that has permissions, and no rule \
             allows connections to the API server ({}); {how}, or set \
             `automountServiceAccountToken: false`",
            few(&names),
            few(&listed.map(|address| address.to_string()).collect()),
        );
        finding(Code::EgressWithoutApiServer, &policy, spec("egress"), message)
    };
    denied.into_iter().map(finding).collect()
}

/// The policy that isolates a pod, if no rule allows it any address of the API server.
fn denying(context: &Context<'_>, pod: &Pod) -> Option<ObjectRef> {
    let world = context.world;
    let mut by = None;
    for (address, protocol, port) in context.input.api_server {
        let (destination, traffic) = (world.endpoint(*address), Traffic::Port(*protocol, *port));
        for source in sides(world, pod) {
            if source.address().is_some_and(|one| Family::of(one) != Family::of(*address)) {
                continue;
            }
            let flow = Flow { source, destination: destination.clone(), traffic };
            let decision = evaluate(world, &flow).egress;
            if decision.reason != Reason::NoRuleAllows {
                return None;
            }
            by = by.or_else(|| decision.isolated_by.first().cloned());
        }
    }
    by
}
