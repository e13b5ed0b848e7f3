//! [`Reporter`]: the thread that shows and records a run.

use std::fs::File;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::live::Live;
use super::{json, plain};
use crate::plan::Plan;
use crate::run::{Outcome, RunEvent};

/// Events that may wait for the reporter. When it is stuck, more are dropped: the run goes on.
const WAITING: usize = 4096;
/// How long the end of a run waits for a reporter that is stuck.
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
    End(Box<(Outcome, u8, Option<String>, String)>),
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

    /// Shows and records the end: `text` for people, the rest for `summary.json`. Waits for it, but not for ever.
    pub fn end(self, outcome: Outcome, exit_code: u8, message: Option<String>, text: String) {
        let end = Message::End(Box::new((outcome, exit_code, message, text)));
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
    folder: Option<std::path::PathBuf>,
    events: Option<File>,
}

impl Desk {
    fn new(plan: Arc<Plan>, style: Style) -> Self {
        let live = (style == Style::Live).then(|| Live::new(&plan));
        Self { plan, style, live, folder: None, events: None }
    }

    fn work(&mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Event(event, at) => self.event(&event, at),
                Message::End(end) => {
                    let (outcome, exit_code, message, text) = *end;
                    self.end(&outcome, exit_code, message.as_deref(), &text);
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: &RunEvent, at: Duration) {
        if let RunEvent::Started { folder, .. } = event {
            self.events = File::create(folder.join("events.jsonl")).ok();
            self.folder = Some(folder.clone());
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
        if self.events.as_mut().is_some_and(|file| file.write_all(line.as_bytes()).is_err()) {
            self.events = None;
        }
    }

    fn end(&mut self, outcome: &Outcome, exit_code: u8, message: Option<&str>, text: &str) {
        if let Some(live) = &self.live {
            live.end();
        }
        let summary = json::outcome(&self.plan, outcome, exit_code, message);
        if let Some(folder) = &self.folder {
            let text = serde_json::to_string_pretty(&summary).expect("plain values are JSON");
            if let Err(error) = std::fs::write(folder.join("summary.json"), text) {
                eprint(&format!("warning: the summary could not be written: {error}\n"));
            }
        }
        match self.style {
            Style::Json => eprint(&format!("{}\n", serde_json::json!({"v": 1, "event": "ended", "summary": summary}))),
            // What failed is always said.
            Style::None if message.is_none() => {}
            _ => eprint(&harmless(text)),
        }
    }
}

/// Text of user code and data may hold anything: what would steer the terminal is shown as what it is.
pub fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
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
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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
