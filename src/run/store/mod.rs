//! [`Store`]: an object store, in which runs read and write objects.
//!
//! Who may use it, and where it is, the environment says, in the variables that the `object_store` crate reads. What is said about failures is made
//! of parts that cannot hold a secret: answers of stores quote what they were sent.

mod background;
mod error;
mod fetch;
mod interrupt;
mod upload;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use self::background::Background;
use crate::plan::{Provider, StoreUrl};

pub use error::StoreError;
pub use fetch::{Fetched, Objects};
pub use interrupt::Interrupt;
pub use upload::{Upload, UploadedParts};

/// How often a request is sent again that the store, or the way to it, has failed.
const RETRIES: usize = 6;
/// No request is sent again later than this.
const RETRIED_WITHIN: Duration = Duration::from_secs(30);
/// What takes longer has failed: `RETRIED_WITHIN`, and as much for the last request, which nothing has ended.
const LIMIT: Duration = Duration::from_secs(60);

/// A place in a store, and the connections to it.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    uploads: Arc<dyn Uploads>,
    url: StoreUrl,
    background: Arc<Background>,
}

/// What stores can do that are reached over a network.
trait Uploads: MultipartStore + std::fmt::Debug {}

impl<T: MultipartStore + std::fmt::Debug> Uploads for T {}

/// An object as it was when it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name in the bucket.
    pub path: Path,
    /// Bytes.
    pub size: u64,
    /// What it is called as long as it stays the same, if the store says so.
    pub tag: Option<String>,
    /// When it came to be, in milliseconds since 1970.
    pub modified: i64,
}

impl Object {
    /// Whether both are the object as it was at one time: lists and single looks do not tell of it in quite the same words.
    pub fn is_same(&self, other: &Self) -> bool {
        let told = |object: &Self| {
            let tag = object.tag.as_ref().map(|tag| tag.trim_matches('"').to_owned());
            (object.path.clone(), object.size, tag, object.modified / 1000)
        };
        told(self) == told(other)
    }
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        Self { path: meta.location, size: meta.size, tag: meta.e_tag, modified: meta.last_modified.timestamp_millis() }
    }
}

impl Store {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// If what the environment says makes no sense, or there is no thread left that could wait for answers.
    pub fn open(url: &StoreUrl) -> Result<Self, StoreError> {
        let background = Background::shared()?;
        let (objects, uploads) = connect(url).map_err(|error| StoreError::of(&error, url.provider))?;
        Ok(Self { objects, uploads, url: url.clone(), background })
    }

    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// What lies below the place under this name; `None` if it is not there.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.below(name);
        self.if_there(self.wait_for(async { self.objects.get(&path).await?.bytes().await }))
    }

    /// Puts something below the place, whatever is there.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let path = self.below(name);
        let put = self.wait_for(self.objects.put(&path, bytes.into()));
        put.map(drop).map_err(|error| self.error(&error))
    }

    /// The object with this name in the bucket; `None` if there is none.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn look(&self, path: &Path) -> Result<Option<Object>, StoreError> {
        self.if_there(self.wait_for(async { Ok(self.objects.head(path).await?.into()) }))
    }

    /// All objects whose names have these parts in front, in the order of their names. `interrupt` ends the wait.
    ///
    /// # Errors
    /// If the store does not answer, or refuses; or after an interrupt.
    pub fn list(&self, path: &Path, interrupt: &Interrupt) -> Result<Vec<Object>, StoreError> {
        // Of a page: there may be any number of them.
        let listed = async {
            let mut pages = self.objects.list(Some(path)).map_ok(Object::from).try_ready_chunks(1000);
            let mut found = Vec::new();
            while let Some(page) = timely(async { pages.try_next().await.map_err(|error| error.1) }).await? {
                found.extend(page);
            }
            Ok(found)
        };
        let listed = self.background.run(interrupt.unless(listed)).ok_or(StoreError::Interrupted)?;
        let mut found = listed.map_err(|error| self.error(&error))?;
        sort(&mut found);
        Ok(found)
    }

    /// As [`Store::list`], of those alone that have one part more.
    ///
    /// # Errors
    /// As there.
    pub fn list_folder(&self, path: &Path, interrupt: &Interrupt) -> Result<Vec<Object>, StoreError> {
        // It asks for as many pages as there are, each of which has its own limit.
        let listed = interrupt.unless(self.objects.list_with_delimiter(Some(path)));
        let listed = self.background.run(listed).ok_or(StoreError::Interrupted)?;
        let mut found: Vec<Object> =
            listed.map_err(|error| self.error(&error))?.objects.into_iter().map(Object::from).collect();
        sort(&mut found);
        Ok(found)
    }

    /// Removes objects, those that are not there, too.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn remove(&self, paths: &[Path]) -> Result<(), StoreError> {
        let paths: Vec<_> = paths.iter().cloned().map(Ok).collect();
        let removed = async {
            let mut removed = self.objects.delete_stream(futures::stream::iter(paths).boxed());
            while let Some(removed) = timely(async { Ok(removed.next().await) }).await? {
                match removed {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        self.background.run(removed).map_err(|error| self.error(&error))
    }

    fn below(&self, name: &str) -> Path {
        name.split('/').fold(self.url.path.clone(), Path::join)
    }

    fn error(&self, error: &object_store::Error) -> StoreError {
        StoreError::of(error, self.url.provider)
    }

    fn if_there<T>(&self, result: object_store::Result<T>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    fn wait_for<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        self.background.run(timely(request))
    }
}

/// Bytewise by name.
fn sort(objects: &mut [Object]) {
    objects.sort_by(|one, other| one.path.as_ref().as_bytes().cmp(other.path.as_ref().as_bytes()));
}

/// What a request gives within [`LIMIT`].
async fn timely<T>(request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
    let late = |_| generic(format!("no answer within {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, request).await.map_err(late)?
}

fn generic(message: String) -> object_store::Error {
    object_store::Error::Generic { store: "", source: message.into() }
}

type Connections = (Arc<dyn ObjectStore>, Arc<dyn Uploads>);

fn connect(url: &StoreUrl) -> object_store::Result<Connections> {
    fn both<T: ObjectStore + MultipartStore>(store: T) -> Connections {
        let store = Arc::new(store);
        (Arc::clone(&store) as _, store)
    }
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(250), max_backoff: Duration::from_secs(8), base: 3.0 };
    let retry = RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRIED_WITHIN };
    let bucket = &url.bucket;
    Ok(match url.provider {
        Provider::S3 => both(AmazonS3Builder::from_env().with_url(bucket).with_retry(retry).build()?),
        Provider::Google => both(GoogleCloudStorageBuilder::from_env().with_url(bucket).with_retry(retry).build()?),
        Provider::Azure => both(MicrosoftAzureBuilder::from_env().with_url(bucket).with_retry(retry).build()?),
    })
}

#[cfg(test)]
impl Store {
    pub fn in_memory(url: &str) -> Self {
        let url = StoreUrl::parse(url, "path").expect("a URL").expect("of a store");
        let store = Arc::new(object_store::memory::InMemory::new());
        let background = Background::shared().expect("there are threads");
        Self { objects: Arc::clone(&store) as _, uploads: store, url, background }
    }
}
