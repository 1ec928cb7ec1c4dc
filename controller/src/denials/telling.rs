//! The agent's side: a denial becomes one line of the log.

use policy_engine::explain::explain_as;
use policy_engine::tier::View;
use policy_engine::world::World;
use tracing::info;

use super::packet::Packet;
use super::table::Sighting;
use super::words;
use crate::dataplane::denial::{Denial, Outcome};

/// What a line says of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// `namespace/pod`, `node/NAME`, or an address.
    pub source: String,
    /// Likewise.
    pub destination: String,
    /// Which policies, and what they lack.
    pub why: String,
}

/// Finds out who and why, by the objects as they are known by now.
#[must_use]
pub fn resolve(world: &World, denial: Denial, packet: Packet) -> Told {
    let view = match denial.outcome {
        Outcome::Denied => View::Enforced,
        Outcome::WouldDeny => View::Audited,
    };
    let flow = world.flow(packet.source, packet.destination, packet.transport.traffic());
    let explained = explain_as(world, &flow, view);
    Told {
        source: words::name(&flow.source),
        destination: words::name(&flow.destination),
        why: words::why(denial, packet.transport, &flow, &explained),
    }
}

/// Logs a sighting.
pub fn log(node: &str, world: &World, sighting: &Sighting) {
    let Sighting { denial, packet, count, period } = sighting;
    let outcome = denial.outcome.as_str();
    let direction = denial.direction.as_str();
    let tier = denial.tier.as_str();
    let seconds = period.map(|period| period.as_secs());
    let message = message(sighting);
    let Some(packet) = packet else {
        info!(node, outcome, direction, tier, count, seconds, "{message}");
        return;
    };
    let told = resolve(world, *denial, *packet);
    info!(
        node,
        outcome,
        direction,
        tier,
        // Values of type str: the text format quotes them.
        source = told.source,
        source_address = %packet.source,
        destination = told.destination,
        destination_address = %packet.destination,
        protocol = packet.transport.protocol(),
        port = packet.transport.port(),
        why = told.why,
        count,
        seconds,
        "{message}"
    );
}

fn message(sighting: &Sighting) -> &'static str {
    match (sighting.denial.outcome, sighting.packet, sighting.period) {
        (Outcome::Denied, None, _) => "denied, with no room to name them",
        (Outcome::Denied, Some(_), None) => "denied",
        (Outcome::Denied, Some(_), Some(_)) => "denied again",
        (Outcome::WouldDeny, None, _) => "would be denied, with no room to name them",
        (Outcome::WouldDeny, Some(_), None) => "would be denied",
        (Outcome::WouldDeny, Some(_), Some(_)) => "would be denied again",
    }
}
