//! The `CustomResourceDefinition` of ClusterNetworkPolicy, for tests: what the network-policy-api
//! project installs (v0.2.0, experimental channel), told anew as far as an API server heeds it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::ApiServer;

/// The name of the `CustomResourceDefinition`.
pub const CLUSTER_NETWORK_POLICY_CRD: &str = "clusternetworkpolicies.policy.networking.k8s.io";

impl ApiServer {
    /// Installs the kind ClusterNetworkPolicy, and waits until it is served. To take it away again:
    /// `kubectl delete crd` with [`CLUSTER_NETWORK_POLICY_CRD`].
    ///
    /// # Errors
    /// When the server does not accept it.
    pub fn install_cluster_network_policy(&self) -> Result<()> {
        let text = cluster_network_policy_crd().to_string();
        self.kubectl(&["apply", "--server-side", "-f", "-"], Some(&text))?;
        let name = format!("crd/{CLUSTER_NETWORK_POLICY_CRD}");
        let established = ["wait", "--for=condition=Established", "--timeout=60s", &name];
        self.kubectl(&established, None).map(drop).context("ClusterNetworkPolicy is not served")
    }
}

/// The definition itself.
#[must_use]
pub fn cluster_network_policy_crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": CLUSTER_NETWORK_POLICY_CRD,
            // Groups of Kubernetes are served only with an approval, or when it says so.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests only"},
        },
        "spec": {
            "group": "policy.networking.k8s.io",
            "scope": "Cluster",
            "names": {
                "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList",
                "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy",
                "shortNames": ["cnp"],
            },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Tier", "type": "string", "jsonPath": ".spec.tier"},
                    {"name": "Priority", "type": "string", "jsonPath": ".spec.priority"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["metadata", "spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec(),
                        "status": status(),
                    },
                }},
            }],
        },
    })
}

fn spec() -> Value {
    json!({
        "type": "object",
        "required": ["priority", "subject", "tier"],
        "properties": {
            "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
            "priority": number(0, 1000),
            "subject": one_of(&json!({"namespaces": selector(), "pods": namespaced_pods()})),
            "ingress": {"type": "array", "maxItems": 25, "items": rule("from", &ingress_peer())},
            "egress": {"type": "array", "maxItems": 25, "items": egress_rule()},
        },
    })
}

fn rule(peers: &str, peer: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["action", peers],
        "properties": {
            "name": {"type": "string", "maxLength": 100},
            "action": {"type": "string", "enum": ["Accept", "Deny", "Pass"]},
            peers: {"type": "array", "minItems": 1, "maxItems": 25, "items": peer},
            "protocols": {"type": "array", "minItems": 1, "maxItems": 25, "items": protocol()},
        },
    })
}

/// A port by name is one of pods.
fn egress_rule() -> Value {
    let mut rule = rule("to", &egress_peer());
    rule["x-kubernetes-validations"] = json!([{
        "rule": "!(self.to.exists(peer, \
                 has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) \
                 && has(self.protocols) \
                 && self.protocols.exists(protocol, has(protocol.destinationNamedPort)))",
        "message": "networks, nodes and domainNames have no named ports",
    }]);
    rule
}

fn ingress_peer() -> Value {
    one_of(&json!({"namespaces": selector(), "pods": namespaced_pods()}))
}

fn egress_peer() -> Value {
    let network = json!({
        "type": "string", "maxLength": 43,
        "x-kubernetes-validations": [{"rule": "isCIDR(self)", "message": "no CIDR"}],
    });
    // Two labels at least; `*.` before them stands for one or more.
    let label = "[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?";
    let domain_name = json!({
        "type": "string", "pattern": format!(r"^(\*\.)?({label}\.)+{label}\.?$"),
    });
    one_of(&json!({
        "namespaces": selector(),
        "pods": namespaced_pods(),
        "nodes": selector(),
        "networks": set(&network),
        "domainNames": set(&domain_name),
    }))
}

fn protocol() -> Value {
    let range = json!({
        "type": "object",
        "required": ["start", "end"],
        "properties": {"start": number(1, 65535), "end": number(1, 65535)},
        "x-kubernetes-validations": [
            {"rule": "self.start < self.end", "message": "start must be below end"},
        ],
    });
    let port = one_of(&json!({"number": number(1, 65535), "range": range}));
    let transport = json!({
        "type": "object", "minProperties": 1, "properties": {"destinationPort": port},
    });
    one_of(&json!({
        "tcp": transport, "udp": transport, "sctp": transport,
        "destinationNamedPort": {"type": "string"},
    }))
}

fn status() -> Value {
    let text = |limit: u32| json!({"type": "string", "maxLength": limit});
    json!({
        "type": "object",
        "required": ["conditions"],
        "properties": {"conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["lastTransitionTime", "message", "reason", "status", "type"],
                "properties": {
                    "type": text(316),
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                    "message": text(32768),
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                },
            },
        }},
    })
}

/// All namespaces unless it says which; the pods must be said.
fn namespaced_pods() -> Value {
    json!({
        "type": "object",
        "required": ["podSelector"],
        "properties": {"namespaceSelector": selector(), "podSelector": selector()},
    })
}

/// A label selector, of which nothing but the shape is looked at.
fn selector() -> Value {
    let texts = json!({
        "type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic",
    });
    json!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string"}, "operator": {"type": "string"},
                        "values": texts,
                    },
                },
            },
        },
    })
}

/// A mapping with exactly one of these fields.
fn one_of(properties: &Value) -> Value {
    json!({
        "type": "object", "minProperties": 1, "maxProperties": 1, "properties": properties,
    })
}

fn set(item: &Value) -> Value {
    json!({
        "type": "array", "minItems": 1, "maxItems": 25, "items": item,
        "x-kubernetes-list-type": "set",
    })
}

fn number(minimum: u32, maximum: u32) -> Value {
    json!({"type": "integer", "format": "int32", "minimum": minimum, "maximum": maximum})
}
