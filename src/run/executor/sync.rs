//! [`Primitives`]: locks, semaphores, events and barriers of a run, by name. Their state is here, and not in workers, so that a worker that
//! dies takes nothing with it.
//!
//! Pure: requests in, replies out. Whoever waits is served in the order of the requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::run::scheduler::WorkerId;

/// What runs in a worker and holds or waits: a thread, or an asyncio task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub worker: WorkerId,
    pub number: u64,
}

/// A primitive of a run. Those of different kinds may have the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Lock(String),
    Semaphore(String),
    Event(String),
    Barrier(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Lock(name) => ("lock", name),
            Self::Semaphore(name) => ("semaphore", name),
            Self::Event(name) => ("event", name),
            Self::Barrier(name) => ("barrier", name),
        };
        write!(f, "{kind} `{name}`")
    }
}

/// What a task asks for. The numbers of requests are the worker's, and never used again.
#[derive(Clone, Debug)]
pub enum Asked {
    /// One unit of a lock (of which there is one) or of a semaphore of so many. Who will give up by itself (`gives_up`) waits for nothing for ever.
    Acquire {
        name: Name,
        units: u32,
        gives_up: bool,
    },
    /// Gives a unit back.
    Release {
        name: Name,
    },
    /// Until the event is set.
    Wait {
        name: Name,
    },
    Set {
        name: Name,
    },
    Clear {
        name: Name,
    },
    IsSet {
        name: Name,
    },
    /// Until so many wait.
    Meet {
        name: Name,
        parties: u32,
    },
    /// Waits no more. Answered like the request that it is about, which may have been answered meanwhile.
    GiveUp {
        request: u64,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub worker: WorkerId,
    pub request: u64,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, it has the unit, it need not wait any more. The value is whether an event is set, or how many came before to a barrier.
    Done(u64),
    /// It has given up.
    GivenUp,
    /// It would wait for ever.
    Deadlock(String),
    /// What it asked for makes no sense.
    Wrong(String),
}

#[derive(Debug, Default)]
pub struct Primitives {
    units: BTreeMap<Name, Units>,
    set: BTreeSet<Name>,
    waits: BTreeMap<(WorkerId, u64), Wait>,
}

#[derive(Debug)]
struct Units {
    total: u32,
    holders: Vec<Task>,
    /// In the order in which they came.
    queue: VecDeque<(WorkerId, u64)>,
}

/// A request that is not answered yet.
#[derive(Clone, Debug)]
struct Wait {
    task: Task,
    name: Name,
    /// Of a barrier.
    parties: u32,
    /// It ends by itself, whatever becomes of what it waits for.
    gives_up: bool,
    /// The order of requests.
    since: u64,
}

impl Primitives {
    /// Takes a request in; whoever is to be answered now.
    pub fn ask(&mut self, task: Task, request: u64, asked: Asked) -> Vec<Reply> {
        let reply = |answer| vec![Reply { worker: task.worker, request, answer }];
        match asked {
            Asked::Acquire { name, units, gives_up } => self.acquire(task, request, name, units, gives_up),
            Asked::Release { name } => match self.give_back(task, &name) {
                Some(others) => reply(Answer::Done(0)).into_iter().chain(others).collect(),
                None => reply(Answer::Wrong(format!("{name} is not held here"))),
            },
            Asked::Wait { name } if self.set.contains(&name) => reply(Answer::Done(1)),
            Asked::Wait { name } => {
                self.wait(task, request, name, 0, false);
                Vec::new()
            }
            Asked::Set { name } => {
                let mut replies = reply(Answer::Done(u64::from(!self.set.contains(&name))));
                replies.extend(self.let_go(&name, |_| 1));
                self.set.insert(name);
                replies
            }
            Asked::Clear { name } => reply(Answer::Done(u64::from(self.set.remove(&name)))),
            Asked::IsSet { name } => reply(Answer::Done(u64::from(self.set.contains(&name)))),
            Asked::Meet { name, parties } => self.meet(task, request, name, parties),
            Asked::GiveUp { request: other } => match self.waits.remove(&(task.worker, other)) {
                Some(wait) => {
                    if let Some(units) = self.units.get_mut(&wait.name) {
                        units.queue.retain(|waiting| *waiting != (task.worker, other));
                    }
                    vec![Reply { worker: task.worker, request: other, answer: Answer::GivenUp }]
                }
                // Its answer is on its way.
                None => Vec::new(),
            },
        }
    }

    /// The tasks of a worker have ended, or are gone: they hold nothing, and wait for nothing. A thread that waits all the same is told.
    pub fn end_of(&mut self, worker: WorkerId) -> Vec<Reply> {
        let gone = self.waits.extract_if(.., |(waiting, _), _| *waiting == worker);
        let given_up = |((worker, request), _)| Reply { worker, request, answer: Answer::GivenUp };
        let mut replies: Vec<Reply> = gone.map(given_up).collect();
        for units in self.units.values_mut() {
            units.queue.retain(|(waiting, _)| *waiting != worker);
            units.holders.retain(|holder| holder.worker != worker);
        }
        for name in self.units.keys().cloned().collect::<Vec<_>>() {
            replies.extend(self.hand_out(&name));
        }
        replies
    }

    /// Whether tasks of the worker hold anything, or wait.
    pub fn knows(&self, worker: WorkerId) -> bool {
        self.waits.range((worker, 0)..=(worker, u64::MAX)).next().is_some()
            || self.units.values().any(|units| units.holders.iter().any(|holder| holder.worker == worker))
    }

    /// What a request that is not answered yet waits for, and how many have to come if that is a barrier.
    pub fn waited_for(&self, worker: WorkerId, request: u64) -> Option<(&Name, Option<u32>)> {
        let wait = self.waits.get(&(worker, request))?;
        Some((&wait.name, matches!(wait.name, Name::Barrier(_)).then_some(wait.parties)))
    }

    /// What tasks wait for, and how many of them, by the names.
    pub fn waiting(&self) -> BTreeMap<&Name, BTreeSet<WorkerId>> {
        let mut waiting: BTreeMap<&Name, BTreeSet<WorkerId>> = BTreeMap::new();
        for wait in self.waits.values() {
            waiting.entry(&wait.name).or_default().insert(wait.task.worker);
        }
        waiting
    }

    fn acquire(&mut self, task: Task, request: u64, name: Name, total: u32, gives_up: bool) -> Vec<Reply> {
        let reply = |answer| vec![Reply { worker: task.worker, request, answer }];
        let units = self.units.entry(name.clone()).or_insert_with(|| Units {
            total,
            holders: Vec::new(),
            queue: VecDeque::new(),
        });
        if units.total != total {
            let message = format!("{name} has {} units, as it was first asked for, and not {total}", units.total);
            return reply(Answer::Wrong(message));
        }
        if units.queue.is_empty() && units.holders.len() < units.total as usize {
            units.holders.push(task);
            return reply(Answer::Done(0));
        }
        units.queue.push_back((task.worker, request));
        self.wait(task, request, name.clone(), 0, gives_up);
        match self.deadlock(task) {
            None => Vec::new(),
            Some(chain) => {
                self.waits.remove(&(task.worker, request));
                if let Some(units) = self.units.get_mut(&name) {
                    units.queue.pop_back();
                }
                reply(Answer::Deadlock(chain))
            }
        }
    }

    fn give_back(&mut self, task: Task, name: &Name) -> Option<Vec<Reply>> {
        let units = self.units.get_mut(name)?;
        // By nobody else: a thread that outlives its attempt must not give back what the next one holds.
        let held = units.holders.iter().position(|holder| *holder == task)?;
        units.holders.remove(held);
        Some(self.hand_out(name))
    }

    /// Gives free units to those that wait for them.
    fn hand_out(&mut self, name: &Name) -> Vec<Reply> {
        let mut replies = Vec::new();
        let Some(units) = self.units.get_mut(name) else { return replies };
        while units.holders.len() < units.total as usize
            && let Some((worker, request)) = units.queue.pop_front()
        {
            if let Some(wait) = self.waits.remove(&(worker, request)) {
                units.holders.push(wait.task);
                replies.push(Reply { worker, request, answer: Answer::Done(0) });
            }
        }
        if units.holders.is_empty() && units.queue.is_empty() {
            self.units.remove(name);
        }
        replies
    }

    fn meet(&mut self, task: Task, request: u64, name: Name, parties: u32) -> Vec<Reply> {
        let there: Vec<u32> = self.waits.values().filter(|it| it.name == name).map(|it| it.parties).collect();
        if let Some(other) = there.iter().find(|other| **other != parties) {
            let message = format!("{name} is for {other}, as others wait for it, and not for {parties}");
            return vec![Reply { worker: task.worker, request, answer: Answer::Wrong(message) }];
        }
        self.wait(task, request, name.clone(), parties, false);
        if there.len() + 1 < parties as usize {
            return Vec::new();
        }
        self.let_go(&name, |place| place)
    }

    fn wait(&mut self, task: Task, request: u64, name: Name, parties: u32, gives_up: bool) {
        let since = self.waits.values().map(|wait| wait.since + 1).max().unwrap_or(0);
        self.waits.insert((task.worker, request), Wait { task, name, parties, gives_up, since });
    }

    /// Nobody needs to wait for this any more.
    fn let_go(&mut self, name: &Name, value: impl Fn(u64) -> u64) -> Vec<Reply> {
        let mut gone: Vec<_> = self.waits.extract_if(.., |_, wait| wait.name == *name).collect();
        gone.sort_by_key(|(_, wait)| wait.since);
        let reply = |(place, ((worker, request), _))| Reply { worker, request, answer: Answer::Done(value(place)) };
        (0..).zip(gone).map(reply).collect()
    }

    /// Why this task would wait for ever: each of those that could let it go on waits for others of them, and none gives up.
    fn deadlock(&self, task: Task) -> Option<String> {
        let mut goes_on: BTreeSet<Task> =
            self.waits.values().filter(|wait| wait.gives_up).map(|wait| wait.task).collect();
        let waits: BTreeMap<Task, &Name> = self.waits.values().map(|wait| (wait.task, &wait.name)).collect();
        loop {
            let before = goes_on.len();
            for (waiting, name) in &waits {
                // Anybody may set an event or come to a barrier.
                let may = self.units.get(name).is_none_or(|units| {
                    units.holders.iter().any(|holder| !waits.contains_key(holder) || goes_on.contains(holder))
                        || units.holders.len() < units.total as usize
                });
                if may {
                    goes_on.insert(*waiting);
                }
            }
            if goes_on.contains(&task) {
                return None;
            }
            if goes_on.len() == before {
                return Some(self.chain(task, &waits));
            }
        }
    }

    /// Who waits for whom, from this task on until one comes again.
    fn chain(&self, task: Task, waits: &BTreeMap<Task, &Name>) -> String {
        let (mut links, mut seen, mut at) = (Vec::new(), BTreeSet::new(), task);
        while seen.insert(at) {
            let name = waits[&at];
            let Some(holder) = self.units.get(name).and_then(|units| units.holders.first().copied()) else { break };
            let who = |task: Task| format!("worker {}", task.worker.0);
            links.push(if holder == at {
                format!("{} waits for {name}, which it holds itself", who(at))
            } else {
                format!("{} waits for {name}, which {} holds", who(at), who(holder))
            });
            at = holder;
        }
        links.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(worker: u32) -> Task {
        Task { worker: WorkerId(worker), number: 0 }
    }

    fn lock(name: &str) -> Asked {
        Asked::Acquire { name: Name::Lock(name.into()), units: 1, gives_up: false }
    }

    fn unlock(name: &str) -> Asked {
        Asked::Release { name: Name::Lock(name.into()) }
    }

    fn done(worker: u32, request: u64) -> Reply {
        Reply { worker: WorkerId(worker), request, answer: Answer::Done(0) }
    }

    #[test]
    fn a_lock_goes_from_one_to_the_next_in_the_order_of_requests() {
        let mut primitives = Primitives::default();
        assert_eq!(primitives.ask(task(1), 1, lock("a")), [done(1, 1)]);
        assert_eq!(primitives.ask(task(2), 1, lock("a")), []);
        assert_eq!(primitives.ask(task(3), 1, lock("a")), []);
        assert_eq!(primitives.ask(task(1), 2, unlock("a")), [done(1, 2), done(2, 1)]);
        // Nobody overtakes, not even who had it last.
        assert_eq!(primitives.ask(task(1), 3, lock("a")), []);
        assert_eq!(primitives.ask(task(2), 2, unlock("a")), [done(2, 2), done(3, 1)]);
    }

    #[test]
    fn what_a_worker_holds_goes_on_when_it_is_gone() {
        let mut primitives = Primitives::default();
        primitives.ask(task(1), 1, lock("a"));
        primitives.ask(task(1), 2, Asked::Acquire { name: Name::Semaphore("s".into()), units: 1, gives_up: false });
        primitives.ask(task(2), 1, lock("a"));
        primitives.ask(task(3), 1, Asked::Acquire { name: Name::Semaphore("s".into()), units: 1, gives_up: false });
        primitives.ask(task(4), 1, lock("a"));
        assert!(primitives.knows(WorkerId(1)));
        // It waits no more, and is passed over.
        let given_up = Reply { worker: WorkerId(2), request: 1, answer: Answer::GivenUp };
        assert_eq!(primitives.end_of(WorkerId(2)), [given_up]);
        assert_eq!(primitives.end_of(WorkerId(1)), [done(4, 1), done(3, 1)]);
        assert!(!primitives.knows(WorkerId(1)));
        assert!(primitives.waiting().is_empty());
    }

    #[test]
    fn the_request_that_closes_a_circle_is_refused_and_names_all() {
        let mut primitives = Primitives::default();
        primitives.ask(task(1), 1, lock("a"));
        primitives.ask(task(2), 1, lock("b"));
        assert_eq!(primitives.ask(task(1), 2, lock("b")), []);
        let replies = primitives.ask(task(2), 2, lock("a"));
        let text =
            "worker 2 waits for lock `a`, which worker 1 holds; worker 1 waits for lock `b`, which worker 2 holds";
        assert_eq!(replies, [Reply { worker: WorkerId(2), request: 2, answer: Answer::Deadlock(text.into()) }]);
        // The others can go on.
        assert_eq!(primitives.ask(task(2), 3, unlock("b")), [done(2, 3), done(1, 2)]);
    }

    #[test]
    fn a_lock_that_is_held_already_is_refused() {
        let mut primitives = Primitives::default();
        primitives.ask(task(1), 1, lock("a"));
        let replies = primitives.ask(task(1), 2, lock("a"));
        assert_eq!(replies[0].answer, Answer::Deadlock("worker 1 waits for lock `a`, which it holds itself".into()));
    }

    #[test]
    fn who_gives_up_by_itself_is_no_part_of_a_deadlock() {
        let patient = |name: &str| Asked::Acquire { name: Name::Lock(name.into()), units: 1, gives_up: true };
        let given_up = |worker, request| Reply { worker: WorkerId(worker), request, answer: Answer::GivenUp };
        let mut primitives = Primitives::default();
        primitives.ask(task(1), 1, lock("a"));
        primitives.ask(task(2), 1, lock("b"));
        // What it holds itself.
        assert_eq!(primitives.ask(task(1), 2, patient("a")), []);
        assert_eq!(primitives.ask(task(1), 3, Asked::GiveUp { request: 2 }), [given_up(1, 2)]);
        // A circle in which one gives up, whoever closes it.
        assert_eq!(primitives.ask(task(1), 4, patient("b")), []);
        assert_eq!(primitives.ask(task(2), 2, lock("a")), []);
        assert_eq!(primitives.ask(task(1), 5, Asked::GiveUp { request: 4 }), [given_up(1, 4)]);
        assert_eq!(primitives.ask(task(1), 6, patient("b")), []);
        assert_eq!(primitives.ask(task(1), 7, Asked::GiveUp { request: 6 }), [given_up(1, 6)]);
        // Once it waits without an end, it is one.
        assert!(matches!(primitives.ask(task(1), 8, lock("b"))[0].answer, Answer::Deadlock(_)));
    }

    #[test]
    fn a_semaphore_is_no_deadlock_while_one_of_its_holders_goes_on() {
        let mut primitives = Primitives::default();
        let take = || Asked::Acquire { name: Name::Semaphore("s".into()), units: 2, gives_up: false };
        primitives.ask(task(1), 1, take());
        primitives.ask(task(2), 1, take());
        primitives.ask(task(3), 1, lock("a"));
        assert_eq!(primitives.ask(task(1), 2, lock("a")), []);
        assert_eq!(primitives.ask(task(3), 2, take()), []);
        assert!(matches!(primitives.ask(task(2), 2, lock("a"))[0].answer, Answer::Deadlock(_)));
        let wrong =
            primitives.ask(task(4), 1, Asked::Acquire { name: Name::Semaphore("s".into()), units: 3, gives_up: false });
        assert_eq!(
            wrong[0].answer,
            Answer::Wrong("semaphore `s` has 2 units, as it was first asked for, and not 3".into())
        );
    }

    #[test]
    fn an_event_lets_all_go_on_until_it_is_cleared() {
        let mut primitives = Primitives::default();
        let name = || Name::Event("e".into());
        assert_eq!(primitives.ask(task(1), 1, Asked::Wait { name: name() }), []);
        assert_eq!(primitives.ask(task(2), 1, Asked::Wait { name: name() }), []);
        let replies = primitives.ask(task(3), 1, Asked::Set { name: name() });
        let told: Vec<_> = replies.iter().map(|reply| (reply.worker.0, reply.answer.clone())).collect();
        assert_eq!(told, [(3, Answer::Done(1)), (1, Answer::Done(1)), (2, Answer::Done(1))]);
        assert_eq!(primitives.ask(task(1), 2, Asked::Wait { name: name() })[0].answer, Answer::Done(1));
        primitives.ask(task(3), 2, Asked::Clear { name: name() });
        assert_eq!(primitives.ask(task(1), 3, Asked::IsSet { name: name() })[0].answer, Answer::Done(0));
        assert_eq!(primitives.ask(task(1), 4, Asked::Wait { name: name() }), []);
    }

    #[test]
    fn a_barrier_opens_for_all_at_once_and_closes_again() {
        let mut primitives = Primitives::default();
        let meet = || Asked::Meet { name: Name::Barrier("b".into()), parties: 2 };
        for round in 0..2 {
            assert_eq!(primitives.ask(task(2), round, meet()), []);
            let replies = primitives.ask(task(1), round, meet());
            let places: Vec<_> = replies.iter().map(|reply| (reply.worker.0, reply.answer.clone())).collect();
            assert_eq!(places, [(2, Answer::Done(0)), (1, Answer::Done(1))]);
        }
        primitives.ask(task(1), 9, meet());
        assert_eq!(primitives.waiting().len(), 1);
        // Who is gone does not count.
        assert_eq!(primitives.end_of(WorkerId(1)).len(), 1);
        assert_eq!(primitives.ask(task(2), 9, meet()), []);
    }

    #[test]
    fn who_gives_up_is_answered_once() {
        let mut primitives = Primitives::default();
        primitives.ask(task(1), 1, lock("a"));
        primitives.ask(task(2), 1, lock("a"));
        let given_up = Reply { worker: WorkerId(2), request: 1, answer: Answer::GivenUp };
        assert_eq!(primitives.ask(task(2), 2, Asked::GiveUp { request: 1 }), [given_up]);
        assert_eq!(primitives.ask(task(1), 2, unlock("a")), [done(1, 2)]);
        assert_eq!(primitives.ask(task(3), 1, lock("a")), [done(3, 1)]);
        // It was given what it asked for just before.
        assert_eq!(primitives.ask(task(3), 2, Asked::GiveUp { request: 1 }), []);
        let other_thread = Task { worker: WorkerId(3), number: 1 };
        let not_held = primitives.ask(other_thread, 3, unlock("a"));
        assert_eq!(not_held[0].answer, Answer::Wrong("lock `a` is not held here".into()));
        let not_held = primitives.ask(task(2), 3, unlock("a"));
        assert_eq!(not_held[0].answer, Answer::Wrong("lock `a` is not held here".into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Random workers that each take locks and give them back, some of which die: never two holders, every request answered once,
        /// and when nobody has anything to do any more, nobody waits.
        #[test]
        fn nobody_waits_for_ever(steps in prop::collection::vec((0u32..5, 0usize..3, 0u32..8), 1..200)) {
            let names = ["a", "b", "c"];
            let mut primitives = Primitives::default();
            let mut held: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            let mut waiting: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
            let mut answered = BTreeSet::new();
            let mut request = 0;
            let finale = (0..5).cycle().take(50).map(|worker| (worker, 0, 7));
            for (worker, name, what) in steps.into_iter().chain(finale) {
                request += 1;
                let replies = match what {
                    0 => {
                        held.remove(&worker);
                        let waited = waiting.remove(&worker).is_some();
                        let replies = primitives.end_of(WorkerId(worker));
                        let (own, others): (Vec<_>, Vec<_>) = replies.into_iter().partition(|it| it.worker.0 == worker);
                        prop_assert_eq!(own.len(), usize::from(waited));
                        others
                    }
                    _ if waiting.contains_key(&worker) => continue,
                    1..=4 => {
                        waiting.insert(worker, (request, name));
                        primitives.ask(task(worker), request, lock(names[name]))
                    }
                    _ => {
                        let Some(name) = held.get_mut(&worker).and_then(Vec::pop) else { continue };
                        primitives.ask(task(worker), request, unlock(names[name]))
                    }
                };
                // Who gives something back does not wait for that.
                let gives_back = (5..=7).contains(&what);
                for reply in replies.into_iter().skip(usize::from(gives_back)) {
                    prop_assert!(answered.insert((reply.worker, reply.request)), "answered twice");
                    let (asked, name) = waiting.remove(&reply.worker.0).expect("it waits");
                    prop_assert_eq!(asked, reply.request);
                    match reply.answer {
                        Answer::Done(_) => {
                            prop_assert!(held.values().flatten().all(|other| *other != name), "held twice");
                            held.entry(reply.worker.0).or_default().push(name);
                        }
                        Answer::Deadlock(_) => {}
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
            prop_assert!(waiting.is_empty(), "{:?} wait", waiting);
        }
    }
}
