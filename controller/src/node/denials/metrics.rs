//! What is counted of denials. Labels come from closed sets alone.

use std::sync::atomic::AtomicU64;

use policy_engine::direction::Direction;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::dataplane::denial::Denial;

/// The counters of denials and of their log. Clones count together.
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

/// Why a logged packet is not told by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The kernel could not hand it over: they came faster than they were read.
    Overrun,
    /// It is no packet of ours, or none that can be read.
    Unreadable,
    /// Too many different ones at a time: it is counted by kind.
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
        // Every series is there from the start: an alert can tell 0 from silence. Not so those of
        // denials: an agent that starts again goes on with the kernel's counts, and a 0 in between
        // would make them look like as many more.
        Lost::ALL.into_iter().for_each(|reason| metrics.lost(reason, 0));
        metrics
    }
}

impl Metrics {
    /// Puts all of them under their names.
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

    /// So many packets so far; never fewer than the last time.
    pub fn denied(&self, denial: Denial, packets: u64) {
        let counter = self.denials.get_or_create(&Kind::from(denial));
        counter.inc_by(packets.saturating_sub(counter.get()));
    }

    /// The kernel handed a packet over.
    pub fn message(&self) {
        self.messages.inc();
    }

    /// So many packets are told by no name.
    pub fn lost(&self, reason: Lost, packets: u64) {
        self.lost.get_or_create(&reason.reason()).inc_by(packets);
    }

    /// How many so far.
    #[must_use]
    pub fn lost_so_far(&self, reason: Lost) -> u64 {
        self.lost.get_or_create(&reason.reason()).get()
    }

    /// Whether the log is read.
    pub fn listening(&self, listening: bool) {
        self.listening.set(i64::from(listening));
    }
}
