//! What user code asks of the run: primitives that all workers share, and their state.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Happened, Pool};
use crate::run::executor::frame::{Frame, Kind};
use crate::run::executor::shared_state::{self, Key};
use crate::run::executor::sync::{Answer, Asked, Name, Reply, Task};
use crate::run::executor::worker::WorkerError;
use crate::run::scheduler::{Awaited, WorkerId};

/// The text of an `ASK` frame.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Question {
    Acquire { kind: Units, name: String, units: u32, task: u64, patient: bool, gives_up: bool },
    Release { kind: Units, name: String, task: u64 },
    Wait { name: String, task: u64, patient: bool },
    Set { name: String, task: u64 },
    Clear { name: String, task: u64 },
    IsSet { name: String, task: u64 },
    Meet { name: String, units: u32, task: u64, patient: bool },
    GiveUp { request: u64 },
    Read { kind: shared_state::Kind, name: String },
    CompareAndSet { name: String, key: Key, expected: Value, value: Value },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Units {
    Lock,
    Semaphore,
}

impl Units {
    fn named(self, name: String) -> Name {
        match self {
            Self::Lock => Name::Lock(name),
            Self::Semaphore => Name::Semaphore(name),
        }
    }
}

impl Pool {
    /// A worker asks something; it is answered now, or when what it waits for has come.
    pub(super) fn worker_asks(&mut self, id: WorkerId, frame: &Frame) -> Result<(), WorkerError> {
        let request = frame.sequence;
        let task = |number| Task { worker: id, number };
        let (task, asked, is_patient) = match frame.text::<Question>()? {
            Question::Acquire { kind, name, units, task: number, patient, gives_up } => {
                (task(number), Asked::Acquire { name: kind.named(name), units, gives_up }, patient)
            }
            Question::Release { kind, name, task: number } => {
                (task(number), Asked::Release { name: kind.named(name) }, false)
            }
            Question::Wait { name, task: number, patient } => {
                (task(number), Asked::Wait { name: Name::Event(name) }, patient)
            }
            Question::Set { name, task: number } => (task(number), Asked::Set { name: Name::Event(name) }, false),
            Question::Clear { name, task: number } => (task(number), Asked::Clear { name: Name::Event(name) }, false),
            Question::IsSet { name, task: number } => (task(number), Asked::IsSet { name: Name::Event(name) }, false),
            Question::Meet { name, units: parties, task: number, patient } => {
                (task(number), Asked::Meet { name: Name::Barrier(name), parties }, patient)
            }
            Question::GiveUp { request } => (task(0), Asked::GiveUp { request }, false),
            Question::Read { kind, name } => {
                self.reads_state(id);
                let value = self.state.read(kind, &name);
                self.answer(id, request, &json!({"value": value}));
                return Ok(());
            }
            Question::CompareAndSet { name, key, expected, value } => {
                self.reads_state(id);
                let answer = match self.state.compare_and_set(&name, key, &expected, &value) {
                    Ok(is_set) => json!({"value": is_set}),
                    Err(error) => json!({"wrong": error.to_string()}),
                };
                self.answer(id, request, &answer);
                return Ok(());
            }
        };
        let replies = self.primitives.ask(task, request, asked);
        if is_patient && replies.iter().all(|reply| (reply.worker, reply.request) != (id, request)) {
            self.stands_still(id, request);
        }
        self.reply(replies);
        Ok(())
    }

    fn reads_state(&mut self, id: WorkerId) {
        let worker = self.workers.get(&id);
        let current = worker.and_then(|worker| worker.attempts.front());
        self.happened.extend(current.map(|current| Happened::ReadsState { stage: current.stage }));
    }

    /// The attempt of a worker has ended, or the worker is gone: what it held goes to those that wait for it. They go on before the end
    /// is told, or all that is left would seem to stand still.
    pub(super) fn let_go_of(&mut self, id: WorkerId) {
        if self.primitives.knows(id) {
            let replies = self.primitives.end_of(id);
            self.reply(replies);
        }
    }

    fn reply(&mut self, replies: Vec<Reply>) {
        for Reply { worker, request, answer } in replies {
            self.goes_on(worker, request);
            let text = match answer {
                Answer::Done(value) => json!({"value": value}),
                Answer::GivenUp => json!({"given_up": true}),
                Answer::Deadlock(chain) => json!({"deadlock": chain}),
                Answer::Wrong(message) => json!({"wrong": message}),
            };
            self.answer(worker, request, &text);
        }
    }

    fn answer(&mut self, id: WorkerId, request: u64, text: &Value) {
        if let Some(worker) = self.workers.get_mut(&id) {
            let mut frame = Frame::new(Kind::Answer).with_text(text);
            frame.sequence = request;
            worker.connection.send(frame);
        }
    }

    /// An attempt that is one task waits, for however long it takes.
    fn stands_still(&mut self, id: WorkerId, request: u64) {
        let on = self.primitives.waited_for(id, request).map(|(name, parties)| Awaited {
            worker: id,
            name: name.to_string(),
            parties,
        });
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (Some(current), Some(on)) = (worker.attempts.front(), on) else { return };
        // It is ended when its time is over, and others may go on then.
        if worker.is_one_task(current.stage) && self.plan.stage(current.stage).timeout.is_none() {
            worker.stands_still = Some(request);
            self.happened.push(Happened::StandsStill { attempt: current.attempt, on });
        }
    }

    fn goes_on(&mut self, id: WorkerId, request: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.stands_still.take_if(|waits| *waits == request).is_some()
            && let Some(current) = worker.attempts.front()
        {
            self.happened.push(Happened::GoesOn { attempt: current.attempt });
        }
    }
}
