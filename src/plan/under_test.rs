//! Testing a part of a pipeline: some stages give rows that are given, and what others make of them is kept in files.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;

use super::asking::behind;
use super::link::{self, Link};
use super::ports;
use super::stage::Port;
use crate::diagnostic::did_you_mean;
use crate::format::column_type;
use crate::spec::expect::EXPECT;
use crate::spec::model::{
    FormatSpec, FromSpec, OnErrorSpec, OnErrorWordSpec, PythonSpec, ReadOptions, ReadSpec, StageSpec, WriteOptions,
    WriteSpec,
};
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::tree::{Entry, Node, Value};
use crate::spec::{Checks, Document, Sharing, StageDraft};

/// What is tested of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct UnderTest {
    pub given: Vec<GivenRows>,
    pub wanted: Vec<WantedRows>,
    /// A stage that is only to be carried out.
    pub carried_out: Option<String>,
}

/// Rows that a stage or a port gives.
#[derive(Clone, Debug)]
pub struct GivenRows {
    /// A stage, or `stage.port`.
    pub of: String,
    /// The file with the rows, absolute.
    pub path: String,
    /// `None`: from the extension.
    pub format: Option<FormatSpec>,
    /// Types of columns.
    pub schema: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether a `read` stage reads the file as it would read its own.
    pub is_read_as_its_own: bool,
}

/// Rows that are kept.
#[derive(Clone, Debug)]
pub struct WantedRows {
    /// A stage, `stage.port`, or a sink.
    pub of: String,
    /// A file in the format of Arrow, absolute.
    pub to: String,
    /// The same rows in other formats.
    pub copies: Vec<String>,
}

/// Why a part of a pipeline cannot be tested. All of them name a stage or port as the test does, but for the last ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnderTestError {
    #[error("the pipeline has no stage `{stage}`")]
    NoStage { of: String, stage: String, help: Option<String> },
    #[error("stage `{stage}` has no port `{port}`")]
    NoPort { of: String, stage: String, port: String, help: Option<String> },
    #[error("stage `{of}` gives no rows")]
    NoRows { of: String },
    #[error("`{of}` stands for several stages, which `foreach` makes: {}", made.join(", "))]
    Several { of: String, made: Vec<String> },
    #[error("{what} `{stage}` would be {verb}, which no test does: give its rows")]
    NotGiven { stage: String, what: &'static str, verb: &'static str },
    #[error("stage `{stage}` is given, but not its port `{port}`, from which `{reader}` reads")]
    PortNotGiven { stage: String, port: String, reader: String },
    #[error(
        "stage `{stage}` has a value for `{key}` that is not known: set the param or the environment variable that it is made of"
    )]
    NotKnown { stage: String, key: String },
}

/// What is known of the columns of a port before a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTypes {
    /// The type `Null` stands for one that is not known.
    pub columns: Vec<(String, DataType)>,
    /// Whether there are no others.
    pub are_all: bool,
}

/// A stage, `stage.port` or a sink that there is.
struct Place {
    at: usize,
    port: String,
}

/// What the file says of the columns of a `read` stage.
pub fn declared_columns(document: &Document, of: &str) -> KnownTypes {
    let draft = document.stages.iter().find(|draft| draft.name == of);
    let schema = draft.and_then(|draft| match &draft.spec.read {
        Some(ReadSpec::Options(options)) => options.schema.as_ref(),
        _ => None,
    });
    let typed = |(name, word): (&String, &serde_json::Value)| Some((name.clone(), column_type::parse(word.as_str()?)?));
    KnownTypes { columns: schema.into_iter().flatten().filter_map(typed).collect(), are_all: false }
}

/// Leaves in the document only what is tested. Nothing of what is left reads what is not given, or writes where the pipeline does; stages
/// wait for none that gives them no rows, and keep no batches for later runs.
///
/// # Errors
/// All that cannot be so.
pub fn put_under_test(document: &mut Document, parts: &UnderTest) -> Result<(), Vec<UnderTestError>> {
    let mut problems = Vec::new();
    document.stages.iter_mut().for_each(cut_off);
    document.hooks.clear();
    let mut given: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    let mut drafts = Vec::new();
    for rows in &parts.given {
        match place(document, &rows.of) {
            Ok(Place { at, port }) => {
                given.entry(at).or_default().insert(port.clone());
                drafts.push((at, port, rows));
            }
            Err(problem) => problems.push(problem),
        }
    }
    let mut asked_for = BTreeSet::new();
    for rows in &parts.wanted {
        match keep(document, rows) {
            Ok(names) => asked_for.extend(names),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(stage) = &parts.carried_out {
        match carry_out(document, stage) {
            Ok(names) => asked_for.extend(names),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let original = document.stages.clone();
    for (at, port, rows) in drafts {
        let draft = reading(&original[at], &port, rows);
        if port == Port::MAIN {
            document.stages[at] = draft;
        } else {
            document.stages.push(draft);
        }
    }
    let needed = needed(document, &original, &asked_for, &given, &mut problems);
    let mut at = 0;
    for draft in document.stages.iter_mut().filter(|draft| draft.kind() == Some(PIPELINE)) {
        // Those inside know it, and it may be gone.
        draft.spec.from = None;
        draft.lost.insert("from".to_owned());
        if let Value::Mapping(entries) = &mut draft.node.value {
            entries.retain(|entry| entry.key.name != "from");
        }
    }
    document.stages.retain(|draft| {
        at += 1;
        // What stands for others is gone once these are known.
        let stands_for_others =
            draft.kind() == Some(PIPELINE) || (draft.kind() == Some(INPUT) && draft.scope.is_some());
        needed.contains(&(at - 1)) || stands_for_others
    });
    document.asked_for = asked_for;
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Takes from a stage what reaches beyond its rows.
pub(super) fn cut_off(draft: &mut StageDraft) {
    draft.spec.after = None;
    draft.spec.checkpoint = None;
    if let Value::Mapping(entries) = &mut draft.node.value {
        entries.retain(|entry| !matches!(entry.key.name.as_str(), "after" | "checkpoint"));
    }
    draft.lost.remove("after");
    draft.lost.remove("checkpoint");
    // A sink is written elsewhere, if it is written.
    if draft.kind() == Some("write") {
        draft.lost.remove("write");
    }
}

fn place(document: &Document, of: &str) -> Result<Place, UnderTestError> {
    let (at, port) = find(document, of)?;
    let draft = &document.stages[at];
    let made = || document.stages.iter().filter(|other| other.foreach.as_deref() == Some(draft.written_name()));
    if draft.foreach.is_some() && draft.name != of.split('.').next().unwrap_or(of) {
        return Err(UnderTestError::Several { of: of.to_owned(), made: made().map(|one| one.name.clone()).collect() });
    }
    let ports = ports::named_ports(draft);
    if ports.contains(&port.as_str()) {
        return Ok(Place { at, port });
    }
    if port == Port::MAIN {
        return Err(UnderTestError::NoRows { of: of.to_owned() });
    }
    let help = did_you_mean(&port, ports);
    Err(UnderTestError::NoPort { of: of.to_owned(), stage: draft.name.clone(), port, help })
}

/// The stage, or the first of those that one name stands for, and the port.
fn find(document: &Document, of: &str) -> Result<(usize, String), UnderTestError> {
    let (stage, port) = of.split_once('.').unwrap_or((of, Port::MAIN));
    // What is added for a test has a colon in its name.
    let is_written = |draft: &&StageDraft| !matches!(draft.sharing, Sharing::Sink(_)) && !draft.name.contains(':');
    let is_it = |draft: &StageDraft| {
        !matches!(draft.sharing, Sharing::Sink(_)) && (draft.name == stage || draft.written_name() == stage)
    };
    document.stages.iter().position(is_it).map(|at| (at, port.to_owned())).ok_or_else(|| {
        let mut names: Vec<&str> = document.stages.iter().filter(is_written).map(StageDraft::written_name).collect();
        names.dedup();
        UnderTestError::NoStage { of: of.to_owned(), stage: stage.to_owned(), help: did_you_mean(stage, names) }
    })
}

/// Lets rows be written to a file. Gives the names of the stages that do so.
fn keep(document: &mut Document, rows: &WantedRows) -> Result<Vec<String>, UnderTestError> {
    let (at, port) = find(document, &rows.of)?;
    let files = std::iter::once((&rows.to, Some(FormatSpec::Arrow))).chain(rows.copies.iter().map(|path| (path, None)));
    let files: Vec<_> = files.map(|(path, format)| write(path, format)).collect();
    let draft = document.stages[at].clone();
    let name = |index: usize| format!("{}:{index}", rows.of);
    let mut drafts: Vec<StageDraft> = Vec::new();
    if draft.kind() == Some("write") {
        if port != Port::MAIN {
            return Err(UnderTestError::NoPort { of: rows.of.clone(), stage: draft.name, port, help: None });
        }
        if draft.foreach.is_some() && draft.name != rows.of {
            let made = document.stages.iter().filter(|other| other.foreach == draft.foreach);
            let made = made.map(|one| one.name.clone()).collect();
            return Err(UnderTestError::Several { of: rows.of.clone(), made });
        }
        for (index, write) in files.into_iter().enumerate() {
            let spec = StageSpec { write: Some(write), ..draft.spec.clone() };
            drafts.push(StageDraft { name: name(index), foreach: None, spec, ..draft.clone() });
        }
    } else {
        let ports = ports::named_ports(&draft);
        if port == Port::MAIN && !ports.contains(&Port::MAIN) {
            return Err(UnderTestError::NoRows { of: rows.of.clone() });
        }
        if !ports.contains(&port.as_str()) {
            let help = did_you_mean(&port, ports);
            return Err(UnderTestError::NoPort { of: rows.of.clone(), stage: draft.name, port, help });
        }
        for (index, write) in files.into_iter().enumerate() {
            let from = Some(FromSpec::One(rows.of.clone()));
            let spec = StageSpec { from, write: Some(write), ..StageSpec::default() };
            drafts.push(behind(&draft, &name(index), "write", spec));
        }
    }
    let names = drafts.iter().map(|draft| draft.name.clone()).collect();
    document.stages.extend(drafts);
    Ok(names)
}

/// The stages that a name stands for.
fn carry_out(document: &Document, name: &str) -> Result<Vec<String>, UnderTestError> {
    let (at, _) = find(document, name)?;
    let first = &document.stages[at];
    let is_it = |draft: &&StageDraft| draft.name == name || draft.written_name() == name;
    let made: Vec<String> = document.stages.iter().filter(is_it).map(|draft| draft.name.clone()).collect();
    let checks = document
        .stages
        .iter()
        .filter(|draft| matches!(&draft.checks, Some(Checks::Rows(of) | Checks::Duplicates(of)) if made.contains(of)));
    let checks: Vec<String> = checks.map(|draft| draft.name.clone()).collect();
    match first.kind() {
        Some("write") if checks.is_empty() => Err(UnderTestError::NoRows { of: name.to_owned() }),
        Some("write") => Ok(checks),
        _ => Ok(made.into_iter().chain(checks).collect()),
    }
}

fn write(path: &str, format: Option<FormatSpec>) -> WriteSpec {
    WriteSpec::Options(WriteOptions { path: path.to_owned(), format, ..WriteOptions::default() })
}

/// A stage that reads what another one is to give.
fn reading(of: &StageDraft, port: &str, rows: &GivenRows) -> StageDraft {
    let own = match &of.spec.read {
        Some(ReadSpec::Options(options)) if rows.is_read_as_its_own => Some(options.clone()),
        _ => None,
    };
    let given = ReadOptions::of(&rows.path);
    let options = match own {
        // What folders say of the rows is in the rows that are given.
        Some(own) => ReadOptions { path: given.path, partitions: None, ..*own },
        None => ReadOptions { format: rows.format, schema: rows.schema.clone(), ..given },
    };
    let spec = StageSpec {
        read: Some(ReadSpec::Options(Box::new(options))),
        batch: of.spec.batch.clone().filter(|_| of.kind() == Some("read")),
        when: of.spec.when,
        // What is expected of its rows is expected of these.
        expect: of.spec.expect.clone().filter(|_| port == Port::MAIN),
        on_error: of.spec.on_error.clone().filter(|_| port == Port::MAIN && of.has(EXPECT)),
        ..StageSpec::default()
    };
    let is_kept = |entry: &&Entry| {
        port == Port::MAIN && of.has(EXPECT) && [EXPECT, "on_error"].contains(&entry.key.name.as_str())
    };
    let entries = of.node.entries().iter().filter(is_kept).cloned().collect();
    StageDraft {
        // No name of a stage has a dot, so that it is found under that of the port.
        name: if port == Port::MAIN { of.name.clone() } else { format!("{}.{port}", of.name) },
        foreach: of.foreach.clone().filter(|_| port == Port::MAIN),
        node: Node { value: Value::Mapping(entries), ..of.node.clone() },
        spec,
        kinds: vec![("read", of.name_span)],
        sharing: if port == Port::MAIN { of.sharing.clone() } else { Sharing::None },
        lost: of.lost.iter().filter(|key| *key == "when").cloned().collect(),
        ..of.clone()
    }
}

/// The stages that are asked for and all that these need, and why some of them cannot be run. `given` has the ports of stages of which rows
/// are given; `original` has the stages as they are in the file.
fn needed(
    document: &Document,
    original: &[StageDraft],
    asked_for: &BTreeSet<String>,
    given: &BTreeMap<usize, BTreeSet<String>>,
    problems: &mut Vec<UnderTestError>,
) -> BTreeSet<usize> {
    let links = link::links(document, &mut Vec::new());
    let mut into: Vec<Vec<&Link>> = vec![Vec::new(); document.stages.len()];
    links.iter().for_each(|link| into[link.to].push(link));
    let mut shared = vec![Vec::new(); document.stages.len()];
    link::waits_for_shared(document, &links, &[]).iter().for_each(|after| shared[after.to].push(after.from));
    let is_asked_for = |at: &usize| asked_for.contains(&document.stages[*at].name);
    let mut needed: BTreeSet<usize> = (0..document.stages.len()).filter(is_asked_for).collect();
    let mut open: Vec<usize> = needed.iter().copied().collect();
    loop {
        let Some(at) = open.pop() else {
            let checks = link::checks_of(document, &needed);
            open.extend(checks.into_iter().filter(|at| needed.insert(*at)));
            if open.is_empty() {
                return needed;
            }
            continue;
        };
        let draft = &document.stages[at];
        let is_given = given.get(&at).is_some_and(|ports| ports.contains(Port::MAIN)) || draft.name.contains('.');
        let is_given = is_given && !matches!(draft.sharing, Sharing::Sink(_));
        if !is_given {
            problems.extend(outside(draft));
            let unknown = draft.lost.iter().find(|key| *key != "description");
            problems
                .extend(unknown.map(|key| UnderTestError::NotKnown { stage: draft.name.clone(), key: key.clone() }));
        }
        for link in &into[at] {
            let ports = given.get(&link.from);
            let reader = || draft.name.split(':').next().unwrap_or_default().to_owned();
            if let Some(ports) = ports
                && !ports.contains(&link.port)
            {
                problems.push(UnderTestError::PortNotGiven {
                    stage: original[link.from].name.clone(),
                    port: link.port.clone(),
                    reader: reader(),
                });
            } else if needed.insert(link.from) {
                open.push(link.from);
            }
        }
        open.extend(shared[at].iter().copied().filter(|from| needed.insert(*from)));
    }
}

/// Why a stage that is not given cannot be run: it gets what it gives from elsewhere.
fn outside(draft: &StageDraft) -> Option<UnderTestError> {
    // As in `Resolver`: what is shared and says no convention is an object, which cannot be given.
    let has_convention =
        matches!(&draft.spec.python, Some(PythonSpec::Options(options)) if options.convention.is_some());
    let makes_object = draft.sharing == Sharing::Source && !has_convention;
    let (what, verb) = match draft.kind()? {
        "read" => ("the source", "read"),
        "python" if !draft.has("from") && !makes_object => ("the Python source", "run"),
        "command" if !draft.has("from") => ("the command", "run"),
        INPUT => ("the input", "read"),
        _ => return None,
    };
    Some(UnderTestError::NotGiven { stage: draft.name.clone(), what, verb })
}

/// A stage that tests can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testable {
    /// As it is called in the file.
    pub stage: String,
    /// Those out of which rows may come.
    pub ports: Vec<String>,
}

/// The stages that tests can run: not those that get their rows from elsewhere, and not tasks.
pub fn testable(document: &Document) -> Vec<Testable> {
    let mut all: Vec<Testable> = Vec::new();
    let is_stage = |draft: &&StageDraft| draft.is_written() && !matches!(draft.kind(), Some(PIPELINE | INPUT));
    let stages = document.stages.iter().filter(is_stage);
    for draft in stages.filter(|draft| outside(draft).is_none()) {
        let stage = draft.written_name().to_owned();
        if all.iter().any(|one| one.stage == stage) {
            continue;
        }
        let on_error = draft.spec.on_error.as_ref().map(OnErrorSpec::word);
        let rejects = on_error == Some(OnErrorWordSpec::Reject);
        let may_come = |port: &&str| rejects || ![Port::REJECTED, Port::UNEXPECTED].contains(port);
        let ports = ports::named_ports(draft).into_iter().filter(may_come);
        all.push(Testable { stage, ports: ports.map(str::to_owned).collect() });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::diagnostic::SourceText;
    use crate::spec::{Completeness, Given};

    const PIPELINE: &str = "
version: 1
stages:
  rows: { read: rows.csv }
  others: { read: others.csv }
  made: { from: rows, python: 'f:made', on_error: reject, after: task }
  task: { command: [touch, x] }
  both: { from: [made, others], sql: 'SELECT made.a FROM made, others' }
  good: { from: made, write: good.csv }
  bad: { from: made.rejected, write: bad.csv }
";

    /// The stages that are left, by their kinds, or what is wrong.
    fn left(given: &[&str], wanted: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let source = Arc::new(SourceText::new("p.yaml", "/p.yaml", PIPELINE));
        let surroundings = Given {
            set: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            current_dir: PathBuf::from("/"),
            seed: 0,
            completeness: Completeness::Partial,
        };
        let mut document = crate::spec::parse(&source, &surroundings);
        assert!(document.problems.is_empty(), "{:?}", document.problems);
        let given = given.iter().map(|of| GivenRows {
            of: (*of).to_owned(),
            path: format!("/given/{of}"),
            format: Some(FormatSpec::Arrow),
            schema: None,
            is_read_as_its_own: false,
        });
        let to = |of: &&str| WantedRows { of: (*of).to_owned(), to: format!("/out/{of}"), copies: Vec::new() };
        let parts = UnderTest { given: given.collect(), wanted: wanted.iter().map(to).collect(), carried_out: None };
        put_under_test(&mut document, &parts)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let kind = |draft: &StageDraft| format!("{} {}", draft.name, draft.kind().unwrap_or_default());
        Ok(document.stages.iter().map(kind).collect())
    }

    #[test]
    fn only_what_lies_between_is_left() {
        let between = left(&["rows"], &["good", "made.rejected"]);
        assert_eq!(
            between,
            Ok(["rows read", "made python", "good:0 write", "made.rejected:0 write"].map(str::to_owned).to_vec())
        );
        let behind = left(&["made.rejected"], &["bad"]);
        assert_eq!(behind, Ok(["bad:0 write", "made.rejected read"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn what_comes_from_elsewhere_must_be_given() {
        let missing = |given: &[&str], wanted: &[&str]| left(given, wanted).expect_err("something is missing");
        assert_eq!(
            missing(&["made"], &["both"]),
            ["the source `others` would be read, which no test does: give its rows"]
        );
        assert_eq!(
            missing(&["made"], &["bad"]),
            ["stage `made` is given, but not its port `rejected`, from which `bad` reads"]
        );
        assert_eq!(missing(&["task"], &["good.rejected"]).len(), 2);
    }
}
