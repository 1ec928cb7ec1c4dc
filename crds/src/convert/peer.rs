//! One item of `from` or `to`.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use policy_engine::policy::{IpBlock, Namespaces, Peer, PodPeer};
use policy_engine::selector::Selector;

use super::labels::typed_selector;
use crate::api::cluster_default_network_policy::Peer as DefaultPeer;
use crate::cidr;
use crate::decode::{Field, Mapping};
use crate::path::Path;
use crate::report::Report;

const MATCHES_NOTHING: &str = "this peer matches nothing";

/// The peer at `field`; one that cannot be understood matches nothing.
///
/// `own` is the namespace of a peer without a `namespaceSelector`: that of the NetworkPolicy, or
/// [`Namespaces::Own`] in a default, whose peers may also have `sameNamespace`.
pub(super) fn peer(field: &Field<'_>, own: &Namespaces, report: &mut Report<'_>) -> Peer {
    let peer = if *own == Namespaces::Own {
        field.decode::<Mapping<DefaultPeer>>(report, MATCHES_NOTHING).map(|Mapping(peer)| peer)
    } else {
        field.decode::<NetworkPolicyPeer>(report, MATCHES_NOTHING).map(DefaultPeer::from)
    };
    peer.and_then(|peer| understand(&peer, &field.path, own, report)).unwrap_or(Peer::Invalid)
}

fn understand(
    peer: &DefaultPeer,
    path: &Path<'_>,
    own: &Namespaces,
    report: &mut Report<'_>,
) -> Option<Peer> {
    let selects = peer.namespace_selector.is_some() || peer.pod_selector.is_some();
    match (&peer.same_namespace, &peer.ip_block, selects) {
        (Some(true), None, false) => {
            let pods = Selector::everything();
            Some(Peer::Pods(PodPeer { namespaces: own.clone(), pods }))
        }
        (Some(same), ..) => {
            let problem = if *same {
                "may not stand beside another peer"
            } else {
                "can only be `true`; delete it, or list the namespaces that are meant"
            };
            report.error(&path.key("sameNamespace"), format!("{problem}; {MATCHES_NOTHING}"));
            None
        }
        (None, Some(block), false) => {
            self::block(block, &path.key("ipBlock"), report).map(Peer::Block)
        }
        (None, Some(_), true) => {
            let message = format!("may not stand beside a selector; {MATCHES_NOTHING}");
            report.error(&path.key("ipBlock"), message);
            None
        }
        (None, None, true) => pods(peer, path, own, report),
        (None, None, false) => {
            let hint = if *own == Namespaces::Own {
                "write `sameNamespace: true` for the pods of the same namespace"
            } else {
                "write `podSelector: {}` for the pods of the policy's namespace"
            };
            let hint = format!("{hint}, `namespaceSelector: {{}}` for all pods");
            report.error(path, format!("is an empty peer; {MATCHES_NOTHING}; {hint}"));
            None
        }
    }
}

/// NetworkPolicy v1: without a `namespaceSelector`, pods of the policy's own namespace; without a
/// `podSelector`, all pods of the namespaces.
fn pods(
    peer: &DefaultPeer,
    path: &Path<'_>,
    own: &Namespaces,
    report: &mut Report<'_>,
) -> Option<Peer> {
    let pods = match &peer.pod_selector {
        None => Some(Selector::everything()),
        Some(pods) => typed_selector(pods, &path.key("podSelector"), report, MATCHES_NOTHING),
    };
    let namespaces = match &peer.namespace_selector {
        None => Some(own.clone()),
        Some(selector) => {
            let path = path.key("namespaceSelector");
            typed_selector(selector, &path, report, MATCHES_NOTHING).map(Namespaces::Selected)
        }
    };
    Some(Peer::Pods(PodPeer { namespaces: namespaces?, pods: pods? }))
}

/// If an `except` cannot be read, the whole block matches nothing: without it, it would allow more.
fn block(block: &IPBlock, path: &Path<'_>, report: &mut Report<'_>) -> Option<IpBlock> {
    let excepts = path.key("except");
    let cidr = network(&block.cidr, &path.key("cidr"), report, MATCHES_NOTHING);
    let mut except = Some(Vec::new());
    for (at, text) in block.except.iter().flatten().enumerate() {
        let path = excepts.index(at);
        let Some(net) = network(text, &path, report, MATCHES_NOTHING) else {
            except = None;
            continue;
        };
        if let Some(cidr) = cidr {
            judge_except(cidr, net, &path, report);
        }
        if let Some(except) = &mut except {
            except.push(net);
        }
    }
    Some(IpBlock { cidr: cidr?, except: except? })
}

fn judge_except(cidr: IpNet, except: IpNet, path: &Path<'_>, report: &mut Report<'_>) {
    if except.contains(&cidr) {
        let message = format!("takes out all of {cidr}; {MATCHES_NOTHING}");
        report.error(path, message);
    } else if !cidr.contains(&except) {
        report.warning(path, format!("is not inside {cidr}, so it takes out nothing"));
    }
}

/// The network `text`, or `None` after a report with the `effect`.
pub(super) fn network(
    text: &str,
    path: &Path<'_>,
    report: &mut Report<'_>,
    effect: &str,
) -> Option<IpNet> {
    let Some(read) = cidr::network(text) else {
        let hint = match text.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => format!("; write `{text}/32`"),
            Ok(std::net::IpAddr::V6(_)) => format!("; write `{text}/128`"),
            Err(_) => String::new(),
        };
        report.error(path, format!("`{text}` is no network; {effect}{hint}"));
        return None;
    };
    if !read.canonical {
        let net = read.value;
        report.warning(path, format!("`{text}` is read as {net}; write `{net}`"));
    }
    Some(read.value)
}
