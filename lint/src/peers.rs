//! Peers of rules: those that match nothing or belong together, and blocks with cluster addresses.

use std::net::IpAddr;

use policy_engine::direction::Direction;
use policy_engine::flow::Endpoint;
use policy_engine::labels::Str;
use policy_engine::model::Pod;
use policy_engine::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer, Policy};
use policy_engine::selector::Selector;

use crate::answers::Answers;
use crate::pods::Group;
use crate::{Code, Context, Finding, Place, are, finding, name, near, places};

/// The findings about the peers of a policy.
pub(super) fn findings<'c>(context: &Context<'c>, policy: &'c Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in places(policy) {
        let Peers::Listed(peers) = &place.rule.peers else { continue };
        let joined = not_joined(context, place, peers);
        for (number, peer) in peers.iter().enumerate() {
            match peer {
                // Another finding reports it as one half of a peer.
                Peer::Pods(_) if joined.as_ref().is_some_and(|(half, _)| *half == number) => {}
                Peer::Pods(peer) => {
                    found.extend(matches_nothing(&context.answers, place, number, peer));
                }
                Peer::Block(block) => found.extend(over(context, place, number, block)),
                Peer::Nodes(_) | Peer::Invalid => {}
            }
        }
        found.extend(joined.map(|(_, finding)| finding));
    }
    found
}

/// Peers that are null: the API server drops the field, and the rule allows every peer.
pub(super) fn null(context: &Context<'_>, policy: &Policy) -> Vec<Finding> {
    let Some(document) = context.input.documents.get(&policy.name) else { return Vec::new() };
    let found = places(policy).filter_map(|place| {
        let name = place.direction.peers_field();
        let rules = document.value().get("spec")?.get(place.direction.field())?;
        rules.get(place.at)?.get(name).filter(|peers| peers.is_null())?;
        let everyone = match place.direction {
            Direction::Ingress => "every source, external ones included",
            Direction::Egress => "every destination, external ones included",
        };
        let message = format!(
            "is null, which means that this rule allows {everyone}; list the peers, or remove \
             `{name}` if that is meant"
        );
        Some(finding(Code::NullPeers, &policy.name, place.field().key(name), message))
    });
    found.collect()
}

/// The peers of a rule that match no pod.
pub(super) fn unmatched<'w>(answers: &Answers<'w>, place: Place<'w>) -> Vec<Finding> {
    let Peers::Listed(peers) = &place.rule.peers else { return Vec::new() };
    let found = peers.iter().enumerate().filter_map(|(number, peer)| match peer {
        Peer::Pods(peer) => matches_nothing(answers, place, number, peer),
        Peer::Block(_) | Peer::Nodes(_) | Peer::Invalid => None,
    });
    found.collect()
}

fn matches_nothing<'w>(
    answers: &Answers<'w>,
    place: Place<'w>,
    number: usize,
    peer: &'w PodPeer,
) -> Option<Finding> {
    if answers.peer(peer, None) {
        return None;
    }
    let finding = |below: &str, message: String| {
        let field = place.peer(number).key(below);
        Some(finding(Code::PeerMatchesNothing, &place.policy.name, field, message))
    };
    let mut namespaces: Vec<&Str> = match &peer.namespaces {
        Namespaces::Named(name) => vec![name],
        // With `sameNamespace`, the namespace depends on the pod.
        Namespaces::Own => return None,
        Namespaces::Selected(selector) => answers.pods.namespaces(selector).collect(),
    };
    namespaces.sort_unstable();
    if let (Namespaces::Selected(selector), []) = (&peer.namespaces, namespaces.as_slice())
        && !selector.is_everything()
    {
        let hint = near::namespace(answers, selector);
        let message = format!("matches no namespace, so this peer allows nothing; {hint}");
        return finding("namespaceSelector", message);
    }
    // `{}` also matches later pods, so it is correct when there is no pod today.
    if peer.pods.is_everything() {
        return None;
    }
    let mut on_host = namespaces.iter().flat_map(|name| answers.pods.on_host(name, &peer.pods));
    if let Some(group) = on_host.next() {
        let called = answers.names.map(|names| format!(" ({})", name(names, group.first())));
        let message = format!(
            "matches only pods with hostNetwork{}, whose traffic comes from their node, so this \
             peer allows nothing; name the nodes' addresses with an ipBlock",
            called.unwrap_or_default()
        );
        return finding("podSelector", message);
    }
    let (there, option) = match (&peer.namespaces, namespaces.as_slice()) {
        (Namespaces::Named(name), _) => (format!("of namespace {name}"), format!("-n {name}")),
        // The selected namespaces may change, and the text of an Event must not.
        (_, [one]) if answers.names.is_some() => (format!("of namespace {one}"), String::new()),
        _ => ("of the namespaces that it selects".to_owned(), "-A".to_owned()),
    };
    let nearest = |names: &_| {
        let known = namespaces.iter().flat_map(|name| answers.pods.of(name)).map(Group::first);
        near::labels(&peer.pods, known.map(|pod| (name(names, pod), &pod.labels)))
            .unwrap_or_else(|| format!("no pod {there} has labels like these"))
    };
    let hint = answers.hint_for(peer, nearest, &option);
    finding("podSelector", format!("matches no pod {there}, so this peer allows nothing; {hint}"))
}

/// `- namespaceSelector` beside `- podSelector`, where only those namespaces have the pods.
fn not_joined<'c>(
    context: &Context<'c>,
    place: Place<'c>,
    peers: &'c [Peer],
) -> Option<(usize, Finding)> {
    let own = &place.policy.name.namespace;
    for (first, pair) in peers.windows(2).enumerate() {
        let (namespaces, pods, number) = match pair {
            [Peer::Pods(one), Peer::Pods(two)] => match (halves(one), halves(two)) {
                ((Some(selector), None), (None, Some(pods))) => (selector, pods, first + 1),
                ((None, Some(pods)), (Some(selector), None)) => (selector, pods, first),
                _ => continue,
            },
            _ => continue,
        };
        let mut here = context.pods.matching(own, pods);
        let names = context.pods.namespaces(namespaces);
        let there: Vec<&Group> = names.flat_map(|name| context.pods.matching(name, pods)).collect();
        if here.next().is_some() || there.is_empty() {
            continue;
        }
        let message = format!(
            "is a peer of its own, for pods of namespace {own}, where none matches; the peer \
             beside it allows every pod of its namespaces; {names} {are} what both together \
             match: make them one item, without the `-` before the second",
            names = context.names(there.iter().copied()),
            are = are(there.iter().map(|group| group.pods().len()).sum()),
        );
        let field = place.peer(number).key("podSelector");
        return Some((number, finding(Code::PeersNotJoined, &place.policy.name, field, message)));
    }
    None
}

/// The namespaces of a peer for all their pods, or the pods of a peer without namespaces.
fn halves(peer: &PodPeer) -> (Option<&Selector>, Option<&Selector>) {
    match &peer.namespaces {
        Namespaces::Selected(selector) => {
            (Some(selector).filter(|_| peer.pods.is_everything()), None)
        }
        Namespaces::Named(_) | Namespaces::Own => (None, Some(&peer.pods)),
    }
}

/// The finding about a block that contains addresses of Services or pods.
fn over(
    context: &Context<'_>,
    place: Place<'_>,
    number: usize,
    block: &IpBlock,
) -> Option<Finding> {
    let field = place.peer(number).key("ipBlock").key("cidr");
    let finding = |code, text| Some(finding(code, &place.policy.name, field, text));
    let Inside { first, left_out } = inside(context, block);
    let whole = block.cidr.prefix_len() == 0;
    match first {
        // `0.0.0.0/0` intends every address. If `except` has some pods, it should have all of them.
        Some((address, pod)) if !whole || left_out => {
            let name = context.name(pod);
            let other = if left_out {
                "although `except` takes out others"
            } else {
                "which change whenever a pod is replaced"
            };
            finding(
                Code::BlockOverPods,
                format!(
                    "holds addresses of pods ({address} is {name}), {other}; name pods by their \
                     labels, and take all of them out of the block"
                ),
            )
        }
        Some(_) => None,
        None => {
            let services = context.input.services.values();
            let mut all = services.flat_map(|service| {
                service.addresses.iter().map(move |address| (*address, service))
            });
            let (address, service) = all.find(|(address, _)| {
                !whole && block.contains(*address) && is_virtual(context, *address)
            })?;
            finding(
                Code::BlockOverServices,
                format!(
                    "holds {address} of Service {}/{}, and policies never see that address: they \
                     judge the pod's, after translation; name the pods behind the Service",
                    service.namespace, service.name
                ),
            )
        }
    }
}

/// The pods whose addresses are in a block.
#[derive(Clone, Copy)]
pub(super) struct Inside<'c> {
    first: Option<(IpAddr, &'c Pod)>,
    /// Whether `except` contains other pods.
    left_out: bool,
}

/// Whether pods have addresses in a block.
pub(super) fn holds_pods(context: &Context<'_>, block: &IpBlock) -> bool {
    inside(context, block).first.is_some()
}

fn inside<'c>(context: &Context<'c>, block: &IpBlock) -> Inside<'c> {
    if let Some(known) = context.blocks.borrow().get(block) {
        return *known;
    }
    let all = &context.addresses;
    let from = all.partition_point(|(address, _)| *address < block.cidr.network());
    let covered =
        all.iter().skip(from).take_while(|(address, _)| block.cidr.contains(address)).copied();
    let (within, without): (Vec<_>, Vec<_>) =
        covered.partition(|(address, _)| block.contains(*address));
    let found = Inside { first: within.first().copied(), left_out: !without.is_empty() };
    context.blocks.borrow_mut().insert(block.clone(), found);
    found
}

/// Whether only a Service has the address.
fn is_virtual(context: &Context<'_>, address: IpAddr) -> bool {
    matches!(context.world.endpoint(address), Endpoint::External(_))
}
