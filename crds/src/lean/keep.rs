//! What is kept of the objects of each kind: static data.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy_engine::object::Kind;

use super::{LeanKind, Projected};
use crate::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use crate::api::cluster_network_policy::ClusterNetworkPolicy;
use crate::api::node_policy_report::NodePolicyReport;

/// What is kept of one part of an object.
#[derive(Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// Of a mapping these fields; anything else is kept as it is, but empty.
    Fields(&'static [Field], Others),
    /// Of each item of a list this; anything else is kept as it is, but empty.
    Items(&'static Part),
    /// Of a field this, for one purpose, and for others nothing.
    Only(Purpose, &'static Part),
}

/// A field of a mapping, and what is kept of it.
type Field = (&'static str, Part);

/// For what an object is cut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It is converted into an engine value, and compared with what the API server had before.
    Conversion,
    /// It is written into a file, from which the CLI answers later.
    Snapshot,
}

/// What becomes of the fields that a [`Part::Fields`] does not list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// They are skipped.
    Dropped,
    /// They are kept whole, though not in a snapshot.
    Kept,
}

impl Others {
    pub(super) fn are_kept_for(self, purpose: Purpose) -> bool {
        self == Self::Kept && purpose == Purpose::Conversion
    }
}

use Part::{Items, Only, Whole};

/// The annotation that puts a policy into audit.
pub const MODE_ANNOTATION: &str = "portcullis.dev/mode";

/// What is kept of an object of this kind.
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
    }
}

impl LeanKind for Pod {
    const KIND: Kind = Kind::Pod;
}

impl LeanKind for Namespace {
    const KIND: Kind = Kind::Namespace;
}

impl LeanKind for Node {
    const KIND: Kind = Kind::Node;
}

impl LeanKind for NetworkPolicy {
    const KIND: Kind = Kind::NetworkPolicy;
}

impl LeanKind for ClusterNetworkPolicy {
    const KIND: Kind = Kind::ClusterNetworkPolicy;
}

impl LeanKind for ClusterDefaultNetworkPolicy {
    const KIND: Kind = Kind::ClusterDefaultNetworkPolicy;
}

impl Projected for NodePolicyReport {
    const KEEP: &'static Part = &fields(&[
        ("apiVersion", Whole),
        ("kind", Whole),
        REPORT_METADATA,
        ("spec", Whole),
        ("status", Whole),
    ]);
}

const fn fields(fields: &'static [Field]) -> Part {
    Part::Fields(fields, Others::Dropped)
}

const NAME: Field = ("name", Whole);
const NAMESPACE_NAME: Field = ("namespace", Whole);
const LABELS: Field = ("labels", Whole);
const UID: Field = ("uid", Only(Purpose::Conversion, &Whole));
const RESOURCE_VERSION: Field = ("resourceVersion", Only(Purpose::Conversion, &Whole));
const GENERATION: Field = ("generation", Only(Purpose::Conversion, &Whole));
const CREATED: Field = ("creationTimestamp", Whole);
const DELETED: Field = ("deletionTimestamp", Whole);
const OWNERS: Field = (
    "ownerReferences",
    Only(
        Purpose::Snapshot,
        &Items(&fields(&[("apiVersion", Whole), ("kind", Whole), NAME, ("controller", Whole)])),
    ),
);

const METADATA: Field = (
    "metadata",
    fields(&[NAME, NAMESPACE_NAME, RESOURCE_VERSION, GENERATION, LABELS, CREATED, DELETED, OWNERS]),
);

/// Nodes are told apart from earlier ones of the same name.
const NODE_METADATA: Field = (
    "metadata",
    fields(&[NAME, NAMESPACE_NAME, UID, RESOURCE_VERSION, LABELS, CREATED, DELETED, OWNERS]),
);

const POLICY_METADATA: Field = (
    "metadata",
    fields(&[
        NAME,
        NAMESPACE_NAME,
        UID,
        RESOURCE_VERSION,
        GENERATION,
        ("labels", Only(Purpose::Snapshot, &Whole)),
        ("annotations", fields(&[(MODE_ANNOTATION, Whole)])),
    ]),
);

const REPORT_METADATA: Field =
    ("metadata", fields(&[NAME, UID, RESOURCE_VERSION, ("ownerReferences", Whole)]));

/// Fields that conversion does not know may have been meant to isolate: it must see them. The status
/// is compared with what it should be, and means nothing.
const POLICY: Part = Part::Fields(
    &[POLICY_METADATA, ("spec", Whole), ("status", Only(Purpose::Conversion, &Whole))],
    Others::Kept,
);

const CONTAINERS: Part = Items(&fields(&[
    ("ports", Items(&fields(&[NAME, ("containerPort", Whole), ("protocol", Whole)]))),
    ("restartPolicy", Whole),
]));

const POD_SPEC: Field = (
    "spec",
    fields(&[
        ("nodeName", Whole),
        ("hostNetwork", Whole),
        ("containers", CONTAINERS),
        ("initContainers", CONTAINERS),
    ]),
);

const POD: Part = fields(&[
    METADATA,
    POD_SPEC,
    ("status", fields(&[("phase", Whole), ("podIP", Whole), ("podIPs", Whole)])),
]);

const NAMESPACE: Part = fields(&[METADATA]);

const NODE: Part = fields(&[NODE_METADATA, ("status", fields(&[("addresses", Whole)]))]);

const SERVICE: Part = fields(&[
    METADATA,
    (
        "spec",
        fields(&[
            ("selector", Whole),
            ("ports", Whole),
            ("type", Whole),
            ("clusterIP", Whole),
            ("clusterIPs", Whole),
        ]),
    ),
]);

const TEMPLATE: Field = ("template", fields(&[("metadata", fields(&[LABELS])), POD_SPEC]));

const WORKLOAD: Part =
    fields(&[METADATA, ("spec", fields(&[("replicas", Whole), ("selector", Whole), TEMPLATE]))]);

const JOB_SPEC: Field = ("spec", fields(&[("parallelism", Whole), ("suspend", Whole), TEMPLATE]));

const JOB: Part = fields(&[
    METADATA,
    JOB_SPEC,
    ("status", fields(&[("conditions", Items(&fields(&[("type", Whole), ("status", Whole)])))])),
]);

const CRON_JOB: Part =
    fields(&[METADATA, ("spec", fields(&[("jobTemplate", fields(&[JOB_SPEC]))]))]);
