//! Where objects come from. Whatever the source, it ends as one [`Inventory`].
//!
//! The only place of this crate that reads files. A live cluster becomes another function beside
//! [`files::Reader`] that fills an [`Inventory`] with objects of an API server (no documents).

pub mod files;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use portcullis_crds::diagnostic::Diagnostic;

use crate::args::SourceArgs;
use crate::model::{Inventory, ObjectName};

/// The objects as they are, as they would be, and the files that they were read from.
#[derive(Default)]
pub struct Sources {
    /// The objects without the hypothesis.
    pub before: Inventory,
    /// The objects with what `--with` adds and `--without` removes.
    pub after: Inventory,
    /// What each file holds, for excerpts.
    pub texts: BTreeMap<Arc<str>, String>,
    /// What is wrong with files, and with the objects of `after`.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads everything that the arguments name.
///
/// # Errors
/// When a file cannot be read, `--without` names nothing, or with `--strict` something cannot be
/// understood.
pub fn read(args: &SourceArgs) -> Result<Sources> {
    if args.filename.is_empty() {
        bail!("no source: name a file or a directory of manifests with -f");
    }
    let mut sources = Sources::default();
    let mut reader = files::Reader::new(&args.namespace);
    reader.read(&args.filename, &mut sources.before)?;
    sources.after = sources.before.clone();
    reader.read(&args.with, &mut sources.after)?;
    for name in &args.without {
        let name: ObjectName = name.parse()?;
        sources.after.remove(&name.or_in(&args.namespace))?;
    }
    sources.texts = reader.texts;
    sources.diagnostics = reader.diagnostics;
    sources.diagnostics.extend(sources.after.diagnostics());
    if let (true, Some(first)) = (args.strict, sources.diagnostics.first()) {
        let more = sources.diagnostics.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        bail!("--strict: {first}{more}");
    }
    Ok(sources)
}
