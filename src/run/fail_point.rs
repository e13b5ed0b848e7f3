//! Named places at which a test can end the process as a crash would.
//!
//! `MILLPOND_FAIL_POINT=name` kills the process when the place is reached, `name:3` when it is reached for the third time.
//! Without the variable a fail point costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The variable that names a fail point.
pub const VARIABLE: &str = "MILLPOND_FAIL_POINT";

/// The fail points of publication, in the order in which a run reaches them.
pub const PUBLISH: &[&str] = &[
    "publish.before_recorded",
    "publish.recorded",
    "publish.staged",
    "publish.sink_finished",
    "publish.before_journal",
    "publish.journal_synced",
    "publish.journal_written",
    "publish.renamed",
    "publish.before_committed",
    "publish.committed",
];

struct Chosen {
    name: String,
    /// Times that the place may still be passed.
    left: AtomicU64,
}

/// Kills this process if `name` is the chosen fail point and it is reached for the chosen time.
pub fn reach(name: &str) {
    if is_reached(name) {
        // Nothing is cleaned up, as in a crash. If a process could not kill itself, aborting would be next best.
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}

/// Whether `name` is the chosen fail point and it is reached for the chosen time, for faults other than a crash.
pub fn is_reached(name: &str) -> bool {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    CHOSEN
        .get_or_init(choose)
        .as_ref()
        .is_some_and(|chosen| chosen.name == name && chosen.left.fetch_sub(1, Ordering::SeqCst) == 1)
}

fn choose() -> Option<Chosen> {
    let value = std::env::var(VARIABLE).ok()?;
    let (name, times) = match value.split_once(':') {
        Some((name, times)) => (name, times.parse().unwrap_or(1)),
        None => (value.as_str(), 1),
    };
    Some(Chosen { name: name.to_owned(), left: AtomicU64::new(times) })
}
