//! [`Row`]: what flows through random pipelines, and what their stages make of it, worked out over whole vectors.

use std::collections::BTreeMap;

/// All stages of random pipelines give these columns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub id: i64,
    pub v: i64,
    pub s: String,
}

impl Row {
    /// Row number `at` of a source that begins at `base`.
    pub fn of_source(base: i64, at: i64) -> Self {
        let id = base + at;
        Self { id, v: id % 7, s: format!("g{}", id % 3) }
    }

    /// Whether stages that reject cannot process this row.
    pub fn is_poison(&self) -> bool {
        self.id % 10 == 3
    }

    pub fn csv(&self) -> String {
        format!("{},{},{}\n", self.id, self.v, self.s)
    }

    pub fn json(&self) -> String {
        format!("{{\"id\":{},\"v\":{},\"s\":\"{}\"}}\n", self.id, self.v, self.s)
    }

    pub fn from_csv(line: &str) -> Self {
        let [id, v, s] = line.split(',').collect::<Vec<_>>()[..] else { panic!("three fields: {line:?}") };
        let number = |text: &str| text.parse().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        Self { id: number(id), v: number(v), s: s.to_owned() }
    }

    /// Columns of rejected rows that come after these three are left out.
    pub fn from_json(line: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let number = |name: &str| value[name].as_i64().unwrap_or_else(|| panic!("`{name}` in {line:?}"));
        Self { id: number("id"), v: number("v"), s: value["s"].as_str().expect("a string").to_owned() }
    }
}

pub fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

/// `sum(v)` and `min(s)` by `id % 5`.
pub fn by_remainder(rows: &[Row]) -> Vec<Row> {
    let mut groups: BTreeMap<i64, (i64, String)> = BTreeMap::new();
    for row in rows {
        let (sum, least) = groups.entry(row.id % 5).or_insert_with(|| (0, row.s.clone()));
        *sum += row.v;
        if row.s < *least {
            least.clone_from(&row.s);
        }
    }
    groups.into_iter().map(|(id, (v, s))| Row { id, v, s }).collect()
}

/// Pairs with equal ids, sorted; with `outer`, rows of `left` without a partner stay.
pub fn joined(left: &[Row], right: &[Row], outer: bool) -> Vec<Row> {
    let mut partners: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
    for row in right {
        partners.entry(row.id).or_default().push(row);
    }
    let mut rows = Vec::new();
    for row in left {
        match partners.get(&row.id) {
            Some(found) => rows.extend(found.iter().map(|other| Row { v: row.v + other.v, ..row.clone() })),
            None if outer => rows.push(row.clone()),
            None => {}
        }
    }
    sorted(rows)
}
