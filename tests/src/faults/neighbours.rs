//! Other programs with the permissions of the agent, and a pod that loses its network.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::row::{Exception, Fault};
use super::stage::Stage;

/// What is removed is put back once the kernel has announced it, or with the next comparison, which
/// `--verify-period` has every 5 s here.
const ANNOUNCED: Duration = Duration::from_millis(1_500);
const COMPARED: Duration = Duration::from_secs(6);

/// All faults of neighbours.
pub(super) fn faults() -> Vec<Fault> {
    let shell = |name: &'static str, begin: &'static str, end: &'static str| {
        let run = |script: &'static str| {
            move |stage: &Stage| stage.lab().node("n2")?.shell(script).map(drop)
        };
        Fault::new(name, run(begin), run(end))
    };
    let open_for = |fault: Fault, limit| fault.except(Exception::OpenFor(limit));
    let flush = "for t in iptables ip6tables; do $t-VARIANT -t mangle -F; done";
    let nft = flush.replace("VARIANT", "nft").leak();
    vec![
        open_for(shell("all chains of mangle are flushed", nft, "true"), ANNOUNCED),
        open_for(
            shell(
                "all rules are flushed (`nft flush ruleset`)",
                "iptables-nft-save > /dev/null; nft flush ruleset || for t in iptables ip6tables; do for n in mangle filter nat raw; do $t-nft -t $n -F; $t-nft -t $n -X; done; done",
                "true",
            ),
            ANNOUNCED,
        ),
        open_for(
            shell(
                "the jump from FORWARD is removed",
                "for t in iptables ip6tables; do $t-nft -t mangle -D FORWARD -j PORTCULLIS-FORWARD; done",
                "true",
            ),
            ANNOUNCED,
        ),
        open_for(
            shell(
                "ACCEPT stands before the jump from FORWARD",
                "for t in iptables ip6tables; do $t-nft -t mangle -I FORWARD -j ACCEPT; done",
                "for t in iptables ip6tables; do $t-nft -t mangle -D FORWARD -j ACCEPT; done",
            ),
            ANNOUNCED,
        ),
        shell(
            "ACCEPT is the first rule of FORWARD in filter",
            "for t in iptables ip6tables; do $t-nft -I FORWARD -j ACCEPT; done",
            "for t in iptables ip6tables; do $t-nft -D FORWARD -j ACCEPT; done",
        ),
        open_for(
            shell(
                "one chain of the agent is flushed",
                "for t in iptables ip6tables; do $t-nft -t mangle -F PORTCULLIS-JUDGE; done",
                "true",
            ),
            ANNOUNCED,
        ),
        shell(
            "all chains of filter are flushed",
            "for t in iptables ip6tables; do $t-nft -F; done",
            "true",
        ),
        // That members are missing is only seen with the next comparison.
        shell("`ipset flush` of all sets", "ipset flush", "true")
            .except(Exception::ClosedFor(COMPARED)),
        shell("`ipset destroy` of all sets", "ipset destroy || true", "true"),
        open_for(
            shell(
                "all chains of mangle are flushed (legacy)",
                flush.replace("VARIANT", "legacy").leak(),
                "true",
            )
            .legacy(),
            COMPARED,
        ),
        shell(
            "an ipset of another program is filled with 100,000 members",
            "ipset create foreign hash:ip maxelem 200000; \
             seq 0 99999 | awk '{print \"add foreign 11.\" int($1/65536) \".\" int($1/256)%256 \".\" $1%256}' | ipset restore",
            "ipset destroy foreign",
        ),
        Fault::new(
            "the network of a pod is gone",
            |stage| {
                let link = stage.lab().pod("shop/spare")?.host_link().context("a link")?.to_owned();
                let remove =
                    format!("ip link show {link} > /dev/null 2>&1 && ip link del {link} || true");
                stage.lab().node("n2")?.shell(&remove).map(drop)
            },
            |_| -> Result<()> { Ok(()) },
        ),
    ]
}
