//! The JSON contract, `whatif.portcullis.dev/v1alpha1`: the parts that several answers contain.
//! Fields are added, never changed.

use policy_engine::direction::Direction;
use policy_engine::policy::adding_field;
use policy_engine::reach::PortSet;
use portcullis_crds::diagnostic::Diagnostic;
use schemars::JsonSchema;
use serde::Serialize;

/// The `apiVersion` of everything here.
pub const API_VERSION: &str = "whatif.portcullis.dev/v1alpha1";

/// A protocol with ports.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Ports of one protocol, both ends included.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub from: u16,
    /// The last port.
    pub to: u16,
}

/// Towards the workload, or from it.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[schemars(rename = "Direction")]
#[allow(missing_docs)]
pub enum DirectionJson {
    Ingress,
    Egress,
}

impl From<Direction> for DirectionJson {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

impl From<policy_engine::port::Protocol> for Protocol {
    fn from(protocol: policy_engine::port::Protocol) -> Self {
        match protocol {
            policy_engine::port::Protocol::Tcp => Self::Tcp,
            policy_engine::port::Protocol::Udp => Self::Udp,
            policy_engine::port::Protocol::Sctp => Self::Sctp,
        }
    }
}

/// A port set as the contract has it.
#[must_use]
pub fn ports(set: &PortSet) -> Vec<Ports> {
    let each = set.iter();
    each.map(|(protocol, range)| Ports {
        protocol: protocol.into(),
        from: range.first(),
        to: range.last(),
    })
    .collect()
}

/// The diagnostics and the notes, one text each.
#[must_use]
pub fn diagnostics(diagnostics: &[Diagnostic], notes: &[String]) -> Vec<String> {
    let found = diagnostics.iter().map(ToString::to_string);
    found.chain(notes.iter().map(|note| format!("note: {note}"))).collect()
}

/// The position of a rule as the contract has it, from 1; 0 for a rule that a field adds.
#[must_use]
pub fn position(rule: usize) -> usize {
    if adding_field(rule).is_some() { 0 } else { rule }
}
