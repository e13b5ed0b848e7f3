//! [`Shape`]: a stage of a random pipeline; the plan of such a pipeline, and what its stages must give.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use proptest::prelude::*;

use crate::plan::{
    Backoff, Budget, Call, Capacity, Command, CommandLine, CommandMode, Convention, Cut, Devices, Edge, EdgeId, Input,
    OnError, Plan, Port, Python, PythonPlan, PythonTarget, Read, Recycle, Resource, ResourceId, ResourceKind, Retry,
    Sql, Stage, StageId, StageKind, Use, WorkerLimits, Write, WriteTarget,
};

/// Rows are numbers; every seventeenth row cannot be processed, or read, by a stage that rejects.
pub fn is_poison(row: u64) -> bool {
    row % 17 == 3
}

/// A stage of a random pipeline, before it becomes a plan.
#[derive(Clone, Debug)]
pub struct Shape {
    pub kind: Kind,
    /// Indices of earlier stages with an output, and whether their rejected port is read.
    pub from: Vec<(usize, bool)>,
    pub rejects: bool,
    workers: u32,
    queue: u32,
    queue_bytes: u64,
    /// Bytes of each row that the stage gives: what comes out weighs more than what went in, or less.
    pub weight: u64,
    /// What the stage does takes longer than what others do.
    pub is_slow: bool,
    /// Rows per batch that the stage asks for.
    pub cut: Option<u64>,
    /// Microseconds that a row takes, if the stage is given its rows one by one.
    pub row_micros: Option<u64>,
    /// Whether the pipeline says so; otherwise it is the workers who tell.
    tells: bool,
    /// How many rows may be rejected.
    pub max_rows: Option<u64>,
    /// How long what fails rests before it is tried again.
    backoff: Duration,
    /// Cannot process poison rows, and does not reject them: the run fails.
    pub fails: bool,
    /// Works batch by batch, and keeps what it has done.
    pub checkpoint: bool,
    /// Keeps no order.
    pub any: bool,
    /// Indices of earlier stages that must end first.
    pub after: Vec<usize>,
    /// What attempts take of [`resources`].
    uses: Vec<Use>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Source {
        rows: u64,
    },
    Generator {
        rows: u64,
    },
    /// Works batch by batch.
    Map(MapKind),
    /// Works batch by batch and lane by lane. The lanes take the rows of a batch in order, so that its order stays.
    Keyed,
    /// A query that reads so many rows of its one input, and then wants no more.
    Limit {
        rows: u64,
    },
    /// One attempt without input and output.
    Task,
    /// A query over two or more inputs that reads them one after the other, the last one first.
    Join,
    Sink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    Worker,
    Process,
    Native,
}

/// Where the inputs of a stage with several come from.
#[derive(Clone, Copy, Debug)]
enum Wiring {
    /// From anywhere.
    Any,
    /// Twice from the same port.
    Twice,
    /// From a stage and from what that stage reads: a branch that meets again.
    Diamond,
    /// From both ports of a stage.
    BothPorts,
}

/// What is random about a stage besides its kind and its inputs.
#[derive(Clone, Debug)]
struct Numbers {
    limit: u32,
    queue: u32,
    queue_bytes: u64,
    weight: u64,
    is_slow: bool,
    rows: u64,
    inputs: usize,
    cut: Option<u64>,
    row_micros: Option<u64>,
    tells: bool,
    backoff: Duration,
    max_rows: Option<u64>,
    fails: u8,
    checkpoint: bool,
    any: bool,
    uses: [Option<(u32, bool)>; 4],
}

/// What the stages of all pipelines share.
pub fn resources() -> Vec<Resource> {
    let kinds = [
        ResourceKind::Units(1),
        ResourceKind::Units(3),
        ResourceKind::Rate { per_second: 1000.0, burst: 5 },
        ResourceKind::Rate { per_second: 0.1, burst: 1 },
    ];
    let devices =
        |at| (at == 1).then(|| Devices { ids: ["0", "1", "2"].map(str::to_owned).into(), env: "IDS".to_owned() });
    let resource = |(at, kind)| Resource { name: format!("r{at}"), kind, devices: devices(at), slots: None };
    kinds.into_iter().enumerate().map(resource).collect()
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let cut = prop::option::weighted(0.4, 1u64..40);
    let queue_bytes = prop_oneof![1u64..120, Just(100)];
    let weight = prop_oneof![3 => Just(1u64), 1 => 2u64..6];
    let paces = prop_oneof![Just(None), Just(Some(10)), Just(Some(5_000)), Just(Some(30_000)), Just(Some(1_000_000))];
    let backoff = prop_oneof![3 => Just(0u64), 1 => Just(500), 1 => Just(50_000)].prop_map(Duration::from_micros);
    let max_rows = prop::option::weighted(0.05, 0u64..6);
    let sizes = (1u32..4, 1u32..4, queue_bytes, weight, prop::bool::weighted(0.2), (backoff, max_rows));
    let uses = prop_oneof![
        2 => Just([None; 4]),
        1 => prop::array::uniform4(prop::option::weighted(0.4, (1u32..4, any::<bool>()))),
    ];
    let flags = (any::<bool>(), prop::bool::weighted(0.3), prop::bool::weighted(0.15), uses);
    (sizes, 0u64..200, 1usize..4, cut, 0u8..20, paces, flags).prop_map(|numbers| {
        let (sizes, rows, inputs, cut, fails, row_micros, (tells, checkpoint, any, uses)) = numbers;
        let (limit, queue, queue_bytes, weight, is_slow, (backoff, max_rows)) = sizes;
        Numbers {
            limit,
            queue,
            queue_bytes,
            weight,
            is_slow,
            rows,
            inputs,
            cut,
            row_micros,
            tells,
            backoff,
            max_rows,
            fails,
            checkpoint,
            any,
            uses,
        }
    })
}

pub fn shapes() -> impl Strategy<Value = (Vec<Shape>, u32)> {
    let wiring = prop_oneof![
        3 => Just(Wiring::Any),
        1 => Just(Wiring::Twice),
        2 => Just(Wiring::Diamond),
        2 => Just(Wiring::BothPorts),
    ];
    let from = (any::<[prop::sample::Index; 3]>(), any::<[bool; 3]>(), wiring);
    let after = prop_oneof![4 => Just(0usize), 1 => 1usize..3];
    let after = (any::<[prop::sample::Index; 2]>(), after);
    let stage = (0u8..13, from, any::<bool>(), numbers(), after);
    (prop::collection::vec(stage, 2..12), 1u32..5).prop_map(|(stages, workers)| {
        let mut shapes: Vec<Shape> = Vec::new();
        for (kind, (from, ports, wiring), flag, numbers, (awaited, after)) in stages {
            let Numbers {
                limit,
                queue,
                queue_bytes,
                weight,
                is_slow,
                rows,
                inputs,
                cut,
                row_micros,
                tells,
                backoff,
                max_rows,
                fails,
                checkpoint,
                any,
                uses,
            } = numbers;
            let producers: Vec<usize> =
                (0..shapes.len()).filter(|&at| !matches!(shapes[at].kind, Kind::Sink | Kind::Task)).collect();
            let after = if shapes.is_empty() { 0 } else { after };
            let after: BTreeSet<usize> = awaited[..after].iter().map(|index| index.index(shapes.len())).collect();
            let kind = match kind {
                0..=1 => Kind::Source { rows },
                2 => Kind::Generator { rows },
                3..=4 => Kind::Map(MapKind::Worker),
                5 => Kind::Map(MapKind::Process),
                6 => Kind::Map(MapKind::Native),
                7 => Kind::Join,
                8 if flag => Kind::Limit { rows: rows / 3 },
                8 => Kind::Task,
                9 => Kind::Keyed,
                _ => Kind::Sink,
            };
            let needs_input = !matches!(kind, Kind::Source { .. } | Kind::Generator { .. } | Kind::Task);
            let kind = if needs_input && producers.is_empty() { Kind::Source { rows } } else { kind };
            let from = match kind {
                Kind::Source { .. } | Kind::Generator { .. } | Kind::Task => Vec::new(),
                Kind::Join => from[..inputs.clamp(2, 3)].to_vec(),
                // Tables are single stages; only the others put several together.
                Kind::Limit { .. } | Kind::Map(MapKind::Native) => from[..1].to_vec(),
                Kind::Map(_) | Kind::Keyed | Kind::Sink => from[..inputs].to_vec(),
            };
            let from = from.iter().zip(ports).map(|(index, port)| {
                let at = *index.get(&producers);
                (at, port && shapes[at].has_rejects())
            });
            let mut from: Vec<(usize, bool)> = from.collect();
            if from.len() > 1 {
                from[1] = wiring.second(from[0], from[1], &shapes);
            }
            let fails = fails < 3 && !flag && matches!(kind, Kind::Map(_) | Kind::Keyed);
            shapes.push(Shape {
                kind,
                from,
                rejects: flag,
                workers: limit,
                queue,
                queue_bytes,
                weight,
                is_slow,
                cut,
                row_micros: row_micros.filter(|_| kind == Kind::Map(MapKind::Worker)),
                tells,
                backoff,
                max_rows,
                fails,
                checkpoint: checkpoint && matches!(kind, Kind::Map(MapKind::Worker | MapKind::Process)),
                any: any && matches!(kind, Kind::Map(_) | Kind::Sink),
                after: after.into_iter().collect(),
                uses: uses_of(kind, tells, uses),
            });
        }
        // What a limit passes on depends on the order.
        if shapes.iter().any(|shape| matches!(shape.kind, Kind::Limit { .. })) {
            shapes.iter_mut().for_each(|shape| shape.any = false);
        }
        (shapes, workers)
    })
}

/// Only what runs code of the user's uses anything; and only what is given batches, for each row.
fn uses_of(kind: Kind, tells: bool, uses: [Option<(u32, bool)>; 4]) -> Vec<Use> {
    let may_use = matches!(
        kind,
        Kind::Map(MapKind::Worker | MapKind::Process) | Kind::Keyed | Kind::Generator { .. } | Kind::Task
    );
    let is_given_batches = matches!(kind, Kind::Map(_)) && (tells || kind == Kind::Map(MapKind::Process));
    let uses = uses.into_iter().zip(resources()).enumerate().filter_map(|(at, (of, resource))| {
        let (units, per_row) = of?;
        let (most, is_rate) = match resource.kind {
            ResourceKind::Units(all) => (all, false),
            ResourceKind::Rate { .. } => (u32::MAX, true),
        };
        let per_row = per_row && is_rate && is_given_batches;
        Some(Use { resource: ResourceId(at as u32), units: units.min(most), per_row })
    });
    if may_use { uses.collect() } else { Vec::new() }
}

impl Wiring {
    /// The second input of a stage, for its first one; `any` is one from anywhere.
    fn second(self, first: (usize, bool), any: (usize, bool), shapes: &[Shape]) -> (usize, bool) {
        let producer = &shapes[first.0];
        match self {
            Self::Any => any,
            Self::Twice => first,
            Self::Diamond => producer.from.first().copied().unwrap_or(first),
            Self::BothPorts => (first.0, !first.1 && producer.has_rejects()),
        }
    }
}

impl Shape {
    /// For how many rows at once the stage's function is called, if it is given its rows one by one.
    pub fn at_once(&self) -> Option<NonZeroU32> {
        let rows = self.row_micros? / 10_000 + 1;
        Some(NonZeroU32::try_from(u32::try_from(rows).expect("no row takes that long")).expect("at least one"))
    }

    pub fn has_rejects(&self) -> bool {
        self.rejects && matches!(self.kind, Kind::Map(_) | Kind::Source { .. })
    }
}

/// Returns whether the two ends of an edge are connected without it, ignoring directions.
fn is_on_a_cycle(edges: &[(usize, usize)], edge: usize) -> bool {
    let mut seen = BTreeSet::from([edges[edge].0]);
    let mut stack = vec![edges[edge].0];
    while let Some(at) = stack.pop() {
        for (other, &(a, b)) in edges.iter().enumerate() {
            for (from, to) in [(a, b), (b, a)] {
                if other != edge && from == at && seen.insert(to) {
                    stack.push(to);
                }
            }
        }
    }
    seen.contains(&edges[edge].1)
}

pub fn plan(shapes: &[Shape], workers: u32) -> Plan {
    let mut edges: Vec<Edge> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for (at, shape) in shapes.iter().enumerate() {
        let mut inputs: Vec<Input> = Vec::new();
        for (member, &(from, rejected)) in shape.from.iter().enumerate() {
            let id = EdgeId(edges.len() as u32);
            let input = if shape.kind == Kind::Join { member } else { 0 };
            edges.push(Edge {
                id,
                from: StageId(from as u32),
                port: usize::from(rejected),
                to: StageId(at as u32),
                input,
                capacity: Capacity {
                    batches: NonZeroU32::new(shape.queue).expect("not zero"),
                    bytes: NonZeroU64::new(shape.queue_bytes).expect("not zero"),
                },
                cut: None,
                spills: shape.kind == Kind::Join || (member > 0 && !shape.any) || !shape.after.is_empty(),
            });
            stages[from].ports[usize::from(rejected)].edges.push(id);
            match inputs.get_mut(input) {
                Some(input) => input.members.push(id),
                None => inputs.push(Input { table: format!("t{input}"), members: vec![id] }),
            }
        }
        stages.push(stage(at, shape, inputs));
    }
    let waits = shapes.iter().enumerate().flat_map(|(at, shape)| shape.after.iter().map(move |&awaited| (awaited, at)));
    let ends: Vec<_> = edges.iter().map(|edge| (edge.from.index(), edge.to.index())).chain(waits).collect();
    for (at, edge) in edges.iter_mut().enumerate() {
        edge.spills &= is_on_a_cycle(&ends, at);
    }
    for &awaited in shapes.iter().flat_map(|shape| &shape.after) {
        stages[awaited].is_awaited = true;
    }
    Plan {
        hooks: Vec::new(),
        name: "simulated".into(),
        file: "/p.yaml".into(),
        folder: "/".into(),
        stages,
        edges,
        left_out: Vec::new(),
        params: BTreeMap::new(),
        python: PythonPlan::default(),
        workers,
        log_level: crate::plan::LogLevel::default(),
        is_in_foreground: false,
        is_trial: false,
        resources: resources(),
        seed: 0,
    }
}

fn stage(at: usize, shape: &Shape, inputs: Vec<Input>) -> Stage {
    let python = |is_source, is_keyed: bool| {
        StageKind::Python(Python {
            call: Call { module: "m".into(), name: "f".into() },
            convention: match shape.row_micros {
                _ if !shape.tells => None,
                Some(_) => Some(Convention::Row),
                None => Some(Convention::Arrow),
            },
            with: serde_json::Map::new(),
            returns: BTreeMap::new(),
            has_ports: false,
            is_source,
            concurrency: None,
            partition_by: is_keyed.then(|| "key".to_owned()).into_iter().collect(),
            target: if shape.workers == 2 { PythonTarget::Class } else { PythonTarget::Function },
            start: crate::plan::Start::default(),
            cpus: crate::plan::Cpus::default(),
        })
    };
    let command = |mode, output| {
        let line = CommandLine::Argv(Vec::new());
        StageKind::Command(Command { line, mode, input: None, output, returns: Vec::new(), files: None })
    };
    let read = Read {
        paths: Vec::new(),
        stdin: false,
        folder: std::path::PathBuf::new(),
        format: crate::format::Format::Lines,
        compression: None,
        schema: Vec::new(),
        dialect: crate::format::Dialect::default(),
        encoding: crate::format::Encoding::Utf8,
        partitions: None,
        origin: false,
        which: crate::plan::WhichFiles::All,
        leaves_out_malformed: false,
        first_rows: None,
        used: None,
        filtered_by: Vec::new(),
    };
    let write = Write {
        target: WriteTarget::File(std::path::PathBuf::from(format!("/s{at}")).into()),
        format: crate::format::Format::Lines,
        compression: crate::format::Compression::None,
        header: true,
        mode: crate::plan::WriteMode::Overwrite,
    };
    let kind = match shape.kind {
        Kind::Source { .. } => StageKind::Read(read),
        Kind::Generator { .. } => python(true, false),
        Kind::Keyed => python(false, true),
        Kind::Map(MapKind::Worker) => python(false, false),
        // What is not given batches may be sent ahead.
        Kind::Map(MapKind::Process) if at.is_multiple_of(3) => command(CommandMode::Row, None),
        Kind::Map(MapKind::Process) if at % 3 == 1 && shape.uses.is_empty() => {
            command(CommandMode::Stream, Some(crate::format::Format::Lines))
        }
        Kind::Map(MapKind::Process) => command(CommandMode::Batch, Some(crate::format::Format::Lines)),
        Kind::Task => command(CommandMode::Once, None),
        Kind::Join | Kind::Limit { .. } | Kind::Map(MapKind::Native) => {
            let query = crate::sql::Query::parse("SELECT 1").expect("a valid query");
            StageKind::Sql(Sql { query, row_wise: matches!(shape.kind, Kind::Map(_)) })
        }
        Kind::Sink => StageKind::Write(write),
    };
    // As the compiler has it; stages with state only count them.
    let is_device = |of: &Use| resources()[of.resource.index()].devices.is_some();
    let is_held = |of: &Use| shape.kind == Kind::Map(MapKind::Worker) && is_device(of);
    let (holds, uses) = shape.uses.iter().copied().partition(is_held);
    let port = |name: &str| Port { name: name.into(), edges: Vec::new(), columns: None };
    let one = NonZeroU32::MIN;
    let backoff = Backoff { first: shape.backoff, most: shape.backoff * 3, jitter: 0.5 };
    Stage {
        id: StageId(at as u32),
        name: format!("s{at}"),
        foreach: None,
        description: None,
        ports: if matches!(shape.kind, Kind::Sink | Kind::Task) {
            Vec::new()
        } else {
            vec![port(Port::MAIN), port(Port::REJECTED)]
        },
        kind,
        inputs,
        workers: WorkerLimits {
            min: if at % 4 == 1 { shape.workers } else { 0 },
            max: NonZeroU32::new(shape.workers).expect("not zero"),
        },
        timeout: None,
        recycle: Recycle::default(),
        log_level: None,
        retry: Retry { oom: one, backoff, ..Retry::default() },
        budget: Budget { max_rows: shape.max_rows, max_fraction: None },
        memory: None,
        on_error: if shape.rejects { OnError::Reject } else { OnError::Fail },
        cut: Cut::default(),
        order: if shape.any { crate::plan::Order::Any } else { crate::plan::Order::Preserve },
        params: None,
        file: None,
        env: BTreeMap::new(),
        cwd: "/".into(),
        checkpoint: shape.checkpoint.then(crate::plan::Checkpoint::default),
        uses,
        holds,
        after: shape.after.iter().map(|&awaited| StageId(awaited as u32)).collect(),
        is_awaited: false,
        supply: None,
        line: 1,
    }
}

/// What a stage would give on its two ports if it worked on its whole input at once.
pub fn expected(shapes: &[Shape]) -> Vec<[Vec<u64>; 2]> {
    let mut given: Vec<[Vec<u64>; 2]> = Vec::new();
    for (at, shape) in shapes.iter().enumerate() {
        let inputs = shape.from.iter().map(|&(from, rejected)| given[from][usize::from(rejected)].clone());
        let mut inputs: Vec<Vec<u64>> = inputs.collect();
        if shape.kind == Kind::Join {
            inputs.reverse();
        }
        let rows = inputs.concat();
        given.push(match shape.kind {
            Kind::Source { rows } | Kind::Generator { rows } => {
                let all = (0..rows).map(|row| row + at as u64 * 1000);
                let (bad, good) = all.partition(|&row| shape.has_rejects() && is_poison(row));
                [good, bad]
            }
            Kind::Map(_) if shape.rejects => {
                let (bad, good) = rows.into_iter().partition(|&row| is_poison(row));
                [good, bad]
            }
            Kind::Limit { rows: limit } => {
                [rows.into_iter().take(usize::try_from(limit).expect("small")).collect(), vec![]]
            }
            Kind::Task => [vec![], vec![]],
            _ => [rows, vec![]],
        });
    }
    given
}

/// Rows in an order in which they can be compared: that in which they come, if all stages keep it.
pub fn comparable(shapes: &[Shape], mut rows: Vec<u64>) -> Vec<u64> {
    if shapes.iter().any(|shape| shape.any) {
        rows.sort_unstable();
    }
    rows
}
