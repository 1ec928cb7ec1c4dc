//! What goes on is told once, and then counted.

use std::time::Duration;

use anyhow::{Result, ensure};
use portcullis_lab::{Endpoint, Family, IptablesVariant, Probe};

use crate::shop::{PATIENCE, address, isolate, shop, text, told};

/// Packets of one sender that the kernel logs at once; see `dataplane::denial::chain`.
const BURST: u64 = 20;

#[test]
fn a_denial_that_goes_on_is_one_line_and_then_a_count() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    cluster.write("api.json", &isolate("api", "Ingress"))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    let api = address(&cluster, "api", Family::V4)?;
    let agent = cluster.agent("n2")?;
    let once = [Probe::tcp(Endpoint::pod("shop/web"), api, 81)];
    let send = |times| {
        (0..times)
            .try_for_each(|_| cluster.lab.probe_all(&once, Duration::from_millis(50)).map(|_| ()))
    };
    let fields = [("source", "shop/web"), ("port", "81")];
    // On a machine that is busy, one packet may get lost on its way.
    let soon = Duration::from_secs(20);
    let mut first = Err(anyhow::anyhow!("nothing was sent"));
    for _ in 0..3 {
        send(1)?;
        first = told(agent, 0, &fields, soon);
        if first.is_ok() {
            break;
        }
    }
    let (first, lines) = first?;
    ensure!(first["message"] == "denied" && first["count"] == 1, "{first}");
    send(BURST / 2)?;
    let (again, lines) = told(agent, lines, &fields, PATIENCE * 2)?;
    ensure!(again["message"] == "denied again" && again["count"] == BURST / 2, "{again}");
    ensure!(again["seconds"].as_u64().is_some_and(|s| (60..75).contains(&s)), "{again}");
    ensure!(again["why"] == first["why"], "{again}");

    // A denial that only now is one is told at once, however long the others go on.
    send(1)?;
    let other = [Probe::tcp(Endpoint::pod("shop/other"), api, 81)];
    cluster.lab.probe_all(&other, Duration::from_millis(50))?;
    let (line, _) = told(agent, lines, &[("port", "81")], PATIENCE)?;
    ensure!(line["source"] == "shop/other" && line["message"] == "denied", "{line}");
    Ok(())
}

#[test]
fn a_denial_by_other_policies_than_before_is_told_at_once() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    let policy = |name: &str, app: &str| isolate(app, "Ingress").replace("closed", name);
    cluster.write("a.json", &policy("first", "api"))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    let api = address(&cluster, "api", Family::V4)?;
    let agent = cluster.agent("n2")?;
    let send = |port| {
        let probe = [Probe::tcp(Endpoint::pod("shop/web"), api, port)];
        cluster.lab.probe_all(&probe, Duration::from_millis(50)).map(drop)
    };
    let of = |port| [("source", "shop/web"), ("port", port)];
    let soon = Duration::from_secs(20);
    send(81)?;
    let (line, lines) = told(agent, 0, &of("81"), PATIENCE)?;
    ensure!(text(&line, "why").starts_with("isolated by shop/first; "), "{line}");

    cluster.write("b.json", &policy("second", "api"))?;
    cluster.settle(PATIENCE)?;
    send(81)?;
    let (line, lines) = told(agent, lines, &of("81"), soon)?;
    ensure!(text(&line, "why").starts_with("isolated by shop/first, shop/second; "), "{line}");
    ensure!(line["message"] == "denied" && line["count"] == 1, "{line}");

    cluster.remove("a.json")?;
    cluster.settle(PATIENCE)?;
    send(81)?;
    let (line, lines) = told(agent, lines, &of("81"), soon)?;
    ensure!(text(&line, "why").starts_with("isolated by shop/second; "), "{line}");

    // Policies that are not about it are no news of it: the next that is told is another denial.
    cluster.write("c.json", &policy("third", "other"))?;
    cluster.settle(PATIENCE)?;
    send(81)?;
    send(82)?;
    let (line, _) = told(agent, lines, &[("source", "shop/web")], soon)?;
    ensure!(line["port"] == 82, "{line}");
    Ok(())
}
