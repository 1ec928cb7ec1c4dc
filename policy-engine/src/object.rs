//! The names of objects of all kinds.

use std::fmt;
use std::str::FromStr;

use crate::labels::Str;

/// The kinds of objects that policies depend on, the kinds that create pods, the kinds that lead
/// connections to pods, and those that allow pods to use the API server.
///
/// Lists of several kinds are in this order. Objects can be created in this order too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io` ClusterNetworkPolicy, `v1beta1` or `v1alpha2`.
    ClusterNetworkPolicy,
    /// `portcullis.dev/v1alpha1` ClusterDefaultNetworkPolicy.
    ClusterDefaultNetworkPolicy,
    /// `v1` Pod.
    Pod,
    /// `batch/v1` CronJob.
    CronJob,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `apps/v1` Deployment.
    Deployment,
    /// `batch/v1` Job.
    Job,
    /// `apps/v1` ReplicaSet.
    ReplicaSet,
    /// `v1` ReplicationController.
    ReplicationController,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `v1` Endpoints.
    Endpoints,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `networking.k8s.io/v1` Ingress.
    Ingress,
    /// `gateway.networking.k8s.io` HTTPRoute, `v1` or `v1beta1`.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute, `v1` or `v1alpha2`.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute, `v1` or an alpha version.
    TlsRoute,
    /// `gateway.networking.k8s.io` TCPRoute, `v1alpha2`.
    TcpRoute,
    /// `gateway.networking.k8s.io` UDPRoute, `v1alpha2`.
    UdpRoute,
    /// `admissionregistration.k8s.io/v1` MutatingWebhookConfiguration.
    MutatingWebhookConfiguration,
    /// `admissionregistration.k8s.io/v1` ValidatingWebhookConfiguration.
    ValidatingWebhookConfiguration,
    /// `rbac.authorization.k8s.io/v1` RoleBinding.
    RoleBinding,
    /// `rbac.authorization.k8s.io/v1` ClusterRoleBinding.
    ClusterRoleBinding,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 26] = [
        Self::Node,
        Self::Namespace,
        Self::Service,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::ClusterDefaultNetworkPolicy,
        Self::Pod,
        Self::CronJob,
        Self::DaemonSet,
        Self::Deployment,
        Self::Job,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::StatefulSet,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::Ingress,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::UdpRoute,
        Self::MutatingWebhookConfiguration,
        Self::ValidatingWebhookConfiguration,
        Self::RoleBinding,
        Self::ClusterRoleBinding,
    ];

    /// The name that the Kubernetes API uses, the singular and plural of the resource, and the
    /// short name that kubectl accepts.
    fn names(self) -> [&'static str; 4] {
        match self {
            Self::Node => ["Node", "node", "nodes", "no"],
            Self::Namespace => ["Namespace", "namespace", "namespaces", "ns"],
            Self::Service => ["Service", "service", "services", "svc"],
            Self::NetworkPolicy => ["NetworkPolicy", "networkpolicy", "networkpolicies", "netpol"],
            Self::ClusterNetworkPolicy => {
                ["ClusterNetworkPolicy", "clusternetworkpolicy", "clusternetworkpolicies", "cnp"]
            }
            Self::ClusterDefaultNetworkPolicy => [
                "ClusterDefaultNetworkPolicy",
                "clusterdefaultnetworkpolicy",
                "clusterdefaultnetworkpolicies",
                "cdnp",
            ],
            Self::Pod => ["Pod", "pod", "pods", "po"],
            Self::CronJob => ["CronJob", "cronjob", "cronjobs", "cj"],
            Self::DaemonSet => ["DaemonSet", "daemonset", "daemonsets", "ds"],
            Self::Deployment => ["Deployment", "deployment", "deployments", "deploy"],
            Self::Job => ["Job", "job", "jobs", "job"],
            Self::ReplicaSet => ["ReplicaSet", "replicaset", "replicasets", "rs"],
            Self::ReplicationController => {
                ["ReplicationController", "replicationcontroller", "replicationcontrollers", "rc"]
            }
            Self::StatefulSet => ["StatefulSet", "statefulset", "statefulsets", "sts"],
            Self::Endpoints => ["Endpoints", "endpoints", "endpoints", "ep"],
            Self::EndpointSlice => {
                ["EndpointSlice", "endpointslice", "endpointslices", "endpointslice"]
            }
            Self::Ingress => ["Ingress", "ingress", "ingresses", "ing"],
            Self::HttpRoute => ["HTTPRoute", "httproute", "httproutes", "httproute"],
            Self::GrpcRoute => ["GRPCRoute", "grpcroute", "grpcroutes", "grpcroute"],
            Self::TlsRoute => ["TLSRoute", "tlsroute", "tlsroutes", "tlsroute"],
            Self::TcpRoute => ["TCPRoute", "tcproute", "tcproutes", "tcproute"],
            Self::UdpRoute => ["UDPRoute", "udproute", "udproutes", "udproute"],
            Self::MutatingWebhookConfiguration => [
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfiguration",
                "mutatingwebhookconfigurations",
                "mutatingwebhookconfiguration",
            ],
            Self::ValidatingWebhookConfiguration => [
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfiguration",
                "validatingwebhookconfigurations",
                "validatingwebhookconfiguration",
            ],
            Self::RoleBinding => ["RoleBinding", "rolebinding", "rolebindings", "rolebinding"],
            Self::ClusterRoleBinding => [
                "ClusterRoleBinding",
                "clusterrolebinding",
                "clusterrolebindings",
                "clusterrolebinding",
            ],
        }
    }

    /// The kind as manifests write it: `NetworkPolicy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let [name, ..] = self.names();
        name
    }

    /// The kind in lower case: `networkpolicy`.
    #[must_use]
    pub fn lower(self) -> &'static str {
        let [_, singular, ..] = self.names();
        singular
    }

    /// The kind that a manifest names; `None` for every other word.
    #[must_use]
    pub fn parse(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }

    /// The kind that a word means in kubectl: singular, plural or short name, in any case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        Self::ALL.into_iter().find(|kind| kind.names().contains(&word.as_str()))
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::NetworkPolicy | Self::Ingress => "networking.k8s.io",
            Self::HttpRoute
            | Self::GrpcRoute
            | Self::TlsRoute
            | Self::TcpRoute
            | Self::UdpRoute => "gateway.networking.k8s.io",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::MutatingWebhookConfiguration | Self::ValidatingWebhookConfiguration => {
                "admissionregistration.k8s.io"
            }
            Self::RoleBinding | Self::ClusterRoleBinding => "rbac.authorization.k8s.io",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io",
            Self::ClusterDefaultNetworkPolicy => "portcullis.dev",
            Self::CronJob | Self::Job => "batch",
            Self::DaemonSet | Self::Deployment | Self::ReplicaSet | Self::StatefulSet => "apps",
            Self::Node
            | Self::Namespace
            | Self::Service
            | Self::Pod
            | Self::ReplicationController
            | Self::Endpoints => "",
        }
    }

    /// The API versions that can be read, the preferred one first. They have the same schema.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::ClusterNetworkPolicy => &["v1beta1", "v1alpha2"],
            Self::ClusterDefaultNetworkPolicy => &["v1alpha1"],
            Self::HttpRoute => &["v1", "v1beta1"],
            Self::GrpcRoute => &["v1", "v1alpha2"],
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::TcpRoute | Self::UdpRoute => &["v1alpha2"],
            _ => &["v1"],
        }
    }

    /// The API version to write.
    #[must_use]
    pub fn preferred_version(self) -> &'static str {
        self.versions()[0]
    }

    /// The `apiVersion` to write: group and preferred version.
    #[must_use]
    pub fn api_version(self) -> String {
        self.api_version_of(self.preferred_version())
    }

    /// The `apiVersion` of this kind in a given version.
    #[must_use]
    pub fn api_version_of(self, version: &str) -> String {
        match self.group() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::Node
                | Self::Namespace
                | Self::ClusterNetworkPolicy
                | Self::ClusterDefaultNetworkPolicy
                | Self::MutatingWebhookConfiguration
                | Self::ValidatingWebhookConfiguration
                | Self::ClusterRoleBinding
        )
    }

    /// Whether objects of this kind create pods from a template.
    #[must_use]
    pub fn creates_pods(self) -> bool {
        matches!(
            self,
            Self::CronJob
                | Self::DaemonSet
                | Self::Deployment
                | Self::Job
                | Self::ReplicaSet
                | Self::ReplicationController
                | Self::StatefulSet
        )
    }

    /// Whether objects of this kind are routes of Gateways.
    #[must_use]
    pub fn is_route(self) -> bool {
        self.group() == Self::HttpRoute.group()
    }

    /// Whether objects of this kind are policies.
    #[must_use]
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy | Self::ClusterNetworkPolicy | Self::ClusterDefaultNetworkPolicy
        )
    }
}

/// The name of an object.
///
/// Its text is `kind/namespace/name`, or `kind/name` without a namespace, with the kind in lower
/// case: `networkpolicy/shop/db`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectRef {
    /// The kind of the object.
    pub kind: Kind,
    /// The namespace that it lives in; empty for kinds that are not namespaced.
    pub namespace: Str,
    /// `metadata.name`.
    pub name: Str,
}

/// The reason why a text is not the name of an object.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseObjectError {
    /// It does not have two or three parts.
    #[error("`{0}` is not the name of an object: write KIND/NAMESPACE/NAME")]
    Parts(String),
    /// Its kind is unknown.
    #[error("`{0}`: unknown kind `{1}`")]
    Kind(String, String),
}

impl ObjectRef {
    /// The object `name` in `namespace`, which is ignored for kinds that are not namespaced.
    pub fn new(kind: Kind, namespace: impl Into<Str>, name: impl Into<Str>) -> Self {
        let namespace = if kind.is_namespaced() { namespace.into() } else { "".into() };
        Self { kind, namespace, name: name.into() }
    }

    /// The object `name` of a kind that is not namespaced.
    pub fn cluster(kind: Kind, name: impl Into<Str>) -> Self {
        Self::new(kind, "", name)
    }

    /// The short name for answers, logs and reports: `shop/db`, or `ClusterNetworkPolicy/guard`
    /// without a namespace. The two cannot be confused: namespaces have no capital letters.
    #[must_use]
    pub fn short(&self) -> String {
        match &*self.namespace {
            "" => format!("{}/{}", self.kind.as_str(), self.name),
            namespace => format!("{namespace}/{}", self.name),
        }
    }

    /// The name with its kind, as diagnostics show it: `NetworkPolicy shop/db`, `Node a`.
    #[must_use]
    pub fn titled(&self) -> String {
        let separator = if self.namespace.is_empty() { "" } else { "/" };
        format!("{} {}{separator}{}", self.kind.as_str(), self.namespace, self.name)
    }

    /// A key that sorts names of different kinds by the text of the kind.
    #[must_use]
    pub fn alphabetical(&self) -> (&'static str, &str, &str) {
        (self.kind.lower(), &self.namespace, &self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.namespace.is_empty() { "" } else { "/" };
        write!(formatter, "{}/{}{separator}{}", self.kind.lower(), self.namespace, self.name)
    }
}

impl FromStr for ObjectRef {
    type Err = ParseObjectError;

    /// Reads `kind/namespace/name` or `kind/name`; the kind may be any word that
    /// [`Kind::from_word`] knows. The namespace of a namespaced kind may be missing.
    fn from_str(text: &str) -> Result<Self, ParseObjectError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, name] => (*kind, "", *name),
            [kind, namespace, name] => (*kind, *namespace, *name),
            _ => return Err(ParseObjectError::Parts(text.to_owned())),
        };
        let known = Kind::from_word(kind);
        let kind = known.ok_or_else(|| ParseObjectError::Kind(text.to_owned(), kind.to_owned()))?;
        Ok(Self { kind, namespace: namespace.into(), name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_it_is_written() {
        for text in ["networkpolicy/shop/db", "node/a", "cronjob/shop/b", "namespace/shop"] {
            assert_eq!(text.parse::<ObjectRef>().map(|name| name.to_string()), Ok(text.into()));
        }
        let policy: ObjectRef = "netpol/shop/db".parse().unwrap();
        assert_eq!(policy, ObjectRef::new(Kind::NetworkPolicy, "shop", "db"));
        assert_eq!(policy.titled(), "NetworkPolicy shop/db");
        assert_eq!(policy.short(), "shop/db");
        assert_eq!(ObjectRef::new(Kind::Node, "ignored", "a").titled(), "Node a");
        let guard = ObjectRef::cluster(Kind::ClusterNetworkPolicy, "guard");
        assert_eq!(guard.short(), "ClusterNetworkPolicy/guard");
    }

    #[test]
    fn the_error_for_a_text_that_names_no_object_has_a_reason() {
        let read = |text: &str| text.parse::<ObjectRef>().unwrap_err().to_string();
        assert_eq!(read("a"), "`a` is not the name of an object: write KIND/NAMESPACE/NAME");
        assert_eq!(read("frob/a/b"), "`frob/a/b`: unknown kind `frob`");
    }

    #[test]
    fn kinds_are_known_by_the_words_of_kubectl() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            assert_eq!(kind.lower(), kind.as_str().to_lowercase());
            for word in kind.names() {
                assert_eq!(Kind::from_word(word), Some(kind), "{word}");
            }
        }
        assert_eq!(Kind::parse("networkpolicy"), None, "a manifest writes the kind exactly");
    }
}
