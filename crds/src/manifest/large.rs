//! Files of any size: the items of a large List are read one at a time, and objects that are not
//! policies are reduced to the parts that answers depend on.
//!
//! So `kubectl get pods -A -o json` of a cluster with many pods takes little more memory than its
//! text. All fields of such an object have the place where the object begins.

use std::sync::Arc;

use policy_engine::object::Kind;
use serde_json::{Value, json};

use super::items::{Piece, Pieces, split};
use super::json::Places;
use super::mark::{Mark, Place};
use super::stream::{self, Content};
use super::tree::{self, Tree, TreeError};
use super::{Document, MAX_DOCUMENT_BYTES, Manifest};
use crate::diagnostic::{About, Diagnostic, Origin, Severity};
use crate::lean;
use crate::path::FieldPath;

/// A List with more bytes is read one item at a time.
const WHOLE_BYTES: usize = 4 << 20;

/// The last column up to which the column of an item in JSON is exact.
const MAX_COLUMN: usize = 400;

impl Manifest {
    /// Reads YAML or JSON `text` as [`Manifest::parse`] does, but of any size if it consists of Lists.
    ///
    /// # Errors
    /// When a part is too large to be read and is not a List, because its objects are not known.
    pub fn parse_large(file: &str, text: &str) -> Result<Self, Box<Diagnostic>> {
        Self::parse_in_pieces(file, text, WHOLE_BYTES)
    }

    /// As [`Manifest::parse_large`], with the size above which Lists are split.
    fn parse_in_pieces(
        file: &str,
        text: &str,
        whole_bytes: usize,
    ) -> Result<Self, Box<Diagnostic>> {
        let file: Arc<str> = file.into();
        let mut manifest = Self { documents: Vec::new(), diagnostics: Vec::new() };
        for part in stream::parts(text.strip_prefix('\u{feff}').unwrap_or(text)) {
            let (first_line, text) = match &part.content {
                Content::Json(text) => (part.first_line, *text),
                Content::Yaml(text) => (part.first_line, &**text),
                Content::Refused { .. } => (part.first_line, ""),
            };
            let pieces = if text.len() > whole_bytes { split(text) } else { None };
            let list = pieces.and_then(|pieces| Some((list(&pieces)?, pieces)));
            if let Some(((kind, api_version), pieces)) = list {
                for piece in &pieces.items {
                    manifest.piece(&file, first_line, text, piece, (&kind, &api_version))?;
                }
                continue;
            }
            if text.len() > MAX_DOCUMENT_BYTES {
                return Err(Box::new(too_large(&file, first_line + 1, text.len())));
            }
            manifest.read(&file, &part);
        }
        Ok(manifest)
    }

    /// Reads one item of a List of `kind` and `api_version`.
    fn piece(
        &mut self,
        file: &Arc<str>,
        first_line: usize,
        part: &str,
        piece: &Piece,
        (kind, api_version): (&str, &Value),
    ) -> Result<(), Box<Diagnostic>> {
        let first_line = first_line + piece.lines_above;
        let text = part.get(piece.range.clone()).unwrap_or_default();
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(Box::new(too_large(file, first_line + 1, text.len())));
        }
        let Tree { mut value, mut mark, .. } = match read(text, piece) {
            Ok(Some(tree)) => tree,
            Ok(None) => return Ok(()),
            Err(TreeError { place, message }) => {
                let line = first_line + place.line;
                let message = format!("{message}; nothing in this item is read");
                self.lose(file, Place { line, ..place }, message);
                return Ok(());
            }
        };
        if let (Value::Object(fields), false) = (&mut value, kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| kind.into());
            fields.entry("apiVersion").or_insert_with(|| api_version.clone());
        }
        if let Some(kept) = kept(&value) {
            (value, mark) = (kept, Mark::leaf(mark.place));
        }
        let places = Places::Known(mark);
        self.push(Document::new(file, value, places, first_line));
        Ok(())
    }
}

/// The kind of the items and the `apiVersion` of a List; `None` for everything else that has items.
fn list(pieces: &Pieces) -> Option<(String, Value)> {
    let Tree { value, .. } = tree::read(&pieces.frame).ok()?.tree?;
    let kind = value.get("kind")?.as_str()?.strip_suffix("List")?;
    Some((kind.to_owned(), value.get("apiVersion").cloned().unwrap_or_default()))
}

/// The item, with the places of its fields in lines of the file.
fn read(text: &str, piece: &Piece) -> Result<Option<Tree>, TreeError> {
    if piece.is_block {
        return Ok(tree::read(&text.replacen('-', " ", 1))?.tree);
    }
    let column = if piece.column > MAX_COLUMN { 0 } else { piece.column };
    let place = Place { line: 1, column: column + 1 };
    let value: Option<Value> = serde_json::from_str(text).ok();
    match value {
        // The places of its fields are not needed.
        Some(value) if kept(&value).is_some() => Ok(Some(Tree::new(value, Mark::leaf(place)))),
        value => match tree::read(&(" ".repeat(column) + text)) {
            Ok(read) => Ok(read.tree),
            Err(error) => {
                let value = value.ok_or(error)?;
                Ok(Some(Tree::new(value, Mark::leaf(place))))
            }
        },
    }
}

/// The parts of an object that are kept, if it is not a policy; `None` for a policy, a List, and a
/// value that is not an object.
fn kept(value: &Value) -> Option<Value> {
    let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
    let (api_version, kind) = (text("/apiVersion")?, text("/kind")?);
    match Kind::parse(kind) {
        Some(kind) if !kind.is_policy() => lean::snapshot(value).or_else(|| {
            Some(
                json!({"apiVersion": api_version, "kind": kind.as_str(), "metadata": name(value)?}),
            )
        }),
        // A warning prints the names of policies of other projects.
        None if Kind::from_word(kind).is_none() && !kind.ends_with("List") => {
            Some(json!({"apiVersion": api_version, "kind": kind, "metadata": name(value)?}))
        }
        _ => None,
    }
}

fn name(value: &Value) -> Option<Value> {
    let metadata = value.get("metadata")?.as_object()?;
    let kept = ["name", "namespace"].into_iter();
    Some(kept.filter_map(|key| Some((key.to_owned(), metadata.get(key)?.clone()))).collect())
}

fn too_large(file: &Arc<str>, line: usize, bytes: usize) -> Diagnostic {
    let message = format!(
        "the object has {bytes} bytes; an object that is not a List may have at most \
         {MAX_DOCUMENT_BYTES}, and so may each item of a List; split it, or make it smaller with \
         `kubectl whatif snapshot`"
    );
    Diagnostic {
        severity: Severity::Error,
        source: Some(Origin { file: Arc::clone(file), line, column: 1 }),
        about: About::nothing(),
        field: FieldPath::default(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::inventory::item;

    const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a",
        "labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "env": [{"name": "X"}],
        "ports": [{"name": "http", "containerPort": 80}]}]}, "status": {"podIP": "10.0.0.1"}}"#;
    const POLICY: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
      "metadata": {"name": "p"}, "spec": {"podSelector": {}, "ingress": [{"ports":
      [{"port": "80"}]}]}}"#;

    /// The meaning of the objects of a file, and the diagnostics.
    fn meaning(manifest: &Manifest) -> Vec<String> {
        let items = manifest.documents.iter().map(|document| {
            let (item, diagnostics) = item(document.value(), Some(document), "default");
            let diagnostics: Vec<_> = diagnostics.iter().map(ToString::to_string).collect();
            format!("{} {item:?} {diagnostics:?}", document.origin())
        });
        items.collect()
    }

    #[track_caller]
    fn check(text: &str) {
        let whole = Manifest::parse("f", text);
        let pieces = Manifest::parse_in_pieces("f", text, 0).expect("small");
        assert_eq!(meaning(&pieces), meaning(&whole), "{text}");
        assert_eq!(pieces.diagnostics, whole.diagnostics);
        assert!(!whole.documents.is_empty());
    }

    #[test]
    fn a_list_means_the_same_in_pieces() {
        let other = r#"{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "o"}}"#;
        let nested = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{POD}]}}"#);
        let json = format!(
            "# a comment\n---\n{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n  {POD},\n {POLICY}, \
             {other}, {nested}], \"metadata\": {{}}}}\n"
        );
        check(&json);
        check(&json.replace("- - -", "---").repeat(2));
        let kindless = POD.replace(r#""apiVersion": "v1", "kind": "Pod", "#, "");
        check(&format!(r#"{{"kind": "PodList", "apiVersion": "v1", "items": [{kindless}]}}"#));
        check(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n\
             - kind: NetworkPolicy\n  apiVersion: networking.k8s.io/v1\n  metadata:\n    name: p\n  spec:\n    \
             podSelector: {}\n    ingress:\n    - ports:\n      - port: '80'\nmetadata: {}\n",
        );
        check("kind: Other\nitems:\n- a\n");
    }

    #[test]
    fn an_item_that_cannot_be_read_costs_the_others_nothing() {
        let text = "kind: List\nitems:\n- {a: [}\n- {kind: Pod, metadata: {name: b}}\n";
        let manifest = Manifest::parse_in_pieces("f", text, 0).expect("small");
        assert_eq!(manifest.documents.len(), 1);
        let errors: Vec<String> = manifest.diagnostics.iter().map(ToString::to_string).collect();
        assert!(
            errors[0].starts_with("f:3:") && errors[0].ends_with("in this item is read"),
            "{errors:?}"
        );
    }

    #[test]
    fn an_object_without_end_is_refused() {
        let text = format!("# {}\na: 1\n", "x".repeat(MAX_DOCUMENT_BYTES));
        let error = Manifest::parse_large("f", &text).expect_err("too large").to_string();
        assert!(error.starts_with("f:1:1: error: the object has 335"), "{error}");
    }
}
