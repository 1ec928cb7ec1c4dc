//! The API objects of Portcullis itself: group `portcullis.dev`. Types only; their manifests in
//! `deploy/crds/` are generated from here (`make generate`).

#[expect(unreachable_pub, reason = "KubeSchema derives from a copy inside a function")]
#[expect(clippy::duplicated_attributes, reason = "each printcolumn has a type_")]
pub mod cluster_default_network_policy;
pub mod cluster_network_policy;
pub mod inspection;
#[expect(unreachable_pub, reason = "KubeSchema derives from a copy inside a function")]
pub mod node_policy_report;
mod parts;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::{Schema, json_schema};

use self::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use self::node_policy_report::NodePolicyReport;
use self::parts::{ip_block, label_selector, ports};

/// The API group of every kind here.
pub const GROUP: &str = "portcullis.dev";

/// Every kind, as it is installed in a cluster, in the order of their names.
#[must_use]
pub fn custom_resource_definitions() -> Vec<CustomResourceDefinition> {
    vec![ClusterDefaultNetworkPolicy::crd(), NodePolicyReport::crd()]
}

/// `metav1.Condition` with the limits that its Go type carries as markers: one for each type, so
/// that several writers can each own theirs.
fn conditions(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "What the condition is about.",
                    "type": "string",
                    "maxLength": 316
                },
                "status": {
                    "description": "Whether it holds.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"]
                },
                "observedGeneration": {
                    "description": "The generation of this object that the condition is about.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0
                },
                "lastTransitionTime": {
                    "description": "When its status changed last.",
                    "type": "string",
                    "format": "date-time"
                },
                "reason": {
                    "description": "Why, in one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
                },
                "message": {
                    "description": "Why, in one line for people.",
                    "type": "string",
                    "maxLength": 32768
                }
            }
        }
    })
}
