//! [`Reporter`]: the thread that shows and records a run.

use std::fs::File;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::live::Live;
use super::run_summary::RunSummary;
use super::{json, plain};
use crate::plan::Plan;
use crate::run::RunEvent;
use crate::secrets::masked;

/// Events that may wait for the reporter. When it is stuck, more are dropped: the run goes on.
const WAITING: usize = 4096;
/// How long the end of a run waits for a reporter that is stuck, as nobody reads what it prints.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a run is shown while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line per stage, drawn again and again.
    Live,
    /// A line per event that matters.
    Plain,
    /// A JSON object per event.
    Json,
    None,
}

enum Message {
    Event(RunEvent, Duration),
    End(Box<End>),
}

/// What is shown at the end.
struct End {
    summary: RunSummary,
    has_failed: bool,
    text: String,
}

pub struct Reporter {
    sender: Sender<Message>,
    ended: Receiver<()>,
    started: Instant,
}

impl Reporter {
    /// # Errors
    /// If the system has no thread left.
    pub fn start(plan: Arc<Plan>, style: Style) -> io::Result<Self> {
        let (sender, receiver) = bounded(WAITING);
        let (end, ended) = bounded(1);
        let body = move || {
            Desk::new(plan, style).work(&receiver);
            // Nobody waits any more if the reporter was given up.
            let _ = end.send(());
        };
        thread::Builder::new().name("millpond-report".to_owned()).spawn(body)?;
        Ok(Self { sender, ended, started: Instant::now() })
    }

    /// Passes an event on; never waits.
    pub fn tell(&self, event: RunEvent) {
        // A full channel means that nobody reads what is printed; progress is then no loss.
        let _ = self.sender.try_send(Message::Event(event, self.started.elapsed()));
    }

    /// Shows the end: `summary` to programs, `text` to people. Waits for who reads it, but not for ever.
    pub fn end(self, summary: RunSummary, has_failed: bool, text: String) {
        let end = Message::End(Box::new(End { summary, has_failed, text }));
        if self.sender.send_timeout(end, PATIENCE).is_ok() {
            let _: Result<(), RecvTimeoutError> = self.ended.recv_timeout(PATIENCE);
        }
    }
}

/// The reporter's thread.
struct Desk {
    plan: Arc<Plan>,
    style: Style,
    live: Option<Live>,
    events: Option<File>,
}

impl Desk {
    fn new(plan: Arc<Plan>, style: Style) -> Self {
        let live = (style == Style::Live).then(|| Live::new(&plan));
        Self { plan, style, live, events: None }
    }

    fn work(&mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Event(event, at) => self.event(&event, at),
                Message::End(end) => {
                    self.end(&end);
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: &RunEvent, at: Duration) {
        if let RunEvent::Started { folder, .. } = event {
            self.events = File::create(folder.join("events.jsonl")).ok();
        }
        let is_progress = matches!(event, RunEvent::Progress(_));
        if !is_progress {
            self.record(event, at);
        }
        match (self.style, event) {
            (Style::None, _) => {}
            (Style::Json, _) => eprint(&format!("{}\n", json::event(&self.plan, event, at))),
            (Style::Live, RunEvent::Progress(snapshot)) => {
                if let Some(live) = &self.live {
                    live.show(&self.plan, snapshot);
                }
            }
            (Style::Live, RunEvent::StageEnded { .. } | RunEvent::Started { .. }) => {}
            (Style::Live, _) => {
                if let (Some(live), Some(line)) = (&self.live, plain::line(&self.plan, event)) {
                    live.say(&harmless(&line));
                }
            }
            (Style::Plain, _) => {
                if let Some(line) = plain::line(&self.plan, event) {
                    eprint(&format!("{}\n", harmless(&line)));
                }
            }
        }
    }

    /// Records an event in the run's folder. A record that cannot be written ends the recording, not the run.
    fn record(&mut self, event: &RunEvent, at: Duration) {
        let line = format!("{}\n", json::event(&self.plan, event, at));
        if self.events.as_mut().is_some_and(|file| file.write_all(masked(&line).as_bytes()).is_err()) {
            self.events = None;
        }
    }

    fn end(&mut self, end: &End) {
        if let Some(live) = &self.live {
            live.end();
        }
        match self.style {
            Style::Json => {
                eprint(&format!("{}\n", serde_json::json!({"v": 1, "event": "ended", "summary": end.summary})));
            }
            // What failed is always said.
            Style::None if !end.has_failed => {}
            _ => eprint(&harmless(&end.text)),
        }
    }
}

/// Text of user code and data may hold anything: secrets are hidden, and what would steer the terminal is shown as what it is. In this
/// order, as a secret is not found in what is shown in another way.
pub fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
    match masked(text) {
        std::borrow::Cow::Borrowed(text) => without_steering(text),
        std::borrow::Cow::Owned(text) => without_steering(&text).into_owned().into(),
    }
}

fn without_steering(text: &str) -> std::borrow::Cow<'_, str> {
    let steers = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    if !text.contains(steers) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if steers(letter) { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown.into()
}

fn eprint(text: &str) {
    // There is nowhere left to report that standard error cannot be written.
    let _ = std::io::stderr().lock().write_all(masked(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_obeyed() {
        assert_eq!(harmless("a\n\tb ü"), "a\n\tb ü");
        assert_eq!(harmless("\u{1b}[31m\0"), "\\u{1b}[31m\\u{0}");
    }
}
