//! [`Diff`]: how rows that came differ from those that were expected.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use serde_json::Value as Json;

use super::table::{Table, as_type};
use crate::report::{counted, fitting};
use crate::spec::model::OrderSpec;

/// Rows that are shown.
const MOST_SHOWN: usize = 20;
/// Columns that are shown.
const MOST_COLUMNS: usize = 8;
/// Letters of a value that are shown.
const WIDEST: usize = 40;
/// Pairs of rows that are compared to find what has been put in or left out; with more, rows are compared place by place.
const MOST_PAIRS: usize = 1_000_000;
/// Floats nearer to zero than this are equal, whatever the part is by which they differ.
const NEAR_ZERO: f64 = 1e-12;

/// A row that is not as expected. Numbers are places in the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Missing(usize),
    Unexpected(usize),
    Differs { expected: usize, actual: usize },
}

/// How two tables with the same columns differ.
#[derive(Clone, Debug)]
pub struct Diff {
    expected: Table,
    actual: Table,
    changes: Vec<Change>,
    tolerance: f64,
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colored,
}

impl Diff {
    /// `None` if the rows are as expected. Only the columns of `expected` are compared.
    pub fn of(expected: Table, actual: &Table, order: OrderSpec, tolerance: f64) -> Option<Self> {
        let actual = actual.select(expected.names());
        let mut diff = Self { expected, actual, changes: Vec::new(), tolerance };
        diff.changes = match order {
            OrderSpec::Same => diff.in_order(),
            OrderSpec::Any => diff.in_any_order(),
        };
        (!diff.changes.is_empty()).then_some(diff)
    }

    fn same_cell(&self, expected: usize, actual: usize, column: usize) -> bool {
        let (wanted, came) = (&self.expected.rows[expected][column], &self.actual.rows[actual][column]);
        is_same(wanted, came, &self.actual.columns[column].1, self.tolerance)
    }

    fn same_row(&self, expected: usize, actual: usize) -> bool {
        (0..self.expected.columns.len()).all(|column| self.same_cell(expected, actual, column))
    }

    /// Cells that two rows have in common.
    fn likeness(&self, expected: usize, actual: usize) -> usize {
        (0..self.expected.columns.len()).filter(|&column| self.same_cell(expected, actual, column)).count()
    }

    /// Whether two rows are rather one that differs than two.
    fn is_alike(&self, expected: usize, actual: usize) -> bool {
        self.likeness(expected, actual) * 2 >= self.expected.columns.len()
    }

    fn in_order(&self) -> Vec<Change> {
        let (wanted, came) = (self.expected.rows.len(), self.actual.rows.len());
        let least = wanted.min(came);
        let first = (0..least).take_while(|&at| self.same_row(at, at)).count();
        let last = (0..least - first).take_while(|&at| self.same_row(wanted - 1 - at, came - 1 - at)).count();
        let (wanted, came): (Vec<_>, Vec<_>) = ((first..wanted - last).collect(), (first..came - last).collect());
        if wanted.len() == came.len() || wanted.len().saturating_mul(came.len()) > MOST_PAIRS {
            return self.place_by_place(&wanted, &came);
        }
        let mut changes = Vec::new();
        let (mut of_wanted, mut of_came) = (0, 0);
        let common = self.common(&wanted, &came);
        for (expected, actual) in common.into_iter().chain([(wanted.len(), came.len())]) {
            changes.extend(self.gap(&wanted[of_wanted..expected], &came[of_came..actual]));
            (of_wanted, of_came) = (expected + 1, actual + 1);
        }
        changes
    }

    fn place_by_place(&self, wanted: &[usize], came: &[usize]) -> Vec<Change> {
        let pairs = wanted.iter().zip(came).filter(|&(&expected, &actual)| !self.same_row(expected, actual));
        let pairs = pairs.map(|(&expected, &actual)| Change::Differs { expected, actual });
        let least = wanted.len().min(came.len());
        let missing = wanted[least..].iter().map(|at| Change::Missing(*at));
        pairs.chain(missing).chain(came[least..].iter().map(|at| Change::Unexpected(*at))).collect()
    }

    /// The longest list of pairs of rows that are the same, in both orders: places in `wanted` and `came`.
    fn common(&self, wanted: &[usize], came: &[usize]) -> Vec<(usize, usize)> {
        let width = came.len() + 1;
        let mut longest = vec![0u32; (wanted.len() + 1) * width];
        let mut same = vec![false; wanted.len() * came.len()];
        for left in (0..wanted.len()).rev() {
            for right in (0..came.len()).rev() {
                let is_same = self.same_row(wanted[left], came[right]);
                same[left * came.len() + right] = is_same;
                longest[left * width + right] = if is_same {
                    longest[(left + 1) * width + right + 1] + 1
                } else {
                    longest[(left + 1) * width + right].max(longest[left * width + right + 1])
                };
            }
        }
        let (mut left, mut right, mut pairs) = (0, 0, Vec::new());
        while left < wanted.len() && right < came.len() {
            if same[left * came.len() + right] {
                pairs.push((left, right));
                (left, right) = (left + 1, right + 1);
            } else if longest[(left + 1) * width + right] >= longest[left * width + right + 1] {
                left += 1;
            } else {
                right += 1;
            }
        }
        pairs
    }

    /// What stands between two rows that are the same.
    fn gap(&self, wanted: &[usize], came: &[usize]) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut next = 0;
        for &expected in wanted {
            match came[next..].iter().position(|&actual| self.is_alike(expected, actual)) {
                Some(skipped) => {
                    changes.extend(came[next..next + skipped].iter().map(|at| Change::Unexpected(*at)));
                    changes.push(Change::Differs { expected, actual: came[next + skipped] });
                    next += skipped + 1;
                }
                None => changes.push(Change::Missing(expected)),
            }
        }
        changes.extend(came[next..].iter().map(|at| Change::Unexpected(*at)));
        changes
    }

    fn in_any_order(&self) -> Vec<Change> {
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, row) in self.actual.rows.iter().enumerate().rev() {
            places.entry(Json::from(row.clone()).to_string()).or_default().push(at);
        }
        let mut is_left = vec![true; self.actual.rows.len()];
        let mut wanted = Vec::new();
        for (at, row) in self.expected.rows.iter().enumerate() {
            match places.get_mut(&Json::from(row.clone()).to_string()).and_then(Vec::pop) {
                Some(same) => is_left[same] = false,
                None => wanted.push(at),
            }
        }
        // What is not written in the same way may be the same.
        let mut came: Vec<usize> = (0..is_left.len()).filter(|at| is_left[*at]).collect();
        wanted.retain(|&expected| match came.iter().position(|&actual| self.same_row(expected, actual)) {
            Some(at) => {
                came.remove(at);
                false
            }
            None => true,
        });
        let mut changes = Vec::new();
        for expected in wanted {
            let alike = (0..came.len()).filter(|&at| self.is_alike(expected, came[at]));
            // Of those that are equally alike, the first.
            match alike.max_by_key(|&at| (self.likeness(expected, came[at]), std::cmp::Reverse(at))) {
                Some(at) => changes.push(Change::Differs { expected, actual: came.remove(at) }),
                None => changes.push(Change::Missing(expected)),
            }
        }
        changes.extend(came.into_iter().map(Change::Unexpected));
        changes
    }

    /// The rows that differ, as a table.
    pub fn text(&self, paint: Paint) -> String {
        let columns = self.shown_columns();
        let mut lines: Vec<Line> = vec![Line {
            sign: ' ',
            number: "row".to_owned(),
            cells: columns.iter().map(|at| (fitting(&self.expected.columns[*at].0, WIDEST), false)).collect(),
        }];
        for change in self.changes.iter().take(MOST_SHOWN) {
            match *change {
                Change::Missing(at) => lines.push(self.line('-', at, &self.expected.rows[at], &columns)),
                Change::Unexpected(at) => lines.push(self.line('+', at, &self.actual.rows[at], &columns)),
                Change::Differs { expected, actual } => lines.extend(self.pair(expected, actual, &columns)),
            }
        }
        let mut text = draw(&lines, paint);
        if let Some(more) = self.changes.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
            text += &format!("and {} more that are not as expected\n", counted(more as u64, "row"));
        }
        if columns.len() < self.expected.columns.len() {
            let more = self.expected.columns.len() - columns.len();
            text += &format!("{} are not shown\n", counted(more as u64, "more column"));
        }
        text
    }

    /// What there is to say in a line.
    pub fn summary(&self) -> String {
        let count = |is: fn(&Change) -> bool| self.changes.iter().filter(|change| is(change)).count();
        let parts = [
            (count(|change| matches!(change, Change::Differs { .. })), "differ"),
            (count(|change| matches!(change, Change::Missing(_))), "missing"),
            (count(|change| matches!(change, Change::Unexpected(_))), "unexpected"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| match (count, *word) {
            (1, "differ") => "1 differs".to_owned(),
            (count, word) => format!("{count} {word}"),
        });
        let (wanted, came) = (self.expected.rows.len(), self.actual.rows.len());
        format!("{} expected, {came} came: {}", counted(wanted as u64, "row"), parts.collect::<Vec<_>>().join(", "))
    }

    /// Those in which rows differ go before others, where there are too many; all stay in their order.
    fn shown_columns(&self) -> Vec<usize> {
        let all = 0..self.expected.columns.len();
        let differs = |column: usize| {
            self.changes.iter().any(|change| match *change {
                Change::Differs { expected, actual } => !self.same_cell(expected, actual, column),
                _ => false,
            })
        };
        let mut columns: Vec<usize> = all.clone().filter(|&column| differs(column)).collect();
        columns.truncate(MOST_COLUMNS);
        for column in all {
            if columns.len() < MOST_COLUMNS && !columns.contains(&column) {
                columns.push(column);
            }
        }
        columns.sort_unstable();
        columns
    }

    fn line(&self, sign: char, at: usize, row: &[Json], columns: &[usize]) -> Line {
        let cell = |column: &usize| (cell(&row[*column], &self.actual.columns[*column].1), true);
        Line { sign, number: (at + 1).to_string(), cells: columns.iter().map(cell).collect() }
    }

    /// A row as it was expected and as it came, and a line under the cells that differ.
    fn pair(&self, expected: usize, actual: usize, columns: &[usize]) -> [Line; 3] {
        let mut lines = [('-', expected), ('+', actual), (' ', 0)].map(|(sign, at)| Line {
            sign,
            number: if sign == ' ' { String::new() } else { (at + 1).to_string() },
            cells: Vec::new(),
        });
        for &column in columns {
            let differs = !self.same_cell(expected, actual, column);
            let (wanted, came) = (&self.expected.rows[expected][column], &self.actual.rows[actual][column]);
            let of = &self.actual.columns[column].1;
            let (wanted, came) = if differs { both(wanted, came, of) } else { (cell(wanted, of), cell(came, of)) };
            let marks = if differs { wanted.chars().count().max(came.chars().count()).max(1) } else { 0 };
            lines[0].cells.push((wanted, differs));
            lines[1].cells.push((came, differs));
            lines[2].cells.push(("^".repeat(marks), false));
        }
        lines
    }
}

struct Line {
    sign: char,
    number: String,
    /// A value, and whether it differs.
    cells: Vec<(String, bool)>,
}

/// Rows that stand for themselves, as a table.
pub fn rows(table: &Table) -> String {
    let columns: Vec<usize> = (0..table.columns.len().min(MOST_COLUMNS)).collect();
    let head = columns.iter().map(|at| (fitting(&table.columns[*at].0, WIDEST), false)).collect();
    let mut lines = vec![Line { sign: ' ', number: String::new(), cells: head }];
    for row in table.rows.iter().take(MOST_SHOWN) {
        let cell = |column: &usize| (cell(&row[*column], &table.columns[*column].1), false);
        let cells = columns.iter().map(cell).collect();
        lines.push(Line { sign: ' ', number: String::new(), cells });
    }
    let more = table.rows.len().saturating_sub(MOST_SHOWN);
    let more = if more > 0 { format!("and {}\n", counted(more as u64, "more row")) } else { String::new() };
    draw(&lines, Paint::Plain) + &more
}

fn draw(lines: &[Line], paint: Paint) -> String {
    let columns = lines.first().map_or(0, |line| line.cells.len());
    let letters = |text: &str| text.chars().count();
    let width = |column: usize| lines.iter().map(|line| letters(&line.cells[column].0)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let number = lines.iter().map(|line| letters(&line.number)).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        let color = match (paint, line.sign) {
            (Paint::Plain, _) | (_, ' ') => None,
            (Paint::Colored, '-') => Some("\u{1b}[31m"),
            (Paint::Colored, _) => Some("\u{1b}[32m"),
        };
        let mut drawn = format!("{} {:<number$}", line.sign, line.number);
        for ((cell, differs), width) in line.cells.iter().zip(&widths) {
            let gap = " ".repeat(width - letters(cell));
            match color.filter(|_| *differs) {
                Some(color) => drawn += &format!("  {color}{cell}\u{1b}[0m{gap}"),
                None => drawn += &format!("  {cell}{gap}"),
            }
        }
        text += drawn.trim_end();
        text.push('\n');
    }
    text
}

fn cell(value: &Json, data_type: &DataType) -> String {
    fitting(&written(value, data_type), WIDEST)
}

/// Strings stand without quotes, unless they could be taken for something else. Decimals are strings in JSON, and nowhere else.
fn written(value: &Json, data_type: &DataType) -> String {
    match value {
        Json::String(text) if data_type.is_decimal() => text.clone(),
        Json::String(text) => {
            let is_other = text.parse::<f64>().is_ok() || matches!(text.as_str(), "" | "null" | "true" | "false");
            if is_other || text.trim() != text { value.to_string() } else { text.clone() }
        }
        other => other.to_string(),
    }
}

/// Two values that differ: of long ones, from a little before the place where they do.
fn both(wanted: &Json, came: &Json, data_type: &DataType) -> (String, String) {
    const BEFORE: usize = 8;
    let (wanted, came) = (written(wanted, data_type), written(came, data_type));
    let common = wanted.chars().zip(came.chars()).take_while(|(left, right)| left == right).count();
    let from = |text: &str| {
        let skipped = common.saturating_sub(BEFORE);
        if common + BEFORE < WIDEST || text.chars().count() <= WIDEST {
            return fitting(text, WIDEST);
        }
        fitting(&format!("…{}", text.chars().skip(skipped).collect::<String>()), WIDEST)
    };
    (from(&wanted), from(&came))
}

/// Whether a value that was written is the one that came, which is of this type.
fn is_same(wanted: &Json, came: &Json, data_type: &DataType, tolerance: f64) -> bool {
    if is_equal(wanted, came, tolerance) {
        return true;
    }
    // Numbers, texts and booleans are written in one way.
    let is_plain = matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::Null) || data_type.is_integer();
    !is_plain && as_type(wanted, data_type).is_some_and(|wanted| is_equal(&wanted, came, tolerance))
}

fn is_equal(wanted: &Json, came: &Json, tolerance: f64) -> bool {
    match (wanted, came) {
        (Json::Number(wanted), Json::Number(came)) => {
            if wanted == came {
                return true;
            }
            let (Some(left), Some(right)) = (wanted.as_f64(), came.as_f64()) else { return false };
            let apart = (left - right).abs();
            // Integers beyond the precision of floats are not near, but different.
            if !wanted.is_f64() && !came.is_f64() {
                return false;
            }
            apart <= NEAR_ZERO || apart <= tolerance * left.abs().max(right.abs())
        }
        (Json::Array(wanted), Json::Array(came)) => {
            wanted.len() == came.len()
                && wanted.iter().zip(came).all(|(wanted, came)| is_equal(wanted, came, tolerance))
        }
        (Json::Object(wanted), Json::Object(came)) => {
            let value = |of: &serde_json::Map<String, Json>, key: &str| of.get(key).cloned().unwrap_or(Json::Null);
            wanted.keys().chain(came.keys()).all(|key| is_equal(&value(wanted, key), &value(came, key), tolerance))
        }
        (wanted, came) => wanted == came,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn table(rows: &[Json]) -> Table {
        let rows: Vec<Map<String, Json>> = rows.iter().map(|row| row.as_object().expect("an object").clone()).collect();
        Table::written(&rows)
    }

    fn diff(expected: &[Json], actual: &[Json], order: OrderSpec) -> Option<Diff> {
        Diff::of(table(expected), &table(actual), order, 1e-9)
    }

    fn people(rows: &[(i64, &str)]) -> Vec<Json> {
        rows.iter().map(|(id, name)| json!({ "id": id, "name": name, "city": "Rome" })).collect()
    }

    #[test]
    fn a_row_that_differs_is_told_from_rows_that_are_missing_or_unexpected() {
        let expected = people(&[(1, "Ada"), (2, "Bob"), (3, "Cy"), (4, "Di")]);
        let actual = people(&[(0, "Zoe"), (1, "Ada"), (2, "Rob"), (4, "Di")]);
        let diff = diff(&expected, &[actual, people(&[(9, "Eve")])].concat(), OrderSpec::Same).expect("a difference");
        assert_eq!(diff.summary(), "4 rows expected, 5 came: 1 differs, 1 missing, 2 unexpected");
        insta::assert_snapshot!(diff.text(Paint::Plain), @r"
          row  id  name  city
        + 1    0   Zoe   Rome
        - 2    2   Bob   Rome
        + 3    2   Rob   Rome
                   ^^^
        - 3    3   Cy    Rome
        + 5    9   Eve   Rome
        ");
    }

    #[test]
    fn in_any_order_rows_find_those_that_are_most_alike() {
        let expected = people(&[(1, "Ada"), (2, "Bob"), (2, "Bob")]);
        assert!(diff(&expected, &people(&[(2, "Bob"), (1, "Ada"), (2, "Bob")]), OrderSpec::Any).is_none());
        let diff = diff(&expected, &people(&[(2, "Bob"), (2, "Rob"), (1, "Ada")]), OrderSpec::Any).expect("one");
        assert_eq!(diff.changes, [Change::Differs { expected: 2, actual: 1 }]);
    }

    #[test]
    fn floats_may_be_a_little_apart_and_integers_may_not() {
        let same = |left: Json, right: Json| is_equal(&left, &right, 1e-9);
        assert!(same(json!(0.1), json!(0.1 + 1e-11)) && same(json!(3), json!(3.0)) && same(json!(1e-13), json!(0.0)));
        assert!(!same(json!(0.1), json!(0.1001)) && !same(json!(i64::MAX), json!(i64::MAX - 1)));
        assert!(!same(json!("1"), json!(1)) && !same(json!(null), json!(0)));
        assert!(same(json!({ "a": [1.0], "b": null }), json!({ "a": [1] })));
    }

    #[test]
    fn a_table_that_is_too_long_is_cut_with_a_count() {
        let expected: Vec<Json> = (0..30).map(|n| json!({ "n": n })).collect();
        let diff = diff(&expected, &[], OrderSpec::Same).expect("a difference");
        assert!(diff.text(Paint::Plain).ends_with("and 10 rows more that are not as expected\n"), "{diff:?}");
    }

    #[test]
    fn long_values_are_shown_where_they_differ_and_colours_mark_them() {
        let long = |end: &str| json!({ "text": format!("{}{end}", "a".repeat(100)) });
        let diff = diff(&[long("b")], &[long("c")], OrderSpec::Same).expect("a difference");
        insta::assert_snapshot!(diff.text(Paint::Plain), @r"
          row  text
        - 1    …aaaaaaaab
        + 1    …aaaaaaaac
               ^^^^^^^^^^
        ");
        assert!(diff.text(Paint::Colored).contains("\u{1b}[32m…aaaaaaaac\u{1b}[0m"));
    }
}
