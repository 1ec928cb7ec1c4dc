//! Which documents of a file are Kubernetes objects, and which are input of other programs.

use portcullis_crds::manifest::Document;
use serde_json::Value;

/// The API group of `kustomization.yaml`: kustomize reads these objects, and no API server does.
const KUSTOMIZE: &str = "kustomize.config.k8s.io/";

/// Whether a document is meant to be a Kubernetes object, even if it is not valid.
///
/// Helm values, `Chart.yaml`, `kustomization.yaml`, JSON patches and compose files are not. A
/// document that lacks only `kind` or only `apiVersion` is: `kubectl apply` rejects it, and so it
/// must be reported.
pub(super) fn is_object(document: &Document) -> bool {
    let value = document.value();
    match value {
        Value::Array(items) => items.iter().any(|item| text(item, "kind").is_some()),
        Value::Object(fields) => {
            let has = |key: &str| fields.get(key).is_some_and(Value::is_object);
            let api_version = text(value, "apiVersion");
            match (api_version, fields.contains_key("kind")) {
                (Some(version), true) => !version.starts_with(KUSTOMIZE),
                (Some(version), false) => version.contains('/') || has("metadata") || has("spec"),
                // `kind: DaemonSet` is a value of some charts.
                (None, true) => has("metadata") || has("spec") || fields.contains_key("items"),
                (None, false) => has("metadata") && has("spec"),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use portcullis_crds::manifest::Manifest;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: bool) {
        let manifest = Manifest::parse("a.yaml", text);
        let found: Vec<bool> = manifest.documents.iter().map(is_object).collect();
        assert_eq!(found, [expected], "{text}");
    }

    #[test]
    fn objects_are_objects_also_if_they_lack_a_field() {
        check("{apiVersion: v1, kind: Pod, metadata: {name: a}}", true);
        check("{apiVersion: v1, kind: Pod}", true);
        check("{kind: NetworkPolicy, metadata: {name: a}}", true);
        check("{apiVersion: networking.k8s.io/v1, metadata: {name: a}}", true);
        check("{metadata: {name: a}, spec: {podSelector: {}}}", true);
        check("[{apiVersion: v1, kind: Pod}]", true);
    }

    #[test]
    fn input_of_other_programs_is_not_an_object() {
        check("{replicaCount: 2, image: {tag: a}, kind: DaemonSet}", false);
        check("{apiVersion: v2, name: shop, version: 1.0.0}", false);
        check("{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization}", false);
        check("{services: {web: {image: nginx}}}", false);
        check("[{op: remove, path: /spec}]", false);
        check("Error", false);
    }
}
