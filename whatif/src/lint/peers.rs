//! Whom rules name: peers that match nothing, that belong together, and blocks over the cluster.

use std::net::IpAddr;
use std::rc::Rc;

use policy_engine::model::Pod;
use policy_engine::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer, Policy};
use policy_engine::selector::Selector;

use super::groups::Group;
use super::{Code, Context, Finding, Place, places, words};

/// What is wrong with the peers of a policy.
pub(super) fn findings<'c>(context: &Context<'c>, policy: &'c Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in places(policy) {
        let Peers::Listed(peers) = &place.rule.peers else { continue };
        let mut joined = None;
        if let Some((number, finding)) = not_joined(context, place, peers) {
            found.push(finding);
            joined = Some(number);
        }
        for (number, peer) in peers.iter().enumerate() {
            match peer {
                // Said already: it is one half of a peer.
                Peer::Pods(_) if joined == Some(number) => {}
                Peer::Pods(peer) => found.extend(nobody(context, place, number, peer)),
                Peer::Block(block) => found.extend(over(context, place, number, block)),
                Peer::Nodes(_) | Peer::Invalid => {}
            }
        }
    }
    found
}

/// A peer that matches no pod.
fn nobody<'c>(
    context: &Context<'c>,
    place: Place<'_>,
    number: usize,
    peer: &'c PodPeer,
) -> Option<Finding> {
    if !context.groups.peer(peer).is_empty() {
        return None;
    }
    let world = &context.cluster.world;
    let at = place.peer(number);
    let finding = |below: &str, text: String| {
        let field = at.clone().key(below);
        Some(context.finding(Code::PeerMatchesNothing, place.policy, field, text))
    };
    let namespaces = match &peer.namespaces {
        Namespaces::Named(name) => vec![name],
        Namespaces::Own => Vec::new(),
        Namespaces::Selected(selector) => {
            let selected = context.groups.namespaces(selector);
            if selected.is_empty() && !selector.is_everything() {
                let known = world.namespaces().iter();
                let known = known.map(|(name, found)| (format!("Namespace {name}"), &found.labels));
                let hint = words::nearest(selector, known);
                let hint = hint.unwrap_or_else(|| "no Namespace has labels like these".to_owned());
                let text = format!("matches no namespace, so this peer admits nothing; {hint}");
                return finding("namespaceSelector", text);
            }
            selected
        }
    };
    // `{}` is every pod there will be: right where there is none today.
    if peer.pods.is_everything() {
        return None;
    }
    let there: Vec<&Rc<Group<'_>>> =
        namespaces.iter().flat_map(|name| context.groups.of(name)).collect();
    if let Some(group) =
        there.iter().find(|group| group.host_network && peer.pods.matches(&group.labels))
    {
        let name = group.pods.first().map(|pod| context.name(pod)).unwrap_or_default();
        let text = format!(
            "matches only pods with hostNetwork ({name}), whose traffic comes from their node, so \
             this peer admits nothing; name the nodes' addresses with an ipBlock"
        );
        return finding("podSelector", text);
    }
    let known = there.iter().filter_map(|group| {
        let pod = group.pods.first()?;
        Some((context.name(pod), &pod.labels))
    });
    let place = match namespaces.as_slice() {
        [one] => format!("of namespace {one}"),
        _ => "of the namespaces that it selects".to_owned(),
    };
    let hint = words::nearest(&peer.pods, known)
        .unwrap_or_else(|| format!("no pod {place} has labels like these"));
    finding("podSelector", format!("matches no pod {place}, so this peer admits nothing; {hint}"))
}

/// `- namespaceSelector` beside `- podSelector`, where the pods are in those namespaces only.
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
        let here = context.groups.matching(own, pods, false);
        let there: Vec<_> = context
            .groups
            .namespaces(namespaces)
            .into_iter()
            .flat_map(|name| context.groups.matching(name, pods, false))
            .collect();
        if !here.is_empty() || there.is_empty() {
            continue;
        }
        let message = format!(
            "is a peer of its own, for pods of namespace {own}, where none matches; the peer \
             beside it admits every pod of its namespaces; {names} {are} what both together \
             match: make them one item, without the `-` before the second",
            names = context.names(&there),
            are = words::are(there.iter().map(|group| group.pods.len()).sum()),
        );
        let field = place.peer(number).key("podSelector");
        return Some((
            number,
            context.finding(Code::PeersNotJoined, place.policy, field, message),
        ));
    }
    None
}

/// The namespaces of a peer without pods, or the pods of one without namespaces.
fn halves(peer: &PodPeer) -> (Option<&Selector>, Option<&Selector>) {
    match &peer.namespaces {
        Namespaces::Selected(selector) => {
            (Some(selector).filter(|_| peer.pods.is_everything()), None)
        }
        Namespaces::Named(_) | Namespaces::Own => (None, Some(&peer.pods)),
    }
}

/// A block over addresses of Services or pods.
fn over(
    context: &Context<'_>,
    place: Place<'_>,
    number: usize,
    block: &IpBlock,
) -> Option<Finding> {
    let field = place.peer(number).key("ipBlock").key("cidr");
    let finding = |code, text| Some(context.finding(code, place.policy, field, text));
    let Inside { first, left_out } = inside(context, block);
    let whole = block.cidr.prefix_len() == 0;
    match first {
        // `0.0.0.0/0` says anywhere and means it; with some pods taken out, all were meant.
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
            let services = context.cluster.services.values();
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
    /// `except` takes out some others.
    left_out: bool,
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

/// Whether nothing but a Service has the address.
fn is_virtual(context: &Context<'_>, address: IpAddr) -> bool {
    use policy_engine::flow::Endpoint;
    matches!(context.cluster.world.endpoint(address), Endpoint::External(_))
}
