//! A map as a picture: workloads on a circle, by namespace, with an arrow for what is allowed.
//!
//! ```text
//! matrix ──bundle──► ends and arrows ──layout──► places on a circle ──► SVG
//! ```
//!
//! Workloads of one namespace that policies treat alike are one end. An arrow from or to all ends of a
//! namespace begins or ends at the namespace. What every pod can connect to has a ring and no arrow.

mod bundle;
mod coarse;
mod layout;

use std::collections::BTreeSet;
use std::io::{self, Write};

use policy_engine::reach::PortSet;
use policy_engine::words::few;

use self::bundle::{Arrow, Bundle, End, Leaf};
use self::layout::{Layout, Place, Point};
use super::frontends::FrontendEdge;
use super::matrix::Matrix;
use crate::output::{middle, short, words};

const STYLE: &str = include_str!("style.css");

/// How many names a tooltip writes out.
const NAMES_SHOWN: usize = 30;

/// How many characters of a name are shown; a tooltip has the whole name.
const NAME: usize = 34;

/// Writes a picture.
///
/// # Errors
/// When the output cannot be written.
pub fn svg(matrix: &Matrix, frontends: &[FrontendEdge], out: &mut dyn Write) -> io::Result<()> {
    let bundle = Bundle::new(matrix, frontends);
    let layout = Layout::new(&bundle);
    let (width, height) = (layout.width, layout.height);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" \
         height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n<style>{STYLE}</style>\n\
         <defs><marker id=\"end\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" \
         markerHeight=\"6\" orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\"/></marker></defs>"
    )?;
    legend(&bundle, out)?;
    for (number, space) in bundle.spaces.iter().enumerate() {
        let own = bundle.within.iter().filter(|(of, _)| *of == number);
        let own: Vec<&PortSet> = own.map(|(_, ports)| bundle.ports.get(*ports)).collect();
        let class = match own.iter().any(|ports| ports.is_everything()) {
            true => "space all",
            false if own.is_empty() => "space",
            false => "space some",
        };
        let name = &space.name;
        let title = match own.as_slice() {
            [] => name.to_string(),
            all => few(all.iter().map(|ports| format!("{} within {name}", words::ports(ports))), 3),
        };
        let path = layout.arc(number);
        writeln!(
            out,
            "<path class=\"{class}\" d=\"{path}\"><title>{}</title></path>",
            text(&title)
        )?;
    }
    for arrow in &bundle.arrows {
        self::arrow(&bundle, &layout, arrow, out)?;
    }
    for (number, space) in bundle.spaces.iter().enumerate() {
        label(layout.heading(number), ("heading", &bundle.heading(number)), &space.name, out)?;
    }
    for (number, leaf) in bundle.leaves.iter().enumerate() {
        self::leaf(&bundle, &layout, (number, leaf), out)?;
    }
    writeln!(out, "</svg>")
}

fn legend(bundle: &Bundle, out: &mut dyn Write) -> io::Result<()> {
    let namespaces: BTreeSet<&str> =
        bundle.spaces.iter().filter(|space| space.is_namespace).map(|one| &*one.name).collect();
    let frontends = "dashed arrow: an Ingress or route leads there, and its clients can connect";
    let frontends = bundle.frontends.map(|_| frontends.to_owned());
    let coarse = bundle.coarse.iter().flat_map(|_| {
        [
            "arrow between arcs: from some workloads of the namespace to some of the other"
                .to_owned(),
            "⇄ all, → all, ← all: the same with every other namespace, without arrows".to_owned(),
        ]
    });
    let many =
        |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let workloads = many(bundle.workloads, "workload");
    let lines = [
        format!("{workloads} in {}", many(namespaces.len(), "namespace")),
        "arrow: can connect to; green: on every port; blue: on some ports".to_owned(),
        "arrow from or to an arc: from or to all workloads of the namespace".to_owned(),
        "colored arc: all workloads there can connect to each other".to_owned(),
        "ring: every pod can connect to it; filled: its pods can connect to each other".to_owned(),
        "Point at anything to read what it is.".to_owned(),
    ];
    for (line, words) in (1_u32..).zip(lines.into_iter().chain(frontends).chain(coarse)) {
        let y = 10 + 18 * line;
        writeln!(out, "<text class=\"legend\" x=\"16\" y=\"{y}\">{}</text>", text(&words))?;
    }
    Ok(())
}

fn arrow(bundle: &Bundle, layout: &Layout, arrow: &Arrow, out: &mut dyn Write) -> io::Result<()> {
    let ports = bundle.ports.get(arrow.ports);
    let (from, to) = (bundle.name(arrow.from), bundle.name(arrow.to));
    let leads = matches!(arrow.from, End::Leaf(leaf) if bundle.is_frontend(leaf));
    let is_joined = bundle.is_joined(arrow);
    let class = if leads {
        "lead"
    } else if ports.is_everything() && !is_joined {
        "all"
    } else {
        "some"
    };
    let ports = words::ports(ports);
    let title = if leads {
        format!("{from} leads to {to} on {ports}")
    } else if is_joined {
        format!("{ports} from some of {from} to some of {to}")
    } else {
        format!("{ports} from {from} to {to}")
    };
    writeln!(
        out,
        "<path class=\"arrow {class}\" d=\"{}\" marker-end=\"url(#end)\"><title>{}</title></path>",
        layout.curve(arrow.from, arrow.to),
        text(&title)
    )
}

fn leaf(
    bundle: &Bundle,
    layout: &Layout,
    (number, leaf): (usize, &Leaf),
    out: &mut dyn Write,
) -> io::Result<()> {
    let class = match (bundle.rings.contains_key(&number), bundle.filled.contains(&number)) {
        (true, true) => "leaf ring filled",
        (true, false) => "leaf ring",
        (false, true) => "leaf filled",
        (false, false) => "leaf",
    };
    let Point { x, y } = layout.at(End::Leaf(number));
    let more = leaf.names.len().saturating_sub(1);
    let shown = if bundle.is_frontend(number) { short } else { local };
    let first = leaf.names.first().map(|name| shown(name)).unwrap_or_default();
    let shown = match more {
        0 => first,
        more => format!("{} +{more}", middle(&first, NAME - 6)),
    };
    let mut whole: Vec<String> =
        leaf.names.iter().take(NAMES_SHOWN).map(|name| short(name)).collect();
    if let Some(others @ 1..) = leaf.names.len().checked_sub(NAMES_SHOWN) {
        whole.push(format!("and {others} more"));
    }
    if let Some(ports) = bundle.rings.get(&number) {
        whole.push(format!("from every pod: {}", words::ports(bundle.ports.get(*ports))));
    }
    let whole = whole.join("\n");
    writeln!(
        out,
        "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{}</title></circle>",
        text(&whole)
    )?;
    label(layout.label(number), ("name", &shown), &whole, out)
}

/// A name beside the circle, with the whole of it as its tooltip.
fn label(
    place: Place,
    (class, shown): (&str, &str),
    whole: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Place { center: Point { x: across, y: down }, turn, x, anchor } = place;
    writeln!(
        out,
        "<text class=\"{class}\" transform=\"translate({across:.1} {down:.1}) rotate({turn:.2})\" \
         x=\"{x:.1}\" y=\"4\" text-anchor=\"{anchor}\">{}<title>{}</title></text>",
        text(&middle(shown, NAME)),
        text(whole)
    )
}

/// A name without its namespace, which is written beside the arc.
fn local(name: &str) -> String {
    let short = short(name);
    short.split_once('/').map_or(short.clone(), |(_, rest)| rest.to_owned())
}

/// A name is written as text, whatever it contains.
fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
