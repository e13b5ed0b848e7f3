//! YAML text to a tree of [`Node`]s: anchors expanded, keys merged, within budgets.
//!
//! The events come from saphyr-parser; the tree is ours, so that every error of a file can be found in one pass and
//! hostile text costs bounded time and memory.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::scalar;
use super::tree::{Entry, Key, Node, Text, TextStyle, Value};
use crate::diagnostic::{Code, Diagnostic, SourceText, Span};

/// Nodes of a document with its aliases expanded. The largest sensible pipelines have some thousands.
const MAX_NODES: usize = 200_000;

/// Nesting of lists and mappings. Pipelines need less than ten levels.
const MAX_DEPTH: usize = 64;

/// The tree of `source` and what is wrong with it. `None` when the text is not YAML or over a budget.
pub fn parse(source: &SourceText) -> (Option<Node>, Vec<Diagnostic>) {
    let mut builder = Builder::new(source);
    let root = match builder.build() {
        Ok(root) => Some(root),
        Err(fatal) => {
            builder.problems.push(fatal);
            None
        }
    };
    (root, builder.problems)
}

struct Builder<'a> {
    source: &'a SourceText,
    offsets: Offsets,
    problems: Vec<Diagnostic>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// A list or a mapping whose end has not come yet.
struct Open {
    start: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    /// `places` has where each key stands.
    Mapping {
        entries: Vec<Entry>,
        places: HashMap<String, Span>,
        merges: Vec<Node>,
        key: Option<PendingKey>,
    },
}

enum PendingKey {
    Named(Key),
    Merge,
    /// A key that was refused; its value is read and dropped.
    Refused,
}

/// What may be meant by a line that is no YAML, or by the one before it, where the parser has noticed it only later.
fn hint(text: &str, at: usize) -> Option<String> {
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    let lines: Vec<&str> = text[..end].lines().rev().take(2).collect();
    // Whether what stands before some word of these lines ends as it does before a value, and passes the test.
    let begins_with = |word: &str, fits: &dyn Fn(&str) -> bool| {
        let before = lines.iter().flat_map(|line| line.match_indices(word).map(|(at, _)| line[..at].trim_end()));
        before.into_iter().any(|before| before.ends_with([':', '[', ',', '{', '-']) && fits(before))
    };
    if begins_with("${{", &|before| before.contains(['{', '['])) {
        return Some("quote the expression, as `{` begins a mapping here: `\"${{ … }}\"`".to_owned());
    }
    if begins_with("*", &|_| true) {
        return Some("quote the pattern, as `*` stands for an anchor: `\"*.csv\"`".to_owned());
    }
    lines.iter().find_map(|line| {
        let (key, value) = line.trim().split_once(':')?;
        let is_key = !key.is_empty() && key.chars().all(|it| it.is_ascii_alphanumeric() || it == '_');
        let is_value = !value.is_empty() && !value.starts_with([' ', '/', ':']);
        (is_key && is_value).then(|| format!("write a space after the colon: `{key}: {value}`"))
    })
}

impl<'a> Builder<'a> {
    fn new(source: &'a SourceText) -> Self {
        Self {
            source,
            offsets: Offsets::new(source.text()),
            problems: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            root: None,
        }
    }

    fn build(&mut self) -> Result<Node, Diagnostic> {
        let mut documents = 0;
        for event in Parser::new_from_str(self.source.text()) {
            let (event, place) = event.map_err(|error| {
                let start = self.offsets.byte(*error.marker());
                // The scanner reads ahead in flow collections and may reach its own limit before ours.
                if error.info().contains("recursion limit") {
                    return too_deep(Span::new(start, start));
                }
                let message = format!("not valid YAML: {}", error.info());
                Diagnostic::new(Code::YamlSyntax, Span::new(start, start), message)
                    .help(hint(self.source.text(), start))
            })?;
            let span = Span::new(self.offsets.byte(place.start), self.offsets.byte(place.end));
            if matches!(event, Event::DocumentStart(_)) {
                documents += 1;
                if documents > 1 {
                    let message = "a pipeline file holds one document";
                    self.problems.push(
                        Diagnostic::new(Code::YamlUnsupported, span, message).label("a second document starts here"),
                    );
                    break;
                }
            }
            self.handle(event, span)?;
        }
        Ok(self.root.take().unwrap_or(Node { value: Value::Null, span: Span::default(), alias: None }))
    }

    fn handle(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(1, span)?;
                let node = self.scalar(&text, style, tag.as_deref(), span);
                let merge = style == ScalarStyle::Plain && text == "<<";
                self.remember(anchor, &node, span)?;
                self.place(node, &text, merge);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "seq", span);
                self.open(Content::Sequence(Vec::new()), anchor, span)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "map", span);
                let (entries, places, merges) = (Vec::new(), HashMap::new(), Vec::new());
                self.open(Content::Mapping { entries, places, merges, key: None }, anchor, span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(anchor) => self.alias(anchor, span)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn spend(&mut self, nodes: usize, span: Span) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        let message = format!("the document has more than {MAX_NODES} values once its aliases are expanded");
        Err(Diagnostic::new(Code::YamlTooLarge, span, message).label("the limit is reached here"))
    }

    fn open(&mut self, content: Content, anchor: usize, span: Span) -> Result<(), Diagnostic> {
        self.spend(1, span)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.open.push(Open { start: span.start, anchor, content });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Diagnostic> {
        let Some(Open { start, anchor, content }) = self.open.pop() else { return Ok(()) };
        let (value, last) = match content {
            Content::Sequence(items) => {
                let last = items.iter().map(|item| item.alias.unwrap_or(item.span).end).max();
                (Value::Sequence(items), last)
            }
            Content::Mapping { entries, merges, .. } => {
                let last = entries.iter().map(|entry| entry.value.alias.unwrap_or(entry.value.span).end).max();
                (Value::Mapping(self.merge(entries, merges)?), last)
            }
        };
        // The end event of a block lies where the next thing starts; a flow collection ends with its bracket.
        // The parser counts blanks and a comment behind the bracket in.
        let in_flow = self.source.slice(end).starts_with([']', '}']);
        let end = if in_flow { end.start + 1 } else { last.unwrap_or(end.start) };
        let node = Node { value, span: Span::new(start, end), alias: None };
        self.remember(anchor, &node, node.span)?;
        self.place(node, "", false);
        Ok(())
    }

    /// Keeps a copy for later aliases. Copies count like nodes: anchors inside anchors would multiply otherwise.
    fn remember(&mut self, anchor: usize, node: &Node, span: Span) -> Result<(), Diagnostic> {
        if anchor > 0 {
            self.spend(node.count(), span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Diagnostic> {
        let Some(node) = self.anchors.get(&anchor) else {
            let message = "this alias stands inside the anchor that it names";
            self.problems.push(Diagnostic::new(Code::YamlRecursiveAlias, span, message));
            self.place(Node { value: Value::Unresolved(String::new()), span, alias: None }, "", false);
            return Ok(());
        };
        let count = node.count();
        self.spend(count, span)?;
        let mut node = self.anchors[&anchor].clone();
        node.set_alias(span);
        let name = node.as_str().unwrap_or_default().to_owned();
        self.place(node, &name, false);
        Ok(())
    }

    /// Puts a finished node where it belongs: into the open list or mapping, as a key or a value, or at the root.
    fn place(&mut self, node: Node, text: &str, is_merge: bool) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, places, merges, key } => match key.take() {
                None => *key = Some(new_key(node, text, is_merge, places, &mut self.problems)),
                Some(PendingKey::Named(key)) => entries.push(Entry { key, value: node }),
                Some(PendingKey::Merge) => merges.push(node),
                Some(PendingKey::Refused) => {}
            },
        }
    }

    /// Applies merge keys (`<<`): keys of the mapping itself win, then those of earlier merged mappings.
    fn merge(&mut self, mut entries: Vec<Entry>, merges: Vec<Node>) -> Result<Vec<Entry>, Diagnostic> {
        for node in merges {
            let Node { value, span, alias } = node;
            let sources = match value {
                Value::Sequence(items) => items,
                value => vec![Node { value, span, alias }],
            };
            for source in sources {
                let Value::Mapping(merged) = source.value else {
                    let place = source.alias.unwrap_or(source.span);
                    let message = "`<<` takes a mapping or a list of mappings";
                    self.problems.push(Diagnostic::new(Code::YamlBadMerge, place, message));
                    continue;
                };
                for entry in merged {
                    if entries.iter().all(|own| own.key.name != entry.key.name) {
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(entries)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Node {
        let style = match style {
            ScalarStyle::Plain => TextStyle::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => TextStyle::Quoted,
            ScalarStyle::Literal => TextStyle::Literal,
            ScalarStyle::Folded => TextStyle::Folded,
        };
        let is_string = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
        if !is_string {
            self.refuse_tag(tag, "", span);
        }
        let string = || Value::String(Text { text: text.to_owned(), style });
        let value = if style == TextStyle::Plain && !is_string {
            scalar::resolve(text).unwrap_or_else(|unsupported| {
                let message = format!("`{text}` {}", unsupported.reason());
                let help = "write it in quotes if a string is meant".to_owned();
                self.problems.push(Diagnostic::new(Code::YamlUnsupported, span, message).help(help));
                Some(Value::Unresolved(text.to_owned()))
            })
        } else {
            None
        };
        // A block scalar ends where the next token starts; what counts is its last line.
        let trimmed = self.source.slice(span).trim_end().len();
        let end = if matches!(style, TextStyle::Literal | TextStyle::Folded | TextStyle::Plain) {
            span.start + trimmed
        } else {
            span.end
        };
        Node { value: value.unwrap_or_else(string), span: Span::new(span.start, end), alias: None }
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, expected: &str, span: Span) {
        if let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == expected)) {
            let message = format!("the tag `{tag}` is not supported");
            self.problems.push(Diagnostic::new(Code::YamlUnsupported, span, message));
        }
    }
}

fn too_deep(span: Span) -> Diagnostic {
    let message = format!("lists and mappings are nested more than {MAX_DEPTH} levels deep");
    Diagnostic::new(Code::YamlTooDeep, span, message).label("the limit is passed here")
}

fn new_key(
    node: Node,
    text: &str,
    is_merge: bool,
    places: &mut HashMap<String, Span>,
    problems: &mut Vec<Diagnostic>,
) -> PendingKey {
    if is_merge {
        return PendingKey::Merge;
    }
    if matches!(node.value, Value::Sequence(_) | Value::Mapping(_)) {
        let message = format!("a key must be a word, not {}", node.type_word());
        problems.push(Diagnostic::new(Code::YamlUnsupported, node.span, message));
        return PendingKey::Refused;
    }
    let key = Key { name: text.to_owned(), span: node.alias.unwrap_or(node.span), alias: None };
    let first = *places.entry(key.name.clone()).or_insert(key.span);
    if first != key.span {
        let message = format!("the key `{}` appears twice in one mapping", key.name);
        problems.push(
            Diagnostic::new(Code::YamlDuplicateKey, key.span, message)
                .label("second time")
                .related(first, "first time"),
        );
        return PendingKey::Refused;
    }
    PendingKey::Named(key)
}

/// Byte offsets of characters: the parser counts characters.
struct Offsets {
    /// Empty for ASCII text, where both are the same.
    bytes: Vec<u32>,
    len: usize,
}

impl Offsets {
    fn new(text: &str) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(at, _)| u32::try_from(at).expect("a source text has at most 4 MiB")).collect()
        };
        Self { bytes, len: text.len() }
    }

    fn byte(&self, marker: Marker) -> usize {
        if self.bytes.is_empty() {
            return marker.index().min(self.len);
        }
        self.bytes.get(marker.index()).map_or(self.len, |&at| at as usize)
    }
}
