//! A line per stage on a terminal, drawn again and again.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::Plan;
use crate::run::{Activity, Snapshot, StageSnapshot};

use super::words::count;

/// Columns of the queue's bar.
const BAR: usize = 10;
/// Stages that get a line; there is no room for more on a terminal.
const MOST_LINES: usize = 40;

pub struct Live {
    progress: MultiProgress,
    bars: Vec<ProgressBar>,
    /// What workers wait for that they share.
    waits: ProgressBar,
    width: usize,
    started: Instant,
}

impl Live {
    pub fn new(plan: &Plan) -> Self {
        let progress = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{msg}").expect("a template without faults");
        let bars = plan.stages.iter().filter(|stage| !stage.is_added()).take(MOST_LINES).map(|_| {
            let bar = progress.add(ProgressBar::new_spinner());
            bar.set_style(style.clone());
            bar
        });
        let bars = bars.collect();
        let waits = progress.add(ProgressBar::new_spinner());
        waits.set_style(style.clone());
        let width = plan.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
        Self { progress, bars, waits, width, started: Instant::now() }
    }

    pub fn show(&self, plan: &Plan, snapshot: &Snapshot) {
        let elapsed = self.started.elapsed().max(Duration::from_millis(1));
        let stages = snapshot.stages.iter().zip(&plan.stages).filter(|(_, stage)| !stage.is_added());
        for (bar, (state, stage)) in self.bars.iter().zip(stages) {
            bar.set_message(self.line(&stage.name, state, elapsed));
        }
        self.waits.set_message(waits(snapshot));
    }

    fn line(&self, name: &str, state: &StageSnapshot, elapsed: Duration) -> String {
        let rows = state.rows_in.max(state.rows_out);
        let rate = count((rows as f64 / elapsed.as_secs_f64()) as u64);
        let filled = (state.queue_fill * BAR as f64).round() as usize;
        let queue = format!("{}{}", "█".repeat(filled), "░".repeat(BAR.saturating_sub(filled)));
        let mut line = format!("{name:width$}  {:>12} rows {rate:>10}/s  {queue}", count(rows), width = self.width);
        if state.running > 0 {
            line += &format!("  {} running", state.running);
        }
        if state.retries > 0 {
            line += &format!("  {} tried again", count(state.retries));
        }
        if state.rejected > 0 {
            line += &format!("  {} rejected", count(state.rejected));
        }
        line += match state.activity {
            Activity::Busy => "",
            Activity::WaitsForInput => "  waits for input",
            Activity::WaitsForStage => "  waits for another stage",
            Activity::WaitsForOutput => "  waits: queue behind it is full",
            Activity::WaitsForWorker => "  waits for a worker",
            Activity::WaitsForResource => "  waits for a resource",
            Activity::Over => "  done",
        };
        line
    }

    /// Prints a line above the stages.
    pub fn say(&self, line: &str) {
        // Standard error that cannot be written has nobody to tell.
        let _ = self.progress.println(line);
    }

    pub fn end(&self) {
        let _ = self.progress.clear();
    }
}

/// Who waits for locks and the like; empty if nobody does.
fn waits(snapshot: &Snapshot) -> String {
    let waits = snapshot.waited_for.iter().map(|(name, workers)| match workers {
        1 => format!("1 worker waits for {name}"),
        workers => format!("{workers} workers wait for {name}"),
    });
    waits.collect::<Vec<_>>().join(", ")
}
