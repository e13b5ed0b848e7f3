//! [`Environment`]: an interpreter that has what a pipeline requires.

use std::path::{Path, PathBuf};

use super::build;
use super::error::EnvironmentError;
use super::host::Host;
use super::interpreter::Interpreter;
use super::key;

/// What a pipeline asks of Python. An interpreter or a virtual environment that exists is used as it is, and the
/// requirements are then the user's own concern.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Requirement specifiers as pip reads them; not options.
    pub requirements: Vec<String>,
    /// Requirement files, absolute.
    pub requirement_files: Vec<PathBuf>,
    /// Folder that relative paths among the requirements are relative to, absolute.
    pub folder: Option<PathBuf>,
    /// An interpreter that exists, absolute. Goes before `venv`.
    pub interpreter: Option<PathBuf>,
    /// The folder of a virtual environment that exists, absolute.
    pub venv: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// To be started as it is: it may be a link that must not be resolved.
    pub python: PathBuf,
    /// Hexadecimal digest of what decides the content of the environment.
    pub key: String,
    /// Whether it was built just now.
    pub created: bool,
}

/// What happens while an environment is prepared. Nothing is said of one that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process builds this environment.
    Waiting,
    Building {
        tool: &'static str,
        folder: PathBuf,
    },
    /// A line that the tool has printed.
    Line(String),
}

/// Finds or builds an environment. Touches no network when it is there.
pub fn prepare(
    wanted: &Wanted,
    host: &Host,
    progress: &mut dyn FnMut(Progress),
) -> Result<Environment, EnvironmentError> {
    if let Some(interpreter) = &wanted.interpreter {
        return existing(interpreter, host);
    }
    if let Some(venv) = &wanted.venv {
        let python = build::python_of(venv);
        if !python.exists() {
            return Err(EnvironmentError::NotVenv(venv.clone()));
        }
        return existing(&python, host);
    }
    check_requirements(&wanted.requirements)?;
    let base = Interpreter::find(host)?;
    let key = key::built(wanted, &base)?;
    let (python, created) = build::build(wanted, &base, &key, host, progress)?;
    Ok(Environment { python, key, created })
}

/// The interpreter of an environment, if it is there; builds none.
///
/// # Errors
/// If there can be none.
pub fn find(wanted: &Wanted, host: &Host) -> Result<Option<PathBuf>, EnvironmentError> {
    if wanted.interpreter.is_some() || wanted.venv.is_some() {
        return prepare(wanted, host, &mut |_| ()).map(|environment| Some(environment.python));
    }
    check_requirements(&wanted.requirements)?;
    let key = key::built(wanted, &Interpreter::find(host)?)?;
    Ok(build::complete(&key, host))
}

fn existing(path: &Path, host: &Host) -> Result<Environment, EnvironmentError> {
    let mut python = Interpreter::at(path, host)?;
    if !python.has_pyarrow {
        // It may have been installed since.
        python = Interpreter::ask(path, host)?;
    }
    if !python.has_pyarrow {
        return Err(EnvironmentError::NoPyarrow(python.path));
    }
    Ok(Environment { key: key::existing(&python), python: python.path, created: false })
}

/// A requirement that begins with a dash would be an option of pip, such as another package index.
fn check_requirements(requirements: &[String]) -> Result<(), EnvironmentError> {
    for requirement in requirements {
        if requirement.trim().is_empty() {
            return Err(EnvironmentError::EmptyRequirement);
        }
        if requirement.trim_start().starts_with('-') {
            return Err(EnvironmentError::OptionAsRequirement(requirement.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    /// A folder with a fake `python3`, whose `-m venv` makes an environment with a fake pip that notes its arguments.
    struct Machine {
        folder: tempfile::TempDir,
        host: Host,
    }

    const PYTHON: &str = r#"#!/bin/sh
case "$1 $2" in
  "-c "*)
    echo "noise from a start-up file"
    echo "millpond-version VERSION"
    echo "millpond-executable $0"
    echo "millpond-path $0"
    echo "millpond-pyarrow PYARROW" ;;
  "-m venv")
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    shift 2
    echo "$@" >> "LOG"
    echo "pip says hello"
    case "$*" in *broken*) echo "No matching distribution found for broken" >&2; exit 1 ;; esac ;;
esac
"#;

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let host = Host {
                cache: folder.path().join("cache"),
                search: std::env::join_paths([&folder.path().join("bin")]).expect("no colon in it"),
            };
            fs::create_dir(folder.path().join("bin")).expect("created");
            Self { folder, host }
        }

        fn with_python(version: &str) -> Self {
            let machine = Self::new();
            machine.add_python("python3", version, "");
            machine
        }

        fn add_python(&self, name: &str, version: &str, pyarrow: &str) -> PathBuf {
            let log = self.log_file();
            let script = PYTHON
                .replace("VERSION", version)
                .replace("PYARROW", pyarrow)
                .replace("LOG", log.to_str().expect("UTF-8"))
                // The fake environment copies itself, and needs programs to do so.
                .replacen('\n', "\nPATH=/usr/bin:/bin\n", 1);
            self.add_program(&format!("bin/{name}"), &script)
        }

        fn add_program(&self, path: &str, script: &str) -> PathBuf {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a file")).expect("created");
            // Written by another process: a program that this one has open for writing, if only in a child that another
            // test is about to start, cannot be run.
            let mut writer = Command::new("/bin/sh")
                .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
                .arg(&path)
                .stdin(Stdio::piped())
                .spawn()
                .expect("there is a shell");
            writer.stdin.take().expect("piped").write_all(script.as_bytes()).expect("read");
            assert!(writer.wait().expect("it ends").success());
            path
        }

        fn log_file(&self) -> PathBuf {
            self.folder.path().join("pip.log")
        }

        /// The arguments of each run of pip.
        fn log(&self) -> Vec<String> {
            let text = fs::read_to_string(self.log_file()).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }

        fn prepare(&self, wanted: &Wanted) -> Result<Environment, EnvironmentError> {
            prepare(wanted, &self.host, &mut |_| {})
        }

        fn error(&self, wanted: &Wanted) -> String {
            self.prepare(wanted).expect_err("it must fail").to_string()
        }
    }

    fn requirements(list: &[&str]) -> Wanted {
        Wanted { requirements: list.iter().map(ToString::to_string).collect(), ..Wanted::default() }
    }

    #[test]
    fn an_environment_is_built_once() {
        let machine = Machine::with_python("3 11 7");
        let wanted = requirements(&["pandas>=2", "scikit-learn"]);
        let mut said = Vec::new();
        let first = prepare(&wanted, &machine.host, &mut |progress| said.push(progress)).expect("built");
        assert!(first.created && first.python.exists());
        let folder = machine.host.cache.join("envs").join(&first.key);
        assert_eq!(said, [Progress::Building { tool: "pip", folder }, Progress::Line("pip says hello".to_owned())]);
        let second = prepare(&wanted, &machine.host, &mut |progress| panic!("{progress:?}")).expect("found");
        assert_eq!(second, Environment { created: false, ..first });
        let log = machine.log();
        assert_eq!(log.len(), 1);
        assert!(log[0].ends_with("--progress-bar off pyarrow pandas>=2 scikit-learn"), "{log:?}");
    }

    #[test]
    fn requirement_files_are_passed_on_and_keyed_by_content() {
        let machine = Machine::with_python("3 11 7");
        let file = machine.folder.path().join("requirements.txt");
        fs::write(&file, "--index-url https://example.org\nnumpy\n").expect("written");
        let wanted = Wanted { requirement_files: vec![file.clone()], ..Wanted::default() };
        let first = machine.prepare(&wanted).expect("built");
        assert!(machine.log()[0].ends_with(&format!("pyarrow -r {}", file.display())));
        fs::write(&file, "numpy==2\n").expect("written");
        assert_ne!(machine.prepare(&wanted).expect("built").key, first.key);
    }

    #[test]
    fn an_incomplete_environment_is_built_again() {
        let machine = Machine::with_python("3 11 7");
        let first = machine.prepare(&requirements(&[])).expect("built");
        let folder = machine.host.cache.join("envs").join(&first.key);
        fs::remove_file(folder.join("complete.json")).expect("removed");
        fs::write(folder.join("half a package"), "").expect("written");
        assert!(machine.prepare(&requirements(&[])).expect("built").created);
        assert!(!folder.join("half a package").exists());
    }

    #[test]
    fn a_failed_installation_says_why_and_leaves_nothing_that_counts() {
        let machine = Machine::with_python("3 11 7");
        let text = machine.error(&requirements(&["broken"]));
        assert!(text.contains("No matching distribution found for broken"), "{text}");
        assert!(text.contains("-m pip install") && text.contains("exit status: 1"), "{text}");
        machine.error(&requirements(&["broken"]));
        assert_eq!(machine.log().len(), 2);
    }

    #[test]
    fn two_runs_at_once_build_once() {
        let machine = Arc::new(Machine::with_python("3 11 7"));
        let barrier = Arc::new(Barrier::new(4));
        let runs: Vec<_> = (0..4)
            .map(|_| {
                let (machine, barrier) = (Arc::clone(&machine), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    machine.prepare(&requirements(&["pandas"])).expect("built or found").created
                })
            })
            .collect();
        let created = runs.into_iter().map(|run| run.join().expect("no panic")).filter(|&it| it).count();
        assert_eq!(created, 1);
        assert_eq!(machine.log().len(), 1);
    }

    #[test]
    fn uv_is_preferred() {
        let machine = Machine::with_python("3 11 7");
        let script = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\necho \"uv $@\" >> {}\n[ $1 = venv ] && mkdir -p $4/bin && touch $4/bin/python || true\n",
            machine.log_file().display()
        );
        machine.add_program("bin/uv", &script);
        let environment = machine.prepare(&requirements(&["pandas"])).expect("built");
        let log = machine.log();
        assert!(log[0].starts_with("uv venv --python "), "{log:?}");
        assert_eq!(log[1], format!("uv pip install --python {} pyarrow pandas", environment.python.display()));
    }

    #[test]
    fn options_are_no_requirements() {
        let machine = Machine::with_python("3 11 7");
        assert!(machine.error(&requirements(&["--index-url=https://evil.example"])).contains("is an option"));
        assert!(machine.error(&requirements(&[" -r other.txt"])).contains("is an option"));
        assert_eq!(machine.error(&requirements(&[" "])), "a requirement is empty");
        assert!(machine.log().is_empty());
    }

    #[test]
    fn a_newer_python_is_found_beside_an_old_one() {
        let machine = Machine::with_python("3 9 2");
        let text = machine.error(&requirements(&[]));
        assert!(text.ends_with("is Python 3.9.2; 3.10 or newer is needed"), "{text}");
        machine.add_python("python3.10", "3 10 1", "");
        machine.add_python("python3.12", "3 12 0", "");
        let environment = machine.prepare(&requirements(&[])).expect("built");
        let marker = machine.host.cache.join("envs").join(environment.key).join("complete.json");
        assert!(fs::read_to_string(marker).expect("written").contains("\"version\": \"3.12\""));
    }

    #[test]
    fn no_python_at_all() {
        let error = Machine::new().prepare(&requirements(&[])).expect_err("no python");
        assert_eq!(error.to_string(), "no Python 3.10 or newer on PATH");
        assert!(error.help().expect("there is help").contains("interpreter"));
    }

    #[test]
    fn an_interpreter_that_exists_needs_pyarrow() {
        let machine = Machine::new();
        let without = machine.add_python("without", "3 11 7", "");
        let with = machine.add_python("with", "3 11 7", "/site/pyarrow/__init__.py");
        let wanted = |path: &Path| Wanted { interpreter: Some(path.to_owned()), ..Wanted::default() };
        assert!(machine.error(&wanted(&without)).contains("has no pyarrow"));
        let environment = machine.prepare(&wanted(&with)).expect("used as it is");
        assert_eq!((environment.python, environment.created), (with, false));
    }

    #[test]
    fn what_is_no_interpreter_is_named() {
        let machine = Machine::new();
        let silent = machine.add_program("bin/silent", "#!/bin/sh\n");
        let failing = machine.add_program("bin/failing", "#!/bin/sh\necho broken >&2; exit 2\n");
        let wanted = |path: &Path| Wanted { interpreter: Some(path.to_owned()), ..Wanted::default() };
        assert!(machine.error(&wanted(&silent)).contains("does not run as a Python interpreter: it answered ``"));
        assert!(machine.error(&wanted(&failing)).contains("exit status: 2\nbroken"));
        assert!(machine.error(&wanted(Path::new("/no/python"))).contains("No such file"));
    }

    #[test]
    fn a_venv_that_exists_is_used() {
        let machine = Machine::new();
        let wanted = Wanted { venv: Some(machine.folder.path().join("venv")), ..Wanted::default() };
        assert!(machine.error(&wanted).contains("is not a virtual environment"));
        machine.add_python("../venv/bin/python", "3 11 7", "/site/pyarrow/__init__.py");
        let environment = machine.prepare(&wanted).expect("used as it is");
        assert_eq!(environment.python, machine.folder.path().join("venv/bin/python"));
    }

    /// Builds a real environment the first time it runs on a machine, and finds it in the user's cache afterwards.
    #[test]
    fn a_real_environment_has_pyarrow() {
        let host = Host::from_env().expect("a home folder");
        let environment = prepare(&Wanted::default(), &host, &mut |_| {}).expect("built or found");
        assert!(Interpreter::ask(&environment.python, &host).expect("it runs").has_pyarrow);
        assert!(!prepare(&Wanted::default(), &host, &mut |_| {}).expect("found").created);
    }
}
