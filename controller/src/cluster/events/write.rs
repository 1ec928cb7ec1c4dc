//! One finding as an `events.k8s.io/v1` Event.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use policy_engine::id::ContentHasher;

use super::ledger::PolicyFinding;

/// Who writes, as Events and field managers name it.
pub const CONTROLLER: &str = "portcullis.dev/controller";

/// Limits of the Events API: bytes of `note` and `reportingInstance`, and of an object's name.
const NOTE_MAX: usize = 1024;
const INSTANCE_MAX: usize = 128;
const NAME_MAX: usize = 253;

/// The namespace of the Event that tells it: Events on what has no namespace are in `default`.
#[must_use]
pub fn namespace(policy_finding: &PolicyFinding) -> &str {
    match &*policy_finding.policy.namespace {
        "" => "default",
        namespace => namespace,
    }
}

/// The Event that tells it, written by the process `identity`.
#[must_use]
pub fn event(policy_finding: &PolicyFinding, identity: &str, wall: Timestamp) -> Event {
    let policy = &policy_finding.policy;
    let finding = &policy_finding.finding;
    let note = if finding.field.is_empty() {
        finding.message.clone()
    } else {
        format!("{}: {}", finding.field, finding.message)
    };
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace(policy_finding).to_owned()),
            name: Some(event_name(policy_finding)),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(wall)),
        type_: Some("Warning".to_owned()),
        reason: Some(finding.reason.as_str().to_owned()),
        action: Some("Validate".to_owned()),
        note: Some(cut(&note, NOTE_MAX).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(policy.kind.api_version()),
            kind: Some(policy.kind.as_str().to_owned()),
            namespace: Some(policy.namespace.to_string()).filter(|name| !name.is_empty()),
            name: Some(policy.name.to_string()),
            uid: Some(policy_finding.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(identity, INSTANCE_MAX).to_owned()),
        ..Event::default()
    }
}

/// The same for whoever tells the same thing: the policy's name and a hash of all of it.
fn event_name(policy_finding: &PolicyFinding) -> String {
    let finding = &policy_finding.finding;
    let mut hash = ContentHasher::new("event");
    let generation = policy_finding.generation.to_string();
    for part in [
        &policy_finding.uid,
        &generation,
        finding.reason.as_str(),
        &finding.field,
        &finding.message,
    ] {
        hash.text(part);
    }
    let content = hash.finish().to_string();
    let policy = cut(&policy_finding.policy.name, NAME_MAX - 1 - content.len());
    format!("{}.{content}", policy.trim_end_matches(['.', '-']))
}

/// As much of a text as fits into `limit` bytes, in whole characters.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use policy_engine::object::{Kind, ObjectRef};

    use super::*;
    use crate::cluster::findings::{Finding, Reason};

    fn policy_finding(name: &str, message: &str) -> PolicyFinding {
        let (field, message) = ("spec.podSelector".to_owned(), message.to_owned());
        let finding = Finding { reason: Reason::SelectsNothing, field, message };
        PolicyFinding {
            policy: ObjectRef::new(Kind::NetworkPolicy, "shop", name),
            uid: "u".to_owned(),
            generation: 1,
            finding,
        }
    }

    fn name(policy_finding: &PolicyFinding) -> String {
        event(policy_finding, "i", Timestamp::UNIX_EPOCH).metadata.name.unwrap_or_default()
    }

    #[test]
    fn an_event_on_a_policy_of_the_cluster_is_in_the_namespace_default() {
        for (kind, of) in [
            (Kind::ClusterDefaultNetworkPolicy, "portcullis.dev/v1alpha1"),
            (Kind::ClusterNetworkPolicy, "policy.networking.k8s.io/v1beta1"),
        ] {
            let policy_finding = PolicyFinding {
                policy: ObjectRef::cluster(kind, "deny"),
                ..policy_finding("x", "m")
            };
            let event = event(&policy_finding, "i", Timestamp::UNIX_EPOCH);
            assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
            let regarding = event.regarding.unwrap_or_default();
            assert_eq!(regarding.kind.as_deref(), Some(kind.as_str()));
            assert_eq!(regarding.api_version.as_deref(), Some(of));
            assert_eq!((regarding.namespace, regarding.name.as_deref()), (None, Some("deny")));
        }
    }

    #[test]
    fn the_same_finding_has_the_same_name_and_another_has_another() {
        let one = policy_finding("db", "m");
        assert_eq!(name(&one), name(&one.clone()));
        for other in [
            policy_finding("db", "n"),
            PolicyFinding { generation: 2, ..one.clone() },
            PolicyFinding { uid: "v".to_owned(), ..one.clone() },
        ] {
            assert_ne!(name(&one), name(&other));
        }
        assert!(name(&one).starts_with("db."));
    }

    #[test]
    fn an_event_keeps_to_the_limits_of_the_api() {
        let long =
            policy_finding(&format!("{}-{}", "a".repeat(231), "b".repeat(21)), &"ü".repeat(2_000));
        let event = event(&long, &"i".repeat(300), Timestamp::UNIX_EPOCH);
        assert!(event.note.is_some_and(|note| note.len() <= 1024 && note.starts_with("spec.pod")));
        assert_eq!(event.reporting_instance.map(|instance| instance.len()), Some(128));
        let name = event.metadata.name.unwrap_or_default();
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }
}
