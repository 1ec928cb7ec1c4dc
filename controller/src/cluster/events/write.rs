//! One finding as an `events.k8s.io/v1` Event.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use policy_engine::id::ContentHasher;

use super::ledger::ObjectFinding;
use crate::cluster::findings::Reason;

/// The name of the controller in `reportingController` of Events.
pub const CONTROLLER: &str = "portcullis.dev/controller";

/// Limits of the Events API: bytes of `note` and `reportingInstance`, and of an object's name.
const NOTE_MAX: usize = 1024;
const INSTANCE_MAX: usize = 128;
const NAME_MAX: usize = 253;

/// The namespace of the Event on an object: `default` for an object without a namespace.
#[must_use]
pub fn namespace(object_finding: &ObjectFinding) -> &str {
    match &*object_finding.object.namespace {
        "" => "default",
        namespace => namespace,
    }
}

/// The Event that reports a finding; `identity` names the process that writes it.
#[must_use]
pub fn event(object_finding: &ObjectFinding, identity: &str, wall: Timestamp) -> Event {
    let object = &object_finding.object;
    let finding = &object_finding.finding;
    let is_applied = finding.reason == Reason::Applied;
    let validates = object.kind.is_policy() && !is_applied;
    let note = if finding.field.is_empty() {
        finding.message.clone()
    } else {
        format!("{}: {}", finding.field, finding.message)
    };
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace(object_finding).to_owned()),
            name: Some(event_name(object_finding)),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(wall)),
        type_: Some(if is_applied { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(finding.reason.as_str().to_owned()),
        action: Some(if validates { "Validate" } else { "Enforce" }.to_owned()),
        note: Some(cut(&note, NOTE_MAX).to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(object.kind.api_version()),
            kind: Some(object.kind.as_str().to_owned()),
            namespace: Some(object.namespace.to_string()).filter(|name| !name.is_empty()),
            name: Some(object.name.to_string()),
            uid: Some(object_finding.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(identity, INSTANCE_MAX).to_owned()),
        ..Event::default()
    }
}

/// The object's name and a hash of the finding, so that every process gives an Event one name.
fn event_name(object_finding: &ObjectFinding) -> String {
    let finding = &object_finding.finding;
    let mut hash = ContentHasher::new("event");
    let generation = object_finding.generation.to_string();
    for part in [
        &object_finding.uid,
        &generation,
        finding.reason.as_str(),
        &finding.field,
        &finding.message,
    ] {
        hash.text(part);
    }
    let content = hash.finish().to_string();
    let name = cut(&object_finding.object.name, NAME_MAX - 1 - content.len());
    format!("{}.{content}", name.trim_end_matches(['.', '-']))
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
    use crate::cluster::findings::Finding;

    fn object_finding(name: &str, message: &str) -> ObjectFinding {
        let (field, message) = ("spec.podSelector".to_owned(), message.to_owned());
        let finding = Finding { reason: Reason::SelectsNothing, field, message };
        ObjectFinding {
            object: ObjectRef::new(Kind::NetworkPolicy, "shop", name),
            uid: "u".to_owned(),
            generation: 1,
            finding,
        }
    }

    fn name(object_finding: &ObjectFinding) -> String {
        event(object_finding, "i", Timestamp::UNIX_EPOCH).metadata.name.unwrap_or_default()
    }

    #[test]
    fn an_event_on_a_policy_of_the_cluster_is_in_the_namespace_default() {
        for (kind, of) in [
            (Kind::ClusterDefaultNetworkPolicy, "portcullis.dev/v1alpha1"),
            (Kind::ClusterNetworkPolicy, "policy.networking.k8s.io/v1beta1"),
        ] {
            let object_finding = ObjectFinding {
                object: ObjectRef::cluster(kind, "deny"),
                ..object_finding("x", "m")
            };
            let event = event(&object_finding, "i", Timestamp::UNIX_EPOCH);
            assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
            let regarding = event.regarding.unwrap_or_default();
            assert_eq!(regarding.kind.as_deref(), Some(kind.as_str()));
            assert_eq!(regarding.api_version.as_deref(), Some(of));
            assert_eq!((regarding.namespace, regarding.name.as_deref()), (None, Some("deny")));
        }
    }

    #[test]
    fn the_same_finding_has_the_same_name_and_another_has_another() {
        let one = object_finding("db", "m");
        assert_eq!(name(&one), name(&one.clone()));
        for other in [
            object_finding("db", "n"),
            ObjectFinding { generation: 2, ..one.clone() },
            ObjectFinding { uid: "v".to_owned(), ..one.clone() },
        ] {
            assert_ne!(name(&one), name(&other));
        }
        assert!(name(&one).starts_with("db."));
    }

    #[test]
    fn an_event_keeps_to_the_limits_of_the_api() {
        let long =
            object_finding(&format!("{}-{}", "a".repeat(231), "b".repeat(21)), &"ü".repeat(2_000));
        let event = event(&long, &"i".repeat(300), Timestamp::UNIX_EPOCH);
        assert!(event.note.is_some_and(|note| note.len() <= 1024 && note.starts_with("spec.pod")));
        assert_eq!(event.reporting_instance.map(|instance| instance.len()), Some(128));
        let name = event.metadata.name.unwrap_or_default();
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }
}
