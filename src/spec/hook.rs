//! [`HookDraft`]: something that is done when a run has ended, as it was written.

use super::document::StageDraft;

/// When hooks are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A run has failed.
    OnFailure,
    /// A run has ended, however that was.
    Finally,
}

impl Moment {
    /// In the order in which they come.
    pub const ALL: [Self; 2] = [Self::OnFailure, Self::Finally];

    /// The key of the file.
    pub fn key(self) -> &'static str {
        match self {
            Self::OnFailure => "on_failure",
            Self::Finally => "finally",
        }
    }
}

/// A hook as it was written, as far as it can be read.
#[derive(Clone, Debug)]
pub struct HookDraft {
    pub moment: Moment,
    pub stage: StageDraft,
}
