//! [`LockFile`]: the very packages of an environment, written down beside a pipeline.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::environment::{Environment, Wanted};
use super::error::EnvironmentError;
use super::host::Host;
use super::key;
use super::tool;

/// Before the digest of the requirements that were resolved.
const DIGEST: &str = "# requirements: ";

/// A file with the packages that requirements were resolved to.
#[derive(Clone, Debug)]
pub struct LockFile {
    pub path: PathBuf,
}

impl LockFile {
    /// Of a pipeline file: `NAME.lock.txt` beside it, whether it is there or not.
    pub fn of(pipeline: &Path) -> Self {
        Self { path: pipeline.with_extension("lock.txt") }
    }

    /// What is wanted, with the packages of the file in the place of the requirements if there is one.
    ///
    /// # Errors
    /// If the requirements are others than those of which it was made.
    pub fn apply(&self, wanted: Wanted) -> Result<Wanted, EnvironmentError> {
        if wanted.interpreter.is_some() || wanted.venv.is_some() {
            return Ok(wanted);
        }
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(wanted),
            Err(source) => return Err(EnvironmentError::RequirementFile { path: self.path.clone(), source }),
        };
        let digest = text.lines().find_map(|line| line.strip_prefix(DIGEST));
        if digest != Some(key::requirements(&wanted)?.as_str()) {
            return Err(EnvironmentError::StaleLock(self.path.clone()));
        }
        Ok(Wanted { requirements: Vec::new(), requirement_files: vec![self.path.clone()], ..wanted })
    }

    /// Writes the packages of an environment that was built for what is wanted. Gives how many they are.
    ///
    /// # Errors
    /// If they cannot be told, or the file cannot be written.
    pub fn write(
        &self,
        pipeline: &str,
        wanted: &Wanted,
        environment: &Environment,
        host: &Host,
    ) -> Result<usize, EnvironmentError> {
        let mut freeze = match host.find("uv") {
            Some(uv) => {
                let mut freeze = Command::new(uv);
                freeze.args(["pip", "freeze", "--quiet", "--python"]).arg(&environment.python);
                freeze
            }
            None => {
                let mut freeze = Command::new(&environment.python);
                freeze.args(["-m", "pip", "freeze", "--disable-pip-version-check"]);
                freeze
            }
        };
        let mut packages = Vec::new();
        tool::run(&mut freeze, &mut |line| packages.push(line))?;
        let mut text = format!(
            "# The packages of `{pipeline}`, as `millpond env lock` has resolved them. Runs install these.\n{DIGEST}{}\n",
            key::requirements(wanted)?
        );
        packages.iter().for_each(|package| text += &format!("{package}\n"));
        let failed = EnvironmentError::io("write", &self.path);
        let write = || {
            let folder = self.path.parent().unwrap_or(Path::new("/"));
            let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(failed)?;
        Ok(packages.len())
    }
}

/// As other files are: it is for version control.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
