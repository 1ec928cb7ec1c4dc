//! The CNI configuration of a node.

use std::fmt::Write as _;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::options::Cni;

/// The network configuration list of a node whose pods have addresses of these ranges.
pub(crate) fn configuration(cni: Cni, pod_cidrs: &[IpNet]) -> Value {
    let ranges: Vec<Value> =
        pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
    let defaults = pod_cidrs.iter().map(|cidr| match cidr {
        IpNet::V4(_) => json!({"dst": "0.0.0.0/0"}),
        IpNet::V6(_) => json!({"dst": "::/0"}),
    });
    let defaults: Vec<Value> = defaults.collect();
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": defaults});
    let mut attach = match cni {
        Cni::Ptp => json!({"type": "ptp", "ipMasq": false, "ipam": ipam}),
        // What flannel's own plugin delegates to, with its defaults.
        Cni::Bridge | Cni::FlannelHostGw | Cni::FlannelVxlan => json!({
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "hairpinMode": true,
            "ipMasq": false,
            "ipam": ipam,
        }),
    };
    if cni == Cni::FlannelVxlan {
        attach["mtu"] = json!(1450);
    }
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [attach, ports]})
}

/// The script that runs flanneld on a node, which is named as its Node object.
pub(crate) fn flanneld(node: &str, kubeconfig: &str) -> String {
    let mut script = String::new();
    let _ = writeln!(script, "mkdir -p /run/flannel");
    let _ = writeln!(
        script,
        "NODE_NAME={node} exec flanneld --kube-subnet-mgr --kubeconfig-file={kubeconfig} \
         --net-config-path=\"$(dirname \"$0\")/flannel.json\" --iface=eth0"
    );
    script
}

/// flanneld's network: the ranges of all pods of the cluster.
pub(crate) fn flannel_network(cni: Cni, pod_networks: &[IpNet]) -> Value {
    let backend = if cni == Cni::FlannelVxlan { "vxlan" } else { "host-gw" };
    let mut network = json!({"Backend": {"Type": backend}, "EnableIPv4": false});
    for pods in pod_networks {
        match pods {
            IpNet::V4(pods) => {
                network["Network"] = json!(pods.to_string());
                network["EnableIPv4"] = json!(true);
            }
            IpNet::V6(pods) => {
                network["IPv6Network"] = json!(pods.to_string());
                network["EnableIPv6"] = json!(true);
            }
        }
    }
    network
}
