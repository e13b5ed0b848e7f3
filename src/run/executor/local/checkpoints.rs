//! What stages with `checkpoint` have done in earlier runs, and do in this one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Map, Value};

use super::{LocalExecutor, Surroundings};
use crate::batch::Batch;
use crate::plan::{OnError, Plan, Port, Stage, StageId, Verdict};
use crate::run::RunEvent;
use crate::run::executor::checkpoint::{
    BatchDigest, Fingerprint, FingerprintError, Ledger, LedgerError, Partial, Record, Share, ShareError, Shared, Shares,
};
use crate::run::executor::mailbox::Message;
use crate::run::executor::resident::{failure, guarded};
use crate::run::scheduler::{BatchId, Event, Failure, Meta, Output, Recalled, Reject, Scope};

/// In the folder of a run: what its stages were made of.
const MADE_OF: &str = "checkpoints.json";
/// Beside the ledger: what the stages of the last run were made of.
const STAGES: &str = "checkpoints/stages.json";
/// And how many batches they had, if it has come to its end.
const COUNTS: &str = "checkpoints/counts.json";

/// How long a run that has failed or is interrupted waits at its end for what is on its way to a store. One that succeeds has nothing on its way.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// The checkpoints of a run; `None` in a [`LocalExecutor`] if no stage keeps any.
pub struct Checkpoints {
    ledger: Arc<Ledger>,
    shares: Shares,
    fingerprints: BTreeMap<StageId, Fingerprint>,
    /// The digests of the fingerprints that stages had in the run which this one corrects.
    corrected: BTreeMap<StageId, [u8; 32]>,
    /// Stages whose code is more than their fingerprints know: what they do is not kept.
    unkept: BTreeSet<StageId>,
    /// Stages of which an unsound file was told.
    warned: BTreeSet<StageId>,
    news: Vec<RunEvent>,
    orders: BTreeMap<StageId, Order>,
    /// Of batches that are being worked on.
    digests: BTreeMap<(StageId, u64), BatchDigest>,
    /// Batches of which it is looked up what is known of them.
    asked: BTreeMap<(StageId, u64), BatchId>,
    /// Of batches of which some rows are being worked on, what is known of the others.
    partials: BTreeMap<(StageId, u64), Partial>,
    /// Whatever is being written has a sender.
    writing: Sender<()>,
    written: Receiver<()>,
}

/// The batches of a stage in their order.
#[derive(Default)]
struct Order {
    /// The batch of which the digest is to be known next, and those after it of which it is known.
    next: u64,
    digested: BTreeMap<u64, (Digests, Batch)>,
    /// How often there was which digest.
    seen: HashMap<BatchDigest, u64>,
}

/// What a batch is known by.
#[derive(Clone, Copy, Debug)]
pub struct Digests {
    now: BatchDigest,
    /// In the run that this one corrects.
    then: Option<BatchDigest>,
}

/// A stage that keeps its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageChange {
    pub stage: StageId,
    /// What is not as it was in the run before: nothing, if its batches can be reused. `None` if there was no run before.
    pub changed: Option<Vec<String>>,
    /// Finished batches that are there, and made by what the stage is now.
    pub batches: u64,
    /// Batches that the stage was given in the last run that came to its end, if that is known.
    pub before: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error("stage `{stage}`: {source}")]
    Fingerprint { stage: String, source: FingerprintError },
    #[error("{} cannot be written: {source}", path.display())]
    Stages { path: PathBuf, source: io::Error },
    #[error("the run in {} has kept nothing that could be corrected: {}", folder.display(), source)]
    Corrected { folder: PathBuf, source: io::Error },
}

impl Checkpoints {
    /// Opens the checkpoints of a state folder, if a stage of the plan keeps any. Also returns which of them have changed since they were
    /// last used, and in what.
    ///
    /// # Errors
    /// If another run uses them, or they or what they depend on cannot be read.
    pub fn open(
        plan: &Plan,
        state_dir: &Path,
        surroundings: &Surroundings,
    ) -> Result<Option<(Self, Vec<RunEvent>)>, CheckpointError> {
        let mut stages = plan.stages.iter().filter(|stage| stage.checkpoint.is_some()).peekable();
        if stages.peek().is_none() {
            return Ok(None);
        }
        let ledger = Arc::new(Ledger::open(state_dir, surroundings.started)?);
        let shares = Shares::open(plan)?;
        let environment = surroundings.python.as_ref().map_or("", |python| python.environment.as_str());
        let mut known = known_stages(state_dir);
        let (mut fingerprints, mut events) = (BTreeMap::new(), Vec::new());
        for stage in stages {
            let fingerprint = fingerprint(plan, stage, Some(environment))?;
            let name = full_name(plan, stage);
            let changed = known.get(&name).map(|before| fingerprint.changed_since(before)).unwrap_or_default();
            // What was rejected is done again because it has.
            if !changed.is_empty() && surroundings.corrects.is_none() {
                events.push(RunEvent::CheckpointChanged { stage: stage.id, changed });
            }
            known.insert(name, fingerprint.to_json());
            fingerprints.insert(stage.id, fingerprint);
        }
        write_json(&state_dir.join(STAGES), known)?;
        let corrected = match &surroundings.corrects {
            Some(folder) => corrected(plan, folder)?,
            None => BTreeMap::new(),
        };
        let (writing, written) = bounded(0);
        Ok(Some((
            Self {
                ledger,
                shares,
                fingerprints,
                corrected,
                unkept: BTreeSet::new(),
                warned: BTreeSet::new(),
                news: Vec::new(),
                orders: BTreeMap::new(),
                digests: BTreeMap::new(),
                asked: BTreeMap::new(),
                partials: BTreeMap::new(),
                writing,
                written,
            },
            events,
        )))
    }

    /// Writes down in the run's folder what its stages are made of, so that a later run can correct this one.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn remember(&self, plan: &Plan, run: &Path) -> Result<(), CheckpointError> {
        let stages = self.fingerprints.iter().map(|(stage, fingerprint)| {
            let digest = blake3::Hash::from_bytes(*fingerprint.digest()).to_hex().to_string();
            (plan.stage(*stage).name.clone(), Value::from(digest))
        });
        write_json(&run.join(MADE_OF), stages.collect())
    }

    /// Removes the checkpoints of a state folder, and returns how many bytes they had. Nothing is removed if `is_dry`.
    ///
    /// # Errors
    /// If a run uses them, or they cannot be removed.
    pub fn remove(state_dir: &Path, is_dry: bool) -> Result<u64, CheckpointError> {
        Ok(Ledger::remove(state_dir, is_dry)?)
    }

    /// What has changed in every stage that keeps its batches. Which packages there are is not looked at.
    ///
    /// # Errors
    /// If what they depend on cannot be read.
    pub fn changes(plan: &Plan, state_dir: &Path) -> Result<Vec<StageChange>, CheckpointError> {
        let known = known_stages(state_dir);
        let numbers = json_object(&state_dir.join(COUNTS));
        let counts = Ledger::count(state_dir, Record::head_bytes, Record::made_by)?;
        let stages = plan.stages.iter().filter(|stage| stage.checkpoint.is_some());
        let changes = stages.map(|stage| {
            let fingerprint = fingerprint(plan, stage, None)?;
            let changed = known.get(&full_name(plan, stage)).map(|before| fingerprint.changed_since(before));
            let batches = counts.get(fingerprint.name()).copied().unwrap_or_default();
            let before = numbers.get(&full_name(plan, stage)).and_then(Value::as_u64);
            Ok(StageChange { stage: stage.id, changed, batches, before })
        });
        changes.collect()
    }

    /// A worker has imported these files for a stage. If one of them was not found by reading the code, nobody could tell a later run that it
    /// has changed.
    pub fn imported(&mut self, stage: StageId, files: &[PathBuf], plan: &Plan) {
        let Some(fingerprint) = self.fingerprints.get(&stage) else { return };
        let is_local = |file: &&PathBuf| plan.python.path.iter().any(|root| file.starts_with(root));
        let unseen = files.iter().filter(is_local).filter(|file| !fingerprint.has_file(file));
        let unseen: Vec<PathBuf> = unseen.cloned().collect();
        if !unseen.is_empty() && self.unkept.insert(stage) {
            self.news.push(RunEvent::CheckpointUnseen { stage, files: unseen });
        }
    }

    /// The code of a stage has asked for the state of the run. What comes of its batches depends on more than is known of them.
    pub fn reads_state(&mut self, stage: StageId) {
        if self.fingerprints.contains_key(&stage) && self.unkept.insert(stage) {
            self.news.push(RunEvent::CheckpointReadsState { stage });
        }
    }

    /// What was found out since the last call.
    pub fn take_news(&mut self) -> Vec<RunEvent> {
        std::mem::take(&mut self.news)
    }

    /// What stands in the place of a batch's position, so that what comes of it does not depend on that.
    pub fn number(&self, stage: StageId, sequence: u64) -> Option<u64> {
        self.digests.get(&(stage, sequence)).map(|digest| digest.number())
    }

    /// Writes down how many batches the stages had, now that they have ended.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn count_batches(&self, plan: &Plan, state_dir: &Path) -> Result<(), CheckpointError> {
        let path = state_dir.join(COUNTS);
        let mut numbers = json_object(&path);
        for (stage, order) in &self.orders {
            numbers.insert(full_name(plan, plan.stage(*stage)), order.next.into());
        }
        write_json(&path, numbers)
    }

    /// Waits until all is written, but not long for stores, which may be why the run has failed.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn close(self) -> Result<(), LedgerError> {
        drop(self.writing);
        // Nobody sends: this is over when the last sender is gone.
        match self.shares.have_stores() {
            true => drop(self.written.recv_timeout(STORE_PATIENCE)),
            false => drop(self.written.recv()),
        }
        self.ledger.sync()
    }
}

/// What the stages of earlier runs were made of. What cannot be read is made anew: it only serves to say what has changed.
fn known_stages(state_dir: &Path) -> Map<String, Value> {
    json_object(&state_dir.join(STAGES))
}

/// Replaces the file as a whole.
fn write_json(path: &Path, object: Map<String, Value>) -> Result<(), CheckpointError> {
    let draft = path.with_extension("new");
    let written = fs::write(&draft, Value::Object(object).to_string()).and_then(|()| fs::rename(&draft, path));
    written.map_err(|source| CheckpointError::Stages { path: path.to_owned(), source })
}

fn json_object(path: &Path) -> Map<String, Value> {
    let text = fs::read(path).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// The digests of the fingerprints that the stages had in a run.
fn corrected(plan: &Plan, run: &Path) -> Result<BTreeMap<StageId, [u8; 32]>, CheckpointError> {
    let read = || -> io::Result<Map<String, Value>> { Ok(serde_json::from_slice(&fs::read(run.join(MADE_OF))?)?) };
    let known = read().map_err(|source| CheckpointError::Corrected { folder: run.to_owned(), source })?;
    let digest = |stage: &Stage| Some(*blake3::Hash::from_hex(known.get(&stage.name)?.as_str()?).ok()?.as_bytes());
    let found: BTreeMap<_, _> = plan.stages.iter().filter_map(|stage| Some((stage.id, digest(stage)?))).collect();
    if found.is_empty() {
        let source = io::Error::other("its stages with `checkpoint` had other names");
        return Err(CheckpointError::Corrected { folder: run.to_owned(), source });
    }
    Ok(found)
}

fn full_name(plan: &Plan, stage: &Stage) -> String {
    format!("{}/{}", plan.name, stage.name)
}

fn fingerprint(plan: &Plan, stage: &Stage, environment: Option<&str>) -> Result<Fingerprint, CheckpointError> {
    Fingerprint::of(plan, stage, environment)
        .map_err(|source| CheckpointError::Fingerprint { stage: stage.name.clone(), source })
}

/// What decides what comes of a batch is also what the code can look up.
fn with_shared(fingerprint: [u8; 32], shared: Option<[u8; 32]>) -> [u8; 32] {
    shared.map_or(fingerprint, |shared| *blake3::hash(&[fingerprint, shared].concat()).as_bytes())
}

impl LocalExecutor {
    pub(super) fn recall(&mut self, stage: StageId, sequence: u64, asked: Meta) {
        let batch = match self.take_for(stage, 0, asked.id) {
            Ok(batch) => batch,
            Err(failure) => {
                self.events.push_back(Event::StageFailed { stage, failure });
                return;
            }
        };
        let checkpoints = self.checkpoints.as_mut().expect("only stages that keep batches ask for them");
        checkpoints.asked.insert((stage, sequence), asked.id);
        let shared = self.pool.shared_digest();
        let fingerprint = with_shared(*checkpoints.fingerprints[&stage].digest(), shared);
        let corrected = checkpoints.corrected.get(&stage).map(|digest| with_shared(*digest, shared));
        let (files, plan, mailbox) = (self.files.clone(), Arc::clone(&self.plan), self.mailbox.clone());
        rayon::spawn(move || {
            let digest = |fingerprint: &[u8; 32]| {
                BatchDigest::of(fingerprint, &batch, &files, &plan.folder).map_err(|error| failed(&error))
            };
            let result = guarded(|| {
                let then = corrected.filter(|then| *then != fingerprint);
                Ok(Digests { now: digest(&fingerprint)?, then: then.as_ref().map(digest).transpose()? })
            });
            mailbox.send(Message::Digested { stage, sequence, batch, result });
        });
    }

    /// The digest of a batch is known. Those that are the same are told apart by their order, so that all before it must be known, too.
    pub(super) fn digested(&mut self, stage: StageId, sequence: u64, batch: Batch, result: Result<Digests, Failure>) {
        let digests = match result {
            Ok(digests) => digests,
            Err(failure) => {
                self.events.push_back(Event::StageFailed { stage, failure });
                return;
            }
        };
        let checkpoints = self.checkpoints.as_mut().expect("only stages that keep batches ask for them");
        let is_forced = self.surroundings.forced.contains(&stage);
        let corrects = self.surroundings.corrects.is_some();
        let order = checkpoints.orders.entry(stage).or_default();
        order.digested.insert(sequence, (digests, batch));
        while let Some((digests, batch)) = order.digested.remove(&order.next) {
            let sequence = order.next;
            order.next += 1;
            let times = order.seen.entry(digests.now).or_default();
            let digest = digests.now.again(*times);
            let then = digests.then.map(|then| then.again(*times));
            *times += 1;
            let (ledger, plan, mailbox) =
                (Arc::clone(&checkpoints.ledger), Arc::clone(&self.plan), self.mailbox.clone());
            let made_by = checkpoints.fingerprints[&stage].name().to_owned();
            let share = checkpoints.shares.of(stage);
            checkpoints.shares.spawn(stage, move || {
                let places = Places { ledger: &ledger, share: share.as_ref() };
                let look_up = || match is_forced {
                    true => Ok(Known::default()),
                    false if corrects => look_up_to_correct(places, &digest, then, &made_by, plan.stage(stage), &batch),
                    false => look_up(places, &digest, plan.stage(stage), &batch),
                };
                let result = guarded(look_up);
                mailbox.send(Message::Recalled { stage, sequence, digest, result });
            });
        }
    }

    pub(super) fn recalled(
        &mut self,
        stage: StageId,
        sequence: u64,
        digest: BatchDigest,
        result: Result<Known, Failure>,
    ) -> Event {
        let Known { record, partial, unsound } = match result {
            Ok(known) => known,
            Err(failure) => return Event::StageFailed { stage, failure },
        };
        if let (Some(file), Some(checkpoints)) = (unsound, &mut self.checkpoints)
            && checkpoints.warned.insert(stage)
        {
            checkpoints.news.push(RunEvent::CheckpointUnsound { stage, file });
        }
        let known = record
            .map(|Record { outputs, rejects }| Recalled::Whole { outputs: self.keep_by_port(stage, outputs), rejects });
        let checkpoints = self.checkpoints.as_mut().expect("only stages that keep batches ask for them");
        let asked = checkpoints.asked.remove(&(stage, sequence));
        if known.is_some() {
            return Event::Recalled { stage, sequence, known };
        }
        checkpoints.digests.insert((stage, sequence), digest);
        let Some((partial, left)) = partial else { return Event::Recalled { stage, sequence, known: None } };
        let bytes = partial.bytes();
        checkpoints.partials.insert((stage, sequence), partial);
        // What is left of it takes its place.
        asked.map(|whole| self.store.remove(&whole));
        let known = Some(Recalled::Partly { left: self.keep(left), bytes });
        Event::Recalled { stage, sequence, known }
    }

    pub(super) fn kept(&mut self, stage: StageId, sequence: u64, result: Result<Kept, Failure>) -> Event {
        let together = match result {
            Ok(Kept { together }) => together,
            Err(failure) => return Event::StageFailed { stage, failure },
        };
        let outputs = together.map(|outputs| self.keep_by_port(stage, outputs));
        Event::Kept { stage, sequence, outputs }
    }

    /// Outputs by the names of their ports, as the scheduler knows them.
    fn keep_by_port(&mut self, stage: StageId, outputs: Vec<(String, Batch)>) -> Vec<Output> {
        let plan = Arc::clone(&self.plan);
        let ports = &plan.stage(stage).ports;
        let kept = outputs.into_iter().filter_map(|(name, batch)| {
            let port = match name.as_str() {
                Port::STATE => Output::STATE,
                _ => ports.iter().position(|port| port.name == name)?,
            };
            Some(Output { port, batch: self.keep(batch) })
        });
        kept.collect()
    }

    pub(super) fn keep_outcome(
        &mut self,
        stage: StageId,
        sequence: u64,
        input: BatchId,
        outputs: &[Output],
        rejects: Vec<Reject>,
    ) {
        let plan = Arc::clone(&self.plan);
        let given = |output: &Output| {
            let port = plan.stage(stage).ports.get(output.port).map_or(Port::STATE, |port| &port.name);
            (port.to_owned(), self.store[&output.batch.id].batch.clone())
        };
        let record = Record { outputs: outputs.iter().map(given).collect(), rejects };
        let origin = self.store[&input].batch.origin().clone();
        let partial = self.checkpoints.as_mut().and_then(|checkpoints| checkpoints.partials.remove(&(stage, sequence)));
        if partial.is_some() {
            // What comes of the whole batch takes their place.
            outputs.iter().for_each(|output| drop(self.store.remove(&output.batch.id)));
        }
        let checkpoints = self.checkpoints.as_mut().expect("only stages that keep batches give them");
        let digest = checkpoints.digests.remove(&(stage, sequence)).expect("it was looked up before it was done");
        let is_kept = !checkpoints.unkept.contains(&stage);
        if !is_kept && partial.is_none() {
            self.events.push_back(Event::Kept { stage, sequence, outputs: None });
            return;
        }
        let (ledger, writing, mailbox) =
            (Arc::clone(&checkpoints.ledger), checkpoints.writing.clone(), self.mailbox.clone());
        let share = checkpoints.shares.of(stage);
        let made_by = checkpoints.fingerprints[&stage].name().to_owned();
        checkpoints.shares.spawn(stage, move || {
            let result = guarded(|| {
                let (record, origin, is_put_together) = match partial {
                    None => (record, origin, false),
                    Some(partial) => {
                        let origin = partial.origin().clone();
                        let Record { outputs, rejects } = record;
                        let together = partial.put_together(outputs, rejects).map_err(|error| not_together(&error))?;
                        (together, origin, true)
                    }
                };
                if is_kept {
                    let payload = record.encode(&origin, &made_by).map_err(|error| failed(&error))?;
                    share.map_or(Ok(()), |share| share.add(&digest, &payload)).map_err(|error| failed(&error))?;
                    ledger.add(digest, &payload).map_err(|error| failed(&error))?;
                }
                Ok(Kept { together: is_put_together.then_some(record.outputs) })
            });
            mailbox.send(Message::Kept { stage, sequence, result });
            drop(writing);
        });
    }
}

/// What came of a batch is kept.
#[derive(Debug)]
pub struct Kept {
    /// By the names of their ports: what came of the whole batch, if some of its rows were not worked on.
    together: Option<Vec<(String, Batch)>>,
}

fn not_together(error: &dyn std::error::Error) -> Failure {
    let message = format!(
        "what comes of the rows that were rejected cannot be put to what came of the others: {error}; run without `--rejected`, \
         or with `--force` for this stage"
    );
    failure(Scope::Opening, Verdict::Schema, message)
}

/// What is known of a batch.
#[derive(Debug, Default)]
pub struct Known {
    record: Option<Record>,
    /// Without a record: what is known of some of its rows, and the others.
    partial: Option<(Partial, Batch)>,
    /// A file or object of others that is not what it should be.
    unsound: Option<String>,
}

/// Where to look.
#[derive(Clone, Copy)]
struct Places<'a> {
    ledger: &'a Ledger,
    share: Option<&'a Share>,
}

/// Like [`look_up`], but what a batch gave in the run that is corrected counts, too, and is kept as if the stage had made it as it is now. Rows that were
/// rejected are left to be worked on; where the others cannot be told from them, all are.
fn look_up_to_correct(
    places: Places<'_>,
    now: &BatchDigest,
    then: Option<BatchDigest>,
    made_by: &str,
    stage: &Stage,
    batch: &Batch,
) -> Result<Known, Failure> {
    let mut known = look_up(places, now, stage, batch)?;
    let mut is_of_now = true;
    if let (None, Some(then)) = (&known.record, &then) {
        let unsound = known.unsound.take();
        known = look_up(places, then, stage, batch)?;
        known.unsound = unsound.or(known.unsound);
        is_of_now = false;
    }
    match known.record.take() {
        Some(record) if record.rejects.is_empty() => {
            if !is_of_now {
                let payload = record.encode(batch.origin(), made_by).map_err(|error| failed(&error))?;
                places.ledger.add(*now, &payload).map_err(|error| failed(&error))?;
            }
            known.record = Some(record);
        }
        Some(record) => known.partial = Partial::of(record, batch).map_err(|error| failed(&error))?,
        None => {}
    }
    Ok(known)
}

fn look_up(places: Places<'_>, digest: &BatchDigest, stage: &Stage, batch: &Batch) -> Result<Known, Failure> {
    let mut payload = places.ledger.get(digest).map_err(|error| failed(&error))?;
    let mut unsound = None;
    let mut is_far = false;
    if let (None, Some(share)) = (&payload, places.share) {
        match share.get(digest).map_err(|error| failed(&error))? {
            Shared::Payload(shared) => {
                is_far = matches!(share, Share::Store(_));
                payload = Some(shared);
            }
            Shared::Nothing => {}
            Shared::Unsound(entry) => unsound = Some(entry),
        }
    }
    // What cannot be understood, as another version may have written it, is done again.
    let record = payload.as_ref().and_then(|payload| Record::decode(payload, batch.origin()).ok());
    let fits = |record: &Record| {
        let is_port = |name: &str| name == Port::STATE || stage.ports.iter().any(|port| port.name == name);
        let has_ports = record.outputs.iter().all(|(name, _)| is_port(name));
        // Ascending, and of this batch: what is shared may hold what others have made up.
        let mut next = 0;
        let are_sound = record.rejects.iter().all(|Reject { rows, .. }| {
            let is_sound = next <= rows.start && rows.start < rows.end && rows.end <= batch.rows() as u64;
            next = rows.end;
            is_sound
        });
        // Rows that were rejected then are to fail the run now.
        has_ports && are_sound && (record.rejects.is_empty() || stage.on_error != OnError::Fail)
    };
    let record = record.filter(fits);
    // The way to a store is long, and need not be gone twice.
    if let (Some(_), Some(payload), true) = (&record, &payload, is_far) {
        places.ledger.add(*digest, payload).map_err(|error| failed(&error))?;
    }
    Ok(Known { record, partial: None, unsound })
}

fn failed(error: &dyn std::error::Error) -> Failure {
    failure(Scope::Output, Verdict::Exception, error.to_string())
}
