//! The chain of one kind of denial: counts all packets, logs some, then drops; in audit, returns.
//!
//! ```text
//! PORTCULLIS-DENY-IN-POLICY   -m comment --comment "denied: ingress, NetworkPolicy"      counts all
//!                             -m hashlimit … -m limit … -j NFLOG --nflog-prefix "portcullis 1" …
//!                             -j DROP
//! PORTCULLIS-AUDIT-IN-POLICY  the same two rules without DROP: the packet returns
//! ```
//!
//! Two limits keep a flood from costing much: one for each sender, and one for all senders
//! together. If a sender exceeds its limit, only its own packets are not logged.

use policy_engine::cidr::Family;
use policy_engine::port::Protocol;

use super::kind::{Denial, Outcome};
use crate::dataplane::options::{DenyAction, LogGroup};
use crate::dataplane::rule::{Match, Rate, Rule, Side, Verdict};

/// The rate at which packets of one sender are logged.
const SENDER_RATE: Rate = Rate { per_second: 10, burst: 20 };

/// The most senders that have a limit of their own.
const SENDERS_MAX: u32 = 16_384;

/// The rate at which packets of one kind of denial are logged.
const TOTAL_RATE: Rate = Rate { per_second: 100, burst: 200 };

/// How many bytes of a packet are logged: the headers of IPv6 and TCP with all options.
const LOGGED_BYTES: u32 = 128;

impl Denial {
    /// The rules of the chain of this kind. Without a group, nothing is logged.
    pub(in crate::dataplane) fn rules(
        self,
        family: Family,
        deny: DenyAction,
        log: Option<LogGroup>,
    ) -> Vec<Rule> {
        let mut rules = vec![self.count()];
        rules.extend(log.map(|group| self.log(group)));
        if self.outcome == Outcome::Denied {
            rules.extend(deny_rules(family, deny));
        }
        rules
    }

    /// The counting rule is the first one: a limit without room for another sender drops the
    /// packet.
    fn count(self) -> Rule {
        let what = match self.outcome {
            Outcome::Denied => "denied",
            Outcome::WouldDeny => "would be denied",
        };
        let comment = format!("{what}: {}, {}", self.direction.field(), self.cause.as_str());
        Rule::new([Match::Comment(comment.into())], Verdict::Continue)
    }

    fn log(self, group: LogGroup) -> Rule {
        // A sender may forge many addresses. Packets of more addresses than the limit has room for
        // are dropped, which is correct for denied packets only. In audit, the limit is by the
        // address of a pod of this node, so that it always has room.
        let by = match self.outcome {
            Outcome::Denied => Side::Source,
            Outcome::WouldDeny => Side::of_subject(self.direction),
        };
        // The kernel keeps the rate of the first rule with a number, so each rate has its own
        // number.
        let number = self.number();
        let each =
            Match::RatePerAddress { rate: SENDER_RATE, by, addresses_max: SENDERS_MAX, number };
        let verdict = Verdict::Log { prefix: self.prefix().into(), group, bytes: LOGGED_BYTES };
        Rule::new([each, Match::Rate(TOTAL_RATE)], verdict)
    }
}

/// The rules that deny all packets.
pub(in crate::dataplane) fn deny_rules(family: Family, deny: DenyAction) -> Vec<Rule> {
    match deny {
        DenyAction::Drop => vec![Rule::all(Verdict::Drop)],
        DenyAction::Reject => vec![
            // An ICMP error needs an address of the node's own; a reset does not.
            Rule::new([Match::Ports(Protocol::Tcp, Box::default())], Verdict::RejectTcp),
            Rule::all(Verdict::Reject(family)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use policy_engine::direction::Direction;
    use policy_engine::tier::Tier;

    use super::super::kind::Cause;
    use super::*;
    use crate::dataplane::backend::iptables::text;

    fn rules(outcome: Outcome, deny: DenyAction, log: Option<LogGroup>) -> Vec<String> {
        let (direction, cause) = (Direction::Ingress, Cause::Policies(Tier::NetworkPolicy));
        let rules = Denial { outcome, direction, cause }.rules(Family::V4, deny, log);
        rules.iter().map(text::rule).collect()
    }

    #[test]
    fn a_denial_is_counted_then_logged_then_dropped() {
        let rules = rules(Outcome::Denied, DenyAction::Drop, Some(LogGroup::default()));
        let [count, log, drop] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!(count, "-m comment --comment \"denied: ingress, NetworkPolicy\"");
        let expected = "-m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 \
             --hashlimit-mode srcip --hashlimit-name portcullis-1 --hashlimit-htable-size 1024 \
             --hashlimit-htable-max 16384 -m limit --limit 100/sec --limit-burst 200 \
             -j NFLOG --nflog-prefix \"portcullis 1\" --nflog-group 9466 --nflog-size 128 \
             --nflog-threshold 1";
        assert_eq!(log, expected);
        assert_eq!(drop, "-j DROP");
    }

    #[test]
    fn audit_drops_nothing_and_its_limit_has_room_for_all_pods_of_a_node() {
        let rules = rules(Outcome::WouldDeny, DenyAction::Reject, Some(LogGroup::default()));
        let [_, log] = rules.as_slice() else { panic!("{rules:?}") };
        assert!(log.contains("-mode dstip ") && log.contains("-j NFLOG"), "{log}");
    }

    #[test]
    fn without_a_group_denials_are_counted_only() {
        assert_eq!(rules(Outcome::WouldDeny, DenyAction::Drop, None).len(), 1);
        let reject = rules(Outcome::Denied, DenyAction::Reject, None);
        assert_eq!(reject.len(), 3);
        assert!(reject.iter().all(|rule| !rule.contains("NFLOG")), "{reject:?}");
    }
}
