//! One item of `from` or `to`.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use policy_engine::labels::Str;
use policy_engine::policy::{IpBlock, Namespaces, Peer, PodPeer};
use policy_engine::selector::Selector;

use super::labels::typed_selector;
use crate::cidr;
use crate::decode::Field;
use crate::path::Path;
use crate::report::Report;

const MATCHES_NOTHING: &str = "this peer matches nothing";

/// The peer at `field` of a policy in `namespace`; one that cannot be understood matches nothing.
pub(super) fn peer(field: &Field<'_>, namespace: &Str, report: &mut Report<'_>) -> Peer {
    let peer = field.decode::<NetworkPolicyPeer>(report, MATCHES_NOTHING);
    let understood = peer.and_then(|peer| match &peer {
        NetworkPolicyPeer { ip_block: None, namespace_selector: None, pod_selector: None } => {
            let hint = "write `podSelector: {}` for the pods of the policy's namespace, \
                        `namespaceSelector: {}` for all pods";
            report.error(&field.path, format!("is an empty peer; {MATCHES_NOTHING}; {hint}"));
            None
        }
        NetworkPolicyPeer { ip_block: None, .. } => pods(&peer, &field.path, namespace, report),
        NetworkPolicyPeer {
            ip_block: Some(ip_block),
            namespace_selector: None,
            pod_selector: None,
        } => block(ip_block, &field.path.key("ipBlock"), report).map(Peer::Block),
        NetworkPolicyPeer { ip_block: Some(_), .. } => {
            let message = format!("may not stand beside a selector; {MATCHES_NOTHING}");
            report.error(&field.path.key("ipBlock"), message);
            None
        }
    });
    understood.unwrap_or(Peer::Invalid)
}

/// NetworkPolicy v1: without a `namespaceSelector`, pods of the policy's own namespace; without a
/// `podSelector`, all pods of the namespaces.
fn pods(
    peer: &NetworkPolicyPeer,
    path: &Path<'_>,
    namespace: &Str,
    report: &mut Report<'_>,
) -> Option<Peer> {
    let pods = match &peer.pod_selector {
        None => Some(Selector::everything()),
        Some(pods) => typed_selector(pods, &path.key("podSelector"), report, MATCHES_NOTHING),
    };
    let namespaces = match &peer.namespace_selector {
        None => Some(Namespaces::Named(namespace.clone())),
        Some(selector) => {
            let path = path.key("namespaceSelector");
            typed_selector(selector, &path, report, MATCHES_NOTHING).map(Namespaces::Selected)
        }
    };
    Some(Peer::Pods(PodPeer { namespaces: namespaces?, pods: pods? }))
}

/// An `except` that cannot be read costs the whole block: without it the block would admit more.
fn block(block: &IPBlock, path: &Path<'_>, report: &mut Report<'_>) -> Option<IpBlock> {
    let excepts = path.key("except");
    let cidr = network(&block.cidr, &path.key("cidr"), report);
    let mut except = Some(Vec::new());
    for (at, text) in block.except.iter().flatten().enumerate() {
        let path = excepts.index(at);
        let Some(net) = network(text, &path, report) else {
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

fn network(text: &str, path: &Path<'_>, report: &mut Report<'_>) -> Option<IpNet> {
    let Some(read) = cidr::network(text) else {
        let hint = match text.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => format!("; write `{text}/32`"),
            Ok(std::net::IpAddr::V6(_)) => format!("; write `{text}/128`"),
            Err(_) => String::new(),
        };
        report.error(path, format!("`{text}` is no network; {MATCHES_NOTHING}{hint}"));
        return None;
    };
    if !read.canonical {
        let net = read.value;
        report.warning(path, format!("`{text}` is read as {net}; write `{net}`"));
    }
    Some(read.value)
}
