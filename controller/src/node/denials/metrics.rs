//! The metrics of denials. The values of labels come from closed sets only.

use std::sync::atomic::AtomicU64;

use policy_engine::direction::Direction;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::dataplane::denial::Denial;

/// The counters of denials and of their log. Clones share their counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    denials: Family<Kind, Counter>,
    messages: Counter,
    lost: Family<Reason, Counter>,
    listening: Gauge,
}

/// A kind of denial as labels: one of eighteen.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Kind {
    direction: &'static str,
    tier: &'static str,
    verdict: &'static str,
}

impl From<Denial> for Kind {
    fn from(denial: Denial) -> Self {
        Self {
            direction: match denial.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            tier: denial.cause.as_str(),
            verdict: denial.outcome.as_str(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why a denied packet that the kernel logged has no log line with its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The kernel could not deliver it: packets arrived faster than the agent read them.
    Overrun,
    /// The message has no prefix of ours, or its packet cannot be parsed.
    Unreadable,
    /// The table of denials is full: the packet is counted by kind only.
    NoRoom,
}

impl Lost {
    const ALL: [Self; 3] = [Self::Overrun, Self::Unreadable, Self::NoRoom];

    fn reason(self) -> Reason {
        Reason {
            reason: match self {
                Self::Overrun => "overrun",
                Self::Unreadable => "unreadable",
                Self::NoRoom => "no_room",
            },
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            denials: Family::default(),
            messages: Counter::<u64, AtomicU64>::default(),
            lost: Family::default(),
            listening: Gauge::default(),
        };
        // These series exist from the start: an alert can distinguish 0 from a missing series. The
        // series of denials do not: an agent that restarts continues with the kernel's counts, and
        // a 0 before them would look like an increase by the whole count.
        Lost::ALL.into_iter().for_each(|reason| metrics.lost(reason, 0));
        metrics
    }
}

impl Metrics {
    /// Registers all metrics of denials.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "denials",
            "Packets that policy denied, or that policies in audit would have denied",
            self.denials.clone(),
        );
        registry.register(
            "denial_log_messages",
            "Denied packets that the kernel handed over to be logged",
            self.messages.clone(),
        );
        registry.register(
            "denial_log_lost",
            "Denied packets that were to be logged and are in no line by name",
            self.lost.clone(),
        );
        registry.register(
            "denial_log_listening",
            "Whether the kernel's log of denials is read",
            self.listening.clone(),
        );
    }

    /// Sets the number of denied packets of a kind; a smaller number than before is ignored.
    pub fn denied(&self, denial: Denial, packets: u64) {
        let counter = self.denials.get_or_create(&Kind::from(denial));
        counter.inc_by(packets.saturating_sub(counter.get()));
    }

    /// Counts a message that the kernel delivered.
    pub fn message(&self) {
        self.messages.inc();
    }

    /// Counts packets that have no log line with their addresses.
    pub fn lost(&self, reason: Lost, packets: u64) {
        self.lost.get_or_create(&reason.reason()).inc_by(packets);
    }

    /// Returns how many packets were lost for this reason so far.
    #[must_use]
    pub fn lost_so_far(&self, reason: Lost) -> u64 {
        self.lost.get_or_create(&reason.reason()).get()
    }

    /// Sets whether the kernel's log is read.
    pub fn listening(&self, listening: bool) {
        self.listening.set(i64::from(listening));
    }
}
