//! The examples for a whole cluster, and those of docs/networking.md: what each states about who reaches whom holds for
//! `kubectl whatif test`, and on real packets.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use policy_engine::port::Protocol;
use policy_engine::world::Options;
use portcullis_lab::{DEFAULT_TIMEOUT, Endpoint, Expected, IptablesVariant, Lab, Probe, Topology};
use portcullis_tests::cases::{self, Case, Families, Port, World};
use portcullis_tests::play::Player;
use portcullis_whatif::args::SourceArgs;
use portcullis_whatif::model::Cluster;
use portcullis_whatif::policytest::{self, Suite};
use portcullis_whatif::source;
use serde_json::{Value, json};

/// An example: its directory, the policies in it, the test about them, and which of [`ASIDE`] are
/// open.
struct Example {
    directory: &'static str,
    policies: &'static [&'static str],
    test: &'static str,
    open: &'static [Aside],
}

const EXAMPLES: [Example; 7] = [
    Example {
        directory: "default-deny",
        policies: &["policy.yaml"],
        test: "test.yaml",
        open: &[System, Dns],
    },
    Example {
        directory: "default-deny",
        policies: &["policy.yaml", "api-server.yaml", "dns-elsewhere.yaml"],
        test: "more.test.yaml",
        open: &[System, Dns, OtherDns, ApiServer],
    },
    Example {
        directory: "tenants",
        policies: &["policy.yaml"],
        test: "test.yaml",
        open: &[System, Dns, ApiServer],
    },
    Example {
        directory: "guardrails",
        policies: &["1-monitoring.yaml", "2-metadata.yaml", "3-corporate.yaml", "app.yaml"],
        test: "test.yaml",
        open: &[System, Dns, OtherDns, OwnNode],
    },
    Example {
        directory: "roll-out",
        policies: &["1-audit.yaml"],
        test: "1-audit.test.yaml",
        open: &Aside::ALL,
    },
    Example {
        directory: "roll-out",
        policies: &["2-gateway.yaml"],
        test: "2-gateway.test.yaml",
        open: &Aside::ALL,
    },
    Example {
        directory: "roll-out",
        policies: &["3-enforce.yaml"],
        test: "3-enforce.test.yaml",
        open: &[System, Dns, ApiServer],
    },
];

/// The policies of sandboxes that are applied together.
const SANDBOX: [&str; 3] = ["1-templates.yaml", "2-fleet.yaml", "3-guardrail.yaml"];

/// What the tests ask for besides the ports of every case.
const ASKED: [&str; 4] = ["53/udp", "53/tcp", "9090/tcp", "9187/tcp"];

/// NodeLocal DNSCache, an address of each node; and where Kubespray has it.
const NODE_LOCAL_DNS: [&str; 2] = ["169.254.20.10", "169.254.25.10"];
/// What the internet host answers for besides its own address.
const OUTSIDE: [&str; 8] = [
    "169.254.169.254",
    "100.100.100.200",
    "10.99.0.1",
    "192.0.2.10",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd99::1",
    "2001:db8::10",
];

/// Who asks what that is no endpoint of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aside {
    /// A pod of kube-system, metadata and the company's network.
    System,
    /// A tenant's pod, the same.
    Outside,
    /// It, its own node.
    OwnNode,
    /// It, NodeLocal DNSCache.
    Dns,
    /// It, DNS at another address.
    OtherDns,
    /// Prometheus, the API server.
    ApiServer,
}
use Aside::{ApiServer, Dns, OtherDns, Outside, OwnNode, System};

impl Aside {
    const ALL: [Self; 6] = [System, Outside, OwnNode, Dns, OtherDns, ApiServer];
}

/// With source, destination and TCP port.
const ASIDE: [(Aside, &str, &str, u16); 14] = [
    (System, "kube-system/dns-1", "169.254.169.254", 80),
    (System, "kube-system/dns-1", "10.99.0.1", 80),
    (System, "kube-system/dns-1", "fd99::1", 80),
    (Outside, "red/web", "169.254.169.254", 80),
    (Outside, "red/web", "100.100.100.200", 80),
    (Outside, "red/web", "10.99.0.1", 80),
    (Outside, "red/web", "fd00:ec2::254", 80),
    (Outside, "red/web", "fd20:ce::254", 80),
    (Outside, "red/web", "fd99::1", 80),
    (OwnNode, "red/web", NODE_LOCAL_DNS[0], 80),
    (Dns, "red/web", NODE_LOCAL_DNS[0], 53),
    (OtherDns, "red/web", NODE_LOCAL_DNS[1], 53),
    (ApiServer, "monitoring/prometheus", "192.0.2.10", 6443),
    (ApiServer, "monitoring/prometheus", "2001:db8::10", 6443),
];

impl Example {
    fn path(&self, file: &str) -> PathBuf {
        directory().join(self.directory).join(file)
    }

    /// The test as a case with one step. A lab has nobody at most addresses, so lines about
    /// addresses are left to [`ASIDE`].
    fn case(&self) -> Result<Case> {
        let mut test = documents(&self.path(self.test))?;
        let mut test = test.pop().context("a test file has a document")?;
        let mut apply = Vec::new();
        for file in self.policies {
            apply.extend(documents(&self.path(file))?);
        }
        let mut step = json!({"apply": apply, "default": test["default"]});
        step["tests"] = without_addresses(&test["tests"]);
        if let Some(audit) = test.get_mut("audit") {
            audit["tests"] = without_addresses(&audit["tests"]);
            step["audit"] = audit.take();
        }
        let case = json!({
            "apiVersion": cases::API_VERSION,
            "kind": cases::KIND,
            "about": test["about"],
            "ports": ASKED,
            "steps": [step],
        });
        Case::parse(&format!("{}/{}", self.directory, self.test), &case.to_string())
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cluster")
}

fn documents(path: &Path) -> Result<Vec<Value>> {
    let name = path.display().to_string();
    let read = portcullis_crds::manifest::Manifest::parse(&name, &fs::read_to_string(path)?);
    ensure!(read.diagnostics.is_empty(), "{:?}", read.diagnostics);
    Ok(read.documents.iter().map(|document| document.value().clone()).collect())
}

/// Lines without the words that are addresses, and without those that then name nobody.
fn without_addresses(lines: &Value) -> Value {
    let mut kept = Vec::new();
    for line in lines.as_array().into_iter().flatten() {
        let mut line = line.clone();
        let mut names_somebody = true;
        for side in ["from", "to", "onlyFrom", "onlyTo"] {
            if let Some(words) = line[side].as_array_mut() {
                words.retain(|word| {
                    let text = word.as_str().unwrap_or_default();
                    text.parse::<IpAddr>().is_err() && text.parse::<ipnet::IpNet>().is_err()
                });
                names_somebody &= !words.is_empty();
            } else if line[side].is_null()
                && let Some(fields) = line.as_object_mut()
            {
                fields.remove(side);
            }
        }
        if names_somebody {
            kept.push(line);
        }
    }
    Value::Array(kept)
}

#[test]
fn whatif_test_passes_every_example() -> Result<()> {
    let mut failures = String::new();
    let of_clusters = EXAMPLES.iter().map(|example| {
        let policies = example.policies.iter().map(|file| example.path(file));
        let files = [directory().join("world.yaml")].into_iter().chain(policies).collect();
        (files, example.path(example.test))
    });
    // Of docs/networking.md.
    let networking = directory().join("../networking");
    let of_networking = (
        vec![networking.join("world.yaml"), networking.join("policies.yaml")],
        networking.join("test.yaml"),
    );
    // Of agent-sandbox.
    let sandbox = |files: &[&str], test: &str| {
        let files = ["world.yaml"].iter().chain(files);
        let files = files.map(|file| directory().join("../sandbox").join(file)).collect();
        (files, directory().join("../sandbox").join(test))
    };
    let guarded = ["open.yaml", "3-guardrail.yaml"];
    let of_sandboxes = [sandbox(&SANDBOX, "test.yaml"), sandbox(&guarded, "guardrail.test.yaml")];
    for (filename, path) in of_clusters.chain([of_networking]).chain(of_sandboxes) {
        let sources = source::read(&SourceArgs { filename, ..SourceArgs::default() })?;
        let cluster = Cluster::new(&sources.after, Options::default());
        for suite in Suite::read(&path.to_string_lossy(), &fs::read_to_string(&path)?)? {
            for outcome in policytest::run(&suite, &sources.after, &cluster)? {
                if !outcome.passed() {
                    let _ = writeln!(failures, "{}: {outcome:#?}", outcome.origin);
                }
            }
        }
    }
    ensure!(failures.is_empty(), "{failures}");
    Ok(())
}

/// Gives the internet host and the nodes addresses that policies speak of.
fn place_addresses(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        for address in NODE_LOCAL_DNS {
            node.shell(&format!("ip addr add {address}/32 dev lo"))?;
        }
    }
    let internet = lab.netns(&Endpoint::Internet)?;
    for address in OUTSIDE.map(str::parse::<IpAddr>) {
        let address = address?;
        let (bits, host) = match address {
            IpAddr::V4(_) => (32, portcullis_lab::internet(policy_engine::cidr::Family::V4)),
            IpAddr::V6(_) => (128, portcullis_lab::internet(policy_engine::cidr::Family::V6)),
        };
        internet.shell(&format!(
            "ip addr add {address}/{bits} dev lo nodad 2>/dev/null || \
                                 ip addr add {address}/{bits} dev lo"
        ))?;
        lab.fabric().shell(&format!("ip route add {address}/{bits} via {host}"))?;
    }
    Ok(())
}

/// Asks all of [`ASIDE`].
fn ask_aside(player: &Player, open: &[Aside]) -> Result<()> {
    let probes = ASIDE.iter().map(|(_, source, address, port)| {
        Ok(Probe::tcp(Endpoint::pod(*source), address.parse()?, *port))
    });
    let probes = probes.collect::<Result<Vec<Probe>>>()?;
    let outcomes = player.cluster.lab.probe_all(&probes, DEFAULT_TIMEOUT)?;
    for (((aside, ..), probe), outcome) in ASIDE.iter().zip(&probes).zip(outcomes) {
        let expected = if open.contains(aside) { Expected::Open } else { Expected::Closed };
        ensure!(expected.agrees(&outcome), "{probe:?}: expected {expected:?}, got {outcome}");
    }
    Ok(())
}

#[test]
fn every_example_holds_on_real_packets() -> Result<()> {
    let world = fs::read_to_string(directory().join("world.yaml"))?;
    let base = World::parse("world.yaml", &world, Families::Dual)?;
    let mut ports: Vec<Port> = cases::PORTS.to_vec();
    for port in ASKED {
        ports.push(port.parse()?);
    }
    ports.push(Port::Number(Protocol::Tcp, 6443));
    let lab = Lab::builder().topology(Topology::Bridge).iptables(IptablesVariant::Nft);
    let mut player = Player::start(lab.direct_internet(true), base.clone(), &ports, &[])?;
    place_addresses(&player.cluster.lab)?;
    ask_aside(&player, &Aside::ALL).context("without policies")?;
    for example in &EXAMPLES {
        let case = example.case()?;
        for stage in case.run(base.clone())? {
            player.become_world(stage.world, &stage.deleted, &stage.applied)?;
            let wrong = player.disagreements(&stage.expectations).context(case.name.clone())?;
            ensure!(
                wrong.is_empty(),
                "{}: {} wrong:\n  {}",
                case.name,
                wrong.len(),
                wrong.join("\n  ")
            );
            ask_aside(&player, example.open).context(case.name.clone())?;
            println!("{}: {} connections", case.name, stage.expectations.len());
        }
        player.reset(&base)?;
    }
    Ok(())
}
