//! The ports of stages, by what a file says of them.

use super::command_shape::CommandShape;
use super::file::format_of;
use super::reference::Reference;
use super::stage::Port;
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::format::Format;
use crate::spec::expect::EXPECT;
use crate::spec::model::{
    CommandModeSpec, ConventionSpec, OnErrorWordSpec, PipeFormatSpec, PortsSpec, PythonSpec, ReadSpec,
};
use crate::spec::sub_pipeline::PIPELINE;
use crate::spec::{OutputDraft, StageDraft};

/// The ports of a stage, `rejected` the last; `None` when its kind is not clear.
pub fn ports(draft: &StageDraft) -> Option<Vec<&str>> {
    let kind = draft.kind()?;
    match kind {
        "write" => Some(Vec::new()),
        // Whether a query can reject rows is known when it is read.
        EXPECT | "sql" => Some(vec![Port::MAIN, Port::REJECTED]),
        // Of a file that cannot be read.
        PIPELINE if draft.is_lost(PIPELINE) => None,
        PIPELINE => {
            let named = draft.outputs.iter().map(|output| output.port.as_str());
            let only = (draft.outputs.len() == 1).then_some(Port::MAIN);
            Some(only.into_iter().chain(named.filter(|name| draft.outputs.len() != 1 || *name != Port::MAIN)).collect())
        }
        "command" => {
            let shape = CommandShape::of(draft)?;
            let gives_rows = shape.output != PipeFormatSpec::None || shape.mode == CommandModeSpec::Row;
            let main = gives_rows.then_some(Port::MAIN);
            let rejected = (shape.mode != CommandModeSpec::Once).then_some(Port::REJECTED);
            Some(main.into_iter().chain(rejected).collect())
        }
        "python" => {
            let rejected = (draft.has("from") && !keeps_state(draft)).then_some(Port::REJECTED);
            let given = declared_ports(draft).map_or_else(|| vec![Port::MAIN], PortsSpec::names);
            Some(given.into_iter().filter(|name| *name != Port::REJECTED).chain(rejected).collect())
        }
        "read" => {
            let rejected = draft.spec.read.as_ref().is_none_or(splits_text).then_some(Port::REJECTED);
            Some(std::iter::once(Port::MAIN).chain(rejected).collect())
        }
        _ => Some(vec![Port::MAIN]),
    }
}

/// Whether what is read is text that is split into records, of which one may be malformed. It may be, if nobody knows.
fn splits_text(read: &ReadSpec) -> bool {
    format_of(read).is_none_or(Format::has_records)
}

/// The ports that `from` can name.
pub fn named_ports(draft: &StageDraft) -> Vec<&str> {
    let unexpected = draft.has(EXPECT).then_some(Port::UNEXPECTED);
    // Queries and sources seldom reject rows.
    let is_idle = matches!(draft.kind(), Some("sql" | "read")) && draft.spec.on_error.is_none();
    let ports = ports(draft).unwrap_or_default().into_iter();
    ports.filter(|port| !is_idle || *port != Port::REJECTED).chain(unexpected).collect()
}

/// Several outputs of a function, if it has them.
pub fn declared_ports(draft: &StageDraft) -> Option<&PortsSpec> {
    match &draft.spec.python {
        Some(PythonSpec::Options(options)) => options.ports.as_ref(),
        _ => None,
    }
}

/// Whether a stage keeps state from batch to batch. Rows that have changed it cannot be taken out of it again.
pub fn keeps_state(draft: &StageDraft) -> bool {
    let is_stream = matches!(&draft.spec.python, Some(PythonSpec::Options(options)) if options.convention == Some(ConventionSpec::Stream));
    draft.has("partition_by") || is_stream
}

/// The output of a stage that is a pipeline; with only one, it needs no name.
pub fn output<'a>(pipeline: &'a StageDraft, port: &str) -> Option<&'a OutputDraft> {
    let named = pipeline.outputs.iter().find(|output| output.port == port);
    named.or(match pipeline.outputs.as_slice() {
        [only] if port == Port::MAIN => Some(only),
        _ => None,
    })
}

/// What is wrong with reading from a port, by who refers to it.
pub fn check(producer: &StageDraft, port: &str, reference: &Reference<'_>) -> Option<Diagnostic> {
    let ports = ports(producer)?;
    let name = producer.written_name();
    let rejects = producer.is_lost("on_error")
        || producer.spec.on_error.as_ref().is_some_and(|on_error| on_error.word() == OnErrorWordSpec::Reject);
    let can_reject = port == Port::REJECTED && ports.contains(&port);
    if can_reject || (port == Port::UNEXPECTED && producer.has(EXPECT)) {
        let message = format!("nothing ever arrives from `{name}.{port}`");
        let warning = Diagnostic::new(Code::PlanNothingRejected, reference.span, message)
            .help(format!("add `on_error: reject` to the stage `{name}`"));
        return (!rejects).then(|| warning.through(reference.through));
    }
    if port == Port::REJECTED && !ports.contains(&port) && producer.has(EXPECT) {
        let message = format!("stage `{name}` has no port `{port}`");
        let help = format!("rows that are not as expected are `{name}.{}`", Port::UNEXPECTED);
        return Some(
            Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through),
        );
    }
    // That a stage cannot reject, and is to, is said where it is asked for.
    if ports.contains(&port) || (port == Port::REJECTED && rejects) {
        return None;
    }
    if port == Port::MAIN {
        let several = declared_ports(producer).map(PortsSpec::names).unwrap_or_default().into_iter();
        let several = several.chain(producer.outputs.iter().map(|output| output.port.as_str()));
        let several: Vec<_> = several.map(|port| format!("`{name}.{port}`")).collect();
        if !several.is_empty() {
            let what = if producer.kind() == Some(PIPELINE) { "the pipeline" } else { "stage" };
            let message = format!("{what} `{name}` has several outputs: say which");
            let problem = Diagnostic::new(Code::PlanUnknownPort, reference.span, message).through(reference.through);
            return Some(problem.help(format!("read from {}", several.join(" or "))));
        }
        let message = format!("stage `{name}` gives no rows, so nothing can read from it");
        let problem = Diagnostic::new(Code::PlanSinkAsInput, reference.span, message).through(reference.through);
        let help = match producer.kind() {
            Some("write") => "read from the stage that this sink reads from",
            Some(PIPELINE) => "say in its file under `outputs` which rows others can read",
            _ => "give the command an `output` format",
        };
        return Some(problem.related(producer.name_span, "this stage").help(help.to_owned()));
    }
    let message = format!("stage `{name}` has no port `{port}`");
    if port == Port::UNEXPECTED {
        let help = Some(format!("say what the rows of `{name}` must be like, with `expect`"));
        return Some(
            Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through),
        );
    }
    let help = if ports.is_empty() { None } else { did_you_mean(port, ports) };
    Some(Diagnostic::new(Code::PlanUnknownPort, reference.span, message).help(help).through(reference.through))
}
