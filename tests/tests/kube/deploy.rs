//! deploy/ as a user installs it: accepted by a real API server without a warning, true to the
//! binary, and with no right too many or too few ([`rights`]).

mod helm;
mod helm_test;
mod own_report;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{CommandFactory as _, Parser as _};
use portcullis_controller::args::Cli;
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(50);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Everything that can be applied with `-k`.
fn directories() -> Result<Vec<PathBuf>> {
    let mut found = vec![root().join("deploy"), root().join("deploy/cleanup")];
    for entry in fs::read_dir(root().join("deploy/overlays"))? {
        found.push(entry?.path());
    }
    found.sort();
    ensure!(found.len() > 2, "no overlays: {found:?}");
    Ok(found)
}

fn kubectl_on(server: &ApiServer, directory: &Path, arguments: &[&str]) -> Result<String> {
    let directory = directory.to_string_lossy();
    server.kubectl(&[arguments, &["-k", &directory]].concat(), None)
}

/// The objects of a directory as the API server has them.
fn objects(server: &ApiServer, directory: &Path) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&kubectl_on(server, directory, &["get", "-ojson"])?)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    ensure!(!items.is_empty(), "{} has no objects", directory.display());
    Ok(items)
}

fn apply(server: &ApiServer, directory: &Path) -> Result<String> {
    kubectl_on(server, directory, &["apply", "--validate=strict", "--warnings-as-errors"])
}

/// The part of a workload that becomes its pods.
fn template(object: &Value) -> Option<&Value> {
    object.pointer("/spec/template/spec").filter(|_| object["kind"] != "ReplicaSet")
}

fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let spec = template(object);
    let lists =
        ["initContainers", "containers"].map(|list| spec.and_then(|spec| spec[list].as_array()));
    lists.into_iter().flatten().flatten()
}

/// The arguments of a container that runs the image's own program.
fn arguments(container: &Value) -> Vec<&str> {
    let words = container["args"].as_array().into_iter().flatten();
    words.filter_map(Value::as_str).collect()
}

/// The namespace controller's part: nothing else in these tests finishes a namespace.
fn finish_namespaces(server: &ApiServer) -> Result<()> {
    let list: Value =
        serde_json::from_str(&server.kubectl(&["get", "namespaces", "-ojson"], None)?)?;
    for namespace in list["items"].as_array().into_iter().flatten() {
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let name = namespace["metadata"]["name"].as_str().context("a namespace has a name")?;
        let mut finished = namespace.clone();
        finished["spec"] = json!({"finalizers": []});
        let path = format!("/api/v1/namespaces/{name}/finalize");
        server.kubectl(&["replace", "--raw", &path, "-f", "-"], Some(&finished.to_string()))?;
    }
    Ok(())
}

#[test]
fn all_of_it_is_accepted_twice_understood_and_goes_without_a_trace() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    for directory in directories()? {
        let shown = directory.display();
        apply(&server, &directory).with_context(|| shown.to_string())?;
        let before = versions(&objects(&server, &directory)?);
        apply(&server, &directory)?;
        assert_eq!(versions(&objects(&server, &directory)?), before, "{shown} changes itself");
        check_pods(&server, &directory)?;
        check_arguments(&server, &directory)?;
        kubectl_on(&server, &directory, &["delete", "--wait=false"])?;
        let deadline = Instant::now() + LIMIT;
        loop {
            // A request that fails on a busy machine is repeated: the next directory must not be
            // applied while objects of this one are being deleted.
            let left = finish_namespaces(&server).and_then(|()| {
                kubectl_on(&server, &directory, &["get", "--ignore-not-found", "-oname"])
            });
            if left.as_ref().is_ok_and(String::is_empty) {
                break;
            }
            ensure!(Instant::now() < deadline, "{shown} leaves {left:?}");
            std::thread::sleep(ASK_EVERY);
        }
    }
    Ok(())
}

/// What would show a change that is not one of a status.
fn versions(objects: &[Value]) -> Vec<(String, String)> {
    let version = |metadata: &Value| match metadata["generation"].as_u64() {
        Some(generation) => generation.to_string(),
        None => metadata["resourceVersion"].to_string(),
    };
    let metadata = objects.iter().map(|object| &object["metadata"]);
    metadata.map(|metadata| (metadata["name"].to_string(), version(metadata))).collect()
}

/// The pods of the workloads pass Pod Security admission, and those that are not on the host's
/// network pass its strictest level.
fn check_pods(server: &ApiServer, directory: &Path) -> Result<()> {
    let restricted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    server.kubectl(&["apply", "-f", "-"], Some(&restricted.to_string()))?;
    let mut checked = 0;
    for object in objects(server, directory)? {
        let Some(spec) = template(&object) else { continue };
        let on_host = spec["hostNetwork"] == true;
        let namespaces = [object["metadata"]["namespace"].as_str(), Some("restricted")];
        for namespace in namespaces.into_iter().flatten().take(if on_host { 1 } else { 2 }) {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
                "metadata": {"name": "one", "namespace": namespace}});
            let create = ["create", "--dry-run=server", "--warnings-as-errors", "-f", "-"];
            server.kubectl(&create, Some(&pod.to_string()))?;
        }
        checked += 1;
    }
    ensure!(checked > 0, "{} has no workloads", directory.display());
    Ok(())
}

/// What the manifests say to the binary is understood.
fn check_arguments(server: &ApiServer, directory: &Path) -> Result<()> {
    for object in objects(server, directory)? {
        check_volumes(&object);
        for container in containers(&object) {
            // As docs/performance.md says.
            let limit = &container["resources"]["limits"]["memory"];
            for (name, expected) in [("node", "1Gi"), ("controller", "512Mi")] {
                ensure!(container["name"] != name || limit == expected, "{name}: {limit}");
            }
            check_container(container)
                .with_context(|| format!("{}: {}", directory.display(), container["name"]))?;
        }
    }
    Ok(())
}

fn check_container(container: &Value) -> Result<()> {
    let image = format!("portcullis:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container["image"], image.as_str(), "of this version");
    let words = arguments(container);
    if !container["command"].is_null() || words.is_empty() {
        return Ok(());
    }
    let environment = container["env"].as_array().into_iter().flatten();
    let environment: BTreeSet<&str> = environment.filter_map(|set| set["name"].as_str()).collect();
    let known = known_variables(words[0])?;
    for name in &environment {
        ensure!(known.contains_key(*name), "no flag reads {name}; known are {known:?}");
    }
    // What comes by the environment, as flags: this process has an environment of its own.
    let flags = environment.iter().map(|name| format!("--{}=n1", known[*name]));
    let line = ["portcullis"].into_iter().chain(words.iter().copied()).map(str::to_owned);
    Cli::try_parse_from(line.chain(flags))?;

    // Ports that are named exist in an argument.
    let ports = container["ports"].as_array().into_iter().flatten();
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
    let asked = probes.into_iter().filter_map(|probe| probe.pointer("/httpGet/port"));
    for port in ports.map(|port| &port["containerPort"]).chain(asked).filter_map(Value::as_u64) {
        let said = words.iter().any(|word| word.ends_with(&format!(":{port}")));
        ensure!(said, "no argument of {words:?} is about port {port}");
    }
    Ok(())
}

/// Each volume of a workload is mounted by a container.
fn check_volumes(object: &Value) {
    let mounts = containers(object).filter_map(|container| container["volumeMounts"].as_array());
    let mounted: BTreeSet<&str> =
        mounts.flatten().filter_map(|mount| mount["name"].as_str()).collect();
    let volumes = template(object).and_then(|spec| spec["volumes"].as_array());
    let volumes = volumes.into_iter().flatten().filter_map(|volume| volume["name"].as_str());
    assert_eq!(mounted, volumes.collect(), "nothing is mounted without use");
}

/// The environment variables of a program, with their flags.
fn known_variables(program: &str) -> Result<BTreeMap<String, String>> {
    let mut cli = Cli::command();
    cli.build();
    let program = cli.find_subcommand(program).with_context(|| format!("no `{program}`"))?;
    let flags = program.get_arguments().filter_map(|flag| {
        Some((flag.get_env()?.to_string_lossy().into_owned(), flag.get_long()?.to_owned()))
    });
    Ok(flags.collect())
}

#[test]
fn the_image_has_the_versions_of_the_sources() -> Result<()> {
    let read = |path: &str| fs::read_to_string(root().join(path)).context(path.to_owned());
    let (image, toolchain) = (read("deploy/Dockerfile")?, read("rust-toolchain.toml")?);
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = "));
    let channel = channel.context("rust-toolchain.toml names a channel")?.trim_matches('"');
    assert!(image.contains(&format!("ARG RUST_IMAGE=rust:{channel}-slim-")), "{channel}");
    assert!(image.contains(&format!("RUSTUP_TOOLCHAIN={channel}\n")), "{channel}");
    assert!(image.contains(&format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"))));
    Ok(())
}
