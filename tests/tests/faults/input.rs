//! Manifests with mistakes: what is right stays enforced, what is wrong lets nothing through, and
//! the log says where it is.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Result, ensure};
use portcullis_lab::{IptablesVariant, Listener, PodSpec};
use portcullis_tests::cluster::{Agent, Cluster};

use crate::shop::{ADMIN, PATIENCE, WEB, allow, check, enforced, lab, shop, start};
use crate::traffic::Route;

/// A file with a mistake in what it says of the pod that has the file's name.
struct Mistake {
    target: &'static str,
    /// Inside `spec` of a policy of the target that also lets `web` in on port 81.
    rule: &'static str,
    /// After the name of the file.
    told: &'static str,
}

/// Each means to let `web` in on port 80.
const MISTAKES: [Mistake; 9] = [
    Mistake {
        target: "cidr",
        rule: "from: [{ipBlock: {cidr: 10.244.1.0/33}}, {ipBlock: {cidr: nonsense}}]",
        told: ".yaml:10:23: error: NetworkPolicy shop/cidr: spec.ingress[1].from[0].ipBlock.cidr: ",
    },
    Mistake {
        target: "except",
        rule: "from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.1.0/99]}}]",
        told: ": error: NetworkPolicy shop/except: spec.ingress[1].from[0].ipBlock.except",
    },
    Mistake {
        target: "port",
        rule: "ports: [{port: 0}, {port: 65616}]",
        told: ".yaml:10:14: error: NetworkPolicy shop/port: spec.ingress[1].ports[0].port: ",
    },
    Mistake {
        target: "range",
        rule: "ports: [{port: 90, endPort: 70}]",
        told: ": error: NetworkPolicy shop/range: spec.ingress[1].ports[0].endPort: ",
    },
    Mistake {
        target: "protocol",
        rule: "ports: [{port: 80, protocol: tpc}]",
        told: ": error: NetworkPolicy shop/protocol: spec.ingress[1].ports[0].protocol: ",
    },
    Mistake {
        target: "selector",
        rule: "from: [{podSelector: {matchExpressions: [{key: app, operator: Equals, values: [web]}]}}]",
        told: ": error: NetworkPolicy shop/selector: spec.ingress[1].from[0].podSelector",
    },
    Mistake {
        target: "labels",
        rule: "from: [{podSelector: {app: web}}]",
        told: ": error: NetworkPolicy shop/labels: spec.ingress[1].from[0].podSelector.app: ",
    },
    Mistake {
        target: "unknown",
        rule: "form: [{podSelector: {}}]",
        told: ".yaml:10:5: error: NetworkPolicy shop/unknown: spec.ingress[1].form: ",
    },
    Mistake {
        target: "kind",
        rule: "from: web",
        told: ": error: NetworkPolicy shop/kind: spec.ingress[1].from: ",
    },
];

fn policy(mistake: &Mistake) -> String {
    allow(mistake.target, &["web"], &[ADMIN]) + "  - " + mistake.rule + "\n"
}

/// The shop with a server for each mistake.
fn mistaken(variant: IptablesVariant) -> Result<Cluster> {
    let servers = MISTAKES.iter().map(|mistake| {
        let pod = PodSpec::new("shop", mistake.target, "n2");
        pod.listen(Listener::tcp(WEB)).listen(Listener::tcp(ADMIN))
    });
    shop(lab(variant).pods(servers), &[])
}

fn still_runs(agent: &mut Agent) -> Result<()> {
    ensure!(agent.is_running()?, "the agent ended");
    Ok(())
}

fn mistakes_let_nothing_through(variant: IptablesVariant) -> Result<()> {
    let cluster = mistaken(variant)?;
    for mistake in &MISTAKES {
        cluster.write(&format!("bad-{}.yaml", mistake.target), &policy(mistake))?;
    }
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let mut agent = start(&cluster, "n2")?;
    for Mistake { target, told, .. } in &MISTAKES {
        let line = agent.wait_for(told, PATIENCE)?;
        ensure!(line.contains(&format!("/bad-{target}.yaml:")), "which file? {line}");
    }
    let open = MISTAKES.iter().map(|mistake| ("web", mistake.target, ADMIN));
    let open: Vec<Route> = open.chain([("web", "api", WEB)]).collect();
    let closed = MISTAKES.iter().map(|mistake| ("web", mistake.target, WEB));
    let closed: Vec<Route> = closed.chain([("stranger", "api", WEB)]).collect();
    check(&cluster.lab, "with mistakes", &open, &closed)?;
    still_runs(&mut agent)
}

#[test]
fn a_mistake_in_a_rule_lets_nothing_through_and_is_told_nft() -> Result<()> {
    mistakes_let_nothing_through(IptablesVariant::Nft)
}

#[test]
fn a_mistake_in_a_rule_lets_nothing_through_and_is_told_legacy() -> Result<()> {
    mistakes_let_nothing_through(IptablesVariant::Legacy)
}

/// Whole files that cannot be used, and what the log says of them.
const FILES: [(&str, &[u8], &str); 6] = [
    ("syntax.yaml", b"apiVersion: v1\n kind: {Pod", "syntax.yaml:2:"),
    ("kindless.yaml", b"metadata: {name: x}\n", "kindless.yaml:1:1: error: kind: "),
    ("text.yml", b"just text\n", "text.yml:1:1: error: must be an object"),
    (
        "garbage.yaml",
        b"\x7fELF\x02\x01\x00\xff\xfe\x80 {[}\n",
        "garbage.yaml:1:1: error: control characters are not allowed",
    ),
    ("broken.json", b"{\"kind\": \"Pod\", \"metadata\": ", "broken.json:2:1: error: "),
    ("alias.yaml", b"a: &a [x, *a]\n", "alias.yaml:1:11: error: "),
];

#[test]
fn files_that_cannot_be_read_do_not_stop_the_others() -> Result<()> {
    let cluster = mistaken(IptablesVariant::Nft)?;
    for (name, bytes, _) in FILES {
        fs::write(cluster.directory().join(name), bytes)?;
    }
    cluster.write("other-kinds.yaml", "{apiVersion: v1, kind: Secret, metadata: {name: x}}\n")?;
    // In one file with a document that is broken, and at the end of a very big one.
    let broken = allow("port", &["web"], &[ADMIN]) + "---\n{[\n";
    cluster.write("half.yaml", &broken)?;
    let mut big = String::new();
    while big.len() < 5_000_000 {
        let _ = writeln!(big, "{{kind: ConfigMap, apiVersion: v1, data: {{x: {:900}}}}}\n---", 1);
    }
    cluster.write("big.yaml", &(big + &allow("range", &["web"], &[ADMIN])))?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let mut agent = start(&cluster, "n2")?;
    for told in FILES.iter().map(|(_, _, told)| *told).chain(["half.yaml:"]) {
        agent.wait_for(told, PATIENCE)?;
    }
    let open = [("web", "api", WEB), ("web", "port", ADMIN), ("web", "range", ADMIN)];
    let closed = [("stranger", "api", WEB), ("web", "port", WEB), ("web", "range", WEB)];
    check(&cluster.lab, "beside files that are broken", &open, &closed)?;
    still_runs(&mut agent)
}

#[test]
fn a_file_that_breaks_after_it_was_good_stays_enforced_as_it_was() -> Result<()> {
    let cluster = mistaken(IptablesVariant::Nft)?;
    let good = allow("api", &["web"], &[WEB]);
    cluster.write("api.yaml", &good)?;
    let mut agent = start(&cluster, "n2")?;
    let (open, closed) = ([("web", "api", WEB)], [("stranger", "api", WEB), ("near", "api", WEB)]);
    check(&cluster.lab, "while it is good", &open, &closed)?;
    for (name, bytes, told) in FILES {
        // As an editor that writes in place.
        fs::write(cluster.directory().join("api.yaml"), bytes)?;
        let (_, told) = told.split_once(':').unwrap_or_default();
        agent.wait_for(&format!("api.yaml:{told}"), PATIENCE)?;
        agent.wait_for("what it last defined stays enforced: NetworkPolicy shop/api", PATIENCE)?;
        check(&cluster.lab, name, &open, &closed)?;
    }
    still_runs(&mut agent)?;
    // A mistake inside a policy is no broken file: the policy is enforced without that rule.
    let worse = good.replace("{port: 80}", "{port: 80, endPort: 70}");
    enforced(&cluster, [&agent], || cluster.write("api.yaml", &worse))?;
    check(&cluster.lab, "with a mistake", &[("stranger", "other", WEB)], &[open[0], closed[0]])?;
    enforced(&cluster, [&agent], || cluster.write("api.yaml", &allow("api", &["near"], &[WEB])))?;
    check(&cluster.lab, "mended", &[("near", "api", WEB)], &[("web", "api", WEB)])?;
    still_runs(&mut agent)
}

#[test]
fn a_pod_selector_with_a_mistake_isolates_the_whole_namespace() -> Result<()> {
    let cluster = mistaken(IptablesVariant::Nft)?;
    let mut agent = start(&cluster, "n2")?;
    let all = [("web", "api", WEB), ("stranger", "other", WEB)];
    check(&cluster.lab, "before", &all, &[])?;
    let wrong =
        allow("api", &["web"], &[WEB]).replace("matchLabels: {app: api}", "matchLabels: api");
    enforced(&cluster, [&agent], || cluster.write("wrong.yaml", &wrong))?;
    agent.wait_for("wrong.yaml:5:", PATIENCE)?;
    agent.wait_for("the policy selects every pod of the namespace", PATIENCE)?;
    let closed = [("stranger", "api", WEB), ("stranger", "other", WEB), ("web", "api", ADMIN)];
    check(
        &cluster.lab,
        "with the mistake",
        &[("web", "api", WEB), ("web", "other", WEB)],
        &closed,
    )?;
    still_runs(&mut agent)
}
