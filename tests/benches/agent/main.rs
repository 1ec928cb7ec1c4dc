//! What watching a large cluster costs an agent and the controller: memory, and time on one processor.
//!
//! `cargo bench -p portcullis-tests --bench agent`
//!
//! Watch events as an API server sends them (a Pod has some 6 KB) go through the agent's own
//! decoder into what is known of each kind and into an engine, whose node has 110 of the pods.
//! The controller gets the same objects and looks for mistakes in policies. Each of them gets a process
//! of its own, so that the memory of one is not taken for another's. `watching` prints what an API
//! server sends to one agent.

mod watching;

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::WatchEvent;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use policy_engine::engine::{Engine, Scope};
use policy_engine::world::Options;
use portcullis_controller::cluster::analysis::Analysis;
use portcullis_controller::watch::Event;
use portcullis_controller::watch::kube::Known;
use portcullis_crds::lean::{Lean, LeanKind};

const PODS_OF_A_NODE: u32 = 110;
const PODS_OF_A_NAMESPACE: u32 = 100;
const REPLICAS: u32 = 10;
const WORKLOADS: u32 = PODS_OF_A_NAMESPACE / REPLICAS;
const POLICIES: u32 = 10_000;
/// The arguments that make this program measure one cluster.
const AGENT: &str = "one-agent";
const CONTROLLER: &str = "one-controller";
/// The argument that makes it only print what an API server sends.
const WATCHING: &str = "watching";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    for program in [AGENT, CONTROLLER] {
        if let Some(at) = arguments.iter().position(|argument| argument == program) {
            let size = arguments.get(at + 1).context("how many pods?")?.parse()?;
            return measure(program, size);
        }
    }
    if arguments.iter().any(|argument| argument == WATCHING) {
        return watching::print(&pod(1));
    }
    println!(
        "{:>14} {:>8} {:>9} {:>10} {:>10} {:>11} {:>11} {:>10} {:>10} {:>10}",
        "program",
        "pods",
        "policies",
        "B/pod",
        "B/policy",
        "µs/pod",
        "µs/policy",
        "compile ms",
        "RSS MB",
        "peak MB"
    );
    for (program, pods) in [(AGENT, 10_000_u32), (AGENT, 100_000), (CONTROLLER, 100_000)] {
        let own = std::env::current_exe()?;
        let status = Command::new(own).args([program, &pods.to_string()]).status()?;
        ensure!(status.success(), "measuring {pods} pods failed");
    }
    watching::print(&pod(1))
}

fn measure(program: &str, pods: u32) -> Result<()> {
    let mut agent = Agent::new(program);
    let namespaces = pods / PODS_OF_A_NAMESPACE;
    agent.list::<Namespace>(namespaces, namespace)?;
    // Pods first, so that their memory is theirs alone; with policies they are looked at again.
    let of_pods = agent.list::<Pod>(pods, pod)?;
    let of_policies = agent.list::<NetworkPolicy>(POLICIES, |number| policy(number, namespaces))?;
    let begun = processor_time()?;
    agent.compile()?;
    let flush = processor_time()?.saturating_sub(begun);
    println!(
        "{:>14} {:>8} {:>9} {:>10} {:>10} {:>11.1} {:>11.1} {:>10.0} {:>10} {:>10}",
        program,
        pods,
        POLICIES,
        of_pods.bytes / u64::from(pods),
        of_policies.bytes / u64::from(POLICIES),
        of_pods.time.as_secs_f64() * 1e6 / f64::from(pods),
        of_policies.time.as_secs_f64() * 1e6 / f64::from(POLICIES),
        flush.as_secs_f64() * 1e3,
        resident_bytes()? / 1_000_000,
        memory("VmHWM:")? / 1_000_000,
    );
    Ok(())
}

/// What a program keeps of a cluster.
struct Agent {
    state: State,
    /// The known objects of each kind live as long as the agent.
    known: Vec<Box<dyn std::any::Any>>,
}

/// The state of one program.
enum State {
    Agent(Box<Engine>),
    Controller(Box<Analysis>),
}

/// What a list cost.
struct Cost {
    bytes: u64,
    time: Duration,
}

impl Agent {
    fn new(program: &str) -> Self {
        let options = Options::default();
        let state = if program == AGENT {
            State::Agent(Box::new(Engine::new(Scope::Node("node-0".into()), options)))
        } else {
            State::Controller(Box::new(Analysis::new(options, tokio::time::Instant::now())))
        };
        Self { state, known: Vec::new() }
    }

    /// Compiles the rules of the node, or looks for mistakes in policies.
    fn compile(&mut self) -> Result<()> {
        match &mut self.state {
            State::Agent(engine) => {
                engine.flush();
                let endpoints = engine.compiled().endpoints.len();
                ensure!(endpoints == PODS_OF_A_NODE as usize, "every pod of the node is one");
            }
            State::Controller(analysis) => {
                analysis.take(Event::Synced);
                analysis.round(tokio::time::Instant::now()).context("nothing was computed")?;
            }
        }
        Ok(())
    }

    /// Takes in the first list of a kind, event by event. Making the text is not counted.
    fn list<K: LeanKind + 'static>(
        &mut self,
        objects: u32,
        text: impl Fn(u32) -> String,
    ) -> Result<Cost> {
        let before = resident_bytes()?;
        let mut known = Known::<K>::default();
        let mut time = Duration::ZERO;
        known.begin();
        for number in 0..objects {
            let line = text(number);
            let begun = Instant::now();
            let event: WatchEvent<Lean<K>> = serde_json::from_str(&line)?;
            let WatchEvent::Added(object) = event else { anyhow::bail!("not added: {line}") };
            known.applied(&object);
            let batch = known.flush();
            ensure!(batch.diagnostics.is_empty(), "{:?}", batch.diagnostics);
            match &mut self.state {
                State::Agent(engine) => {
                    batch.changes.into_iter().for_each(|object| engine.apply(object.change));
                }
                State::Controller(analysis) => analysis.take(Event::Changes(batch.changes)),
            }
            time += begun.elapsed();
        }
        ensure!(known.end(), "it is the first list");
        self.known.push(Box::new(known));
        Ok(Cost { bytes: resident_bytes()?.saturating_sub(before), time })
    }
}

fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

fn resident_bytes() -> Result<u64> {
    memory("VmRSS:")
}

/// A line of the status of this process, in bytes.
fn memory(line: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    let kilobytes: u64 = found.context(line.to_owned())?.trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// An event as the API server writes it: one line.
fn added(object: &str) -> String {
    let mut line = String::with_capacity(object.len() + 40);
    line.push_str(r#"{"type":"ADDED","object":"#);
    object.lines().for_each(|part| line.push_str(part.trim_start()));
    line.push('}');
    line
}

fn namespace(number: u32) -> String {
    let team = number % 20;
    added(&format!(
        r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"team-{team}-app-{number}",
        "uid":"00000000-0000-4000-8000-{number:012}","resourceVersion":"{number}",
        "labels":{{"kubernetes.io/metadata.name":"team-{team}-app-{number}","team":"team-{team}"}}}},
        "spec":{{"finalizers":["kubernetes"]}},"status":{{"phase":"Active"}}}}"#
    ))
}

/// Selects one workload of a namespace; allows another one there and another team's namespaces.
fn policy(number: u32, namespaces: u32) -> String {
    let of = number % namespaces;
    let (team, workload, peer) =
        (of % 20, number / namespaces % WORKLOADS, (number + 1) % WORKLOADS);
    let version = 5_000_000 + number;
    added(&format!(
        r#"{{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1",
        "metadata":{{"name":"allow-{number}","namespace":"team-{team}-app-{of}","generation":1,
        "uid":"00000000-0000-4000-9000-{number:012}","resourceVersion":"{version}",
        "creationTimestamp":"2026-01-01T00:00:00Z","managedFields":[{{"manager":"kubectl",
        "operation":"Apply","apiVersion":"networking.k8s.io/v1","time":"2026-01-01T00:00:00Z",
        "fieldsType":"FieldsV1","fieldsV1":{{"f:spec":{{"f:ingress":{{}},"f:podSelector":{{}},
        "f:policyTypes":{{}}}}}}}}]}},"spec":{{"podSelector":{{"matchLabels":
        {{"app.kubernetes.io/name":"workload-{workload}"}}}},"policyTypes":["Ingress"],"ingress":
        [{{"from":[{{"podSelector":{{"matchLabels":{{"app.kubernetes.io/name":"workload-{peer}"}}}}}},
        {{"namespaceSelector":{{"matchLabels":{{"team":"team-{peer}"}}}}}}],
        "ports":[{{"protocol":"TCP","port":"http"}},{{"protocol":"TCP","port":9090}}]}}]}}}}"#
    ))
}

/// A pod of a Deployment, with what clusters really have in them.
fn pod(number: u32) -> String {
    let of = number / PODS_OF_A_NAMESPACE;
    let (team, workload) = (of % 20, number % PODS_OF_A_NAMESPACE / REPLICAS);
    let (node, version) = (number / PODS_OF_A_NODE, 1_000_000 + number);
    let hash = format!("{:010x}", u64::from(of * 100 + workload) * 7_919_777);
    let name = format!("workload-{workload}-{hash}-{number:05x}");
    let address = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    let mut text = format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}",
        "generateName":"workload-{workload}-{hash}-","namespace":"team-{team}-app-{of}",
        "uid":"00000000-0000-4000-a000-{number:012}","resourceVersion":"{version}","generation":1,
        "creationTimestamp":"2026-01-01T00:00:00Z","labels":{{
        "app.kubernetes.io/name":"workload-{workload}","app.kubernetes.io/instance":"release-{of}",
        "app.kubernetes.io/version":"1.2.{workload}","app.kubernetes.io/managed-by":"Helm",
        "pod-template-hash":"{hash}"}},"annotations":{{"prometheus.io/scrape":"true",
        "checksum/config":"{hash}{hash}{hash}{hash}"}},"ownerReferences":[{{"apiVersion":"apps/v1",
        "kind":"ReplicaSet","name":"workload-{workload}-{hash}","controller":true,
        "uid":"00000000-0000-4000-b000-{workload:012}","blockOwnerDeletion":true}}],"#
    );
    managed_fields(&mut text);
    write!(
        text,
        r#"}},"spec":{{"volumes":[{{"name":"config","configMap":{{"name":"workload-{workload}",
        "defaultMode":420}}}},{{"name":"kube-api-access-{number:05x}","projected":{{"sources":[
        {{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}},{{"configMap":{{
        "name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}}],
        "defaultMode":420}}}}],"containers":["#
    )
    .expect("text takes all");
    container(&mut text, "server", r#"[{"name":"http","containerPort":8080,"protocol":"TCP"}]"#);
    text.push(',');
    container(&mut text, "proxy", r#"[{"name":"metrics","containerPort":9090,"protocol":"TCP"}]"#);
    write!(
        text,
        r#"],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst",
        "serviceAccountName":"default","serviceAccount":"default","nodeName":"node-{node}",
        "securityContext":{{"runAsNonRoot":true}},"schedulerName":"default-scheduler",
        "tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists",
        "effect":"NoExecute","tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true,
        "preemptionPolicy":"PreemptLowerPriority"}},"status":{{"phase":"Running","conditions":["#
    )
    .expect("text takes all");
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "PodScheduled"] {
        write!(
            text,
            r#"{{"type":"{kind}","status":"True","lastProbeTime":null,
            "lastTransitionTime":"2026-01-01T00:00:05Z","observedGeneration":1}},"#
        )
        .expect("text takes all");
    }
    text.pop();
    write!(
        text,
        r#"],"hostIP":"192.168.0.1","hostIPs":[{{"ip":"192.168.0.1"}}],"podIP":"{address}",
        "podIPs":[{{"ip":"{address}"}}],"startTime":"2026-01-01T00:00:00Z","qosClass":"Burstable",
        "containerStatuses":[{{"name":"server","ready":true,"restartCount":0,"started":true,
        "image":"registry.example.com/team/workload:1.2.3","state":{{"running":{{"startedAt":
        "2026-01-01T00:00:04Z"}}}},"imageID":"registry.example.com/team/workload@sha256:{hash}",
        "containerID":"containerd://{hash}{hash}{hash}{hash}{hash}{hash}"}}]}}}}"#
    )
    .expect("text takes all");
    added(&text)
}

fn managed_fields(text: &mut String) {
    text.push_str(r#""managedFields":["#);
    for manager in ["kube-controller-manager", "kubelet"] {
        write!(
            text,
            r#"{{"manager":"{manager}","operation":"Update","apiVersion":"v1",
            "time":"2026-01-01T00:00:05Z","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{
            "f:annotations":{{".":{{}},"f:checksum/config":{{}},"f:prometheus.io/scrape":{{}}}},
            "f:generateName":{{}},"f:labels":{{".":{{}},"f:app.kubernetes.io/name":{{}},
            "f:app.kubernetes.io/instance":{{}},"f:pod-template-hash":{{}}}},"f:ownerReferences":{{
            ".":{{}},"k:{{\"uid\":\"00000000-0000-4000-b000-000000000000\"}}":{{}}}}}},"f:spec":{{
            "f:containers":{{"k:{{\"name\":\"server\"}}":{{".":{{}},"f:env":{{".":{{}},
            "k:{{\"name\":\"LOG_LEVEL\"}}":{{".":{{}},"f:name":{{}},"f:value":{{}}}}}},"f:image":{{}},
            "f:imagePullPolicy":{{}},"f:livenessProbe":{{".":{{}},"f:failureThreshold":{{}}}},
            "f:ports":{{".":{{}},"k:{{\"containerPort\":8080,\"protocol\":\"TCP\"}}":{{}}}},
            "f:resources":{{".":{{}},"f:limits":{{}},"f:requests":{{}}}}}}}},"f:dnsPolicy":{{}},
            "f:restartPolicy":{{}},"f:volumes":{{".":{{}}}}}}}}}},"#
        )
        .expect("text takes all");
    }
    text.pop();
    text.push(']');
}

fn container(text: &mut String, name: &str, ports: &str) {
    write!(
        text,
        r#"{{"name":"{name}","image":"registry.example.com/team/{name}:1.2.3","args":["--config",
        "/etc/{name}/config.yaml","--listen=:8080"],"ports":{ports},"env":["#
    )
    .expect("text takes all");
    for variable in ["LOG_LEVEL", "DATABASE_URL", "CACHE_SIZE", "REGION", "FEATURES"] {
        write!(text, r#"{{"name":"{variable}","value":"a value of some length"}},"#)
            .expect("text takes all");
    }
    text.pop();
    write!(
        text,
        r#"],"resources":{{"limits":{{"cpu":"1","memory":"512Mi"}},"requests":{{"cpu":"100m",
        "memory":"128Mi"}}}},"volumeMounts":[{{"name":"config","mountPath":"/etc/{name}"}}],
        "livenessProbe":{{"httpGet":{{"path":"/healthz","port":"http","scheme":"HTTP"}},
        "timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}},
        "terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}}"#
    )
    .expect("text takes all");
}
