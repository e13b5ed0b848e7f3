use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::run::fail_point::{PUBLISH, VARIABLE, reach};

/// The outputs of the runs here: one replaces a file, and one is new in a new folder.
const OUTPUTS: [&str; 2] = ["a.csv", "new/b.csv"];
/// A folder that replaces one with other files.
const FOLDER: &str = "folder";

fn record() -> RunRecord {
    RunRecord::of(Path::new("/tested.yaml"))
}

fn stage_all(folder: &Path, run: &RunFolder, content: &str) -> Result<Staging, PublishError> {
    let mut staging = Staging::begin(run)?;
    for output in OUTPUTS {
        let mut staged = staging.stage(&folder.join(output))?;
        staged.file.write_all(content.as_bytes()).unwrap();
        staged.file.sync_all().unwrap();
        reach("publish.sink_finished");
    }
    let staged = staging.stage_folder(&folder.join(FOLDER))?;
    write_parts(&staged, content);
    sync_folders(&staged)?;
    Ok(staging)
}

fn publish(folder: &Path, content: &str) -> Result<(), PublishError> {
    let run = RunFolder::create(&folder.join("state"), &record())?;
    stage_all(folder, &run, content)?.commit()
}

/// Two files, of which one has a name that those of other contents do not have.
fn write_parts(folder: &Path, content: &str) {
    for name in [format!("k={content}"), "k=same".to_owned()] {
        fs::create_dir_all(folder.join(&name)).unwrap();
        fs::write(folder.join(name).join("part-0.csv"), content).unwrap();
    }
}

/// Of the files, and then of the folder what its files say, if its parts go together.
fn contents(folder: &Path) -> Vec<Option<String>> {
    let mut contents: Vec<_> = OUTPUTS.iter().map(|output| fs::read_to_string(folder.join(output)).ok()).collect();
    let parts = folder.join(FOLDER);
    let mut names: Vec<_> =
        fs::read_dir(&parts).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let said = fs::read_to_string(parts.join("k=same/part-0.csv")).ok();
    if let Some(said) = &said {
        assert_eq!(names, [format!("k={said}").as_str(), "k=same"]);
        assert_eq!(fs::read_to_string(parts.join(format!("k={said}/part-0.csv"))).unwrap(), *said);
    } else {
        assert!(names.is_empty(), "{names:?}");
    }
    contents.push(said);
    contents
}

fn hidden(folder: &Path) -> Vec<PathBuf> {
    let folders = [folder.to_owned(), folder.join("new")];
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "tmp")).collect()
}

/// Runs in a process of its own, which the tests below start; does nothing otherwise.
#[test]
fn child() {
    let Some(folder) = std::env::var_os("MILLPOND_TEST_FOLDER") else { return };
    match std::env::var("MILLPOND_TEST_DO").as_deref() {
        Ok("recover") => drop(recover(&Path::new(&folder).join("state")).unwrap()),
        _ => publish(Path::new(&folder), "new").unwrap(),
    }
}

fn run_child(folder: &Path, work: &str, fail_point: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["run::publish::tests::child", "--exact"])
        .env("MILLPOND_TEST_FOLDER", folder)
        .env("MILLPOND_TEST_DO", work)
        .env(VARIABLE, fail_point)
        .output()
        .unwrap()
        .status
}

/// Kills a run at a fail point and checks that recovery leaves all old or all new outputs, and nothing else.
fn crash(fail_point: &str, kill_recovery: bool) -> bool {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "old").unwrap();
    write_parts(&folder.join(FOLDER), "old");
    let status = run_child(folder, "publish", fail_point);
    assert_eq!(status.signal(), Some(9), "{fail_point} is reached");
    if kill_recovery {
        // Recovery itself dies after its first step; the next one starts over.
        run_child(folder, "recover", "recover.step");
    }
    recover(&folder.join("state")).unwrap();
    assert!(hidden(folder).is_empty(), "{fail_point}: {:?}", hidden(folder));
    assert_eq!(recover(&folder.join("state")).unwrap(), Recovered::default(), "{fail_point}: nothing is left to do");
    let found = contents(folder);
    let new = vec![Some("new".to_owned()); 3];
    let old = vec![Some("old".to_owned()), None, Some("old".to_owned())];
    assert!(found == new || found == old, "{fail_point}: {found:?}");
    found == new
}

#[test]
fn a_crash_anywhere_leaves_all_old_or_all_new() {
    let mut published = Vec::new();
    for fail_point in PUBLISH {
        published.push(crash(fail_point, false));
    }
    let last_old = PUBLISH.iter().position(|name| *name == "publish.journal_written").unwrap();
    let expected: Vec<_> = (0..PUBLISH.len()).map(|at| at >= last_old).collect();
    assert_eq!(published, expected, "the journal decides");
    let others =
        ["publish.recorded:2", "publish.staged:2", "publish.renamed:2", "publish.staged:3", "publish.exchanged"];
    for fail_point in others {
        crash(fail_point, false);
    }
}

#[test]
fn a_crash_of_recovery_does_no_harm() {
    for fail_point in ["publish.staged:3", "publish.journal_written", "publish.renamed", "publish.exchanged"] {
        crash(fail_point, true);
    }
}

#[test]
fn what_was_published_may_be_removed_before_it_is_recovered() {
    for fail_point in ["publish.journal_written", "publish.renamed", "publish.renamed:2", "publish.before_committed"] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("a.csv"), "old").unwrap();
        assert_eq!(run_child(folder.path(), "publish", fail_point).signal(), Some(9), "{fail_point} is reached");
        fs::remove_dir_all(folder.path().join("new")).unwrap();
        recover(&folder.path().join("state")).unwrap();
        assert_eq!(recover(&folder.path().join("state")).unwrap(), Recovered::default(), "{fail_point}: all is done");
        assert_eq!(contents(folder.path()), [Some("new".to_owned()), None, Some("new".to_owned())], "{fail_point}");
    }
}

#[test]
fn a_run_that_gives_up_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
    drop(stage_all(folder.path(), &run, "new").unwrap());
    assert_eq!((contents(folder.path()), hidden(folder.path())), (vec![None, None, None], vec![]));
}

#[test]
fn recovery_leaves_live_runs_alone() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
    let staging = stage_all(folder.path(), &run, "new").unwrap();
    assert_eq!(recover(&folder.path().join("state")).unwrap(), Recovered::default());
    staging.commit().unwrap();
    assert_eq!(contents(folder.path()), vec![Some("new".to_owned()); 3]);
}

/// The runs of the state folder `state` in a folder, newest first.
fn past_runs(folder: &Path) -> Vec<PastRun> {
    PastRun::all(&folder.join("state")).unwrap()
}

fn prune_all(folder: &Path) -> Pruned {
    prune(&folder.join("state"), &Pruning { file: None, keep: 0, before: None, is_dry: false }).unwrap()
}

#[test]
fn a_record_that_is_torn_missing_or_foreign_stops_nothing() {
    let spoils: [fn(&Path); 4] = [
        |record| fs::write(record, "{\"version\":1,\"pipe").unwrap(),
        |record| fs::write(record, "something else").unwrap(),
        |record| fs::remove_file(record).unwrap(),
        |record| {
            fs::remove_file(record).unwrap();
            fs::create_dir(record).unwrap();
        },
    ];
    for spoil in spoils {
        let folder = TempDir::new().unwrap();
        let folder = folder.path();
        assert_eq!(run_child(folder, "publish", "publish.journal_written").signal(), Some(9));
        let run = past_runs(folder).remove(0);
        assert_eq!(run.record, Some(record()));
        spoil(&run.folder.join("run.json"));
        let run = past_runs(folder).remove(0);
        assert_eq!((run.record.is_none(), run.phase, run.is_published), (true, Phase::Died, false));
        let pruned = prune_all(folder);
        assert_eq!((pruned.removed.len(), pruned.unfinished), (0, 1), "it is still to be recovered");
        recover(&folder.join("state")).unwrap();
        assert_eq!(contents(folder), vec![Some("new".to_owned()); 3]);
        assert!(past_runs(folder)[0].is_published);
        while !past_runs(folder)[0].is_finished {}
        let pruned = prune_all(folder);
        assert_eq!((pruned.removed.len(), pruned.unfinished, pruned.failed.len()), (1, 0, 0));
        assert!(!run.folder.exists());
    }
}

#[test]
fn live_runs_are_seen_and_neither_disturbed_nor_removed() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let run = RunFolder::create(&state, &record()).unwrap();
    let staging = stage_all(folder.path(), &run, "new").unwrap();
    let phases = || past_runs(folder.path()).into_iter().map(|run| run.phase).collect::<Vec<_>>();
    assert_eq!(phases(), [Phase::GoingOn]);
    assert_eq!(prune_all(folder.path()).removed.len(), 0);
    assert_eq!(recover(&state).unwrap(), Recovered::default());
    staging.commit().unwrap();
    let outcome = RecordedOutcome {
        ended: Ended::Succeeded,
        exit_code: 0,
        duration: std::time::Duration::from_secs(3),
        rows_rejected: Some(2),
    };
    run.end(&outcome).unwrap();
    assert_eq!(phases(), [Phase::GoingOn], "its lock is held");
    assert_eq!(prune_all(folder.path()).removed.len(), 0);
    drop(run);
    // A process that another test is just starting has a copy of all descriptors, and so of the lock, for a moment.
    while phases() == [Phase::GoingOn] {}
    assert_eq!(phases(), [Phase::Ended(outcome)]);
    while prune_all(folder.path()).removed.is_empty() {}
    assert_eq!(phases(), []);
}

#[test]
fn who_looks_waits_for_who_begins_a_run() {
    let folder = TempDir::new().unwrap();
    drop(RunFolder::create(&folder.path().join("state"), &record()).unwrap());
    let guard = run_folder::lock_state(&folder.path().join("state")).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(past_runs(folder.path()).len()).unwrap());
        // A folder could be seen before it is locked, or its lock be held by who looks when it is to be recovered.
        assert!(receiver.recv_timeout(std::time::Duration::from_millis(100)).is_err());
        drop(guard);
        assert_eq!(receiver.recv().unwrap(), 1);
    });
}

fn until_over(millisecond: SystemTime) {
    while millisecond.elapsed().is_ok_and(|elapsed| elapsed.as_millis() == 0) {
        std::thread::yield_now();
    }
}

#[test]
fn what_is_pruned_is_neither_new_nor_young_nor_of_others() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let seconds = |number| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number);
    for number in 0..6 {
        let file = if number == 3 { "/other.yaml" } else { "/tested.yaml" };
        let record = RunRecord { started: seconds(number), ..RunRecord::of(Path::new(file)) };
        let run = RunFolder::create(&state, &record).unwrap();
        Staging::begin(&run).unwrap().commit().unwrap();
        // Ids sort by time, to the millisecond.
        let began = run_folder::time_of(run.id()).unwrap();
        until_over(began);
    }
    while past_runs(folder.path()).iter().any(|run| !run.is_finished) {}
    let tested = Path::new("/tested.yaml");
    let all = Pruning { file: None, keep: 0, before: None, is_dry: true };
    let goes = |pruning: Pruning<'_>| -> Vec<u64> {
        let pruned = prune(&state, &pruning).unwrap();
        assert!(pruned.removed.iter().all(|(_, bytes)| *bytes > 0));
        let started = |run: &PastRun| run.started().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        pruned.removed.iter().map(|(run, _)| started(run)).collect()
    };
    assert_eq!(goes(all), [5, 4, 3, 2, 1, 0]);
    assert_eq!(goes(Pruning { keep: 2, ..all }), [3, 2, 1, 0]);
    assert_eq!(goes(Pruning { keep: 9, ..all }), [0_u64; 0]);
    assert_eq!(goes(Pruning { before: Some(seconds(2)), ..all }), [1, 0]);
    assert_eq!(goes(Pruning { keep: 5, before: Some(seconds(2)), ..all }), [0]);
    assert_eq!(goes(Pruning { keep: 1, before: Some(seconds(5)), ..all }), [4, 3, 2, 1, 0]);
    assert_eq!(goes(Pruning { file: Some(tested), keep: 2, ..all }), [2, 1, 0]);
    assert_eq!(past_runs(folder.path()).len(), 6, "nothing was removed");
    assert_eq!(goes(Pruning { file: Some(tested), keep: 2, is_dry: false, ..all }), [2, 1, 0]);
    assert_eq!(past_runs(folder.path()).len(), 3);
}

#[test]
fn outputs_keep_their_links_and_modes() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("a.csv"));
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    publish(folder.path(), "new").unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), real);
    assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn outputs_that_are_no_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
    let mut staging = Staging::begin(&run).unwrap();
    assert!(matches!(staging.stage(folder.path()), Err(PublishError::IsFolder { .. })));
    assert!(matches!(staging.stage(Path::new("/dev/null")), Err(PublishError::NotRegular { .. })));
    staging.stage(&folder.path().join("x")).unwrap();
    assert!(matches!(staging.stage(&folder.path().join("x")), Err(PublishError::Twice { .. })));
}

#[test]
fn the_folders_of_old_runs_are_removed() {
    let folder = TempDir::new().unwrap();
    let runs = folder.path().join("runs");
    let live = RunFolder::create(folder.path(), &record()).unwrap();
    for _ in 0..KEPT_RUNS + 3 {
        let run = RunFolder::create(folder.path(), &record()).unwrap();
        Staging::begin(&run).unwrap().commit().unwrap();
    }
    let last = RunFolder::create(folder.path(), &record()).unwrap();
    let left = fs::read_dir(&runs).unwrap().count();
    assert_eq!(left, KEPT_RUNS + 2, "the finished ones that are kept, and two live ones");
    assert!(live.path().exists() && last.path().exists());
    assert_eq!(fs::read_to_string(folder.path().join(".gitignore")).unwrap(), "*\n");
}

#[test]
fn names_may_be_as_long_as_the_system_allows() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
    let mut staging = Staging::begin(&run).unwrap();
    let targets = ["a", "b"].map(|letter| folder.path().join(letter.repeat(255)));
    targets.iter().for_each(|target| drop(staging.stage(target).unwrap()));
    staging.commit().unwrap();
    assert!(targets.iter().all(|target| target.is_file()));
}

#[test]
fn what_must_be_new_replaces_nothing_and_nothing_else_is_published() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("old.csv"), "old").unwrap();
    let stage = || {
        let run = RunFolder::create(&path("state"), &record()).unwrap();
        let mut staging = Staging::begin(&run).unwrap();
        for (name, is_new) in [("old.csv", false), ("a.csv", true), ("b.csv", true)] {
            let staged = if is_new { staging.stage_new(&path(name)) } else { staging.stage(&path(name)) };
            staged.unwrap().file.write_all(b"new").unwrap();
        }
        (run, staging)
    };
    let found = |name: &str| fs::read_to_string(path(name)).ok();
    let (_run, staging) = stage();
    fs::write(path("b.csv"), "of somebody else").unwrap();
    assert!(matches!(staging.commit(), Err(PublishError::Exists { path }) if path.ends_with("b.csv")));
    assert_eq!([found("old.csv").unwrap(), found("b.csv").unwrap()], ["old", "of somebody else"]);
    assert_eq!((found("a.csv"), hidden(folder.path())), (None, vec![]));

    let run = RunFolder::create(&path("state"), &record()).unwrap();
    let refused = Staging::begin(&run).unwrap().stage_new(&path("b.csv"));
    assert!(matches!(refused, Err(PublishError::Exists { .. })));
    fs::remove_file(path("b.csv")).unwrap();
    stage().1.commit().unwrap();
    assert_eq!(["old.csv", "a.csv", "b.csv"].map(|name| found(name).unwrap()), ["new"; 3]);
}

#[test]
fn a_rename_that_must_not_replace_does_not() {
    let folder = TempDir::new().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::write(&from, "from").unwrap();
    std::os::unix::fs::symlink("nowhere", &to).unwrap();
    assert!(matches!(durable::rename_new(&from, &to), Err(PublishError::Exists { .. })));
    fs::remove_file(&to).unwrap();
    durable::rename_new(&from, &to).unwrap();
    assert_eq!(fs::read_to_string(&to).unwrap(), "from");
}

#[test]
fn folders_that_hold_something_else_are_not_replaced() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = RunFolder::create(&path("state"), &record()).unwrap();
    let mut staging = Staging::begin(&run).unwrap();
    write_parts(&path("out"), "old");
    fs::write(path("out/_SUCCESS"), "").unwrap();
    check_replaceable(&path("out")).unwrap();
    for foreign in ["out/notes.txt", "out/k=same/data.csv", "out/plain/part-0.csv"] {
        fs::create_dir_all(path(foreign).parent().unwrap()).unwrap();
        fs::write(path(foreign), "precious").unwrap();
        let error = staging.stage_folder(&path("out")).unwrap_err();
        let PublishError::Foreign { found, .. } = &error else { panic!("{error}") };
        assert!(path(foreign).canonicalize().unwrap().starts_with(found), "{error}");
        match foreign {
            "out/plain/part-0.csv" => fs::remove_dir_all(path("out/plain")).unwrap(),
            _ => fs::remove_file(path(foreign)).unwrap(),
        }
    }
    fs::write(path("file"), "").unwrap();
    assert!(matches!(staging.stage_folder(&path("file")), Err(PublishError::IsFile { .. })));
    assert!(matches!(staging.stage_folder(folder.path()), Err(PublishError::Foreign { .. })));
    assert!(matches!(check_replaceable(Path::new("/proc")), Err(PublishError::MountPoint { .. })));
    assert!(matches!(staging.stage_new_folder(&path("out")), Err(PublishError::Exists { .. })));
    // What comes there while the run goes on is not lost either.
    let staged = staging.stage_folder(&path("out")).unwrap();
    write_parts(&staged, "new");
    fs::write(path("out/notes.txt"), "precious").unwrap();
    assert!(matches!(staging.commit(), Err(PublishError::Foreign { .. })));
    assert_eq!(fs::read_to_string(path("out/notes.txt")).unwrap(), "precious");
    assert_eq!(hidden(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn folders_that_cannot_be_exchanged_are_replaced_entry_by_entry_also_after_a_crash() {
    let folder = TempDir::new().unwrap();
    let (from, to, marker) = (folder.path().join("from"), folder.path().join("to"), folder.path().join("cleared"));
    let names = |at: &Path| durable::entries(at).unwrap().len();
    write_parts(&from, "new");
    write_parts(&to, "old");
    let inode = durable::inode(&from).unwrap().0;
    durable::replace_entries_once(&from, &to, &marker).unwrap();
    // A crash before the folder is removed, and with one file of two in its place.
    fs::rename(to.join("k=new"), from.join("k=new")).unwrap();
    durable::replace_entries_once(&from, &to, &marker).unwrap();
    assert_eq!((names(&from), names(&to)), (0, 2));
    assert_eq!(fs::read_to_string(to.join("k=same/part-0.csv")).unwrap(), "new");
    // After an exchange, what lies at the first path is the old one.
    durable::replace_folder(&to, &from, inode + 1, &marker).unwrap();
    assert!(!to.exists() && from.exists());
}

#[test]
fn bytes_are_appended_once_whatever_a_crash_has_left_of_them() {
    let folder = TempDir::new().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let append = |there: &str| {
        fs::write(&from, "new\n").unwrap();
        fs::write(&to, there).unwrap();
        let appended = durable::append(&from, &to, 4);
        appended.map(|()| (fs::read_to_string(&to).unwrap(), from.exists()))
    };
    for (there, expected) in [
        ("old\n", "old\nnew\n"),
        ("old\nne", "old\nnew\n"),
        ("old\nn\0\0\0", "old\nnew\n"),
        ("old\n\0", "old\nnew\n"),
        ("old\nnew\n", "old\nnew\n"),
        ("old\nnew\nof somebody else\n", "old\nnew\nof somebody else\n"),
    ] {
        assert_eq!(append(there).unwrap(), (expected.to_owned(), false), "{there:?}");
    }
    for there in ["old", "old\nof", "old\nof somebody else\n", "old\nn\0\0\0more"] {
        assert!(matches!(append(there), Err(PublishError::Overtaken { .. })), "{there:?}");
        assert_eq!((fs::read_to_string(&to).unwrap(), from.exists()), (there.to_owned(), true), "nothing is lost");
    }
}

#[test]
fn what_is_appended_to_may_grow_meanwhile_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("log.jsonl");
    let commit = |seen: Option<Seen>, before: Option<&str>, then: Option<&str>| {
        let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
        let mut staging = Staging::begin(&run).unwrap();
        let _ = fs::remove_file(&target);
        before.into_iter().for_each(|text| fs::write(&target, text).unwrap());
        staging.stage_behind(&target, seen).unwrap().file.write_all(b"new\n").unwrap();
        match then {
            Some(text) => fs::write(&target, text).unwrap(),
            None => drop(fs::remove_file(&target)),
        }
        staging.commit().map(|()| fs::read_to_string(&target).unwrap())
    };
    let seen = |last| Some(Seen { length: 4, last });
    assert_eq!(commit(None, None, None).unwrap(), "new\n");
    assert_eq!(commit(seen(Some(b'\n')), Some("old\n"), Some("old\n")).unwrap(), "old\nnew\n");
    assert_eq!(commit(seen(Some(b'\n')), Some("old\n"), Some("old\nmore\n")).unwrap(), "old\nmore\nnew\n");
    assert_eq!(commit(seen(None), Some("old\n"), Some("old\nmore")).unwrap(), "old\nmorenew\n");
    let empty = Some(Seen { length: 0, last: None });
    assert_eq!(commit(empty, Some(""), Some("")).unwrap(), "new\n");
    let changed = |result| matches!(result, Err(PublishError::Changed { .. }));
    assert!(changed(commit(seen(Some(b'\n')), Some("old\n"), Some("old\nmore"))));
    assert!(changed(commit(seen(Some(b'\n')), Some("old\n"), Some("old"))));
    assert!(changed(commit(seen(Some(b'\n')), Some("old\n"), None)));
    assert!(changed(commit(empty, Some(""), Some("more\n"))));
    assert!(matches!(commit(None, None, Some("more\n")), Err(PublishError::Exists { .. })));
    assert_eq!(hidden(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn parts_come_beside_those_that_are_there() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("out");
    let names = || {
        let mut names = Vec::new();
        for entry in durable::entries(&target).unwrap() {
            names.extend(durable::entries(&entry).unwrap());
        }
        names.sort();
        names.iter().map(|path| path.strip_prefix(&target).unwrap().display().to_string()).collect::<Vec<_>>()
    };
    let publish = |content: &str| {
        let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
        let mut staging = Staging::begin(&run).unwrap();
        let staged = staging.stage_parts(&target).unwrap();
        write_parts(&staged, content);
        staging.commit()
    };
    publish("first").unwrap();
    fs::write(target.join("k=first/part-00007-of-others.csv"), "").unwrap();
    publish("first").unwrap();
    publish("second").unwrap();
    let expected = [
        "k=first/part-0.csv",
        "k=first/part-00007-of-others.csv",
        "k=first/part-8.csv",
        "k=same/part-0.csv",
        "k=same/part-1.csv",
        "k=same/part-2.csv",
        "k=second/part-0.csv",
    ];
    assert_eq!((names(), hidden(folder.path())), (expected.map(str::to_owned).to_vec(), vec![]));
    fs::write(folder.path().join("file"), "").unwrap();
    let run = RunFolder::create(&folder.path().join("state"), &record()).unwrap();
    let refused = Staging::begin(&run).unwrap().stage_parts(&folder.path().join("file"));
    assert!(matches!(refused, Err(PublishError::IsFile { .. })));
}
