//! The parts of the objects of each kind that are kept: static data.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy_engine::object::Kind;

use super::{LeanKind, Projected};
use crate::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use crate::api::cluster_network_policy::ClusterNetworkPolicy;
use crate::api::node_policy_report::NodePolicyReport;

/// Which parts of a value are kept.
#[derive(Debug)]
pub enum Part {
    /// The whole value.
    Whole,
    /// These fields of a mapping; any other value is kept as an empty value of its type.
    Fields(&'static [(&'static str, Part)]),
    /// As `Fields`; for conversion, all other fields are kept too.
    Open(&'static [(&'static str, Part)]),
    /// This part of each item of a list; any other value is kept as an empty value of its type.
    Items(&'static Part),
    /// This part for one purpose; nothing for other purposes.
    Only(Purpose, &'static Part),
}

/// The purpose for which an object is reduced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The object is converted into an engine value, and compared with its state in the API server.
    Conversion,
    /// The object is written into a file, which the CLI reads later.
    Snapshot,
}

use Part::{Fields, Items, Only, Open, Whole};

/// Fields, each with the part that is given, or else whole.
macro_rules! fields {
    (@part) => { Whole };
    (@part $part:expr) => { $part };
    ($($name:literal $(: $part:expr)?),* $(,)?) => { &[$(($name, fields!(@part $($part)?))),*] };
}

/// The annotation that puts a policy into audit.
pub const MODE_ANNOTATION: &str = "portcullis.dev/mode";

/// The annotation of a pod that lists the networks it also sends from and receives at.
pub const EXTRA_SOURCE_RANGES_ANNOTATION: &str = "portcullis.dev/extra-source-ranges";

/// The annotation that names codes of `kubectl whatif lint` which do not apply to the object.
pub const LINT_IGNORE_ANNOTATION: &str = "portcullis.dev/lint-ignore";

/// The parts that are kept of an object of this kind.
pub(super) const fn part(kind: Kind) -> &'static Part {
    match kind {
        Kind::Node => &NODE,
        Kind::Namespace => &NAMESPACE,
        Kind::Service => &SERVICE,
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy | Kind::ClusterDefaultNetworkPolicy => {
            &POLICY
        }
        Kind::Pod => &POD,
        Kind::CronJob => &CRON_JOB,
        Kind::Job => &JOB,
        Kind::DaemonSet
        | Kind::Deployment
        | Kind::ReplicaSet
        | Kind::ReplicationController
        | Kind::StatefulSet => &WORKLOAD,
        Kind::Endpoints => &ENDPOINTS,
        Kind::EndpointSlice => &ENDPOINT_SLICE,
        Kind::Ingress
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::UdpRoute => &ROUTE,
        Kind::MutatingWebhookConfiguration | Kind::ValidatingWebhookConfiguration => &WEBHOOKS,
        Kind::RoleBinding | Kind::ClusterRoleBinding => &BINDING,
    }
}

macro_rules! lean_kinds {
    ($($kind:ident),*) => { $(impl LeanKind for $kind { const KIND: Kind = Kind::$kind; })* };
}

lean_kinds!(
    Node,
    Namespace,
    NetworkPolicy,
    ClusterNetworkPolicy,
    ClusterDefaultNetworkPolicy,
    Pod,
    EndpointSlice
);

impl Projected for NodePolicyReport {
    const KEEP: &'static Part = &Fields(fields![
        "apiVersion", "kind",
        "metadata": Fields(fields!["name", "uid": SERVED, "resourceVersion": SERVED, "ownerReferences"]),
        "spec", "status",
    ]);
}

/// Fields that only objects of an API server have, or that are needed only for these.
const SERVED: Part = Only(Purpose::Conversion, &Whole);

const OWNERS: Part = Items(&Fields(fields!["apiVersion", "kind", "name", "controller"]));

const METADATA: Part = Fields(fields![
    "name", "namespace", "labels", "creationTimestamp", "deletionTimestamp",
    "resourceVersion": SERVED, "generation": SERVED,
    "ownerReferences": Only(Purpose::Snapshot, &OWNERS),
]);

const POD_METADATA: Part = Fields(fields![
    "name", "namespace", "labels", "creationTimestamp", "deletionTimestamp",
    "resourceVersion": SERVED, "generation": SERVED,
    "ownerReferences": Only(Purpose::Snapshot, &OWNERS),
    // The answers of the CLI do not depend on these annotations.
    "annotations": Only(Purpose::Conversion, &Fields(&[(EXTRA_SOURCE_RANGES_ANNOTATION, Whole)])),
]);

/// Also the uid, which distinguishes a node from an earlier one of its name.
const NODE_METADATA: Part = Fields(fields![
    "name", "namespace", "labels", "creationTimestamp", "deletionTimestamp",
    "uid": SERVED, "resourceVersion": SERVED,
    "ownerReferences": Only(Purpose::Snapshot, &OWNERS),
]);

const POLICY_METADATA: Part = Fields(fields![
    "name", "namespace", "labels": Only(Purpose::Snapshot, &Whole),
    "uid": SERVED, "resourceVersion": SERVED, "generation": SERVED,
    "annotations": Fields(&[
        (MODE_ANNOTATION, Whole),
        (LINT_IGNORE_ANNOTATION, Only(Purpose::Snapshot, &Whole)),
    ]),
]);

/// Fields that conversion does not know may be meant to isolate, so it must see them. The status is
/// compared with the wanted one, and has no meaning for policies.
const POLICY: Part = Open(fields!["metadata": POLICY_METADATA, "spec", "status": SERVED]);

const CONTAINERS: Part = Items(&Fields(fields![
    "ports": Items(&Open(fields!["name", "containerPort", "protocol"])), "restartPolicy",
]));

/// Fields that no verdict depends on.
const ASIDE: Part = Only(Purpose::Snapshot, &Whole);

const POD_SPEC: Part = Fields(fields![
    "serviceAccountName": ASIDE, "automountServiceAccountToken": ASIDE, "nodeName", "hostNetwork", "containers": CONTAINERS, "initContainers": CONTAINERS,
]);

const POD: Part = Fields(fields![
    "metadata": POD_METADATA, "spec": POD_SPEC, "status": Fields(fields!["phase", "podIP", "podIPs"]),
]);

const NAMESPACE: Part = Fields(fields!["metadata": METADATA]);

const NODE: Part =
    Fields(fields!["metadata": NODE_METADATA, "status": Fields(fields!["addresses"])]);

const SERVICE: Part = Fields(fields![
    "metadata": METADATA,
    "spec": Fields(fields!["selector", "ports", "type", "clusterIP", "clusterIPs", "externalTrafficPolicy"]),
]);

const ENDPOINTS: Part = Fields(fields!["metadata": METADATA, "subsets"]);

const ENDPOINT_SLICE: Part = Fields(fields!["metadata": METADATA, "endpoints", "ports"]);

const ROUTE: Part = Fields(fields!["metadata": METADATA, "spec"]);

const WEBHOOKS: Part = Fields(fields![
    "metadata": METADATA,
    "webhooks": Items(&Fields(fields!["name", "clientConfig": Fields(fields!["service"])])),
]);

const BINDING: Part = Fields(fields![
    "metadata": METADATA, "subjects": Items(&Fields(fields!["kind", "name", "namespace"])),
]);

const TEMPLATE: Part = Fields(fields!["metadata": Fields(fields!["labels"]), "spec": POD_SPEC]);

const WORKLOAD: Part = Fields(fields![
    "metadata": METADATA, "spec": Fields(fields!["replicas", "selector", "template": TEMPLATE]),
]);

const JOB_SPEC: Part = Fields(fields!["parallelism", "suspend", "template": TEMPLATE]);

/// The parts of an object of another API that creates pods.
pub(super) const CUSTOM: Part = Fields(fields![
    "metadata": METADATA,
    "spec": Fields(fields![
        "template": TEMPLATE, "podTemplate": TEMPLATE, "pods": Items(&POD),
        "jobTemplate": Fields(fields!["spec": Fields(fields!["template": TEMPLATE])]),
        "podMetadata": Fields(fields!["labels"]), "portName", "serviceAccountName",
    ]),
]);

const JOB: Part = Fields(fields![
    "metadata": METADATA, "spec": JOB_SPEC,
    "status": Fields(fields!["conditions": Items(&Fields(fields!["type", "status"]))]),
]);

const CRON_JOB: Part = Fields(fields![
    "metadata": METADATA,
    "spec": Fields(fields!["jobTemplate": Fields(fields!["spec": JOB_SPEC])]),
]);
