//! [`Store`]: an object store in which runs keep entries, each an object below a prefix.
//!
//! Who may use it, and where it is, the environment says, in the variables that the `object_store` crate reads. What is said about failures is made
//! of parts that cannot hold a secret: answers of stores quote what they were sent.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt, RetryConfig};
use regex::Regex;
use tokio::runtime::Runtime;

use super::ShareError;
use crate::plan::{Provider, StoreUrl};

/// How often a request is sent again that the store, or the way to it, has failed.
const RETRIES: usize = 6;
/// No request is sent again later than this.
const RETRIED_WITHIN: Duration = Duration::from_secs(30);
/// What takes longer has failed: `RETRIED_WITHIN`, and as much for the last request, which nothing has ended.
const LIMIT: Duration = Duration::from_secs(60);

/// How the answer of a store is quoted by the crate: a status, and what the store had to say.
static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^Server returned (?:non-2xx status code: (\d+[ \w]*)|error response)").expect("a valid pattern")
});
/// What S3, Google and Azure call what is wrong.
static CODE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<Code>(\w{1,100})</Code>").expect("a valid pattern"));

#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    provider: Provider,
    /// Without a slash at its end.
    url: String,
    background: Arc<Background>,
}

/// Why a store could not be used, and what to look at.
#[derive(Debug, thiserror::Error)]
#[error("{reason} (check {check})")]
pub struct StoreError {
    reason: String,
    check: String,
}

impl Store {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// If what the environment says makes no sense.
    pub fn open(place: &StoreUrl, background: &Arc<Background>) -> Result<Self, ShareError> {
        let url = place.url.trim_end_matches('/').to_owned();
        let objects = connect(place).map_err(|error| failed("use", &url, place.provider, &error))?;
        let prefix = place.prefix.clone();
        Ok(Self { objects, prefix, provider: place.provider, url, background: Arc::clone(background) })
    }

    /// `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>, ShareError> {
        let path = self.object(name);
        match self.wait_for(async { self.objects.get(&path).await?.bytes().await }) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    pub fn write(&self, name: &str, entry: Vec<u8>) -> Result<(), ShareError> {
        let path = self.object(name);
        let put = self.wait_for(self.objects.put(&path, entry.into()));
        put.map(|_| ()).map_err(|error| self.failed("write", &error))
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn failed(&self, what: &'static str, error: &object_store::Error) -> ShareError {
        failed(what, &self.url, self.provider, error)
    }

    fn object(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    fn wait_for<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        let late = |_| object_store::Error::Generic {
            store: "",
            source: format!("no answer within {} s", LIMIT.as_secs()).into(),
        };
        self.background
            .0
            .as_ref()
            .expect("it is there until it is dropped")
            .block_on(async { tokio::time::timeout(LIMIT, request).await.map_err(late)? })
    }
}

fn failed(what: &'static str, url: &str, provider: Provider, error: &object_store::Error) -> ShareError {
    ShareError::Store { what, url: url.to_owned(), source: StoreError::of(error, provider) }
}

fn connect(StoreUrl { provider, url, .. }: &StoreUrl) -> object_store::Result<Arc<dyn ObjectStore>> {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(250), max_backoff: Duration::from_secs(8), base: 3.0 };
    let retry = RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRIED_WITHIN };
    Ok(match provider {
        Provider::S3 => Arc::new(AmazonS3Builder::from_env().with_url(url).with_retry(retry).build()?),
        Provider::Google => Arc::new(GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry).build()?),
        Provider::Azure => Arc::new(MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry).build()?),
    })
}

impl StoreError {
    fn of(error: &object_store::Error, provider: Provider) -> Self {
        use object_store::Error as E;
        let (place, who) = match provider {
            Provider::S3 => ("`AWS_REGION`, `AWS_ENDPOINT`, ", "`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`"),
            Provider::Google => ("", "`GOOGLE_APPLICATION_CREDENTIALS`"),
            Provider::Azure => {
                ("`AZURE_STORAGE_ENDPOINT`, ", "`AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY`")
            }
        };
        let check = match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                format!("{who}, and the rights to read, write and list objects there")
            }
            E::NotFound { .. } => format!("that there is such a bucket or container, and {place}{who}"),
            _ => format!("that the store can be reached from here, and {place}{who}"),
        };
        Self { reason: reason(error), check }
    }
}

/// What was wrong, without what could hold a secret.
fn reason(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    let Some(answer) = ANSWER.captures(&text) else {
        return text.lines().next().unwrap_or_default().to_owned();
    };
    let status = answer.get(1).map_or("it has answered with an error", |status| status.as_str().trim_end());
    match CODE.captures(&text) {
        Some(code) => format!("{status}, {}", &code[1]),
        None => status.to_owned(),
    }
}

/// The thread that waits for stores, for all of a run.
#[derive(Debug)]
pub struct Background(Option<Runtime>);

impl Background {
    /// # Errors
    /// If the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        Ok(Self(Some(runtime.worker_threads(1).thread_name("millpond-store").enable_all().build()?)))
    }
}

impl Drop for Background {
    /// Names may be looked up in it, which nothing can cut short: the run does not wait for that.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Store {
        pub fn in_memory(url: &str) -> Self {
            Self {
                objects: Arc::new(object_store::memory::InMemory::new()),
                prefix: Path::from("prefix"),
                provider: Provider::S3,
                url: url.to_owned(),
                background: Arc::new(Background::start().expect("there are threads")),
            }
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    #[test]
    fn what_is_said_of_an_answer_is_its_status_and_its_code() {
        for (said, expected) in [
            (
                "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>\n\
                 x-amz-security-token:SECRET</CanonicalRequest></Error>",
                "403 Forbidden, SignatureDoesNotMatch",
            ),
            ("Server returned non-2xx status code: 500 Internal Server Error: ", "500 Internal Server Error"),
            ("Server returned non-2xx status code: 400 Bad Request: {\"token\": \"SECRET\"}", "400 Bad Request"),
            ("Server returned error response: <Code>SlowDown</Code>SECRET", "it has answered with an error, SlowDown"),
            ("Connection refused (os error 111)", "Connection refused (os error 111)"),
            ("one line\nSECRET", "one line"),
        ] {
            let error = object_store::Error::Generic { store: "S3", source: Box::new(Said(said)) };
            assert_eq!(reason(&error), expected);
        }
    }
}
