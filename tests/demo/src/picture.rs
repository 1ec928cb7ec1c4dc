//! Tables as text, at most 100 columns wide.
//!
//! ```text
//!            measured                    │ predicted
//!            web-1  api-1  db-1  …       │ web-1  api-1  db-1  …
//!               web-2  api-2  cache-1    │    web-2  api-2  cache-1
//! web-1      ●● ●· ●● …                  │ ●● ●· ●● …
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use policy_engine::cidr::Family;

use super::changes::{Changed, changed, port_list};
use super::ink::Ink;
use super::scene::{Party, PolicyFile, Scene};
use super::stage::Applied;
use super::table::{Cell, Measured, Reading, Table};
use super::{Args, Backend, Iptables, Topology, millis};

const OPEN: &str = "●";
const CLOSED: &str = "·";
const STRANGER: &str = "?";

/// The widest line.
pub(super) const WIDTH: usize = 100;

/// What all tables of a scene have in common.
pub(super) struct Picture {
    ink: Ink,
    /// The nodes with their pods.
    nodes: BTreeMap<String, Vec<String>>,
    /// What each destination serves.
    ports: String,
    /// Where each column begins, counted from the first.
    offsets: Vec<usize>,
    /// Of one table, without names of rows.
    width: usize,
    /// Of the names of rows, with a space.
    label: usize,
}

/// Which half of a reading is drawn.
#[derive(Clone, Copy)]
enum Side {
    Measured,
    Predicted,
}

impl Picture {
    pub(super) fn new(scene: &Scene, ink: Ink) -> Self {
        let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for party in &scene.parties {
            if let Some(node) = &party.node {
                nodes.entry(node.clone()).or_default().push(party.to_string());
            }
        }
        let columns: Vec<&Party> = scene.columns().map(|(_, party)| party).collect();
        let (offsets, width) = layout(&columns);
        let names = scene.parties.iter().map(|party| party.short().len());
        let label = names.max().unwrap_or_default() + 1;
        Self { ink, nodes, ports: served(&columns), offsets, width, label }
    }

    /// What there is to see, and how to read it.
    pub(super) fn opening(&self, args: &Args, took: Duration) -> String {
        let topology = match args.topology {
            Topology::Bridge => "bridge",
            Topology::Routed => "routed",
        };
        let backend = match (args.backend, args.iptables) {
            (Backend::Nftables, _) => "nftables",
            (Backend::Iptables, Iptables::Legacy) => "iptables-legacy",
            (Backend::Iptables, Iptables::Nft) => "iptables-nft",
        };
        let pods: usize = self.nodes.values().map(Vec::len).sum();
        let nodes = self.nodes.len();
        let title = format!("A shop: {pods} pods on {nodes} nodes, a Portcullis agent on each");
        let seconds = took.as_secs_f64();
        let mut text =
            format!("{} ({topology}, {backend}, up in {seconds:.1} s)\n", self.ink.bold(&title));
        for (node, pods) in &self.nodes {
            let _ = writeln!(text, "  {node}  {}", pods.join("  "));
        }
        let _ = writeln!(
            text,
            "  Rows connect to columns; a mark for each port: {OPEN} open, {CLOSED} closed. IPv4 is drawn, \
             IPv6 counted."
        );
        let ports = format!("  Ports: {}.", self.ports);
        text.push_str(&wrap(&ports, 4));
        text
    }

    /// One step: the policy, what it changed, and both tables.
    pub(super) fn step(
        &self,
        scene: &Scene,
        policy: Option<(&PolicyFile, &Applied)>,
        table: &Table,
        before: Option<&Table>,
    ) -> String {
        let mut text = self.heading(policy);
        if let Some(before) = before {
            for (word, opened) in [("opened", true), ("closed", false)] {
                let Changed { count, what } = changed(scene, table, before, opened);
                if count > 0 {
                    text.push_str(&wrap(&format!("  {word} {count}: {}", what.join("; ")), 4));
                }
            }
        }
        self.tables(scene, table, before, &mut text);
        text
    }

    fn heading(&self, policy: Option<(&PolicyFile, &Applied)>) -> String {
        let Some((policy, enforced)) = policy else {
            return format!("\n{}\n", self.ink.bold("── without policies"));
        };
        let each: Vec<String> =
            enforced.iter().map(|(node, took)| format!("{node} {}", millis(*took))).collect();
        let slowest = enforced.iter().map(|(_, took)| *took).max().unwrap_or_default();
        let name = self.ink.bold(&format!("── {}", policy.name));
        let took = self.ink.green(&format!("enforced after {} ms", millis(slowest)));
        format!("\n{name}  {took} ({})\n  {}\n", each.join(", "), policy.comment)
    }

    fn tables(&self, scene: &Scene, table: &Table, before: Option<&Table>, text: &mut String) {
        let agree = |family| {
            let cells = table.iter().filter(|(cell, _)| cell.family == family);
            let (mut all, mut right) = (0, 0);
            for (_, reading) in cells {
                all += 1;
                right += usize::from(reading.agrees());
            }
            format!("{right}/{all}")
        };
        let (v4, v6) = (agree(Family::V4), agree(Family::V6));
        let titles = ["measured".to_owned(), format!("predicted: {v4} agree, IPv6 {v6}")];
        self.line(text, "", &titles.map(|title| self.ink.dim(&self.fill(&title))));
        for line in 0..2 {
            let names = self.fill(&self.names(scene, line));
            self.line(text, "", &[names.clone(), names]);
        }
        for (index, party) in scene.parties.iter().enumerate() {
            let row = |side| self.row(scene, index, table, before, side);
            self.line(text, party.short(), &[row(Side::Measured), row(Side::Predicted)]);
        }
    }

    fn line(&self, text: &mut String, label: &str, [left, right]: &[String; 2]) {
        let width = self.label;
        let line = format!("{label:width$}{left} │ {right}");
        let _ = writeln!(text, "{}", line.trim_end());
    }

    fn fill(&self, text: &str) -> String {
        let width = self.width;
        format!("{text:width$}")
    }

    /// Names of columns: every other one on each of two lines, so that they have room.
    fn names(&self, scene: &Scene, line: usize) -> String {
        let mut text = String::new();
        let columns = scene.columns().zip(&self.offsets).enumerate();
        for (_, ((_, party), offset)) in columns.filter(|(at, _)| at % 2 == line) {
            let width = *offset;
            text = format!("{text:width$}{}", party.short());
        }
        text
    }

    fn row(
        &self,
        scene: &Scene,
        source: usize,
        table: &Table,
        before: Option<&Table>,
        side: Side,
    ) -> String {
        let (mut text, mut used) = (String::new(), 0);
        for ((destination, party), offset) in scene.columns().zip(&self.offsets) {
            text.push_str(&" ".repeat(offset.saturating_sub(used)));
            used = offset + party.ports.len();
            for &port in &party.ports {
                let cell = Cell { family: Family::V4, source, destination, port };
                match table.get(cell) {
                    Some(reading) => {
                        text += &self.mark(reading, table.is_changed(cell, before), side);
                    }
                    None => text.push(' '),
                }
            }
        }
        text + &" ".repeat(self.width.saturating_sub(used))
    }

    fn mark(&self, reading: &Reading, is_changed: bool, side: Side) -> String {
        let mark = match (side, reading.predicted, &reading.measured) {
            (Side::Predicted, true, _) | (Side::Measured, _, Measured::Open) => OPEN,
            (Side::Predicted, false, _) | (Side::Measured, _, Measured::Closed) => CLOSED,
            (Side::Measured, _, Measured::Stranger(_)) => STRANGER,
        };
        match (reading.agrees(), is_changed, mark) {
            (false, _, _) => self.ink.alarm(mark),
            (true, true, _) => self.ink.inverse(mark),
            (true, false, OPEN) => self.ink.green(mark),
            (true, false, _) => self.ink.dim(mark),
        }
    }
}

/// Where columns begin, and the width of all: a mark per port and a space, and room for each name
/// up to the next name on the same line.
fn layout(columns: &[&Party]) -> (Vec<usize>, usize) {
    let (mut offsets, mut free) = (Vec::new(), [0, 0]);
    let mut next = 0;
    for (at, party) in columns.iter().enumerate() {
        let offset = next.max(free[at % 2]);
        offsets.push(offset);
        next = offset + (party.ports.len() + 1).max(3);
        free[at % 2] = offset + party.short().len() + 1;
    }
    let width = next.max(free[0]).max(free[1]).saturating_sub(1);
    (offsets, width)
}

/// What each destination serves; those that serve the same together.
fn served(columns: &[&Party]) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for party in columns {
        let ports = port_list(&party.ports);
        match groups.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, names)) => names.push(party.short()),
            None => groups.push((ports, vec![party.short()])),
        }
    }
    let all = groups.iter().map(|(ports, names)| format!("{} {ports}", names.join(" ")));
    all.collect::<Vec<_>>().join(", ")
}

/// Breaks a line at spaces; what follows is indented by `hang`.
pub(super) fn wrap(line: &str, hang: usize) -> String {
    let indent = line.len() - line.trim_start().len();
    let (mut text, mut used) = (" ".repeat(indent), indent);
    for (at, word) in line.split_whitespace().enumerate() {
        let length = word.chars().count();
        if at > 0 && used + 1 + length > WIDTH {
            let _ = write!(text, "\n{:hang$}", "");
            used = hang;
        } else if at > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += length;
    }
    text + "\n"
}
