//! The programs of the binary `portcullis`: the node agent, and what looks after its node.
//!
//! Arrows go one way: `watch` → `agent` → `dataplane`. The dataplane sees engine values and never
//! an API object; only `dataplane/apply` touches the kernel. What the agent says of itself goes from
//! `status`, summed up by `state`, to `report` and `http`, which run beside it.

pub mod agent;
pub mod args;
pub mod client;
pub mod cluster;
pub mod conflicts;
pub mod dataplane;
pub mod denials;
pub mod http;
pub mod lock;
pub mod metrics;
pub mod report;
pub mod state;
pub mod status;
pub mod watch;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use policy_engine::cidr::Family;
use policy_engine::engine::{Engine, Scope};
use policy_engine::world;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use self::agent::Agent;
use self::args::{Cli, Command, HttpArgs, KernelArgs, LogFormat, NodeArgs, PreflightArgs};
use self::conflicts::Examinations;
use self::dataplane::preflight::{Finding, Severity};
use self::dataplane::{CleanupReport, Dataplane};
use self::denials::Feed;
use self::http::Served;
use self::lock::NodeLock;
use self::metrics::Metrics;
use self::report::render::Facts;
use self::status::{Publisher, Pulse};
use self::watch::Source;

/// Batches of changes that may wait for the agent; a source that is faster has to wait.
const QUEUED_EVENTS: usize = 1024;

/// Does what the command line asks. The exit code is 0, 1 when a check found a fault, or 2 when
/// the program could not do its work.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    let result = start_log(cli).and_then(|()| match &cli.command {
        Command::Node(args) => node(args),
        Command::Controller(args) => cluster::run(args),
        Command::Cleanup(args) => cleanup(args),
        Command::Preflight(args) => Ok(preflight(args)),
    });
    result.unwrap_or_else(|failure| {
        error!("{failure:#}");
        ExitCode::from(2)
    })
}

fn start_log(cli: &Cli) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("--log {}", cli.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match cli.log_format {
        LogFormat::Text => log.with_writer(std::io::stderr).init(),
        LogFormat::Json => log.json().flatten_event(true).with_writer(std::io::stderr).init(),
    }
    Ok(())
}

fn node(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    let options = args.dataplane_options();
    for finding in dataplane::preflight(&options) {
        match finding.severity {
            Severity::Info => info!("{finding}"),
            Severity::Warning => warn!("{finding}"),
            Severity::Error => error!("{finding}"),
        }
    }
    let (metrics, pulse) = (Metrics::default(), Pulse::default());
    let publisher = Publisher::new(metrics.clone(), pulse.clone());
    serve(&args.http, &publisher, &metrics, pulse.clone())?;
    let _lock = NodeLock::acquire(&args.lock_dir, |path| {
        info!(lock = %path.display(), "another agent has this node; waiting until it ends");
    })?;
    pulse.beat();
    let dataplane = Dataplane::open(options).context("failed to find a way to program the node")?;
    let lacking = |family: &&Family| !dataplane.families().contains(family);
    if let Some(family) = args.require_families.iter().find(lacking) {
        anyhow::bail!(
            "IP{family:?}, which --require-families asks for, cannot be enforced: the kernel lacks it, \
             or {} is not installed",
            dataplane.variant().command(*family)
        );
    }
    if args.source == Source::Kube {
        let facts = Facts::new(&dataplane, args.pod_name.clone());
        let (node, status) = (args.node_name.clone(), publisher.subscribe());
        report::writer::start(args.access(), node, facts, status)
            .context("failed to start to report")?;
    }
    let scope = Scope::Node(args.node_name.as_str().into());
    let choices = world::Options {
        allow_egress_to_own_node: args.allow_egress_to_own_node,
        own_namespace: args.own_namespace.as_str().into(),
    };
    let denials = match dataplane.denial_log() {
        None => None,
        Some(group) => {
            let feed = Feed::start(&args.node_name, group.number(), &metrics.denials);
            Some(feed.context("failed to start to read the log of denials")?)
        }
    };
    let examiner = dataplane.examiner(&args.conflicts.ignore_conflicts);
    let examinations = Examinations::start(examiner, args.conflict_period)
        .context("failed to start to examine the node")?;
    let agent = Agent::new(Engine::new(scope, choices), dataplane, args.verify_period, publisher)
        .telling(denials)
        .examined_by(examinations);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (sender, events) = mpsc::channel(QUEUED_EVENTS);
        args.source.start(&args.access(), args.missing_kind_period, sender)?;
        info!(node = args.node_name, source = ?args.source, "watching");
        agent.run(events, shutdown()?).await?;
        info!("ending; what is in the kernel stays in force");
        Ok(ExitCode::SUCCESS)
    })
}

/// Starts to serve probes and metrics: before the lock, so that an agent that waits for it is seen
/// to live.
fn serve(
    args: &HttpArgs,
    publisher: &Publisher,
    metrics: &Metrics,
    pulse: Pulse,
) -> anyhow::Result<()> {
    let (stalled, unready) = (args.stalled_after, args.unready_after);
    let status = publisher.subscribe();
    let live = pulse.clone();
    let served = Served {
        live: Box::new(move || live.alive(stalled)),
        // A task that hangs in a tool applies nothing, and hears of no change.
        ready: Box::new(move || pulse.alive(unready).and_then(|()| status.borrow().ready(unready))),
        registry: metrics.registry(),
    };
    http::start(args.health_address, args.metrics_address, served)
        .context("failed to serve probes and metrics")
}

fn cleanup(args: &KernelArgs) -> anyhow::Result<ExitCode> {
    let report = dataplane::cleanup(&args.dataplane_options())
        .context("failed to remove all of it; run it again once the cause is mended")?;
    let CleanupReport { chains_deleted, sets_destroyed, kept } = report;
    println!("removed {chains_deleted} chains and {sets_destroyed} sets");
    if kept.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("kept, for rules that are not ours use them: {}", kept.join(", "));
    Ok(ExitCode::from(1))
}

fn preflight(args: &PreflightArgs) -> ExitCode {
    let options = args.kernel.dataplane_options();
    let mut findings = dataplane::preflight(&options);
    let mut examiner = dataplane::examiner(&options, &args.conflicts.ignore_conflicts);
    findings.extend(examiner.examine(&[]).findings());
    findings.iter().for_each(|finding| println!("{}: {finding}", finding.severity));
    let failed = |finding: &Finding| finding.severity == Severity::Error;
    if findings.iter().any(failed) { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// Resolves when the process is asked to end.
fn shutdown() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
