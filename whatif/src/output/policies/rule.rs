//! The peers and ports of a rule in words.

use policy_engine::evaluate::pod_peer_matches;
use policy_engine::policy::{Peer, Peers, PodPeer, PortMatch, Ports};
use policy_engine::port::PortRange;
use policy_engine::words;

use crate::model::Cluster;

/// The word for the peers or ports of a part that could not be understood.
const NOTHING: &str = "nothing: this part could not be understood";

/// The peers of a rule: one of these.
pub(super) fn peers(cluster: &Cluster, peers: &Peers) -> Vec<String> {
    match peers {
        Peers::Any => vec!["every address".to_owned()],
        Peers::Listed(peers) => peers.iter().map(|peer| self::peer(cluster, peer)).collect(),
    }
}

fn peer(cluster: &Cluster, peer: &Peer) -> String {
    match peer {
        Peer::Pods(peer) => pods(cluster, peer),
        Peer::Block(block) if block.except.is_empty() => block.cidr.to_string(),
        Peer::Block(block) => {
            let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            format!("{} except {}", block.cidr, except.join(", "))
        }
        Peer::Nodes(nodes) => words::nodes(nodes),
        Peer::Invalid => NOTHING.to_owned(),
    }
}

/// The pods that a peer selects, and how many of the cluster these are.
fn pods(cluster: &Cluster, peer: &PodPeer) -> String {
    let pods = words::pod_peer(peer);
    let world = &cluster.world;
    let found = world.pods().values().filter(|pod| pod.takes_part());
    match found.filter(|pod| pod_peer_matches(world, peer, pod)).count() {
        0 => format!("{pods} (none at present)"),
        count => format!("{pods} ({count} at present)"),
    }
}

/// The ports: one of these.
pub(super) fn ports(ports: &Ports) -> Vec<String> {
    match ports {
        Ports::Any => vec!["every port".to_owned()],
        Ports::Listed(ports) => ports.iter().map(port).collect(),
    }
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Numbers(protocol, PortRange::ALL) => format!("every {protocol} port"),
        PortMatch::Numbers(protocol, range) => format!("{range}/{protocol}"),
        PortMatch::Named(protocol, name) => format!("{name}/{protocol}"),
        PortMatch::Invalid => NOTHING.to_owned(),
    }
}
