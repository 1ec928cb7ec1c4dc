//! A tool that refuses one set or one chain: the pods that need it are denied, everything else is
//! applied in the same round, and the end of the fault heals it. So nothing waits for one tenant.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster};
use portcullis_tests::tool::{wrap, wrap_all};
use tempfile::TempDir;

use crate::VARIANTS;
use crate::probes::{METRICS, ask, flags, value, wait_for};
use crate::shop::{ADMIN, PATIENCE, WEB, allow, check, lab, shop};
use crate::traffic::Route;

/// Refuses each script for `ipset` with this text in it.
fn refuse_sets(texts: &[String]) -> String {
    let texts = texts.iter().map(|text| format!("-e '{text}'")).collect::<Vec<_>>().join(" ");
    format!(
        "case \"$*\" in *restore*) script=$(cat)
         if printf '%s\\n' \"$script\" | grep -q -F {texts}; then echo 'Hash is full' >&2; exit 1; fi
         printf '%s\\n' \"$script\" | \"$real\" \"$@\"; exit $?;; esac"
    )
}

/// Refuses each script for a restore tool with this text in it.
fn refuse_chains(text: &str) -> String {
    format!(
        "script=
         while IFS= read -r line; do
             case $line in *'{text}'*) echo 'Too many links' >&2; exit 2;; esac
             script=\"$script$line
\"
             case $line in COMMIT) printf %s \"$script\" | \"$real\" \"$@\" || exit $?; script=;; esac
         done; exit 0"
    )
}

/// An agent of n2 with tools that misbehave from [`Faulty::begin`] to [`Faulty::end`].
struct Faulty {
    cluster: Cluster,
    agent: Agent,
    tools: TempDir,
    names: Vec<String>,
}

impl Faulty {
    /// `other` allows the `web` of the other node, as `api` does.
    fn new(
        variant: IptablesVariant,
        tools: &[&str],
        fault: impl Fn(&Cluster) -> Result<String>,
    ) -> Result<Self> {
        let cluster = shop(lab(variant), &[])?;
        let names: Vec<String> = tools.iter().map(ToString::to_string).collect();
        let tools = tempfile::tempdir()?;
        let fault = fault(&cluster)?;
        for tool in &names {
            wrap(tools.path(), tool, &fault)?;
        }
        cluster.write("policies.yaml", &policies(&["web"], WEB, &["web"]))?;
        let setup = AgentSetup {
            tools: Some(tools.path().into()),
            // Comparisons that fail must not keep changes from being applied.
            flags: flags(&["--verify-period=5"]),
            ..AgentSetup::default()
        };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        wait_for(&cluster, "/readyz", 200)?;
        let faulty = Self { cluster, agent, tools, names };
        faulty.check(
            "before",
            &[("web", "api", WEB), ("web", "other", WEB)],
            &[("near", "other", WEB)],
        )?;
        Ok(faulty)
    }

    fn begin(&self) -> Result<()> {
        for name in &self.names {
            fs::write(self.tools.path().join(format!("{name}.broken")), "")?;
        }
        // A restore tool stays between changes: the one that works ends, so that the next is broken.
        self.agent.kill_tools()
    }

    fn end(&self) -> Result<()> {
        for name in &self.names {
            fs::remove_file(self.tools.path().join(format!("{name}.broken")))?;
        }
        Ok(())
    }

    fn write(&self, policies: &str) -> Result<()> {
        self.cluster.write("policies.yaml", policies)
    }

    fn check(&self, when: &str, open: &[Route], closed: &[Route]) -> Result<()> {
        check(&self.cluster.lab, when, open, closed)
    }

    fn refused(&self) -> Result<f64> {
        let (_, metrics) = ask(&self.cluster, METRICS, "/metrics")?;
        value(&metrics, "portcullis_pods_refused")
    }

    /// Fails unless `shop/api` is reported as the one pod that is denied connections, because of `why`.
    fn check_reported(&self, after: usize, why: &str) -> Result<()> {
        let line = self.agent.wait_for_after(
            after,
            "rules of tier NetworkPolicy was refused",
            PATIENCE,
        )?;
        for text in ["NetworkPolicy shop/api", "are denied to pod shop/api", why] {
            ensure!(line.contains(text), "{text} in {line}");
        }
        let unready = wait_for(&self.cluster, "/readyz", 503)?;
        ensure!(
            unready.contains("rules of 1 pods was refused") && unready.contains(why),
            "{unready}"
        );
        ensure!(self.refused()? > 0.5, "the metric");
        Ok(())
    }

    fn check_healed(&self) -> Result<()> {
        self.end()?;
        wait_for(&self.cluster, "/readyz", 200)?;
        ensure!(self.refused()? < 0.5, "the metric");
        Ok(())
    }
}

/// What two tenants allow: the first one on `port` of `api`, the second on `other`.
fn policies(api: &[&str], port: u16, other: &[&str]) -> String {
    [allow("api", api, &[port]), allow("other", other, &[WEB])].join("---\n")
}

fn one_set_is_refused(variant: IptablesVariant) -> Result<()> {
    let faulty = Faulty::new(variant, &["ipset"], |cluster| {
        let addresses = cluster.lab.pod("shop/stranger")?.addresses();
        Ok(refuse_sets(&addresses.iter().map(|ip| format!(" {ip}")).collect::<Vec<_>>()))
    })?;
    faulty.begin()?;
    let logged = faulty.agent.logged();
    // One batch: a set that is refused, and a set, an opening and a closing of another tenant.
    faulty.write(&policies(&["stranger"], WEB, &["near"]))?;
    faulty.agent.wait_for_after(logged, "policies are enforced", PATIENCE)?;
    let (closed, stranger) = (("web", "api", WEB), ("stranger", "api", WEB));
    let both = [closed, stranger, ("web", "other", WEB)];
    faulty.check("the first round", &[("near", "other", WEB)], &both)?;
    faulty.check_reported(logged, "Hash is full")?;
    let failed = faulty.agent.said_after(logged, "failed to apply policies");
    ensure!(failed.is_none(), "one round applied the rest: {failed:?}");

    // Later changes do not wait for it, and it stays closed.
    let logged = faulty.agent.logged();
    faulty.write(&policies(&["stranger"], WEB, &["lurker"]))?;
    faulty.agent.wait_for_after(logged, "policies are enforced", PATIENCE)?;
    let closed = [closed, stranger, ("near", "other", WEB)];
    faulty.check("the second round", &[("lurker", "other", WEB)], &closed)?;
    faulty.check_healed()?;
    let open = [stranger, ("lurker", "other", WEB)];
    faulty.check("healed", &open, &[closed[0], closed[2]])?;
    faulty.agent.terminate()
}

#[test]
fn one_refused_set_denies_its_tenant_and_stops_nobody_else() -> Result<()> {
    VARIANTS.into_iter().try_for_each(|variant| {
        one_set_is_refused(variant).with_context(|| variant.name().to_owned())
    })
}

fn one_chain_is_refused(variant: IptablesVariant) -> Result<()> {
    let tools = ["iptables", "ip6tables"].map(|tool| format!("{tool}-{}-restore", variant.name()));
    let tools = tools.each_ref().map(String::as_str);
    let faulty = Faulty::new(variant, &tools, |_| Ok(refuse_chains(&format!("--dport {ADMIN}"))))?;
    faulty.begin()?;
    let logged = faulty.agent.logged();
    faulty.write(&policies(&["stranger"], ADMIN, &["near"]))?;
    faulty.agent.wait_for_after(logged, "policies are enforced", PATIENCE)?;
    let stranger = ("stranger", "api", ADMIN);
    let closed = [stranger, ("web", "api", WEB), ("web", "other", WEB)];
    faulty.check("while it is refused", &[("near", "other", WEB)], &closed)?;
    faulty.check_reported(logged, "Too many links")?;
    faulty.check_healed()?;
    faulty.check("healed", &[stranger, ("near", "other", WEB)], &closed[1..])?;
    faulty.agent.terminate()
}

#[test]
fn one_refused_chain_denies_its_tenant_and_stops_nobody_else() -> Result<()> {
    VARIANTS.into_iter().try_for_each(|variant| {
        one_chain_is_refused(variant).with_context(|| variant.name().to_owned())
    })
}

/// On a node without rules of an earlier run, what policies deny is denied, and what needs no set is
/// allowed.
#[test]
fn an_agent_that_starts_without_a_working_ipset_closes_what_policies_close() -> Result<()> {
    for (variant, fault) in [
        (IptablesVariant::Nft, None),
        (IptablesVariant::Nft, Some("case \"$*\" in *-exist*) echo no modules >&2; exit 1;; esac")),
        (IptablesVariant::Legacy, Some("echo out of order >&2; exit 1")),
    ] {
        let what = fault.unwrap_or("no ipset");
        let cluster = shop(lab(variant), &[])?;
        let tools = tempfile::tempdir()?;
        wrap_all(tools.path(), fault.unwrap_or("true"))?;
        let (ipset, broken) = (tools.path().join("ipset"), tools.path().join("ipset.broken"));
        fs::write(&broken, "")?;
        if fault.is_none() {
            fs::rename(&ipset, tools.path().join("gone"))?;
        }
        // All pods of the other node, by one network of each family.
        let blocks: Vec<String> = cluster
            .lab
            .node("n1")?
            .pod_cidrs()
            .iter()
            .map(|cidr| format!("{{ipBlock: {{cidr: '{cidr}'}}}}"))
            .collect();
        let other = allow("other", &["none"], &[WEB]);
        let other = other.replace("from: [", &format!("from: [{}, ", blocks.join(", ")));
        cluster.write("policies.yaml", &[allow("api", &["web"], &[WEB]), other].join("---\n"))?;
        let setup = AgentSetup {
            tools: Some(tools.path().into()),
            only_these_tools: true,
            // Otherwise nftables enforces, which needs no ipset.
            flags: flags(&["--backend=iptables"]),
            ..AgentSetup::default()
        };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("only what needs no ipset is applied", PATIENCE)?;
        let api = [("web", "api", WEB), ("stranger", "api", WEB), ("near", "api", WEB)];
        let closed = [&api[..], &[("near", "other", WEB)]].concat();
        check(&cluster.lab, what, &[("web", "other", WEB), ("stranger", "other", WEB)], &closed)?;
        let why = wait_for(&cluster, "/readyz", 503)?;
        ensure!(why.starts_with("Failing: ipsets cannot be used ("), "{what}: {why}");
        ensure!(agent.said_after(0, "policies are enforced").is_none(), "{what}");

        if fault.is_none() {
            fs::rename(tools.path().join("gone"), &ipset)?;
        }
        fs::remove_file(&broken)?;
        wait_for(&cluster, "/readyz", 200)?;
        check(&cluster.lab, what, &api[..1], &[&api[1..], &[("near", "other", WEB)]].concat())?;
        agent.terminate()?;
    }
    Ok(())
}

/// `ipset` fails, dies or hangs: no connection opens that needs a new set, but all that policies deny
/// now are closed.
#[test]
fn without_a_working_ipset_policies_still_close() -> Result<()> {
    for (variant, fault) in [
        (IptablesVariant::Nft, "echo no such tool >&2; exit 1"),
        (IptablesVariant::Nft, "case \"$*\" in *-exist*) exec sleep 600;; esac"),
        (IptablesVariant::Legacy, "kill -9 $$"),
    ] {
        let faulty = Faulty::new(variant, &["ipset"], |_| Ok(fault.to_owned()))?;
        faulty.begin()?;
        let logged = faulty.agent.logged();
        faulty.write(&policies(&["stranger"], WEB, &[]))?;
        faulty.agent.wait_for_after(logged, "policies are enforced", PATIENCE)?;
        let stranger = ("stranger", "api", WEB);
        let closed = [stranger, ("web", "api", WEB), ("web", "other", WEB)];
        faulty.check(fault, &[], &closed)?;
        faulty.check_reported(logged, "ipset")?;
        faulty.check_healed()?;
        faulty.check(fault, &[stranger], &closed[1..])?;
        faulty.agent.terminate()?;
    }
    Ok(())
}
