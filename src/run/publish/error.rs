//! [`PublishError`]: why outputs could not be published.

use std::io;
use std::path::{Path, PathBuf};

use crate::run::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the output {} is a folder", path.display())]
    IsFolder { path: PathBuf },
    #[error("the output {} is a file, and the stage writes a folder", path.display())]
    IsFile { path: PathBuf },
    #[error(
        "the output folder {} has something in it that no stage like this one has written, and that would be lost: {}; remove it, or name \
         another folder",
        path.display(),
        found.display()
    )]
    Foreign { path: PathBuf, found: PathBuf },
    #[error("the output folder {} is where a file system is mounted, and cannot be replaced as a whole; name a folder in it", path.display())]
    MountPoint { path: PathBuf },
    #[error("the output {} is neither a file nor new; to write to a pipe, write to `-` and redirect it", path.display())]
    NotRegular { path: PathBuf },
    #[error("the output {} is a folder around the state folder of the run, which would be lost", path.display())]
    AroundState { path: PathBuf },
    #[error(
        "{source}: a run that has died has left it there; remove it yourself, or give this run another `--state-dir`"
    )]
    Leftover { source: Box<PublishError> },
    #[error("the output {} is there already, or has come there while the run went on, and stays as it is", path.display())]
    Exists { path: PathBuf },
    #[error(
        "the output {} was changed by somebody else while the run went on, and nothing can be appended to it as it was to be; run it again",
        path.display()
    )]
    Changed { path: PathBuf },
    #[error(
        "the output {} is not as a run that died has left it: something else was written to it since; remove {} if what this has need not be \
         appended any more",
        path.display(),
        staged.display()
    )]
    Overtaken { path: PathBuf, staged: PathBuf },
    #[error("cannot {action} {url}: {source}")]
    Store { action: &'static str, url: String, source: StoreError },
    #[error(
        "{source}; a run that has ended could not publish all that it had decided to, and no run goes on before that is done: mend what is wrong, or \
         remove {}, and what is not published yet is lost",
        run.display()
    )]
    Unfinished { run: PathBuf, source: Box<PublishError> },
    #[error(
        "another run has read the same new files and was published while this one went on; run it again, and it reads what is new then"
    )]
    Overlapping,
    #[error("two outputs have the path {}", path.display())]
    Twice { path: PathBuf },
    #[error("the journal {} of an interrupted run cannot be understood: {message}", path.display())]
    Journal { path: PathBuf, message: String },
}

impl PublishError {
    /// The failure of the system behind this error, if there is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Store { source, .. } => source.io(),
            Self::Leftover { source } | Self::Unfinished { source, .. } => source.io(),
            Self::IsFolder { .. }
            | Self::IsFile { .. }
            | Self::Foreign { .. }
            | Self::MountPoint { .. }
            | Self::Changed { .. }
            | Self::Overtaken { .. }
            | Self::NotRegular { .. }
            | Self::AroundState { .. }
            | Self::Exists { .. }
            | Self::Overlapping
            | Self::Twice { .. }
            | Self::Journal { .. } => None,
        }
    }

    pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
