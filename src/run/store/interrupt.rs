//! [`Interrupt`]: ends waits for stores from another thread.

use std::future::Future;

use tokio::sync::watch;

/// Clones are the same.
#[derive(Clone, Debug)]
pub struct Interrupt(watch::Sender<bool>);

impl Default for Interrupt {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Interrupt {
    /// From now on nobody waits who would.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// What comes of a request; `None` as soon as this is set.
    pub(super) async fn unless<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let mut told = self.0.subscribe();
        tokio::select! {
            biased;
            _ = told.wait_for(|is_set| *is_set) => None,
            result = request => Some(result),
        }
    }
}
