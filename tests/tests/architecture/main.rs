//! The arrows of ARCHITECTURE.md, held: which crate may know which (who touches the kernel is held
//! by `controller/clippy.toml`); and that the [`documents`], the [`dashboard`] and the [`probes`] are true.

mod dashboard;
mod documents;
mod probes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names under `[dependencies]` of a crate's manifest.
fn dependencies(crate_directory: &str) -> Result<Vec<String>> {
    let manifest = root().join(crate_directory).join("Cargo.toml");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("failed to read {}", manifest.display()))?;
    let section = text.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
    Ok(names.filter(|name| !name.is_empty() && !name.starts_with('#')).map(str::to_owned).collect())
}

/// All Rust files below a directory, with their text.
fn sources(directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory)
        .with_context(|| format!("failed to list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path)?;
            found.push((path, text));
        }
    }
    ensure!(!found.is_empty(), "{} has no sources", directory.display());
    Ok(found)
}

/// No file below `directory`, but for those that `except` accepts, mentions any of `words`.
fn nobody_says(directory: &str, except: impl Fn(&Path) -> bool, words: &[&str]) -> Result<()> {
    let found = sources(&root().join(directory))?;
    let mut looked_at = 0;
    for (path, text) in found.iter().filter(|(path, _)| !except(path)) {
        looked_at += 1;
        for word in words {
            let said = text.lines().position(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(word)
            });
            ensure!(said.is_none(), "{}:{}: {word}", path.display(), said.unwrap_or(0) + 1);
        }
    }
    ensure!(looked_at > 0, "nothing was looked at below {directory}");
    Ok(())
}

#[test]
fn the_engine_depends_on_nothing_that_does_io() -> Result<()> {
    assert_eq!(dependencies("policy-engine")?, ["ipnet", "sha2", "thiserror"]);
    nobody_says(
        "policy-engine/src",
        |_| false,
        &["std::fs", "std::env", "std::time", "std::process", "std::thread", "println!", "async "],
    )
}

#[test]
fn the_engine_orders_everything_that_it_gives_out() -> Result<()> {
    // Hash maps serve look-ups inside the incremental compiler only.
    let inside = |path: &Path| path.to_string_lossy().contains("/src/engine/");
    nobody_says("policy-engine/src", inside, &["HashMap", "HashSet"])
}

#[test]
fn converters_do_no_io_and_know_no_controller() -> Result<()> {
    let known = dependencies("crds")?;
    for name in ["tokio", "notify", "portcullis-apiserver", "portcullis-controller", "tracing"] {
        assert!(!known.iter().any(|known| known == name), "crds depends on {name}");
    }
    nobody_says("crds/src", |_| false, &["std::fs", "std::env", "std::process", "std::net::Tcp"])
}

/// It is one of the independent checks of verdicts: it must not repeat an error of what renders rules.
#[test]
fn the_interpreter_shares_nothing_with_what_renders_rules() -> Result<()> {
    assert_eq!(
        dependencies("controller/interpreter")?,
        ["ipnet", "serde", "serde_json", "thiserror"]
    );
    nobody_says(
        "controller/interpreter/src",
        |_| false,
        &["std::fs", "std::env", "std::process", "std::net::Tcp"],
    )?;
    let inspects = |path: &Path| path.to_string_lossy().contains("/src/inspect/");
    nobody_says("controller/src", inspects, &["portcullis_interpreter"])
}

#[test]
fn findings_are_pure() -> Result<()> {
    assert_eq!(dependencies("lint")?, ["policy-engine", "portcullis-crds", "strsim"]);
    let words = ["std::fs", "std::env", "std::time", "std::process", "std::thread", "println!"];
    nobody_says("lint/src", |_| false, &words)
}

#[test]
fn the_reader_of_the_api_server_knows_no_program() -> Result<()> {
    let known = dependencies("apiserver")?;
    for name in ["portcullis-controller", "portcullis-whatif", "nix", "ipset", "iptables"] {
        assert!(!known.iter().any(|known| known == name), "apiserver depends on {name}");
    }
    nobody_says("apiserver/src", |_| false, &["process::Command", "convert::"])
}

#[test]
fn whatif_asks_the_engine_and_never_the_node() -> Result<()> {
    let known = dependencies("whatif")?;
    for name in ["portcullis-controller", "ipset", "iptables", "nix"] {
        assert!(!known.iter().any(|known| known == name), "whatif depends on {name}");
    }
    let source = |path: &Path| path.to_string_lossy().contains("/source/");
    let words = ["std::fs", "stdin()", "k8s_openapi", "process::Command", "kube::"];
    nobody_says("whatif/src", source, &words)?;
    // The server of `ui` answers browsers.
    let serves = |path: &Path| {
        source(path) || path.ends_with("ui/server.rs") || path.ends_with("command/ui.rs")
    };
    nobody_says("whatif/src", serves, &["tokio::"])
}

#[test]
fn the_dataplane_sees_engine_values_only() -> Result<()> {
    nobody_says(
        "controller/src/dataplane",
        |_| false,
        &[
            "k8s_openapi",
            "portcullis_crds",
            "kube::",
            "crate::watch",
            "crate::node::agent",
            "tokio",
        ],
    )
}

#[test]
fn the_cluster_controller_touches_no_node() -> Result<()> {
    let words =
        ["crate::dataplane", "crate::node::agent", "crate::node::report::", "crate::node::lock"];
    nobody_says("controller/src/cluster", |_| false, &words)?;
    let cluster = |path: &Path| {
        let path = path.to_string_lossy();
        path.contains("/src/cluster/") || path.ends_with("src/lib.rs")
    };
    nobody_says("controller/src", cluster, &["crate::cluster"])
}

#[test]
fn sources_know_nothing_of_who_listens() -> Result<()> {
    nobody_says("controller/src/watch", |_| false, &["crate::node::agent", "crate::dataplane"])
}

#[test]
fn nothing_that_enforces_knows_who_reports_it() -> Result<()> {
    let words = &[
        "crate::node::report",
        "crate::serve::http",
        "crate::node::status",
        "crate::node::metrics",
    ];
    nobody_says("controller/src/dataplane", |_| false, words)?;
    nobody_says("controller/src/watch", |_| false, words)
}

#[test]
fn files_stay_small_enough_to_read() -> Result<()> {
    const LINES_MAX: usize = 450;
    const TESTS: [&str; 4] = ["tests/src", "tests/lab/src", "tests/demo/src", "tests/cluster/src"];
    let product = [
        "controller/interpreter/src",
        "policy-engine/src",
        "crds/src",
        "lint/src",
        "apiserver/src",
        "controller/src",
        "whatif/src",
    ];
    for directory in product.into_iter().chain(TESTS) {
        for (path, text) in sources(&root().join(directory))? {
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{}: {lines} lines, split it by noun", path.display());
            assert!(text.starts_with("//!"), "{} does not say what it is for", path.display());
        }
    }
    Ok(())
}
