//! [`Lock`]: one process at a time. The kernel takes it back from a process that dies.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Waits for the lock, and calls `waiting` first if it has to.
    pub fn acquire(path: &Path, waiting: impl FnOnce()) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                waiting();
                while let Err(error) = flock(&file, FlockOperation::LockExclusive) {
                    if error != Errno::INTR {
                        return Err(error.into());
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Self { file })
    }

    /// Lets the processes that are started from now on hold the lock too: if this process is killed, what it has
    /// started still works in the folder, and nobody else may.
    pub fn share_with_children(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lock");
        let first = Lock::acquire(&path, || panic!("nobody else has it")).expect("locked");
        let (sender, events) = mpsc::channel();
        let second = thread::spawn({
            let sender = sender.clone();
            move || {
                let lock = Lock::acquire(&path, || sender.send("waits").expect("heard")).expect("locked");
                sender.send("has it").expect("heard");
                drop(lock);
            }
        });
        assert_eq!(events.recv(), Ok("waits"));
        sender.send("released").expect("heard");
        drop(first);
        second.join().expect("no panic");
        assert_eq!((events.recv(), events.recv()), (Ok("released"), Ok("has it")));
    }
}
