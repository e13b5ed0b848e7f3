//! The input of stages that keep state per key: put in the order of its partitions on rayon's threads, given out lane by lane, and kept on
//! disk, so that a new worker can do again what one that has died had done.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch};

use super::LocalExecutor;
use crate::batch::{self, Batch, BatchError, Origin, PartitionError, Partitioned, Partitioner, SpillSpace};
use crate::plan::{self, Plan, StageId, StageKind, Verdict};
use crate::run::executor::mailbox::Message;
use crate::run::executor::python::LaneRows;
use crate::run::executor::rejects;
use crate::run::executor::resident::{failure, guarded};
use crate::run::executor::worker::Current;
use crate::run::fail_point;
use crate::run::scheduler::{AttemptId, BatchId, Dispatch, Event, Failure, Host, Scope, Work, WorkerId};

const _: () = assert!(batch::PARTITIONS == plan::PARTITIONS as usize, "a lane is a run of partitions");

/// Bytes that a lane is given before it is asked for a snapshot of its state.
const SNAPSHOT_BYTES: u64 = 64 << 20;

/// The input of one stage.
pub(super) struct KeyedInput {
    partitioner: Partitioner,
    lanes: Vec<LaneLog>,
    /// Those that a new worker might have to do again, by sequence number.
    batches: BTreeMap<u64, KeyedBatch>,
}

/// What is kept for one lane besides its batches.
#[derive(Default)]
struct LaneLog {
    /// Bytes that the lane was given since it was last asked for a snapshot.
    given: u64,
    snapshot: Option<Snapshot>,
}

/// The state that the batches before `next` have left, as one binary value in a batch on disk.
struct Snapshot {
    next: u64,
    state: Batch,
}

struct KeyedBatch {
    id: BatchId,
    state: State,
}

enum State {
    /// These attempts wait for their rows.
    Partitioning(Vec<Waiting>),
    Kept {
        partitions: Box<Partitioned>,
        rows: Batch,
    },
}

struct Waiting {
    attempt: AttemptId,
    /// Which one at its rows it is, from 1.
    tries: u32,
    worker: WorkerId,
    lane: u32,
}

/// A batch in the order of its partitions, where they are, and a copy of its rows on disk.
#[derive(Debug)]
pub struct InPartitions {
    batch: Batch,
    partitions: Partitioned,
    kept: Batch,
}

pub(super) fn inputs(plan: &Plan) -> BTreeMap<StageId, KeyedInput> {
    let keyed = plan.stages.iter().filter_map(|stage| match &stage.kind {
        StageKind::Python(python) if stage.has_state() => {
            let partitioner = Partitioner::new(python.partition_by.clone());
            let lanes = (0..plan.lanes(stage)).map(|_| LaneLog::default()).collect();
            Some((stage.id, KeyedInput { partitioner, lanes, batches: BTreeMap::new() }))
        }
        _ => None,
    });
    keyed.collect()
}

impl KeyedInput {
    /// The partitions of a lane. Lanes are as equal as can be, and all together in order.
    fn partitions(&self, lane: u32) -> Range<usize> {
        let (lane, lanes) = (lane as usize, self.lanes.len());
        (lane * batch::PARTITIONS).div_ceil(lanes)..((lane + 1) * batch::PARTITIONS).div_ceil(lanes)
    }

    /// The rows of a lane in a batch that is kept.
    fn rows(&self, sequence: u64, lane: u32) -> Option<Range<usize>> {
        match &self.batches.get(&sequence)?.state {
            State::Kept { partitions, .. } => Some(partitions.rows(self.partitions(lane))),
            State::Partitioning(_) => None,
        }
    }

    /// The batches before this one that have left something in the state of a lane.
    fn before(&self, sequence: u64, lane: u32) -> VecDeque<u64> {
        let known = self.lanes[lane as usize].snapshot.as_ref().map_or(0, |snapshot| snapshot.next);
        let before = self.batches.range(known.min(sequence)..sequence).map(|(sequence, _)| *sequence);
        before.filter(|sequence| self.rows(*sequence, lane).is_some_and(|rows| !rows.is_empty())).collect()
    }

    /// Whether it is worth its cost to ask for the state that a batch leaves: doing again what was given since the last time must be more
    /// than to write and read the state.
    fn wants_snapshot(&mut self, lane: u32, bytes: u64) -> bool {
        let log = &mut self.lanes[lane as usize];
        log.given += bytes;
        let last = log.snapshot.as_ref().map_or(0, |snapshot| snapshot.state.bytes());
        let is_due = log.given >= SNAPSHOT_BYTES.max(2 * last) || fail_point::is_reached("keyed.snapshot");
        if is_due {
            log.given = 0;
        }
        is_due
    }

    /// Whether no lane could have to do a batch again.
    fn is_settled(&self, sequence: u64) -> bool {
        (0..).zip(&self.lanes).all(|(lane, log)| {
            let is_known = log.snapshot.as_ref().is_some_and(|snapshot| sequence < snapshot.next);
            is_known || self.rows(sequence, lane).is_some_and(|rows| rows.is_empty())
        })
    }

    /// A batch, of which a lane takes its rows.
    fn lane_rows(&self, sequence: u64, lane: u32, batch: Batch) -> Option<LaneRows> {
        let State::Kept { partitions, .. } = &self.batches.get(&sequence)?.state else { return None };
        let lane = self.partitions(lane);
        let first = partitions.rows(lane.clone()).start;
        Some(LaneRows { batch, first, partitions: partitions.counts(lane).collect() })
    }
}

impl LocalExecutor {
    pub(super) fn dispatch_lane(&mut self, dispatch: &Dispatch) {
        let Dispatch { attempt, stage, sequence, tries, host, ref work, .. } = *dispatch;
        let Host::Worker(worker) = host else { unreachable!("lanes are in workers") };
        match *work {
            Work::Lane { batch, lane } => {
                let waiting = Waiting { attempt, tries, worker, lane };
                let input = self.keyed.get_mut(&stage).expect("every stage with state has an input");
                match input.batches.get_mut(&sequence).map(|batch| &mut batch.state) {
                    Some(State::Partitioning(others)) => others.push(waiting),
                    Some(State::Kept { .. }) => self.send_rows(stage, sequence, &waiting),
                    None => self.partition(stage, sequence, batch.id, waiting),
                }
            }
            Work::FinishLane { lane } => self.send(stage, sequence, &Waiting { attempt, tries, worker, lane }, None),
            Work::Rows { .. } | Work::Join { .. } | Work::Pull | Work::Task => unreachable!("not the work of a lane"),
        }
    }

    /// Brings a batch into the order of its partitions; what comes of it is [`LocalExecutor::partitioned`].
    fn partition(&mut self, stage: StageId, sequence: u64, id: BatchId, waiting: Waiting) {
        let batch = match self.take_for(stage, 0, id) {
            Ok(batch) => batch,
            Err(failure) => {
                self.events.push_back(Event::AttemptFailed { attempt: waiting.attempt, failure });
                return;
            }
        };
        let input = self.keyed.get_mut(&stage).expect("every stage with state has an input");
        input.batches.insert(sequence, KeyedBatch { id, state: State::Partitioning(vec![waiting]) });
        let (partitioner, space, mailbox) = (input.partitioner.clone(), self.spill.clone(), self.mailbox.clone());
        rayon::spawn(move || {
            let name = format!("stage-{}-{sequence}", stage.0);
            let result = guarded(|| in_partitions(&partitioner, &batch, &space, &name)).map(Box::new);
            mailbox.send(Message::Partitioned { stage, sequence, result });
        });
    }

    pub(super) fn partitioned(&mut self, stage: StageId, sequence: u64, result: Result<Box<InPartitions>, Failure>) {
        let input = self.keyed.get_mut(&stage).expect("every stage with state has an input");
        let known = input.batches.get_mut(&sequence).expect("it was being partitioned");
        let made = result.map(|made| {
            let InPartitions { batch, partitions, kept } = *made;
            // The same rows in another order: they are charged as before.
            if let Some(stored) = self.store.get_mut(&known.id) {
                stored.batch = batch;
            }
            State::Kept { partitions: Box::new(partitions), rows: kept }
        });
        match made {
            Ok(state) => {
                let State::Partitioning(waiting) = std::mem::replace(&mut known.state, state) else { return };
                waiting.iter().for_each(|waiting| self.send_rows(stage, sequence, waiting));
            }
            Err(failure) => {
                let Some(KeyedBatch { state: State::Partitioning(waiting), .. }) = input.batches.remove(&sequence)
                else {
                    return;
                };
                let failed = waiting.iter().map(|waiting| waiting.attempt);
                self.events.extend(failed.map(|attempt| Event::AttemptFailed { attempt, failure: failure.clone() }));
            }
        }
    }

    fn send_rows(&mut self, stage: StageId, sequence: u64, waiting: &Waiting) {
        let input = &self.keyed[&stage];
        let batch = self.store[&input.batches[&sequence].id].batch.clone();
        let rows = input.lane_rows(sequence, waiting.lane, batch).expect("it is in partitions");
        if rows.partitions.is_empty() {
            let attempt = waiting.attempt;
            let (outputs, spent) = (Vec::new(), Duration::ZERO);
            self.events.push_back(Event::AttemptDone {
                attempt,
                rows: 0,
                outputs,
                end: false,
                spent,
                failed: Vec::new(),
            });
            return;
        }
        self.send(stage, sequence, waiting, Some(rows));
    }

    fn send(&mut self, stage: StageId, sequence: u64, waiting: &Waiting, rows: Option<LaneRows>) {
        let Waiting { attempt, tries, worker, lane } = *waiting;
        let input = self.keyed.get_mut(&stage).expect("every stage with state has an input");
        let is_new = !self.pool.has_state(worker, stage);
        let again = if is_new { input.before(sequence, lane) } else { VecDeque::new() };
        let is_to_be_restored = is_new && input.lanes[lane as usize].snapshot.is_some();
        let bytes = rows.as_ref().map_or(0, LaneRows::bytes);
        let wants_snapshot = self.pool.has_snapshots(worker, stage) && input.wants_snapshot(lane, bytes);
        // Rows that are made from several of a batch come from anywhere in it, whatever lane they are in.
        let origin = rows.as_ref().map_or_else(Origin::default, |rows| rows.batch.origin().clone());
        let current = Current {
            origin,
            is_catching_up: is_to_be_restored || !again.is_empty(),
            is_to_be_restored,
            again,
            lane: Some(lane),
            tries,
            ..Current::new(attempt, stage, sequence)
        };
        let id = input.batches.get(&sequence).map(|batch| batch.id);
        match (self.pool.dispatch_lane(worker, current, rows, wants_snapshot, &mut self.poller), id) {
            (Ok(Some(batch)), Some(id)) => {
                // It stays where it was put for the first lane.
                if let Some(stored) = self.store.get_mut(&id) {
                    stored.batch = batch;
                }
            }
            (Ok(_), _) => {}
            (Err(failure), _) => self.events.push_back(Event::AttemptFailed { attempt, failure }),
        }
    }

    /// Puts the state of a lane on disk.
    pub(super) fn keep_snapshot(&mut self, stage: StageId, lane: u32, next: u64, state: Vec<u8>) {
        let (space, mailbox) = (self.spill.clone(), self.mailbox.clone());
        rayon::spawn(move || {
            let result = guarded(|| on_disk(state, &space, &format!("stage-{}-lane-{lane}-{next}", stage.0)));
            mailbox.send(Message::SnapshotKept { stage, lane, next, result });
        });
    }

    /// The state of a lane is on disk: what has led to it will not be done again.
    pub(super) fn snapshot_kept(&mut self, stage: StageId, lane: u32, next: u64, result: Result<Batch, Failure>) {
        let state = match result {
            Ok(state) => state,
            Err(failure) => {
                self.events.push_back(Event::StageFailed { stage, failure });
                return;
            }
        };
        let input = self.keyed.get_mut(&stage).expect("every stage with state has an input");
        input.lanes[lane as usize].snapshot = Some(Snapshot { next, state });
        let settled = input.batches.iter().filter(|(sequence, batch)| {
            // Lanes may still ask for their rows of one that is in the store.
            !self.store.contains_key(&batch.id) && input.is_settled(**sequence)
        });
        let settled: Vec<u64> = settled.map(|(sequence, _)| *sequence).collect();
        settled.iter().for_each(|sequence| drop(input.batches.remove(sequence)));
    }

    /// Gives a new worker the last snapshot of its lane.
    pub(super) fn restore(&mut self, worker: WorkerId, attempt: AttemptId, stage: StageId, lane: u32) {
        let snapshot = self.keyed[&stage].lanes[lane as usize].snapshot.as_ref();
        let state = snapshot.map_or_else(|| Ok(Vec::new()), |snapshot| from_disk(&snapshot.state));
        match state {
            Ok(state) => self.pool.restore(worker, attempt, state),
            Err(failure) => self.events.push_back(Event::AttemptFailed { attempt, failure }),
        }
    }

    /// Gives a new worker a batch that one before it had done.
    pub(super) fn do_again(&mut self, worker: WorkerId, attempt: AttemptId, stage: StageId, sequence: u64, lane: u32) {
        let input = &self.keyed[&stage];
        let State::Kept { rows: kept, .. } = &input.batches[&sequence].state else { unreachable!("it was done once") };
        let wrong = |error: BatchError| failure(Scope::Output, Verdict::Exception, error.to_string());
        let sent = kept.clone().load().map_err(wrong).and_then(|batch| {
            let rows = input.lane_rows(sequence, lane, batch).expect("it is in partitions");
            self.pool.do_again(worker, attempt, sequence, rows, &mut self.poller)
        });
        if let Err(failure) = sent {
            self.events.push_back(Event::AttemptFailed { attempt, failure });
        }
    }

    /// The place, for people, of the rows for which a batch of a stage with state failed; of the whole batch if nothing more is known.
    pub fn lane_place(&self, stage: StageId, sequence: u64) -> Option<String> {
        let batch = self.keyed.get(&stage)?.batches.get(&sequence)?;
        let origin = self.store.get(&batch.id)?.batch.origin();
        let rows = self.pool.blamed(stage, sequence).unwrap_or(0..origin.len());
        rejects::place(&origin.slice(rows).blur(1), 0, &self.files)
    }
}

fn on_disk(state: Vec<u8>, space: &SpillSpace, name: &str) -> Result<Batch, Failure> {
    let column: ArrayRef = Arc::new(LargeBinaryArray::from_vec(vec![&state]));
    let records = RecordBatch::try_from_iter([("state", column)]).map_err(BatchError::from);
    let kept = records.and_then(|records| Batch::new(records, Origin::unknown(1)).spill(space, name));
    kept.map_err(|error| not_kept(&error))
}

/// Why rows or a state cannot be kept for a worker that may die.
fn not_kept(error: &BatchError) -> Failure {
    let message = match error {
        BatchError::SpillLimit { limit } => format!(
            "what its rows are kept in on disk, to make its state again if a worker dies, reached the limit of {}; a class with \
             `get_state` and `set_state` needs less",
            bytesize::ByteSize::b(*limit)
        ),
        error => error.to_string(),
    };
    failure(Scope::Output, Verdict::Exception, message)
}

fn from_disk(state: &Batch) -> Result<Vec<u8>, Failure> {
    let records = state.records().map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
    Ok(records.column(0).as_binary::<i64>().value(0).to_vec())
}

fn in_partitions(
    partitioner: &Partitioner,
    batch: &Batch,
    space: &SpillSpace,
    name: &str,
) -> Result<InPartitions, Failure> {
    let wrong = |error: BatchError| failure(Scope::Output, Verdict::Exception, error.to_string());
    let records = batch.records().map_err(wrong)?;
    let made = partitioner.apply(&records, batch.origin()).map_err(|error| {
        let scope = if matches!(error, PartitionError::Arrow(_)) { Scope::Internal } else { Scope::Opening };
        failure(scope, Verdict::Schema, error.to_string())
    })?;
    let partitions = made.without_rows();
    let Partitioned { records, origin, .. } = made;
    // What is done again is only for its state: nobody will ask where its rows come from.
    let kept = Batch::new(records.clone(), Origin::unknown(records.num_rows()))
        .spill(space, name)
        .map_err(|error| not_kept(&error))?;
    Ok(InPartitions { batch: Batch::new(records, origin), partitions, kept })
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn input(lanes: usize) -> KeyedInput {
        let lanes = (0..lanes).map(|_| LaneLog::default()).collect();
        KeyedInput { partitioner: Partitioner::new(vec!["key".to_owned()]), lanes, batches: BTreeMap::new() }
    }

    fn records(keys: &[i64]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys.iter().copied()));
        RecordBatch::try_from_iter([("key", keys)]).expect("one column")
    }

    fn keep(input: &mut KeyedInput, sequence: u64, keys: &[i64]) {
        let origin = Origin::unknown(keys.len());
        let partitions = input.partitioner.apply(&records(keys), &origin).expect("integers are keys");
        let state =
            State::Kept { partitions: Box::new(partitions.without_rows()), rows: Batch::new(records(keys), origin) };
        input.batches.insert(sequence, KeyedBatch { id: BatchId(sequence), state });
    }

    #[test]
    fn lanes_share_all_partitions_in_order() {
        for lanes in 1..=batch::PARTITIONS {
            let input = input(lanes);
            let all: Vec<usize> = (0..lanes as u32).flat_map(|lane| input.partitions(lane)).collect();
            assert!(all.iter().copied().eq(0..batch::PARTITIONS));
            let sizes: Vec<usize> = (0..lanes as u32).map(|lane| input.partitions(lane).len()).collect();
            assert!(sizes.iter().max().expect("a lane") - sizes.iter().min().expect("a lane") <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn what_led_to_a_snapshot_is_not_done_again() {
        let mut input = input(2);
        // By their hashes, 3 is in the first lane and 1 in the second.
        keep(&mut input, 0, &[1, 3]);
        keep(&mut input, 1, &[1]);
        keep(&mut input, 2, &[1, 3]);
        assert_eq!(input.before(3, 0), [0, 2]);
        assert_eq!(input.before(2, 1), [0, 1]);
        let state = Batch::new(records(&[7]), Origin::unknown(1));
        input.lanes[1].snapshot = Some(Snapshot { next: 2, state });
        assert_eq!(input.before(3, 1), [2]);
        assert_eq!(input.before(1, 1), [0; 0]);
        // The other lane has no snapshot, and no rows in the batch in the middle.
        assert_eq!([0, 1, 2].map(|sequence| input.is_settled(sequence)), [false, true, false]);
    }

    #[test]
    fn a_snapshot_is_asked_for_when_it_saves_more_than_it_costs() {
        let mut input = input(1);
        let mut asked = |bytes: u64| (0..8).map(|_| u8::from(input.wants_snapshot(0, bytes))).sum::<u8>();
        assert_eq!([asked(SNAPSHOT_BYTES), asked(SNAPSHOT_BYTES / 4), asked(1)], [8, 2, 0]);
    }
}
