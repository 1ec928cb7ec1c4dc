//! One YAML document → a JSON value and the places of its fields, within limits.
//!
//! The parser yields events and does not recurse; this builder does, to [`MAX_DEPTH`].

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::mark::{Inner, Mark, Place};
use super::scalar;

/// How deep a document may nest. Objects of the kinds we read nest less than 20 levels; every
/// walk over a value recurses, so this is what keeps an agent's stack.
pub(super) const MAX_DEPTH: usize = 100;

/// How many nodes the aliases of one document may copy: a "billion laughs" ends here.
pub(super) const MAX_ALIASED_NODES: usize = 100_000;

/// Why a document could not be read.
#[derive(Debug)]
pub(super) struct TreeError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// A value and where it is written.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) mark: Mark,
}

/// Reads the one document of `text`; `None` when it is empty.
///
/// # Errors
/// When it is not YAML, holds more than one document, or goes over a limit.
pub(super) fn read(text: &str) -> Result<Option<Tree>, TreeError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        aliased: 0,
    };
    let mut tree = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(tree),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if tree.is_some() => {
                return Err(error(span.start, "a second document begins without a line `---`"));
            }
            event => {
                let built = reader.node(event, span, 0)?;
                tree = (!built.tree.value.is_null()).then_some(built.tree);
            }
        }
    }
}

struct Reader<'input> {
    parser: Parser<'input, StrInput<'input>>,
    anchors: HashMap<usize, Built>,
    nodes: usize,
    aliased: usize,
}

#[derive(Clone)]
struct Built {
    tree: Tree,
    /// Levels below this node.
    height: usize,
    /// Nodes, this one included.
    nodes: usize,
}

impl<'input> Reader<'input> {
    fn next(&mut self) -> Result<(Event<'input>, Span), TreeError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(problem)) => Err(error(*problem.marker(), problem.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Built, TreeError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(span.start));
        }
        let before = self.nodes;
        self.nodes += 1;
        let (anchor, tree, height) = match event {
            Event::Alias(id) => return self.alias(id, span, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar_value(&text, style, tag.as_deref(), span)?;
                (anchor, Tree { value, mark: Mark::leaf(place(span.start)) }, 0)
            }
            Event::SequenceStart(anchor, _) => {
                let (tree, height) = self.sequence(span, depth)?;
                (anchor, tree, height)
            }
            Event::MappingStart(anchor, _) => {
                let (tree, height) = self.mapping(span, depth)?;
                (anchor, tree, height)
            }
            _ => return Err(error(span.start, "a value is missing")),
        };
        let built = Built { tree, height, nodes: self.nodes - before };
        if anchor > 0 {
            self.count_copy(built.nodes, span)?;
            self.anchors.insert(anchor, built.clone());
        }
        Ok(built)
    }

    fn alias(&mut self, id: usize, span: Span, depth: usize) -> Result<Built, TreeError> {
        let Some(target) = self.anchors.get(&id) else {
            return Err(error(span.start, "an alias stands inside the node that it names"));
        };
        if depth + target.height > MAX_DEPTH {
            return Err(too_deep(span.start));
        }
        let nodes = target.nodes;
        self.count_copy(nodes, span)?;
        self.nodes += nodes;
        let mut built = self.anchors.get(&id).cloned().ok_or_else(|| too_deep(span.start))?;
        built.tree.mark.place = place(span.start);
        Ok(built)
    }

    fn count_copy(&mut self, nodes: usize, span: Span) -> Result<(), TreeError> {
        self.aliased += nodes;
        if self.aliased > MAX_ALIASED_NODES {
            let message = format!("its aliases expand to more than {MAX_ALIASED_NODES} nodes");
            return Err(error(span.start, &message));
        }
        Ok(())
    }

    fn sequence(&mut self, start: Span, depth: usize) -> Result<(Tree, usize), TreeError> {
        let (mut values, mut marks, mut height) = (Vec::new(), Vec::new(), 0);
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                let mark = Mark { place: place(start.start), inner: Inner::Items(marks) };
                return Ok((Tree { value: Value::Array(values), mark }, height));
            }
            let item = self.node(event, span, depth + 1)?;
            height = height.max(item.height + 1);
            values.push(item.tree.value);
            marks.push(item.tree.mark);
        }
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<(Tree, usize), TreeError> {
        let mut mapping = Mapping::default();
        let mut height = 0;
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok((mapping.finish(place(start.start)), height));
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            height = height.max(value.height + 1);
            if is_merge {
                mapping.merge(value.tree, value_span)?;
            } else {
                mapping.insert(key_text(key.tree.value, span)?, place(span.start), value.tree);
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
    /// What `<<` brought, the strongest first.
    merged: Vec<Tree>,
}

impl Mapping {
    /// Of two equal keys the later one is in the value, as in kubectl.
    fn insert(&mut self, key: String, at: Place, tree: Tree) {
        let name: Box<str> = key.as_str().into();
        if self.values.insert(key, tree.value).is_some() {
            self.repeated.push((name.clone(), at));
        }
        self.fields.insert(name, (at, tree.mark));
    }

    fn merge(&mut self, tree: Tree, span: Span) -> Result<(), TreeError> {
        let wrong = || error(span.start, "`<<` wants a mapping or a list of mappings");
        match (tree.value, tree.mark) {
            (value @ Value::Object(_), mark) => self.merged.push(Tree { value, mark }),
            (Value::Array(values), Mark { inner: Inner::Items(marks), .. }) => {
                for (value, mark) in values.into_iter().zip(marks) {
                    if !value.is_object() {
                        return Err(wrong());
                    }
                    self.merged.push(Tree { value, mark });
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Keys that the mapping itself has are stronger than merged ones.
    fn finish(mut self, start: Place) -> Tree {
        for tree in self.merged {
            let Value::Object(values) = tree.value else { continue };
            let mut marks = match tree.mark.inner {
                Inner::Fields { fields, .. } => fields,
                Inner::Leaf | Inner::Items(_) => BTreeMap::new(),
            };
            for (key, value) in values {
                if !self.values.contains_key(&key) {
                    if let Some(mark) = marks.remove(key.as_str()) {
                        self.fields.insert(key.as_str().into(), mark);
                    }
                    self.values.insert(key, value);
                }
            }
        }
        let inner = Inner::Fields { fields: self.fields, repeated: self.repeated };
        Tree { value: Value::Object(self.values), mark: Mark { place: start, inner } }
    }
}

fn scalar_value(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    span: Span,
) -> Result<Value, TreeError> {
    let resolved = match tag {
        None if style == ScalarStyle::Plain => scalar::plain(text),
        None => Ok(Value::String(text.to_owned())),
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(Value::String(text.to_owned())),
            "int" | "float" | "bool" | "null" => scalar::plain(text),
            other => Err(format!("the tag `!!{other}` is not supported")),
        },
        Some(tag) => Err(format!("the tag `{}{}` is not supported", tag.handle, tag.suffix)),
    };
    resolved.map_err(|message| error(span.start, &message))
}

/// The text of a mapping key: kubectl turns booleans and numbers into text too.
fn key_text(value: Value, span: Span) -> Result<String, TreeError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(error(span.start, "a key of a mapping must be text"))
        }
    }
}

fn too_deep(marker: Marker) -> TreeError {
    error(marker, &format!("it nests more than {MAX_DEPTH} levels deep"))
}

fn error(marker: Marker, message: &str) -> TreeError {
    TreeError { place: place(marker), message: message.to_owned() }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}
