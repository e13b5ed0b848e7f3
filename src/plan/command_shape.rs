//! [`CommandShape`]: how a command is run.

use crate::spec::StageDraft;
use crate::spec::model::{CommandModeSpec, CommandSpec, PipeFormatSpec};

/// How a command is run, defaults applied.
#[derive(Clone, Copy, Debug)]
pub struct CommandShape {
    pub mode: CommandModeSpec,
    pub input: PipeFormatSpec,
    pub output: PipeFormatSpec,
}

impl CommandShape {
    /// `None` when the command cannot be read.
    pub fn of(draft: &StageDraft) -> Option<Self> {
        if draft.is_lost("command") {
            return None;
        }
        let (mode, input, output) = match draft.spec.command.as_ref()? {
            CommandSpec::Argv(_) => (None, None, None),
            CommandSpec::Options(options) => (options.mode, options.input, options.output),
        };
        let mode = mode.unwrap_or(if draft.has("from") { CommandModeSpec::Batch } else { CommandModeSpec::Once });
        let default = match mode {
            CommandModeSpec::Batch | CommandModeSpec::Stream => PipeFormatSpec::Jsonl,
            CommandModeSpec::Row | CommandModeSpec::Once => PipeFormatSpec::None,
        };
        Some(Self { mode, input: input.unwrap_or(default), output: output.unwrap_or(default) })
    }
}
