//! Building a virtual environment in its place: environments cannot be moved, so a marker says when one is complete.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::environment::{Progress, Wanted};
use super::error::EnvironmentError;
use super::host::Host;
use super::interpreter::Interpreter;
use super::key::ALWAYS;
use super::lock::Lock;
use super::tool;

/// In the folder of an environment that is complete.
pub(super) const MARKER: &str = "complete.json";
/// Beside it: its date tells when the environment was last asked for.
pub(super) const USED: &str = "used";

/// Returns the interpreter of the environment `key`, and whether it had to be built.
pub(super) fn build(
    wanted: &Wanted,
    base: &Interpreter,
    key: &str,
    host: &Host,
    progress: &mut dyn FnMut(Progress),
) -> Result<(PathBuf, bool), EnvironmentError> {
    let environments = host.cache.join("envs");
    let folder = environments.join(key);
    if is_complete(&folder) {
        note_use(&folder);
        return Ok((python_of(&folder), false));
    }
    fs::create_dir_all(&environments).map_err(EnvironmentError::io("create", &environments))?;
    let lock_file = environments.join(format!("{key}.lock"));
    let lock =
        Lock::acquire(&lock_file, || progress(Progress::Waiting)).map_err(EnvironmentError::io("lock", &lock_file))?;
    if is_complete(&folder) {
        return Ok((python_of(&folder), false)); // By whoever had the lock.
    }
    lock.share_with_children().map_err(EnvironmentError::io("share", &lock_file))?;
    remove(&folder)?;
    install(wanted, base, &folder, host, progress)?;
    mark_complete(&folder, wanted, base)?;
    Ok((python_of(&folder), true))
}

/// The interpreter of the environment `key`, if that is there.
pub(super) fn complete(key: &str, host: &Host) -> Option<PathBuf> {
    let folder = host.cache.join("envs").join(key);
    is_complete(&folder).then(|| python_of(&folder))
}

pub(super) fn python_of(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

/// That it cannot be noted, as in a cache that may only be read, is no reason to have no environment.
fn note_use(folder: &Path) {
    drop(File::create(folder.join(USED)));
}

pub(super) fn is_complete(folder: &Path) -> bool {
    // `exists` follows the link: the interpreter that the environment was made from may be gone.
    folder.join(MARKER).exists() && python_of(folder).exists()
}

pub(super) fn remove(folder: &Path) -> Result<(), EnvironmentError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EnvironmentError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

fn install(
    wanted: &Wanted,
    base: &Interpreter,
    folder: &Path,
    host: &Host,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), EnvironmentError> {
    let uv = host.find("uv");
    progress(Progress::Building { tool: if uv.is_some() { "uv" } else { "pip" }, folder: folder.to_owned() });
    let mut line = |text| progress(Progress::Line(text));
    let python = python_of(folder);
    let mut install = if let Some(uv) = uv {
        tool::run(Command::new(&uv).args(["venv", "--python"]).arg(&base.executable).arg(folder), &mut line)?;
        let mut install = Command::new(uv);
        install.args(["pip", "install", "--python"]).arg(&python);
        install
    } else {
        tool::run(Command::new(&base.executable).args(["-m", "venv"]).arg(folder), &mut line)?;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]);
        install.env("PIP_USER", "0");
        install
    };
    install.args(ALWAYS).args(&wanted.requirements);
    for file in &wanted.requirement_files {
        install.arg("-r").arg(file);
    }
    if let Some(folder) = &wanted.folder {
        install.current_dir(folder);
    }
    tool::run(&mut install, &mut line)
}

/// Written last and made durable, so that a folder with a marker is whole even after a power cut.
fn mark_complete(folder: &Path, wanted: &Wanted, base: &Interpreter) -> Result<(), EnvironmentError> {
    let text = serde_json::json!({
        "requirements": wanted.requirements,
        "requirement_files": wanted.requirement_files,
        "interpreter": base.real_path,
        "version": base.version.to_string(),
    });
    let (temporary, marker) = (folder.join("complete.json.new"), folder.join(MARKER));
    let write = || {
        rustix::fs::syncfs(File::open(folder)?)?; // The installed files, which came from another program.
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{text:#}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &marker)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(EnvironmentError::io("write", &marker))
}
