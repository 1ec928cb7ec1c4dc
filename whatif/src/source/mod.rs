//! The sources of objects. Every source is read into an [`Inventory`].
//!
//! Only this module reads files ([`files`]) and sends requests to an API server ([`live`]).

pub mod agents;
pub mod connection;
mod documents;
pub mod exec;
pub mod files;
mod git;
pub mod live;
pub mod reports;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use policy_engine::object::Kind;
use policy_engine::words::few;
use portcullis_crds::convert::custom;
use portcullis_crds::diagnostic::{Diagnostic, Origin};
use portcullis_crds::manifest::Document;

use crate::args::{Side, SourceArgs};
use crate::model::Inventory;

/// The objects before and after the hypothesis, and the files that they were read from.
#[derive(Default)]
pub struct Sources {
    /// The objects without the hypothesis.
    pub before: Inventory,
    /// The objects with what `--with` adds and `--without` removes.
    pub after: Inventory,
    /// The text of each file, for excerpts.
    pub texts: BTreeMap<Arc<str>, String>,
    /// The namespace of endpoints and objects that name none.
    pub namespace: String,
    /// Diagnostics of files, and of the objects of `after`.
    pub diagnostics: Vec<Diagnostic>,
    /// The diagnostics of files, documents and objects that could not be read, and of which answers
    /// therefore leave something out.
    pub unread: Vec<Diagnostic>,
    /// The diagnostics of policies in a namespace without any other object.
    pub misplaced: Vec<Diagnostic>,
    /// Notes about what was left out on purpose.
    pub notes: Vec<String>,
    /// Whether objects come from an API server.
    pub is_live: bool,
}

/// How many places a note lists.
const PLACES_SHOWN: usize = 3;

/// The two sides of `plan --before … --after …`.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// The manifests before.
    pub before: &'a [Side],
    /// The manifests that replace them.
    pub after: &'a [Side],
}

/// Reads everything that the arguments name.
///
/// # Errors
/// When a file cannot be read or a path contains no object, `--without` names nothing, or with
/// `--strict` something cannot be understood.
pub fn read(args: &SourceArgs) -> Result<Sources> {
    compare(args, Sides { before: &[], after: &[] })
}

/// As [`read`], with two sides: the objects of `sides.before` are added to those before and removed
/// from those after; the objects of `sides.after` are added to those after.
///
/// # Errors
/// As [`read`].
pub fn compare(args: &SourceArgs, sides: Sides<'_>) -> Result<Sources> {
    live::needs_cluster(args)?;
    let mut sources = Sources::default();
    let mut reader = files::Reader::new(args.fail_on_empty);
    let mut documents = |sides: &[Side]| -> Result<Vec<Vec<Document>>> {
        sides.iter().map(|side| reader.documents(side)).collect()
    };
    let (old, new) = (documents(sides.before)?, documents(sides.after)?);
    let complete = old.iter().chain(&new).flatten().any(makes_pods);
    let namespace = if args.filename.is_empty() && (args.names_cluster() || !complete) {
        let live = live::read(args)?;
        for object in &live.objects {
            sources.before.add_value(object, &live.namespace);
        }
        sources.before.hidden = live.gaps;
        sources.is_live = true;
        live.namespace
    } else {
        args.namespace.clone().unwrap_or_else(|| "default".to_owned())
    };
    reader.read(&args.filename, &namespace, &mut sources.before)?;
    args.assume.iter().for_each(|assumed| sources.before.assume(assumed));
    sources.after = sources.before.clone();
    let [old, new] = [old, new].map(|paths| {
        let mut side = Inventory::default();
        paths.into_iter().for_each(|path| side.add_path(path, &namespace));
        side
    });
    sources.after.remove_all(&old);
    sources.before.merge(old);
    sources.after.merge(new);
    reader.read(&args.with, &namespace, &mut sources.after)?;
    for name in &args.without {
        sources.after.remove(name, &namespace)?;
    }
    sources.notes.extend(others(&reader.others));
    sources.texts = reader.texts;
    sources.namespace = namespace;
    sources.misplaced = sources.after.misplaced();
    let mut diagnostics = reader.diagnostics.clone();
    sources.unread = reader.diagnostics;
    sources.unread.extend(sources.after.unusable().cloned());
    if !sides.before.is_empty() {
        sources.unread.extend(sources.before.unusable().cloned());
    }
    if !sides.before.is_empty() {
        diagnostics.extend(sources.before.diagnostics());
    }
    for found in sources.after.diagnostics() {
        if sides.before.is_empty() || !diagnostics.contains(&found) {
            diagnostics.push(found);
        }
    }
    diagnostics.extend(sources.misplaced.iter().cloned());
    sources.diagnostics = diagnostics;
    if let (true, Some(first)) = (args.strict, sources.diagnostics.first()) {
        let more = sources.diagnostics.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        bail!("--strict: {first}{more}");
    }
    Ok(sources)
}

/// Whether a document is a pod, or creates pods.
fn makes_pods(document: &Document) -> bool {
    let kind = document.kind().and_then(Kind::parse);
    kind.is_some_and(|kind| kind == Kind::Pod || kind.creates_pods())
        || custom::creates_pods(document.value())
}

/// One note about all documents that are not objects.
fn others(found: &[Origin]) -> Option<String> {
    let places = few(found, PLACES_SHOWN);
    let what = "(such as Helm values, Chart.yaml and kustomization.yaml)";
    match found.len() {
        0 => None,
        1 => {
            Some(format!("1 document is not a Kubernetes object {what} and is left out: {places}"))
        }
        count => Some(format!(
            "{count} documents are not Kubernetes objects {what} and are left out: {places}"
        )),
    }
}
