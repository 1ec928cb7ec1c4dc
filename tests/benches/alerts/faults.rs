//! The faults, and the alerts that have to fire in each.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use portcullis_controller::dataplane::LogGroup;
use portcullis_controller::dataplane::netlink::nflog;
use portcullis_lab::{DEFAULT_TIMEOUT, IptablesVariant};
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster};
use portcullis_tests::shop::{PATIENCE, WEB, allow, lab, probes, shop};
use portcullis_tests::tool::wrap_all;
use tempfile::TempDir;

use crate::Case;
use crate::controller::{self, CONTROLLER};
use crate::promtool::MINUTES;
use crate::scrape::{METRICS, Scrape, Series, labelled, series, up, wait_for};

const AGENT: &str = "portcullis-node-x7x2m";
const ENFORCING: &str = "portcullis_node_state{state=\"Enforcing\"}";
/// How often a neighbour changes something, for alerts that fire after more than three times.
const TIMES: u8 = 5;

/// What is seen of each fault, one after the other.
pub(crate) fn all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let controller = controller::cases(&mut cases)?;
    of_start(&mut cases)?;
    while_running(&mut cases)?;
    by_hand(&mut cases)?;
    // An agent without a controller is a fault, too.
    for case in &mut cases {
        if !case.series.iter().any(|(name, _)| name.contains(CONTROLLER)) {
            case.series.extend(controller.iter().cloned());
        }
    }
    Ok(cases)
}

/// The shop with an agent on n2 whose tools can misbehave.
struct Shop {
    cluster: Cluster,
    tools: TempDir,
    agent: Option<Agent>,
}

impl Shop {
    fn new() -> Result<Self> {
        let (cluster, tools) = (shop(lab(IptablesVariant::Nft), &[])?, tempfile::tempdir()?);
        wrap_all(tools.path(), ". \"$0.broken\"")?;
        cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
        Ok(Self { cluster, tools, agent: None })
    }

    fn start(&mut self, setup: AgentSetup) -> Result<()> {
        let metrics = format!("--metrics-address=:{METRICS}");
        let flags = ["--health-address=off", "--verify-period=1", "--conflict-period=1"];
        let flags = flags.map(str::to_owned).into_iter().chain([metrics]).collect();
        let tools = Some(self.tools.path().into());
        let setup = AgentSetup { flags, tools, only_these_tools: true, ..setup };
        self.agent = Some(self.cluster.spawn_agent_as("n2", &setup)?);
        Ok(())
    }

    /// The shop while nothing is wrong, and what its agent serves.
    fn enforcing() -> Result<(Self, Scrape)> {
        let mut shop = Self::new()?;
        shop.start(AgentSetup::default())?;
        let agent = shop.agent.as_ref().context("no agent")?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        let healthy = shop.wait_for(ENFORCING, 0.0)?;
        Ok((shop, healthy))
    }

    fn wait_for(&self, series: &str, least: f64) -> Result<Scrape> {
        let netns = self.cluster.lab.node("n2")?.netns();
        netns.run(|| wait_for(series, least))?
    }

    fn shell(&self, script: &str) -> Result<()> {
        self.cluster.lab.node("n2")?.shell(script).map(drop)
    }

    /// A change of the policies while these tools fail.
    fn change_without(&self, tools: &[&str]) -> Result<()> {
        for tool in tools {
            let fault = "cat > /dev/null; echo 'Cannot allocate memory' >&2; exit 1";
            fs::write(self.tools.path().join(format!("{tool}.broken")), fault)?;
        }
        // A restore tool stays between changes: the one that works ends.
        self.agent.as_ref().context("no agent")?.kill_tools()?;
        self.cluster.write("other.yaml", &allow("other", &["web", "near"], &[WEB]))
    }

    /// Changes something in the kernel several times, and waits each time until the agent has counted it.
    fn repeatedly(&self, script: &str, counter: &str) -> Result<()> {
        for turn in 0..TIMES {
            self.shell(script)?;
            self.wait_for(counter, f64::from(turn))?;
        }
        Ok(())
    }
}

/// Agents that start beside a fault: there is no state before it.
fn of_start(cases: &mut Vec<Case>) -> Result<()> {
    let mut case =
        |name, alerts: &[&'static str], shop: &Shop, series_name: &str| -> Result<Scrape> {
            let found = shop.wait_for(series_name, 0.0)?;
            let series = series(AGENT, &found, &found);
            cases.push(Case { name, series, alerts: alerts.to_vec() });
            Ok(found)
        };
    let mut unreachable = Shop::new()?;
    let kubeconfig = unreachable.tools.path().join("kubeconfig");
    fs::write(
        &kubeconfig,
        "{apiVersion: v1, kind: Config, current-context: a, users: [{name: a, user: {}}], \
         clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], \
         contexts: [{name: a, context: {cluster: a, user: a}}]}",
    )?;
    unreachable.start(AgentSetup { kubeconfig: Some(kubeconfig), ..AgentSetup::default() })?;
    let loading = "portcullis_node_state{state=\"Loading\"}";
    case("the API server cannot be reached", &["PortcullisNodeLoading"], &unreachable, loading)?;

    let mut renamed = Shop::new()?;
    renamed.start(AgentSetup { node_name: Some("N2".to_owned()), ..AgentSetup::default() })?;
    let unknown = "portcullis_node_degraded{what=\"NodeUnknown\"}";
    let alerts = ["PortcullisNodeDegraded", "PortcullisObjectErrors"];
    let degraded = "portcullis_node_state{state=\"Degraded\"}";
    let found = case("no Node has the agent's name", &alerts, &renamed, degraded)?;
    ensure!(found.get(unknown).is_some_and(|value| value == "1"), "another part is not enforced");

    let mut deaf = Shop::new()?;
    let group = LogGroup::default().number();
    let other = deaf.cluster.lab.node("n2")?.netns().run(|| nflog::open(group))??;
    deaf.start(AgentSetup::default())?;
    let name = "another process reads the log of denials";
    let found = case(name, &["PortcullisDenialLogDeaf"], &deaf, ENFORCING)?;
    drop(other);
    ensure!(found.get("portcullis_denial_log_listening").is_some_and(|value| value == "0"));
    Ok(())
}

/// Faults of an agent that has enforced policies before.
fn while_running(cases: &mut Vec<Case>) -> Result<()> {
    let mut case =
        |name: &'static str, alerts: &[&'static str], fault: &dyn Fn(&Shop) -> Result<Scrape>| {
            let (shop, before) = Shop::enforcing()?;
            let during = fault(&shop).with_context(|| name.to_owned())?;
            let series = series(AGENT, &before, &during);
            cases.push(Case { name, series, alerts: alerts.to_vec() });
            anyhow::Ok(())
        };
    case("nothing is wrong with an agent", &[], &|shop| shop.wait_for(ENFORCING, 0.0))?;
    case("iptables-restore fails", &["PortcullisNodeFailing"], &|shop| {
        shop.change_without(&["iptables-nft-restore", "ip6tables-nft-restore"])?;
        shop.wait_for("portcullis_node_state{state=\"Failing\"}", 0.0)
    })?;
    let refused = ["PortcullisNodeDegraded", "PortcullisRulesRefused"];
    case("ipset fails", &refused, &|shop| {
        shop.change_without(&["ipset"])?;
        shop.wait_for("portcullis_pods_refused", 0.0)
    })?;
    case("another program enforces policies", &["PortcullisNodeBypassed"], &|shop| {
        let iptables = "iptables-nft -w 20";
        shop.shell(&format!("{iptables} -N cali-FORWARD; {iptables} -A FORWARD -j cali-FORWARD"))?;
        let conflict = "portcullis_conflicts{conflict=\"SecondEnforcer\",ignored=\"false\"}";
        shop.wait_for(conflict, 0.0)
    })?;
    // A repair of the jumps is one of the rules, too.
    let contested = ["PortcullisDrift", "PortcullisHooksContested"];
    case("the jumps are removed repeatedly", &contested, &|shop| {
        let counter = "portcullis_hook_repairs_total";
        shop.repeatedly("iptables-nft -w 20 -t mangle -F FORWARD", counter)?;
        shop.wait_for(ENFORCING, 0.0)
    })?;
    case("rules are changed repeatedly", &["PortcullisDrift"], &|shop| {
        let script = "iptables-nft -w 20 -t mangle -I PORTCULLIS-FORWARD -p 99 -j RETURN";
        shop.repeatedly(script, "portcullis_drift_repairs_total")?;
        shop.wait_for(ENFORCING, 0.0)
    })?;
    case("a policy has a mistake", &["PortcullisPolicyFailedClosed"], &|shop| {
        let policy = allow("other", &["web"], &[WEB]).replace("port: 80", "port: 0");
        shop.cluster.write("other.yaml", &policy)?;
        shop.wait_for("portcullis_diagnostics{severity=\"error\",about=\"policy\"}", 0.0)
    })?;
    let unread = ["PortcullisNodeDegraded", "PortcullisObjectErrors"];
    case("a manifest cannot be read", &unread, &|shop| {
        let lost = "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: lost, labels: {";
        shop.cluster.write("lost.yaml", lost)?;
        shop.wait_for("portcullis_diagnostics{severity=\"error\",about=\"other\"}", 0.0)
    })?;
    case("a policy exceeds a budget", &["PortcullisPodsOverBudget"], &|shop| {
        let ports: Vec<u16> = (1..=1_100).map(|number| number * 2).collect();
        shop.cluster.write("other.yaml", &allow("other", &["web"], &ports))?;
        shop.wait_for("portcullis_pods_over_budget", 0.0)
    })
}

/// Faults that last longer than a test may: the series of a healthy agent, one of them changed by hand.
fn by_hand(cases: &mut Vec<Case>) -> Result<()> {
    let (shop, _) = Shop::enforcing()?;
    // Only denials that were counted have a series.
    let (lab, denied) = (&shop.cluster.lab, [("stranger", "api", WEB)]);
    lab.probe_all(&probes(lab, &denied)?, DEFAULT_TIMEOUT)?;
    let denied =
        "portcullis_denials_total{direction=\"ingress\",tier=\"NetworkPolicy\",verdict=\"Denied\"}";
    let healthy = shop.wait_for(denied, 0.0)?;
    let mut case = |name, alert, changed: Series| {
        let mut series = series(AGENT, &healthy, &healthy);
        series.retain(|(name, _)| *name != changed.0);
        series.push(changed);
        cases.push(Case { name, series, alerts: vec![alert] });
    };
    let stale = labelled("portcullis_watch_age_seconds{kind=\"Pod\"}", AGENT);
    let name = "the API server sends nothing for an hour";
    case(name, "PortcullisWatchStale", (stale, format!("0+60x{MINUTES}")));
    let denied = labelled(denied, AGENT);
    let name = "15 packets per second are denied";
    case(name, "PortcullisManyDenials", (denied, format!("0+900x{MINUTES}")));

    // A target that does not answer has no series but `up`.
    let series = series(AGENT, &healthy, &Scrape::new());
    let mut series: Vec<_> =
        series.into_iter().filter(|(name, _)| !name.starts_with("up{")).collect();
    series.push(up(AGENT, &format!("1x4 0x{}", MINUTES - 5)));
    let (name, alerts) = ("the agent does not run", vec!["PortcullisAgentDown"]);
    cases.push(Case { name, series, alerts });
    Ok(())
}
