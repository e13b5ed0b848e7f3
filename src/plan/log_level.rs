//! [`LogLevel`]: what workers tell of what their code logs.

use super::resolve::Resolver;
use crate::diagnostic::Code;
use crate::spec::model::LogLevelSpec;

/// Records of less weight are not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
}

impl LogLevel {
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    pub fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Resolver<'_> {
    pub(super) fn log_level(&mut self) -> Option<LogLevel> {
        let spec = self.draft.spec.log_level?;
        if let Some(kind) = self.draft.kind().filter(|kind| *kind != "python") {
            let message = format!("a `{kind}` stage logs nothing by levels, so `log_level` has no meaning");
            let span = self.draft.key_span("log_level");
            self.report_at(Code::PlanBadOption, span, None, message).help =
                Some("remove it; it is for `python` stages".to_owned());
        }
        Some(match spec {
            LogLevelSpec::Debug => LogLevel::Debug,
            LogLevelSpec::Info => LogLevel::Info,
            LogLevelSpec::Warning => LogLevel::Warning,
            LogLevelSpec::Error => LogLevel::Error,
        })
    }
}
