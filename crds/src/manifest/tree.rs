//! One YAML document → a JSON value and the places of its fields, within limits.
//!
//! The parser yields events and does not recurse; this builder does, to [`MAX_DEPTH`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::mark::{Inner, Mark, Place};
use super::scalar::{self, Resolved};
use crate::yaml::{Event, EventKind, Parser, Spot, YamlError};

/// How deep a document may nest. Objects of the kinds we read nest less than 20 levels. Every
/// function that visits a value recurses, so this limit protects the agent's stack.
pub(super) const MAX_DEPTH: usize = 100;

/// How many nodes the aliases of one document may copy: the limit against a "billion laughs".
pub(super) const MAX_ALIASED_NODES: usize = 100_000;

const MERGE_TAG: &str = "tag:yaml.org,2002:merge";

/// The reason why a document could not be read.
#[derive(Clone, Debug)]
pub(super) struct TreeError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) mark: Mark,
    /// Why JSON has no such value. It is no error if a later field of the same name replaces it.
    pub(super) refused: Option<Box<TreeError>>,
}

impl Tree {
    /// A value that JSON has.
    pub(super) fn new(value: Value, mark: Mark) -> Self {
        Self { value, mark, refused: None }
    }
}

/// The content of a text.
#[derive(Debug)]
pub(super) struct Read {
    /// The first document; `None` if it is empty.
    pub(super) tree: Option<Tree>,
    /// The place where a second document begins, which kubectl does not read.
    pub(super) unread: Option<Place>,
}

/// Reads the first document of `text`.
///
/// # Errors
/// When Go's YAML package rejects it, or it exceeds a limit.
pub(super) fn read(text: &str) -> Result<Read, TreeError> {
    let mut reader = Reader {
        parser: Parser::new(text)?,
        anchors: HashMap::new(),
        nodes: 0,
        copied: 0,
        aliased: 0,
    };
    let mut read = Read { tree: None, unread: None };
    let first = reader.next()?;
    if first.kind != EventKind::DocumentStart {
        return Ok(read);
    }
    let content = reader.next()?;
    let tree = reader.node(content, 0)?.tree;
    if let Some(refused) = tree.refused {
        return Err(*refused);
    }
    read.tree = (!tree.value.is_null()).then_some(tree);
    reader.next()?;
    read.unread = match reader.next() {
        Ok(Event { kind: EventKind::StreamEnd, .. }) => None,
        Ok(event) => Some(place(event.spot)),
        Err(error) => Some(error.place),
    };
    Ok(read)
}

struct Reader<'text> {
    parser: Parser<'text>,
    anchors: HashMap<String, Anchored>,
    /// The number of nodes that were read, including those of aliases.
    nodes: usize,
    /// The number of these nodes that came from aliases.
    aliased: usize,
    /// How many nodes were copied for anchors and aliases.
    copied: usize,
}

/// The node with an anchor.
enum Anchored {
    /// The node with this number is not complete yet.
    Open(usize),
    Node(Built),
}

#[derive(Clone)]
struct Built {
    tree: Tree,
    /// The number of levels below this node.
    height: usize,
    /// The number of nodes, including this one.
    nodes: usize,
}

/// A key of a mapping.
enum Key {
    Merge,
    Text(String),
}

impl<'text> Reader<'text> {
    fn next(&mut self) -> Result<Event<'text>, TreeError> {
        Ok(self.parser.next_event()?)
    }

    fn node(&mut self, event: Event<'text>, depth: usize) -> Result<Built, TreeError> {
        let spot = event.spot;
        if depth > MAX_DEPTH {
            return Err(too_deep(spot));
        }
        let before = self.nodes;
        self.count_node(spot)?;
        let (anchor, tree, height) = match event.kind {
            EventKind::Alias(name) => return self.alias(&name, spot, depth),
            EventKind::Scalar { text, anchor, tag, plain } => {
                let resolved = resolve(tag.as_deref(), &text, plain);
                let resolved = resolved.map_err(|message| error(spot, message))?;
                let (value, refused) = match resolved.into_value(text) {
                    Ok(value) => (value, None),
                    // Not null, because a document with only this value is not empty.
                    Err(message) => (false.into(), Some(Box::new(error(spot, message)))),
                };
                (anchor, Tree { value, mark: Mark::leaf(place(spot)), refused }, 0)
            }
            EventKind::SequenceStart { anchor } => {
                self.open(anchor.as_deref(), before);
                let (tree, height) = self.sequence(spot, depth)?;
                (anchor, tree, height)
            }
            EventKind::MappingStart { anchor } => {
                self.open(anchor.as_deref(), before);
                let (tree, height) = self.mapping(spot, depth)?;
                (anchor, tree, height)
            }
            _ => return Err(error(spot, "a value is missing")),
        };
        let is_collection = !matches!(tree.mark.inner, Inner::Leaf);
        let built = Built { tree, height, nodes: self.nodes - before };
        if let Some(name) = anchor {
            // The name may have been defined again inside the node.
            let stays = is_collection
                && !matches!(self.anchors.get(&*name), Some(Anchored::Open(n)) if *n == before);
            if !stays {
                self.count_copy(built.nodes, spot)?;
                self.anchors.insert(name.into_owned(), Anchored::Node(built.clone()));
            }
        }
        Ok(built)
    }

    fn open(&mut self, anchor: Option<&str>, number: usize) {
        if let Some(name) = anchor {
            self.anchors.insert(name.to_owned(), Anchored::Open(number));
        }
    }

    fn alias(&mut self, name: &str, spot: Spot, depth: usize) -> Result<Built, TreeError> {
        let mut built = match self.anchors.get(name) {
            None => {
                return Err(error(spot, format!("there is no anchor `&{name}` before `*{name}`")));
            }
            Some(Anchored::Open(_)) => {
                return Err(error(spot, "an alias stands inside the node that it names"));
            }
            Some(Anchored::Node(target)) if depth + target.height > MAX_DEPTH => {
                return Err(too_deep(spot));
            }
            Some(Anchored::Node(target)) => {
                let nodes = target.nodes;
                self.copied += nodes;
                check_copies(self.copied, spot)?;
                target.clone()
            }
        };
        self.aliased += built.nodes;
        self.nodes += built.nodes;
        self.check_ratio(spot)?;
        built.nodes += 1;
        built.tree.mark.place = place(spot);
        Ok(built)
    }

    fn count_node(&mut self, spot: Spot) -> Result<(), TreeError> {
        self.nodes += 1;
        self.check_ratio(spot)
    }

    /// As `unmarshal` in Go's `decode.go`, for documents within our limit.
    fn check_ratio(&self, spot: Spot) -> Result<(), TreeError> {
        // More than 99 % of the nodes.
        let excessive = self.aliased > 100 && self.nodes > 1000;
        if excessive && self.aliased * 100 > self.nodes * 99 {
            return Err(error(spot, "the document contains excessive aliasing"));
        }
        Ok(())
    }

    fn count_copy(&mut self, nodes: usize, spot: Spot) -> Result<(), TreeError> {
        self.copied += nodes;
        check_copies(self.copied, spot)
    }

    fn sequence(&mut self, start: Spot, depth: usize) -> Result<(Tree, usize), TreeError> {
        let (mut values, mut marks, mut height) = (Vec::new(), Vec::new(), 0);
        let mut refused = None;
        loop {
            let event = self.next()?;
            if event.kind == EventKind::SequenceEnd {
                let mark = Mark { place: place(start), inner: Inner::Items(marks) };
                return Ok((Tree { value: Value::Array(values), mark, refused }, height));
            }
            let item = self.node(event, depth + 1)?;
            height = height.max(item.height + 1);
            refused = refused.or(item.tree.refused);
            values.push(item.tree.value);
            marks.push(item.tree.mark);
        }
    }

    fn mapping(&mut self, start: Spot, depth: usize) -> Result<(Tree, usize), TreeError> {
        let mut mapping = Mapping::default();
        let mut height = 0;
        loop {
            let event = self.next()?;
            if event.kind == EventKind::MappingEnd {
                return Ok((mapping.finish(place(start)), height));
            }
            let at = event.spot;
            let key = self.key(event, depth)?;
            let value = self.next()?;
            match key {
                Key::Text(key) => {
                    let value = self.node(value, depth + 1)?;
                    height = height.max(value.height + 1);
                    mapping.insert(key, place(at), value.tree);
                }
                Key::Merge => {
                    let spot = value.spot;
                    let allows_list = matches!(value.kind, EventKind::SequenceStart { .. });
                    let value = self.node(value, depth + 1)?;
                    height = height.max(value.height + 1);
                    mapping.merge(value.tree, allows_list, spot)?;
                }
            }
        }
    }

    fn key(&mut self, event: Event<'text>, depth: usize) -> Result<Key, TreeError> {
        let spot = event.spot;
        let wrong = |message| error(spot, message);
        match event.kind {
            EventKind::Scalar { text, anchor: None, tag, plain } => {
                if text == "<<" && (plain || tag.as_deref() == Some(MERGE_TAG)) {
                    return Ok(Key::Merge);
                }
                self.count_node(spot)?;
                let resolved = resolve(tag.as_deref(), &text, plain).map_err(|m| error(spot, m))?;
                Ok(Key::Text(resolved.into_key(text).map_err(wrong)?))
            }
            kind => {
                // A merge key may have an anchor.
                let is_merge = matches!(&kind, EventKind::Scalar { text, tag, plain, .. }
                    if text == "<<" && (*plain || tag.as_deref() == Some(MERGE_TAG)));
                let Tree { value: key, refused, .. } =
                    self.node(Event { spot, kind }, depth + 1)?.tree;
                if let Some(refused) = refused {
                    return Err(*refused);
                }
                if is_merge { Ok(Key::Merge) } else { key_of(key).map(Key::Text).map_err(wrong) }
            }
        }
    }
}

/// A mapping while it is read.
#[derive(Default)]
struct Mapping {
    values: Map<String, Value>,
    fields: BTreeMap<Box<str>, (Place, Mark)>,
    repeated: Vec<(Box<str>, Place)>,
    /// The keys that the mapping has by `<<` only.
    merged: BTreeSet<Box<str>>,
    /// The keys whose values JSON cannot represent.
    refused: BTreeMap<Box<str>, Box<TreeError>>,
}

impl Mapping {
    /// Of two equal keys, the value of the later one counts, as in kubectl.
    fn insert(&mut self, key: String, at: Place, tree: Tree) {
        let name: Box<str> = key.as_str().into();
        self.values.insert(key, tree.value);
        match tree.refused {
            Some(refused) => self.refused.insert(name.clone(), refused),
            None => self.refused.remove(&name),
        };
        match self.fields.entry(name) {
            Entry::Vacant(entry) => drop(entry.insert((at, tree.mark))),
            Entry::Occupied(mut entry) => {
                if !self.merged.remove(entry.key()) {
                    self.repeated.push((entry.key().clone(), at));
                }
                entry.insert((at, tree.mark));
            }
        }
    }

    /// Merges the mappings of `<<` at its place: they replace keys above it, and keys below replace
    /// them. In YAML, keys above would win too; in kubectl (go.yaml.in/yaml/v2) they do not.
    fn merge(&mut self, tree: Tree, allows_list: bool, spot: Spot) -> Result<(), TreeError> {
        if let Some(refused) = tree.refused {
            return Err(*refused);
        }
        match (tree.value, tree.mark.inner) {
            (Value::Object(values), Inner::Fields { fields, .. }) => {
                let new = fields.keys().filter(|key| !self.fields.contains_key(*key));
                self.merged.extend(new.cloned());
                self.refused.retain(|key, _| !fields.contains_key(key));
                self.values.extend(values);
                self.fields.extend(fields);
                Ok(())
            }
            (Value::Array(values), Inner::Items(marks)) if allows_list => {
                // The first mapping has precedence.
                let mut items = values.into_iter().zip(marks).rev();
                items.try_for_each(|(value, mark)| self.merge(Tree::new(value, mark), false, spot))
            }
            _ => Err(error(spot, "`<<` wants a mapping or a list of mappings")),
        }
    }

    fn finish(self, start: Place) -> Tree {
        let inner = Inner::Fields { fields: self.fields, repeated: self.repeated };
        let refused = self.refused.into_values().next();
        Tree { value: Value::Object(self.values), mark: Mark { place: start, inner }, refused }
    }
}

fn resolve(tag: Option<&str>, text: &str, plain: bool) -> Result<Resolved, String> {
    if tag.is_none() && !plain { Ok(Resolved::Text) } else { scalar::resolve(tag, text) }
}

/// The key of an alias or of a scalar with an anchor.
fn key_of(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(value) => Resolved::Bool(value).into_key(""),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Resolved::Int(number).into_key(""),
            (_, None, Some(number)) => Resolved::Float(number).into_key(""),
            _ => Resolved::Null.into_key(""),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => Resolved::Null.into_key(""),
    }
}

fn check_copies(copied: usize, spot: Spot) -> Result<(), TreeError> {
    if copied <= MAX_ALIASED_NODES {
        return Ok(());
    }
    Err(error(spot, format!("its aliases expand to more than {MAX_ALIASED_NODES} nodes")))
}

fn too_deep(spot: Spot) -> TreeError {
    error(spot, format!("it nests more than {MAX_DEPTH} levels deep"))
}

fn error(spot: Spot, message: impl Into<String>) -> TreeError {
    TreeError { place: place(spot), message: message.into() }
}

fn place(spot: Spot) -> Place {
    Place { line: spot.line + 1, column: spot.column + 1 }
}

impl From<YamlError> for TreeError {
    fn from(problem: YamlError) -> Self {
        error(problem.spot, problem.message)
    }
}
