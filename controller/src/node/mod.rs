//! The node agent, `portcullis node`: enforces policies on its node and reports what it enforces.
//!
//! ```text
//! watch ─► agent ─► dataplane
//!            └─► publisher ─► Status, facts ─► State ─► report (API server), serve (probes, metrics)
//!                     └─────► metrics ───────────────► serve (metrics)
//! ```
//!
//! One agent at a time programs a node (`lock`). `denials` names the policies that denied packets;
//! `conflicts` finds other software on the node that makes enforcement void; `hooks` detects when
//! packets no longer reach the rules; `connections` ends connections that policies no longer allow;
//! `answers` answers questions of other programs on the node about what the agent enforces.

pub mod agent;
pub mod answers;
pub mod attach;
pub mod boot;
pub mod budgets;
pub mod conflicts;
pub mod connections;
pub mod contests;
pub mod denials;
pub mod extra_ranges;
pub mod hooks;
pub mod local_pods;
pub mod lock;
pub mod metrics;
pub mod node_name;
pub mod publisher;
pub mod refused;
pub mod report;
pub mod signals;
pub mod state;
pub mod status;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use policy_engine::cidr::Family;
use policy_engine::engine::{Engine, Scope};
use policy_engine::world;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use self::agent::Agent;
use self::attach::Finder;
use self::boot::Marker;
use self::conflicts::Examinations;
use self::connections::{Choices, Connections};
use self::denials::Feed;
use self::extra_ranges::ExtraRanges;
use self::hooks::HookTouches;
use self::local_pods::LocalPods;
use self::lock::NodeLock;
use self::metrics::Metrics;
use self::node_name::NodeName;
use self::publisher::Publisher;
use self::report::render::Facts;
use self::signals::Signals;
use crate::args::{AgentMode, HttpArgs, NodeArgs, VERSION};
use crate::dataplane::preflight::Severity;
use crate::dataplane::{self, Dataplane};
use crate::serve::http::{self, Served};
use crate::serve::pulse::Pulse;
use crate::watch::{Needs, Source};

/// The most batches of changes that wait for the agent; then the source has to wait.
const QUEUED_EVENTS: usize = 1024;

/// How long all Nodes stay watched after the last policy that names nodes has gone: one that comes
/// back soon needs no new list.
const NODES_KEPT: Duration = Duration::from_mins(1);

/// Runs the agent until the process is asked to stop. The rules in the kernel stay enforced after
/// that. Serves `log_lines_lost` as a metric.
///
/// # Errors
/// When the node cannot be programmed at all, or the flags do not fit it.
pub fn run(args: &NodeArgs, log_lines_lost: &Counter) -> anyhow::Result<ExitCode> {
    info!(version = VERSION.as_str(), "starting the agent");
    let options = args.dataplane_options();
    for finding in dataplane::preflight(&options) {
        match finding.severity {
            Severity::Info => info!("{finding}"),
            Severity::Warning => warn!("{finding}"),
            Severity::Error => error!("{finding}"),
        }
    }
    let metrics = Metrics::default().counting_lost_log_lines_by(log_lines_lost.clone());
    let pulse = Pulse::default();
    let publisher = Publisher::new(metrics.clone(), pulse.clone());
    publisher.enforcing(&args.enforcement());
    let signals = Signals::new(publisher.subscribe(), pulse.clone(), args.http.unready_after);
    serve(&args.http, &signals, &metrics, pulse.clone())?;
    let _lock = NodeLock::acquire(&args.lock_dir, |path| {
        info!(lock = %path.display(), "another agent runs on this node; waiting until it stops");
    })?;
    pulse.beat();
    let dataplane = Dataplane::open(options).context("failed to open the dataplane")?;
    let lacking = |family: &&Family| !dataplane.families().contains(family);
    if let Some(family) = args.require_families.iter().find(lacking) {
        anyhow::bail!(
            "IP{family:?}, which --require-families asks for, cannot be enforced: the kernel lacks it, \
             or {} is not installed",
            dataplane.command(*family)
        );
    }
    let choices = world::Options {
        allow_egress_to_own_node: args.allow_egress_to_own_node,
        budgets: args.budgets,
        enforcement: args.enforcement(),
        ..args.system.options()
    };
    if args.source == Source::Kube {
        let facts = Facts::new(&dataplane, &choices, args.pod_name.clone());
        report::writer::start(args.access(), args.node_name.clone(), facts, signals)
            .context("failed to start to report")?;
    }
    let scope = Scope::Node(args.node_name.as_str().into());
    let denials = match dataplane.denial_log() {
        None => None,
        Some(group) => {
            let feed = Feed::start(&args.node_name, group.number(), &metrics.denials);
            Some(feed.context("failed to start to read the log of denials")?)
        }
    };
    let local_pods = if args.checks_addresses() {
        let finder = Finder::start(args.cni_results_dir.0.as_deref());
        let finder = finder.context("failed to start to look for the interfaces of pods")?;
        let extra_ranges = ExtraRanges::within(args.extra_source_ranges.clone());
        Some(LocalPods::new(&args.node_name, finder, extra_ranges))
    } else {
        None
    };
    let examiner = dataplane.examiner(&args.conflicts.ignore_conflicts);
    let examinations = Examinations::start(examiner, args.conflict_period)
        .context("failed to start to examine the node")?;
    let ended = Choices {
        revoke: args.revoke_established,
        allow_egress_to_own_node: args.allow_egress_to_own_node,
    };
    let connections = Connections::start(&args.node_name, ended, metrics.connections.clone());
    // An agent that denies nothing must not deny packets after a reboot either.
    let state_dir = args.state_dir.0.as_deref().filter(|_| args.mode == AgentMode::Enforce);
    let marker = Marker::new(state_dir);
    let inquiries = answers::socket::start(&args.lock_dir);
    let touches =
        HookTouches::start(dataplane.hook_watch()).context("failed to start to watch the hooks")?;
    let agent = Agent::new(Engine::new(scope, choices), dataplane, args.verify_period, publisher)
        .logging(denials)
        .examined_by(examinations)
        .judging_interfaces_of(local_pods)
        .closed_after_reboot(marker)
        .watched_by(touches)
        .on(NodeName::new(&args.node_name, args.source == Source::Kube))
        .ending(connections)
        .answering(inquiries);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (sender, events) = mpsc::channel(QUEUED_EVENTS);
        let (period, contacts) = (args.missing_kind_period, &metrics.contacts);
        args.source.start(&args.access(), needs(args), period, contacts, sender)?;
        info!(node = args.node_name, source = %args.source, "watching");
        agent.run(events, crate::shutdown()?).await?;
        info!("stopping; the rules in the kernel stay applied");
        Ok(ExitCode::SUCCESS)
    })
}

/// The objects that the agent needs.
fn needs(args: &NodeArgs) -> Needs {
    if args.extra_source_ranges.is_empty() {
        Needs::OfNode { name: args.node_name.clone(), nodes_kept: NODES_KEPT }
    } else {
        // A pod must not get the address of a node as an additional address.
        Needs::All
    }
}

/// Starts to serve probes and metrics. This comes before the lock, so that the liveness probe of an
/// agent that waits for the lock succeeds.
fn serve(
    args: &HttpArgs,
    signals: &Signals,
    metrics: &Metrics,
    pulse: Pulse,
) -> anyhow::Result<()> {
    let (stalled, ready) = (args.stalled_after, signals.clone());
    let served = Served {
        live: Box::new(move || pulse.alive(stalled)),
        ready: Box::new(move || ready.latest().state().ready()),
        registry: metrics.registry(signals.clone()),
    };
    http::start(args.health_address, args.metrics_address, served)
        .context("failed to serve probes and metrics")
}
