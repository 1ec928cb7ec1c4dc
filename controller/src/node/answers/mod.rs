//! Answers of a running agent to `portcullis inspect`, `trace` and `verify`, which run beside it.
//!
//! ```text
//! inspect, trace, verify ─ socket ─► thread ─ Inquiry ─► agent's task: one part of an answer
//!            └─► what the kernel holds, read by themselves
//! ```
//!
//! The socket is a file beside the lock that only root can open: no pod can. One question is answered
//! at a time, and each answer is a part of limited size, so that questions delay no change for long.

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
    /// What the agent is, and how far it is.
    Node,
    /// A pod of this node, and its rules.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Two sides of a connection, and what the policies say of it.
    Flow {
        /// A pod as `NAMESPACE/NAME`, `node/NAME`, or an address.
        source: String,
        /// The same.
        destination: String,
        /// The protocol and the port; ICMP if there is none.
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
        /// The last chain of the part before.
        after: Option<String>,
    },
    /// A part of all desired sets.
    Sets {
        /// The last set of the part before.
        after: Option<String>,
    },
    /// Which rulesets the addresses of this node's pods have.
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

/// An answer; of the same name as its question, except for failures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Answer {
    Node(NodeFacts),
    Pod(Box<PodFacts>),
    Flow(Vec<FlowFacts>),
    Chains(Vec<ChainText>),
    Sets(Vec<SetFacts>),
    Endpoints(Vec<EndpointFacts>),
    /// The question has no answer: why.
    Unknown(String),
}

/// A pod of this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Its addresses for which policies are enforced.
    pub addresses: Vec<AddressFacts>,
    /// Whether its ingress is restricted, and its egress.
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
    /// Whether it only reports what it would deny.
    pub is_audited: bool,
}

/// A connection between two addresses of one family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowFacts {
    /// Who connects.
    pub source: SideFacts,
    /// To whom.
    pub destination: SideFacts,
    /// What the policies of the source say, if it is a pod of this node.
    pub egress: Option<Said>,
    /// What the policies of the destination say, if it is a pod of this node.
    pub ingress: Option<Said>,
}

/// One side of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SideFacts {
    /// What it is: a pod, a node, or an address.
    pub name: String,
    /// Its node, if it is a pod or a node.
    pub node: Option<String>,
    /// The address, and how it is attached if it is one of a pod of this node.
    pub at: AddressFacts,
    /// Whether policies are enforced for it on this node.
    pub is_local_pod: bool,
    /// Whether it is this node.
    pub is_this_node: bool,
}

/// What the policies of one side say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Whether they allow the connection.
    pub is_allowed: bool,
    /// Why not, or that policies in audit would deny it.
    pub why: Option<String>,
}

/// A question that waits for the agent.
#[derive(Debug)]
pub struct Inquiry {
    /// The question.
    pub question: Question,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// The questions that wait for the agent: one at a time.
pub type Inquiries = mpsc::Receiver<Inquiry>;
