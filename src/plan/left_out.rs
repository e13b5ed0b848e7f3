//! [`LeftOut`]: a stage that stands in the file, but not in the plan.

use std::collections::BTreeSet;

use super::link::{self, After, Link};
use crate::spec::expect::EXPECT;
use crate::spec::sub_pipeline::{INPUT, PIPELINE};
use crate::spec::{Document, Sharing, StageDraft};

/// A stage that a run does without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub stage: String,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its `when` is false.
    When,
    /// A stage that it needs rows of is left out: this one.
    Input(String),
    /// It reads files or asks for rows, and all that would read them is left out.
    Unread,
    /// What is asked for does not need it.
    NotNeeded,
    /// It stands for other stages, which are there in its place.
    Dissolved,
}

/// What stages are connected by, in the whole file.
#[derive(Clone, Copy, Debug)]
pub struct Connections<'a> {
    pub links: &'a [Link],
    /// Indices of the links into every stage, in order.
    pub into: &'a [Vec<usize>],
    pub afters: &'a [After],
    /// The stages, producers before consumers.
    pub order: &'a [usize],
}

impl Reason {
    /// For people, as the rest of a sentence about the stage.
    pub fn words(&self) -> String {
        match self {
            Self::When => "its `when` is false".to_owned(),
            Self::Input(name) => format!("it needs rows of `{name}`, which is left out"),
            Self::Unread => "nobody reads its rows, as those who would are left out".to_owned(),
            Self::NotNeeded => "what is asked for does not need it".to_owned(),
            Self::Dissolved => "other stages are there in its place".to_owned(),
        }
    }
}

/// Why each stage of the document is left out; `None` for those that are in the plan. `is_wanted` says so of a stage alone.
pub fn left_out(
    document: &Document,
    connections: Connections<'_>,
    is_wanted: impl Fn(&StageDraft) -> bool,
) -> Vec<Option<Reason>> {
    let Connections { links, into, afters, order } = connections;
    let mut reasons: Vec<Option<Reason>> = vec![None; document.stages.len()];
    for &at in order {
        let draft = &document.stages[at];
        if matches!(draft.kind(), Some(PIPELINE | INPUT)) {
            reasons[at] = Some(Reason::Dissolved);
            continue;
        }
        reasons[at] =
            if is_wanted(draft) { missing_input(document, links, into, &reasons, at) } else { Some(Reason::When) };
    }
    let mut consumers = vec![Vec::new(); document.stages.len()];
    links.iter().for_each(|link| consumers[link.from].push(link.to));
    let awaited: BTreeSet<usize> =
        afters.iter().filter(|after| reasons[after.to].is_none()).map(|after| after.from).collect();
    for &at in order.iter().rev() {
        // Code of the user's may do more than give rows; queries and reading do not.
        let gives_rows_alone = matches!(document.stages[at].kind(), Some("read" | "sql" | EXPECT));
        let all_gone = !consumers[at].is_empty() && consumers[at].iter().all(|to| reasons[*to].is_some());
        if reasons[at].is_none() && gives_rows_alone && all_gone && !awaited.contains(&at) {
            reasons[at] = Some(Reason::Unread);
        }
    }
    if !document.asked_for.is_empty() {
        let needed = needed(document, connections, &reasons);
        for (at, reason) in reasons.iter_mut().enumerate() {
            if reason.is_none() && !needed.contains(&at) {
                *reason = Some(Reason::NotNeeded);
            }
        }
    }
    reasons
}

/// The reason for which a stage has too little to work on: a table of a query of which nothing is left, or all of its rows.
fn missing_input(
    document: &Document,
    links: &[Link],
    into: &[Vec<usize>],
    reasons: &[Option<Reason>],
    at: usize,
) -> Option<Reason> {
    let inputs = || into[at].iter().map(|link| &links[*link]);
    // Nearly always; and there may be thousands of them.
    if inputs().all(|link| reasons[link.from].is_none()) {
        return None;
    }
    let is_sql = document.stages[at].kind() == Some("sql");
    let is_there = |link: &Link, of: &Link| (!is_sql || link.table == of.table) && reasons[link.from].is_none();
    let missing = inputs().find(|of| !inputs().any(|link| is_there(link, of)))?;
    Some(Reason::Input(document.stages[missing.from].name.clone()))
}

/// The stages that are asked for, and all that they need rows of or wait for.
fn needed(document: &Document, connections: Connections<'_>, reasons: &[Option<Reason>]) -> BTreeSet<usize> {
    let Connections { links, afters, .. } = connections;
    let mut before = vec![Vec::new(); document.stages.len()];
    links.iter().for_each(|link| before[link.to].push(link.from));
    let is_spared = |draft: &StageDraft| {
        document.is_shown && draft.kind() == Some("write") && !matches!(draft.sharing, Sharing::Sink(_))
    };
    let afters = afters.iter().filter(|after| !is_spared(&document.stages[after.from]));
    afters.for_each(|after| before[after.to].push(after.from));
    let is_asked_for = |at: &usize| document.asked_for.contains(&document.stages[*at].name);
    let mut needed: BTreeSet<usize> = (0..document.stages.len()).filter(is_asked_for).collect();
    let mut open: Vec<usize> = needed.iter().copied().collect();
    loop {
        while let Some(at) = open.pop() {
            open.extend(before[at].iter().copied().filter(|from| reasons[*from].is_none() && needed.insert(*from)));
        }
        // What is expected of their rows is checked, too, though nobody reads what checks it.
        let checks = link::checks_of(document, &needed);
        open.extend(checks.into_iter().filter(|at| reasons[*at].is_none() && needed.insert(*at)));
        if open.is_empty() {
            return needed;
        }
    }
}
