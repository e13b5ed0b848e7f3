//! What processes of a run in the foreground have in the place of pipes: this process's own standard input, output and error.
//!
//! They have no terminal of their own, as each has a session of its own. So they may read what is typed although they are no
//! foreground group, and what is typed to end a program (Ctrl-C) comes to this process alone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Copies are none of the standard descriptors.
const FIRST: i32 = 3;

/// # Errors
/// If there are no descriptors left, as for the others.
pub fn stdin() -> io::Result<OwnedFd> {
    copy(rustix::stdio::stdin())
}

pub fn stdout() -> io::Result<OwnedFd> {
    copy(rustix::stdio::stdout())
}

pub fn stderr() -> io::Result<OwnedFd> {
    copy(rustix::stdio::stderr())
}

fn copy(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, FIRST)?)
}
