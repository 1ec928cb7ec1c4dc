//! What is proved on a real cluster with the shipped image: see [`portcullis_cluster`].
//!
//! ```text
//! cluster 1: pods, services, upstream's suites   two tests at a time, each in namespaces of its own
//!            then operators                      one at a time: agents and nodes restart, uninstall
//! ```
//!
//! `CLUSTER_ARGS`, as the flags of `cluster up`, asks for another cluster. `CLUSTER_FULL=1`, as `make test-cluster` has
//! it, asks for all of upstream's tests and for more pods.

mod agents;
mod backends;
mod boot;
mod conformance;
mod helm_test;
mod new_pods;
mod operators;
mod pods;
mod reuse;
mod services;
mod transcripts;
mod whatif;
mod world;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use portcullis_cluster::Cluster;

type Shared = fn(&Cluster) -> Result<()>;
type Alone = fn(&mut Cluster) -> Result<()>;

/// Tests that leave the cluster as it is, by name.
const SHARED: &[(&str, Shared)] = &[
    ("upstream::network_policy_e2e", conformance::network_policy_e2e),
    ("upstream::cluster_network_policy", conformance::cluster_network_policy),
    ("pods::kubelet_probes_pass_under_default_deny", pods::kubelet_probes_pass_under_default_deny),
    ("pods::nodes_reach_their_own_pods", pods::nodes_reach_their_own_pods),
    ("pods::host_network_pods_are_their_node", pods::host_network_pods_are_their_node),
    ("pods::named_ports_are_those_of_each_pod", pods::named_ports_are_those_of_each_pod),
    ("pods::init_and_sidecar_containers", pods::init_and_sidecar_containers),
    ("services::cluster_ip", services::cluster_ip),
    ("services::a_pod_reaches_itself_through_its_service", services::hairpin),
    ("services::host_port", services::host_port),
    ("services::node_port", services::node_port),
    ("whatif::status_returns_when_every_node_obeys", whatif::status_returns_when_every_node_obeys),
    ("whatif::denials_of_all_nodes_are_listed", whatif::denials_of_all_nodes_are_listed),
    (
        "whatif::the_live_page_gets_status_and_denials",
        whatif::the_live_page_gets_status_and_denials,
    ),
];

/// Tests that no other may run beside, in this order, by name: they decide which address the next
/// pod has, or restart what others need.
const ALONE: &[(&str, Alone)] = &[
    ("reuse::address_of_a_deleted_pod", |cluster| reuse::address_of_a_deleted_pod(cluster)),
    ("reuse::address_of_a_finished_job", |cluster| reuse::address_of_a_finished_job(cluster)),
    ("reuse::stateful_set_restarts_with_its_address", |cluster| reuse::stateful_set(cluster)),
    ("whatif::kernels_are_inspected_traced_and_verified", |cluster| {
        agents::kernels_are_inspected_traced_and_verified(cluster)
    }),
    // Before the other one, whose shop has denials too.
    ("operators::troubleshooting", |cluster| transcripts::troubleshooting(cluster)),
    ("operators::first_ten_minutes", |cluster| transcripts::first_ten_minutes(cluster)),
    ("operators::helm_test_names_the_node_of_an_agent_that_is_down", |cluster| {
        helm_test::names_the_node_of_an_agent_that_is_down(cluster)
    }),
    ("operators::rollout_loses_no_request", operators::rollout_loses_no_request),
    ("operators::agents_are_updated_under_traffic", operators::agents_are_updated_under_traffic),
    ("operators::crds_are_upgraded_under_traffic", operators::crds_are_upgraded_under_traffic),
    ("operators::a_namespace_is_deleted", operators::a_namespace_is_deleted),
    ("operators::controller_failover", operators::controller_failover),
    ("operators::an_agent_restart_opens_nothing", operators::an_agent_restart_opens_nothing),
    ("boot::a_node_is_drained_and_restarted", boot::a_node_is_drained_and_restarted),
    ("new_pods::no_packet_passes_before_isolation", |cluster| {
        new_pods::no_packet_passes_before_isolation(cluster)
    }),
    ("backends::change_to_nftables_and_back_under_traffic", |cluster| {
        backends::change_to_nftables_and_back_under_traffic(cluster)
    }),
    ("operators::uninstall_leaves_nodes_clean", operators::uninstall_leaves_nodes_clean),
    ("new_pods::no_packet_is_lost_without_a_policy", |cluster| {
        new_pods::no_packet_is_lost_without_a_policy(cluster)
    }),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        let names = SHARED.iter().map(|(name, _)| name).chain(ALONE.iter().map(|(name, _)| name));
        let trials = names.map(|name| Trial::test(*name, || Ok(())));
        return Ok(libtest_mimic::run(arguments, trials.collect()).exit_code());
    }
    let started = Instant::now();
    let cluster = Arc::new(world::start()?);
    eprintln!("the cluster is up after {:.1} s", started.elapsed().as_secs_f64());
    let first = libtest_mimic::run(arguments, shared(&cluster));
    let cluster = Arc::try_unwrap(cluster).ok().context("a test still uses the cluster")?;
    let cluster = Arc::new(Mutex::new(cluster));
    let one_by_one = Arguments { test_threads: Some(1), ..arguments.clone() };
    let second = libtest_mimic::run(&one_by_one, alone(&cluster));
    Ok(if first.has_failed() { first } else { second }.exit_code())
}

fn shared(cluster: &Arc<Cluster>) -> Vec<Trial> {
    let trial = |(name, test): &(&'static str, Shared)| {
        let (cluster, name, test) = (Arc::clone(cluster), *name, *test);
        Trial::test(name, move || timed(name, || test(&cluster)))
    };
    SHARED.iter().map(trial).collect()
}

fn alone(cluster: &Arc<Mutex<Cluster>>) -> Vec<Trial> {
    let trial = |(name, test): &(&'static str, Alone)| {
        let (cluster, name, test) = (Arc::clone(cluster), *name, *test);
        Trial::test(name, move || {
            let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            timed(name, || test(&mut cluster))
        })
    };
    ALONE.iter().map(trial).collect()
}

fn timed(name: &str, test: impl FnOnce() -> Result<()>) -> Result<(), Failed> {
    let started = Instant::now();
    let result = test();
    eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    result.map_err(|error| Failed::from(format!("{error:#}")))
}
