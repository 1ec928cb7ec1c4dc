//! Whether the API server has a kind that a CRD brings.
//!
//! ```text
//! watch ─ 404 ─► the CRD itself: ─ served as watched ─────► the 404 is no proof: an outage
//!                                ─ in another known version ► the watch continues in that version
//!                                ─ 404, of this CRD ──────► Absent: no object of it exists
//!                                ─ in other versions only ► Elsewhere: its objects cannot be read
//!                                ─ any other answer ──────► an outage: the known objects stay
//! ```
//!
//! A 404 alone proves nothing: proxies answer it too, and so does a server that has not read the
//! CRD yet. The server reads a CRD by its name from etcd, so a 404 of the CRD means it is absent.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Resource;
use kube::api::GetParams;
use kube::core::{Request, Status};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::Condition as _;
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::path::FieldPath;
use tracing::{info, warn};

const GROUP: &str = "apiextensions.k8s.io";

/// Whether the cluster has a kind, and in which versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// The cluster lacks the kind, so it has no object of the kind.
    Absent,
    /// The cluster has the kind, and does not serve it yet, or not in any version.
    Unserved,
    /// The cluster serves the kind in these versions only, which cannot be read.
    Elsewhere(Vec<String>),
    /// The cluster serves the kind in this version: the preferred one of those that can be read.
    Served(&'static str),
}

impl Presence {
    /// Logs that the presence of `kind` has changed. `objects`: how many were known before.
    pub(super) fn log(&self, kind: &str, is_first: bool, objects: Option<usize>) {
        match self {
            Self::Absent if is_first => {
                info!(kind, "the cluster lacks this kind; it is used when it comes");
            }
            // The server deletes objects before their kind: `objects` does not count those.
            Self::Absent => warn!(kind, objects, "the CRD of this kind was deleted"),
            Self::Unserved => warn!(kind, "the cluster does not serve this kind"),
            Self::Elsewhere(_) | Self::Served(_) => {} // A diagnostic or a line of its own.
        }
    }
}

/// The CRD of a kind that a cluster may lack, and whether it was found last.
#[derive(Debug)]
pub(super) struct Definition {
    /// For example `clusternetworkpolicies.policy.networking.k8s.io`.
    name: String,
    kind: &'static str,
    /// The versions that can be read, the preferred one first.
    versions: &'static [&'static str],
    /// The presence that the log and the diagnostics report now.
    pub(super) reported: Presence,
    period: Duration,
}

impl Definition {
    /// The CRD of `K`, to be requested every `period`.
    pub(super) fn of<K: Resource<DynamicType = ()>>(
        kind: &'static str,
        versions: &'static [&'static str],
        period: Duration,
    ) -> Self {
        let name = format!("{}.{}", K::plural(&()), K::group(&()));
        let reported = Presence::Served(versions.first().copied().unwrap_or_default());
        Self { name, kind, versions, reported, period }
    }

    /// How long to wait before the next request: the period and up to as much again at random,
    /// since a thousand nodes may have started at the same moment.
    pub(super) fn wait(&self) -> Duration {
        self.period.mul_f64(1.0 + fastrand::f64())
    }

    /// The request for the CRD, which the server answers from etcd.
    pub(super) fn request(&self) -> Result<http::Request<Vec<u8>>, kube::core::request::Error> {
        let path = CustomResourceDefinition::url_path(&(), None);
        Request::new(path).get(&self.name, &GetParams::default())
    }

    /// Whether the cluster has the kind, from the answer to the request.
    ///
    /// # Errors
    /// When the answer does not show whether the kind exists.
    pub(super) fn read(
        &self,
        answer: Result<String, kube::Error>,
    ) -> Result<Presence, kube::Error> {
        let text = match answer {
            Ok(text) => text,
            Err(kube::Error::Api(status)) if self.is_denied_by(&status) => {
                return Ok(Presence::Absent);
            }
            Err(error) => return Err(error),
        };
        let found: CustomResourceDefinition =
            serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
        if found.metadata.name.as_ref() != Some(&self.name) {
            let error = <serde_json::Error as serde::de::Error>::custom("not the CRD asked for");
            return Err(kube::Error::SerdeError(error));
        }
        if !is_crd_established().matches_object(Some(&found)) {
            return Ok(Presence::Unserved);
        }
        let served = found.spec.versions.into_iter().filter(|version| version.served);
        let served: Vec<String> = served.map(|version| version.name).collect();
        let is_served = |known: &&&str| served.iter().any(|version| version == **known);
        Ok(match self.versions.iter().find(is_served) {
            Some(version) => Presence::Served(version),
            None if served.is_empty() => Presence::Unserved,
            None => Presence::Elsewhere(served),
        })
    }

    /// Whether a 404 is from the API server and of this very CRD, and not from a proxy.
    fn is_denied_by(&self, status: &Status) -> bool {
        let details = status.details.as_ref();
        status.code == 404
            && status.reason == "NotFound"
            && details.is_some_and(|details| details.name == self.name && details.group == GROUP)
    }

    /// The diagnostics to report while the kind has this presence.
    pub(super) fn diagnostics(&self, presence: &Presence) -> Vec<Diagnostic> {
        let Presence::Elsewhere(versions) = presence else { return Vec::new() };
        vec![Diagnostic {
            severity: Severity::Error,
            source: None,
            about: About::Unread(self.origin()),
            field: FieldPath::new(["spec", "versions"]),
            message: format!(
                "serves {} and not {}, so no {} is read: those that were known before stay \
                 enforced until the next start, others are not enforced",
                versions.join(", "),
                self.versions.join(" or "),
                self.kind
            ),
        }]
    }

    /// The origin that the diagnostics name: the CRD.
    pub(super) fn origin(&self) -> String {
        format!("CustomResourceDefinition {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use policy_engine::object::Kind;
    use portcullis_crds::api::cluster_network_policy::ClusterNetworkPolicy;
    use serde_json::{Value, json};

    use super::*;

    /// The definition of a kind with a CRD, in v1.
    fn definition() -> Definition {
        Definition::of::<NetworkPolicy>("NetworkPolicy", &["v1"], Duration::from_secs(1))
    }

    fn found(definition: &Definition, versions: &Value, established: &str) -> String {
        let conditions = json!([{"type": "NamesAccepted", "status": "True"},
            {"type": "Established", "status": established}]);
        json!({"metadata": {"name": definition.name}, "spec": {"versions": versions},
            "status": {"conditions": conditions}})
        .to_string()
    }

    fn refused(status: &Value) -> Result<String, kube::Error> {
        let status: Status = serde_json::from_value(status.clone()).expect("it is a status");
        Err(kube::Error::Api(status.boxed()))
    }

    fn not_found(details: &Value) -> Value {
        json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
            "details": details})
    }

    #[test]
    fn the_crd_shows_whether_the_kind_is_served() {
        let read = |versions: &Value, established| {
            let presence = definition().read(Ok(found(&definition(), versions, established)));
            presence.expect("a CRD can be read")
        };
        let both = json!([{"name": "v2", "served": true}, {"name": "v1", "served": true}]);
        assert_eq!(read(&both, "True"), Presence::Served("v1"));
        assert_eq!(read(&both, "False"), Presence::Unserved);
        let other = json!([{"name": "v1", "served": false}, {"name": "v2", "served": true}]);
        assert_eq!(read(&other, "True"), Presence::Elsewhere(vec!["v2".to_owned()]));
        assert_eq!(read(&json!([{"name": "v1", "served": false}]), "True"), Presence::Unserved);
        // A CRD that was created a moment ago has no status.
        let new = json!({"metadata": {"name": definition().name}, "spec": {"versions": both}});
        assert!(matches!(definition().read(Ok(new.to_string())), Ok(Presence::Unserved)));
    }

    #[test]
    fn of_several_versions_the_preferred_one_is_read() {
        let definition = Definition::of::<ClusterNetworkPolicy>(
            "ClusterNetworkPolicy",
            Kind::ClusterNetworkPolicy.versions(),
            Duration::from_secs(1),
        );
        let read = |served: &[&str]| {
            let versions: Vec<Value> =
                served.iter().map(|name| json!({"name": name, "served": true})).collect();
            definition
                .read(Ok(found(&definition, &versions.into(), "True")))
                .expect("a CRD can be read")
        };
        assert_eq!(read(&["v1alpha2", "v1beta1"]), Presence::Served("v1beta1"));
        assert_eq!(read(&["v1alpha2", "v1"]), Presence::Served("v1alpha2"));
        let unknown = Presence::Elsewhere(vec!["v1".to_owned()]);
        assert_eq!(read(&["v1"]), unknown);
        let text = definition.diagnostics(&unknown)[0].to_string();
        assert!(text.contains("serves v1 and not v1beta1 or v1alpha2"), "{text}");
    }

    #[test]
    fn only_a_404_of_this_very_crd_means_that_there_is_no_such_kind() {
        let name = "networkpolicies.networking.k8s.io";
        assert_eq!(definition().name, name);
        let absent = not_found(&json!({"name": name, "group": GROUP,
            "kind": "customresourcedefinitions"}));
        assert!(matches!(definition().read(refused(&absent)), Ok(Presence::Absent)));
        let mut others = vec![
            not_found(&json!({"name": "others", "group": GROUP})),
            not_found(&json!({"name": name, "group": "apps"})),
            not_found(&Value::Null),
            json!({"code": 404, "reason": "Failed to parse error data", "message": "<html>"}),
        ];
        others.extend([403, 410, 429, 500, 503].map(|code| {
            let mut other = absent.clone();
            other["code"] = code.into();
            other
        }));
        for other in others {
            assert!(definition().read(refused(&other)).is_err(), "{other}");
        }
        assert!(definition().read(Ok("<html>".to_owned())).is_err(), "a proxy's page");
        assert!(definition().read(Ok("{}".to_owned())).is_err(), "an object, and no CRD");
    }

    #[test]
    fn nodes_that_start_together_do_not_look_together() {
        let definition = definition();
        let waits: Vec<Duration> = (0..20).map(|_| definition.wait()).collect();
        let (one, two) = (Duration::from_secs(1), Duration::from_secs(2));
        assert!(waits.iter().all(|wait| (one..=two).contains(wait)), "{waits:?}");
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
    }

    #[test]
    fn a_version_that_is_not_read_is_reported_as_an_error() {
        let found = definition().diagnostics(&Presence::Elsewhere(vec!["v2".to_owned()]));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("serves v2 and not v1"), "{found:?}");
        assert_eq!(definition().diagnostics(&Presence::Absent), []);
    }
}
