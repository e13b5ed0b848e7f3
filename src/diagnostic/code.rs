//! [`Code`]: the stable name of every problem that a file can have.

use super::Severity;

/// The kind of a problem. The words are stable and described in `docs/errors.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    YamlSyntax,
    YamlDuplicateKey,
    YamlTooLarge,
    YamlTooDeep,
    YamlRecursiveAlias,
    YamlBadMerge,
    YamlUnsupported,
    SpecUnknownKey,
    SpecMissingKey,
    SpecWrongType,
    SpecBadValue,
    SpecBadName,
    SpecUnreadable,
    SpecRecursive,
    ExprSyntax,
    ExprUnknownName,
    ExprFailed,
    ExprInSql,
    ExprInShell,
    ExprAsText,
    ParamBadDefault,
    ParamMissing,
    ParamUnknown,
    ParamBadValue,
    ParamUnused,
    PlanNoKind,
    PlanTwoKinds,
    PlanUnknownStage,
    PlanUnknownPort,
    PlanNothingRejected,
    PlanSinkAsInput,
    PlanMissingInput,
    PlanUnexpectedInput,
    PlanBadInput,
    PlanCycle,
    PlanSqlSyntax,
    PlanUnknownTable,
    PlanUnknownSqlParam,
    PlanUnknownColumn,
    PlanAmbiguousColumn,
    PlanUnknownFunction,
    PlanBadQuery,
    PlanUnlikeInputs,
    PlanUnexpectedType,
    PlanUnknownFormat,
    PlanBadOption,
    PlanBadColumnType,
    PlanBadCall,
    PlanBadSize,
    PlanBadDuration,
    PlanSamePath,
    PlanReadsOwnOutput,
    PlanOnErrorUnsupported,
    PlanFewRows,
    PlanUnknownResource,
    PlanResourceUnused,
    PlanBadRate,
    TestNotGiven,
    TestBadRows,
    TestBadExpectation,
    TestNoPipeline,
}

impl Code {
    pub const ALL: &[Self] = &[
        Self::YamlSyntax,
        Self::YamlDuplicateKey,
        Self::YamlTooLarge,
        Self::YamlTooDeep,
        Self::YamlRecursiveAlias,
        Self::YamlBadMerge,
        Self::YamlUnsupported,
        Self::SpecUnknownKey,
        Self::SpecMissingKey,
        Self::SpecWrongType,
        Self::SpecBadValue,
        Self::SpecBadName,
        Self::SpecUnreadable,
        Self::SpecRecursive,
        Self::ExprSyntax,
        Self::ExprUnknownName,
        Self::ExprFailed,
        Self::ExprInSql,
        Self::ExprInShell,
        Self::ExprAsText,
        Self::ParamBadDefault,
        Self::ParamMissing,
        Self::ParamUnknown,
        Self::ParamBadValue,
        Self::ParamUnused,
        Self::PlanNoKind,
        Self::PlanTwoKinds,
        Self::PlanUnknownStage,
        Self::PlanUnknownPort,
        Self::PlanNothingRejected,
        Self::PlanSinkAsInput,
        Self::PlanMissingInput,
        Self::PlanUnexpectedInput,
        Self::PlanBadInput,
        Self::PlanCycle,
        Self::PlanSqlSyntax,
        Self::PlanUnknownTable,
        Self::PlanUnknownSqlParam,
        Self::PlanUnknownColumn,
        Self::PlanAmbiguousColumn,
        Self::PlanUnknownFunction,
        Self::PlanBadQuery,
        Self::PlanUnlikeInputs,
        Self::PlanUnexpectedType,
        Self::PlanUnknownFormat,
        Self::PlanBadOption,
        Self::PlanBadColumnType,
        Self::PlanBadCall,
        Self::PlanBadSize,
        Self::PlanBadDuration,
        Self::PlanSamePath,
        Self::PlanReadsOwnOutput,
        Self::PlanOnErrorUnsupported,
        Self::PlanFewRows,
        Self::PlanUnknownResource,
        Self::PlanResourceUnused,
        Self::PlanBadRate,
        Self::TestNotGiven,
        Self::TestBadRows,
        Self::TestBadExpectation,
        Self::TestNoPipeline,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::YamlSyntax => "yaml::syntax",
            Self::YamlDuplicateKey => "yaml::duplicate_key",
            Self::YamlTooLarge => "yaml::too_large",
            Self::YamlTooDeep => "yaml::too_deep",
            Self::YamlRecursiveAlias => "yaml::recursive_alias",
            Self::YamlBadMerge => "yaml::bad_merge",
            Self::YamlUnsupported => "yaml::unsupported",
            Self::SpecUnknownKey => "spec::unknown_key",
            Self::SpecMissingKey => "spec::missing_key",
            Self::SpecWrongType => "spec::wrong_type",
            Self::SpecBadValue => "spec::bad_value",
            Self::SpecBadName => "spec::bad_name",
            Self::SpecUnreadable => "spec::unreadable",
            Self::SpecRecursive => "spec::recursive",
            Self::ExprSyntax => "expr::syntax",
            Self::ExprUnknownName => "expr::unknown_name",
            Self::ExprFailed => "expr::failed",
            Self::ExprInSql => "expr::in_sql",
            Self::ExprInShell => "expr::in_shell",
            Self::ExprAsText => "expr::as_text",
            Self::ParamBadDefault => "param::bad_default",
            Self::ParamMissing => "param::missing",
            Self::ParamUnknown => "param::unknown",
            Self::ParamBadValue => "param::bad_value",
            Self::ParamUnused => "param::unused",
            Self::PlanNoKind => "plan::no_kind",
            Self::PlanTwoKinds => "plan::two_kinds",
            Self::PlanUnknownStage => "plan::unknown_stage",
            Self::PlanUnknownPort => "plan::unknown_port",
            Self::PlanNothingRejected => "plan::nothing_rejected",
            Self::PlanSinkAsInput => "plan::sink_as_input",
            Self::PlanMissingInput => "plan::missing_input",
            Self::PlanUnexpectedInput => "plan::unexpected_input",
            Self::PlanBadInput => "plan::bad_input",
            Self::PlanCycle => "plan::cycle",
            Self::PlanSqlSyntax => "plan::sql_syntax",
            Self::PlanUnknownTable => "plan::unknown_table",
            Self::PlanUnknownSqlParam => "plan::unknown_sql_param",
            Self::PlanUnknownColumn => "plan::unknown_column",
            Self::PlanAmbiguousColumn => "plan::ambiguous_column",
            Self::PlanUnknownFunction => "plan::unknown_function",
            Self::PlanBadQuery => "plan::bad_query",
            Self::PlanUnlikeInputs => "plan::unlike_inputs",
            Self::PlanUnexpectedType => "plan::unexpected_type",
            Self::PlanUnknownFormat => "plan::unknown_format",
            Self::PlanBadOption => "plan::bad_option",
            Self::PlanBadColumnType => "plan::bad_column_type",
            Self::PlanBadCall => "plan::bad_call",
            Self::PlanBadSize => "plan::bad_size",
            Self::PlanBadDuration => "plan::bad_duration",
            Self::PlanSamePath => "plan::same_path",
            Self::PlanReadsOwnOutput => "plan::reads_own_output",
            Self::PlanOnErrorUnsupported => "plan::on_error_unsupported",
            Self::PlanFewRows => "plan::few_rows",
            Self::PlanUnknownResource => "plan::unknown_resource",
            Self::PlanResourceUnused => "plan::resource_unused",
            Self::PlanBadRate => "plan::bad_rate",
            Self::TestNotGiven => "test::not_given",
            Self::TestBadRows => "test::bad_rows",
            Self::TestBadExpectation => "test::bad_expectation",
            Self::TestNoPipeline => "test::no_pipeline",
        }
    }

    pub fn severity(self) -> Severity {
        match self {
            Self::ExprAsText
            | Self::ParamUnused
            | Self::PlanNothingRejected
            | Self::PlanFewRows
            | Self::PlanResourceUnused
            | Self::PlanUnlikeInputs => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// Returns whether the command line is at fault and not the file.
    pub fn is_usage(self) -> bool {
        matches!(self, Self::ParamMissing | Self::ParamUnknown | Self::ParamBadValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_the_documentation() {
        let text = include_str!("../../docs/errors.md");
        for code in Code::ALL {
            assert!(text.contains(&format!("### `{}`", code.word())), "docs/errors.md lacks {}", code.word());
        }
        let headings = text.lines().filter(|line| line.starts_with("### `")).count();
        assert_eq!(headings, Code::ALL.len(), "docs/errors.md has a heading that is no code, or ALL lacks one");
    }
}
