//! Collects the [`Facts`] about other software on the node, for the detection of conflicts.
//!
//! The facts are read by netlink and iptables. Nothing is changed, except for
//! `net.bridge.bridge-nf-call-*` and `bridge-nf-filter-vlan-tagged`, which are set to 1 if there is
//! a bridge.

mod links;

mod nft_tables;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use policy_engine::cidr::Family;
use serde_json::Value;

use self::links::{links, routes};
use self::nft_tables::nft_tables;
use super::backend::Error;
use super::backend::iptables::probe::has_ipv6;
use super::backend::iptables::{Kernel, Place, Variant};
use super::conflict::IPVS_LINKS;
use super::conflict::facts::{BridgeNetfilter, BridgeSwitch, Facts, FilterTable, NftTable};
use super::options::TableName;

/// The directory of the container runtime with the configuration of CNI plugins. The agent's
/// container does not have it.
const CNI_DIRECTORY: &str = "/etc/cni/net.d";

/// The directory with the settings of bridges of the thread's network namespace.
const BRIDGE_SETTINGS: &str = "/proc/sys/net/bridge";

/// The facts about this node. `variant` is the one in use, `pods` are addresses of isolated pods.
pub(super) fn survey(variant: Option<Variant>, lock_wait_seconds: u32, pods: &[IpAddr]) -> Facts {
    let mut facts = Facts { cni_plugin: cni_plugin(), ..Facts::default() };
    match links(&IPVS_LINKS) {
        Ok((links, 0)) => facts.links = links,
        Ok((links, unreadable)) => {
            facts.links = links;
            facts.failures.push(format!("{unreadable} interfaces or filters were not understood"));
        }
        Err(error) => facts.failures.push(format!("failed to list interfaces: {error}")),
    }
    match routes(pods) {
        Ok(routes) => facts.routes = routes,
        Err(error) => facts.failures.push(format!("failed to look up routes to pods: {error}")),
    }
    match nft_tables() {
        Ok(tables) => facts.nft_tables = tables,
        Err(error) => facts.failures.push(format!("failed to list nftables: {error}")),
    }
    let has_bridge = facts.links.iter().any(|link| link.kind == "bridge");
    let switches = bridge_switches().map(|switch| (switch, bridge_netfilter(switch, has_bridge)));
    facts.bridge_netfilter.extend(switches);
    for family in Family::BOTH.into_iter().filter(|f| *f == Family::V4 || has_ipv6()) {
        for candidate in Variant::BOTH {
            // Other programs enforce in filter.
            let place = Place { variant: candidate, table: TableName::Filter };
            let kernel = Kernel::new(place, lock_wait_seconds);
            // The kernel applies the rules of both variants. The unused one may not work here.
            match filter_table(&kernel, family, &facts.nft_tables) {
                Ok(table) => facts.filters.extend(table),
                Err(error) if variant == Some(candidate) => facts.failures.push(error),
                Err(_) => {}
            }
        }
    }
    facts
}

/// Whether kube-proxy runs in its nftables mode: then it has a table of its own.
pub(super) fn kube_proxy_uses_nftables() -> bool {
    let is_its = |table: &NftTable| table.family.is_some() && table.name == "kube-proxy";
    nft_tables().is_ok_and(|tables| tables.iter().any(is_its))
}

/// The filter table, without the rules of other chains than FORWARD; `None` where there is none.
fn filter_table(
    kernel: &Kernel,
    family: Family,
    nft_tables: &[NftTable],
) -> Result<Option<FilterTable>, String> {
    if !kernel.may_have_rules(family) {
        return Ok(None);
    }
    let command = kernel.place.variant.command(family);
    let printed = match kernel.place.variant {
        // Takes as long as a listing of all rules.
        Variant::Legacy => kernel.run(&format!("{command}-save"), &["-t", "filter"], ""),
        Variant::Nft => kernel.run(command, &["-S", "FORWARD"], ""),
    };
    let mut table = match printed {
        Ok(printed) => FilterTable::parse(command, &printed),
        Err(Error::Start { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    if kernel.place.variant == Variant::Nft {
        let is_own = |found: &&NftTable| found.family == Some(family) && found.name == "filter";
        let found = nft_tables.iter().filter(is_own);
        table.chains.extend(found.flat_map(|found| found.chains.iter().cloned()));
    }
    Ok(Some(table))
}

/// The settings that matter to this node.
fn bridge_switches() -> impl Iterator<Item = BridgeSwitch> {
    BridgeSwitch::ALL
        .into_iter()
        .filter(|one| *one != BridgeSwitch::Calls(Family::V6) || has_ipv6())
}

fn bridge_file(switch: BridgeSwitch) -> PathBuf {
    PathBuf::from(BRIDGE_SETTINGS).join(switch.name())
}

/// The settings of bridges that are off now. Takes some microseconds.
pub(super) fn bridge_switches_off() -> BTreeSet<BridgeSwitch> {
    let is_off = |switch: &BridgeSwitch| {
        fs::read_to_string(bridge_file(*switch)).is_ok_and(|value| value.trim() == "0")
    };
    bridge_switches().filter(is_off).collect()
}

/// Whether the packets of a setting pass iptables. With `turn_on`, turns the setting on.
fn bridge_netfilter(switch: BridgeSwitch, turn_on: bool) -> BridgeNetfilter {
    let file = bridge_file(switch);
    match fs::read_to_string(&file) {
        Err(_) => BridgeNetfilter::NotLoaded,
        Ok(value) if value.trim() != "0" => BridgeNetfilter::On,
        Ok(_) if !turn_on => BridgeNetfilter::Off("no bridge needs it".to_owned()),
        Ok(_) => match fs::write(&file, "1") {
            Ok(()) => BridgeNetfilter::TurnedOn,
            Err(error) => BridgeNetfilter::Off(error.to_string()),
        },
    }
}

/// The type of the plugin that attaches pods: the first plugin of the first configuration by name,
/// which is the one that container runtimes use.
fn cni_plugin() -> Option<String> {
    let is_configuration = |file: &PathBuf| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("conf" | "conflist" | "json"))
    };
    let files = fs::read_dir(CNI_DIRECTORY).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let first = files.filter(is_configuration).min()?;
    plugin(&fs::read_to_string(first).ok()?)
}

/// The type of the first plugin of a CNI configuration, a single one or a list.
fn plugin(configuration: &str) -> Option<String> {
    let configuration: Value = serde_json::from_str(configuration).ok()?;
    let first = configuration.get("plugins").and_then(|plugins| plugins.get(0));
    Some(first.unwrap_or(&configuration).get("type")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_that_attaches_pods_is_the_first_of_a_list() {
        let check = |configuration: &str, expected: Option<&str>| {
            assert_eq!(plugin(configuration).as_deref(), expected, "{configuration}");
        };
        check(r#"{"plugins": [{"type": "macvlan"}, {"type": "portmap"}]}"#, Some("macvlan"));
        check(r#"{"cniVersion": "1.0.0", "type": "ipvlan", "master": "eth0"}"#, Some("ipvlan"));
        for configuration in ["", "[]", "{}", r#"{"plugins": []}"#, r#"{"type": 1}"#] {
            check(configuration, None);
        }
    }
}
