//! The rules that a node has before any agent runs: kube-proxy's frame, the CNI's masquerade and
//! its FORWARD rules. Text only; services fill the frame in [`service`](super::service).

use super::address;
use super::options::{Family, ForwardPolicy};

/// Input of `iptables-restore --noflush` for a new node.
///
/// Pod to internet is masqueraded; pod to pod and pod to node is not, so that policies see the
/// pod's own address.
pub(super) fn base(family: Family, forward: ForwardPolicy) -> String {
    let pods = address::pod_network(family);
    let nodes = address::node_network(family);
    let (policy, cni) = match forward {
        ForwardPolicy::Accept => ("ACCEPT", String::new()),
        ForwardPolicy::DropButPods => (
            "DROP",
            format!(
                "-N FLANNEL-FWD\n-A FORWARD -j FLANNEL-FWD\n\
                 -A FLANNEL-FWD -s {pods} -j ACCEPT\n-A FLANNEL-FWD -d {pods} -j ACCEPT\n"
            ),
        ),
    };
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:CNI-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -j CNI-MASQ
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A CNI-MASQ -s {pods} -d {pods} -j RETURN
-A CNI-MASQ -s {pods} -d {nodes} -j RETURN
-A CNI-MASQ -s {pods} -j MASQUERADE --random-fully
COMMIT
*filter
:FORWARD {policy} [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{cni}COMMIT
"
    )
}

/// Input of `iptables-restore --noflush` for a node whose other rules a real kube-proxy writes.
pub(super) fn masquerade(family: Family) -> String {
    let pods = address::pod_network(family);
    let nodes = address::node_network(family);
    format!(
        "*nat
:CNI-MASQ - [0:0]
-A POSTROUTING -s {pods} -j CNI-MASQ
-A CNI-MASQ -d {pods} -j RETURN
-A CNI-MASQ -d {nodes} -j RETURN
-A CNI-MASQ -j MASQUERADE --random-fully
COMMIT
"
    )
}
