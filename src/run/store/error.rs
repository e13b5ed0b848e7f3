//! [`StoreError`]: why a store could not be used, and what to look at.

use std::error::Error;
use std::io;
use std::sync::LazyLock;

use regex::Regex;

use crate::plan::Provider;

/// How the answer of a store is quoted by the crate: a status, and what the store had to say.
static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^Server returned (?:non-2xx status code: (\d+[ \w]*)|error response)").expect("a valid pattern")
});
/// What S3, Google and Azure call what is wrong.
static CODE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<Code>(\w{1,100})</Code>").expect("a valid pattern"));

/// Holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{reason} (check {check})")]
    Refused { reason: String, check: String },
    /// The object is another than that which was found.
    #[error("it was replaced while it was read")]
    Replaced,
    #[error("it is not there any more")]
    Gone,
    #[error("a file for it cannot be written: {0}")]
    Disk(io::Error),
    #[error("it was interrupted")]
    Interrupted,
    #[error("no thread could be started that waits for stores: {0}")]
    Thread(io::Error),
}

impl StoreError {
    pub(super) fn of(error: &object_store::Error, provider: Provider) -> Self {
        use object_store::Error as E;
        let (place, who) = match provider {
            Provider::S3 => ("`AWS_REGION`, `AWS_ENDPOINT`, ", "`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`"),
            Provider::Google => ("", "`GOOGLE_APPLICATION_CREDENTIALS`"),
            Provider::Azure => {
                ("`AZURE_STORAGE_ENDPOINT`, ", "`AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY`")
            }
        };
        let reason = reason(error);
        // Not of every request the crate says what its status means.
        let check = match (error, reason.split(' ').next()) {
            (E::InvalidPath { .. }, _) => {
                "the names of the objects there: a part between two `/` may not be empty".to_owned()
            }
            (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _) | (_, Some("401" | "403")) => {
                format!("{who}, and the rights to read, write, list and remove objects there")
            }
            (E::NotFound { .. }, _) | (_, Some("404")) => {
                format!("that there is such a bucket or container, and {place}{who}")
            }
            _ => format!("that the store can be reached from here, and {place}{who}"),
        };
        Self::Refused { reason, check }
    }

    /// The failure of this machine behind it, if it is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Disk(error) | Self::Thread(error) => Some(error),
            Self::Refused { .. } | Self::Replaced | Self::Gone | Self::Interrupted => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_is_to_be_checked_follows_from_the_answer() {
        for (said, checked) in [
            (
                "Server returned non-2xx status code: 404 Not Found: <Error><Code>NoSuchBucket</Code></Error>",
                "there is such a bucket",
            ),
            ("Server returned non-2xx status code: 403 Forbidden: ", "the rights to read"),
            ("Connection refused (os error 111)", "the store can be reached from here"),
        ] {
            let error = object_store::Error::Generic { store: "S3", source: Box::new(Said(said)) };
            let told = StoreError::of(&error, Provider::S3).to_string();
            assert!(told.contains(checked), "{told}");
        }
    }
}
