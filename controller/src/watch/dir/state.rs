//! The objects that the files of a directory define: a synchronous core without a file system.
//!
//! ```text
//! load | remove | unreadable ──► files ──flush──► changes + diagnostics of each file
//! ```
//!
//! Rules:
//! - If two files define the same object, the last one in path order is enforced. The other one is
//!   reported, and is enforced when the last one is removed.
//! - While a file cannot be read, or one of its documents cannot be parsed or has no usable name,
//!   the objects that the file defined before and does not contain now stay enforced.
//! - The same holds while the file is empty: a program that writes a file in place empties it first.
//!   A file that is deleted, or that contains only comments, defines nothing.
//! - Files and documents that cannot be read are reported as [`About::Unread`]: the agent is not
//!   ready until they are fixed.
//! - A policy in an unknown API version stays as the file last defined it in a known version.
//! - A namespace that no file defines but that contains an object is assumed: it has only the label
//!   that every namespace has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::words::few;
use portcullis_crds::convert::{self, Converted, Object};
use portcullis_crds::diagnostic::{About, Diagnostic, Origin, Severity};
use portcullis_crds::manifest::Manifest;
use portcullis_crds::path::FieldPath;

use crate::watch::Batch;

#[cfg(test)]
mod tests;

/// How many objects a message lists by name.
const LISTED: usize = 5;

/// The objects that a set of files defines.
#[derive(Default, Debug)]
pub struct DirState {
    files: BTreeMap<PathBuf, File>,
    /// Which files define an object; the last one is enforced.
    definers: BTreeMap<ObjectRef, BTreeSet<PathBuf>>,
    /// The enforced objects, as sent at the last flush.
    enforced: BTreeMap<ObjectRef, Change>,
    /// How many enforced objects each namespace contains.
    inhabitants: BTreeMap<Str, usize>,
    /// The diagnostics of each file, as sent at the last flush.
    reported: BTreeMap<PathBuf, Vec<Diagnostic>>,
    /// Objects whose definitions changed since the last flush.
    touched: BTreeSet<ObjectRef>,
    /// Files whose diagnostics may have changed since the last flush.
    to_report: BTreeSet<PathBuf>,
}

#[derive(Default, Debug)]
struct File {
    objects: BTreeMap<ObjectRef, Defined>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Clone, Debug)]
struct Defined {
    change: Change,
    origin: Origin,
}

impl DirState {
    /// Stores `text` as the current content of the file `path`.
    pub fn load(&mut self, path: &Path, text: &str) {
        if text.trim_start_matches('\u{feff}').trim().is_empty() {
            return self.unreadable(path, "it is empty; delete it if it defines nothing");
        }
        let name = path.to_string_lossy();
        let manifest = Manifest::parse(&name, text);
        let mut complete = manifest.is_whole();
        let lost = manifest.diagnostics.into_iter().map(unread).collect();
        let mut file = File { objects: BTreeMap::new(), diagnostics: lost };
        for document in &manifest.documents {
            let (converted, mut diagnostics) = convert::document(document);
            if matches!(converted, Converted::Unusable) {
                diagnostics = diagnostics.into_iter().map(unread).collect();
            }
            file.diagnostics.extend(diagnostics);
            match converted {
                Converted::Foreign { .. } => {}
                Converted::UnknownVersion(unknown) => {
                    let key = unknown.object;
                    let before = self.files.get(path).and_then(|file| file.objects.get(&key));
                    file.objects.extend(before.map(|defined| (key, defined.clone())));
                }
                Converted::Unusable => complete = false,
                Converted::Object(change) => {
                    file.define(Defined { change, origin: document.origin() });
                }
            }
        }
        if !complete {
            file.keep_missing(self.files.get(path), &name);
        }
        self.replace(path, Some(file));
    }

    /// Notes that `path` cannot be read: its objects stay.
    pub fn unreadable(&mut self, path: &Path, problem: &str) {
        let name = path.to_string_lossy();
        let mut file = File::default();
        let message = format!("{problem}; nothing of it is read");
        file.diagnostics.push(unread(whole_file(&name, Severity::Error, message)));
        file.keep_missing(self.files.get(path), &name);
        self.replace(path, Some(file));
    }

    /// Removes the file `path` and its objects.
    pub fn remove(&mut self, path: &Path) {
        if self.files.contains_key(path) {
            self.replace(path, None);
        }
    }

    /// The known files at or below `path`.
    #[must_use]
    pub fn paths_below(&self, path: &Path) -> Vec<PathBuf> {
        let from = self
            .files
            .range::<Path, _>((std::ops::Bound::Included(path), std::ops::Bound::Unbounded));
        let below = from.map(|(file, _)| file).take_while(|file| file.starts_with(path));
        below.cloned().collect()
    }

    /// The changes since the last flush.
    pub fn flush(&mut self) -> Batch {
        let mut changes = BTreeMap::new();
        // Objects first: whether a namespace is assumed depends on them.
        for key in std::mem::take(&mut self.touched) {
            if key.kind == Kind::Namespace {
                self.touched.insert(key);
            } else {
                self.settle(&key, &mut changes);
            }
        }
        for key in std::mem::take(&mut self.touched) {
            self.settle(&key, &mut changes);
        }
        let to_report = std::mem::take(&mut self.to_report);
        let diagnostics =
            to_report.iter().filter_map(|path| self.changed_diagnostics(path)).collect();
        Batch { changes: changes.into_values().map(Object::from).collect(), diagnostics }
    }

    fn replace(&mut self, path: &Path, file: Option<File>) {
        let before = match file {
            Some(file) => self.files.insert(path.to_owned(), file),
            None => self.files.remove(path),
        };
        self.to_report.insert(path.to_owned());
        for key in before.into_iter().flat_map(|file| file.objects.into_keys()) {
            if let Some(definers) = self.definers.get_mut(&key) {
                definers.remove(path);
                self.to_report.extend(definers.iter().cloned());
                if definers.is_empty() {
                    self.definers.remove(&key);
                }
            }
            self.touched.insert(key);
        }
        for key in self.files.get(path).into_iter().flat_map(|file| file.objects.keys()) {
            let definers = self.definers.entry(key.clone()).or_default();
            definers.insert(path.to_owned());
            self.to_report.extend(definers.iter().cloned());
            self.touched.insert(key.clone());
        }
    }

    /// Updates `enforced` for one object, and adds the change to `changes`.
    fn settle(&mut self, key: &ObjectRef, changes: &mut BTreeMap<ObjectRef, Change>) {
        let now = self.defined(key).map(|defined| defined.change.clone()).or_else(|| {
            let name = &key.name;
            let assumed = key.kind == Kind::Namespace && self.inhabitants.contains_key(name);
            let namespace =
                || Change::Namespace(name.clone(), Some(convert::assumed_namespace(name)));
            assumed.then(namespace)
        });
        if self.enforced.get(key) == now.as_ref() {
            return;
        }
        let before = match now.clone() {
            Some(change) => self.enforced.insert(key.clone(), change),
            None => self.enforced.remove(key),
        };
        if !key.namespace.is_empty() {
            self.count(&key.namespace, before.is_some(), now.is_some());
        }
        if let Some(change) = now.or_else(|| Change::removal(key.clone())) {
            changes.insert(key.clone(), change);
        }
    }

    fn count(&mut self, namespace: &Str, before: bool, now: bool) {
        let inhabitants = self.inhabitants.entry(namespace.clone()).or_default();
        *inhabitants = (*inhabitants + usize::from(now)).saturating_sub(usize::from(before));
        if *inhabitants == 0 {
            self.inhabitants.remove(namespace);
        }
        self.touched.insert(ObjectRef::cluster(Kind::Namespace, namespace.clone()));
    }

    fn defined(&self, key: &ObjectRef) -> Option<&Defined> {
        let path = self.definers.get(key)?.last()?;
        self.files.get(path)?.objects.get(key)
    }

    /// The diagnostics of a file, if they changed since the last flush.
    fn changed_diagnostics(&mut self, path: &Path) -> Option<(Arc<str>, Vec<Diagnostic>)> {
        let diagnostics = self.diagnostics(path);
        let before = if diagnostics.is_empty() {
            self.reported.remove(path)
        } else {
            self.reported.insert(path.to_owned(), diagnostics.clone())
        };
        let is_news = before.unwrap_or_default() != diagnostics;
        is_news.then(|| (path.to_string_lossy().into(), diagnostics))
    }

    fn diagnostics(&self, path: &Path) -> Vec<Diagnostic> {
        let Some(file) = self.files.get(path) else { return Vec::new() };
        let mut diagnostics = file.diagnostics.clone();
        for (key, own) in &file.objects {
            let Some(winner) = self.defined(key) else { continue };
            if winner.origin == own.origin {
                continue;
            }
            let same = winner.change == own.change;
            let effect = if same { "is the same as" } else { "is replaced by" };
            diagnostics.push(Diagnostic {
                severity: if same { Severity::Warning } else { Severity::Error },
                source: Some(own.origin.clone()),
                about: About::Object(key.clone()),
                field: FieldPath::default(),
                message: format!(
                    "this definition {effect} the one at {}, the last in path order; delete one",
                    winner.origin
                ),
            });
        }
        diagnostics
    }
}

impl File {
    fn define(&mut self, defined: Defined) {
        let key = defined.change.object();
        let origin = defined.origin.clone();
        if let Some(before) = self.objects.insert(key.clone(), defined) {
            self.diagnostics.push(Diagnostic {
                severity: Severity::Error,
                source: Some(before.origin),
                about: About::Object(key.clone()),
                field: FieldPath::default(),
                message: format!("this definition is replaced by the one at {origin}; delete one"),
            });
        }
    }

    /// Keeps the objects of the last complete content that the file does not define now.
    fn keep_missing(&mut self, before: Option<&File>, name: &str) {
        let mut kept = Vec::new();
        for (key, defined) in before.into_iter().flat_map(|file| &file.objects) {
            if !self.objects.contains_key(key) {
                kept.push(key.titled());
                self.objects.insert(key.clone(), defined.clone());
            }
        }
        if kept.is_empty() {
            return;
        }
        let message = format!(
            "until the file can be read as a whole, what it last defined stays enforced: {}",
            few(&kept, LISTED)
        );
        self.diagnostics.push(whole_file(name, Severity::Warning, message));
    }
}

/// Marks an error as unread: the unread part may be a pod of this node, or a policy for one.
fn unread(found: Diagnostic) -> Diagnostic {
    match found.severity {
        Severity::Error => Diagnostic { about: About::Unread(found.about.to_string()), ..found },
        Severity::Warning => found,
    }
}

fn whole_file(name: &str, severity: Severity, message: String) -> Diagnostic {
    let source = Some(Origin { file: name.into(), line: 1, column: 1 });
    Diagnostic { severity, source, about: About::nothing(), field: FieldPath::default(), message }
}
