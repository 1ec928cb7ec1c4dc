//! When the kubelet takes an agent for unready: the defaults of the flags and the probes in `deploy/` together, and
//! what `docs/operations.md` says of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use portcullis_controller::args::{Cli, Command, HttpArgs};
use portcullis_crds::manifest::Manifest;
use serde_json::Value;

use crate::root;

/// How long an agent that cannot apply a change may count as ready.
const UNREADY_WITHIN: Duration = Duration::from_secs(35);

/// The first container of the workload in a file of `deploy/base`.
fn container(file: &str) -> Result<Value> {
    let text = fs::read_to_string(root().join("deploy/base").join(file))?;
    let documents = Manifest::parse(file, &text).documents;
    let container =
        |document: &Value| document.pointer("/spec/template/spec/containers/0").cloned();
    documents.iter().find_map(|document| container(document.value())).context("no container")
}

fn http(container: &Value) -> Result<HttpArgs> {
    let args = container["args"].as_array().context("no args")?;
    let args = args.iter().filter_map(Value::as_str);
    let args = ["portcullis"].into_iter().chain(args).chain(["--node-name=n1"]);
    let args: Vec<&str> = match container["name"].as_str() {
        Some("controller") => args.filter(|arg| *arg != "--node-name=n1").collect(),
        _ => args.collect(),
    };
    match Cli::try_parse_from(args)?.command {
        Command::Node(args) => Ok(args.http),
        Command::Controller(args) => Ok(args.http),
        other => anyhow::bail!("{other:?}"),
    }
}

/// How long after an answer changes the kubelet acts on it.
fn reaction(container: &Value, probe: &str) -> Result<Duration> {
    let field = |name: &str| container[probe][name].as_u64().with_context(|| format!("no {name}"));
    Ok(Duration::from_secs(field("periodSeconds")? * field("failureThreshold")?))
}

#[test]
fn an_agent_that_cannot_apply_is_unready_in_time_and_the_documents_say_when() -> Result<()> {
    let text = fs::read_to_string(root().join("docs/operations.md"))?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for file in ["node.yaml", "controller.yaml"] {
        let container = container(file)?;
        let http = http(&container)?;
        let unready = http.unready_after + reaction(&container, "readinessProbe")?;
        ensure!(unready <= UNREADY_WITHIN, "{file}: unready after {unready:?}");
        let restarted = http.stalled_after + reaction(&container, "livenessProbe")?;
        for said in [
            format!("unready at most {} s after", unready.as_secs()),
            format!("at most {} s after it stopped", restarted.as_secs()),
        ] {
            ensure!(text.contains(&said), "{file}: docs/operations.md does not say `{said}`");
        }
    }
    Ok(())
}
