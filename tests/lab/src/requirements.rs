//! What a machine must have to run a lab, checked before anything is built.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;

use super::namespace::Namespace;
use super::options::{Family, IptablesVariant};
use super::process;
use super::sweep::Claim;

/// Files that a process with a few labs may have open.
const OPEN_FILES: u64 = 16_384;

/// Fails with one message that lists all that is missing and how to get it.
pub(super) fn check(variant: IptablesVariant) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "a lab needs root: it makes network namespaces and loads iptables rules (try sudo)"
    );
    let iptables = [variant.program(Family::V4), variant.program(Family::V6)];
    let restores = iptables.map(|program| format!("{program}-restore"));
    let tools = [("ip", "iproute2"), ("bridge", "iproute2"), ("nsenter", "util-linux")]
        .into_iter()
        .chain(iptables.into_iter().map(|tool| (tool, "iptables")))
        .chain(restores.iter().map(|tool| (tool.as_str(), "iptables")));
    let mut missing: Vec<String> = tools
        .filter(|(tool, _)| !is_installed(tool))
        .map(|(tool, package)| format!("the command {tool}: apt-get install {package}"))
        .collect();
    if missing.is_empty() {
        missing = missing_in_kernel(variant)?;
    }
    if !missing.is_empty() {
        bail!("a lab needs what this machine lacks:\n  - {}", missing.join("\n  - "));
    }
    raise_open_files();
    Ok(())
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Tries each feature in a namespace of its own: the only test that is true of built-in features,
/// modules that load on demand, and containers that may not load any.
fn missing_in_kernel(variant: IptablesVariant) -> Result<Vec<String>> {
    let claim = Claim::new()?;
    let name = claim.name("check");
    process::ip(None, &format!("netns add {name}\n"))?;
    let namespace = Namespace::open(name)?;
    let mut missing = Vec::new();
    for (kind, arguments) in [("veth", ""), ("bridge", ""), ("vxlan", " id 1 dstport 4789")] {
        if process::ip(Some(namespace.name()), &format!("link add type {kind}{arguments}\n"))
            .is_err()
        {
            missing.push(format!("{kind} links in the kernel: modprobe {kind}"));
        }
    }
    if !namespace.run(|| Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists())? {
        missing.push("bridge netfilter in the kernel: modprobe br_netfilter".into());
    }
    let matches = "*nat\n-A POSTROUTING -p tcp -m mark --mark 1 -m addrtype --dst-type LOCAL \
                   -m statistic --mode random --probability 0.5 -j MASQUERADE --random-fully\n\
                   COMMIT\n*filter\n-A FORWARD -m conntrack --ctstate NEW -j REJECT\nCOMMIT\n";
    for family in [Family::V4, Family::V6] {
        let program = variant.program(family);
        if let Err(error) = process::restore(&namespace, program, matches) {
            let cause = error.root_cause();
            missing.push(format!("kernel support for the rules of a lab in {program}: {cause}"));
        }
    }
    Ok(missing)
}

/// Lifts the soft limit of open files towards the hard one: a lab's sockets are in one process.
fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < OPEN_FILES
    {
        // Where this fails, an open that exceeds the limit says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard);
    }
}
