//! [`Location`]: where a file or a folder is: on this machine or in an object store.

use std::fmt;
use std::path::{Path, PathBuf};

use object_store::ObjectStoreScheme;
use url::Url;

/// The name of an object in its bucket.
pub use object_store::path::Path as ObjectPath;

/// A file, a folder, or a pattern of files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// An absolute path.
    Local(PathBuf),
    Store(StoreUrl),
}

/// What is in an object store, or what the names of several things there begin with. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreUrl {
    pub provider: Provider,
    /// The URL of the bucket or container, without a slash at its end.
    pub bucket: String,
    /// The name of an object, or what names of objects begin with; empty for all of a bucket.
    pub path: ObjectPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    /// And others that speak its protocol.
    S3,
    Google,
    Azure,
}

/// How to name what is in a store, as help.
pub const STORES_HELP: &str = "`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; for another store that speaks S3, set `AWS_ENDPOINT`";

/// Why a URL names nothing in a store, and the way out. Says nothing of the URL that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UrlError {
    pub message: String,
    /// `None`: what a URL looks like.
    pub help: Option<&'static str>,
}

impl Location {
    pub fn local(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Store(_) => None,
        }
    }

    pub fn store(&self) -> Option<&StoreUrl> {
        match self {
            Self::Local(_) => None,
            Self::Store(url) => Some(url),
        }
    }

    /// The path, or the text of the URL in the place of one.
    pub fn as_path(&self) -> PathBuf {
        match self {
            Self::Local(path) => path.clone(),
            Self::Store(url) => PathBuf::from(url.to_string()),
        }
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::Local(path)
    }
}

impl StoreUrl {
    /// Understands the URL that a key of the file has; `Ok(Err(_))` is a path of this machine, written as a URL.
    ///
    /// # Errors
    /// If it names nothing in a store.
    pub fn parse(text: &str, key: &str) -> Result<Result<Self, PathBuf>, UrlError> {
        let wrong = |message: String| UrlError { message, help: None };
        let url = Url::parse(text).map_err(|error| wrong(format!("`{key}` is not a URL: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            let message = format!("the URL of `{key}` has a user or a query, and may not hold secrets");
            let help = "leave it out, and set environment variables such as `AWS_SECRET_ACCESS_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`";
            return Err(UrlError { message, help: Some(help) });
        }
        if url.port().is_some() || url.fragment().is_some() {
            return Err(wrong(format!("the URL of `{key}` has a port or a fragment, which buckets do not have")));
        }
        if let Err(error) = ObjectPath::from_url_path(url.path()) {
            return Err(wrong(format!("names of objects cannot begin with the path in the URL of `{key}`: {error}")));
        }
        let unknown = || match (url.host_str(), url.scheme()) {
            (None, scheme @ ("s3" | "s3a" | "gs" | "az" | "abfs" | "abfss")) => {
                wrong(format!("the URL of `{key}` has no bucket behind `{scheme}://`"))
            }
            (_, scheme) => wrong(format!("`{key}` knows no store with a `{scheme}` URL like this")),
        };
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
        let provider = match scheme {
            ObjectStoreScheme::AmazonS3 => Provider::S3,
            ObjectStoreScheme::GoogleCloudStorage => Provider::Google,
            ObjectStoreScheme::MicrosoftAzure => Provider::Azure,
            ObjectStoreScheme::Local => return url.to_file_path().map(Err).map_err(|()| unknown()),
            _ => return Err(unknown()),
        };
        Ok(Ok(Self { provider, bucket: bucket(url, path.parts().count()), path }))
    }

    /// Something else in the same bucket.
    #[must_use]
    pub fn at(&self, path: ObjectPath) -> Self {
        Self { path, ..self.clone() }
    }

    /// Whether something is this or lies below it.
    pub fn is_around(&self, other: &Self) -> bool {
        (self.provider, &self.bucket) == (other.provider, &other.bucket) && other.path.prefix_matches(&self.path)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.as_ref().is_empty() {
            out.write_str(&self.bucket)
        } else {
            write!(out, "{}/{}", self.bucket, self.path)
        }
    }
}

/// A URL without the last `parts` of its path, which are the name of an object: where the host does not name the bucket, the path begins with it.
fn bucket(mut url: Url, parts: usize) -> String {
    let all = url.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    url.set_path(&all[..all.len().saturating_sub(parts)].join("/"));
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether text is a URL: `scheme://`, and not the name of a folder.
pub fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.'));
    is_scheme.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_buckets_and_objects() {
        let parsed = |text: &str| {
            StoreUrl::parse(text, "path")
                .map(|url| url.map(|url| (url.provider, url.bucket.clone(), url.path.to_string(), url.to_string())))
        };
        let named = |provider, bucket: &str, path: &str, shown: &str| {
            Ok(Ok((provider, bucket.to_owned(), path.to_owned(), shown.to_owned())))
        };
        for (text, expected) in [
            ("s3://b/p/a.csv", named(Provider::S3, "s3://b", "p/a.csv", "s3://b/p/a.csv")),
            ("s3://b/p/", named(Provider::S3, "s3://b", "p", "s3://b/p")),
            ("s3://b", named(Provider::S3, "s3://b", "", "s3://b")),
            ("s3://b/a%20b.csv", named(Provider::S3, "s3://b", "a b.csv", "s3://b/a b.csv")),
            ("s3://b/*/[ab].csv", named(Provider::S3, "s3://b", "*/[ab].csv", "s3://b/*/[ab].csv")),
            ("gs://b/x", named(Provider::Google, "gs://b", "x", "gs://b/x")),
            ("az://c/x", named(Provider::Azure, "az://c", "x", "az://c/x")),
            (
                "https://s3.eu-west-1.amazonaws.com/b/x/y",
                named(
                    Provider::S3,
                    "https://s3.eu-west-1.amazonaws.com/b",
                    "x/y",
                    "https://s3.eu-west-1.amazonaws.com/b/x/y",
                ),
            ),
            ("file:///tmp/x", Ok(Err("/tmp/x".into()))),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
        for text in ["s3://user@b/x", "s3://b/x?secret=1", "s3://", "https://example.org/x", "s3://b:80/x", "ftp://b/x"]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_below_lies_in_the_same_bucket() {
        let url = |text: &str| StoreUrl::parse(text, "path").expect("a URL").expect("of a store");
        assert!(url("s3://b/p").is_around(&url("s3://b/p/x.csv")));
        assert!(url("s3://b/p").is_around(&url("s3://b/p")));
        assert!(url("s3://b").is_around(&url("s3://b/p")));
        assert!(!url("s3://b/p").is_around(&url("s3://b/px")));
        assert!(!url("s3://b/p").is_around(&url("s3://c/p/x")));
    }
}
