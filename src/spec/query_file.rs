//! `sql: { file }`: queries that stand in files of their own.

use super::tree::{Entry, Key, Node, Step, Text, TextStyle, Value};
use crate::diagnostic::{Code, Diagnostic, SourceText, SourceTextError, Span};

/// Puts the text of each query's file beside its name, in both trees; `pruned` is `root` without its holes. Gives the values that cannot be read.
/// The trees are those of `source`, which is `map` or included in it.
pub fn read(
    root: &mut Node,
    pruned: &mut Node,
    (map, source): (&SourceText, &SourceText),
    problems: &mut Vec<Diagnostic>,
) -> Vec<Vec<Step>> {
    let mut holes = Vec::new();
    for section in ["stages", "shared"] {
        let names: Vec<String> = root.get(section).map(Node::entries).unwrap_or_default().iter().map(name).collect();
        for name in names {
            let path = [section, &name, "sql"].map(|key| Step::Key(key.to_owned()));
            // What is wrong in shape is not in the second tree.
            let file = pruned.at(&path).and_then(|sql| sql.get("file"));
            let Some((written, node)) = file.and_then(|node| Some((node.as_str()?.to_owned(), node.clone()))) else {
                continue;
            };
            match map.include_from(source, written.as_ref()) {
                Ok((start, file)) => {
                    let query = query(file.text(), Span::new(start, start + file.text().len()));
                    for tree in [&mut *root, &mut *pruned] {
                        add(tree, &path, &query);
                    }
                }
                Err(error) => {
                    problems.push(unreadable(&error, &node));
                    holes.push(path.to_vec());
                }
            }
        }
    }
    holes
}

/// That a file cannot be read which stands at a node.
pub fn unreadable(error: &SourceTextError, at: &Node) -> Diagnostic {
    let problem = Diagnostic::new(Code::SpecUnreadable, at.span, error.to_string()).through(at.alias);
    problem.help("a path is relative to the folder of the file that it stands in".to_owned())
}

fn name(entry: &Entry) -> String {
    entry.key.name.clone()
}

fn query(text: &str, span: Span) -> Entry {
    let value = Value::String(Text { text: text.to_owned(), style: TextStyle::File });
    Entry { key: Key { name: "query".to_owned(), span, alias: None }, value: Node { value, span, alias: None } }
}

fn add(tree: &mut Node, path: &[Step], query: &Entry) {
    let sql = path.iter().try_fold(tree, |node, step| match step {
        Step::Key(key) => node.get_mut(key),
        Step::Index(_) => None,
    });
    if let Some(Value::Mapping(entries)) = sql.map(|node| &mut node.value) {
        entries.push(query.clone());
    }
}
