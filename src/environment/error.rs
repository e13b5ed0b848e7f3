//! [`EnvironmentError`]: why there is no Python for the workers.

use std::io;
use std::path::{Path, PathBuf};

use super::interpreter::Version;

#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    #[error("no Python {} or newer on PATH", Version::OLDEST)]
    NoInterpreter,
    #[error("`{path}` does not run as a Python interpreter: {reason}")]
    NotPython { path: PathBuf, reason: String },
    #[error("`{path}` is Python {version}; {} or newer is needed", Version::OLDEST)]
    TooOld { path: PathBuf, version: Version },
    #[error("`{0}` is not a virtual environment: it has no `bin/python`")]
    NotVenv(PathBuf),
    #[error("`{0}` has no pyarrow, which workers need")]
    NoPyarrow(PathBuf),
    #[error("requirement `{0}` is an option, and not the name of a package")]
    OptionAsRequirement(String),
    #[error("a requirement is empty")]
    EmptyRequirement,
    #[error("cannot read requirements file `{path}`: {source}")]
    RequirementFile { path: PathBuf, source: io::Error },
    #[error("`{command}` failed ({status}):\n{output}")]
    Failed { command: String, status: String, output: String },
    #[error("cannot {action} `{path}`: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is stale: the requirements have changed since it was made", .0.display())]
    StaleLock(PathBuf),
    #[error("the pipeline uses a Python that is there as it is (`venv` or `interpreter`): there is nothing to lock")]
    NothingToLock,
    #[error("no folder for caches: neither XDG_CACHE_HOME nor HOME is set to an absolute path")]
    NoCacheFolder,
}

impl EnvironmentError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::NoInterpreter => {
                "install Python, or name an interpreter with `python: {interpreter: ...}`".to_owned()
            }
            Self::NotPython { .. } => "check the path, and that it starts from a shell".to_owned(),
            Self::TooOld { .. } => format!("install Python {} or newer and name it in `interpreter:`", Version::OLDEST),
            Self::NotVenv(path) => format!("create it with `python3 -m venv {}`", path.display()),
            Self::NoPyarrow(python) => format!("`{} -m pip install pyarrow` installs it", python.display()),
            Self::OptionAsRequirement(_) => "options for pip go into a requirements file".to_owned(),
            Self::EmptyRequirement => "remove it from the list".to_owned(),
            Self::Failed { output, .. } if output.contains("ensurepip") => {
                "install the `venv` module of this Python (on Debian: `apt install python3-venv`), or `uv`".to_owned()
            }
            Self::StaleLock(_) => {
                "`millpond env lock` with the pipeline file makes it anew; without the file, the newest packages that fit are installed".to_owned()
            }
            Self::NothingToLock => "pin its packages where it is made".to_owned(),
            Self::NoCacheFolder => "set HOME or XDG_CACHE_HOME".to_owned(),
            Self::RequirementFile { .. } | Self::Failed { .. } | Self::Io { .. } => return None,
        };
        Some(help)
    }

    /// For `map_err`: what was being done, to what.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
