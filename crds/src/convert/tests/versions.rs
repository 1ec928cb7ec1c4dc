//! Versions of the kinds: those that are understood, and the results for others.

use super::super::*;
use super::convert;

const HEAD: &str = "tier: Baseline, priority: 7, subject: {namespaces: {}}";

/// A later version may mean anything: failing closed would stop all traffic when a CRD is upgraded.
#[test]
fn an_unknown_version_is_not_read_and_a_namesake_is_foreign() {
    for (known, others, kind, namespace) in [
        (
            &["policy.networking.k8s.io/v1beta1", "policy.networking.k8s.io/v1alpha2"][..],
            &["policy.networking.k8s.io/v1", "v1", "null", "policy.networking.k8s.io"][..],
            Kind::ClusterNetworkPolicy,
            "",
        ),
        (
            &["portcullis.dev/v1alpha1"],
            &["portcullis.dev/v1beta1", "null"],
            Kind::ClusterDefaultNetworkPolicy,
            "",
        ),
        (
            &["networking.k8s.io/v1"],
            &["networking.k8s.io/v2", "extensions/v1beta1", "v1", "5", "null"],
            Kind::NetworkPolicy,
            "default",
        ),
    ] {
        let object = |version: &str| {
            convert(&format!(
                "{{apiVersion: {version}, kind: {}, metadata: {{name: a}}}}",
                kind.as_str()
            ))
        };
        for version in known {
            let (converted, _) = object(version);
            assert!(matches!(converted, Converted::Object(_)), "{version}: {converted:?}");
        }
        for version in others {
            let (converted, found) = object(version);
            let api_version = if ["5", "null"].contains(version) { "" } else { version };
            let api_version = api_version.to_owned();
            let object = ObjectRef::new(kind, namespace, "a");
            let unknown = UnknownVersion { object, api_version };
            assert_eq!(converted, Converted::UnknownVersion(unknown), "{version}");
            let [found] = found.as_slice() else { panic!("{version}: {found:#?}") };
            assert!(found.contains("error: ") && found.contains(known[0]), "{found}");
        }
    }
    let (converted, found) = convert(
        "{apiVersion: crd.antrea.io/v1beta1, kind: ClusterNetworkPolicy, metadata: {name: a}}",
    );
    assert!(matches!(converted, Converted::Foreign { .. }), "{converted:?}");
    assert_eq!(found.len(), 1, "{found:#?}");
}

/// Both versions have one schema, and mean the same.
#[test]
fn v1alpha2_means_what_v1beta1_means() {
    let [new, old] = ["v1beta1", "v1alpha2"].map(|version| {
        convert(&format!(
            "{{apiVersion: policy.networking.k8s.io/{version}, kind: ClusterNetworkPolicy, \
             metadata: {{name: a}}, spec: {{{HEAD}, ingress: [{{action: Deny, \
             from: [{{namespaces: {{}}}}]}}]}}}}"
        ))
    });
    assert_eq!(new, old);
    assert!(new.1.is_empty(), "{:?}", new.1);
}
