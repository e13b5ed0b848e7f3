//! [`kill_descendants`]: the end of all that this process has started, and of all that they have.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// How often the killing is repeated for what will not die (processes in uninterruptible sleep).
const ROUNDS: u32 = 400;

/// Kills all descendants, again and again until there are none: what they start while they are being killed becomes a child of
/// this process too, if it is a subreaper.
pub(super) fn kill_descendants() {
    for round in 0..ROUNDS {
        if !has_children() {
            return;
        }
        for pid in descendants() {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Killed processes take a moment to die.
        std::thread::sleep(Duration::from_millis(if round < 20 { 1 } else { 5 }));
    }
}

/// Whether anything is left, once the dead are reaped. What has lost its parents is a child: without children, there are no descendants.
fn has_children() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(None) => return true,
        }
    }
}

/// All processes below this one, by the parents that `/proc` shows.
fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The command's name, in parentheses, may contain anything; the parent is the second field after it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = open.pop() {
        for &child in children.get(&parent).map_or(&[][..], Vec::as_slice) {
            found.extend(Pid::from_raw(child));
            open.push(child);
        }
    }
    found
}
