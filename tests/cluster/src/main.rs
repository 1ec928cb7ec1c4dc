//! `cluster up`, `cluster down`: the cluster of `make cluster`, for people.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_cluster::{Cluster, Options, binaries};
use portcullis_tests::cluster::{kubectl_whatif, portcullis};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Where a running cluster leaves what others need to use it.
const DIRECTORY: &str = "/run/portcullis-cluster";
/// How long `down` waits for the cluster to end.
const END_WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A throwaway Kubernetes cluster on this machine with Portcullis installed.
#[derive(Parser)]
#[command(name = "cluster", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster, install Portcullis, and say how to use it.
    Up {
        #[command(flatten)]
        options: Options,
        /// Start the cluster without Portcullis; its image is on the nodes.
        #[arg(long)]
        without_portcullis: bool,
        /// Stay in the foreground until Ctrl-C.
        #[arg(long)]
        foreground: bool,
    },
    /// End the cluster and remove every trace of it.
    Down,
}

fn main() -> Result<()> {
    match Arguments::parse().action {
        Action::Up { options, without_portcullis, foreground: true } => {
            run(options, without_portcullis)
        }
        Action::Up { .. } => up(),
        Action::Down => down(),
    }
}

/// Starts this program again, in the foreground of a session of its own, and waits until it
/// serves.
fn up() -> Result<()> {
    ensure!(running().is_none(), "a cluster runs already; `cluster down` ends it");
    fs::create_dir_all(DIRECTORY)?;
    let log = file("log");
    let output = File::create(&log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--foreground").process_group(0);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn().context("failed to start the cluster")?;
    let mut shown = 0;
    loop {
        let text = fs::read_to_string(&log).unwrap_or_default();
        print!("{}", text.get(shown..).unwrap_or_default());
        std::io::stdout().flush()?;
        shown = text.len();
        if let Some(status) = child.try_wait()? {
            bail!("the cluster did not start: {status}");
        }
        if file("ready").exists() {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Runs a cluster until a signal.
fn run(options: Options, without_portcullis: bool) -> Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    ensure!(running().is_none(), "a cluster runs already; `cluster down` ends it");
    fs::create_dir_all(DIRECTORY)?;
    let _ = fs::remove_file(file("ready"));
    fs::write(file("pid"), std::process::id().to_string())?;
    let result = serve(options, without_portcullis, &ended);
    let removed = fs::remove_dir_all(DIRECTORY);
    result.and(removed.context("failed to remove its directory"))
}

fn serve(options: Options, without_portcullis: bool, ended: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    let step = |text: &str| println!("{:5.1} s  {text}", started.elapsed().as_secs_f64());
    step("binaries and images");
    let kubernetes = binaries::kubernetes(&options)?;
    let mut images = binaries::test_images(&kubernetes)?;
    images.push(binaries::product_image(&portcullis()?, "0.1.0")?);
    images.push(binaries::nftables_image(&portcullis()?, "0.1.0-nftables")?);
    step(&format!("{} nodes", options.nodes));
    let cluster = Cluster::start(options, &kubernetes, &images)?;
    if !without_portcullis {
        step("kubectl apply -k deploy/");
        cluster.install(cluster.options().manifests())?;
    }
    step("ready");
    fs::copy(cluster.kubeconfig(), file("kubeconfig"))?;
    print!("{}", cluster.kubectl(&["get", "nodes,pods", "-A", "-o", "wide"])?);
    print!("{}", cluster.kubectl(&["get", "nodepolicyreports"]).unwrap_or_default());
    let whatif = kubectl_whatif()?;
    let plugin = whatif.parent().context("a program lies in a directory")?;
    println!("\nUse it:  export KUBECONFIG={}", file("kubeconfig").display());
    println!("         export PATH={}:{}:$PATH", kubernetes.display(), plugin.display());
    println!("         kubectl get pods -A; kubectl whatif map");
    println!("End it:  make cluster-down");
    fs::write(file("ready"), "")?;
    while !ended.load(Ordering::SeqCst) {
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn down() -> Result<()> {
    let Some(pid) = running() else {
        portcullis_cluster::sweep_stale()?;
        portcullis_lab::sweep_stale()?;
        println!("no cluster runs");
        return Ok(());
    };
    kill(pid, Signal::SIGTERM).context("failed to end the cluster")?;
    let deadline = Instant::now() + END_WITHIN;
    while running().is_some() {
        ensure!(Instant::now() < deadline, "the cluster (process {pid}) does not end");
        thread::sleep(LOOK_EVERY);
    }
    println!("the cluster ended");
    Ok(())
}

/// The process of a cluster that runs.
fn running() -> Option<Pid> {
    let pid: i32 = fs::read_to_string(file("pid")).ok()?.trim().parse().ok()?;
    let program = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_cluster = String::from_utf8_lossy(&program).contains("foreground");
    is_cluster.then(|| Pid::from_raw(pid))
}

fn file(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}
