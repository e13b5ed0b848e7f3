//! [`Template`]: the preloaded process that workers are forked from, and that tells of their ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::Pool;
use crate::environment::template_variables;
use crate::run::executor::connection::Connection;
use crate::run::executor::frame::{Frame, Kind, PROTOCOL};
use crate::run::executor::guardian::{Guardian, ProcessEnd, ProcessId, Spawn, Turn};
use crate::run::executor::local::end_text;
use crate::run::executor::opening;
use crate::run::executor::poller::{Poller, Token};
use crate::run::executor::worker::ErrorText;
use crate::run::scheduler::{ExitCause, WorkerId};
use crate::run::{RunEvent, Stream};

#[derive(Debug)]
pub(super) struct Template {
    pub process: ProcessId,
    pub connection: Connection,
    /// Why it cannot be used.
    broken: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ForkedText {
    pid: i32,
}

#[derive(Debug, Deserialize)]
pub(super) struct HelloText {
    pub protocol: u32,
}

impl Pool {
    pub(super) fn start_template(&mut self, guardian: &mut Guardian, poller: &mut Poller) -> io::Result<()> {
        let host = self.host.clone().ok_or_else(|| io::Error::other("the run was started without Python"))?;
        let (mut connection, socket) = Connection::pair()?;
        let stdin = OwnedFd::from(File::open("/dev/null")?);
        let stdout = self.output_pipe("template", None, Stream::Stdout, poller)?;
        let stderr = self.output_pipe("template", None, Stream::Stderr, poller)?;
        let argv = [host.python.to_string_lossy().as_ref(), "-m", "millpond.template", "3"].map(str::to_owned);
        let inherited = std::env::var_os("PYTHONPATH");
        let env: BTreeMap<String, String> = template_variables(&host.package, inherited.as_deref())
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_string_lossy().into_owned()))
            .collect();
        // Not in the pipeline's folder: old Pythons would import from there.
        let cwd = Path::new("/");
        let process = guardian.spawn(Spawn {
            argv: &argv,
            env: &env,
            cwd,
            fds: vec![stdin, stdout, stderr, socket],
            announced: false,
            timeout: None,
            turn: Turn::Beside,
        });
        connection.send(Frame::new(Kind::Prepare).with_text(&json!({
            "preload": opening::preload_in_template(&self.plan),
            "path": opening::path(&self.plan),
            "cwd": self.plan.folder.to_string_lossy(),
            "env": {},
        })));
        poller.add(Token::Template(process), connection.fd())?;
        self.template = Some(Template { process, connection, broken: None });
        Ok(())
    }

    pub(super) fn template_ready(&mut self, process: ProcessId, poller: &mut Poller) {
        let Some(template) = self.template.as_mut().filter(|template| template.process == process) else { return };
        template.connection.flush();
        poller.watch_output(Token::Template(process), template.connection.fd(), template.connection.wants_to_send());
        let frames = match template.connection.receive() {
            Ok(frames) => frames,
            Err(error) => {
                template.broken = Some(format!("the template sent {error}"));
                poller.remove(Token::Template(process), template.connection.fd());
                return;
            }
        };
        if template.connection.is_closed() {
            // Its end is reported by the guardian.
            poller.remove(Token::Template(process), template.connection.fd());
        }
        for frame in frames {
            self.template_said(frame, poller);
        }
    }

    fn template_said(&mut self, mut frame: Frame, poller: &mut Poller) {
        let worker = WorkerId(u32::try_from(frame.attempt).unwrap_or(u32::MAX));
        match frame.kind {
            Kind::Forked => {
                let pid = frame.text::<ForkedText>().map_or(0, |text| text.pid);
                if let Some(known) = self.workers.get_mut(&worker) {
                    known.pid = pid;
                    known.pidfd = frame.fds.pop();
                    self.news.push(RunEvent::WorkerStarted { worker, pid });
                }
            }
            Kind::Exited => {
                let end: ProcessEnd = frame.text().unwrap_or_default();
                // What it had said before its end counts, whichever of the two is read first.
                self.worker_ready(worker, poller);
                if end.status != Some(0) {
                    self.did_not_close(worker, &end_text(end));
                }
                self.worker_gone(worker, end_text(end), ExitCause::Own, poller);
            }
            Kind::Hello => {
                let theirs = frame.text::<HelloText>().map_or(0, |text| text.protocol);
                if theirs != PROTOCOL {
                    self.template_broke(format!("the template speaks protocol {theirs}, not {PROTOCOL}"), poller);
                }
            }
            Kind::Error => {
                let text = frame.text::<ErrorText>();
                let message =
                    text.map_or_else(|error| error.to_string(), |text| format!("{}\n{}", text.message, text.traceback));
                if frame.attempt == 0 {
                    self.template_broke(message.trim_end().to_owned(), poller);
                } else {
                    self.worker_gone(worker, message, ExitCause::Own, poller);
                }
            }
            _ => {}
        }
    }

    /// The template cannot be used: without its socket it ends.
    fn template_broke(&mut self, message: String, poller: &mut Poller) {
        let Some(template) = &mut self.template else { return };
        poller.remove(Token::Template(template.process), template.connection.fd());
        let (closed, _) = match Connection::pair() {
            Ok(pair) => pair,
            Err(_) => return,
        };
        template.connection = closed;
        template.broken = Some(message);
    }

    /// The template is gone, or was never started: so are its workers, through no fault of their own, or soon.
    pub fn template_exited(&mut self, process: ProcessId, how: &str, poller: &mut Poller) {
        if self.template.as_ref().is_none_or(|template| template.process != process) {
            return;
        }
        self.template_ready(process, poller);
        let Some(template) = self.template.take() else { return };
        poller.remove(Token::Template(process), template.connection.fd());
        let reason = template.broken.unwrap_or_else(|| format!("the template process ended: {how}"));
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let worker = &self.workers[&id];
            match &worker.pidfd {
                // It is dying, and is not gone before its end is seen.
                Some(pidfd) => {
                    if poller.add(Token::WorkerEnd(id), pidfd.as_fd()).is_err() {
                        self.worker_gone(id, reason.clone(), ExitCause::Engine, poller);
                    }
                }
                None => self.worker_gone(id, reason.clone(), ExitCause::Engine, poller),
            }
        }
    }
}
