//! [`Hints`]: what may have been meant by a key that is not known where it stands.

use serde_json::Value as Json;

use super::defaults::DEFAULTS;
use super::schema::{DOCUMENT, HOOK_KINDS, KINDS, SHARED_KINDS};
use super::tree::{Node, Step, Value};
use super::violation::flow;
use crate::diagnostic::{Span, did_you_mean, nearest};

/// How deep keys are looked for below the place where one was written: `on_error: { reject: { max_rows } }`.
const DEPTH: usize = 3;

/// The words of other tools, by the place where people write them, and what there is here. `{}` is the value that was written.
const SYNONYMS: &[(&str, &[&str], &str)] = &[
    (
        "stage",
        &["depends_on", "depends", "needs", "dependencies", "requires", "dependsOn", "upstream", "wait_for"],
        "`from` names the stages whose rows this one takes, `after` those that it only waits for",
    ),
    (
        "stage",
        &["script", "scripts", "cmd", "exec", "executable", "bash", "sh", "program", "entrypoint", "args"],
        "write `command: [program, argument]`, or `command: { shell: … }` for a script",
    ),
    (
        "stage",
        &["input", "inputs", "source", "sources", "in"],
        "rows come from stages (`from: STAGE`) or, in a stage of its own, from files (`read: PATH`)",
    ),
    (
        "stage",
        &["output", "outputs", "sink", "sinks", "target", "destination", "dest", "out"],
        "rows go to a file by a stage of its own: `write: PATH`, with `from`",
    ),
    ("stage", &["query", "select"], "write `sql: {}`"),
    ("stage", &["transform", "filter", "where", "map"], "write it as `sql`, or as a function: `python: module:name`"),
    ("stage", &["file", "files", "filename", "glob", "src"], "write `read: {}` for a source, `write: {}` for a sink"),
    ("stage", &["env_vars", "environment", "envs", "environ", "env_variables", "variables"], "write `env: {}`"),
    (
        "stage",
        &["validate", "checks", "check", "contract", "assert", "assertions", "constraints"],
        "write `expect: {}`",
    ),
    ("stage", &["if", "condition", "only_if", "enabled"], "write `when: {}`"),
    (
        "stage",
        &[
            "parallelism",
            "parallel",
            "threads",
            "n_jobs",
            "jobs",
            "num_workers",
            "max_workers",
            "processes",
            "n_workers",
            "replicas",
            "cores",
            "cpus",
            "pool_size",
        ],
        "write `workers: {}`",
    ),
    (
        "stage",
        &["dir", "workdir", "work_dir", "working_dir", "working_directory", "chdir", "directory"],
        "write `cwd: {}`",
    ),
    (
        "stage",
        &["retries", "max_retries", "max_attempts", "tries", "retry_count", "num_retries"],
        "write `retry: { attempts: {} }`, in which the first attempt counts",
    ),
    ("stage", &["retry_delay", "delay", "retry_backoff", "retry_wait"], "write `retry: { backoff: {} }`"),
    (
        "stage",
        &["timeout_seconds", "timeout_sec", "timeout_s", "timeout_minutes", "time_limit", "max_time", "deadline"],
        "write `timeout:` with a unit, such as `timeout: 60s`",
    ),
    ("stage", &["batch_size", "batchsize", "chunk_size", "chunksize", "chunk"], "write `batch: { rows: {} }`"),
    (
        "stage",
        &["queue_size", "buffer", "buffer_size", "maxsize", "prefetch", "max_queue"],
        "write `queue: { batches: {} }`",
    ),
    ("stage", &["mem", "memory_limit", "mem_limit", "max_memory", "ram"], "write `memory: {}`"),
    (
        "stage",
        &["function", "func", "fn", "callable", "module", "class", "handler", "entry_point", "udf"],
        "write `python: module:name`",
    ),
    ("stage", &["kwargs", "arguments", "parameters", "config", "options"], "write `python: { call: …, with: {} }`"),
    ("stage", &["group_by", "groupby", "key", "keys", "key_by", "shard_by"], "write `partition_by: {}`"),
    ("stage", &["doc", "desc", "comment", "help", "title"], "write `description: {}`"),
    (
        "stage",
        &["continue_on_error", "ignore_errors", "allow_failure", "skip_errors", "errors"],
        "write `on_error: skip`, or `on_error: reject` to keep the rows",
    ),
    (
        "stage",
        &["matrix", "for_each", "loop", "with_items", "strategy", "repeat"],
        "write `foreach: { name: [first, second] }`",
    ),
    (
        "stage",
        &["resources", "locks", "semaphore", "limits", "pool"],
        "declare them under `resources` at the top level of the file, and take of them with `uses`",
    ),
    ("stage", &["type", "kind", "op", "operator"], "the kind of a stage is a key of its own: {kinds}"),
    ("stage", &["name", "id"], "a stage's name is the key in front of it"),
    ("stage", &["cache", "cached", "memoize", "persist"], "write `checkpoint: true`"),
    ("stage", &["maxtasksperchild", "max_tasks_per_child"], "write `recycle: { batches: {} }`"),
    ("stage", &["on_failure", "onerror"], "write `on_error:` with `fail`, `skip` or `reject`"),
    ("shared", &["query"], "write `sql: {}`"),
    ("shared", &["file", "files", "path"], "write `read: {}`"),
    ("command", &["args", "argv", "cmd", "program", "exec", "command"], "write `run: [program, argument]`"),
    ("command", &["script", "bash", "sh"], "write `shell: {}`"),
    ("command", &["stdin"], "write `input: jsonl`, or another format"),
    ("command", &["stdout"], "write `output: jsonl`, or another format"),
    ("read", &["file", "files", "filename", "paths", "glob", "src", "uri", "url", "location"], "write `path: {}`"),
    ("read", &["sep", "separator", "delim"], "write `delimiter: {}`"),
    ("read", &["columns", "usecols", "select"], "a `sql` stage behind it chooses columns, and no others are read"),
    ("read", &["types", "dtypes", "dtype"], "write `schema: {}`"),
    ("read", &["has_header", "headers", "skip_header"], "write `header:` with `true` or `false`"),
    ("read", &["type"], "write `format: {}`"),
    (
        "read",
        &["hive_partitioning", "partitioning", "partition_by", "partition_cols", "hive", "hive_types"],
        "write `partitions: true`, or name the columns with their types: `partitions: { year: int64 }`",
    ),
    (
        "read",
        &["with_filename", "include_path", "include_file_paths", "row_index", "row_number", "provenance"],
        "write `origin: true`: rows have the columns `_file` and `_row`",
    ),
    ("write", &["file", "filename", "dest", "uri", "url", "location"], "write `path: {}`"),
    (
        "write",
        &["append", "if_exists", "exists", "save_mode", "write_mode"],
        "write `mode:` with `overwrite`, `append` or `error`",
    ),
    ("write", &["has_header", "headers"], "write `header:` with `true` or `false`"),
    ("write", &["type"], "write `format: {}`"),
    (
        "write",
        &["partition_cols", "partitionBy", "partitions", "partitioning", "partition_on", "partitioned_by", "hive"],
        "write `partition_by: {}`",
    ),
    (
        "python",
        &["function", "func", "fn", "callable", "class", "target", "handler", "entry_point", "module"],
        "write `call: module:name`",
    ),
    ("python", &["kwargs", "args", "params", "parameters", "arguments", "config", "options"], "write `with: {}`"),
    ("python", &["convention", "mode", "type", "style"], "write `as: row`, or another form"),
    ("python", &["outputs"], "write `ports: {}`"),
    ("python", &["output_schema", "schema", "output_types"], "write `returns: {}`"),
    ("sql", &["text", "statement", "sql"], "write `query: {}`"),
    ("retry", &["max", "count", "retries", "max_attempts", "max_retries", "tries", "times"], "write `attempts: {}`"),
    ("retry", &["delay", "wait", "interval", "pause"], "write `backoff: {}`"),
    ("retry", &["max_delay", "max_wait"], "write `max_backoff: {}`"),
    ("batch", &["size", "count", "max_rows"], "write `rows: {}`"),
    ("queue", &["size", "max", "length", "maxsize", "count"], "write `batches: {}`"),
    ("workers", &["count", "n", "limit", "maximum"], "write `max: {}`"),
    ("param", &["enum", "options", "values", "allowed", "one_of"], "write `choices: {}`"),
    ("param", &["value"], "write `default: {}`"),
    ("param", &["help", "doc", "desc", "comment"], "write `description: {}`"),
    ("param", &["minimum", "ge"], "write `min: {}`"),
    ("param", &["maximum", "le"], "write `max: {}`"),
    ("file", &["tasks", "steps", "jobs", "nodes", "transforms", "pipeline"], "write `stages:`"),
    ("file", &["parameters", "variables", "vars", "inputs", "args"], "write `params:`"),
    ("file", &["title"], "write `name: {}`"),
    ("file", &["env", "environment"], "`env` is a key of stages"),
    ("file", &["schedule", "cron", "on", "triggers"], "what starts a run, such as cron or CI, stands outside the file"),
];

/// The same in test files.
const SYNONYMS_IN_TESTS: &[(&str, &[&str], &str)] = &[
    ("file", &["parameters", "variables", "vars", "args"], "write `params:`"),
    ("file", &["model", "target", "file"], "write `pipeline: {}`"),
    ("file", &["unit_tests", "cases", "examples", "scenarios", "specs"], "write `tests:`"),
    (
        "test",
        &["input", "inputs", "mock", "mocks", "fixtures", "stubs", "when", "with"],
        "rows of stages are `given: { stage: [{ column: value }] }`",
    ),
    (
        "test",
        &["output", "outputs", "expected", "expects", "expectations", "assert", "asserts", "then", "returns"],
        "what comes of stages is what to `expect: { stage: [{ column: value }] }`",
    ),
    ("test", &["raises", "error", "throws", "fail"], "write `fails: { stage: … }`"),
    ("test", &["parameters", "variables", "vars", "args"], "write `params:`"),
];

/// Words of other tools for a value, and what they are called here.
const VALUES: &[(&str, &[&str])] = &[
    ("gz", &["gzip"]),
    ("zst", &["zstd", "zstandard"]),
    ("bz2", &["bzip2"]),
    ("xz", &["lzma"]),
    ("jsonl", &["ndjson", "json-lines", "json_lines"]),
    ("windows-1252", &["cp1252", "windows1252", "ansi"]),
    ("latin1", &["latin-1", "iso-8859-1", "iso8859-1", "iso_8859_1"]),
    ("utf-8", &["utf8", "UTF-8", "UTF8"]),
    ("utf-16", &["utf16", "UTF-16", "UTF16"]),
    ("append", &["a", "add", "insert"]),
    ("overwrite", &["w", "replace", "truncate"]),
    ("skip", &["continue", "ignore", "drop", "warn"]),
    ("fail", &["raise", "abort", "stop", "error"]),
    ("integer", &["int", "number", "bigint", "long"]),
    ("float", &["double", "decimal", "real"]),
    ("string", &["str", "text"]),
    ("boolean", &["bool"]),
    ("path", &["file", "folder", "directory"]),
];

/// What the schema tells of where keys belong.
#[derive(Clone, Copy)]
pub struct Hints<'a> {
    schema: &'a Json,
    root: &'a Node,
}

impl<'a> Hints<'a> {
    pub fn new(schema: &'a Json, root: &'a Node) -> Self {
        Self { schema, root }
    }

    /// Whether the file is one with tests.
    pub fn is_of_tests(&self) -> bool {
        self.schema.pointer("/properties/tests").is_some()
    }

    /// Help for the key `name`, which the mapping at `path` cannot have. `object` is the mapping's schema.
    pub fn for_key(&self, object: &Json, path: &[Step], name: &str) -> Option<String> {
        let allowed: Vec<&str> = keys(object).collect();
        let below = self.below(object, path, name);
        if let Some(below) = below.as_ref().filter(|below| below.is_written) {
            return Some(below.text.clone());
        }
        // A word of another tool is meant as such, even if it looks like one of ours.
        if let Some(help) = self.synonym(path, name) {
            return Some(help);
        }
        if let Some(near) = nearest(name, allowed.iter().copied()) {
            return Some(format!("did you mean `{near}`?"));
        }
        if let Some(below) = below {
            return Some(below.text);
        }
        if path.len() > 2 && is_section(&path[0]) && self.is_key_of(&path[0], name) {
            return Some(format!("`{name}` is a key of the stage: move it out of `{}`", last_key(path)));
        }
        if !path.is_empty() && self.schema.pointer(&format!("/properties/{name}")).is_some() {
            return Some(format!("`{name}` belongs at the top level of the file"));
        }
        did_you_mean(name, allowed.iter().copied())
    }

    /// Whether a key of the mapping that is not known is meant to be `name`.
    pub fn is_meant(&self, object: &Json, path: &[Step], name: &str) -> bool {
        let allowed: Vec<&str> = keys(object).collect();
        let Some(owner) = self.root.at(path) else { return false };
        let unknown = owner.entries().iter().map(|entry| entry.key.name.as_str());
        let mut unknown = unknown.filter(|key| !key.starts_with("x-") && !allowed.contains(key));
        unknown.any(|key| match nearest(key, allowed.iter().copied()) {
            Some(near) => near == name,
            None => self.synonym(path, key).is_some_and(|help| help.starts_with(&format!("write `{name}:"))),
        })
    }

    /// Where below the mapping the key would be right. What the stage has already goes before what it has not.
    fn below(&self, object: &Json, path: &[Step], name: &str) -> Option<Below> {
        let mut found = Vec::new();
        self.find(object, name, &mut Vec::new(), &mut found);
        let shortest = found.iter().map(Vec::len).min()?;
        found.retain(|keys| keys.len() == shortest);
        let owner = self.root.at(path);
        let written = |keys: &Vec<String>| {
            let node = owner.and_then(|owner| owner.get(&keys[0]));
            node.is_some_and(|node| keys.get(1).is_none_or(|key| node.get(key).is_some() || node.as_str() == Some(key)))
        };
        let is_written = found.iter().any(written);
        if is_written {
            found.retain(written);
        }
        let places: Vec<String> = found.iter().map(|keys| place(keys)).collect();
        // The last is what is most likely where keys belong to choices such as `skip` and `reject`.
        let text = match places.as_slice() {
            [one] => one.clone(),
            _ if shortest > 1 => places.last()?.clone(),
            [others @ .., last] => format!("{} or {last}", others.join(", ")),
            [] => return None,
        };
        Some(Below { text: format!("`{name}` belongs under {text}"), is_written })
    }

    fn find(&self, schema: &Json, name: &str, below: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        if below.len() == DEPTH {
            return;
        }
        for (key, schema) in self.properties(schema) {
            below.push(key.to_owned());
            if self.properties(schema).iter().any(|(inner, _)| *inner == name) {
                found.push(below.clone());
            } else {
                self.find(schema, name, below, found);
            }
            below.pop();
        }
    }

    /// The keys of all forms that a mapping may have by `schema`.
    fn properties<'s>(&'s self, schema: &'s Json) -> Vec<(&'s str, &'s Json)> {
        let mut found: Vec<_> = schema
            .get("properties")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(key, schema)| (key.as_str(), schema))
            .collect();
        let to = schema.get("$ref").and_then(Json::as_str).and_then(|to| self.schema.pointer(to.strip_prefix('#')?));
        let branches = schema.get("anyOf").and_then(Json::as_array).into_iter().flatten();
        to.into_iter().chain(branches).for_each(|schema| found.extend(self.properties(schema)));
        found
    }

    /// Whether a mapping that stands under `key` in a stage may have the key `name`.
    pub fn may_have(&self, section: &str, key: &str, name: &str) -> bool {
        self.keys_under(section, key).contains(&name)
    }

    /// The keys that a mapping may have that stands under `key` in a stage.
    pub fn keys_under(&self, section: &str, key: &str) -> Vec<&str> {
        let schema =
            definition(section).and_then(|name| self.schema.pointer(&format!("/$defs/{name}/properties/{key}")));
        schema.map(|schema| self.properties(schema)).unwrap_or_default().into_iter().map(|(key, _)| key).collect()
    }

    /// Whether the entries of a section of the file have the key `name`.
    pub fn is_key(&self, section: &str, name: &str) -> bool {
        definition(section)
            .is_some_and(|definition| self.schema.pointer(&format!("/$defs/{definition}/properties/{name}")).is_some())
    }

    fn is_key_of(&self, section: &Step, name: &str) -> bool {
        matches!(section, Step::Key(section) if self.is_key(section, name))
    }

    fn synonym(&self, path: &[Step], name: &str) -> Option<String> {
        let section = match path.first() {
            Some(Step::Key(section)) => section.as_str(),
            _ => "",
        };
        let place = match path {
            [] => "file",
            [_] if section == DEFAULTS => "stage",
            [_, _] => match section {
                "stages" => "stage",
                "shared" => "shared",
                "params" => "param",
                "tests" => "test",
                _ => return None,
            },
            _ if is_section(&path[0]) => last_key(path),
            _ => return None,
        };
        let synonyms = if self.is_of_tests() { SYNONYMS_IN_TESTS } else { SYNONYMS };
        let (_, _, help) = synonyms.iter().find(|(at, words, _)| *at == place && words.contains(&name))?;
        let kinds: &[&str] = match section {
            "shared" => &SHARED_KINDS,
            "on_failure" | "finally" => &HOOK_KINDS,
            _ => &KINDS,
        };
        let kinds: Vec<String> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
        let written = self.root.at(path).and_then(|node| node.get(name)).map(written_value);
        let help = help.replace("{kinds}", &kinds.join(", ")).replace("{}", written.as_deref().unwrap_or("…"));
        // What this version of the language does not have is not to be suggested.
        let suggests = |key: &str| help.starts_with(&format!("write `{key}:"));
        let is_there = match path {
            [_] => self.properties(&self.schema["$defs"]["DefaultsSpec"]).iter().any(|(key, _)| suggests(key)),
            _ => place != "stage" || !suggests("when") || self.is_key("stages", "when"),
        };
        is_there.then_some(help)
    }
}

/// Whether a key of a stage that is not known may be meant to be `key`, or to stand below it.
pub fn means(word: &str, key: &str) -> bool {
    let is_named = |help: &str| {
        help.contains(&format!("`{key}`"))
            || help.contains(&format!("`{key}:"))
            || (help.contains("{kinds}") && KINDS.contains(&key))
    };
    let nothing = Node { value: Value::Null, span: Span::default(), alias: None };
    let is_other_word =
        || SYNONYMS.iter().any(|(at, words, help)| *at == "stage" && words.contains(&word) && is_named(help));
    word != key
        && (nearest(word, [key]).is_some()
            || is_other_word()
            || Hints::new(&DOCUMENT, &nothing).may_have("stages", key, word))
}

struct Below {
    text: String,
    /// The key that it belongs under stands there already.
    is_written: bool,
}

/// The definition in the schema of what the entries of a section of the file are.
pub fn definition(section: &str) -> Option<&'static str> {
    match section {
        "stages" => Some("StageSpec"),
        "shared" => Some("SharedSpec"),
        "on_failure" | "finally" => Some("HookSpec"),
        "params" => Some("ParamSpec"),
        _ => None,
    }
}

fn is_section(step: &Step) -> bool {
    matches!(step, Step::Key(key) if ["stages", "shared", "on_failure", "finally"].contains(&key.as_str()))
}

/// `retry`, or `on_error: { reject: … }`.
fn place(keys: &[String]) -> String {
    match keys {
        [only] => format!("`{only}`"),
        [first, rest @ ..] => {
            let inner = rest.iter().rev().fold("…".to_owned(), |inner, key| format!("{{ {key}: {inner} }}"));
            format!("`{first}: {inner}`")
        }
        [] => String::new(),
    }
}

/// A value in short, to be put into a line that would be right.
fn written_value(node: &Node) -> String {
    const LONGEST: usize = 40;
    let text = match &node.value {
        Value::Null => return "…".to_owned(),
        Value::String(text) if text.text.contains('\n') => return "…".to_owned(),
        Value::Unresolved(text) => format!("\"{text}\""),
        _ => flow(&node.to_json()),
    };
    if text.is_empty() || text.chars().count() > LONGEST { "…".to_owned() } else { text }
}

pub fn keys(schema: &Json) -> impl Iterator<Item = &str> {
    schema.get("properties").and_then(Json::as_object).into_iter().flatten().map(|(key, _)| key.as_str())
}

pub fn last_key(path: &[Step]) -> &str {
    path.iter()
        .rev()
        .find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .unwrap_or_default()
}

/// "did you mean" for a value that another tool has a word for, if it is one of the `expected`.
pub(super) fn value_of_others<'a>(text: &str, mut expected: impl Iterator<Item = &'a str>) -> Option<String> {
    let (ours, _) = VALUES.iter().find(|(_, theirs)| theirs.contains(&text))?;
    expected.any(|word| word == *ours).then(|| format!("did you mean `{ours}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table suggests is in the language: each `write `key:` names a key of its place.
    #[test]
    fn what_is_suggested_exists() {
        let tests = crate::spec::schema::tests_schema();
        for (place, words, help) in SYNONYMS_IN_TESTS {
            let at = if *place == "file" { "/properties" } else { "/$defs/TestSpec/properties" };
            let is_key = |key: &str| tests.pointer(&format!("{at}/{key}")).is_some();
            let key = help.split('`').nth(1).and_then(|text| text.split(':').next()).expect("what to write");
            assert!(is_key(key), "{place}: `{key}` for {words:?}");
            assert_eq!(words.iter().find(|word| is_key(word)), None, "a key of `{place}` is no synonym of another");
        }
        let schema = crate::spec::schema::schema();
        let root = Node { value: Value::Null, span: Span::default(), alias: None };
        let hints = Hints::new(&schema, &root);
        for (place, words, help) in SYNONYMS {
            let Some(key) = help.strip_prefix("write `").and_then(|rest| rest.split(':').next()) else { continue };
            // A later version of the language has it, and until then it is not suggested.
            if key == "when" {
                continue;
            }
            let is_known = match *place {
                "file" => schema.pointer(&format!("/properties/{key}")).is_some(),
                "stage" => hints.is_key("stages", key),
                "shared" => hints.is_key("shared", key),
                "param" => matches!(key, "min" | "max") || hints.is_key("params", key),
                kind => hints.may_have("stages", kind, key),
            };
            assert!(is_known, "{place}: `{key}` for {words:?}");
            let is_word = |word: &&&str| match *place {
                "stage" => hints.is_key("stages", word),
                kind => hints.may_have("stages", kind, word),
            };
            assert_eq!(words.iter().find(is_word), None, "a key of `{place}` is no synonym of another");
        }
    }
}
