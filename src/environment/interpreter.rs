//! [`Interpreter`]: a Python that was asked who it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::EnvironmentError;
use super::host::Host;
use super::remembered;

/// Minor versions of Python 3 that are looked for by name, the newest first.
const NEWEST_MINOR: u32 = 20;

/// Prints what [`Interpreter::ask`] reads. Code that runs at every start of an interpreter may print too, hence the marks.
const QUESTION: &str = "
import importlib.util, os, sys
print('millpond-version', *sys.version_info[:3])
print('millpond-executable', sys.executable)
print('millpond-path', os.path.realpath(sys.executable))
print('millpond-pyarrow', getattr(importlib.util.find_spec('pyarrow'), 'origin', None) or '')
";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
}

impl Version {
    pub const OLDEST: Self = Self { major: 3, minor: 10, micro: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.micro {
            0 => write!(f, "{}.{}", self.major, self.minor),
            micro => write!(f, "{}.{}.{micro}", self.major, self.minor),
        }
    }
}

/// An interpreter that runs and is new enough.
#[derive(Clone, Debug)]
pub(super) struct Interpreter {
    /// As it is started: a symbolic link in a virtual environment must not be resolved.
    pub path: PathBuf,
    /// What runs behind a wrapper that chooses among versions by the current folder.
    pub executable: PathBuf,
    pub real_path: String,
    pub version: Version,
    pub has_pyarrow: bool,
}

impl Interpreter {
    /// What `path` is; it is run only if that is not known. An error if it is no Python or an old one.
    pub fn at(path: &Path, host: &Host) -> Result<Self, EnvironmentError> {
        let known = remembered::recall(host, path, QUESTION).and_then(|answer| Self::parse(path, &answer));
        known.map_or_else(|| Self::ask(path, host), Ok)
    }

    /// Runs `path`; an error if it is no Python or an old one.
    pub fn ask(path: &Path, host: &Host) -> Result<Self, EnvironmentError> {
        let not_python = |reason: String| EnvironmentError::NotPython { path: path.to_owned(), reason };
        let output = Command::new(path)
            .args(["-c", QUESTION])
            .current_dir("/") // Not the user's folder, which would be importable.
            .stdin(Stdio::null())
            .output()
            .map_err(|error| not_python(error.to_string()))?;
        if !output.status.success() {
            return Err(not_python(format!(
                "{}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            )));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let interpreter =
            Self::parse(path, &text).ok_or_else(|| not_python(format!("it answered `{}`", text.trim_end())))?;
        if interpreter.version < Version::OLDEST {
            return Err(EnvironmentError::TooOld { path: path.to_owned(), version: interpreter.version });
        }
        remembered::note(host, path, QUESTION, &text);
        Ok(interpreter)
    }

    /// The Python that environments are made from: `python3`, else the newest `python3.N`.
    pub fn find(host: &Host) -> Result<Self, EnvironmentError> {
        let names = std::iter::once("python3".to_owned())
            .chain((Version::OLDEST.minor..=NEWEST_MINOR).rev().map(|minor| format!("python3.{minor}")));
        let mut problem = EnvironmentError::NoInterpreter;
        for path in names.filter_map(|name| host.find(name)) {
            match Self::at(&path, host) {
                Ok(interpreter) => return Ok(interpreter),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn parse(path: &Path, text: &str) -> Option<Self> {
        let answer = |mark: &str| text.lines().find_map(|line| line.strip_prefix(mark)?.strip_prefix(' '));
        let numbers: Vec<u32> =
            answer("millpond-version")?.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let &[major, minor, micro] = numbers.as_slice() else { return None };
        Some(Self {
            path: path.to_owned(),
            executable: answer("millpond-executable")?.into(),
            real_path: answer("millpond-path")?.to_owned(),
            version: Version { major, minor, micro },
            has_pyarrow: !answer("millpond-pyarrow")?.is_empty(),
        })
    }
}
