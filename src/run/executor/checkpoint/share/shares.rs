//! [`Shares`]: those of a run, and the threads that wait for stores.

use std::collections::BTreeMap;
use std::io;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::folder::Folder;
use super::{Share, ShareError};
use crate::plan::{Location, Plan, STORE_REQUESTS, StageId, StoreUrl};
use crate::run::executor::resident::STACK;
use crate::run::store::Store;

#[derive(Debug, Default)]
pub struct Shares {
    shares: BTreeMap<StageId, Share>,
    /// `None` without stores.
    stores: Option<Stores>,
}

#[derive(Debug)]
struct Stores {
    /// They wait for answers, and are not those that work, which would all wait if a store is slow.
    threads: ThreadPool,
    /// Each once, so that stages have its connections in common.
    open: Vec<(StoreUrl, Store)>,
}

impl Shares {
    /// Connects to no store yet.
    ///
    /// # Errors
    /// If what the environment says of a store makes no sense, or there are no threads left.
    pub fn open(plan: &Plan) -> Result<Self, ShareError> {
        let mut opened = Self::default();
        for stage in &plan.stages {
            let share = match stage.checkpoint.as_ref().and_then(|checkpoint| checkpoint.share.as_ref()) {
                None => continue,
                Some(Location::Local(path)) => Share::Folder(Folder(path.clone())),
                Some(Location::Store(url)) => {
                    let stores = match opened.stores.take() {
                        Some(stores) => stores,
                        None => Stores::start().map_err(ShareError::Threads)?,
                    };
                    Share::Store(opened.stores.insert(stores).open(url)?)
                }
            };
            opened.shares.insert(stage.id, share);
        }
        Ok(opened)
    }

    pub fn of(&self, stage: StageId) -> Option<Share> {
        self.shares.get(&stage).cloned()
    }

    pub fn have_stores(&self) -> bool {
        self.stores.is_some()
    }

    /// Does what may wait for the share of a stage.
    pub fn spawn(&self, stage: StageId, body: impl FnOnce() + Send + 'static) {
        match (&self.stores, self.shares.get(&stage)) {
            (Some(stores), Some(Share::Store(_))) => stores.threads.spawn(body),
            _ => rayon::spawn(body),
        }
    }
}

impl Stores {
    fn start() -> io::Result<Self> {
        let threads = ThreadPoolBuilder::new().num_threads(STORE_REQUESTS.get() as usize);
        let threads = threads.stack_size(STACK).thread_name(|number| format!("millpond-share-{number}"));
        Ok(Self { threads: threads.build().map_err(io::Error::other)?, open: Vec::new() })
    }

    fn open(&mut self, url: &StoreUrl) -> Result<Store, ShareError> {
        if let Some((_, store)) = self.open.iter().find(|(other, _)| other == url) {
            return Ok(store.clone());
        }
        let failed = |source| ShareError::Store { what: "use", url: url.to_string(), source };
        let store = Store::open(url).map_err(failed)?;
        self.open.push((url.clone(), store.clone()));
        Ok(store)
    }
}
