//! The `read` and `write` kinds: paths, formats, compression, and how text is written.

use super::failing::OnError;
use super::location::{Location, STORES_HELP, StoreUrl, UrlError, scheme};
use super::resolve::Resolver;
use super::stage::{ColumnType, Folder, Partitions, Read, WhichFiles, Write, WriteMode, WriteTarget};
use crate::diagnostic::Code;
use crate::format::{Compression, Dialect, Encoding, Format, Nulls};
use crate::spec::model::{
    CompressionSpec, EncodingSpec, FormatSpec, FromSpec, PartitionsSpec, ReadOptions, ReadSpec, WriteModeSpec,
    WriteOptions, WriteSpec,
};

/// The format of what is read, if the file tells it.
pub fn format_of(read: &ReadSpec) -> Option<Format> {
    match read {
        ReadSpec::Options(options) => told_format(options.format, options.path.all()),
        ReadSpec::Path(path) => from_extension(path),
    }
}

fn told_format(given: Option<FormatSpec>, paths: &[String]) -> Option<Format> {
    let of_paths = || {
        let mut formats = paths.iter().map(|path| from_extension(path));
        let first = formats.next().flatten();
        first.filter(|_| formats.all(|format| format == first))
    };
    given.map(format).or_else(of_paths)
}

const SNAPPY_IS_FOR_PAGES: &str = "`snappy` compresses the pages of parquet files that are written, and nothing else";

impl Resolver<'_> {
    pub(super) fn read(&mut self, spec: &ReadSpec) -> Option<Read> {
        let short;
        let options = match spec {
            ReadSpec::Options(options) => options,
            ReadSpec::Path(path) => {
                short = ReadOptions::of(path);
                &short
            }
        };
        let schema = self.columns(&["read", "schema"], options.schema.as_ref());
        let partitions = self.partitions(options, &schema);
        let paths = options.path.all();
        let stdin = paths.iter().any(|path| path == "-");
        if stdin && paths.len() > 1 {
            self.report(
                Code::PlanBadOption,
                &["read", "path"],
                "standard input (`-`) cannot be read together with files",
            );
            return None;
        }
        let locations: Vec<Location> = if stdin { Vec::new() } else { self.locations("read", paths)? };
        let format = self.format(&["read", "path"], options.format, paths)?;
        if stdin && format == Format::Parquet {
            let message = "parquet cannot be read from standard input, as it is read from its end";
            self.report(Code::PlanBadOption, &["read", "format"], message);
        }
        if matches!(options.compression, Some(CompressionSpec::Snappy)) {
            self.report(Code::PlanBadOption, &["read", "compression"], SNAPPY_IS_FOR_PAGES);
        }
        if format == Format::Binary {
            if stdin {
                let message = "binary reads files, one for each row, and no standard input";
                self.report(Code::PlanBadOption, &["read", "format"], message);
            }
            if options.schema.is_some() {
                let message = "binary has the columns `path` and `bytes`, and no others";
                self.report(Code::PlanBadOption, &["read", "schema"], message);
            }
        }
        let which = match options.only_new {
            Some(true) => WhichFiles::New { are_noted: self.document.asked_for.is_empty() },
            _ => WhichFiles::All,
        };
        if stdin && which != WhichFiles::All {
            self.report(Code::PlanBadOption, &["read", "only_new"], "standard input is no file that could be known");
        }
        let dialect = self.dialect(options, format);
        if options.encoding.is_some() && !format.is_text() {
            self.report(Code::PlanBadOption, &["read", "encoding"], "only text has an `encoding`");
        }
        self.check_patterns(&["read", "path"], paths);
        Some(Read {
            paths: locations,
            stdin,
            folder: self.document.folder.clone(),
            format,
            compression: options.compression.map(compression),
            schema,
            dialect,
            encoding: options.encoding.map_or(Encoding::Utf8, encoding),
            partitions,
            origin: options.origin.unwrap_or(false),
            which,
            first_rows: self.draft.first_rows,
            leaves_out_malformed: self.on_error() != OnError::Fail && format.has_records(),
            used: None,
            filtered_by: Vec::new(),
        })
    }

    fn partitions(&mut self, options: &ReadOptions, schema: &[(String, ColumnType)]) -> Option<Partitions> {
        const KEYS: [&str; 2] = ["read", "partitions"];
        let partitions = match options.partitions.as_ref()? {
            PartitionsSpec::Flag(false) => return None,
            PartitionsSpec::Flag(true) => Partitions::Found,
            PartitionsSpec::Columns(columns) => Partitions::Declared(self.columns(&KEYS, Some(columns))),
        };
        if options.path.all() == ["-"] {
            self.report(Code::PlanBadOption, &KEYS, "standard input lies in no folder");
        }
        let Partitions::Declared(columns) = &partitions else { return Some(partitions) };
        for (name, data_type) in columns {
            let problem = if data_type.is_nested() {
                format!("the column `{name}` is a list, which no folder stands for")
            } else if schema.iter().any(|(other, _)| other == name) {
                format!("the column `{name}` is in `schema`, too: it is either in the files or in their paths")
            } else if options.origin == Some(true) && Read::ORIGIN.iter().any(|(other, _)| other == name) {
                format!("`origin` has a column `{name}`, too")
            } else {
                continue;
            };
            self.report(Code::PlanBadOption, &["read", "partitions", name], problem);
        }
        Some(partitions)
    }

    fn dialect(&mut self, options: &ReadOptions, format: Format) -> Dialect {
        self.check_csv("read", "header", options.header.is_some(), format);
        self.check_csv("read", "quote", options.quote.is_some(), format);
        self.check_csv("read", "nulls", options.nulls.is_some(), format);
        let delimiter = self.delimiter(options, format);
        Dialect {
            delimiter,
            header: options.header.unwrap_or(true),
            quote: self.quote(options, delimiter),
            nulls: options.nulls.clone().map_or_else(Nulls::default, Nulls::new),
        }
    }

    fn quote(&mut self, options: &ReadOptions, delimiter: u8) -> Option<u8> {
        let default = Some(Dialect::QUOTE);
        let problem = match options.quote.as_deref().map(|quote| (quote, quote.as_bytes())) {
            None => return default,
            Some(("none", _)) => return None,
            Some((_, [byte])) if *byte == delimiter => "the delimiter cannot be the quote as well".to_owned(),
            Some((_, [byte])) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => return Some(*byte),
            Some((quote, _)) => format!("`{quote}` cannot be a quote: it must be one ASCII character, or `none`"),
        };
        self.report(Code::PlanBadOption, &["read", "quote"], problem);
        default
    }

    fn delimiter(&mut self, options: &ReadOptions, format: Format) -> u8 {
        let default = if format == Format::Tsv { b'\t' } else { b',' };
        let Some(delimiter) = &options.delimiter else { return default };
        if format != Format::Csv {
            self.report(Code::PlanBadOption, &["read", "delimiter"], "only csv has a `delimiter`");
            return default;
        }
        match delimiter.as_bytes() {
            [byte] if !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
            _ => {
                let message = format!("`{delimiter}` cannot be a delimiter: it must be one ASCII character");
                self.report(Code::PlanBadOption, &["read", "delimiter"], message);
                default
            }
        }
    }

    pub(super) fn write(&mut self, spec: &WriteSpec) -> Option<Write> {
        let short;
        let options = match spec {
            WriteSpec::Options(options) => options,
            WriteSpec::Path(path) => {
                short = WriteOptions { path: path.clone(), ..WriteOptions::default() };
                &short
            }
        };
        let WriteOptions { path, format, compression: given, header, partition_by, mode } = options;
        let (given, header, mode) = (*given, *header, *mode);
        if !self.has_a_name(path, *format) {
            return None;
        }
        let location = match path.as_str() {
            "-" => None,
            path => Some(self.location("write", path, None)?),
        };
        let format = self.format(&["write", "path"], *format, std::slice::from_ref(path))?;
        if format == Format::Binary {
            self.report(Code::PlanBadOption, &["write", "format"], "binary is only for `read`");
        }
        self.check_csv("write", "header", header.is_some(), format);
        let partition_by = self.key_columns(&["write", "partition_by"], partition_by.as_ref());
        let target = match location {
            None => WriteTarget::Stdout,
            Some(location) if path.ends_with('/') || !partition_by.is_empty() => {
                WriteTarget::Folder(Folder { path: location, partition_by: partition_by.clone() })
            }
            Some(location) => WriteTarget::File(location),
        };
        if target == WriteTarget::Stdout && !partition_by.is_empty() {
            let message = "`partition_by` makes a folder with many files, and standard output is none";
            self.report(Code::PlanBadOption, &["write", "partition_by"], message);
        }
        if target == WriteTarget::Stdout && format == Format::Parquet {
            let message = "parquet cannot be written to standard output";
            self.report(Code::PlanBadOption, &["write", "format"], message).help =
                Some("use `format: arrow`".to_owned());
        }
        if target == WriteTarget::Stdout && mode.is_some() {
            self.report(Code::PlanBadOption, &["write", "mode"], "standard output replaces nothing, and has no `mode`");
        }
        let (_, extension) = split_compression(path);
        // Pages of parquet are compressed unless the file says otherwise.
        let implied = if format == Format::Parquet { Compression::Zstd } else { extension };
        let compression = given.map_or(implied, compression);
        if format != Format::Parquet && compression == Compression::Snappy {
            self.report(Code::PlanBadOption, &["write", "compression"], SNAPPY_IS_FOR_PAGES);
        }
        if format == Format::Parquet && matches!(compression, Compression::Bzip2 | Compression::Xz) {
            let message = "the pages of parquet files are compressed with `zst`, `gz` or `snappy`";
            self.report(Code::PlanBadOption, &["write", "compression"], message);
        }
        if format == Format::Parquet && extension != Compression::None {
            let message = "a parquet file compresses its own pages and is not compressed as a whole";
            self.report(Code::PlanBadOption, &["write", "path"], message).help =
                Some("end the path in `.parquet`, and choose the codec with `compression`".to_owned());
        }
        let mode = match mode {
            None | Some(WriteModeSpec::Overwrite) => WriteMode::Overwrite,
            Some(WriteModeSpec::Error) => WriteMode::New,
            Some(WriteModeSpec::Append) => WriteMode::Append,
        };
        let location_is_store = matches!(target, WriteTarget::File(Location::Store(_)));
        let is_one_piece = location_is_store || matches!(format, Format::Json | Format::Arrow | Format::Parquet);
        if mode == WriteMode::Append && matches!(target, WriteTarget::File(_)) && is_one_piece {
            let message = match location_is_store {
                true => "nothing can be appended to an object in a store".to_owned(),
                false => format!("nothing can be appended to a file of {}", format.word()),
            };
            let folder = path.rsplit_once('.').map_or(path.as_str(), |(folder, _)| folder);
            let otherwise = if location_is_store { "" } else { "; or write jsonl or csv" };
            let help = format!(
                "write to a folder, to which each run adds a file: `path: {folder}/` with `format: {}`{otherwise}",
                format.word()
            );
            self.report(Code::PlanBadOption, &["write", "mode"], message).help = Some(help);
        }
        Some(Write { target, format, compression, header: header.unwrap_or(true), mode })
    }

    fn check_csv(&mut self, kind: &str, key: &str, is_given: bool, format: Format) {
        if is_given && !matches!(format, Format::Csv | Format::Tsv) {
            let message = match key {
                "nulls" => "only csv and tsv have `nulls`".to_owned(),
                _ => format!("only csv and tsv have a `{key}`"),
            };
            self.report(Code::PlanBadOption, &[kind, key], message);
        }
    }

    /// The format that is given, or else the one that all paths' extensions name.
    fn format(&mut self, keys: &[&str], given: Option<FormatSpec>, paths: &[String]) -> Option<Format> {
        if let Some(format) = told_format(given, paths) {
            return Some(format);
        }
        let message = match paths {
            [path] if path == "-" => "standard input and output need a `format`".to_owned(),
            [path] => format!("the extension of `{path}` does not say how its rows are written"),
            _ => "the extensions of these paths do not say one format for all".to_owned(),
        };
        let binary = if keys.first() == Some(&"read") { ", binary" } else { "" };
        let help = format!("add `format:` with one of csv, tsv, jsonl, json, parquet, arrow, lines{binary}");
        self.report(Code::PlanUnknownFormat, keys, message).help = Some(help);
        None
    }

    fn locations(&mut self, kind: &str, paths: &[String]) -> Option<Vec<Location>> {
        let found: Vec<_> = paths.iter().enumerate().map(|(at, path)| self.location(kind, path, Some(at))).collect();
        found.into_iter().collect()
    }

    /// Where a file or folder is. `at` is its number, if it stands in a list.
    fn location(&mut self, kind: &str, path: &str, at: Option<usize>) -> Option<Location> {
        let Some(scheme) = scheme(path) else { return Some(Location::Local(self.absolute(path))) };
        let has_secret = path.contains(['@', '?']);
        let (message, help) = match StoreUrl::parse(path, "path") {
            Ok(Ok(url)) if kind == "write" && url.path.as_ref().is_empty() => (
                format!("`{path}` is a whole bucket"),
                "name an object, or what the names of several begin with".to_owned(),
            ),
            Ok(Ok(url)) => return Some(Location::Store(url)),
            Ok(Err(_)) => {
                (format!("`{path}` is a file of this machine, and no URL is needed"), "write the path alone".to_owned())
            }
            Err(UrlError { message, help: Some(help) }) => (message, help.to_owned()),
            Err(_) if matches!(scheme, "http" | "https" | "ftp") => {
                let help = match kind {
                    "read" => "let a `command` stage fetch it to a file, and make this stage `after` that one",
                    _ => "write a file, and send it in a `command` stage `after` this one",
                };
                (format!("`{path}` is a URL of no object store, and `{kind}` takes files and objects"), help.to_owned())
            }
            Err(UrlError { message, help: None }) => (message, format!("write the path of a file, or {STORES_HELP}")),
        };
        let node = self.draft.find(&[kind, "path"]);
        let node = node.map(|node| at.and_then(|at| node.items().get(at)).unwrap_or(node));
        let (span, alias) = node.map_or((self.draft.name_span, None), |node| (node.span, node.alias));
        let problem = self.report_at(Code::PlanBadOption, span, alias, message);
        problem.help = Some(help);
        problem.has_secret = has_secret;
        None
    }

    /// Whether the path of a sink ends in the name of a file or a folder.
    fn has_a_name(&mut self, path: &str, format: Option<FormatSpec>) -> bool {
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if !matches!(last, "" | "." | "..") {
            return true;
        }
        let folder = path.trim_end_matches('/');
        let of_format = format.and_then(|given| self::format(given).extensions().first().copied());
        let extension = of_format.unwrap_or("csv");
        let message = format!("`{path}` has no name of its own, and what is in its place would be replaced");
        let input = match &self.draft.spec.from {
            Some(FromSpec::One(name)) => name.replace('.', "_"),
            _ => self.draft.name.clone(),
        };
        self.report(Code::PlanBadOption, &["write", "path"], message).help =
            Some(format!("name a file, such as `{folder}/{input}.{extension}`, or a folder in it"));
        false
    }
}

fn split_compression(path: &str) -> (&str, Compression) {
    let endings = [
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".bz2", Compression::Bzip2),
        (".xz", Compression::Xz),
    ];
    endings
        .into_iter()
        .find_map(|(ending, compression)| Some((path.strip_suffix(ending)?, compression)))
        .unwrap_or((path, Compression::None))
}

fn from_extension(path: &str) -> Option<Format> {
    let (path, _) = split_compression(path);
    let name = path.rsplit('/').next()?;
    let (_, extension) = name.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "json" => Some(Format::Json),
        "parquet" => Some(Format::Parquet),
        "arrow" => Some(Format::Arrow),
        "txt" | "log" => Some(Format::Lines),
        _ => None,
    }
}

fn format(spec: FormatSpec) -> Format {
    match spec {
        FormatSpec::Csv => Format::Csv,
        FormatSpec::Tsv => Format::Tsv,
        FormatSpec::Jsonl => Format::Jsonl,
        FormatSpec::Json => Format::Json,
        FormatSpec::Parquet => Format::Parquet,
        FormatSpec::Arrow => Format::Arrow,
        FormatSpec::Lines => Format::Lines,
        FormatSpec::Binary => Format::Binary,
    }
}

fn compression(spec: CompressionSpec) -> Compression {
    match spec {
        CompressionSpec::None => Compression::None,
        CompressionSpec::Gz => Compression::Gzip,
        CompressionSpec::Zst => Compression::Zstd,
        CompressionSpec::Bz2 => Compression::Bzip2,
        CompressionSpec::Xz => Compression::Xz,
        CompressionSpec::Snappy => Compression::Snappy,
    }
}

fn encoding(spec: EncodingSpec) -> Encoding {
    match spec {
        EncodingSpec::Utf8 => Encoding::Utf8,
        EncodingSpec::Latin1 => Encoding::Latin1,
        EncodingSpec::Windows1252 => Encoding::Windows1252,
        EncodingSpec::Utf16 => Encoding::Utf16,
    }
}
