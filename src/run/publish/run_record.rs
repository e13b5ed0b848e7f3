//! [`RunRecord`] and [`RecordedOutcome`]: what a run was given and what it came to, as its folder tells later ones.
//!
//! Nothing that publishes or recovers depends on them: a file that is not there, torn, or of somebody else is as if it were not there.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::durable::write_whole;
use super::error::PublishError;
use super::journal::{path_from_json, path_to_json};

const RECORD: &str = "run.json";
const OUTCOME: &str = "outcome.json";
const VERSION: u64 = 1;
/// What is longer is not ours: a command line has 2 MiB at most.
const MOST_BYTES: u64 = 16 << 20;

/// What a run was given: `run.json` in its folder, written before anything else is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline file, without symbolic links.
    pub file: PathBuf,
    /// `--set name=value`, as it was typed.
    pub set: Vec<(String, String)>,
    /// Relative paths in `set` are relative to it.
    pub current_dir: PathBuf,
    pub seed: u64,
    pub started: SystemTime,
    /// What `now()` says in queries: the start of the first of the runs that were resumed.
    pub now: SystemTime,
    /// The run that this one goes on with.
    pub resumes: Option<String>,
    /// The run of which this one does again what was rejected.
    pub corrects: Option<String>,
    /// Whether it was a look at some rows (`show`, `--until`), and nothing to go on with.
    pub is_trial: bool,
}

/// What a run came to: `outcome.json` in its folder. A run that was killed has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedOutcome {
    pub ended: Ended,
    pub exit_code: u8,
    pub duration: Duration,
    /// Rows rejected or skipped by all stages; `None` if the run had no accounts.
    pub rows_rejected: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Succeeded,
    Failed,
    Interrupted,
}

impl Ended {
    const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Interrupted];

    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

impl RunRecord {
    pub(super) fn write(&self, run: &Path) -> Result<(), PublishError> {
        write_whole(&run.join(RECORD), self.to_json().to_string().as_bytes())
    }

    /// The record in a run's folder; `None` if there is none that can be understood.
    pub(super) fn read(run: &Path) -> Option<Self> {
        Self::from_json(&read_json(&run.join(RECORD))?)
    }

    fn to_json(&self) -> Value {
        json!({
            "version": VERSION,
            "millpond": env!("CARGO_PKG_VERSION"),
            "pipeline": self.pipeline,
            "file": path_to_json(&self.file),
            "set": self.set,
            "current_dir": path_to_json(&self.current_dir),
            "seed": self.seed,
            "started": time_to_json(self.started),
            "now": time_to_json(self.now),
            "resumes": self.resumes,
            "corrects": self.corrects,
            "trial": self.is_trial,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            pipeline: value["pipeline"].as_str()?.to_owned(),
            file: path_from_json(&value["file"])?,
            set: serde_json::from_value(value["set"].clone()).ok()?,
            current_dir: path_from_json(&value["current_dir"])?,
            seed: value["seed"].as_u64()?,
            started: time_from_json(&value["started"])?,
            now: time_from_json(&value["now"])?,
            resumes: value["resumes"].as_str().map(str::to_owned),
            corrects: value["corrects"].as_str().map(str::to_owned),
            is_trial: value["trial"].as_bool().unwrap_or(false),
        })
    }
}

impl RecordedOutcome {
    pub(super) fn write(&self, run: &Path) -> Result<(), PublishError> {
        write_whole(&run.join(OUTCOME), self.to_json().to_string().as_bytes())
    }

    /// The outcome in a run's folder; `None` if there is none that can be understood.
    pub(super) fn read(run: &Path) -> Option<Self> {
        Self::from_json(&read_json(&run.join(OUTCOME))?)
    }

    fn to_json(&self) -> Value {
        json!({
            "version": VERSION,
            "outcome": self.ended.word(),
            "exit_code": self.exit_code,
            "seconds": self.duration.as_secs_f64(),
            "rows_rejected": self.rows_rejected,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let word = value["outcome"].as_str()?;
        Some(Self {
            ended: Ended::ALL.into_iter().find(|ended| ended.word() == word)?,
            exit_code: value["exit_code"].as_u64()?.try_into().ok()?,
            duration: Duration::try_from_secs_f64(value["seconds"].as_f64()?).ok()?,
            rows_rejected: value["rows_rejected"].as_u64(),
        })
    }
}

/// A file of this version; `None` if it is anything else.
fn read_json(path: &Path) -> Option<Value> {
    // Another thing than a file might never come to its end.
    if !path.is_file() {
        return None;
    }
    let mut text = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    let value: Value = serde_json::from_slice(&text).ok()?;
    (value["version"] == VERSION).then_some(value)
}

/// To the nanosecond: `now()` is to say the same when a run is resumed.
fn time_to_json(time: SystemTime) -> Value {
    humantime::format_rfc3339_nanos(time).to_string().into()
}

fn time_from_json(value: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.as_str()?).ok()
}

#[cfg(test)]
impl RunRecord {
    /// Of a run of `file` that was given nothing.
    pub fn of(file: &Path) -> Self {
        Self {
            pipeline: "tested".to_owned(),
            file: file.to_owned(),
            set: Vec::new(),
            current_dir: "/".into(),
            seed: 0,
            started: SystemTime::UNIX_EPOCH,
            now: SystemTime::UNIX_EPOCH,
            resumes: None,
            corrects: None,
            is_trial: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let record = RunRecord {
            set: vec![("a".to_owned(), "b=c \n\"".to_owned()), ("a".to_owned(), String::new())],
            current_dir: OsString::from_vec(b"/not \xff text".to_vec()).into(),
            seed: u64::MAX,
            now: SystemTime::UNIX_EPOCH + Duration::new(1_764_166_811, 123_456_789),
            resumes: Some("earlier".to_owned()),
            corrects: Some("earliest".to_owned()),
            is_trial: true,
            ..RunRecord::of(Path::new("/a/b.yaml"))
        };
        record.write(folder.path()).unwrap();
        assert_eq!(RunRecord::read(folder.path()), Some(record));
        for rows_rejected in [None, Some(7)] {
            let outcome = RecordedOutcome {
                ended: Ended::Interrupted,
                exit_code: 130,
                duration: Duration::from_millis(1500),
                rows_rejected,
            };
            outcome.write(folder.path()).unwrap();
            assert_eq!(RecordedOutcome::read(folder.path()), Some(outcome));
        }
    }

    #[test]
    fn what_is_torn_or_of_others_is_as_if_it_were_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RECORD);
        assert_eq!(RunRecord::read(folder.path()), None);
        let whole = RunRecord::of(Path::new("/a.yaml")).to_json().to_string();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(RunRecord::read(folder.path()), None, "cut at {length}");
        }
        for text in ["[]", "7", "{\"version\":2}", &whole.replace("\"set\":[]", "\"set\":[[1]]"), "\0\u{1b}"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(RunRecord::read(folder.path()), None, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(RunRecord::read(folder.path()), None);
    }
}
