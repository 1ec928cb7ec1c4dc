//! For how long is a new pod reachable before the policy that selects it is enforced?
//!
//! ```text
//! prober, a pod on the same node ── connects every few ms ──► new pod: its container listens
//! ```
//!
//! Each pod under a deny-all has a control: an equal pod that no policy selects. Only if attempts
//! reach the control from its first milliseconds do attempts that fail mean isolation. So the prober
//! must not wait for an answer of the time before the pod existed: it is on the bridge of the pod,
//! where it asks for the pod's MAC address every 10 ms. With the kernel's default of one second,
//! the first second of a pod would look closed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use portcullis_lab::Namespace;
use serde_json::json;

use crate::{Bench, NAMESPACE, pod, policy, print};

/// The pod that tries to connect.
pub(crate) const PROBER: &str = "prober";
/// Pods of each kind, each of which takes seconds.
const PODS: usize = 100;
/// The namespace of the pods that no policy selects.
const OPEN: &str = "bench-open";
/// How long attempts go on after the pod is ready.
const AFTER_READY: Duration = Duration::from_millis(500);

/// Whether a policy selects the new pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Under {
    DenyAll,
    NoPolicy,
}

/// The connections that the prober made to one pod.
struct Attempts {
    /// When the first process of its container was created; resolution 10 ms.
    started: Instant,
    connected: Vec<Instant>,
}

impl Attempts {
    fn first(&self) -> Option<Duration> {
        self.connected.first().map(|at| at.saturating_duration_since(self.started))
    }

    fn last(&self) -> Option<Duration> {
        self.connected.last().map(|at| at.saturating_duration_since(self.started))
    }

    /// From the first to the last connection.
    fn reachable_for(&self) -> Option<Duration> {
        self.first().zip(self.last()).map(|(first, last)| last.saturating_sub(first))
    }
}

impl Bench {
    /// Creates the pods one after the other, each with its control, and prints both rows.
    pub(crate) fn new_pods(&self) -> Result<()> {
        self.cluster.kubectl(&["create", "namespace", OPEN])?;
        let prober = self.cluster.pod_netns(NAMESPACE, PROBER)?;
        prober.run(|| fs::write("/proc/sys/net/ipv4/neigh/eth0/retrans_time_ms", "10"))??;
        let (mut isolated, mut control) = (Vec::new(), Vec::new());
        for round in 0..PODS {
            isolated.push(self.new_pod(&prober, round, Under::DenyAll)?);
            control.push(self.new_pod(&prober, round, Under::NoPolicy)?);
        }
        let all = |pods: &[Attempts], what: fn(&Attempts) -> Option<Duration>| {
            pods.iter().filter_map(what).collect::<Vec<Duration>>()
        };
        let mut answers = all(&control, Attempts::first);
        ensure!(answers.len() == PODS, "only {} pods without a policy answered", answers.len());
        print("a pod without a policy: start to first answer", &mut answers);
        let mut open = all(&isolated, Attempts::reachable_for);
        println!("a new pod under deny-all: {} of {PODS} answered", open.len());
        print("those: first answer to last answer", &mut open);
        print("those: container start to last answer", &mut all(&isolated, Attempts::last));
        Ok(())
    }

    fn new_pod(&self, prober: &Namespace, round: usize, under: Under) -> Result<Attempts> {
        let name = format!("new-{round}");
        let (namespace, host) = match under {
            Under::DenyAll => (NAMESPACE, 40 + 2 * round),
            Under::NoPolicy => (OPEN, 41 + 2 * round),
        };
        let address = self.reserve(u8::try_from(host)?)?;
        if under == Under::DenyAll {
            self.create(&policy("new", &name, &json!([])))?;
        }
        let (ended, from) = (Arc::new(AtomicBool::new(false)), prober.try_clone()?);
        let (to, observed) = (SocketAddr::new(address, 8080), Arc::clone(&ended));
        let attempts = thread::spawn(move || from.run(|| connections(to, &observed)));
        self.cluster.apply(&pod(namespace, &name, "n2").to_string())?;
        // Not all pods: that of the last round may be on its way out.
        let ready = ["wait", "pod", &name, "-n", namespace, "--for=condition=Ready"];
        self.cluster.kubectl(&ready)?;
        thread::sleep(AFTER_READY);
        ended.store(true, Ordering::Relaxed);
        let connected = attempts.join().map_err(|_| anyhow!("the prober panicked"))??;
        let addresses = self.cluster.pod_addresses(namespace, &name)?;
        ensure!(addresses.contains(&address), "{name} does not have the address {address}");
        let started = container_start(&self.cluster.pod_netns(namespace, &name)?)?;
        if under == Under::DenyAll {
            self.delete("new")?;
        }
        self.cluster.kubectl(&["delete", "pod", &name, "-n", namespace, "--wait=false"])?;
        Ok(Attempts { started, connected })
    }

    /// Has the next pod of n2 get this address, by the file in which host-local keeps the last one.
    fn reserve(&self, host: u8) -> Result<IpAddr> {
        let before = Ipv4Addr::new(10, 244, 2, host - 1);
        let file = "/var/lib/cni/networks/pods/last_reserved_ip.0";
        self.cluster.node("n2")?.shell(&format!("printf %s {before} > {file}"))?;
        Ok(Ipv4Addr::new(10, 244, 2, host).into())
    }
}

/// When connections were made, of attempts that go on until `ended`.
fn connections(to: SocketAddr, ended: &AtomicBool) -> Vec<Instant> {
    let mut made = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        // Short, so that an attempt which began before the pod was there misses nothing.
        if TcpStream::connect_timeout(&to, Duration::from_millis(5)).is_ok() {
            made.push(Instant::now());
        }
        // A pod that refuses answers at once.
        thread::sleep(Duration::from_millis(1));
    }
    made
}

/// When the server of the pod with this network namespace was created as a process.
fn container_start(pod: &Namespace) -> Result<Instant> {
    let netns = fs::read_link(pod.path())?;
    let is_server = |process: &Path| {
        let named = fs::read_to_string(process.join("comm"));
        named.is_ok_and(|name| name.trim() == "agnhost")
            && fs::read_link(process.join("ns/net")).is_ok_and(|link| link == netns)
    };
    let mut processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let server = processes.find(|process| is_server(process)).context("the pod has no server")?;
    let stat = fs::read_to_string(server.join("stat"))?;
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // starttime, in hundredths of a second since boot: proc_pid_stat(5).
    let ticks: u64 = fields.nth(19).context("no start time")?.parse()?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split_whitespace().next().context("no uptime")?.parse()?;
    let age = Duration::from_secs_f64(uptime).saturating_sub(Duration::from_millis(ticks * 10));
    Instant::now().checked_sub(age).context("started before the clock")
}
