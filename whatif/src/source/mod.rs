//! Where objects come from. Whatever the source, it ends as one [`Inventory`].
//!
//! The only place of this crate that reads files ([`files`]) and asks an API server ([`live`]).

pub mod files;
pub mod gap;
pub mod live;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use portcullis_crds::diagnostic::Diagnostic;

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
}

/// Reads everything that the arguments name.
///
/// # Errors
/// When a file cannot be read, `--without` names nothing, or with `--strict` something cannot be
/// understood.
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
    let mut reader = files::Reader::new(&namespace);
    reader.read(&args.filename, &mut sources.before)?;
    sources.after = sources.before.clone();
    reader.read(&args.with, &mut sources.after)?;
    for name in &args.without {
        sources.after.remove(name, &namespace)?;
    }
    sources.texts = reader.texts;
    sources.diagnostics = reader.diagnostics;
    sources.namespace = namespace;
    sources.diagnostics.extend(sources.after.diagnostics());
    if let (true, Some(first)) = (args.strict, sources.diagnostics.first()) {
        let more = sources.diagnostics.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        bail!("--strict: {first}{more}");
    }
    Ok(sources)
}
