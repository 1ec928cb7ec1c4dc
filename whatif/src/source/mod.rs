//! Where objects come from. Whatever the source, it ends as one [`Inventory`].
//!
//! The only place of this crate that reads files ([`files`]) and asks an API server ([`live`]).

mod documents;
pub mod files;
pub mod gap;
pub mod live;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use policy_engine::words::few;
use portcullis_crds::diagnostic::{Diagnostic, Origin};

use crate::args::SourceArgs;
use crate::model::Inventory;

/// The objects as they are, as they would be, and the files that they were read from.
#[derive(Default)]
pub struct Sources {
    /// The objects without the hypothesis.
    pub before: Inventory,
    /// The objects with what `--with` adds and `--without` removes.
    pub after: Inventory,
    /// What each file holds, for excerpts.
    pub texts: BTreeMap<Arc<str>, String>,
    /// The namespace of endpoints and objects that name none.
    pub namespace: String,
    /// What is wrong with files, and with the objects of `after`.
    pub diagnostics: Vec<Diagnostic>,
    /// The part of it that reports files and documents which could not be read: any object may be
    /// in them.
    pub unread: Vec<Diagnostic>,
    /// The part of it that reports policies in a namespace that nothing else is in.
    pub misplaced: Vec<Diagnostic>,
    /// What was left out on purpose.
    pub notes: Vec<String>,
}

/// How many places a note lists.
const PLACES_SHOWN: usize = 3;

/// Reads everything that the arguments name.
///
/// # Errors
/// When a file cannot be read or a path contains no object, `--without` names nothing, or with
/// `--strict` something cannot be understood.
pub fn read(args: &SourceArgs) -> Result<Sources> {
    let mut sources = Sources::default();
    live::needs_cluster(args)?;
    let namespace = if args.filename.is_empty() {
        let live = live::read(args)?;
        for object in &live.objects {
            sources.before.add_value(object, &live.namespace);
        }
        sources.before.hidden = live.gaps;
        live.namespace
    } else {
        args.namespace.clone().unwrap_or_else(|| "default".to_owned())
    };
    let mut reader = files::Reader::new(&namespace, args.fail_on_empty);
    reader.read(&args.filename, &mut sources.before)?;
    sources.after = sources.before.clone();
    reader.read(&args.with, &mut sources.after)?;
    for name in &args.without {
        sources.after.remove(name, &namespace)?;
    }
    sources.texts = reader.texts;
    sources.notes.extend(others(&reader.others));
    sources.diagnostics.clone_from(&reader.diagnostics);
    sources.unread = reader.diagnostics;
    sources.namespace = namespace;
    sources.diagnostics.extend(sources.after.diagnostics());
    sources.misplaced = sources.after.misplaced();
    sources.diagnostics.extend(sources.misplaced.iter().cloned());
    if let (true, Some(first)) = (args.strict, sources.diagnostics.first()) {
        let more = sources.diagnostics.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        bail!("--strict: {first}{more}");
    }
    Ok(sources)
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
