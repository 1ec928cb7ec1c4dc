#!/usr/bin/env bash
# Prints the CNI configuration that flannel's plugin makes of flanneld's subnet.env, with the settings of
# kube-flannel.yml. The plugin itself hands everything to the bridge plugin, so this one does without it.
#
#     tests/kube/flannel/cni.sh /run/flannel/subnet.env >/etc/cni/net.d/10-flannel.conflist
set -euo pipefail
FLANNEL_NETWORK='' FLANNEL_SUBNET='' FLANNEL_IPV6_NETWORK='' FLANNEL_IPV6_SUBNET=''
# shellcheck disable=SC1090
. "${1:?which subnet.env}"

# flanneld writes a subnet as its first address, which is the bridge's; host-local wants the subnet's own.
subnet() { # ADDRESS/LENGTH
    local address=${1%/*} length=${1#*/}
    case $address in
        *.*) echo "${address%.*}.$((${address##*.} - 1))/$length" ;;
        *) echo "${address%1}/$length" ;;
    esac
}
ranges=() routes=()
range() { # ADDRESS/LENGTH NETWORKS
    [ -n "$1" ] || return 0
    ranges+=("[{\"subnet\": \"$(subnet "$1")\"}]")
    for network in ${2//,/ }; do routes+=("{\"dst\": \"$network\"}"); done
}
range "$FLANNEL_SUBNET" "$FLANNEL_NETWORK"
range "$FLANNEL_IPV6_SUBNET" "$FLANNEL_IPV6_NETWORK"
[ ${#ranges[@]} -gt 0 ] || { echo "cni: $1 has no subnet" >&2; exit 1; }
# flanneld masquerades or the bridge does.
masquerade=true
[ "$FLANNEL_IPMASQ" != true ] || masquerade=false
IFS=,
cat <<END
{
  "cniVersion": "0.3.1",
  "name": "cbr0",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "mtu": $FLANNEL_MTU,
      "hairpinMode": true,
      "isDefaultGateway": true,
      "isGateway": true,
      "ipMasq": $masquerade,
      "ipam": {"type": "host-local", "ranges": [${ranges[*]}], "routes": [${routes[*]}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END
