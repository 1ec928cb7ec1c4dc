//! The part of the denial log that runs in the agent: it writes one log line for a denial.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use policy_engine::engine::Engine;
use policy_engine::tier::View;
use tracing::info;

use super::packet::Packet;
use super::table::{Occasion, Sighting};
use super::words;
use crate::dataplane::denial::{Cause, Denial, Outcome};

/// What a log line reports about a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// `namespace/pod`, `node/NAME`, or an address.
    pub source: String,
    /// In the same format as `source`.
    pub destination: String,
    /// The policies that deny the packet, and what they do not allow.
    pub why: String,
    /// A hash of source, destination and denying policies; `None` when no policy of the denial's
    /// tier denies the packet now.
    pub cause: Option<u64>,
}

/// Finds the source, the destination and the reason, with the policies that are enforced now.
#[must_use]
pub fn resolve(engine: &Engine, denial: Denial, packet: Packet) -> Line {
    let view = match denial.outcome {
        Outcome::Denied => View::Enforced,
        Outcome::WouldDeny => View::Audited,
    };
    let world = engine.world();
    let flow = world.flow(packet.source, packet.destination, packet.transport.traffic());
    // A contested address is named as an address: no pod has it as a peer.
    let flow = world.judged(&flow, denial.direction).into_owned();
    let blame = engine.blame(&flow, denial.direction, view);
    let blame = blame.as_ref();
    let (source, destination) = (words::name(&flow.source), words::name(&flow.destination));
    let cause = blame.filter(|blame| Cause::Policies(blame.tier) == denial.cause).map(|blame| {
        let mut hasher = DefaultHasher::new();
        let cause = words::cause(denial, packet.transport, &flow, blame);
        (&source, &destination, cause).hash(&mut hasher);
        hasher.finish()
    });
    let why = words::why(denial, packet.transport, &flow, blame);
    Line { source, destination, why, cause }
}

/// Logs a sighting, unless it was logged before.
pub fn log(node: &str, engine: &Engine, sighting: &Sighting) {
    let Sighting { denial, packet, packets, occasion, reported } = sighting;
    let line = packet.map(|packet| resolve(engine, *denial, packet));
    let cause = line.as_ref().and_then(|line| line.cause);
    let is_news = match (occasion, cause) {
        (Occasion::PoliciesChanged, None) => return,
        (_, cause) => reported.is_news(cause.unwrap_or_default()),
    };
    if *occasion == Occasion::PoliciesChanged && !is_news {
        return;
    }
    let count = reported.count(*packets);
    if count == 0 {
        return;
    }
    let verdict = denial.outcome.as_str();
    let direction = denial.direction.as_str();
    let tier = denial.cause.as_str();
    let seconds = match occasion {
        Occasion::Again(period) => Some(period.as_secs()),
        Occasion::First | Occasion::PoliciesChanged => None,
    };
    let message = message(sighting);
    let Some((packet, line)) = packet.zip(line) else {
        info!(node, verdict, direction, tier, count, seconds, "{message}");
        return;
    };
    info!(
        node,
        verdict,
        direction,
        tier,
        // Values of type str: the text format quotes them.
        source = line.source,
        source_address = %packet.source,
        destination = line.destination,
        destination_address = %packet.destination,
        protocol = packet.transport.protocol(),
        port = packet.transport.port(),
        why = line.why,
        count,
        seconds,
        "{message}"
    );
}

fn message(sighting: &Sighting) -> &'static str {
    let again = matches!(sighting.occasion, Occasion::Again(_));
    match (sighting.denial.outcome, sighting.packet, again) {
        (Outcome::Denied, None, _) => "denied, with no room to name them",
        (Outcome::Denied, Some(_), false) => "denied",
        (Outcome::Denied, Some(_), true) => "denied again",
        (Outcome::WouldDeny, None, _) => "would be denied, with no room to name them",
        (Outcome::WouldDeny, Some(_), false) => "would be denied",
        (Outcome::WouldDeny, Some(_), true) => "would be denied again",
    }
}
