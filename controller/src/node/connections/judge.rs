//! Decides which connections end. Pure.
//!
//! The rules accept packets of established connections first. So a connection that policies no
//! longer allow continues until its entry is deleted; then its packets are judged as new ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap::ValueEnum;
use policy_engine::compiled::Compiled;
use policy_engine::direction::Direction;
use policy_engine::flow::Traffic;
use policy_engine::port::Protocol;

use crate::dataplane::netlink::conntrack::Connection;

/// The protocols whose connections end when policies no longer allow them.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum RevokeEstablished {
    /// Every protocol but TCP.
    Udp,
    /// Every protocol.
    All,
    /// No protocol.
    None,
}

impl RevokeEstablished {
    /// Whether connections of a protocol end when policies no longer allow them.
    #[must_use]
    pub fn covers(self, protocol: u8) -> bool {
        match self {
            Self::Udp => protocol != TCP,
            Self::All => true,
            Self::None => false,
        }
    }
}

/// What the flags set for connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choices {
    /// The protocols whose connections end when policies no longer allow them.
    pub revoke: RevokeEstablished,
    /// Whether egress policies do not apply to what pods send to their node.
    pub allow_egress_to_own_node: bool,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// A pod of this node no longer has one of its addresses.
    AddressReleased,
    /// Policies, or the labels that they select, changed.
    PolicyChanged,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::AddressReleased, Self::PolicyChanged];

    /// The value of the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressReleased => "AddressReleased",
            Self::PolicyChanged => "PolicyChanged",
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// Its entry is deleted: its next packet is judged as the first packet of a connection.
    Delete,
    /// Its entry stays, but the client's packets are judged again. Without the entry, an answer of
    /// the server would open a new connection where the server may connect to the client.
    Halt,
}

/// What is known of a connection, apart from the policies.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The addresses and ports of the connection.
    pub connection: Connection,
    /// Whether a conntrack helper expected it, for example as the data connection of FTP.
    pub is_expected: bool,
    /// Whether an answer to a connection that has just ended opened it, in the reverse direction.
    pub is_revived: bool,
    /// Whether its entry was halted before.
    pub is_halted: bool,
    /// Whether the node itself opened it.
    pub from_node: bool,
    /// Whether its destination is the node itself.
    pub to_node: bool,
}

impl Question {
    fn reversed(self) -> Self {
        let (from_node, to_node) = (self.to_node, self.from_node);
        Self { connection: self.connection.reversed(), from_node, to_node, ..self }
    }
}

/// What the decision depends on.
pub struct View<'a> {
    /// The policies.
    pub compiled: &'a Compiled,
    /// Addresses that pods of this node have lost.
    pub released: &'a BTreeSet<IpAddr>,
    /// Whether a pod has this address now.
    pub is_owned: &'a dyn Fn(IpAddr) -> bool,
    /// The flags.
    pub choices: Choices,
}

impl View<'_> {
    /// Why a connection ends, and how; `None` when it continues or has been halted before.
    #[must_use]
    pub fn ending(&self, question: &Question) -> Option<(Reason, Means)> {
        let reason = self.end(question)?;
        let halts = reason == Reason::PolicyChanged
            && question.connection.protocol == TCP
            && !question.is_revived
            && self.allows(&question.reversed());
        match (halts, question.is_halted) {
            (true, true) => None,
            (true, false) => Some((reason, Means::Halt)),
            (false, _) => Some((reason, Means::Delete)),
        }
    }

    fn end(&self, question: &Question) -> Option<Reason> {
        let addresses = question.connection.addresses();
        let is_released = |address: &IpAddr| self.released.contains(address);
        if addresses.iter().any(|address| is_released(address) && !(self.is_owned)(*address)) {
            return Some(Reason::AddressReleased);
        }
        // Helpers expect connections to ports that no policy names.
        let allows =
            self.allows(question) && (!question.is_revived || self.allows(&question.reversed()));
        if question.is_expected || allows {
            return None;
        }
        // Another pod has the address already. An allowed connection can be its own one, and must
        // keep its NAT; a connection that is not allowed was the former pod's.
        if addresses.iter().any(is_released) {
            return Some(Reason::AddressReleased);
        }
        let is_covered = self.choices.revoke.covers(question.connection.protocol);
        is_covered.then_some(Reason::PolicyChanged)
    }

    /// Whether the first packet of the connection would pass the rules now.
    fn allows(&self, question: &Question) -> bool {
        let Question { connection, from_node, to_node, .. } = question;
        let Connection { source, destination, .. } = *connection;
        let traffic = traffic(connection);
        let allows =
            |direction, subject, peer| self.compiled.allows_in(direction, subject, peer, traffic);
        source == destination
            || ((*to_node && self.choices.allow_egress_to_own_node
                || allows(Direction::Egress, source, destination))
                // Packets that the node sends are never judged.
                && (*from_node || allows(Direction::Ingress, destination, source)))
    }
}

fn traffic(connection: &Connection) -> Traffic {
    let protocol = match connection.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        SCTP => Protocol::Sctp,
        _ => return Traffic::Other,
    };
    connection.ports.map_or(Traffic::Other, |(_, port)| Traffic::Port(protocol, port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy_engine::cidr::CidrSet;
    use policy_engine::compiled::{
        AddressSet, Endpoint, Match, Member, Rule, Ruleset, SetKind, Target, TrafficMatch,
    };
    use policy_engine::direction::PerDirection;
    use policy_engine::id::{ContentHasher, ContentId, RulesetId, SetId};
    use policy_engine::model::PodKey;
    use policy_engine::port::PortRange;
    use policy_engine::tier::Tier;

    use super::*;

    const WEB: &str = "10.0.0.1";
    const API: &str = "10.0.0.2";
    const OTHER: &str = "10.0.0.3";
    const NODE: &str = "10.0.0.254";
    const SERVICE: &str = "10.96.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn content(text: &str) -> ContentId {
        let mut hasher = ContentHasher::new("test");
        hasher.text(text);
        hasher.finish()
    }

    /// `WEB` may send to UDP port 53 of `API`, and `API` receives that from `WEB` alone.
    fn compiled() -> Compiled {
        let mut compiled = Compiled::default();
        for (direction, subject, peer) in
            [(Direction::Egress, WEB, API), (Direction::Ingress, API, WEB)]
        {
            let set = SetId::new(content(peer));
            let members = [Member::Address(ip(peer))].into();
            compiled.sets.insert(set, AddressSet { kind: SetKind::Addresses, members });
            let matches = Match::Peers {
                traffic: TrafficMatch::Ports(Protocol::Udp, vec![PortRange::single(53)]),
                labelled: Some(set),
                cidrs: CidrSet::default(),
            };
            let rules = vec![Rule { matches, target: Target::Allow }];
            let (tier, otherwise) = (Tier::NetworkPolicy, Target::Deny);
            let id = RulesetId::new(content(subject));
            let ruleset = Ruleset { direction, tier, rules, otherwise };
            compiled.rulesets.insert(id, Arc::new(ruleset));
            let mut enforced = PerDirection::default();
            *enforced.get_mut(direction) = Some(id);
            let (pod, audited) = (PodKey::new("shop", subject), PerDirection::default());
            compiled.endpoints.insert(ip(subject), Endpoint { pod, enforced, audited });
        }
        compiled
    }

    /// UDP from a pod to a port of another one.
    fn udp(source: &str, destination: &str, port: u16) -> Question {
        let (source, destination) = (ip(source), ip(destination));
        let connection = Connection {
            source,
            dialled: destination,
            destination,
            answered: source,
            protocol: UDP,
            ports: Some((40_000, port)),
        };
        let [from_node, to_node] = [source, destination].map(|address| address == ip(NODE));
        let (is_expected, is_revived, is_halted) = (false, false, false);
        Question { connection, is_expected, is_revived, is_halted, from_node, to_node }
    }

    fn of(question: Question, protocol: u8) -> Question {
        let connection = Connection { protocol, ..question.connection };
        Question { connection, ..question }
    }

    fn end(question: Question, revoke: RevokeEstablished) -> Option<Reason> {
        let (compiled, released) = (compiled(), BTreeSet::new());
        let view = View {
            compiled: &compiled,
            released: &released,
            is_owned: &|_| true,
            choices: Choices { revoke, allow_egress_to_own_node: false },
        };
        view.end(&question)
    }

    #[test]
    fn a_connection_ends_exactly_when_a_new_one_would_be_denied() {
        let through_a_service = {
            let asked = udp(WEB, API, 53);
            let connection = Connection { dialled: ip(SERVICE), ..asked.connection };
            Question { connection, ..asked }
        };
        let masqueraded = {
            let asked = udp(OTHER, API, 53);
            // The rules match the address before SNAT.
            let connection = Connection { answered: ip(WEB), ..asked.connection };
            Question { connection, ..asked }
        };
        let expected = Question { is_expected: true, ..udp(WEB, API, 9) };
        let ping = {
            let asked = of(udp(WEB, API, 53), 1);
            Question { connection: Connection { ports: None, ..asked.connection }, ..asked }
        };
        // From `API`, to a port of `WEB`.
        let revived = |port: u16, own: u16| {
            let asked = udp(API, WEB, port);
            let connection = Connection { ports: Some((own, port)), ..asked.connection };
            Question { connection, is_revived: true, ..asked }
        };
        let ends = Some(Reason::PolicyChanged);
        for (name, question, expected) in [
            ("allowed", udp(WEB, API, 53), None),
            ("another port", udp(WEB, API, 54), ends),
            ("no permission to send", udp(WEB, OTHER, 53), ends),
            ("no permission to receive", udp(OTHER, API, 53), ends),
            ("between pods without policies", udp(OTHER, SERVICE, 9), None),
            ("through a Service", through_a_service, None),
            ("SNAT to an allowed address", masqueraded, ends),
            ("from the node", udp(NODE, API, 9), None),
            ("to the node", udp(WEB, NODE, 9), ends),
            ("a pod to itself", udp(WEB, WEB, 9), None),
            ("opened by the server", udp(API, WEB, 40_000), None),
            ("by an answer to one that ended", revived(53, 40_001), ends),
            ("by an answer to an allowed one", revived(40_000, 53), None),
            ("SCTP is not UDP", of(udp(WEB, API, 53), SCTP), ends),
            ("no ports", ping, ends),
            ("expected by a helper", expected, None),
        ] {
            assert_eq!(end(question, RevokeEstablished::Udp), expected, "{name}");
        }
    }

    #[test]
    fn the_flag_decides_which_protocols_end() {
        let ends = Some(Reason::PolicyChanged);
        for (protocol, revoke, expected) in [
            (TCP, RevokeEstablished::Udp, None),
            (TCP, RevokeEstablished::All, ends),
            (TCP, RevokeEstablished::None, None),
            (UDP, RevokeEstablished::All, ends),
            (UDP, RevokeEstablished::None, None),
            (SCTP, RevokeEstablished::Udp, ends),
        ] {
            let question = of(udp(WEB, OTHER, 53), protocol);
            assert_eq!(end(question, revoke), expected, "{protocol} {revoke:?}");
        }
    }

    #[test]
    fn tcp_is_halted_where_its_server_could_connect_to_its_client() {
        let (compiled, released) = (compiled(), BTreeSet::new());
        let view = View {
            compiled: &compiled,
            released: &released,
            is_owned: &|_| true,
            choices: Choices { revoke: RevokeEstablished::All, allow_egress_to_own_node: false },
        };
        let mut isolated = compiled.clone();
        let sends = isolated.endpoints[&ip(WEB)].enforced.egress;
        isolated.endpoints.get_mut(&ip(API)).unwrap().enforced.egress = sends;
        let isolated = View { compiled: &isolated, ..view };
        let asked = of(udp(OTHER, API, 9), TCP);
        let halted = Question { is_halted: true, ..asked };
        let revived = Question { is_revived: true, ..of(udp(API, OTHER, 9), TCP) };
        let (halt, delete) = (Some(Means::Halt), Some(Means::Delete));
        for (name, view, question, expected) in [
            ("its server may send to all", &view, asked, halt),
            ("it was halted before", &view, halted, None),
            ("its server may send no more", &isolated, asked, delete),
            ("it was halted, and its server may send no more", &isolated, halted, delete),
            ("its server opened it by an answer", &view, revived, delete),
            ("not TCP", &view, udp(OTHER, API, 9), delete),
            ("allowed", &view, of(udp(OTHER, WEB, 9), TCP), None),
        ] {
            assert_eq!(view.ending(&question).map(|(_, means)| means), expected, "{name}");
        }
    }

    #[test]
    fn egress_to_the_own_node_goes_on_where_the_flag_allows_it() {
        let (compiled, released) = (compiled(), BTreeSet::new());
        let view = View {
            compiled: &compiled,
            released: &released,
            is_owned: &|_| true,
            choices: Choices { revoke: RevokeEstablished::All, allow_egress_to_own_node: true },
        };
        assert_eq!(view.end(&udp(WEB, NODE, 9)), None);
        assert_eq!(view.end(&udp(WEB, OTHER, 9)), Some(Reason::PolicyChanged));
    }

    #[test]
    fn an_address_that_no_pod_has_any_more_ends_all_its_connections() {
        let compiled = compiled();
        let choices = Choices { revoke: RevokeEstablished::None, allow_egress_to_own_node: false };
        let ends = Some(Reason::AddressReleased);
        let answered = {
            let asked = udp(OTHER, SERVICE, 9);
            Question { connection: Connection { answered: ip(API), ..asked.connection }, ..asked }
        };
        for (name, question, released, owned, expected) in [
            ("its own", of(udp(API, OTHER, 9), TCP), API, false, ends),
            ("to it, allowed", udp(WEB, API, 53), API, false, ends),
            ("from the node", udp(NODE, API, 9), API, false, ends),
            ("on the side of the answers", answered, API, false, ends),
            ("expected", Question { is_expected: true, ..udp(WEB, API, 9) }, API, false, ends),
            ("another one's", udp(WEB, OTHER, 9), API, false, None),
            ("of the next pod, allowed", of(udp(API, OTHER, 9), TCP), API, true, None),
            ("the next pod may not", of(udp(OTHER, API, 53), TCP), API, true, ends),
        ] {
            let released = [ip(released)].into();
            let view =
                View { compiled: &compiled, released: &released, is_owned: &|_| owned, choices };
            assert_eq!(view.end(&question), expected, "{name}");
        }
    }
}
