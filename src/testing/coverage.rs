//! [`Coverage`]: what of a pipeline the tests of a file have run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::plan::{Plan, Port, StageKind, Testable};
use crate::report::some;

/// What of a pipeline tests have run. Stages that a `foreach` makes count as one.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    stages: BTreeSet<String>,
    /// Stage and port.
    ports: BTreeSet<(String, String)>,
}

impl Coverage {
    /// Counts what a test runs: all of its plan but what is given, and what is expected of it.
    pub fn add(&mut self, plan: &Plan, given: &BTreeSet<String>, expected: &[String]) {
        let written = |name: &str| {
            let stage = plan.stages.iter().find(|stage| stage.name == name);
            stage.and_then(|stage| stage.foreach.clone()).unwrap_or_else(|| name.to_owned())
        };
        let run = plan.stages.iter().filter(|stage| {
            let is_sink = matches!(stage.kind, StageKind::Write(_));
            !is_sink && !given.contains(&stage.name)
        });
        for stage in run {
            self.stages.insert(written(&stage.name));
            let is_read = |port: &&Port| !port.edges.is_empty();
            let ports = stage.ports.iter().filter(is_read).map(|port| port.name.clone());
            // What is behind the check of a stage's rows are ports of that stage.
            if let StageKind::Expect(expect) = &stage.kind {
                let ports = ports.map(|port| if port == Port::REJECTED { Port::UNEXPECTED.to_owned() } else { port });
                self.ports.extend(ports.map(|port| (written(&expect.of), port)));
            } else {
                self.ports.extend(ports.map(|port| (written(&stage.name), port)));
            }
        }
        // A sink is run if its rows are looked at.
        self.stages.extend(expected.iter().map(|of| of.split('.').next().unwrap_or(of).to_owned()));
    }

    /// For people.
    pub fn text(&self, all: &[Testable], pipeline: &str) -> String {
        let not_run: Vec<_> = all.iter().filter(|one| !self.stages.contains(&one.stage)).collect();
        let ports = || all.iter().flat_map(|one| one.ports.iter().map(move |port| (&one.stage, port)));
        let unread: Vec<String> = ports()
            .filter(|(stage, port)| !self.ports.contains(&((*stage).clone(), (*port).clone())))
            .filter(|(stage, _)| self.stages.contains(*stage))
            .map(|(stage, port)| format!("`{stage}.{port}`"))
            .collect();
        let covered = ports().filter(|(stage, port)| self.ports.contains(&((*stage).clone(), (*port).clone()))).count();
        let (stages, of_stages, of_ports) = (all.len() - not_run.len(), all.len(), ports().count());
        let mut text =
            format!("coverage of {pipeline}: {stages} of {of_stages} stages, {covered} of {of_ports} ports\n");
        let names: Vec<String> = not_run.iter().map(|one| format!("`{}`", one.stage)).collect();
        if !names.is_empty() {
            let _ = writeln!(text, "  run by no test: {}", some(&names));
        }
        if !unread.is_empty() {
            let _ = writeln!(text, "  rows looked at by no test: {}", some(&unread));
        }
        text
    }
}
