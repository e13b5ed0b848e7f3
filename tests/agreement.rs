//! The schema and the loader agree: an editor marks what a run would refuse, and nothing else.
//!
//! Documents are made from the schema, and most of them are then spoilt a little. Every one of them is held against the schema, as any
//! validator of JSON Schema would do it, and is loaded. `MILLPOND_AGREEMENT_SEED`, `MILLPOND_AGREEMENT_FIRST` and
//! `MILLPOND_AGREEMENT_DOCUMENTS` make other documents, and more of them. `MILLPOND_AGREEMENT_INTO` is a folder into which the first
//! two thousand are written, in `taken` or `refused`, for the validators that `tests/validators` asks.

#[path = "random_pipelines/rng.rs"]
mod rng;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use millpond::diagnostic::{Code, SourceText};
use millpond::plan;
use millpond::spec::{self, Completeness, Given, schema};
use rng::Rng;
use serde_json::{Map, Value, json};

const DOCUMENTS: u64 = 10_000;
/// Those that other validators are given.
const WRITTEN: u64 = 2_000;

/// The problems that a schema can find. All others are about more than one place of the file (names, inputs, kinds and the keys that go
/// with them), about what expressions, queries and paths say, or about what a run is given.
///
/// Of these, the loader alone finds what a schema cannot count: a name that is given twice in two sections or by `foreach`, a mapping that has
/// no keys but `x-` ones, an expression whose value is of another type than its place takes, and whole numbers that are written
/// with a point, which are the same to JSON. The documents here have none of them.
fn is_for_the_schema(code: Code) -> bool {
    matches!(
        code,
        Code::SpecUnknownKey
            | Code::SpecMissingKey
            | Code::SpecWrongType
            | Code::SpecBadValue
            | Code::SpecBadName
            | Code::PlanNoKind
            | Code::PlanTwoKinds
            | Code::PlanBadSize
            | Code::PlanBadDuration
            | Code::PlanBadRate
            | Code::PlanBadCall
            | Code::PlanBadColumnType
    )
}

fn choose<'a, T>(random: &mut Rng, from: &'a [T]) -> &'a T {
    &from[random.below(from.len())]
}

/// Makes documents that are right by the schema.
struct Generator<'a> {
    schema: &'a Value,
    random: Rng,
}

impl Generator<'_> {
    fn document(&mut self) -> Value {
        let mut document = self.value(self.schema, "", 0);
        document["version"] = 1.into();
        // What expressions use.
        document["params"] = json!({
            "n": { "type": "integer", "default": 3 },
            "half": { "type": "float", "default": 0.5 },
            "yes": { "type": "boolean", "default": true },
            "given": self.value(&self.schema["$defs"]["ParamSpec"], "", 2),
        });
        document
    }

    /// A value that fits. `key` is where it stands.
    fn value(&mut self, schema: &Value, key: &str, depth: usize) -> Value {
        if let Some(to) = schema["$ref"].as_str() {
            let to = self.schema.pointer(to.trim_start_matches('#')).expect("a definition");
            return self.value(to, key, depth);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(choices) = schema["enum"].as_array() {
            return choose(&mut self.random, choices).clone();
        }
        if let Some(branches) = schema["anyOf"].as_array() {
            let branch = choose(&mut self.random, branches);
            if branch["pattern"].as_str() == Some(schema::EXPRESSION_PATTERN) && branch["type"] == "string" {
                // Beside words: an expression that gives one of them.
                let word = self.value(&branches[0], key, depth);
                return word.as_str().map_or(word.clone(), |word| format!("${{{{ '{word}' }}}}").into());
            }
            return self.value(branch, key, depth);
        }
        if let Some(choices) = schema["oneOf"].as_array().filter(|choices| choices[0].get("required").is_none()) {
            let choice = choose(&mut self.random, choices);
            return self.value(choice, key, depth);
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        match kinds.as_slice() {
            ["object"] => self.object(schema, key, depth),
            ["array", ..] => self.array(schema, key, depth),
            ["string"] => self.text(schema, key),
            ["integer", ..] if self.random.chance(12) && kinds.len() > 1 => json!("${{ params.n }}"),
            ["integer", ..] => {
                let least = schema["minimum"].as_i64().unwrap_or(0);
                let most = schema["maximum"].as_i64().unwrap_or(1_000).min(least + 1_000);
                let bounds = [least, most].map(|bound| usize::try_from(bound).expect("bounds are positive"));
                json!(if self.random.chance(25) { bounds[0] } else { self.random.between(bounds[0], bounds[1]) })
            }
            // Bounds of params.
            ["number"] => json!(self.random.below(100)),
            ["number", "string"] if self.random.chance(25) => json!("${{ params.half }}"),
            ["number", "string"] => json!(self.random.below(99) as f64 / 100.0 + 0.001),
            ["boolean", "string"] if self.random.chance(25) => json!("${{ params.yes }}"),
            ["boolean", ..] => json!(self.random.chance(50)),
            // Scalars.
            _ => choose(&mut self.random, &[json!("text"), json!(7), json!(0.25), json!(true)]).clone(),
        }
    }

    fn object(&mut self, schema: &Value, key: &str, depth: usize) -> Value {
        let mut object = Map::new();
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let either: Vec<&str> = schema["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|choice| choice.pointer("/required/0")?.as_str())
            .collect();
        let chosen = if either.is_empty() { "" } else { *choose(&mut self.random, &either) };
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let wanted = match either.contains(&name.as_str()) {
                true => name == chosen,
                false => required.contains(&name.as_str()) || self.random.chance(100 / (3 + depth)),
            };
            if wanted {
                object.insert(name.clone(), self.value(inner, name, depth + 1));
            }
        }
        if let Some(entry) = schema["patternProperties"].get(schema::NAME_PATTERN) {
            let pool: &[&str] = match key {
                // Names of sections are apart, so that none is given twice.
                "stages" => &["raw", "clean", "score", "out_1"],
                _ => &["api", "gpu", "first", "k_2"],
            };
            for name in pool.iter().take(1 + self.random.below(2)) {
                object.insert((*name).to_owned(), self.value(entry, name, depth + 1));
            }
        }
        if let Some(entry) = schema.get("additionalProperties").filter(|entry| **entry != json!(false)) {
            for name in ["A", "b"] {
                let value = if *entry == json!(true) { json!([1, "x"]) } else { self.value(entry, name, depth + 1) };
                object.insert(name.to_owned(), value);
            }
        }
        if self.random.chance(8) && !object.is_empty() {
            object.insert("x-note".to_owned(), json!({ "free": [null] }));
        }
        object.into()
    }

    fn array(&mut self, schema: &Value, key: &str, depth: usize) -> Value {
        let count = 1 + self.random.below(2);
        let scalar = json!({});
        let items = schema.get("items").unwrap_or(&scalar);
        (0..count).map(|_| self.value(items, key, depth + 1)).collect()
    }

    fn text(&mut self, schema: &Value, key: &str) -> Value {
        if schema["maxLength"] == 1 {
            return self.random.pick(&[";", "|", "é", "\t"]).into();
        }
        let samples: &[&str] = match schema["patternErrorMessage"].as_str().unwrap_or_default() {
            message if message.contains("size") => &["64MiB", "1", "1.5 GiB", "512k", "0.25MB", "${{ params.n }}MiB"],
            message if message.contains("time is") => {
                &["60s", "1m30s", "1h 30m", "5 min", "0h 5m", "250ms", "1.5h", "2 weeks", "${{ params.n }}s"]
            }
            message if message.contains("rate") => &["100/min", " 5 / s ", "0.5/s", "7200/h", "${{ params.n }}/s"],
            message if message.contains("module") => &["m:f", "a.b:C.d", "_x:é", "${{ 'm' }}:f"],
            message if message.contains("column") => {
                &["string", "int64", "decimal(38,0)", "timestamp[Europe/Berlin]", "list< list<date> >", " bool "]
            }
            message if message.contains("A name") => &["good", "b2_", "Bad", "é", ""],
            _ => match key {
                "sql" | "query" => &["SELECT 1 AS one", "SELECT * FROM raw", "nonsense ("],
                // Without expressions, which scripts cannot have.
                "shell" => &["sort", "$${{ not one }}"],
                "from" | "after" => &["raw", "clean", "score.rejected", "nobody"],
                "path" | "read" | "write" => &["a.csv", "b.jsonl", "*.parquet", "-", "s3://b/x.csv", "out/"],
                _ => &["text", "", "é ü", "true", "3", "${{ params.n }} of many", "$${{ not one }}"],
            },
        };
        self.random.pick(samples).into()
    }
}

/// Spoils a document in one place. It may stay right.
fn spoil(document: &mut Value, random: &mut Rng) {
    let mut places = Vec::new();
    collect(document, String::new(), &mut places);
    let place = choose(random, &places).clone();
    // What expressions use stays as it is.
    if ["/params/n", "/params/half", "/params/yes"].iter().any(|used| place.starts_with(used)) || place == "/params" {
        return;
    }
    let others: Vec<&String> = places.iter().filter(|other| !place.starts_with(other.as_str())).collect();
    let other = others.get(random.below(others.len().max(1))).and_then(|other| document.pointer(other)).cloned();
    // In another place, the value of an expression may be of the wrong type.
    let other = other.filter(|other| !other.to_string().contains("${{")).unwrap_or(Value::Null);
    let Some(node) = document.pointer_mut(&place) else { return };
    match (random.below(8), &mut *node) {
        (0, _) => *node = choose(random, &values()).clone(),
        (1, _) => *node = other,
        (2 | 3, Value::Object(entries)) if !entries.is_empty() => {
            // A slip in a key.
            let at = random.below(entries.len());
            let key = entries.keys().nth(at).cloned().unwrap_or_default();
            let value = entries.remove(&key).unwrap_or_default();
            let slips =
                [format!("{key}s"), key[..key.len().max(1) - 1].to_owned(), key.to_uppercase(), format!("x{key}")];
            entries.insert(choose(random, &slips).clone(), value);
        }
        (4, Value::Object(entries)) if !entries.is_empty() => {
            let at = random.below(entries.len());
            let key = entries.keys().nth(at).cloned().unwrap_or_default();
            entries.remove(&key);
        }
        (_, Value::Object(entries)) => {
            let keys =
                ["workers", "from", "format", "run", "shell", "read", "python", "attempts", "retries", "units", "rate"];
            entries.insert((*choose(random, &keys)).to_owned(), choose(random, &values()).clone());
        }
        (_, Value::Array(items)) => {
            if random.chance(50) {
                items.clear();
            } else {
                items.push(choose(random, &values()).clone());
            }
        }
        (2..=6, Value::String(text)) if !text.contains("${{") => match random.below(5) {
            0 => text.push('x'),
            1 => text.push_str(" 0"),
            2 => {
                text.pop();
            }
            3 => text.insert(0, '-'),
            _ => {
                *text = (*choose(
                    random,
                    &["0", "0s", "64QiB", "fast", "a.py:f", "int", "list<int8", "1e300/s", "1.5", "reject"],
                ))
                .to_owned()
            }
        },
        (_, Value::Number(number)) => {
            let value = number.as_i64().unwrap_or(0);
            let others = [json!(-value), json!(value + 5_000_000_000), json!(0), json!(value as f64 + 0.5)];
            *node = choose(random, &others).clone();
        }
        _ => *node = choose(random, &values()).clone(),
    }
}

fn values() -> Vec<Value> {
    let nothing: [u8; 0] = [];
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(2),
        json!(2.5),
        json!("auto"),
        json!("raw"),
        json!("no such word"),
        json!([]),
        json!(nothing),
        json!(["raw"]),
        json!([null]),
        json!({}),
        json!({ "path": "x.csv" }),
        json!({ "read": "x.csv" }),
        json!({ "workers": 2 }),
    ]
}

/// Pointers to all values but the document itself.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(entries) => {
            for (key, inner) in entries {
                let at = format!("{at}/{}", escape(key));
                places.push(at.clone());
                collect(inner, at, places);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                let at = format!("{at}/{index}");
                places.push(at.clone());
                collect(inner, at, places);
            }
        }
        _ => {}
    }
}

/// What the loader alone can find of what is the schema's to find: see `is_for_the_schema`.
fn is_beyond_the_schema(document: &Value) -> bool {
    let names = |section: &str| {
        document[section].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    let (stages, shared) = (names("stages"), names("shared"));
    let inputs: Vec<&str> = document["inputs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_taken =
        |(at, name): (usize, &&str)| inputs[..at].contains(name) || stages.contains(name) || shared.contains(name);
    let only_free = |value: &Value| {
        value.as_object().is_some_and(|entries| !entries.is_empty() && entries.keys().all(|key| key.starts_with("x-")))
    };
    let stage = |stage: &Value| only_free(&stage["foreach"]) || only_free(&stage["command"]["outputs"]);
    shared.iter().any(|name| stages.contains(name))
        || inputs.iter().enumerate().any(is_taken)
        || only_free(&document["stages"])
        || document["stages"].as_object().into_iter().flatten().any(|(_, it)| stage(it))
}

/// The problems of the loader that are the schema's to find.
fn loaded(text: &str) -> Vec<String> {
    let source = Arc::new(SourceText::new("pipeline.yaml", "/project/pipeline.yaml", text));
    let given = Given {
        set: Vec::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        current_dir: "/here".into(),
        seed: 0,
        completeness: Completeness::Partial,
    };
    let problems = plan::validate(&spec::parse(&source, &given));
    let problems = problems.iter().filter(|problem| is_for_the_schema(problem.code));
    problems.map(|problem| format!("{}: {}", problem.code.word(), problem.message)).collect()
}

fn document(schema: &Value, seed: u64) -> Value {
    let mut generator = Generator { schema, random: Rng::new(seed) };
    let mut document = generator.document();
    for _ in 0..generator.random.below(4) {
        spoil(&mut document, &mut generator.random);
    }
    document
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Where documents are written, made anew.
fn written_into() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("MILLPOND_AGREEMENT_INTO")?);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", folder.display()),
        _ => {}
    }
    for part in ["taken", "refused"] {
        fs::create_dir_all(folder.join(part)).expect("a folder");
    }
    Some(folder)
}

#[test]
fn the_schema_refuses_what_the_loader_refuses() {
    let into = written_into();
    let schema = schema::schema();
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let seed = number("MILLPOND_AGREEMENT_SEED", 1);
    let documents = number("MILLPOND_AGREEMENT_DOCUMENTS", DOCUMENTS);
    let first = number("MILLPOND_AGREEMENT_FIRST", 0);
    println!("MILLPOND_AGREEMENT_SEED={seed}, {documents} documents");
    let threads = 4;
    let check = |from: u64| {
        let (mut refused, mut taken) = (0, 0);
        for number in (first + from..first + documents).step_by(threads) {
            let document = document(&schema::DOCUMENT, seed.wrapping_mul(1_000_003).wrapping_add(number));
            if is_beyond_the_schema(&document) {
                continue;
            }
            let is_valid = validator.is_valid(&document);
            // JSON is YAML.
            let text = serde_json::to_string(&document).expect("it is JSON");
            let by_loader = loaded(&text);
            assert!(
                is_valid == by_loader.is_empty(),
                "document {number} of seed {seed}:\n{document:#}\nthe schema says: {:#?}\nthe loader says: {by_loader:#?}",
                validator.iter_errors(&document).map(|error| error.to_string()).collect::<Vec<_>>(),
            );
            if let Some(into) = into.as_ref().filter(|_| number < first + WRITTEN) {
                let part = if is_valid { "taken" } else { "refused" };
                fs::write(into.join(part).join(format!("seed-{seed}-{number}.json")), &text).expect("a file");
            }
            if is_valid { taken += 1 } else { refused += 1 }
        }
        (refused, taken)
    };
    let (refused, taken) = std::thread::scope(|scope| {
        let check = &check;
        let workers: Vec<_> = (0..threads as u64).map(|from| scope.spawn(move || check(from))).collect();
        let counts = workers.into_iter().map(|worker| worker.join().expect("they agree"));
        counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    });
    println!("{refused} were refused by both, {taken} taken by both");
    // A test in which all documents are of one kind would say little.
    assert!(refused * 4 > documents && taken * 8 > documents, "{refused} refused, {taken} taken");
}
