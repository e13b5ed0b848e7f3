//! Finished batches that are shared in an object store.

mod support;

use std::time::Duration;

use support::store::Store;
use support::{Ran, Run, Scene, numbers, until};

const SECRET: &str = "a-secret-that-nobody-may-see";
const MODULE: &str = "
import os, time
def work(rows):
    open(f'called/x-{os.getpid()}-{time.time_ns()}', 'x').close()
    return [{'n': row['n'] ** 2} for row in rows]
";
const STAGES: &str = "
rows:
  read: in.csv
worked:
  from: rows
  python: { call: work:work, as: rows }
  batch: { rows: 10 }
  checkpoint: { share: 's3://bucket/some/prefix/' }
sink:
  from: worked
  write: out/sink.jsonl
";

/// A pipeline with so many batches.
fn scene(batches: u32) -> Scene {
    let scene = Scene::new(STAGES, MODULE).with_calls();
    scene.write("in.csv", &numbers(0..batches * 10));
    scene
}

fn run<'s>(scene: &'s Scene, store: &Store) -> Run<'s> {
    let run = scene.run().args(&["--workers", "2"]);
    run.env("AWS_ENDPOINT", &store.endpoint())
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", "key-id")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
}

fn squares(batches: u64) -> String {
    (0..batches * 10).map(|n| format!("{{\"n\":{}}}\n", n * n)).collect()
}

/// The run has failed over the store, in time, and has told nobody's secret.
fn has_failed(scene: &Scene, ran: &Ran, says: &[&str]) {
    ran.says(&["stage `worked` could not write"]).says(says);
    assert!(ran.took < Duration::from_secs(60), "it took {:?}", ran.took);
    for text in [&ran.stdout, &ran.stderr, &scene.events(), &scene.summary().to_string()] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(!scene.exists("out/sink.jsonl"));
    scene.assert_clean();
}

#[test]
fn what_others_have_put_into_a_store_is_not_done_again() {
    let store = Store::start();
    let scenes = [scene(9), scene(9)];
    run(&scenes[0], &store).ends_with(0);
    assert_eq!(scenes[0].called().len(), 9);
    {
        let inner = store.inner();
        assert_eq!((inner.objects.len(), inner.requests()), (9, (9, 9)));
        for key in inner.objects.keys() {
            let name = key.strip_prefix("bucket/some/prefix/").expect("it is below the prefix");
            assert!(name.len() == 65 && name.as_bytes()[2] == b'/', "{name}");
        }
    }
    run(&scenes[1], &store).ends_with(0).says(&["checkpoint of `worked`: 9 of 9 batches reused"]);
    assert_eq!(scenes[1].called().len(), 0);
    assert_eq!(store.inner().requests(), (9, 18));
    assert_eq!(scenes[1].read("out/sink.jsonl"), squares(9));
    // What has been fetched is here now.
    run(&scenes[1], &store).ends_with(0).says(&["checkpoint of `worked`: 9 of 9 batches reused"]);
    assert_eq!(store.inner().requests(), (9, 18));
    // What is not sound is not used, and is mended.
    let spoilt = {
        let mut inner = store.inner();
        let (key, object) = inner.objects.iter_mut().next().expect("there are nine");
        object[40] ^= 1;
        key.clone()
    };
    let third = scene(9);
    let ran = run(&third, &store).ends_with(0);
    ran.says(&[&format!("worked: `s3://{spoilt}` is damaged, or not of millpond: its batch is done again")]);
    assert!(third.events().contains(&format!("s3://{spoilt}")));
    assert_eq!(third.called().len(), 1);
    assert_eq!(third.read("out/sink.jsonl"), squares(9));
    run(&scene(9), &store).ends_with(0).says(&["9 of 9 batches reused"]);
    third.assert_clean();
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
    for (url, says, key, is_open) in [
        ("gs://bucket/prefix", google.as_slice(), "bucket/prefix/", true),
        ("az://container/prefix", azure.as_slice(), "account/container/prefix/", false),
    ] {
        store.inner().is_open = is_open;
        for reused in [0, 3] {
            let scene = scene(3);
            let pipeline = scene.read("pipeline.yaml").replace("s3://bucket/some/prefix/", url);
            scene.write("pipeline.yaml", &pipeline);
            let ran = says.iter().fold(scene.run(), |run, (name, value)| run.env(name, value)).ends_with(0);
            ran.says(&[&format!("{reused} of 3 batches reused")]);
            assert_eq!(scene.called().len(), 3 - reused);
        }
        let inner = store.inner();
        assert_eq!(inner.objects.keys().filter(|name| name.starts_with(key)).count(), 3, "{:?}", inner.objects.keys());
    }
}

#[test]
fn a_store_that_fails_for_a_moment_is_asked_again() {
    let store = Store::start();
    let scene = scene(4);
    store.inner().failing = Some((5, 500, String::new()));
    run(&scene, &store).ends_with(0);
    assert_eq!(scene.read("out/sink.jsonl"), squares(4));
    let inner = store.inner();
    assert_eq!((inner.objects.len(), inner.puts + inner.gets), (4, 4 + 4 + 5));
}

#[test]
fn a_store_that_refuses_ends_the_run_and_no_secret_is_told() {
    let store = Store::start();
    let body = format!("<Error><Code>AccessDenied</Code><CanonicalRequest>{SECRET}</CanonicalRequest></Error>");
    store.inner().failing = Some((usize::MAX, 403, body));
    let scene = scene(4);
    let ran = run(&scene, &store).ends_with(6);
    has_failed(
        &scene,
        &ran,
        &[
            "cannot read the checkpoints in s3://bucket/some/prefix: 403 Forbidden, AccessDenied (check",
            "AWS_ACCESS_KEY_ID",
        ],
    );
    assert!(ran.took < Duration::from_secs(10), "what is refused is not tried again");
    assert_eq!(scene.called().len(), 0);
}

#[test]
fn a_store_that_goes_away_ends_the_run() {
    let store = Store::start();
    store.inner().puts_left = Some(20);
    let scene = scene(60);
    let ran = run(&scene, &store).ends_with(6);
    has_failed(&scene, &ran, &["the checkpoints in s3://bucket/some/prefix", "(check that the store can be reached"]);
    assert_eq!(store.inner().objects.len(), 20);
    // What was put is there for whoever comes when the store is back.
    let back = Store::start();
    back.inner().objects = std::mem::take(&mut store.inner().objects);
    run(&scene, &back).ends_with(0);
    assert_eq!(scene.read("out/sink.jsonl"), squares(60));
    assert_eq!(back.inner().objects.len(), 60);
}

#[test]
fn a_run_over_a_store_that_is_silent_can_be_interrupted() {
    let store = Store::start();
    store.inner().delay = Duration::from_secs(3600);
    let scene = scene(4);
    let going = run(&scene, &store).start();
    until("the store is asked", Duration::from_secs(30), || store.inner().most_at_once > 0);
    going.signal(rustix::process::Signal::INT);
    going.signal(rustix::process::Signal::INT);
    let ran = going.end();
    assert_eq!(ran.code(), Some(130), "{}", ran.stderr);
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
    scene.assert_clean();
}

#[test]
fn no_store_is_asked_before_a_run() {
    let store = Store::start();
    let scene = scene(1);
    for command in ["validate", "plan", "graph"] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
        program.arg(command).arg(scene.path("pipeline.yaml")).env("AWS_ENDPOINT", store.endpoint());
        assert!(program.output().expect("the program starts").status.success(), "{command}");
    }
    assert_eq!(store.inner().requests(), (0, 0));
}

#[test]
fn what_the_environment_says_must_make_sense() {
    let store = Store::start();
    let scene = scene(1);
    let ran = run(&scene, &store).env("AWS_ALLOW_HTTP", "perhaps").ends_with(6);
    ran.says(&["s3://bucket/some/prefix", "perhaps"]);
    let ran = run(&scene, &store).env("AWS_ALLOW_HTTP", "false").ends_with(6);
    ran.says(&["s3://bucket/some/prefix", "AWS_ENDPOINT"]);
}
