//! [`Reference`]: one entry of a `from` or an `after`, as it is written.

use crate::diagnostic::Span;
use crate::spec::model::{AfterSpec, FromSpec};
use crate::spec::tree::Node;
use crate::spec::{Scope, StageDraft};

/// A reference as it is written.
pub struct Reference<'a> {
    pub text: &'a str,
    pub alias: Option<&'a str>,
    pub span: Span,
    pub through: Option<Span>,
    /// Where it stands.
    pub scope: Option<&'a Scope>,
    /// Who it is written for, for people.
    pub reader: &'a StageDraft,
}

/// The entries of a stage's `from`, in the order of the file.
pub fn references(draft: &StageDraft) -> Vec<Reference<'_>> {
    let Some(node) = draft.node.get("from") else { return Vec::new() };
    let (scope, reader) = (draft.scope.as_deref(), draft);
    match &draft.spec.from {
        None => Vec::new(),
        Some(FromSpec::One(text)) => {
            vec![Reference { text, alias: None, span: node.span, through: node.alias, scope, reader }]
        }
        Some(FromSpec::Many(texts)) => listed(texts, node, draft),
        // In the order of the file, not of the sorted map.
        Some(FromSpec::Named(tables)) => node
            .entries()
            .iter()
            .filter_map(|entry| {
                // A place for anchors, as everywhere.
                let text = tables.get(&entry.key.name).filter(|_| !entry.key.name.starts_with("x-"))?;
                let alias = Some(entry.key.name.as_str());
                Some(Reference { text, alias, span: entry.value.span, through: entry.value.alias, scope, reader })
            })
            .collect(),
    }
}

/// The entries of its `after`.
pub fn waits(draft: &StageDraft) -> Vec<Reference<'_>> {
    let Some(node) = draft.node.get("after") else { return Vec::new() };
    let scope = draft.scope.as_deref();
    match &draft.spec.after {
        None => Vec::new(),
        Some(AfterSpec::One(text)) => {
            vec![Reference { text, alias: None, span: node.span, through: node.alias, scope, reader: draft }]
        }
        Some(AfterSpec::Many(texts)) => listed(texts, node, draft),
    }
}

/// What stands outside for an input of a pipeline that is a stage.
pub fn given_for(input: &StageDraft) -> Vec<Reference<'_>> {
    let name = input.name.rsplit('/').next().unwrap_or_default();
    let outside = input.scope.as_ref().and_then(|scope| scope.outer.as_deref());
    let given = references(input).into_iter().filter(|reference| reference.alias.is_none_or(|alias| alias == name));
    given.map(|reference| Reference { scope: outside, alias: None, ..reference }).collect()
}

fn listed<'a>(texts: &'a [String], node: &'a Node, draft: &'a StageDraft) -> Vec<Reference<'a>> {
    let (scope, reader) = (draft.scope.as_deref(), draft);
    let reference = |(text, item): (&'a String, &'a Node)| Reference {
        text,
        alias: None,
        span: item.span,
        through: item.alias,
        scope,
        reader,
    };
    texts.iter().zip(node.items()).map(reference).collect()
}

/// The whole name of a stage.
pub fn named(scope: Option<&Scope>, stage: &str) -> String {
    scope.map_or_else(|| stage.to_owned(), |scope| scope.name(stage))
}
