//! `millpond test`: unit tests of pipelines, as a user runs them.

#[allow(dead_code)]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use program::{errors, repository};

const PIPELINE: &str = "
version: 1
name: shop
params:
  floor: { type: integer, default: 3 }
  out: { type: path }
stages:
  orders: { read: { path: orders.csv, schema: { day: date, price: 'decimal(8,2)' } } }
  rates: { read: rates.jsonl }
  large:
    from: orders
    sql: SELECT id, day, price, price > 10 AS dear FROM orders WHERE length(id) >= $floor
  checked: { from: large, python: 'functions:check', on_error: reject, after: prepare, checkpoint: true }
  prepare: { command: [touch, prepared] }
  strict: { from: large, python: 'functions:check' }
  total:
    from: [checked, rates]
    sql: SELECT sum(checked.price * rates.rate) AS total FROM checked, rates
  publish: { from: checked, write: '${{ params.out }}/checked.csv' }
  sum: { from: total, write: '${{ params.out }}/sum.csv' }
  rejects: { from: checked.rejected, write: '${{ params.out }}/rejected.jsonl' }
";

const FUNCTIONS: &str = "
def check(row: dict) -> dict:
    print('checking', row['id'])
    if row['id'].startswith('bad'):
        raise ValueError('no order')
    return row
";

/// A folder with the pipeline `shop.yaml` and these tests of it.
struct Shop {
    folder: tempfile::TempDir,
}

impl Shop {
    fn with(tests: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shop = Self { folder };
        shop.write("shop.yaml", PIPELINE);
        shop.write("functions.py", FUNCTIONS);
        shop.write("shop.test.yaml", &format!("version: 1\ntests:\n{tests}"));
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a file")
    }

    fn test(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_millpond"));
        program.arg("test").args(args).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(self.folder.path());
        program.output().expect("the program starts")
    }

    /// What is in the folder, below it too.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = walk(self.folder.path());
        files.sort();
        files
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// What was printed, without times, which differ.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |line: &str| match line.rfind(" (").filter(|_| line.ends_with(" s)")) {
        Some(at) => format!("{}\n", &line[..at]),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn rows_can_be_given_and_expected_at_any_cut_and_nothing_is_left_behind() {
    let shop = Shop::with(
        "  short ids are left out:
    given:
      orders: [{ id: abc, day: 2024-02-29, price: 12.5 }, { id: a, price: 1 }]
    expect:
      large: [{ id: abc, day: 2024-02-29, price: '12.50', dear: true }]
      large.out: [{}]
  what is no order is rejected:
    params: { floor: 0 }
    given:
      large: { rows: [{ id: bad }, { id: good, price: 1 }], schema: { price: 'decimal(8,2)' } }
      rates: [{ rate: 2 }]
    expect:
      checked: [{ id: good }]
      checked.rejected: [{ id: bad, _stage: checked, _verdict: exception, _message: 'ValueError: no order', _file: large, _row: 1 }]
      sum: { where: 'total = 2', count: 1 }
      publish: { rows: [{ id: good }], order: any }
      rejects: { count: { min: 1, max: 1 } }
",
    );
    let before = shop.files();
    let output = shop.test(&[]);
    assert_eq!(
        said(&output),
        "shop.test.yaml
  ok  short ids are left out
  ok  what is no order is rejected
coverage of shop.yaml: 6 of 7 stages, 4 of 5 ports
  run by no test: `strict`
2 tests: passed
",
        "{}",
        errors(&output)
    );
    assert_eq!((output.status.code(), errors(&output)), (Some(0), String::new()));
    assert_eq!(shop.files(), before);
}

#[test]
fn a_failing_test_shows_what_differs() {
    let shop = Shop::with(
        "  orders are large:
    given:
      orders: [{ id: abc, price: 12.5 }, { id: bcd, price: 1 }]
    expect:
      large:
        - { id: abc, dear: false }
        - { id: bcd, dear: false }
        - { id: cde, dear: false }
      large.out: { where: dear, count: 3 }
  code prints:
    given: { large: [{ id: bad }] }
    expect: { checked.rejected: [], checked: [{ ids: bad }] }
",
    );
    let output = shop.test(&["--junit", "report.xml"]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let expected = "shop.test.yaml
  FAILED  orders are large
      large: 3 rows expected, 2 came: 1 differs, 1 missing
        row  id   dear
      - 1    abc  false
      + 1    abc  true
                  ^^^^^
      - 3    cde  false
      large.out: 3 rows expected, 2 came
      large.out: 1 row of 2 does not fulfil `dear`
          id   day   price  dear
          bcd  null  1.00   false
  FAILED  code prints
      checked.rejected: 0 rows expected, 1 came: 1 unexpected
";
    assert!(said(&output).starts_with(expected), "{}", said(&output));
    assert!(said(&output).contains("what its code has printed:\n        checking bad\n"), "{}", said(&output));
    let report = shop.read("report.xml");
    assert!(report.contains("tests=\"2\" failures=\"2\""), "{report}");
    assert!(report.contains("<failure message=\"large: 3 rows expected, 2 came: 1 differs, 1 missing\">"), "{report}");
    let filtered = shop.test(&["shop.yaml", "--filter", "prints"]);
    assert!(said(&filtered).ends_with("1 test: 1 failed\n") && !said(&filtered).contains("coverage"));
    let fast = shop.test(&[".", "--fail-fast"]);
    assert!(said(&fast).ends_with("1 test: 1 failed\n"), "{}", said(&fast));
    assert_eq!(shop.test(&["--filter", "nothing"]).status.code(), Some(2));
}

#[test]
fn what_would_be_read_is_refused_with_the_way_out() {
    let shop = Shop::with(
        "  one: { expect: { large: [] } }
  two: { given: { checked: [{ id: a, price: 1 }] }, expect: { sum: { count: 1 } } }
  three: { given: { checked: [{ id: a }] }, expect: { rejects: [] } }
  four: { given: { order: [] }, expect: { large.rejected: [] } }
  five: { params: { flor: 3, floor: low }, given: { orders: [] }, expect: { large: { rows: [], file: a.csv } } }
  six: { given: { orders: [] }, expect: { large: { tolerance: 0.1, where: 'price > (SELECT 1)' } } }
  seven: { given: { orders: [] }, expect: { large: { tolerance: 0.1 } } }
",
    );
    let json = |file: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_millpond"));
        program.args(["validate", "--format", "json", file]).current_dir(shop.folder.path());
        let output = program.output().expect("the program starts");
        serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout).expect("a list")
    };
    let problems: Vec<String> = json("shop.test.yaml")
        .iter()
        .map(|it| format!("{}: {} {}", it["line"], it["code"].as_str().unwrap(), it["message"].as_str().unwrap()))
        .collect();
    assert_eq!(
        problems,
        [
            "3: test::not_given the source `orders` would be read, which no test does: give its rows",
            "4: test::not_given the source `rates` would be read, which no test does: give its rows",
            "5: test::not_given stage `checked` is given, but not its port `rejected`, from which `rejects` reads",
            "6: plan::unknown_stage the pipeline has no stage `order`",
            "6: plan::unknown_port stage `large` has no port `rejected`",
            "7: param::unknown the pipeline has no param `flor`",
            "7: param::bad_value `low` is not an integer",
            "8: test::bad_expectation this is no condition: it needs more than one row: write a `sql` stage, and expect its rows",
            "9: test::bad_expectation nothing is expected of `large`",
        ]
        .map(str::to_owned)
    );
    let output = shop.test(&[]);
    assert_eq!((output.status.code(), said(&output)), (Some(3), String::new()));
    assert!(errors(&output).contains("help: add `given: { orders: [{ … }] }`, or give the rows of a stage behind it"));
}

#[test]
fn rows_that_cannot_be_those_of_the_stage_are_refused() {
    let refused = |given: &str, words: &[&str]| {
        let shop =
            Shop::with(&format!("  one: {{ given: {{ orders: {given} }}, expect: {{ large: {{ count: 0 }} }} }}\n"));
        shop.write("orders.csv", "id,day,price,note\na,2024-02-29,1.5,x\n");
        let output = shop.test(&[]);
        assert_eq!(output.status.code(), Some(3), "{given}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{given}: {}", said(&output));
        }
    };
    refused("[{ idd: a }]", &["test::bad_rows", "`orders` gives no column `idd`", "did you mean `id`?"]);
    refused("[{ id: a }, { price: much }]", &["these rows cannot be those of `orders`", "much"]);
    refused("{ file: nowhere.csv }", &["cannot read", "nowhere.csv"]);
}

#[test]
fn files_can_be_given_and_expected() {
    let shop = Shop::with(
        "  from a file:
    given:
      # Read as the stage reads its own: with its `schema`.
      orders: { file: fixtures/orders.csv }
      rates: { file: fixtures/rates.dat, format: jsonl }
    expect:
      large: { file: golden/large.csv }
      total: { file: golden/total.parquet, order: any }
",
    );
    shop.write("fixtures/orders.csv", "id,day,price\nabcd,2024-02-29,12.5\nabc,,0.1\n");
    shop.write("fixtures/rates.dat", "{\"rate\": 2}\n");
    let missing = shop.test(&[]);
    assert!(said(&missing).contains("golden/large.csv`: No such file"), "{}", said(&missing));
    let updated = shop.test(&["--update"]);
    assert_eq!(updated.status.code(), Some(0), "{}{}", said(&updated), errors(&updated));
    assert!(said(&updated).contains("updated  from a file\n      large: 2 rows in golden/large.csv\n"));
    assert_eq!(shop.read("golden/large.csv"), "id,day,price,dear\nabcd,2024-02-29,12.50,true\nabc,,0.10,false\n");
    let again = shop.test(&["--update"]);
    assert!(said(&again).contains("ok  from a file"), "{}", said(&again));
    // A column that the file lacks is a difference, and so is a value.
    shop.write("golden/large.csv", "id,day,price\nabcd,2024-02-29,12.5\nabc,,0.2\n");
    let output = shop.test(&[]);
    assert!(said(&output).contains("large: columns that the file lacks: `dear`\n"), "{}", said(&output));
    assert!(said(&output).contains("large: 2 rows expected, 2 came: 1 differs\n"), "{}", said(&output));
}

#[test]
fn an_update_changes_what_is_expected_and_nothing_else() {
    let shop = Shop::with(
        "  # first
  one:
    given: { orders: [{ id: abc, price: 12.5 }] }
    expect:
      large:
        - { id: old } # of old
      large.out: { count: 7, where: price < 0 }
  two: { given: { orders: [{ id: abc, price: 12.5 }] }, expect: { large: [{ id: abc }] } } # right
",
    );
    let output = shop.test(&["--update"]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert!(said(&output).contains("FAILED  one\n      large: 1 row\n      large.out: 1 row\n"), "{}", said(&output));
    assert_eq!(
        shop.read("shop.test.yaml"),
        "version: 1
tests:
  # first
  one:
    given: { orders: [{ id: abc, price: 12.5 }] }
    expect:
      large:
        - { id: abc } # of old
      large.out: { count: 1, where: price < 0 }
  two: { given: { orders: [{ id: abc, price: 12.5 }] }, expect: { large: [{ id: abc }] } } # right
"
    );
}

#[test]
fn a_failure_can_be_expected() {
    let shop = Shop::with(
        "  as expected:
    given: { large: [{ id: good }, { id: bad }] }
    fails: { stage: strict, message: 'no order', exit_code: 1 }
  not at all: { given: { large: [{ id: good }] }, fails: { stage: strict } }
  with another message:
    given: { large: [{ id: bad }] }
    fails: { stage: strict, message: too large, exit_code: 4 }
  it was not to fail:
    given: { large: [{ id: bad }] }
    expect: { strict: { count: 1 } }
",
    );
    let output = shop.test(&[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("ok  as expected\n"), "{text}");
    assert!(text.contains("FAILED  not at all\n      strict: it was expected to fail, and did not\n"), "{text}");
    assert!(text.contains("strict: `too large` does not stand in the message:\n"), "{text}");
    assert!(text.contains("strict: the exit code would be 1, and not 4\n"), "{text}");
    assert!(text.contains("FAILED  it was not to fail\n      the run has failed:\n"), "{text}");
}

#[test]
fn what_now_says_is_fixed_and_a_stage_that_is_left_out_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write(
        "p.yaml",
        "version: 1
params: { on: { type: boolean, default: true } }
stages:
  moment: { sql: 'SELECT now() AS now, random() AS chance', when: '${{ params.on }}' }
  publish: { from: moment, write: out.csv }
",
    );
    write(
        "tests.test.yaml",
        "version: 1
pipeline: p.yaml
now: 2024-02-29T12:00:00Z
seed: 7
tests:
  one: { expect: { moment: [{ now: '2024-02-29 12:00:00' }] } }
  two: { params: { on: false }, expect: { publish: { count: 0 } } }
",
    );
    let output = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("test").current_dir(folder.path()).output();
    let output = output.expect("the program starts");
    let text = said(&output);
    assert!(text.contains("ok  one\n"), "{text}{}", errors(&output));
    assert!(text.contains("publish: `publish` is left out: it needs rows of `moment`, which is left out\n"), "{text}");
}

#[test]
fn what_a_test_does_not_need_may_be_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write(
        "p.yaml",
        "version: 1
params: { year: { type: integer }, from: { type: path } }
shared:
  prices: { read: prices.csv }
stages:
  rows: { read: '${{ params.from }}' }
  of_year: { foreach: { year: [2023, 2024] }, from: rows, sql: 'SELECT n, 2024 AS year FROM rows', description: 'of ${{ each.year }}' }
  all: { from: of_year, sql: SELECT count(*) AS n FROM of_year WHERE year > $year }
  priced: { from: [rows, prices], sql: SELECT rows.n * prices.price AS cost FROM rows JOIN prices ON prices.n = rows.n }
  sent: { from: priced, command: { shell: cat }, env: { KEY: '${{ secrets.MILLPOND_TEST_KEY }}' } }
  publish: { from: sent, write: '${{ env.MILLPOND_TEST_OUT }}.csv' }
",
    );
    write("functions.py", FUNCTIONS);
    let tests = |tests: &str| {
        write("p.test.yaml", &format!("version: 1\ntests:\n{tests}"));
        let mut program = Command::new(env!("CARGO_BIN_EXE_millpond"));
        program
            .args(["test", "p.yaml"])
            .env_remove("MILLPOND_TEST_KEY")
            .env_remove("MILLPOND_TEST_OUT")
            .current_dir(folder.path());
        program.output().expect("the program starts")
    };
    let passed = tests(
        "  what foreach makes is expected by one name:
    given: { rows: [{ n: 1 }] }
    expect: { of_year: [{ n: 1 }, { n: 1 }], of_year__2024: [{ year: 2024 }] }
  and given by its own:
    params: { year: 2023 }
    given: { of_year__2023: [{ n: 1, year: 2023 }], of_year__2024: [{ n: 1, year: 2024 }, { n: 2, year: 2024 }] }
    expect: { all: [{ n: 2 }] }
  a shared table is given by its name:
    given: { rows: [{ n: 1 }, { n: 2 }], prices: [{ n: 2, price: 5 }] }
    expect: { priced: [{ cost: 10 }] }
  a sink needs no path:
    given: { sent: [{ cost: 10 }] }
    expect: { publish: [{ cost: 10 }] }
",
    );
    assert_eq!(passed.status.code(), Some(0), "{}{}", said(&passed), errors(&passed));
    let refused = tests(
        "  one: { given: { priced: [{ cost: 1 }] }, expect: { sent: { count: 1 } } }
  two: { given: { of_year: [{ n: 1 }] }, expect: { all: { count: 1 } } }
  three: { given: { rows: [{ n: 1 }] }, expect: { priced: { count: 0 } } }
",
    );
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    for words in [
        "stage `sent` has a value for `env` that is not known",
        "`of_year` stands for several stages, which `foreach` makes: of_year__2023, of_year__2024",
        "the source `prices` would be read",
    ] {
        assert!(errors(&refused).replace("\n  │ ", " ").contains(words), "{words}: {}", errors(&refused));
    }
    let unset = tests(
        "  one: { given: { of_year__2023: [{ n: 1, year: 1 }], of_year__2024: [{ n: 1, year: 1 }] }, expect: { all: { count: 1 } } }\n",
    );
    assert!(said(&unset).contains("the query of `all` needs the param `year`, which has no value"), "{}", said(&unset));
}

#[test]
fn a_command_line_without_tests_is_told_so() {
    let shop = Shop::with("  one: { given: { orders: [] }, expect: { large: { count: 0 } } }\n");
    fs::remove_file(shop.path("shop.test.yaml")).expect("it is there");
    for args in [&[][..], &["shop.yaml"], &["."], &["nowhere.test.yaml"]] {
        assert_eq!(shop.test(args).status.code(), Some(2), "{args:?}");
    }
    shop.write("wrong.test.yaml", "version: 1\npipeline: wrong.yaml\ntests: { one: { expect: { a: [] } } }\n");
    shop.write("wrong.yaml", "version: 1\nstages: { a: { sql: SELECT } }\n");
    let output = shop.test(&[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(errors(&output).contains("plan::sql_syntax"), "{}", errors(&output));
}

#[test]
fn the_tests_of_the_examples_pass() {
    let files: Vec<PathBuf> = [repository().join("examples"), repository().join("pipelines")]
        .iter()
        .flat_map(|folder| walk(folder))
        .filter(|path| path.to_string_lossy().ends_with(".test.yaml"))
        .collect();
    assert!(files.len() > 6, "{files:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("test").args(files).output().expect("it starts");
    assert!(output.status.success(), "{}{}", said(&output), errors(&output));
}

#[test]
fn what_is_expected_of_rows_can_be_tested() {
    let shop = Shop::with(
        "  orders:
    given: { orders: [{ id: a1, n: 1 }, { id: a2, n: -1 }, { id: a3 }] }
    expect:
      orders: [{ id: a1 }]
      orders.unexpected:
        - { id: a2, n: -1, _stage: orders, _message: it is not true that n > 0 }
        - { id: a3, _stage: orders, _message: it is not true that n > 0 }
      split.odd: [{ id: a1 }]
      split.even: []
  keys:
    given: { orders: [{ id: a1, n: 1 }, { id: a1, n: 2 }] }
    fails: { stage: orders, message: unique, exit_code: 4 }
",
    );
    shop.write("functions.py", "def split(row):\n    return {'odd' if row['n'] % 2 else 'even': row}\n");
    shop.write(
        "shop.yaml",
        "version: 1
stages:
  orders:
    read: orders.csv
    expect: { where: n > 0, unique: id }
    on_error: reject
  split: { from: orders, python: { call: 'functions:split', ports: [odd, even] } }
  odd: { from: split.odd, write: odd.csv }
  even: { from: split.even, write: even.csv }
",
    );
    let tested = shop.test(&[]);
    let said = String::from_utf8_lossy(&tested.stdout).into_owned() + &errors(&tested);
    assert!(tested.status.success(), "{said}");
    assert!(said.contains("2 of 2 ports"), "{said}");
}
