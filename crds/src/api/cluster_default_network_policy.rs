//! `ClusterDefaultNetworkPolicy`: a NetworkPolicy in every namespace that it selects, for pods and
//! directions that nothing else decided.
//!
//! The API server refuses what cannot mean anything, with a message that says what to write. What is
//! null counts as missing, and rules need not ask; but for the value of a label, which is refused.

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many rules a direction has.
pub const RULES_MAX: usize = 50;
/// How many peers, and how many ports, a rule has.
pub const ITEMS_MAX: usize = 50;

/// The condition that says whether the policy means what its author wrote.
pub const ACCEPTED: &str = "Accepted";
/// The condition that says whether every node concerned does what the policy says.
pub const ENFORCED: &str = "Enforced";

/// What holds for pods that nothing else decides about.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "ClusterDefaultNetworkPolicy",
    plural = "clusterdefaultnetworkpolicies",
    shortname = "cdnp",
    category = "portcullis",
    status = "ClusterDefaultNetworkPolicyStatus",
    derive = "PartialEq",
    doc = "A NetworkPolicy in every namespace that it selects, for the pods and directions that no \
           NetworkPolicy and no ClusterNetworkPolicy decides about.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        description = "Whether it decides or only reports what it would deny",
        json_path = ".spec.mode"
    ),
    printcolumn(
        name = "Types",
        type_ = "string",
        description = "The directions that it isolates",
        json_path = ".spec.policyTypes"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        description = "Whether all of it is enforced as written",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Enforced",
        type_ = "string",
        description = "Whether every node concerned does what it says",
        json_path = r#".status.conditions[?(@.type=="Enforced")].status"#
    ),
    printcolumn(
        name = "Pods",
        type_ = "integer",
        description = "Pods that it decides for",
        json_path = ".status.pods"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why it is or is not accepted",
        json_path = r#".status.conditions[?(@.type=="Accepted")].reason"#,
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        description = "On how many nodes it is enforced, and which are missing",
        json_path = r#".status.conditions[?(@.type=="Enforced")].message"#,
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // Not `required`: of a missing field the API server says no more than that it is missing.
    validation = Rule::new("has(self.policyTypes) && size(self.policyTypes) > 0")
        .message("policyTypes must list what the policy isolates: write [Ingress], [Egress] or \
                  [Ingress, Egress]")
        .field_path(".policyTypes"),
    validation = Rule::new(
        "!has(self.ingress) || (has(self.policyTypes) && 'Ingress' in self.policyTypes)"
    ).message("ingress is without effect: list Ingress in policyTypes, or delete ingress"),
    validation = Rule::new(
        "!has(self.egress) || (has(self.policyTypes) && 'Egress' in self.policyTypes)"
    ).message("egress is without effect: list Egress in policyTypes, or delete egress"),
    validation = Rule::new(
        "!has(self.allowDNS) || (has(self.policyTypes) && 'Egress' in self.policyTypes)"
    ).message("allowDNS is without effect: list Egress in policyTypes, or delete allowDNS"),
    validation = Rule::new(
        "!has(self.allowAPIServer) || (has(self.policyTypes) && 'Egress' in self.policyTypes)"
    ).message("allowAPIServer is without effect: list Egress in policyTypes, or delete \
               allowAPIServer")
)]
pub struct ClusterDefaultNetworkPolicySpec {
    /// In which namespaces; all when it is missing. Namespaces of the system are left out unless
    /// `includeSystemNamespaces` is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Which pods there; all when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// The directions that the policy isolates, at least one: what no rule
    /// allows is denied in these directions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub policy_types: Vec<PolicyType>,
    /// The connections to the pods that are allowed. Only with `Ingress` among the `policyTypes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<IngressRule>",
        length(max = RULES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub ingress: Option<Vec<IngressRule>>,
    /// The connections of the pods that are allowed. Only with `Egress` among the `policyTypes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<EgressRule>",
        length(max = RULES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub egress: Option<Vec<EgressRule>>,
    /// Whether connections to the cluster's DNS are allowed as well: UDP and TCP 53 of the pods
    /// labelled `k8s-app: kube-dns` in `kube-system`, and of NodeLocal DNSCache. True unless it
    /// says false. Only with `Egress` among the `policyTypes`.
    #[serde(rename = "allowDNS", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub allow_dns: Option<bool>,
    /// Whether connections to the API server are allowed as well: to the addresses and ports in the
    /// EndpointSlices of the Service `kubernetes` in `default`. False unless it says true. Only
    /// with `Egress` among the `policyTypes`.
    #[serde(rename = "allowAPIServer", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub allow_api_server: Option<bool>,
    /// Whether system namespaces are selected too: `kube-system`, `kube-public`,
    /// `kube-node-lease`, the namespace of Portcullis, and those of the flag
    /// `--system-namespaces`.
    #[serde(default)]
    pub include_system_namespaces: bool,
    /// Whether the policy decides, or only reports what it would deny.
    #[serde(default)]
    pub mode: Mode,
}

/// A direction.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug,
)]
pub enum PolicyType {
    /// Towards the pods.
    Ingress,
    /// From the pods.
    Egress,
}

/// Whether a policy decides.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// Nothing is dropped because of it; what it would deny is reported.
    Audit,
}

/// Connections to pods that are allowed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Debug)]
pub struct IngressRule {
    /// From whom, one of these; from everywhere when it is missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<Peer>",
        length(max = ITEMS_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub from: Option<Vec<Peer>>,
    /// On which ports of the pods, one of these; on all when it is missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::ports")]
    pub ports: Option<Vec<NetworkPolicyPort>>,
}

/// Connections of pods that are allowed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Debug)]
pub struct EgressRule {
    /// To whom, one of these; to everywhere when it is missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<Peer>",
        length(max = ITEMS_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub to: Option<Vec<Peer>>,
    /// To which ports, one of these; to all when it is missing or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::ports")]
    pub ports: Option<Vec<NetworkPolicyPort>>,
}

/// The other side: as in NetworkPolicy, or `sameNamespace`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.sameNamespace) || has(self.podSelector) || has(self.namespaceSelector) \
         || has(self.ipBlock)"
    ).message("a peer must say who it is: write sameNamespace: true for the pods of the same \
               namespace, namespaceSelector: {} for all pods"),
    validation = Rule::new("!has(self.sameNamespace) || self.sameNamespace")
        .message("sameNamespace can only be true: delete it, or list the namespaces that are meant"),
    validation = Rule::new(
        "!has(self.sameNamespace) \
         || !(has(self.podSelector) || has(self.namespaceSelector) || has(self.ipBlock))"
    ).message("sameNamespace must stand alone: make it an item of its own; podSelector alone \
               selects pods of the same namespace already"),
    validation = Rule::new(
        "!has(self.ipBlock) || !(has(self.podSelector) || has(self.namespaceSelector))"
    ).message("ipBlock must stand alone: make it an item of its own")
)]
pub struct Peer {
    /// The pods of the namespace that the isolated pod is in. Only `true`, and alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub same_namespace: Option<bool>,
    /// Pods; without a `namespaceSelector`, those of the namespace that the isolated pod is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// In which namespaces; without a `podSelector`, all their pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses. Only alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::ip_block")]
    pub ip_block: Option<IPBlock>,
}

impl From<NetworkPolicyPeer> for Peer {
    fn from(peer: NetworkPolicyPeer) -> Self {
        let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        Self { same_namespace: None, pod_selector, namespace_selector, ip_block }
    }
}

/// What the cluster controller says of the policy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDefaultNetworkPolicyStatus {
    /// `Accepted`: whether all of it is enforced as written, with the reason when not. `Enforced`:
    /// whether every node concerned does what it says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::conditions")]
    pub conditions: Vec<Condition>,
    /// How many namespaces it is about, those without a pod among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub namespaces: Option<i64>,
    /// How many pods it decides for: those that it selects and that no NetworkPolicy isolates in
    /// one of its directions, at least. Rules of ClusterNetworkPolicies do not count, nor does it
    /// whether the mode is Audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pods: Option<i64>,
    /// The nodes that run pods that it selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
}

/// How far the nodes are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Nodes {
    /// Nodes that do what this generation of the policy says.
    #[schemars(range(min = 0))]
    pub realised: i64,
    /// Nodes that run pods that it selects.
    #[schemars(range(min = 0))]
    pub concerned: i64,
}
