//! Answers of a running agent to `portcullis inspect`, `trace` and `verify` on the same node.
//!
//! ```text
//! inspect, trace, verify ─ socket ─► thread ─ Inquiry ─► agent's task: one part of an answer
//!            └─► the rules and sets in the kernel, which they read without the agent
//! ```
//!
//! The socket is a file in the directory of the lock that only root can open; pods cannot. One
//! question is answered at a time, and each answer has a limited size, so that questions delay
//! changes little.

pub mod socket;

use std::net::IpAddr;

use policy_engine::port::Protocol;
use portcullis_crds::api::inspection::{EndpointFacts, NodeFacts, SetFacts};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::dataplane::inspection::{ChainText, PodRules};

/// A question to the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Facts of the agent: node, backend and options, and whether all changes are applied.
    Node,
    /// Facts of a pod of this node, and its rules.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The two sides of a connection, and whether the policies allow it.
    Flow {
        /// A pod as `NAMESPACE/NAME`, `node/NAME`, or an address.
        source: String,
        /// In the same format as `source`.
        destination: String,
        /// The protocol and the port; `None` for ICMP.
        port: Option<(ProtocolName, u16)>,
    },
    /// The desired chains of a family with these names.
    NamedChains {
        /// `IPv4` or `IPv6`.
        family: String,
        /// The names.
        names: Vec<String>,
    },
    /// A part of all desired chains of a family.
    Chains {
        /// `IPv4` or `IPv6`.
        family: String,
        /// The last chain of the part before; `None` for the first part.
        after: Option<String>,
    },
    /// A part of all desired sets.
    Sets {
        /// The last set of the part before; `None` for the first part.
        after: Option<String>,
    },
    /// The rulesets of the addresses of this node's pods.
    Endpoints,
}

/// The name of a protocol as the API writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum ProtocolName {
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::Tcp,
            ProtocolName::Udp => Self::Udp,
            ProtocolName::Sctp => Self::Sctp,
        }
    }
}

/// An answer; its variant has the name of the question's variant, except for failures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Answer {
    Node(Box<NodeFacts>),
    Pod(Box<PodFacts>),
    Flow(Vec<FlowFacts>),
    Chains(Vec<ChainText>),
    Sets(Vec<SetFacts>),
    Endpoints(Vec<EndpointFacts>),
    /// The question has no answer. Contains the reason.
    Unknown(String),
}

/// A pod of this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// The addresses of the pod for which policies are enforced.
    pub addresses: Vec<AddressFacts>,
    /// Whether policies isolate its ingress, and its egress.
    pub isolated: (bool, bool),
    /// The policies that select it.
    pub policies: Vec<PolicyFacts>,
    /// Its rules.
    pub rules: PodRules,
}

/// An address of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AddressFacts {
    /// The address.
    pub address: IpAddr,
    /// The node's end of the interface of the pod, if it is known.
    pub interface: Option<String>,
    /// The bridge of which the interface is a port.
    pub bridge: Option<String>,
}

/// A policy that selects a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyFacts {
    /// `NAMESPACE/NAME`, or `KIND/NAME` without a namespace.
    pub name: String,
    /// Its tier.
    pub tier: String,
    /// `Ingress`, `Egress`.
    pub directions: Vec<String>,
    /// Whether the policy is in audit mode: it only reports what it would deny.
    pub is_audited: bool,
}

/// A connection between two addresses of one family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowFacts {
    /// The side that opens the connection.
    pub source: SideFacts,
    /// The side that accepts the connection.
    pub destination: SideFacts,
    /// The verdict of the source's policies, if it is a pod of this node.
    pub egress: Option<VerdictFacts>,
    /// The verdict of the destination's policies, if it is a pod of this node.
    pub ingress: Option<VerdictFacts>,
}

/// One side of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideFacts {
    /// The name of the pod or node, or the address.
    pub name: String,
    /// The node, if the side is a pod or a node.
    pub node: Option<String>,
    /// The address, and its interface if it belongs to a pod of this node.
    pub at: AddressFacts,
    /// Whether this node enforces policies for the side.
    pub is_local_pod: bool,
    /// Whether the side is this node.
    pub is_this_node: bool,
}

/// The verdict of the policies of one side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictFacts {
    /// Whether the policies allow the connection.
    pub is_allowed: bool,
    /// Why policies deny it, or would deny it in audit mode.
    pub why: Option<String>,
}

/// A question that waits for the agent.
#[derive(Debug)]
pub struct Inquiry {
    /// The question.
    pub question: Question,
    /// The channel for the answer.
    pub answer: oneshot::Sender<Answer>,
}

/// The questions that wait for the agent: one at a time.
pub type Inquiries = mpsc::Receiver<Inquiry>;
