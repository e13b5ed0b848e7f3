//! Files and byte streams to Arrow batches and back. Knows nothing of pipelines, runs or processes.

pub mod column_type;

/// How rows are written in a file or on a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Csv,
    Tsv,
    Jsonl,
    Parquet,
    /// Arrow IPC: the file format in files, the stream format on pipes.
    Arrow,
    /// One string column named `line`.
    Lines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}
