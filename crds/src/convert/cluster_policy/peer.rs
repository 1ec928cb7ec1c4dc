//! One item of `from` or `to` of a rule.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy_engine::direction::Direction;
use policy_engine::policy::{IpBlock, Namespaces, Peer, PodPeer};
use policy_engine::selector::Selector;
use serde::Deserialize;

use super::super::labels::typed_selector;
use super::super::peer::network;
use super::effects::Effects;
use crate::decode::{Field, Mapping};
use crate::path::Path;
use crate::report::Report;

/// A peer: exactly one of these.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerFields {
    namespaces: Option<LabelSelector>,
    pods: Option<Mapping<NamespacedPods>>,
    nodes: Option<LabelSelector>,
    networks: Option<Vec<String>>,
    domain_names: Option<Vec<String>>,
}

/// Pods in namespaces.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamespacedPods {
    namespace_selector: Option<LabelSelector>,
    pod_selector: Option<LabelSelector>,
}

impl NamespacedPods {
    /// Namespaces and pods, each `None` after a report when it cannot be understood.
    pub(super) fn selectors(
        &self,
        path: &Path<'_>,
        report: &mut Report<'_>,
        effect: &str,
    ) -> (Option<Selector>, Option<Selector>) {
        let namespaces = match &self.namespace_selector {
            None => Some(Selector::everything()),
            Some(selector) => {
                typed_selector(selector, &path.key("namespaceSelector"), report, effect)
            }
        };
        let path = path.key("podSelector");
        let pods = match &self.pod_selector {
            None => {
                let hint = "write `podSelector: {}` for all pods";
                report.error(&path, format!("is missing; {effect}; {hint}"));
                None
            }
            Some(selector) => typed_selector(selector, &path, report, effect),
        };
        (namespaces, pods)
    }
}

/// The peers of `rule`, with [`Peer::Invalid`] for each that was not understood.
pub(super) fn peers(
    rule: &Field<'_>,
    direction: Direction,
    effects: &Effects,
    report: &mut Report<'_>,
) -> Vec<Peer> {
    let name = direction.peers_field();
    let Some(field) = rule.get(name) else {
        return empty(&rule.path.key(name), effects, report);
    };
    let Some(items) = field.list(report, effects.rule) else { return vec![Peer::Invalid] };
    if items.is_empty() {
        return empty(&field.path, effects, report);
    }
    let mut peers = Vec::new();
    for (at, value) in items.iter().enumerate() {
        let item = Field { path: field.path.index(at), value };
        match peer(&item, direction, effects, report) {
            Some(mut understood) => peers.append(&mut understood),
            None => peers.push(Peer::Invalid),
        }
    }
    peers
}

/// Unlike in NetworkPolicy, a missing list of peers does not mean every peer: the API rejects it.
fn empty(path: &Path<'_>, effects: &Effects, report: &mut Report<'_>) -> Vec<Peer> {
    let hint = "write `namespaces: {}` as its item for all pods";
    report.error(path, format!("has no peer; {}; {hint}", effects.rule));
    vec![Peer::Invalid]
}

/// The peer of one item; `None` after a report when the item was not understood.
fn peer(
    field: &Field<'_>,
    direction: Direction,
    effects: &Effects,
    report: &mut Report<'_>,
) -> Option<Vec<Peer>> {
    if direction == Direction::Ingress && report_egress_peers(field, effects, report) {
        return None;
    }
    let effect = effects.peer;
    let Mapping(PeerFields { namespaces, pods, nodes, networks, domain_names }) =
        field.decode::<Mapping<PeerFields>>(report, effect)?;
    let path = &field.path;
    let of_pods = |namespaces, pods| {
        vec![Peer::Pods(PodPeer { namespaces: Namespaces::Selected(namespaces), pods })]
    };
    match (namespaces, pods, nodes, networks, domain_names) {
        (Some(selector), None, None, None, None) => {
            let namespaces = typed_selector(&selector, &path.key("namespaces"), report, effect)?;
            Some(of_pods(namespaces, Selector::everything()))
        }
        (None, Some(Mapping(written)), None, None, None) => {
            let (namespaces, selected) = written.selectors(&path.key("pods"), report, effect);
            Some(of_pods(namespaces?, selected?))
        }
        (None, None, Some(selector), None, None) => {
            let nodes = typed_selector(&selector, &path.key("nodes"), report, effect)?;
            Some(vec![Peer::Nodes(nodes)])
        }
        (None, None, None, Some(networks), None) => {
            blocks(&networks, &path.key("networks"), effect, report)
        }
        (None, None, None, None, Some(names)) => {
            let path = path.key("domainNames");
            report.error(&path, format!("domain names are not supported here; {effect}"));
            for (at, name) in names.iter().enumerate().filter(|(_, name)| !is_domain_name(name)) {
                let message = format!("`{name}` is no domain name, and an API server refuses it");
                report.error(&path.index(at), message);
            }
            None
        }
        _ => {
            let known = match direction {
                Direction::Ingress => "`namespaces` and `pods`",
                Direction::Egress => "`namespaces`, `pods`, `nodes`, `networks`, `domainNames`",
            };
            report.error(path, format!("must have exactly one of {known}; {effect}"));
            None
        }
    }
}

/// Whether a peer of ingress has a field that only egress has.
fn report_egress_peers(field: &Field<'_>, effects: &Effects, report: &mut Report<'_>) -> bool {
    let mut found = false;
    for name in ["nodes", "networks", "domainNames"] {
        if field.get(name).is_some() {
            let message = format!("is a peer for egress only; {}", effects.peer);
            report.error(&field.path.key(name), message);
            found = true;
        }
    }
    found
}

/// Whether a name is valid in the CRD: an optional `*.`, then at least two labels.
fn is_domain_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        is_edge(bytes.first()) && is_edge(bytes.last()) && label.bytes().all(is_inner)
    };
    name.contains('.') && name.split('.').all(is_label)
}

/// Each network that was understood; the others are [`Peer::Invalid`].
fn blocks(
    networks: &[String],
    path: &Path<'_>,
    effect: &str,
    report: &mut Report<'_>,
) -> Option<Vec<Peer>> {
    if networks.is_empty() {
        report.error(path, format!("lists no network; {effect}"));
        return None;
    }
    let block = |(at, text): (usize, &String)| {
        let cidr = network(text, &path.index(at), report, effect);
        cidr.map_or(Peer::Invalid, |cidr| Peer::Block(IpBlock { cidr, except: Vec::new() }))
    };
    Some(networks.iter().enumerate().map(block).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_names_are_those_of_the_crd() {
        for good in ["kubernetes.io", "*.kubernetes.io", "a.b.", "X-1_y.9", "*.a.b.c."] {
            assert!(is_domain_name(good), "{good}");
        }
        for bad in [
            "", ".", "*", "*.", "io", "*.io", "a..b", "-a.b", "a-.b", "a.b..", "a*.b.c", "a.*.c",
            "ä.b",
        ] {
            assert!(!is_domain_name(bad), "{bad}");
        }
    }
}
