//! What is read and written: `read`, `write`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ColumnsSpec;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum ReadSpec {
    /// Path or glob pattern of the files; `-` is standard input.
    Path(String),
    /// The files, and how they are written.
    Options(Box<ReadOptions>),
}

/// A source: reads files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ReadOptions {
    /// Path or glob pattern of the files, or a list of them, relative to this file; or the URL of objects in a store. `-` is standard input.
    #[schemars(example = &"data/*.jsonl", example = &"s3://bucket/data/*.parquet")]
    pub path: PathsSpec,
    /// How the rows are written, such as `csv` or `jsonl`. Without it, from the file's extension.
    #[schemars(example = &"jsonl")]
    pub format: Option<FormatSpec>,
    /// How the files are compressed. Without it, from each file's extension.
    #[schemars(example = &"zst")]
    pub compression: Option<CompressionSpec>,
    /// Types of columns; those that are not named are inferred from the first rows.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::columns")]
    pub schema: Option<Map<String, Value>>,
    /// Whether folders `column=value` in the paths of files are columns, and which of them, with their types. Folders are searched for files in
    /// folders below them.
    #[schemars(example = &true, example = &json!({ "year": "int64", "country": "string" }), extend("default" = false))]
    pub partitions: Option<PartitionsSpec>,
    /// Whether each row has the columns `_file` and `_row`, from which it comes.
    #[schemars(extend("default" = false))]
    pub origin: Option<bool>,
    /// Whether files are left out that a run has read which was published: each run reads those that are new, or have changed.
    #[schemars(extend("default" = false))]
    pub only_new: Option<bool>,
    /// The character between fields (csv only).
    #[schemars(length(equal = 1), example = &";", extend("default" = ","))]
    pub delimiter: Option<String>,
    /// Whether the first record names the columns (csv and tsv only).
    #[schemars(extend("default" = true))]
    pub header: Option<bool>,
    /// The character that may stand around a field, or `none` (csv and tsv only).
    #[schemars(example = &"'", example = &"none", extend("default" = "\""))]
    pub quote: Option<String>,
    /// The fields that are null (csv and tsv only).
    #[schemars(example = &["", "NA", "NULL"], extend("default" = [""]))]
    pub nulls: Option<Vec<String>>,
    /// How characters are written as bytes (text only).
    #[schemars(extend("default" = "utf-8"))]
    pub encoding: Option<EncodingSpec>,
}

impl ReadOptions {
    /// Those of a path alone.
    pub fn of(path: &str) -> Self {
        Self {
            path: PathsSpec::One(path.to_owned()),
            format: None,
            compression: None,
            schema: None,
            partitions: None,
            origin: None,
            only_new: None,
            delimiter: None,
            header: None,
            quote: None,
            nulls: None,
            encoding: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum PartitionsSpec {
    /// Whether all of these folders are columns: of whole numbers if all values are, and of text otherwise.
    Flag(bool),
    /// These columns, of these types.
    Columns(#[schemars(schema_with = "crate::spec::schema::columns")] Map<String, Value>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum EncodingSpec {
    /// Unicode; a byte order mark is skipped.
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO 8859-1: a character for every byte.
    #[serde(rename = "latin1")]
    Latin1,
    /// Western European Windows.
    #[serde(rename = "windows-1252")]
    Windows1252,
    /// In the order of bytes that a byte order mark says, and little-endian without one.
    #[serde(rename = "utf-16")]
    Utf16,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum PathsSpec {
    /// A path or glob pattern.
    One(String),
    /// Several, in this order.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl PathsSpec {
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatSpec {
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// One JSON object per line.
    Jsonl,
    /// A JSON array of objects; where it is read, also objects one after the other.
    Json,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC: the file format in files, the stream format on pipes.
    Arrow,
    /// Lines of text, in one column named `line`.
    Lines,
    /// A row for each file, in the columns `path` and `bytes`; only for `read`.
    Binary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompressionSpec {
    /// As it is.
    None,
    /// gzip.
    Gz,
    /// Zstandard.
    Zst,
    /// bzip2.
    Bz2,
    /// xz.
    Xz,
    /// Snappy; for the pages of Parquet files that are written.
    Snappy,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum WriteSpec {
    /// Path of the file; `-` is standard output.
    Path(String),
    /// The file or folder, and how it is written.
    Options(WriteOptions),
}

/// A sink: writes one file, or a folder of files, published when the whole run has succeeded.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct WriteOptions {
    /// Path of the file, relative to this file, or the URL of an object in a store. `-` is standard output. With `partition_by`, or with a `/` at its end, it is a folder.
    #[schemars(example = &"out/result.parquet", example = &"out/events/", example = &"s3://bucket/result.parquet")]
    pub path: String,
    /// How the rows are written, such as `csv` or `parquet`. Without it, from the file's extension.
    #[schemars(example = &"parquet")]
    pub format: Option<FormatSpec>,
    /// How the file is compressed. Without it, from the file's extension.
    #[schemars(example = &"zst")]
    pub compression: Option<CompressionSpec>,
    /// Whether the first line names the columns (csv and tsv only).
    #[schemars(extend("default" = true))]
    pub header: Option<bool>,
    /// Columns whose values are folders: `year=2024/country=de/part-0.parquet`. They are not in the files.
    #[schemars(example = &"year", example = &["year", "country"])]
    pub partition_by: Option<ColumnsSpec>,
    /// What becomes of a file or folder that is there already.
    #[schemars(extend("default" = "overwrite"))]
    pub mode: Option<WriteModeSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteModeSpec {
    /// It is replaced when the whole run has succeeded.
    Overwrite,
    /// Rows are appended to it when the whole run has succeeded: to a file of csv, tsv, jsonl or lines, or as new files of a folder.
    Append,
    /// It stays, and the run fails before it begins.
    Error,
}
