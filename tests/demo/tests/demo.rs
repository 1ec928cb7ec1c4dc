//! The demo as its users run it, and the examples that it shows.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_crds::convert::document;
use portcullis_crds::manifest::Manifest;
use tempfile::TempDir;

/// A running demo whose temporary files are in a directory of their own.
struct Demo {
    child: Child,
    temporary: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let child = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child, temporary })
    }

    fn output(&mut self) -> Result<impl Iterator<Item = String> + use<>> {
        let stdout = self.child.stdout.take().context("standard output is piped")?;
        Ok(BufReader::new(stdout).lines().map_while(Result::ok))
    }

    /// Waits for the end, after which nothing may be left: no network namespace, no file, and no
    /// process that has the directory of this demo in its environment.
    fn end(mut self) -> Result<ExitStatus> {
        let status = self.child.wait()?;
        let prefix = format!("pcl-{}-", self.child.id());
        let namespaces = names(Path::new("/run/netns"))?;
        let left: Vec<&String> =
            namespaces.iter().filter(|name| name.starts_with(&prefix)).collect();
        ensure!(left.is_empty(), "namespaces are left: {left:?}");
        let files = names(self.temporary.path())?;
        ensure!(files.is_empty(), "files are left: {files:?}");
        let directory = self.temporary.path().display().to_string();
        for process in names(Path::new("/proc"))? {
            let Ok(environment) = fs::read(format!("/proc/{process}/environ")) else { continue };
            let environment = String::from_utf8_lossy(&environment).into_owned();
            ensure!(!environment.contains(&directory), "process {process} is left");
        }
        Ok(status)
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn check_agrees(arguments: &[&str]) -> Result<()> {
    let mut demo = Demo::start(arguments)?;
    let lines: Vec<String> = demo.output()?.collect();
    let said = lines.join("\n");
    ensure!(demo.end()?.code() == Some(0), "{said}");
    ensure!(said.contains("2716 connections measured, all as predicted"), "{said}");
    let flowing = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in [
        "closest: shop/db rule 1; its peer wants a pod with reads=db",
        // When it was logged first, there may have been fewer policies.
        "first logged on n2: denied, ingress: isolated by shop/d",
    ] {
        ensure!(flowing.contains(wanted), "{said}");
    }
    ensure!(!said.contains('\x1b'), "a pipe gets plain text: {said:?}");
    let wide = lines.iter().find(|line| line.chars().count() > 100);
    ensure!(wide.is_none(), "wider than 100 columns: {wide:?}");
    Ok(())
}

#[test]
fn every_cell_agrees_on_bridges_with_nft() -> Result<()> {
    check_agrees(&[])
}

#[test]
fn every_cell_agrees_on_routes_with_legacy() -> Result<()> {
    check_agrees(&["--topology=routed", "--iptables=legacy"])
}

#[test]
fn every_cell_agrees_with_nftables() -> Result<()> {
    check_agrees(&["--backend=nftables"])
}

fn check_interrupted(signal: Signal, arguments: &[&str]) -> Result<()> {
    let mut demo = Demo::start(arguments)?;
    let mut lines = demo.output()?;
    let shown = lines.any(|line| line.starts_with("── without policies"));
    ensure!(shown, "the demo ended early");
    kill(Pid::from_raw(i32::try_from(demo.child.id())?), signal)?;
    let rest: Vec<String> = lines.collect();
    ensure!(!rest.iter().any(|line| line.contains("── why not")), "it went on: {rest:?}");
    ensure!(demo.end()?.code() == Some(130));
    Ok(())
}

#[test]
fn ctrl_c_leaves_nothing_behind() -> Result<()> {
    check_interrupted(Signal::SIGINT, &[])
}

#[test]
fn sigterm_leaves_nothing_behind() -> Result<()> {
    check_interrupted(Signal::SIGTERM, &["--topology=routed"])
}

#[test]
fn a_reader_that_goes_away_leaves_nothing_behind() -> Result<()> {
    let mut demo = Demo::start(&[])?;
    demo.output()?.next().context("the demo prints a title")?;
    ensure!(demo.end()?.code() == Some(1));
    Ok(())
}

fn manifests(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            manifests(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn examples_are_free_of_diagnostics() -> Result<()> {
    let mut paths = Vec::new();
    manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"), &mut paths)?;
    ensure!(paths.len() >= 7, "only {paths:?}");
    for path in paths {
        let manifest = Manifest::parse(&path.to_string_lossy(), &fs::read_to_string(&path)?);
        let mut said = manifest.diagnostics;
        said.extend(manifest.documents.iter().flat_map(|object| document(object).1));
        ensure!(said.is_empty(), "{}: {said:?}", path.display());
        ensure!(!manifest.documents.is_empty(), "{} is empty", path.display());
    }
    Ok(())
}
