//! Cases of snapshots, caches and pods as text, and the resolved interfaces.

use super::*;
use crate::dataplane::interfaces::Peer;

/// A node, a line for each fact:
///
/// ```text
/// veth1 pair cni0 | 10.1.0.5      an interface: name, kind, bridge; addresses of its peer
/// route 10.1.0.5 veth1            a host route
/// uplink eth0                     a gateway is behind it
/// on cni0 cni0.5                  a VLAN
/// file a shop/db veth1 10.1.0.5   an entry of the cache
/// pod 10.1.0.5                    an address of a pod in the API server
/// ```
fn conclude(text: &str) -> Resolved {
    let mut snapshot = Snapshot::default();
    let (mut entries, mut pods) = (Vec::new(), BTreeSet::new());
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let names: Vec<&str> = lines()
        .filter(|line| {
            !["route ", "uplink ", "file ", "pod ", "on "].iter().any(|w| line.starts_with(w))
        })
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let index = |name: &str| {
        u32::try_from(1 + names.iter().position(|known| *known == name).unwrap()).unwrap()
    };
    for line in lines() {
        let (line, peers) = line.split_once(" |").unwrap_or((line, ""));
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["route", address, to] => {
                snapshot.host_routes.insert((address.parse().unwrap(), index(to)));
            }
            ["uplink", name] => {
                snapshot.uplinks.insert(index(name));
            }
            ["on", lower, name] => {
                let lower = Some(index(lower));
                let (name, kind) = (name.to_owned(), InterfaceKind::Vlan);
                let vlan = Interface { name, kind, lower, ..Interface::default() };
                snapshot.interfaces.insert(900, vlan);
            }
            ["file", file, pod, interfaces, addresses] => {
                let (namespace, name) = pod.split_once('/').unwrap();
                let items = |text: &str| {
                    let items = text.split(',').filter(|item| *item != "-").map(str::to_owned);
                    items.collect::<Vec<_>>()
                };
                entries.push(Entry {
                    file: file.to_owned(),
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    uid: None,
                    interfaces: items(interfaces),
                    addresses: items(addresses).iter().map(|a| a.parse().unwrap()).collect(),
                });
            }
            ["pod", address] => {
                pods.insert(address.parse().unwrap());
            }
            [name, kind, ref master @ ..] => {
                let (kind, peer) = match kind {
                    "pair" => {
                        let peer = Peer { namespace: 0, index: index(name) };
                        (InterfaceKind::Pair, Some(peer))
                    }
                    "bridge" => (InterfaceKind::Bridge, None),
                    _ => (InterfaceKind::Other, None),
                };
                let master = master.first().map(|master| index(master));
                let name_of = name.to_owned();
                let interface = Interface { name: name_of, kind, master, peer, lower: None };
                snapshot.interfaces.insert(index(name), interface);
                let addresses = peers.split_whitespace().map(|a| a.parse().unwrap());
                snapshot.peer_addresses.insert(index(name), addresses.collect());
            }
            [] | [_] => panic!("{line}"),
        }
    }
    resolve(&snapshot, entries.iter(), &pods)
}

/// The result as text: attachments, pod interfaces, pods, then stale files and problems.
fn shown(resolved: &Resolved) -> String {
    let addresses = resolved.attachments.addresses.iter().map(|(address, found)| {
        let bridge = found.bridge.map(|bridge| format!("@{bridge}")).unwrap_or_default();
        format!("{address}={}{bridge}", found.interface)
    });
    let interfaces = resolved.attachments.pod_interfaces.iter().map(|name| format!("[{name}]"));
    let pods = resolved.pods.iter().map(|pod| {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        format!("{}/{}({} {})", pod.namespace, pod.name, pod.interface, addresses.join(","))
    });
    let stale = resolved.stale.iter().map(|file| format!("stale:{file}"));
    let all: Vec<String> = addresses.chain(interfaces).chain(pods).chain(stale).collect();
    all.join(" ")
}

fn check(text: &str, expected: &str) {
    let resolved = conclude(text);
    assert_eq!(shown(&resolved), expected, "{text}\n{:#?}", resolved.problems);
    assert_eq!(resolved.problems, [""; 0], "{text}");
}

fn check_problem(text: &str, expected: &str, problem: &str) {
    let resolved = conclude(text);
    assert_eq!(shown(&resolved), expected, "{text}\n{:#?}", resolved.problems);
    assert_eq!(resolved.problems.len(), 1, "{:#?}", resolved.problems);
    assert!(resolved.problems[0].contains(problem), "{:#?}", resolved.problems);
}

#[test]
fn the_cache_names_the_port_of_a_bridge() {
    check(
        "eth0 other
         uplink eth0
         cni0 bridge
         veth1 pair cni0
         veth2 pair cni0
         file a shop/db cni0,veth1 10.1.0.5,fd00::5
         file b shop/web cni0,veth2 10.1.0.6",
        "10.1.0.5=veth1@cni0 10.1.0.6=veth2@cni0 fd00::5=veth1@cni0 [cni0] \
         shop/db(veth1 10.1.0.5,fd00::5) shop/web(veth2 10.1.0.6)",
    );
}

#[test]
fn the_cache_names_the_interface_of_a_routed_pod() {
    check(
        "veth1 pair
         ifb0 other
         file a shop/db veth1,ifb0 10.1.0.5",
        "10.1.0.5=veth1 [veth1] shop/db(veth1 10.1.0.5)",
    );
}

#[test]
fn without_a_cache_a_host_route_names_the_interface_of_a_known_pod() {
    check(
        "cali1 pair
         cali2 pair
         route 10.1.0.5 cali1
         route 10.1.0.6 cali2
         pod 10.1.0.5",
        "10.1.0.5=cali1 [cali1]",
    );
}

#[test]
fn without_a_cache_and_routes_the_other_end_names_the_interface_of_a_known_pod() {
    check(
        "docker0 bridge
         cni0 bridge
         veth1 pair cni0 | 10.1.0.5 fd00::5
         veth2 pair docker0 | 172.17.0.2
         pod 10.1.0.5
         pod fd00::5",
        "10.1.0.5=veth1@cni0 fd00::5=veth1@cni0 [cni0]",
    );
}

#[test]
fn a_pod_that_adds_the_address_of_another_is_not_attached_to_it() {
    let node = "cni0 bridge
        veth1 pair cni0 | 10.1.0.5
        veth2 pair cni0 | 10.1.0.6 10.1.0.5
        pod 10.1.0.5
        pod 10.1.0.6
        ";
    // The pod loses its own address too, because it is not known which one that is.
    check_problem(node, "10.1.0.5=veth1@cni0 [cni0]", "two pods, 10.1.0.5 and 10.1.0.6");
    check(
        &format!("{node}\nfile a shop/attacker veth2 10.1.0.6"),
        "10.1.0.5=veth1@cni0 10.1.0.6=veth2@cni0 [cni0] shop/attacker(veth2 10.1.0.6)",
    );
    check(
        &format!("{node}\nfile a shop/victim veth1 10.1.0.5"),
        "10.1.0.5=veth1@cni0 10.1.0.6=veth2@cni0 [cni0] shop/victim(veth1 10.1.0.5)",
    );
}

#[test]
fn an_address_that_two_interfaces_have_belongs_to_neither() {
    check_problem(
        "cni0 bridge
         veth1 pair cni0 | 10.1.0.5
         veth2 pair cni0 | 10.1.0.5
         pod 10.1.0.5",
        "",
        "10.1.0.5 is not known: veth1 and veth2 have it at the other end",
    );
    check_problem(
        "cali1 pair
         cali2 pair
         route 10.1.0.5 cali1
         route 10.1.0.5 cali2
         pod 10.1.0.5",
        "",
        "10.1.0.5 is not known: cali1 and cali2 have a host route to it",
    );
}

#[test]
fn a_route_is_better_evidence_than_an_address_of_the_other_end() {
    check(
        "cali1 pair | 10.1.0.5
         cali2 pair | 10.1.0.6 10.1.0.5
         route 10.1.0.5 cali1
         route 10.1.0.6 cali2
         pod 10.1.0.5
         pod 10.1.0.6
         pod 10.1.0.7",
        "10.1.0.5=cali1 10.1.0.6=cali2 [cali1] [cali2]",
    );
    // A routed pod cannot take an unused address either.
    check(
        "cali2 pair | 10.1.0.6 10.1.0.7
         route 10.1.0.6 cali2
         pod 10.1.0.6
         pod 10.1.0.7",
        "10.1.0.6=cali2 [cali2]",
    );
}

#[test]
fn a_cached_interface_has_no_other_addresses() {
    check(
        "veth1 pair | 10.1.0.5 10.1.0.9
         route 10.1.0.9 veth1
         file a shop/db veth1 10.1.0.5
         pod 10.1.0.5
         pod 10.1.0.9",
        "10.1.0.5=veth1 [veth1] shop/db(veth1 10.1.0.5)",
    );
}

#[test]
fn the_file_of_an_interface_that_does_not_exist_is_stale() {
    check(
        "cni0 bridge
         veth2 pair cni0
         file a shop/old cni0,veth1 10.1.0.5
         file b shop/new cni0,veth2 10.1.0.5",
        "10.1.0.5=veth2@cni0 [cni0] shop/new(veth2 10.1.0.5) stale:a",
    );
}

#[test]
fn an_address_that_two_files_claim_belongs_to_neither() {
    check_problem(
        "veth1 pair | 10.1.0.5
         veth2 pair
         file a shop/one veth1 10.1.0.5
         file b shop/two veth2 10.1.0.5,fd00::2
         pod 10.1.0.5",
        "fd00::2=veth2 [veth1] [veth2] shop/one(veth1 ) shop/two(veth2 fd00::2)",
        "CNI results a, b claim it for different interfaces",
    );
}

#[test]
fn of_two_files_for_one_interface_the_one_with_a_route_counts() {
    let files = "cali1 pair
        file a shop/db-0 cali1 10.1.0.5
        file b shop/db-0 cali1 10.1.0.6
        ";
    check(
        &format!("{files}\nroute 10.1.0.6 cali1"),
        "10.1.0.6=cali1 [cali1] shop/db-0(cali1 10.1.0.6)",
    );
    check_problem(files, "", "CNI results a, b are ignored: all of them name interface cali1");
}

#[test]
fn a_result_without_an_interface_of_the_node_is_completed_by_the_kernel() {
    check(
        "azv1 pair
         route 10.1.0.5 azv1
         file a shop/db - 10.1.0.5
         file b shop/macvlan - 10.1.0.6",
        "10.1.0.5=azv1 [azv1] shop/db(azv1 10.1.0.5)",
    );
    // A result without addresses names an interface, and the API server the address.
    check(
        "cni0 bridge
         veth1 pair cni0 | 10.1.0.5
         file a shop/db veth1 -
         pod 10.1.0.5",
        "10.1.0.5=veth1@cni0 [cni0] shop/db(veth1 )",
    );
}

#[test]
fn a_bridge_with_another_port_or_a_gateway_is_not_only_of_pods() {
    let pod = "veth1 pair br0
        file a shop/db veth1 10.1.0.5
        br0 bridge
        ";
    let expected = "10.1.0.5=veth1@br0 shop/db(veth1 10.1.0.5)";
    for port in ["eth1 other br0", "vxlan0 other br0", "tap0 other br0"] {
        check(&format!("{pod}\n{port}"), expected);
    }
    // The uplink of the node is a veth, as in a node that is a container.
    check(&format!("{pod}\neth0 pair br0\nuplink br0"), expected);
}

#[test]
fn the_way_to_gateways_is_not_a_pods() {
    check(
        "eth0 pair | 10.1.0.1
         uplink eth0
         route 10.1.0.1 eth0
         pod 10.1.0.1",
        "",
    );
}

#[test]
fn an_interface_with_a_vlan_on_it_is_left_out() {
    check_problem(
        "cni0 bridge
         veth1 pair cni0
         on cni0 cni0.5
         file a shop/db veth1 10.1.0.5",
        "shop/db(veth1 10.1.0.5)",
        "VLAN interface cni0.5 is on it",
    );
    check_problem(
        "ovs0 other
         veth1 pair ovs0
         file a shop/db veth1 10.1.0.5",
        "shop/db(veth1 10.1.0.5)",
        "veth1 is a port of ovs0, which is not a bridge",
    );
}

#[test]
fn a_result_that_names_two_pairs_is_ignored() {
    check_problem(
        "veth1 pair
         veth2 pair
         file a shop/db veth1,veth2 10.1.0.5",
        "",
        "more than one of its interfaces",
    );
}

#[test]
fn loopback_and_link_local_are_never_attachments() {
    check(
        "cali1 pair | 169.254.1.1 fe80::1 127.0.0.1
         route 169.254.1.1 cali1
         pod 169.254.1.1
         pod fe80::1
         pod 127.0.0.1",
        "",
    );
}
