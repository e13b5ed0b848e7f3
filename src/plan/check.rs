//! Checks that concern one stage and its inputs, or all files that a pipeline touches.

use std::collections::BTreeSet;

use super::columns::KnownColumns;
use super::command_shape::CommandShape;
use super::link::{After, Link};
use super::ports::{keeps_state, ports};
use super::stage::{Command, CommandLine, Convention, Folder, Port, StageKind, Write, WriteTarget};
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::spec::expect::EXPECT;
use crate::spec::model::{CommandModeSpec, CommandSpec, OnErrorWordSpec, RowOrderSpec};
use crate::spec::schema::{HOOK_KINDS, KINDS, SHARED_KINDS};
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::tree::{Node, Value};
use crate::spec::{Document, HookDraft, Sharing, StageDraft, means};

/// A stage has exactly one kind.
pub fn kinds(draft: &StageDraft) -> Option<Diagnostic> {
    let (what, all): (_, &[&str]) = match draft.sharing {
        Sharing::None => (format!("the stage `{}`", draft.name), &KINDS),
        _ => (format!("`{}`, which is shared,", draft.name), &SHARED_KINDS),
    };
    one_kind(draft, &what, all, "make two stages of it")
}

/// So has a hook.
pub fn hook_kinds(hook: &HookDraft) -> Option<Diagnostic> {
    one_kind(&hook.stage, &format!("the hook `{}`", hook.stage.name), &HOOK_KINDS, "make two hooks of it")
}

fn one_kind(draft: &StageDraft, what: &str, kinds: &[&str], help: &str) -> Option<Diagnostic> {
    match draft.kinds.as_slice() {
        [_] => None,
        [] => {
            let is_misspelt = kinds.iter().any(|kind| misspells(draft, kind));
            let is_mapping = matches!(draft.node.value, Value::Mapping(_));
            let message = format!("{what} does nothing: it has no kind");
            let problem = Diagnostic::new(Code::PlanNoKind, draft.name_span, message).help(format!(
                "add one of {}",
                kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ")
            ));
            (is_mapping && !is_misspelt).then(|| problem.through(draft.alias))
        }
        [(first, first_span), others @ ..] => {
            let (second, span) = others.first()?;
            let message = format!("{what} has two kinds, `{first}` and `{second}`");
            let mut problem = Diagnostic::new(Code::PlanTwoKinds, *span, message).label("a second kind");
            problem = problem.related(*first_span, "the first kind").help(help.to_owned());
            Some(problem.through(draft.alias))
        }
    }
}

/// Whether a key that is not known may be meant to be `key`.
pub(super) fn misspells(draft: &StageDraft, key: &str) -> bool {
    draft.lost.iter().any(|lost| means(lost, key))
}

/// A stage has inputs if and only if its kind takes them.
pub fn inputs(draft: &StageDraft, kind: Option<&StageKind>) -> Option<Diagnostic> {
    let word = draft.kind()?;
    if !draft.is_written() {
        return None;
    }
    let name = &draft.name;
    let (takes, needs) = match word {
        "read" => (false, false),
        "write" => (true, true),
        "sql" => (true, matches!(kind, Some(StageKind::Sql(sql)) if !sql.query.tables().is_empty())),
        "python" => (true, false),
        _ => match CommandShape::of(draft)?.mode {
            CommandModeSpec::Batch | CommandModeSpec::Stream | CommandModeSpec::Row => (true, true),
            CommandModeSpec::Once => (false, false),
        },
    };
    let has_from = draft.has("from") || misspells(draft, "from");
    if draft.has("from") && !takes {
        let what = if word == "read" { "it reads files" } else { "a command that runs once gets no rows" };
        let message = format!("the stage `{name}` cannot have `from`: {what}");
        return Some(Diagnostic::new(Code::PlanUnexpectedInput, draft.key_span("from"), message).through(draft.alias));
    }
    // A query without `from` says which tables it lacks.
    if needs && !has_from && word != "sql" {
        let message = format!("the stage `{name}` needs `from`: the stage whose rows it takes");
        return Some(Diagnostic::new(Code::PlanMissingInput, draft.name_span, message).through(draft.alias));
    }
    if !draft.is_lost("from") && draft.node.get("from").is_some_and(names_nothing) {
        let message = format!("`from` of the stage `{name}` names no stage");
        return Some(Diagnostic::new(Code::PlanMissingInput, draft.span(&["from"]), message).through(draft.alias));
    }
    None
}

/// Queries over all rows together reject none.
pub fn rejects(document: &Document, links: &[Link], kinds: &[Option<&StageKind>]) -> Vec<Diagnostic> {
    let is_over_all = |link: &&Link| {
        link.port == Port::REJECTED && matches!(kinds[link.from], Some(StageKind::Sql(sql)) if !sql.row_wise)
    };
    let problem = |link: &Link| {
        let name = &document.stages[link.from].name;
        let message = format!("the query of `{name}` works on all rows together, and rejects none");
        Diagnostic::new(Code::PlanUnknownPort, link.span, message)
    };
    links.iter().filter(is_over_all).map(problem).collect()
}

fn names_nothing(from: &Node) -> bool {
    match &from.value {
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Only stages that can reject rows can go on without them.
pub fn on_error(draft: &StageDraft) -> Option<Diagnostic> {
    let word = match draft.spec.on_error.as_ref()?.word() {
        OnErrorWordSpec::Fail => return None,
        OnErrorWordSpec::Skip => "skip",
        OnErrorWordSpec::Reject => "reject",
    };
    let ports = ports(draft)?;
    // Rows that are not as they must be can always be told apart.
    if draft.has(EXPECT) {
        return None;
    }
    if draft.kind() == Some("python") && !draft.has("from") {
        let span = draft.span(&["on_error"]);
        let message = format!("the stage `{}` needs `from`, if there are rows that it can `{word}`", draft.name);
        let problem = Diagnostic::new(Code::PlanMissingInput, draft.name_span, message);
        let problem = problem.related(span, "this is for rows that it is given");
        let help = "add `from`, the stage whose rows it takes; a source, which makes rows, has no `on_error`";
        return (!misspells(draft, "from")).then(|| problem.help(help.to_owned()).through(draft.alias));
    }
    let message = format!("the stage `{}` cannot `{word}` rows", draft.name);
    let help = if keeps_state(draft) {
        "what a row has done to a state cannot be undone: let a stage in front of this one sort out bad rows"
    } else if draft.kind() == Some("read") {
        "only csv, tsv, jsonl and json have rows that can be malformed: what is wrong with other files is wrong with more than a row"
    } else {
        "python stages with `from`, commands in mode `batch` or `row`, queries over one row at a time, sources of csv, tsv, jsonl or json, and stages with `expect` can"
    };
    let problem = Diagnostic::new(Code::PlanOnErrorUnsupported, draft.span(&["on_error"]), message)
        .help(help.to_owned())
        .through(draft.alias);
    (!ports.contains(&Port::REJECTED)).then_some(problem)
}

/// Only python stages that get rows can keep state per key.
pub fn partition_by(draft: &StageDraft) -> Option<Diagnostic> {
    let kind = draft.kind()?;
    let reason = match kind {
        _ if !draft.has("partition_by") => return None,
        "python" if draft.has("from") || misspells(draft, "from") => return None,
        "python" => "it makes rows and gets none".to_owned(),
        _ => format!("a `{kind}` stage keeps no state per key"),
    };
    let message = format!("`partition_by` has no meaning for the stage `{}`: {reason}", draft.name);
    let problem = Diagnostic::new(Code::PlanBadOption, draft.key_span("partition_by"), message);
    Some(problem.help("remove it; it is for `python` stages with `from`".to_owned()).through(draft.alias))
}

/// Only functions that are called row by row, and keep no state, can be called for several rows at once.
pub fn concurrency(draft: &StageDraft, kind: Option<&StageKind>) -> Option<Diagnostic> {
    const REMOVE: &str = "remove it; it is for `python` stages with `from` whose function is called for each row";
    if !draft.has("concurrency") {
        return None;
    }
    let (reason, help) = match (draft.kind()?, kind) {
        ("python", _) if !draft.has("from") && !misspells(draft, "from") => ("it makes rows and gets none", REMOVE),
        ("python", _) if draft.has("partition_by") => (
            "with `partition_by`, rows of one key come one after the other",
            "remove it, or let a stage in front of this one do what waits",
        ),
        ("python", Some(StageKind::Python(python))) => match python.convention? {
            Convention::Row => return None,
            Convention::Stream => (
                "`as: stream` gets its batches one after the other",
                "remove it, or let a stage in front of this one do what waits",
            ),
            Convention::Rows
            | Convention::Arrow
            | Convention::Pandas
            | Convention::Polars
            | Convention::Numpy
            | Convention::Object
            | Convention::Task => (
                "its function is given whole batches, and not rows",
                "write `as: row`; or remove it, as an `async def` function of batches can gather what it waits for",
            ),
        },
        ("python", _) => return None,
        ("command", _) => ("`workers` says how many of its processes may run at once", REMOVE),
        _ => ("it calls no function", REMOVE),
    };
    let message = format!("`concurrency` has no meaning for the stage `{}`: {reason}", draft.name);
    let problem = Diagnostic::new(Code::PlanBadOption, draft.key_span("concurrency"), message);
    Some(problem.help(help.to_owned()).through(draft.alias))
}

/// Only what works batch by batch, or has several inputs to read, can take rows as they come.
pub fn order(draft: &StageDraft, kind: Option<&StageKind>, inputs: usize) -> Option<Diagnostic> {
    if draft.spec.order? == RowOrderSpec::Preserve {
        return None;
    }
    let word = draft.kind()?;
    let has_from = draft.has("from") || misspells(draft, "from");
    let reason = match (word, kind) {
        ("python" | "command", _) if !has_from => "it gets no rows",
        ("python", _) if keeps_state(draft) => "what it keeps depends on the order of its rows",
        ("sql", Some(StageKind::Sql(sql))) if !sql.row_wise => "its query works on all rows together",
        ("write", _) if inputs == 1 => "it has one input",
        ("read", _) => "it reads one file after the other",
        _ => return None,
    };
    let message = format!("`order: any` has no meaning for the stage `{}`: {reason}", draft.name);
    let problem = Diagnostic::new(Code::PlanBadOption, draft.span(&["order"]), message);
    let help = "remove it; it is for stages that work batch by batch, and for sinks with several inputs";
    Some(problem.help(help.to_owned()).through(draft.alias))
}

/// Rows wait beside others of their batch, so small batches keep a stage from what it may.
pub fn few_rows(draft: &StageDraft) -> Option<Diagnostic> {
    let at_once = draft.spec.concurrency?;
    let rows = draft.spec.batch.as_ref()?.rows.filter(|rows| *rows < at_once)?;
    let message = format!(
        "a batch of the stage `{}` has at most {}, so no more of the {at_once} of `concurrency` can wait at once",
        draft.name,
        if rows == 1 { "one row".to_owned() } else { format!("{rows} rows") },
    );
    let help = format!("write `rows: {}` or more: several times as many as may wait", 8 * at_once);
    let problem = Diagnostic::new(Code::PlanFewRows, draft.span(&["batch", "rows"]), message);
    Some(problem.help(help).through(draft.alias))
}

/// A name at `span` that is none of the `columns` that the stage gets.
fn unknown_column<'a>(
    draft: &StageDraft,
    name: &str,
    span: Span,
    columns: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let message = format!("`{name}` is no column of the rows that `{}` gets", draft.name);
    Diagnostic::new(Code::PlanUnknownColumn, span, message).help(did_you_mean(name, columns))
}

/// Columns of a key that the rows of a stage, as far as their columns are known, do not have.
pub fn keys(
    document: &Document,
    links: &[Link],
    kinds: &[Option<&StageKind>],
    into: &[Vec<usize>],
    columns: &KnownColumns,
) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for (at, (draft, kind)) in document.stages.iter().zip(kinds).enumerate() {
        let (keys, named): (&[&str], _) = match kind {
            Some(StageKind::Python(python)) => (&["partition_by"], &python.partition_by),
            Some(StageKind::Write(Write { target: WriteTarget::Folder(Folder { partition_by, .. }), .. })) => {
                (&["write", "partition_by"], partition_by)
            }
            _ => continue,
        };
        let node = draft.find(keys);
        for link in &into[at] {
            let Some(known) = columns.of_link(&links[*link]) else { continue };
            let is_missing = |(_, name): &(usize, &String)| known.index_of(name).is_err();
            for (position, column) in named.iter().enumerate().filter(is_missing) {
                let item = node.and_then(|node| node.items().get(position).or(Some(node)));
                let span = item.map_or(draft.name_span, |item| item.span);
                let columns = known.fields().iter().map(|field| field.name().as_str());
                let problem = unknown_column(draft, column, span, columns);
                problems.push(problem.through(item.and_then(|item| item.alias)));
            }
        }
    }
    problems
}

/// Params that nothing uses. Python code can use any of them, so that nothing is said in a pipeline with a python stage.
pub fn unused_params(document: &Document, kinds: &[Option<&StageKind>]) -> Vec<Diagnostic> {
    let unclear = document
        .stages
        .iter()
        .zip(kinds)
        .filter(|(draft, _)| !matches!(draft.kind(), Some(PIPELINE | INPUT)))
        .any(|(draft, kind)| kind.is_none() || (draft.kind() == Some("python") && draft.scope.is_none()));
    if unclear || document.hooks.iter().any(|hook| hook.stage.kind() != Some("command")) {
        return Vec::new();
    }
    let is_used = |name: &str| {
        document.used_params.contains(name)
            || kinds.iter().flatten().any(|kind| uses_param(kind, name))
            || document.hooks.iter().any(|hook| hook_uses_param(hook, name))
    };
    // What is wrong with its declaration comes first.
    let is_wrong = |span| document.problems.iter().any(|problem| problem.span() == Some(span));
    let unused = document.params.iter().filter(|param| !is_used(&param.name) && !is_wrong(param.span));
    let warning = |name: &str, span| {
        Diagnostic::new(Code::ParamUnused, span, format!("the param `{name}` is not used")).label("never used")
    };
    unused.map(|param| warning(&param.name, param.span)).collect()
}

fn hook_uses_param(hook: &HookDraft, name: &str) -> bool {
    match &hook.stage.spec.command {
        Some(CommandSpec::Options(options)) => options.shell.as_ref().is_some_and(|script| script.contains(name)),
        _ => false,
    }
}

fn uses_param(kind: &StageKind, name: &str) -> bool {
    match kind {
        StageKind::Sql(sql) => sql.query.parameters().iter().any(|parameter| parameter == name),
        StageKind::Command(command) => match &command.line {
            CommandLine::Shell(script) => script.contains(name),
            CommandLine::Argv(_) | CommandLine::Row(_) => false,
        },
        StageKind::Expect(expect) => expect
            .conditions
            .iter()
            .any(|condition| condition.sql.query.parameters().iter().any(|parameter| parameter == name)),
        StageKind::Read(_) | StageKind::Write(_) | StageKind::Python(_) => false,
    }
}

/// A wait of one stage for another: for its rows or for its end.
struct Wait<'a> {
    from: &'a str,
    to: &'a str,
    verb: &'static str,
    span: Span,
}

/// A cycle, told as `a -> b -> a`. The edges are those of all links and then of all `after`s.
pub fn cycle(document: &Document, links: &[Link], afters: &[After], edges: &[usize]) -> Option<Diagnostic> {
    let name = |stage: usize| document.stages[stage].name.as_str();
    let wait = |edge: usize| match links.get(edge) {
        Some(link) => Wait { from: name(link.from), to: name(link.to), verb: "reads from", span: link.span },
        None => {
            let After { from, to, span } = afters[edge - links.len()];
            Wait { from: name(from), to: name(to), verb: "waits for", span }
        }
    };
    let cycle: Vec<Wait<'_>> = edges.iter().map(|edge| wait(*edge)).collect();
    let (last, others) = cycle.split_last()?;
    let mut path: Vec<&str> = cycle.iter().map(|wait| wait.from).collect();
    path.push(last.to);
    let message = if others.is_empty() {
        format!("the stage `{}` {} itself", last.to, last.verb)
    } else {
        format!("these stages wait for each other: {}", path.join(" -> "))
    };
    let mut problem =
        Diagnostic::new(Code::PlanCycle, last.span, message).help("a pipeline must not have a cycle".to_owned());
    problem = problem.label(format!("`{}` {} `{}`", last.to, last.verb, last.from));
    for wait in others {
        problem = problem.related(wait.span, format!("`{}` {} `{}`", wait.to, wait.verb, wait.from));
    }
    Some(problem)
}

/// What a template asks for that a stage in front of it, whose columns are known, does not give.
/// `into` has the links into every stage.
pub fn templates(
    document: &Document,
    links: &[Link],
    kinds: &[Option<&StageKind>],
    into: &[Vec<usize>],
    columns: &KnownColumns,
) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for (at, (draft, kind)) in document.stages.iter().zip(kinds).enumerate() {
        let Some(StageKind::Command(Command { line: CommandLine::Row(templates), .. })) = kind else { continue };
        let inputs = into[at].iter().map(|&link| columns.of_link(&links[link]));
        let Some(known) = inputs.collect::<Option<Vec<_>>>() else { continue };
        let node = draft.find(&["command", "run"]);
        let items = node.map(Node::items).unwrap_or_default();
        for (template, item) in templates.iter().zip(items) {
            let unknown = |column: &&str| known.iter().any(|columns| columns.index_of(column).is_err());
            let Some(column) = template.columns().find(unknown) else { continue };
            let names = known.iter().flat_map(|columns| columns.fields()).map(|field| field.name().as_str());
            let mut problem = unknown_column(draft, column, item.span, names.collect::<BTreeSet<_>>());
            problem.help =
                problem.help.or_else(|| Some("write `{{` and `}}` for braces that are meant as they are".to_owned()));
            problems.push(problem.through(item.alias));
        }
    }
    problems
}
