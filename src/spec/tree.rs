//! [`Node`]: a YAML document as a tree in which everything knows its place.

use serde_json::Number;

use crate::diagnostic::Span;

#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    /// Where the value is written; for a node that came through an alias or a merge key, where it was defined.
    pub span: Span,
    /// The innermost alias through which this node was reached.
    pub alias: Option<Span>,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(Text),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// A scalar, as it was written, whose value is not known: before the run, or because it is wrong and already reported.
    Unresolved(String),
}

#[derive(Clone, Debug)]
pub struct Text {
    pub text: String,
    pub style: TextStyle,
}

/// How a string is written, which decides whether its lines can be found in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextStyle {
    Plain,
    Quoted,
    /// `|`: every line of the text is a line of the file.
    Literal,
    /// `>`.
    Folded,
    /// All of another file.
    File,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Key,
    pub value: Node,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub span: Span,
    pub alias: Option<Span>,
}

/// One step from a node to a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl Node {
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key.name == name)
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|entry| &entry.value)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Mapping(entries) => {
                entries.iter_mut().find(|entry| entry.key.name == name).map(|entry| &mut entry.value)
            }
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&Text> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        self.as_text().map(|text| text.text.as_str())
    }

    pub fn is_unresolved(&self) -> bool {
        matches!(self.value, Value::Unresolved(_))
    }

    /// The node at the end of `path`, if it exists.
    pub fn at(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match step {
            Step::Key(name) => node.get(name),
            Step::Index(index) => node.items().get(*index),
        })
    }

    /// Removes the entry or item at the end of `path`; a sequence that loses an item is removed as a whole, as the rest
    /// would have other places.
    pub fn remove(&mut self, path: &[Step]) {
        let Some((last, parents)) = path.split_last() else {
            self.value = Value::Null;
            return;
        };
        match last {
            Step::Index(_) => self.remove(parents),
            Step::Key(name) => {
                if let Some(Value::Mapping(entries)) = self.at_mut(parents).map(|node| &mut node.value) {
                    entries.retain(|entry| entry.key.name != *name);
                }
            }
        }
    }

    fn at_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::Mapping(entries), Step::Key(name)) => {
                entries.iter_mut().find(|entry| entry.key.name == *name).map(|entry| &mut entry.value)
            }
            (Value::Sequence(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Calls `visit` for every node with the path to it, parents first.
    pub fn walk(&self, visit: &mut impl FnMut(&[Step], &Node)) {
        self.walk_from(&mut Vec::new(), visit);
    }

    fn walk_from(&self, path: &mut Vec<Step>, visit: &mut impl FnMut(&[Step], &Node)) {
        visit(path, self);
        for entry in self.entries() {
            path.push(Step::Key(entry.key.name.clone()));
            entry.value.walk_from(path, visit);
            path.pop();
        }
        for (index, item) in self.items().iter().enumerate() {
            path.push(Step::Index(index));
            item.walk_from(path, visit);
            path.pop();
        }
    }

    /// Number of nodes from here down.
    pub fn count(&self) -> usize {
        let children = self.entries().iter().map(|entry| &entry.value).chain(self.items());
        1 + children.map(Node::count).sum::<usize>()
    }

    /// Marks everything from here down as reached through `alias`.
    pub fn set_alias(&mut self, alias: Span) {
        self.alias = Some(alias);
        match &mut self.value {
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.key.alias = Some(alias);
                    entry.value.set_alias(alias);
                }
            }
            Value::Sequence(items) => items.iter_mut().for_each(|item| item.set_alias(alias)),
            _ => {}
        }
    }

    /// The value without its places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => serde_json::Value::Number(value.clone()),
            Value::String(text) => text.text.clone().into(),
            Value::Unresolved(text) => text.clone().into(),
            Value::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Value::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.name.clone(), entry.value.to_json())).collect()
            }
        }
    }

    /// What the value is, in words.
    pub fn type_word(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(number) if number.is_f64() => "a number",
            Value::Number(_) => "an integer",
            Value::String(_) | Value::Unresolved(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}
