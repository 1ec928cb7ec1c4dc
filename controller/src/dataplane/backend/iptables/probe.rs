//! Probes a node: variants, families, and the facts for preflight.

use std::fs;
use std::io::ErrorKind;

use iptables::IPTables;
use policy_engine::cidr::Family;
use policy_engine::port::{PortRange, Protocol};

use super::kernel::Kernel;
use super::sets::{family_name, type_name};
use super::text;
use super::variant::{Evidence, Place, Variant, choose};
use crate::dataplane::attachment::InterfaceName;
use crate::dataplane::backend::error::Error;
use crate::dataplane::denial::Denial;
use crate::dataplane::feature::Feature;
use crate::dataplane::name::{ChainName, SetName};
use crate::dataplane::netlink::conntrack;
use crate::dataplane::options::{DenyAction, LogGroup, Options, TableName};
use crate::dataplane::preflight::{Facts, FamilyFacts};
use crate::dataplane::rule::{IsInterface, Match, Rule, Side, Verdict};
use crate::dataplane::set::Kind;

/// A set that exists during a probe.
const SET: SetName = SetName::short("PROBE");

/// A chain that exists during a probe. If a probe is killed, the next apply removes it.
const CHAIN: ChainName = ChainName::short("PROBE");

/// An interface that every node has.
const INTERFACE: InterfaceName = InterfaceName::LOOPBACK;

/// The directory of the thread, not the process: tests run threads in their own network namespaces.
const PROC_NET: &str = "/proc/thread-self/net";

/// The chains and rules of a variant; `None` if it is not installed.
fn evidence(variant: Variant, lock_wait_seconds: u32) -> Result<Option<Evidence>, Error> {
    let kernel = tools(variant, lock_wait_seconds);
    if !kernel.installed(Family::V4) {
        return Ok(None);
    }
    let mut evidence = Evidence::default();
    for family in [Family::V4, Family::V6] {
        if kernel.may_have_tables(family) && kernel.installed(family) {
            let save = format!("{}-save", variant.command(family));
            let found = Evidence::count(&kernel.run(&save, &[], "")?);
            evidence.kube_chains += found.kube_chains;
            evidence.rules += found.rules;
        }
    }
    Ok(Some(evidence))
}

/// Whether no other program has rules in either variant. The kubelet creates chains without rules.
pub(in crate::dataplane) fn is_unused_by_others(lock_wait_seconds: u32) -> bool {
    let has_none = |variant| {
        evidence(variant, lock_wait_seconds)
            .is_ok_and(|found| found.is_none_or(|found| found.rules == 0))
    };
    Variant::BOTH.into_iter().all(has_none)
}

/// The variant to use on this node.
pub(in crate::dataplane) fn choose_variant(lock_wait_seconds: u32) -> Result<Variant, Error> {
    let evidence = |variant| evidence(variant, lock_wait_seconds);
    let any = tools(Variant::Nft, lock_wait_seconds);
    let default = any.run("iptables", &["--version"], "").ok();
    let default = default.as_deref().map(Variant::of_version);
    match (evidence(Variant::Legacy), evidence(Variant::Nft)) {
        (Ok(legacy), Ok(nft)) => choose(legacy, nft, default).ok_or(Error::NoIptables),
        // The `nft` tool can have added rules that iptables-save cannot show. If one variant has
        // Kubernetes' chains, an error of the second one does not matter.
        (Ok(Some(legacy)), Err(_)) if legacy.kube_chains > 0 => Ok(Variant::Legacy),
        (Err(_), Ok(Some(nft))) if nft.kube_chains > 0 => Ok(Variant::Nft),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// The tools of a variant, for any table.
fn tools(variant: Variant, lock_wait_seconds: u32) -> Kernel {
    Kernel::new(Place { variant, table: TableName::Filter }, lock_wait_seconds)
}

/// Whether the kernel has IPv6.
pub(in crate::dataplane) fn has_ipv6() -> bool {
    fs::exists(format!("{PROC_NET}/if_inet6")).unwrap_or(true)
}

impl Kernel {
    /// Whether the variant's command for `family` is installed.
    pub(in crate::dataplane) fn installed(&self, family: Family) -> bool {
        // Any other failure is reported when the command is used.
        let missing = |error: &Error| matches!(error, Error::Start { source, .. } if source.kind() == ErrorKind::NotFound);
        !self
            .run(self.place.variant.command(family), &["--version"], "")
            .is_err_and(|e| missing(&e))
    }

    /// Whether the table can have rules. A run of iptables-legacy would load its modules and create
    /// tables on nodes that do not use them.
    pub(in crate::dataplane) fn may_have_rules(&self, family: Family) -> bool {
        let table = self.place.table.name();
        self.tables(family).is_none_or(|names| names.lines().any(|name| name == table))
    }

    /// Whether any table of the variant can have rules.
    fn may_have_tables(&self, family: Family) -> bool {
        self.tables(family).is_none_or(|names| !names.is_empty())
    }

    /// The tables of iptables-legacy, one a line; `None` with iptables-nft, which has all.
    fn tables(&self, family: Family) -> Option<String> {
        let names = match (self.place.variant, family) {
            (Variant::Nft, _) => return None,
            (Variant::Legacy, Family::V4) => "ip_tables_names",
            (Variant::Legacy, Family::V6) => "ip6_tables_names",
        };
        Some(fs::read_to_string(format!("{PROC_NET}/{names}")).unwrap_or_default())
    }
}

/// The facts for preflight, without conflicts.
pub(in crate::dataplane) fn facts(variant: Result<Variant, Error>, options: &Options) -> Facts {
    let lock_wait = options.lock_wait_seconds;
    let kernel = |variant| Kernel::new(Place { variant, table: options.table() }, lock_wait);
    let version = |tool: &str| {
        // The only spelling that all tools know.
        let version = kernel(Variant::Nft).run(tool, &["-V"], "");
        let line = version.map(|text| text.lines().next().unwrap_or_default().to_owned());
        (tool.to_owned(), line.map_err(|error| error.to_string()))
    };
    let families = [Family::V4, Family::V6];
    let commands = Variant::BOTH.into_iter().flat_map(|v| families.map(|f| v.command(f)));
    let variant = variant.ok();
    let here = families.into_iter().filter(|f| *f == Family::V4 || has_ipv6());
    let family_facts = |family| {
        let mut facts = FamilyFacts {
            family,
            forwarding: forwarding(family),
            rules_work: Ok(()),
            log_works: Ok(()),
            lacking: Vec::new(),
        };
        if let Some(kernel) = variant.map(kernel) {
            facts.rules_work = try_rules(&kernel, family);
            let saved = own_rules(&kernel, family);
            if let Some(group) = options.denial_log {
                facts.log_works = try_log(&kernel, family, group, options.deny, &saved);
            }
            facts.lacking = lacking(&kernel, family, options, &saved);
        }
        facts
    };
    Facts {
        tools: commands.chain(["ipset"]).map(version).collect(),
        command: variant.map(|variant| variant.command(Family::V4)),
        families: here.map(family_facts).collect(),
        // Checked last: the rules above have loaded it if it is a module.
        ..kernel_facts()
    }
}

/// The facts for preflight that do not depend on the backend.
pub(in crate::dataplane) fn kernel_facts() -> Facts {
    Facts {
        conntrack: fs::exists("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or(false),
        lasting: conntrack::probe().err().map(|error| error.to_string()),
        ..Facts::default()
    }
}

pub(in crate::dataplane) fn forwarding(family: Family) -> bool {
    let file = match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    fs::read_to_string(file).is_ok_and(|value| value.trim() != "0")
}

/// Whether the kernel accepts the matches of our rules, in a chain that no rule jumps to.
pub(in crate::dataplane) fn try_rules(kernel: &Kernel, family: Family) -> Result<(), String> {
    let set = SET.to_string();
    let kind = type_name(Kind::Address);
    let create = ["-exist", "create", &set, kind, "family", family_name(family)];
    kernel.run("ipset", &create, "").map_err(|error| error.to_string())?;
    let ports = [1, 3].map(PortRange::single);
    let matches = [
        Match::Set(SET, Side::Source),
        Match::RelatedOrEstablished,
        Match::Ports(Protocol::Tcp, ports.into()),
    ];
    let added =
        try_in_chain(kernel, family, matches.map(|part| Rule::new([part], Verdict::Return)));
    let _ = kernel.run("ipset", &["destroy", &set], "");
    added
}

/// The features that `options` need and the kernel lacks, each with the error.
///
/// `saved` are [`own_rules`].
pub(in crate::dataplane) fn lacking(
    kernel: &Kernel,
    family: Family,
    options: &Options,
    saved: &[String],
) -> Vec<(Feature, String)> {
    let of_family = |feature: &Feature| match feature {
        Feature::HopLimit => family == Family::V6,
        Feature::SctpChunks | Feature::PodInterfaces => true,
        // No rule of iptables needs it.
        Feature::TwoTags => false,
    };
    let features = Feature::ALL.into_iter().filter(|feature| options.needs(*feature));
    let features: Vec<Feature> = features.filter(of_family).collect();
    // An agent that restarts finds its rules: then no rule has to be tried or written.
    let is_used = |feature: &Feature| {
        let option = match feature {
            Feature::TwoTags => return true,
            Feature::HopLimit => " --hl-eq ",
            Feature::SctpChunks => " --chunk-types ",
            Feature::PodInterfaces => " --physdev-out ",
        };
        saved.iter().any(|rule| rule.contains(option))
    };
    if features.iter().all(is_used) || try_features(kernel, family, &features).is_ok() {
        return Vec::new();
    }
    let why = |feature| try_features(kernel, family, &[feature]).err().map(|why| (feature, why));
    features.into_iter().filter_map(why).collect()
}

/// A match that needs a feature.
fn needs(feature: Feature) -> Vec<Match> {
    match feature {
        Feature::TwoTags => Vec::new(),
        Feature::HopLimit => vec![Match::HopLimit(255)],
        Feature::SctpChunks => vec![Match::SctpInit],
        Feature::PodInterfaces => {
            let other = IsInterface::NotNamed(INTERFACE);
            vec![
                Match::BridgePort(Side::Source, other),
                Match::BridgePort(Side::Destination, other),
                Match::NotBridged,
            ]
        }
    }
}

fn try_features(kernel: &Kernel, family: Family, features: &[Feature]) -> Result<(), String> {
    let matches = features.iter().flat_map(|feature| needs(*feature));
    try_in_chain(kernel, family, matches.map(|part| Rule::new([part], Verdict::Return)))
}

/// Whether the kernel accepts the rules that log denials, and can hand packets over.
///
/// `saved` are [`own_rules`].
pub(in crate::dataplane) fn try_log(
    kernel: &Kernel,
    family: Family,
    group: LogGroup,
    deny: DenyAction,
    saved: &[String],
) -> Result<(), String> {
    // An agent that restarts finds its rules, as in `lacking`.
    if !saved.iter().any(|rule| rule.contains(" -j NFLOG ")) {
        // One kind is enough: the kinds differ in numbers only.
        let kinds = Denial::all().take(1);
        let rules = kinds.flat_map(|kind| kind.rules(family, deny, Some(group)));
        try_in_chain(kernel, family, rules)?;
    }
    // The rules may exist without the module that they hand packets to, which loses the packets.
    match fs::exists(format!("{PROC_NET}/netfilter/nfnetlink_log")) {
        Ok(false) => Err("the kernel has no nfnetlink_log".to_owned()),
        Ok(true) | Err(_) => Ok(()),
    }
}

/// The rules of our chains; none if they cannot be read.
pub(in crate::dataplane) fn own_rules(kernel: &Kernel, family: Family) -> Vec<String> {
    let save = format!("{}-save", kernel.place.variant.command(family));
    let is_own = |line: &&str| {
        let chain = line.strip_prefix("-A ").and_then(|rule| rule.split(' ').next());
        chain.and_then(ChainName::parse).is_some()
    };
    let saved = kernel.run(&save, &["-t", kernel.place.table.name()], "").unwrap_or_default();
    saved.lines().filter(is_own).map(str::to_owned).collect()
}

/// Adds rules to a chain that no rule jumps to, and removes the chain.
fn try_in_chain(
    kernel: &Kernel,
    family: Family,
    rules: impl IntoIterator<Item = Rule>,
) -> Result<(), String> {
    let wait = kernel.lock_wait_seconds;
    // `has_wait` would wait for the lock without a limit.
    let cmd = kernel.place.variant.command(family);
    let table = kernel.place.table.name();
    let tables = IPTables { cmd, has_check: true, has_wait: false, is_numeric: true };
    let execute = |command: &str| match tables.execute(table, &format!("-w {wait} {command}")) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let add = |rule: Rule| execute(&format!("-A {CHAIN} {}", text::rule(&rule)));
    // The chain of an agent that was killed may still exist: it is flushed.
    let _ = execute(&format!("-N {CHAIN}"));
    let added = execute(&format!("-F {CHAIN}")).and_then(|()| rules.into_iter().try_for_each(add));
    for command in ["-F", "-X"] {
        let _ = execute(&format!("{command} {CHAIN}"));
    }
    added
}
