//! [`Background`]: the thread that waits for stores.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

use super::error::StoreError;

/// Parts of uploads that are in memory at once, of all that upload.
const PARTS: usize = 4;

/// One for all that use stores at a time; it ends when nobody does.
#[derive(Debug)]
pub(super) struct Background {
    runtime: Option<Runtime>,
    /// For each part that is on its way to a store.
    pub(super) parts: Semaphore,
}

static SHARED: Mutex<Weak<Background>> = Mutex::new(Weak::new());

impl Background {
    /// # Errors
    /// If the system has no thread left.
    pub(super) fn shared() -> Result<Arc<Self>, StoreError> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(background) = shared.upgrade() {
            return Ok(background);
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("millpond-store").enable_all().build();
        let runtime = Some(runtime.map_err(StoreError::Thread)?);
        let background = Arc::new(Self { runtime, parts: Semaphore::new(PARTS) });
        *shared = Arc::downgrade(&background);
        Ok(background)
    }

    /// Waits for a request.
    pub(super) fn run<T>(&self, request: impl Future<Output = T>) -> T {
        self.handle().block_on(request)
    }

    pub(super) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Drop for Background {
    /// Names may be looked up in it, which nothing can cut short: nobody waits for that.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
