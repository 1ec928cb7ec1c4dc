//! Manifests in files, directories and standard input.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, mem};

use anyhow::{Context, Result, anyhow, bail};
use portcullis_crds::diagnostic::{About, Diagnostic, Origin, Severity};
use portcullis_crds::manifest::{Document, Manifest, decode};
use portcullis_crds::path::FieldPath;

use super::documents::is_object;
use super::git;
use crate::args::Side;
use crate::model::Inventory;

/// How deep directories are followed, because links may form a cycle.
const MAX_DEPTH: usize = 32;

/// The name of standard input in diagnostics.
const STDIN: &str = "<stdin>";

/// How many bytes all files of one question may have.
const MAX_BYTES: u64 = 1 << 30;

/// Reads files into documents, and keeps their texts.
pub struct Reader {
    /// Whether a path without any object is an error.
    fail_on_empty: bool,
    /// How many bytes may still be read.
    budget: u64,
    /// The objects of the path that is read.
    documents: Vec<Document>,
    /// Documents that are not Kubernetes objects, by the place where they begin.
    pub others: Vec<Origin>,
    /// The text of each file.
    pub texts: BTreeMap<Arc<str>, String>,
    /// Diagnostics of texts that could not be read as YAML or JSON.
    pub diagnostics: Vec<Diagnostic>,
}

impl Reader {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new(fail_on_empty: bool) -> Self {
        Self {
            fail_on_empty,
            budget: MAX_BYTES,
            documents: Vec::new(),
            others: Vec::new(),
            texts: BTreeMap::new(),
            diagnostics: Vec::new(),
        }
    }

    /// Adds the objects of all `paths` in order. An object replaces an earlier one of its name.
    ///
    /// # Errors
    /// When a path cannot be read, or contains no object.
    pub fn read(
        &mut self,
        paths: &[PathBuf],
        namespace: &str,
        inventory: &mut Inventory,
    ) -> Result<()> {
        for path in paths {
            let documents = self.documents(&Side::Files(path.clone()))?;
            inventory.add_path(documents, namespace);
        }
        Ok(())
    }

    /// The objects of one path.
    ///
    /// # Errors
    /// When it cannot be read, or contains no object.
    pub fn documents(&mut self, side: &Side) -> Result<Vec<Document>> {
        let before = self.diagnostics.len();
        let contains = match side {
            Side::Files(path) => self.path(path)?,
            Side::Git { revision, path } => self.revision(side, revision, path)?,
        };
        let documents = mem::take(&mut self.documents);
        // A document that cannot be read is reported at its place.
        if self.fail_on_empty && documents.is_empty() && self.diagnostics.len() == before {
            bail!("{contains}. To allow this, set --fail-on-empty=false");
        }
        Ok(documents)
    }

    /// Reads one path; returns what to report if there was no object.
    fn path(&mut self, path: &Path) -> Result<String> {
        if path == Path::new("-") {
            let bytes = self.all(STDIN, std::io::stdin().lock())?;
            self.add(STDIN, bytes)?;
            return Ok(
                "standard input contains no Kubernetes object. Check that the command which \
                       writes it succeeded (in bash, `set -o pipefail` reports its failure)"
                    .to_owned(),
            );
        }
        let metadata =
            fs::metadata(path).with_context(|| format!("failed to read {}", path.display()))?;
        let shown = path.display();
        if !metadata.is_dir() {
            self.file(path)?;
            return Ok(format!(
                "{shown} contains no Kubernetes object. Check the program that wrote it"
            ));
        }
        let mut found = Vec::new();
        search(path, 0, &mut found)?;
        for file in &found {
            self.file(file)?;
        }
        Ok(nothing_in(&shown, found.len()))
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let name = path.to_string_lossy();
        let file = fs::File::open(path).with_context(|| format!("failed to read {name}"))?;
        let bytes = self.all(&name, file)?;
        self.add(&name, bytes)
    }

    /// Reads the files of a git revision; returns what to report if there was no object.
    fn revision(&mut self, side: &Side, revision: &str, path: &str) -> Result<String> {
        let wanted = git::Wanted::new(path);
        let found = git::read(revision, path, self.budget, |file| wanted.holds(file))?;
        let name = |path: &str| format!("git:{revision}:{path}");
        for skipped in &found.skipped {
            let message = "is a symbolic link or a submodule, which is not read from a revision; name \
                           the path that it stands for";
            self.lose(&name(skipped), message);
        }
        let count = found.files.len();
        for git::File { path, bytes } in found.files {
            self.spend(&name(&path), bytes.len() as u64)?;
            self.add(&name(&path), bytes)?;
        }
        Ok(nothing_in(side, count))
    }

    /// Everything that `source` holds, within the budget.
    fn all(&mut self, name: &str, source: impl std::io::Read) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut source = source.take(self.budget.saturating_add(1));
        source.read_to_end(&mut bytes).with_context(|| format!("failed to read {name}"))?;
        self.spend(name, bytes.len() as u64)?;
        Ok(bytes)
    }

    fn spend(&mut self, name: &str, bytes: u64) -> Result<()> {
        self.budget = self.budget.checked_sub(bytes).with_context(|| {
            format!(
                "{name}: all files together have more than {MAX_BYTES} bytes; name fewer files, or \
                 make them smaller with `kubectl whatif snapshot`"
            )
        })?;
        Ok(())
    }

    fn add(&mut self, file: &str, bytes: Vec<u8>) -> Result<()> {
        let text = decode(bytes);
        let manifest = Manifest::parse_large(file, &text).map_err(|error| anyhow!("{error}"))?;
        self.diagnostics.extend(manifest.diagnostics);
        for document in manifest.documents {
            if is_object(&document) {
                self.documents.push(document);
            } else {
                self.others.push(document.origin());
            }
        }
        self.texts.insert(file.into(), text);
        Ok(())
    }

    fn lose(&mut self, file: &str, message: &str) {
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            source: Some(Origin { file: file.into(), line: 1, column: 1 }),
            about: About::nothing(),
            field: FieldPath::default(),
            message: message.to_owned(),
        });
    }
}

/// The message that `count` files of a directory contain no object.
fn nothing_in(directory: &impl Display, count: usize) -> String {
    let files = if count == 1 { "file" } else { "files" };
    match count {
        0 => format!("{directory} contains no file that ends in .yaml, .yml or .json"),
        _ => format!(
            "{directory} contains no Kubernetes object in {count} {files}. Check the path, and the \
             program that wrote it"
        ),
    }
}

/// The text of one file, or of standard input for `-`, and its name in diagnostics.
///
/// # Errors
/// When it cannot be read.
pub fn text(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        return Ok((STDIN.to_owned(), stdin()?));
    }
    let failed = || format!("failed to read {}", path.display());
    let bytes = fs::read(path).with_context(failed)?;
    Ok((path.to_string_lossy().into_owned(), decode(bytes)))
}

fn stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("failed to read standard input")?;
    Ok(decode(bytes))
}

/// Writes a file.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// All manifests below a directory, by name. Hidden files and what kustomize reads are left out.
fn search(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || format!("failed to list {}", directory.display());
    if depth > MAX_DEPTH {
        bail!("{}: more than {MAX_DEPTH} directories deep", directory.display());
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(failed)?;
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            search(&path, depth + 1, found)?;
        } else if is_manifest(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether a file of a directory is read, by its name.
pub(super) fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["yaml", "yml", "json"].contains(&ending)
        && path.file_stem() != Some(OsStr::new("kustomization"))
}
