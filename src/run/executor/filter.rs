//! [`Filter`]: a process that is given batch after batch, and gives a line for each line. Its output belongs to the batches by
//! the number of their lines.
//!
//! What it is given is written without waiting for output, as many a program holds back what it has to say until there is enough of
//! it. An attempt *waits* when all its lines are written: its place is free for the next one, which goes to the same process. Where
//! no next one comes, standard input is closed, and the rest of the output follows.
//!
//! A process that fails says nothing about which of its batches made it fail. Those whose output it has not given are handed back, to
//! be tried again *alone*, in a process of their own each, and what comes of that counts. A process that ends well with fewer lines than
//! it was given, or more, has broken its contract. Nobody can tell where, and what has been given may be wrong, so that is a failure of
//! the stage, however many batches it was given: how many those are is a matter of timing.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};

use super::command::{OurEnds, OutputForm, broken_pipes, check_end, text};
use super::guardian::{ProcessEnd, ProcessId};
use super::mailbox::{Mailbox, Message};
use super::resident::failure;
use super::talk::{Body, Lines, Talk, Voice};
use crate::batch::{Batch, Text};
use crate::format::Format;
use crate::plan::Verdict;
use crate::run::scheduler::{AttemptId, Failure, Scope};

/// How long a process may be silent that has read all it was given and owes output, before it counts as holding back.
const PATIENCE: Duration = Duration::from_millis(100);

/// One batch for a filter.
#[derive(Debug)]
pub struct Portion {
    pub attempt: AttemptId,
    pub batch: Batch,
}

/// What the event loop asks of the thread of a filter.
enum Order {
    Feed(Portion),
    /// Nothing follows.
    Finish,
}

/// The event loop's handle.
pub struct Orders {
    sender: Sender<Order>,
    wake: Arc<OwnedFd>,
}

/// What is left of a filter that has ended.
#[derive(Debug)]
pub struct Remains {
    pub process: ProcessId,
    unfed: Vec<Portion>,
    /// What it was ordered when it had ended already.
    late: Receiver<Order>,
    /// What it was given and did not give the output of.
    pub undone: Vec<Portion>,
    pub failure: Option<Failure>,
}

impl Remains {
    /// What it was never given. For whoever gives the orders, after the last one.
    pub fn unfed(&mut self) -> Vec<Portion> {
        let late = self.late.try_iter().filter_map(|order| match order {
            Order::Feed(portion) => Some(portion),
            Order::Finish => None,
        });
        std::mem::take(&mut self.unfed).into_iter().chain(late).collect()
    }
}

/// The thread's side.
pub struct Filter {
    pub process: ProcessId,
    pub input: Format,
    pub form: OutputForm,
    care: Care,
    /// The process is being stopped, as it was silent for too long.
    is_overdue: bool,
    orders: Receiver<Order>,
    wake: Arc<OwnedFd>,
    mailbox: Mailbox,
    /// What it was given, in order.
    open: VecDeque<Portion>,
    /// Whether the last of them has been said to wait.
    is_waiting: bool,
    unfed: Vec<Portion>,
    rows_fed: usize,
    rows_given: usize,
}

/// What is special about the batches of a filter.
#[derive(Clone, Copy, Debug)]
pub struct Care {
    /// Whether what fails is a failure of its one batch.
    pub is_alone: bool,
    /// How long the process may say nothing and take nothing while it owes output.
    pub silence: Option<Duration>,
}

impl Orders {
    /// Hands a batch over. One that comes too late comes back with [`Remains`].
    pub fn feed(&self, portion: Portion) {
        self.order(Order::Feed(portion));
    }

    pub fn finish(&self) {
        self.order(Order::Finish);
    }

    fn order(&self, order: Order) {
        if self.sender.send(order).is_ok() {
            // Fails only if the counter is full, and then the thread is awake.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Filter {
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(
        process: ProcessId,
        input: Format,
        form: OutputForm,
        care: Care,
        mailbox: Mailbox,
    ) -> io::Result<(Self, Orders)> {
        let (sender, orders) = unbounded();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let filter = Self {
            process,
            input,
            form,
            care,
            is_overdue: false,
            orders,
            wake: Arc::clone(&wake),
            mailbox,
            open: VecDeque::new(),
            is_waiting: false,
            unfed: Vec::new(),
            rows_fed: 0,
            rows_given: 0,
        };
        Ok((filter, Orders { sender, wake }))
    }

    /// Talks to the process until it has ended, and says what is left.
    pub fn run(mut self, ends: OurEnds, voice: Voice) {
        let mut talk = Talk::new(ends, voice, Some(Format::Lines));
        let failure = match self.until_the_end(&mut talk) {
            Ok(end) => self.judge(talk, end).err(),
            Err(failure) => Some(failure),
        };
        let Self { process, unfed, orders, open, mailbox, .. } = self;
        mailbox.send(Message::FilterEnded(Remains { process, unfed, late: orders, undone: open.into(), failure }));
    }

    fn until_the_end(&mut self, talk: &mut Talk) -> Result<ProcessEnd, Failure> {
        loop {
            self.obey(talk);
            if talk.is_open() {
                self.give(talk);
                self.tell_who_waits(talk);
            }
            let owes = talk.is_open() && talk.is_written() && !self.open.is_empty();
            let silence = talk.silence();
            if owes && silence >= PATIENCE && talk.is_read() {
                talk.say_last(VecDeque::new());
            }
            self.stop_if_overdue(silence);
            // One that has not read everything is slow, and is asked again later.
            let looks_again = owes || self.care.silence.is_some() && !self.open.is_empty();
            let patience = looks_again.then(|| PATIENCE.checked_sub(silence).unwrap_or(PATIENCE));
            if let Some(end) = talk.turn(Some(self.wake.as_fd()), patience).map_err(broken_pipes)? {
                return Ok(end);
            }
        }
    }

    /// A process that owes output, and neither says nor takes anything for longer than it may, hangs.
    fn stop_if_overdue(&mut self, silence: Duration) {
        let is_late = self.care.silence.is_some_and(|most| silence >= most);
        if is_late && !self.open.is_empty() && !self.is_overdue {
            self.is_overdue = true;
            self.mailbox.send(Message::FilterOverdue { process: self.process });
        }
    }

    fn obey(&mut self, talk: &mut Talk) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut counter);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Feed(portion) if talk.is_open() => self.feed(talk, portion),
                Order::Feed(portion) => self.unfed.push(portion),
                Order::Finish => talk.say_last(VecDeque::new()),
            }
        }
    }

    fn feed(&mut self, talk: &mut Talk, portion: Portion) {
        match text(self.input, &portion.batch) {
            Ok(text) => {
                self.rows_fed += portion.batch.rows();
                talk.say(text);
                self.open.push_back(portion);
                self.is_waiting = false;
            }
            Err(failure) => self.mailbox.send(Message::AttemptFailed { attempt: portion.attempt, failure }),
        }
    }

    /// Gives the output of the batches of which all lines have come.
    fn give(&mut self, talk: &mut Talk) {
        while let Some(portion) = self.open.front() {
            // The last batch cannot be complete before it is written.
            if self.open.len() == 1 && !talk.is_written() {
                return;
            }
            let Some(text) = lines(talk).next(portion.batch.rows()) else { return };
            talk.output.bytes = 0;
            let portion = self.open.pop_front().expect("just seen");
            self.give_one(portion, text);
        }
    }

    fn give_one(&mut self, portion: Portion, text: Text) {
        let rows = portion.batch.rows();
        self.rows_given += rows;
        let found = self
            .form
            .rows_of_text(text)
            .and_then(|found| if found.len() == rows { Ok(found) } else { Err(miscount(rows, found.len())) });
        let attempt = portion.attempt;
        self.mailbox.send(match found {
            Ok(found) => {
                let batch = Some(Batch::new(found, portion.batch.origin().clone()));
                Message::AttemptDone { attempt, rows: rows as u64, batch, failed: Vec::new() }
            }
            Err(failure) => Message::AttemptFailed { attempt, failure },
        });
    }

    fn tell_who_waits(&mut self, talk: &Talk) {
        if let Some(last) = self.open.back()
            && talk.is_written()
            && !self.is_waiting
        {
            self.is_waiting = true;
            self.mailbox.send(Message::AttemptWaits { attempt: last.attempt });
        }
    }

    /// Takes the rest of the output. What it leaves open is to be tried again.
    fn judge(&mut self, talk: Talk, end: ProcessEnd) -> Result<(), Failure> {
        let errors = talk.errors();
        let Body::Lines(lines) = talk.output.body else { unreachable!("filters give lines") };
        let rest = lines.finish();
        if let Err(failure) = check_end(end, &errors) {
            let is_all = rest.as_ref().is_ok_and(|rest| self.rows_given + rest.lines() == self.rows_fed);
            match failure.verdict {
                _ if !is_all => return self.fail(failure),
                // Somebody killed it, and nothing is lost.
                Verdict::Crash => {}
                // It says itself that what it gave is not right, and not about which batch.
                _ => return Err(Failure { scope: Scope::Opening, ..failure }),
            }
        }
        let mut rest = match rest {
            Ok(rest) => rest,
            Err(error) => return self.fail(Failure { traceback: errors, ..self.form.misread(&error.into()) }),
        };
        let found = self.rows_given + rest.lines();
        if found != self.rows_fed {
            return Err(Failure { scope: Scope::Opening, traceback: errors, ..miscount(self.rows_fed, found) });
        }
        while let Some(portion) = self.open.pop_front() {
            let text = rest.take_front(portion.batch.rows(), usize::MAX).expect("there are as many as were fed");
            self.give_one(portion, text);
        }
        Ok(())
    }

    /// The process has failed, and its batches may be to blame, if it has any.
    fn fail(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.open.is_empty() {
            return Err(Failure { scope: Scope::Opening, ..failure });
        }
        if self.care.is_alone {
            for Portion { attempt, .. } in self.open.drain(..) {
                self.mailbox.send(Message::AttemptFailed { attempt, failure: failure.clone() });
            }
        }
        Ok(())
    }
}

fn lines(talk: &mut Talk) -> &mut Lines {
    match &mut talk.output.body {
        Body::Lines(lines) => lines,
        Body::Bytes(_) => unreachable!("filters give lines"),
    }
}

/// A command in mode `stream` has not kept to its contract.
fn miscount(given: usize, found: usize) -> Failure {
    let rows = |count: usize| if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    let message = format!(
        "the command gave {} for {}; in `mode: stream` it must write a line for each line that it reads, in the same order: \
         `mode: batch` takes whatever it gives",
        rows(found),
        rows(given)
    );
    failure(Scope::Rows, Verdict::Schema, message)
}
