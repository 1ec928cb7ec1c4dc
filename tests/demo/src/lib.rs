//! `make demo`: the shop of `examples/shop` on three nodes, policy by policy, measured with real
//! connections beside what the engine predicts. Any cell that differs fails it.
//!
//! ```text
//! examples/shop ─ scene ─┬─► stage: lab, agents, files, packets ─► measured ─┐
//!                        └─► engine's evaluate ──────────────────► predicted ┴─► table ─► picture
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `scene` | the example as values: who there is, what they serve, the policies |
//! | `table` | predicted and measured, compared cell by cell |
//! | `changes` | what a step opened and closed, in few words |
//! | `picture`, `ink` | tables as text for a terminal |
//! | `stage` | the only file that builds a lab, writes manifests, sends packets |
//! | `finale` | a denial and the policies behind it; the size of a node's rules |
//! | `interrupt` | Ctrl-C, and waiting for Enter |

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};

mod changes;
mod finale;
mod ink;
mod interrupt;
mod picture;
mod scene;
mod stage;
mod table;

use ink::Ink;
use interrupt::{Interrupt, Pauses};
use picture::Picture;
use scene::{PolicyFile, Scene};
use stage::{Applied, Stage};
use table::Table;

/// What a shell gives a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Shows packets obeying policies: three nodes, twelve pods, one agent per node, real connections.
///
/// Needs root. Everything happens in network namespaces of its own, which are gone at the end.
#[derive(Parser, Debug)]
#[command(name = "demo", max_term_width = 100)]
pub struct Args {
    /// The kernel interface behind iptables, for lab and agents.
    #[arg(long, value_enum, default_value = "nft")]
    pub iptables: Iptables,
    /// What the agents enforce with.
    #[arg(long, value_enum, default_value = "iptables")]
    pub backend: Backend,
    /// How pods hang on their node: on a bridge (flannel, kubenet), or each by a route (Calico).
    #[arg(long, value_enum, default_value = "bridge")]
    pub topology: Topology,
    /// Wait for Enter after each step.
    #[arg(long)]
    pub pause: bool,
}

/// The choices of `--iptables`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Iptables {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
}

/// The choices of `--backend`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// iptables and ipset.
    Iptables,
    /// Tables of nftables, without iptables and ipset.
    Nftables,
}

impl Backend {
    /// The flag of the agents.
    fn flag(self) -> &'static str {
        match self {
            Self::Iptables => "--backend=iptables",
            Self::Nftables => "--backend=nftables",
        }
    }
}

/// The choices of `--topology`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topology {
    /// One bridge per node.
    Bridge,
    /// One route per pod.
    Routed,
}

impl From<Iptables> for portcullis_lab::IptablesVariant {
    fn from(choice: Iptables) -> Self {
        match choice {
            Iptables::Legacy => Self::Legacy,
            Iptables::Nft => Self::Nft,
        }
    }
}

impl From<Topology> for portcullis_lab::Topology {
    fn from(choice: Topology) -> Self {
        match choice {
            Topology::Bridge => Self::Bridge,
            Topology::Routed => Self::Routed,
        }
    }
}

/// Runs the demo on standard output.
///
/// Exit codes: 0 when every cell agreed, 1 when one did not or something failed, 130 after SIGINT,
/// SIGTERM or SIGHUP. Nothing is left behind in any of these cases.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(failure) => return fail(&failure),
    };
    // Lab and agents are gone when this returns.
    let shown = show(args, &interrupt, &mut io::stdout());
    match shown {
        _ if interrupt.is_requested() => {
            eprintln!("demo: interrupted; agents and network namespaces are gone");
            ExitCode::from(INTERRUPTED)
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &anyhow::Error) -> ExitCode {
    eprintln!("demo: {failure:#}");
    ExitCode::FAILURE
}

fn show(args: &Args, interrupt: &Interrupt, out: &mut impl Write) -> Result<()> {
    let (started, pauses) = (Instant::now(), Pauses::new(args.pause));
    let ink = Ink::new(
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()),
    );
    let (mut scene, policies) = scene::load()?;
    let lab = (args.topology.into(), args.iptables.into());
    let stage = Stage::build(&scene, lab, args.backend, interrupt)?;
    let picture = Picture::new(&scene, ink);
    write!(out, "{}", picture.opening(args, started.elapsed()))?;

    let show = Show { picture, stage: &stage, interrupt };
    let mut before = show.step(out, &scene, None, None)?;
    let mut cells = before.len();
    for policy in &policies {
        pauses.wait(interrupt)?;
        scene.apply(policy);
        let enforced = stage.put(policy, interrupt)?;
        before = show.step(out, &scene, Some((policy, &enforced)), Some(&before))?;
        cells += before.len();
    }
    pauses.wait(interrupt)?;
    write!(out, "{}", finale::text(&scene, &stage, ink)?)?;
    drop(stage);
    let seconds = started.elapsed().as_secs_f64();
    writeln!(out, "{cells} connections measured, all as predicted; {seconds:.1} s in all.")?;
    Ok(())
}

/// What all steps share.
struct Show<'s> {
    picture: Picture,
    stage: &'s Stage,
    interrupt: &'s Interrupt,
}

impl Show<'_> {
    /// Measures, prints and compares.
    fn step(
        &self,
        out: &mut impl Write,
        scene: &Scene,
        policy: Option<(&PolicyFile, &Applied)>,
        before: Option<&Table>,
    ) -> Result<Table> {
        self.interrupt.check()?;
        let table = self.stage.measure(scene).context("failed to send packets")?;
        self.interrupt.check()?;
        write!(out, "{}", self.picture.step(scene, policy, &table, before))?;
        out.flush()?;
        let wrong = table.disagreements(scene);
        if !wrong.is_empty() {
            bail!("{} cells are not as predicted:\n  {}", wrong.len(), wrong.join("\n  "));
        }
        Ok(table)
    }
}

/// A duration as milliseconds with one decimal.
fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_not_in_the_kernel_fails_the_demo() -> Result<()> {
        let (mut scene, policies) = scene::load()?;
        let interrupt = Interrupt::watch()?;
        let (topology, iptables) =
            (portcullis_lab::Topology::Bridge, portcullis_lab::IptablesVariant::Nft);
        let stage = Stage::build(&scene, (topology, iptables), Backend::Iptables, &interrupt)?;
        let picture = Picture::new(&scene, Ink::new(false));
        let show = Show { picture, stage: &stage, interrupt: &interrupt };
        scene.apply(policies.first().context("there are policies")?);
        let mut out = Vec::new();
        let failure = show.step(&mut out, &scene, None, None).unwrap_err().to_string();
        assert!(failure.starts_with("264 cells are not as predicted"), "{failure}");
        let cell = "jobs/report → shop/db-1 9090/tcp (IPv6): predicted closed, measured open";
        assert!(failure.contains(cell), "{failure}");
        let said = String::from_utf8(out)?;
        assert!(said.contains("62/194 agree, IPv6 62/194"), "{said}");
        Ok(())
    }
}
