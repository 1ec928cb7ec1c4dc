//! Other programs that enforce NetworkPolicy, recognised by their objects in the kernel.

use super::facts::Facts;
use super::judgement::{Conflict, Judgement, list, starts_with};
use crate::dataplane::preflight::Severity;

/// A program that enforces NetworkPolicy and does not route, so that packets pass our rules and its
/// own.
struct Enforcer {
    name: &'static str,
    /// The beginnings of the names of its iptables chains.
    chains: &'static [&'static str],
    /// Its tables of nftables.
    tables: &'static [&'static str],
    /// Its BPF programs on the interfaces of pods.
    programs: &'static [&'static str],
    /// How to stop the program.
    stop: &'static str,
}

const ENFORCERS: [Enforcer; 6] = [
    Enforcer {
        name: "Calico",
        chains: &["cali-"],
        tables: &["calico"],
        programs: &[],
        stop: "Calico cannot route without enforcing; remove it, or do without Portcullis on this \
               node",
    },
    Enforcer {
        name: "kube-router or the controller built into k3s",
        chains: &["KUBE-ROUTER-FORWARD", "KUBE-POD-FW-", "KUBE-NWPLCY-"],
        tables: &["kube-router-filter-ipv4", "kube-router-filter-ipv6"],
        programs: &[],
        stop: "run k3s with --disable-network-policy or kube-router with --run-firewall=false, then \
               reboot the node or delete these chains: they stay after the program",
    },
    Enforcer {
        name: "kube-network-policies or kindnet",
        chains: &[],
        tables: &["kube-network-policies", "kindnet-network-policies"],
        programs: &[],
        stop: "delete its DaemonSet, then its nftables table",
    },
    Enforcer {
        name: "Azure Network Policy Manager",
        chains: &["AZURE-NPM"],
        tables: &[],
        programs: &[],
        stop: "set the cluster's network policy to none, `az aks update --network-policy none`",
    },
    Enforcer {
        name: "Weave Net",
        chains: &["WEAVE-NPC"],
        tables: &[],
        programs: &[],
        stop: "run Weave Net with EXPECT_NPC=0",
    },
    Enforcer {
        name: "the AWS network policy agent",
        chains: &[],
        tables: &[],
        programs: &["handle_ingress", "handle_egress"],
        stop: "set enableNetworkPolicy to false in the VPC CNI add-on",
    },
];

/// The AWS agent's programs are listed, so that they do not count as unknown datapath.
pub(super) fn is_enforcers_program(program: &str) -> bool {
    ENFORCERS.iter().any(|enforcer| starts_with(program, enforcer.programs))
}

pub(super) fn judge(facts: &Facts, judgement: &mut Judgement) {
    for enforcer in &ENFORCERS {
        let active = enforcer.active(facts);
        if !active.is_empty() {
            let what = format!(
                "{} enforces NetworkPolicies on this node too ({}): a packet passes only where both \
                 allow it, and what the first one accepts may never reach the second",
                enforcer.name,
                list(&active)
            );
            judgement.conflict(Conflict::SecondEnforcer, what, enforcer.stop);
            continue;
        }
        let inactive = enforcer.inactive(facts);
        if !inactive.is_empty() {
            let what = format!(
                "{} left {} behind: no packet gets there, so policies are enforced all the same",
                enforcer.name,
                list(&inactive)
            );
            judgement.note(Severity::Info, what, "");
        }
    }
}

impl Enforcer {
    /// The objects of the program that packets pass.
    fn active(&self, facts: &Facts) -> Vec<String> {
        let chains = facts.filters.iter().filter_map(|filter| {
            let chain = filter.hooked.iter().find(|chain| starts_with(chain, self.chains))?;
            Some(format!("FORWARD of {} leads to {chain}", filter.command))
        });
        let tables = facts.nft_tables.iter().filter(|table| table.hooked);
        let tables = tables.filter(|table| self.tables.contains(&table.name.as_str()));
        let tables = tables.map(|table| format!("nftables table {}", table.name));
        let links = facts.links.iter().filter(|link| link.is_of_pod());
        let programs = links.filter_map(|link| {
            let mut programs = link.tc_programs.iter();
            let program = programs.find(|program| starts_with(program, self.programs))?;
            Some(format!("BPF program {program} on {}", link.name))
        });
        chains.chain(tables).chain(programs).collect()
    }

    /// The objects of the program that exist and that no packet passes.
    fn inactive(&self, facts: &Facts) -> Vec<String> {
        let chains = facts.filters.iter().filter_map(|filter| {
            let is_own = |chain: &String| starts_with(chain, self.chains);
            filter.chains.iter().any(is_own).then(|| format!("chains in {}", filter.command))
        });
        let tables = facts.nft_tables.iter().map(|table| table.name.as_str());
        let tables = tables.filter(|name| self.tables.contains(name));
        chains.chain(tables.map(|name| format!("the nftables table {name}"))).collect()
    }
}
