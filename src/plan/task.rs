//! [`TaskFiles`]: what a task reads and makes, so that it need not be run again where nothing has changed.

use std::path::PathBuf;

use super::command_shape::CommandShape;
use super::query::find_word;
use super::resolve::Resolver;
use super::stage::CommandLine;
use crate::diagnostic::{Code, did_you_mean};
use crate::spec::model::{CommandModeSpec, CommandSpec, OutputsSpec, PathsSpec, PipeFormatSpec};
use crate::spec::sub_pipeline::params;

/// The files of a task. One of the two lists may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFiles {
    /// Absolute paths of files or folders, or glob patterns of such.
    pub inputs: Vec<PathBuf>,
    pub outputs: Vec<TaskOutput>,
}

/// A file or a folder that a task makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOutput {
    /// How the command calls the path that it is to write to; `None` if it knows where to write.
    pub name: Option<String>,
    /// Absolute.
    pub path: PathBuf,
}

impl Resolver<'_> {
    pub(super) fn task_files(
        &mut self,
        spec: &CommandSpec,
        shape: CommandShape,
        line: &CommandLine,
    ) -> Option<TaskFiles> {
        let CommandSpec::Options(options) = spec else { return None };
        for (key, is_there) in [("inputs", options.inputs.is_some()), ("outputs", options.outputs.is_some())] {
            let problem = match shape.mode {
                _ if !is_there => continue,
                CommandModeSpec::Once if shape.output == PipeFormatSpec::None => continue,
                CommandModeSpec::Once => "it gives rows",
                CommandModeSpec::Batch | CommandModeSpec::Stream | CommandModeSpec::Row => "it is given rows",
            };
            let message = format!("`{key}` has no meaning for the command of `{}`: {problem}", self.draft.name);
            self.report(Code::PlanBadOption, &["command", key], message).help = Some(
                "remove it; it is for tasks: commands without `from` and `output`. `checkpoint: true` keeps what comes of rows".to_owned(),
            );
            return None;
        }
        if options.inputs.is_none() && options.outputs.is_none() {
            return None;
        }
        let inputs = options.inputs.as_ref().map_or(&[][..], PathsSpec::all);
        self.check_patterns(&["command", "inputs"], inputs);
        let output =
            |name: Option<&str>, path: &str| TaskOutput { name: name.map(str::to_owned), path: self.absolute(path) };
        let outputs = match &options.outputs {
            None => Vec::new(),
            Some(OutputsSpec::One(path)) => vec![output(None, path)],
            Some(OutputsSpec::Many(paths)) => paths.iter().map(|path| output(None, path)).collect(),
            Some(OutputsSpec::Named(paths)) => {
                paths.iter().map(|(name, path)| output(Some(name), path.as_str().unwrap_or_default())).collect()
            }
        };
        self.check_names(&outputs, line);
        Some(TaskFiles { inputs: inputs.iter().map(|path| self.absolute(path)).collect(), outputs })
    }

    /// Every output that has a name must be asked for by it, and nothing else may be.
    fn check_names(&mut self, outputs: &[TaskOutput], line: &CommandLine) {
        let names: Vec<&str> = outputs.iter().filter_map(|output| output.name.as_deref()).collect();
        let uses = |name: &str| match line {
            CommandLine::Argv(_) => false,
            CommandLine::Row(templates) => {
                templates.iter().any(|template| template.columns().any(|column| column == name))
            }
            CommandLine::Shell(script) => find_word(script, name).is_some(),
        };
        for name in
            names.iter().filter(|name| params(self.document, self.draft).iter().any(|param| param.name == **name))
        {
            let message = format!("`{name}` is a param, too: a script could not tell them apart");
            self.report(Code::PlanBadOption, &["command", "outputs", name], message);
        }
        for name in names.iter().filter(|name| !uses(name)) {
            let shown =
                if matches!(line, CommandLine::Shell(_)) { format!("\"${name}\"") } else { format!("{{{name}}}") };
            let message = format!("the command never uses the output `{name}`");
            self.report(Code::PlanBadOption, &["command", "outputs", name], message).help = Some(format!(
                "write `{shown}` where the command takes the path; or, if it knows where to write, list the path without a name: `outputs: [path]`"
            ));
        }
        if let CommandLine::Row(templates) = line {
            let unknown = templates.iter().enumerate().find_map(|(at, template)| {
                let column = template.columns().find(|column| !names.contains(column))?;
                Some((at, column.to_owned()))
            });
            if let Some((at, column)) = unknown {
                let item = self.draft.find(&["command", "run"]).and_then(|node| node.items().get(at));
                let span = item.map_or(self.draft.name_span, |item| item.span);
                let message = format!("`{column}` is no output of the command");
                let help = did_you_mean(&column, names.iter().copied());
                self.report_at(Code::PlanBadOption, span, item.and_then(|item| item.alias), message).help = help;
            }
        }
    }
}
