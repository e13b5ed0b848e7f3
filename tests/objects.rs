//! Sources and sinks in object stores: what is read is whole, and what is written is there all together or not at all.

mod support;

use rustix::process::Signal;
use support::store::Store;
use support::{Run, Scene, numbers, until};

const SECRET: &str = "a-secret-that-nobody-may-see";

fn with_store<'s>(run: Run<'s>, store: &Store) -> Run<'s> {
    run.env("AWS_ENDPOINT", &store.endpoint())
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", "key-id")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
}

fn put(store: &Store, key: &str, content: impl Into<Vec<u8>>) {
    store.inner().objects.insert(key.to_owned(), content.into());
}

/// An object as text.
fn text(store: &Store, key: &str) -> String {
    let inner = store.inner();
    let object = inner.objects.get(key).unwrap_or_else(|| panic!("{key}: there are {:?}", inner.objects.keys()));
    String::from_utf8(object.clone()).expect("text")
}

/// The keys of all objects below a prefix.
fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.inner().objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
}

#[test]
fn objects_are_read_by_name_by_pattern_and_by_folder() {
    let store = Store::start();
    for (at, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        put(&store, &format!("bucket/in/{name}.csv"), numbers([at]));
    }
    put(&store, "bucket/in/.hidden.csv", numbers([100]));
    put(&store, "bucket/in/note.txt", "no rows");
    put(&store, "bucket/in/below/f.csv", numbers([50]));
    put(&store, "bucket/other/a.csv", numbers([200]));
    put(&store, "bucket/in/b c%.csv", numbers([7]));
    // What cannot be named does not keep anybody from what is beside it.
    put(&store, "other/flat/a.csv", numbers([70]));
    put(&store, "other/flat/odd//g.csv", numbers([60]));
    for (path, expected) in [
        ("s3://bucket/in/b.csv", vec![1]),
        ("s3://bucket/in/[a-c].csv", vec![0, 1, 2]),
        ("s3://bucket/in/*.csv", vec![0, 7, 1, 2, 3, 4]),
        ("s3://bucket/in/b%20c%25.csv", vec![7]),
        ("s3://bucket/*/a.csv", vec![0, 200]),
        ("s3://bucket/in/**/*.csv", vec![0, 7, 1, 50, 2, 3, 4]),
        ("s3://other/flat/*.csv", vec![70]),
        ("s3://other/flat", vec![70]),
        ("s3://bucket/in/", vec![0, 7, 1, 2, 3, 4]),
        ("s3://bucket/in", vec![0, 7, 1, 2, 3, 4]),
    ] {
        let format = if path.ends_with(".csv") { "" } else { ", format: csv" };
        let stages = format!(
            "rows:\n  read: {{ path: '{path}'{format}, origin: true }}\nout:\n  from: rows\n  write: out.jsonl\n"
        );
        let scene = Scene::new(&stages, "");
        with_store(scene.run(), &store).ends_with(0);
        let out = scene.read("out.jsonl");
        let numbers = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let numbers: Vec<_> = numbers.inspect(|row| assert_eq!(row["_row"], 1)).map(|row| row["n"].clone()).collect();
        assert_eq!(numbers, expected, "{path}");
        assert!(out.contains("\"_file\":\"s3://"), "{out}");
        scene.assert_clean();
    }
    for (path, says) in [
        ("s3://bucket/in/z.csv", "there is no file s3://bucket/in/z.csv"),
        ("s3://bucket/none/*.csv", "no file matches s3://bucket/none/*.csv"),
        ("s3://other/**/*.csv", "a part between two `/` may not be empty"),
    ] {
        let scene = Scene::new(&format!("rows:\n  read: '{path}'\nout:\n  from: rows\n  write: out.jsonl\n"), "");
        with_store(scene.run(), &store).ends_with(6).says(&[says]);
        assert!(!scene.exists("out.jsonl"));
        scene.assert_clean();
    }
}

#[test]
fn partitions_and_files_of_both_places_are_read_in_order() {
    let store = Store::start();
    put(&store, "bucket/by/day=1/part-0.csv", numbers([1]));
    put(&store, "bucket/by/day=2/part-0.csv", numbers([2]));
    put(&store, "bucket/by/_SUCCESS", "");
    let stages = "
rows:
  read: { path: 's3://bucket/by/', format: csv, partitions: true }
more:
  read: { path: [local.csv, 's3://bucket/by/day=2/part-0.csv', local.csv] }
out:
  from: rows
  write: out.csv
both:
  from: more
  write: both.csv
";
    let scene = Scene::new(stages, "");
    scene.write("local.csv", &numbers([9]));
    with_store(scene.run(), &store).ends_with(0);
    assert_eq!(scene.read("out.csv"), "n,day\n1,1\n2,2\n");
    assert_eq!(scene.read("both.csv"), "n\n9\n2\n9\n");
    scene.assert_clean();
}

#[test]
fn every_format_comes_back_as_it_was_written() {
    let store = Store::start();
    let formats = ["csv", "tsv", "jsonl", "json", "parquet", "arrow", "csv.gz", "jsonl.zst"];
    let mut stages = String::from("rows:\n  read: in.csv\n");
    for (at, format) in formats.iter().enumerate() {
        stages += &format!("w{at}:\n  from: rows\n  write: s3://bucket/out/a.{format}\n");
    }
    let scene = Scene::new(&stages, "");
    scene.write("in.csv", &numbers(0..20_000));
    with_store(scene.run(), &store).ends_with(0);
    assert_eq!(keys(&store, "bucket/").len(), formats.len());
    scene.assert_clean();
    let mut stages = String::new();
    for (at, format) in formats.iter().enumerate() {
        stages += &format!("r{at}:\n  read: s3://bucket/out/a.{format}\n");
        stages += &format!("o{at}:\n  from: r{at}\n  write: back-{at}.csv\n");
    }
    let back = Scene::new(&stages, "");
    with_store(back.run(), &store).ends_with(0);
    for (at, format) in formats.iter().enumerate() {
        assert!(back.read(&format!("back-{at}.csv")) == scene.read("in.csv"), "{format}");
    }
    back.assert_clean();
}

#[test]
fn other_stores_are_spoken_to_in_their_ways() {
    let store = Store::start();
    let account = r#"{"gcs_base_url": "ENDPOINT", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;
    let account = account.replace("ENDPOINT", &store.endpoint());
    let endpoint = format!("{}/account", store.endpoint());
    let google = [("GOOGLE_SERVICE_ACCOUNT_KEY", account.as_str())];
    let azure = [
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
        ("AZURE_ENDPOINT", endpoint.as_str()),
        ("AZURE_ALLOW_HTTP", "true"),
    ];
    for (bucket, says, is_open) in
        [("gs://bucket", google.as_slice(), true), ("az://container", azure.as_slice(), false)]
    {
        store.inner().is_open = is_open;
        let stages = "rows:\n  read: in.csv\none:\n  from: rows\n  write: BUCKET/out/one.csv\nempty:\n  from: rows\n  sql: SELECT * FROM rows WHERE n < 0\nnone:\n  from: empty\n  write: { path: BUCKET/out/none.txt, format: lines }\n";
        let scene = Scene::new(&stages.replace("BUCKET", bucket), "");
        // More than a part.
        scene.write("in.csv", &numbers((0..2_000_000).map(|n| n + 1_000_000)));
        // And once more, over what is there.
        for _ in 0..2 {
            says.iter().fold(scene.run(), |run, (name, value)| run.env(name, value)).ends_with(0);
        }
        let stages = "rows:\n  read: 'BUCKET/out/*.csv'\nout:\n  from: rows\n  write: back.csv\n";
        let back = Scene::new(&stages.replace("BUCKET", bucket), "");
        says.iter().fold(back.run(), |run, (name, value)| run.env(name, value)).ends_with(0);
        assert!(back.read("back.csv") == scene.read("in.csv"), "{bucket}");
        back.assert_clean();
    }
    let inner = store.inner();
    let keys: Vec<_> = inner.objects.iter().map(|(key, object)| (key.as_str(), object.len())).collect();
    let expected = [("account/container/out/none.txt", 0), ("account/container/out/one.csv", 16_000_002)];
    assert_eq!(keys[..2], expected);
    assert_eq!(keys[2..], [("bucket/out/none.txt", 0), ("bucket/out/one.csv", 16_000_002)]);
    assert!(inner.uploads.is_empty() && inner.blocks.is_empty());
}

#[test]
fn folders_are_replaced_and_added_to() {
    let store = Store::start();
    let stages = |mode: &str| {
        format!(
            "rows:\n  read: in.csv\nout:\n  from: rows\n  write: {{ path: 's3://bucket/by/', format: csv, partition_by: k, mode: {mode} }}\n"
        )
    };
    let run = |mode: &str, rows: &str| {
        let scene = Scene::new(&stages(mode), "");
        scene.write("in.csv", rows);
        (with_store(scene.run(), &store).end(), scene)
    };
    assert_eq!(run("overwrite", "k,n\na,1\nb,2\n").0.code(), Some(0));
    assert_eq!(keys(&store, "bucket/"), ["bucket/by/k=a/part-0.csv", "bucket/by/k=b/part-0.csv"]);
    assert_eq!(run("overwrite", "k,n\na,3\nc,4\n").0.code(), Some(0));
    assert_eq!(keys(&store, "bucket/"), ["bucket/by/k=a/part-0.csv", "bucket/by/k=c/part-0.csv"]);
    assert_eq!(text(&store, "bucket/by/k=a/part-0.csv"), "n\n3\n");
    for _ in 0..2 {
        assert_eq!(run("append", "k,n\na,5\n").0.code(), Some(0));
    }
    let parts = keys(&store, "bucket/by/k=a/");
    assert_eq!(parts.len(), 3, "{parts:?}");
    assert_eq!(text(&store, &parts[0]), "n\n5\n");
    run("error", "k,n\na,6\n").0.says(&["s3://bucket/by is there already"]);
    put(&store, "bucket/by/", "");
    assert_eq!(run("overwrite", "k,n\na,7\n").0.code(), Some(0));
    assert_eq!(keys(&store, "bucket/by/"), ["bucket/by/", "bucket/by/k=a/part-0.csv"]);
    put(&store, "bucket/by/mine.txt", "kept");
    let (refused, scene) = run("overwrite", "k,n\na,6\n");
    assert_eq!(refused.code(), Some(6));
    refused.says(&["s3://bucket/by/mine.txt"]);
    assert_eq!(keys(&store, "bucket/by/").len(), 3);
    assert_eq!(store.inner().uploads.len(), 0, "uploads are left");
    scene.assert_clean();
}

/// Two sinks in the store and one on this machine.
const THREE: &str = "
rows:
  read: in.csv
one:
  from: rows
  write: s3://bucket/one.csv
two:
  from: rows
  write: { path: s3://bucket/two.jsonl, mode: MODE }
here:
  from: rows
  write: here.csv
";

fn three(mode: &str) -> Scene {
    let scene = Scene::new(&THREE.replace("MODE", mode), "");
    scene.write("in.csv", &numbers(0..1000));
    scene
}

#[test]
fn objects_of_a_run_that_fails_are_never_there() {
    let store = Store::start();
    let stages = format!(
        "{THREE}fails:\n  from: rows\n  after: [one, here]\n  python: {{ call: work:work, as: rows }}\nlast:\n  from: fails\n  write: last.csv\n"
    );
    let scene = Scene::new(
        &stages.replace("MODE", "error").replace("after: [one, here]\n", "after: here\n"),
        "def work(rows):\n    raise ValueError('no')\n",
    );
    scene.write("in.csv", &numbers(0..1000));
    put(&store, "bucket/one.csv", "old");
    with_store(scene.run(), &store).ends_with(1);
    assert_eq!(text(&store, "bucket/one.csv"), "old");
    assert_eq!(keys(&store, "bucket/"), ["bucket/one.csv"]);
    assert_eq!(store.inner().uploads.len(), 0, "uploads are left");
}

#[test]
fn a_store_that_refuses_to_publish_leaves_all_as_it_was() {
    let store = Store::start();
    let scene = three("overwrite");
    store.inner().refuses_completion = true;
    let ran = with_store(scene.run(), &store).ends_with(6);
    ran.says(&["cannot publish s3://bucket/one.csv: 403 Forbidden, AccessDenied (check `AWS_ACCESS_KEY_ID`"]);
    assert!(!ran.stderr.contains(SECRET));
    assert!(!scene.exists("here.csv"));
    assert_eq!(keys(&store, "bucket/"), Vec::<String>::new());
    assert_eq!(store.inner().uploads.len(), 0, "uploads are left");
    scene.assert_clean();
    store.inner().refuses_completion = false;
    with_store(scene.run(), &store).ends_with(0);
    assert_eq!(text(&store, "bucket/one.csv"), scene.read("in.csv"));
}

#[test]
fn what_must_not_be_there_is_not_replaced() {
    let store = Store::start();
    let scene = three("error");
    put(&store, "bucket/two.jsonl", "old");
    let ran = with_store(scene.run(), &store).ends_with(6);
    ran.says(&["the output s3://bucket/two.jsonl is there already"]);
    assert_eq!(text(&store, "bucket/two.jsonl"), "old");
    assert_eq!(store.inner().begun, 0);
    assert!(!scene.exists("here.csv"));
}

/// Wherever the coordinator dies, the next run finds or makes a whole: all old or all new.
#[test]
fn outputs_are_all_old_or_all_new_whenever_the_coordinator_dies() {
    for (point, is_new) in [
        ("publish.staged", false),
        ("publish.sink_finished", false),
        ("publish.uploaded", false),
        ("publish.before_journal", false),
        ("publish.journal_written", true),
        ("publish.completed", true),
        ("publish.renamed", true),
        ("publish.before_committed", true),
    ] {
        let store = Store::start();
        put(&store, "bucket/one.csv", "old");
        let scene = three("overwrite");
        let died = with_store(scene.run(), &store).env("MILLPOND_FAIL_POINT", point).end();
        assert!(died.code().is_none(), "{point} was not reached: {}", died.stderr);
        // Another pipeline of the same folder sees to what is left.
        scene.write(
            "other.yaml",
            "version: 1\nname: other\nstages:\n  a:\n    read: in.csv\n  b:\n    from: a\n    write: other.csv\n",
        );
        with_store(scene.run_of(&scene.path("other.yaml")), &store).ends_with(0);
        let expected = if is_new { scene.read("in.csv") } else { "old".to_owned() };
        assert_eq!(text(&store, "bucket/one.csv"), expected, "{point}");
        assert_eq!(store.inner().objects.contains_key("bucket/two.jsonl"), is_new, "{point}");
        assert_eq!(scene.exists("here.csv"), is_new, "{point}");
        // It may have died between the beginning of one and the note of it.
        assert!(store.inner().uploads.values().all(|(_, parts)| parts.is_empty()), "uploads are left: {point}");
        scene.assert_clean();
    }
}

#[test]
fn what_cannot_be_finished_is_said_with_a_way_out() {
    let store = Store::start();
    let scene = three("overwrite");
    with_store(scene.run(), &store).env("MILLPOND_FAIL_POINT", "publish.journal_written").end();
    store.inner().refuses_completion = true;
    let ran = with_store(scene.run(), &store).ends_with(6);
    ran.says(&["cannot publish s3://bucket/", "or remove ", "state/runs/"]);
    // The store has had a moment of weakness.
    store.inner().refuses_completion = false;
    with_store(scene.run(), &store).ends_with(0);
    assert_eq!(text(&store, "bucket/one.csv"), scene.read("in.csv"));
    scene.assert_clean();
}

#[test]
fn an_object_that_changes_while_it_is_read_ends_the_run() {
    let store = Store::start();
    put(&store, "bucket/in/a.csv", numbers([1]));
    put(&store, "bucket/in/b.csv", numbers([2]));
    store.inner().removed_after_list = Some("bucket/in/b.csv".to_owned());
    let scene = Scene::new("rows:\n  read: 's3://bucket/in/*.csv'\nout:\n  from: rows\n  write: out.csv\n", "");
    let ran = with_store(scene.run(), &store).ends_with(6);
    ran.says(&["s3://bucket/in/b.csv was there when the run started and is gone"]);
    assert!(!scene.exists("out.csv"));
    scene.assert_clean();
}

#[test]
fn a_run_that_waits_for_a_store_can_be_interrupted() {
    let store = Store::start();
    put(&store, "bucket/in/a.csv", numbers([1]));
    store.inner().delay = std::time::Duration::from_secs(50);
    let scene = Scene::new("rows:\n  read: 's3://bucket/in/*.csv'\nout:\n  from: rows\n  write: out.csv\n", "");
    let running = with_store(scene.run(), &store).start();
    until("a request comes", support::PATIENCE, || store.inner().most_at_once > 0);
    running.signal(Signal::INT);
    let ran = running.end();
    assert_eq!(ran.code(), Some(130), "{}", ran.stderr);
    assert!(ran.took < std::time::Duration::from_secs(20), "it took {:?}", ran.took);
    scene.assert_clean();
}

#[test]
fn a_run_that_asks_a_store_before_it_begins_can_be_interrupted() {
    let store = Store::start();
    store.inner().delay = std::time::Duration::from_secs(50);
    let scene = three("error");
    let going = with_store(scene.run(), &store).start();
    until("the store is asked", support::PATIENCE, || store.inner().most_at_once > 0);
    going.signal(Signal::INT);
    let ran = going.end();
    assert_eq!(ran.code(), Some(130), "{}", ran.stderr);
    assert!(ran.took < std::time::Duration::from_secs(20), "it took {:?}", ran.took);
    assert!(!scene.exists("here.csv"));
    scene.assert_clean();
}

#[test]
fn validate_and_plan_ask_no_store() {
    let store = Store::start();
    let scene = three("error");
    for command in ["validate", "plan", "graph"] {
        let mut asked = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
        asked.arg(command).arg(scene.path("pipeline.yaml")).env("AWS_ENDPOINT", store.endpoint());
        let output = asked.output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(store.inner().requests(), (0, 0));
}
