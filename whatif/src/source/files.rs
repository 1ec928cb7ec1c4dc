//! Manifests in files, directories and standard input.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use portcullis_crds::diagnostic::{About, Diagnostic, Origin, Severity};
use portcullis_crds::manifest::Manifest;
use portcullis_crds::path::FieldPath;

use super::documents::is_object;
use crate::model::Inventory;

/// How deep directories are followed: links may lead in circles.
const MAX_DEPTH: usize = 32;

/// How standard input is called in diagnostics.
const STDIN: &str = "<stdin>";

/// Reads files into inventories, and keeps their texts.
pub struct Reader<'a> {
    default_namespace: &'a str,
    /// Whether a path without any object is an error.
    fail_on_empty: bool,
    /// How many objects were read, also those that cannot be understood.
    objects: usize,
    /// Documents that are not Kubernetes objects, by the place where they begin.
    pub others: Vec<Origin>,
    /// What each file holds.
    pub texts: BTreeMap<Arc<str>, String>,
    /// What could not be read as YAML or JSON.
    pub diagnostics: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new(default_namespace: &'a str, fail_on_empty: bool) -> Self {
        Self {
            default_namespace,
            fail_on_empty,
            objects: 0,
            others: Vec::new(),
            texts: BTreeMap::new(),
            diagnostics: Vec::new(),
        }
    }

    /// Adds the objects of all `paths` in order; of two with one name the later stays.
    ///
    /// # Errors
    /// When a path cannot be read, or contains no object.
    pub fn read(&mut self, paths: &[PathBuf], inventory: &mut Inventory) -> Result<()> {
        for path in paths {
            inventory.begin_path();
            let before = (self.objects, self.diagnostics.len());
            let contains = self.path(path, inventory)?;
            // What cannot be read is reported where it is written.
            if self.fail_on_empty && before == (self.objects, self.diagnostics.len()) {
                bail!("{contains}. To allow this, set --fail-on-empty=false");
            }
        }
        Ok(())
    }

    /// Reads one path; returns what to report if there was no object.
    fn path(&mut self, path: &Path, inventory: &mut Inventory) -> Result<String> {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
            self.add(STDIN, text, inventory);
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
            self.file(path, inventory)?;
            return Ok(format!(
                "{shown} contains no Kubernetes object. Check the program that wrote it"
            ));
        }
        let mut found = Vec::new();
        search(path, 0, &mut found)?;
        if found.is_empty() {
            return Ok(format!("{shown} contains no file that ends in .yaml, .yml or .json"));
        }
        let count = found.len();
        for file in found {
            self.file(&file, inventory)?;
        }
        let files = if count == 1 { "file" } else { "files" };
        Ok(format!(
            "{shown} contains no Kubernetes object in {count} {files}. Check the path, and the \
             program that wrote it"
        ))
    }

    fn file(&mut self, path: &Path, inventory: &mut Inventory) -> Result<()> {
        let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        let name = path.to_string_lossy();
        match String::from_utf8(bytes) {
            Ok(text) => self.add(&name, text, inventory),
            Err(_) => self.diagnostics.push(Diagnostic {
                severity: Severity::Error,
                source: Some(Origin { file: name.as_ref().into(), line: 1, column: 1 }),
                about: About::nothing(),
                field: FieldPath::default(),
                message: "is not UTF-8 text; nothing in this file is read".to_owned(),
            }),
        }
        Ok(())
    }

    fn add(&mut self, file: &str, text: String, inventory: &mut Inventory) {
        let manifest = Manifest::parse(file, &text);
        self.diagnostics.extend(manifest.diagnostics);
        for document in manifest.documents {
            if !is_object(&document) {
                self.others.push(document.origin());
                continue;
            }
            self.objects += 1;
            inventory.add_document(document, self.default_namespace);
        }
        self.texts.insert(file.into(), text);
    }
}

/// The text of one file, or of standard input for `-`, and what diagnostics call it.
///
/// # Errors
/// When it cannot be read.
pub fn text(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin());
        return Ok((STDIN.to_owned(), text.context("failed to read standard input")?));
    }
    let failed = || format!("failed to read {}", path.display());
    Ok((path.to_string_lossy().into_owned(), fs::read_to_string(path).with_context(failed)?))
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
        } else if is_manifest(&path) && path.file_stem() != Some(OsStr::new("kustomization")) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["yaml", "yml", "json"].contains(&ending)
}
