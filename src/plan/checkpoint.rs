//! [`Checkpoint`]: which stages keep their finished batches, where else, and how sources are cut for them.

use std::num::NonZeroU32;
use std::path::PathBuf;

use object_store::ObjectStoreScheme;
use object_store::path::Path;
use url::Url;

use super::plan::Edge;
use super::resolve::Resolver;
use super::stage::{CommandMode, Stage, StageKind};
use crate::diagnostic::Code;
use crate::spec::model::{CheckpointSpec, PathsSpec};

/// That finished batches are kept, so that a later run need not do them again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Absolute glob patterns of files that the stage reads beside its code and what it is given: if one of them changes, so may what it
    /// gives.
    pub depends: Vec<PathBuf>,
    pub share: Option<SharePlace>,
}

/// A place that others use, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharePlace {
    /// An absolute path.
    Folder(PathBuf),
    Store(StoreUrl),
}

/// A prefix in an object store. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl {
    pub provider: Provider,
    pub url: String,
    /// What names of objects begin with.
    pub prefix: Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// And others that speak its protocol.
    S3,
    Google,
    Azure,
}

/// Requests that are sent to stores at once. An answer takes long, and whoever waits for it does no work: with 50 ms, these are more than 600
/// batches a second. As many have room in the queues of stages that keep their batches there.
pub const STORE_REQUESTS: NonZeroU32 = NonZeroU32::new(32).expect("not zero");

/// What `share` may be, as help.
const SHARE_HELP: &str = "write the path of a folder, or `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that \
                          speaks S3, set `AWS_ENDPOINT`";

impl Checkpoint {
    /// How many batches are looked up at once, where there are so many workers.
    pub fn look_ups(&self, workers: u32) -> u32 {
        if self.has_store() { workers.max(STORE_REQUESTS.get()) } else { workers }
    }

    pub fn has_store(&self) -> bool {
        matches!(self.share, Some(SharePlace::Store(_)))
    }
}

impl Resolver<'_> {
    /// `kind` is what `Resolver::kind` gave.
    pub fn checkpoint(&mut self, kind: Option<&StageKind>) -> Option<Checkpoint> {
        let (depends, share) = match self.draft.spec.checkpoint.as_ref()? {
            CheckpointSpec::Flag(false) => return None,
            CheckpointSpec::Flag(true) => (None, None),
            CheckpointSpec::Options(options) => (options.depends.as_ref(), options.share.as_ref()),
        };
        let depends = depends.map_or(&[][..], PathsSpec::all);
        let problem = match kind? {
            StageKind::Python(python) if python.is_source => Some("it makes rows and gets none"),
            StageKind::Python(python) if !python.partition_by.is_empty() || python.is_stream() => {
                Some("it keeps state, so that no batch of it stands for itself")
            }
            StageKind::Command(command) if command.mode == CommandMode::Stream => {
                Some("its command is fed one batch after the other")
            }
            StageKind::Command(command) if command.mode == CommandMode::Once => Some("its command gets no batches"),
            StageKind::Python(_) | StageKind::Command(_) => None,
            StageKind::Read(_) | StageKind::Write(_) | StageKind::Sql(_) | StageKind::Expect(_) => {
                Some("what it does is cheap to do again")
            }
        };
        if let Some(problem) = problem {
            let message = format!("the stage `{}` cannot keep finished batches: {problem}", self.draft.name);
            let span = self.draft.key_span("checkpoint");
            self.report_at(Code::PlanBadOption, span, None, message).help = Some(
                "`checkpoint` is for `python` stages with `from` and without state, and commands in mode `batch` or `row`"
                    .to_owned(),
            );
        }
        self.check_patterns(&["checkpoint", "depends"], depends);
        Some(Checkpoint {
            depends: depends.iter().map(|path| self.absolute(path)).collect(),
            share: share.and_then(|share| self.share(share)),
        })
    }

    fn share(&mut self, text: &str) -> Option<SharePlace> {
        if !is_url(text) {
            return Some(SharePlace::Folder(self.absolute(text)));
        }
        match share_url(text) {
            Ok(place) => Some(place),
            Err((message, help)) => {
                let has_secret = text.contains(['@', '?']);
                let problem = self.report(Code::PlanBadOption, &["checkpoint", "share"], message);
                problem.help = Some(help.to_owned());
                problem.has_secret = has_secret;
                None
            }
        }
    }
}

/// Whether it begins with a scheme, and not with the name of a folder.
fn is_url(text: &str) -> bool {
    let is_scheme = |text: &str| text.len() > 1 && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    text.split_once(":/").is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// What the URL means, or what is wrong with it and the way out. Neither says what may hold a secret.
fn share_url(text: &str) -> Result<SharePlace, (String, &'static str)> {
    let wrong = |message: String| (message, SHARE_HELP);
    let url = Url::parse(text).map_err(|error| wrong(format!("`share` is not a URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        let message = "the URL of `share` has a user or a query, and may not hold secrets".to_owned();
        let help = "leave it out, and set environment variables such as `AWS_SECRET_ACCESS_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`";
        return Err((message, help));
    }
    if url.port().is_some() || url.fragment().is_some() {
        return Err(wrong("the URL of `share` has a port or a fragment, which buckets do not have".to_owned()));
    }
    if let Err(error) = Path::from_url_path(url.path()) {
        return Err(wrong(format!("names of objects cannot begin with the path in the URL of `share`: {error}")));
    }
    let unknown = || match (url.host_str(), url.scheme()) {
        (None, scheme @ ("s3" | "s3a" | "gs" | "az" | "abfs" | "abfss")) => {
            wrong(format!("the URL of `share` has no bucket behind `{scheme}://`"))
        }
        (_, scheme) => wrong(format!("`share` knows no store with a `{scheme}` URL like this")),
    };
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
    let provider = match scheme {
        ObjectStoreScheme::AmazonS3 => Provider::S3,
        ObjectStoreScheme::GoogleCloudStorage => Provider::Google,
        ObjectStoreScheme::MicrosoftAzure => Provider::Azure,
        ObjectStoreScheme::Local => return url.to_file_path().map(SharePlace::Folder).map_err(|()| unknown()),
        _ => return Err(unknown()),
    };
    Ok(SharePlace::Store(StoreUrl { provider, url: url.to_string(), prefix }))
}

/// Where a checkpoint is downstream, no batch has rows of two files: so the batches of one file do not depend on which others there are.
/// `stages` are in the order of their ids, which is one in which producers come first.
pub(super) fn cut_at_files(stages: &mut [Stage], edges: &mut [Edge]) {
    let mut serves: Vec<bool> = stages.iter().map(|stage| stage.checkpoint.is_some()).collect();
    for at in (0..stages.len()).rev() {
        if !serves[at] {
            continue;
        }
        stages[at].cut.at_files = true;
        for input in &stages[at].inputs {
            for id in &input.members {
                let edge = &mut edges[id.index()];
                serves[edge.from.index()] = true;
                if let Some(cut) = &mut edge.cut {
                    cut.at_files = true;
                }
            }
        }
    }
}
