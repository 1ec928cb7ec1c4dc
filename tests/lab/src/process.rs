//! The one place that starts configuration tools (`ip`, `bridge`, `iptables-restore`).

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::namespace::Namespace;

/// Runs `commands`, one `ip` command a line, in `namespace` or else where this process runs.
///
/// # Errors
/// Names the line that `ip` refused; the lines before it stay enforced.
pub(super) fn ip(namespace: Option<&str>, commands: &str) -> Result<()> {
    batch("ip", namespace, commands)
}

/// Runs `commands`, one `bridge` command a line, in `namespace`.
///
/// # Errors
/// Names the line that `bridge` refused; the lines before it stay enforced.
pub(super) fn bridge(namespace: &str, commands: &str) -> Result<()> {
    batch("bridge", Some(namespace), commands)
}

/// Deletes named namespaces; those that cannot be deleted are skipped.
///
/// # Errors
/// When `ip` cannot start.
pub(super) fn delete_namespaces(names: &[String]) -> Result<()> {
    let commands: String = names.iter().flat_map(|name| ["netns del ", name, "\n"]).collect();
    let mut command = Command::new("ip");
    // Another process may sweep the same names: with -force one failure is not the end.
    let child =
        piped(command.args(["-force", "-batch", "-"])).spawn().context("failed to start ip")?;
    let _ = finish(child, &commands);
    Ok(())
}

/// Runs `iptables-restore --noflush` with `rules`.
///
/// # Errors
/// Carries the tool's own words and the rules it refused.
pub(super) fn restore(namespace: &Namespace, program: &str, rules: &str) -> Result<()> {
    let mut command = Command::new(format!("{program}-restore"));
    command.args(["--noflush", "-w", "20"]);
    let child = namespace.spawn(piped(&mut command))?;
    finish(child, rules).with_context(|| {
        format!("failed to load rules with {program}-restore in {}:\n{rules}", namespace.name())
    })
}

fn batch(program: &str, namespace: Option<&str>, commands: &str) -> Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(program);
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    let child = piped(&mut command)
        .spawn()
        .with_context(|| format!("failed to start {program} (Debian package iproute2)"))?;
    finish(child, commands).with_context(|| {
        let place = namespace.unwrap_or("the root namespace");
        format!("failed to configure {place} with `{program} -batch`:\n{}", numbered(commands))
    })
}

fn piped(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped())
}

fn finish(mut child: std::process::Child, input: &str) -> Result<()> {
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().context("failed to wait for the tool")?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    // A tool that failed stops reading; its own message above says more than a broken pipe.
    written.context("failed to write to the tool")
}

fn numbered(commands: &str) -> String {
    let lines = commands.lines().enumerate().map(|(at, line)| format!("{:4} {line}", at + 1));
    lines.collect::<Vec<_>>().join("\n")
}
