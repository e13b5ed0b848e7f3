//! [`compile`]: a [`Document`] to a [`Plan`], or to everything that is wrong with it.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::check;
use super::checkpoint::{self, Checkpoint, STORE_REQUESTS};
use super::columns::{self, KnownColumns};
use super::deadlock;
use super::failing::{Budget, OnError, Retry, Timeout};
use super::graph::StageGraph;
use super::hook;
use super::left_out::{Connections, LeftOut, Reason, left_out};
use super::link::{self, After, Link};
use super::log_level::LogLevel;
use super::no_effect;
use super::paths;
use super::plan::{Edge, EdgeId, Plan, PythonPlan, StageId};
use super::ports;
use super::pushdown;
use super::queue::{Capacity, Cut, GivenCapacity};
use super::recycle::Recycle;
use super::resolve::{Resolver, absolute, variable};
use super::resource::{Resource, Use};
use super::stage::{Input, Order, Port, Read, Stage, StageKind, WorkerLimits};
use super::sub_pipeline;
use super::supply::{self, FileSizes, Supply};
use crate::diagnostic::{Code, Diagnostic, sort_and_merge};
use crate::spec::model::{RequirementsSpec, RowOrderSpec};
use crate::spec::{Document, Param, StageDraft};
use crate::sql;

/// What the command line and the machine say about a plan.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Attempts that may run at once (`--workers`).
    pub workers: NonZeroU32,
    /// Cores that the process may use: what `auto` means.
    pub cores: NonZeroU32,
    /// Looks up the sizes of a source's files; `None` if they are not all regular files that are there.
    pub file_sizes: fn(&Read) -> Option<FileSizes>,
    /// Looks up the columns that a source would give, by the rows from which a run would infer them; `None` if that cannot be told.
    pub columns: fn(&Read, Cut) -> Option<SchemaRef>,
}

/// A plan, and what is odd about the file it comes from.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub plan: Plan,
    pub warnings: Vec<Diagnostic>,
}

/// What the checks found out about every stage; entries are in the order of the file.
struct Analysis {
    links: Vec<Link>,
    /// Indices of the links into every stage, in order.
    into: Vec<Vec<usize>>,
    afters: Vec<After>,
    resources: Vec<Option<Resource>>,
    resolved: Vec<Resolved>,
    columns: KnownColumns,
    /// `None` when there is a cycle.
    graph: Option<StageGraph>,
    left_out: Vec<Option<Reason>>,
}

/// A stage without its place in the graph.
struct Resolved {
    kind: Option<StageKind>,
    workers: WorkerLimits,
    memory: Option<NonZeroU64>,
    cut: Option<Cut>,
    capacity: GivenCapacity,
    timeout: Option<Timeout>,
    recycle: Recycle,
    log_level: Option<LogLevel>,
    retry: Retry,
    on_error: OnError,
    budget: Budget,
    checkpoint: Option<Checkpoint>,
    uses: Vec<Use>,
}

/// Everything that is wrong or odd, sorted by place, without making a plan. Values that only a run knows are left open.
pub fn validate(document: &Document) -> Vec<Diagnostic> {
    let one = Settings { workers: NonZeroU32::MIN, cores: NonZeroU32::MIN, file_sizes: |_| None, columns: |_, _| None };
    let mut problems = document.problems.clone();
    sql::with_room(|| {
        analyse(document, &one, &mut problems);
        hook::validate(document, &one, &mut problems);
    });
    document.fold(&mut problems);
    sort_and_merge(problems)
}

/// What is wrong or odd about the stages of a document.
pub(super) fn problems_of(document: &Document, settings: &Settings) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    analyse(document, settings, &mut problems);
    problems
}

/// The plan of the stages of a document in which nothing is wrong.
///
/// # Errors
/// What a failed pass forgot to say.
pub(super) fn compile_alone(document: &Document, settings: &Settings) -> Result<Plan, Diagnostic> {
    let analysis = analyse(document, settings, &mut Vec::new());
    build(document, settings, analysis)
}

/// The columns of ports, by stage and port, as far as they are known before a run. A type that is not known is `Null`.
pub fn known_columns(document: &Document, settings: &Settings) -> BTreeMap<(String, String), SchemaRef> {
    let analysis = analyse(document, settings, &mut Vec::new());
    let ports = document.stages.iter().enumerate().flat_map(|(at, draft)| {
        let ports = ports::ports(draft).unwrap_or_default();
        ports.into_iter().map(move |port| (at, draft.name.clone(), port))
    });
    let known =
        ports.filter_map(|(at, stage, port)| Some(((stage, port.to_owned()), analysis.columns.of(at, port)?.clone())));
    known.collect()
}

/// The plan of a document in which all values are known.
///
/// # Errors
/// Everything that is wrong or odd, sorted by place, if anything is wrong.
pub fn compile(document: &Document, settings: &Settings) -> Result<Compiled, Vec<Diagnostic>> {
    sql::with_room(|| compile_here(document, settings))
}

fn compile_here(document: &Document, settings: &Settings) -> Result<Compiled, Vec<Diagnostic>> {
    let mut problems = document.problems.clone();
    problems.extend(document.stages.iter().filter_map(sub_pipeline::given));
    let analysis = analyse(document, settings, &mut problems);
    hook::validate(document, settings, &mut problems);
    document.fold(&mut problems);
    let problems = sort_and_merge(problems);
    if problems.iter().any(Diagnostic::is_error) {
        return Err(problems);
    }
    let plan = build(document, settings, analysis);
    let plan = plan.and_then(|plan| Ok(Plan { hooks: hook::hooks(document, settings)?, ..plan }));
    Ok(Compiled { plan: plan.map_err(|problem| vec![problem])?, warnings: problems })
}

fn analyse(document: &Document, settings: &Settings, problems: &mut Vec<Diagnostic>) -> Analysis {
    problems.extend(document.stages.iter().filter_map(check::kinds));
    let links = link::links(document, problems);
    let mut afters = link::afters(document, problems);
    afters.extend(link::waits_for_shared(document, &links, &afters));
    let into = into(&links, document.stages.len());
    let resources = Resource::all(document, problems);
    problems.extend(Resource::unused(document));
    let resolved: Vec<Resolved> = document
        .stages
        .iter()
        .enumerate()
        .map(|(at, draft)| {
            let links: Vec<&Link> = into[at].iter().map(|&link| &links[link]).collect();
            resolve(document, draft, &links, settings, &resources, problems)
        })
        .collect();
    for ((draft, resolved), into) in document.stages.iter().zip(&resolved).zip(&into) {
        problems.extend(check::inputs(draft, resolved.kind.as_ref()));
        problems.extend(sub_pipeline::keys(draft));
        problems.extend(check::on_error(draft));
        problems.extend(check::partition_by(draft));
        problems.extend(check::concurrency(draft, resolved.kind.as_ref()));
        problems.extend(check::few_rows(draft));
        problems.extend(no_effect::keys(draft, resolved.kind.as_ref()));
        problems.extend(check::order(draft, resolved.kind.as_ref(), into.len()));
    }
    let kinds: Vec<Option<&StageKind>> = resolved.iter().map(|resolved| resolved.kind.as_ref()).collect();
    problems.extend(check::unused_params(document, &kinds));
    let rejects = check::rejects(document, &links, &kinds);
    // That nothing is to be rejected, either, is no second mistake.
    let is_said = |problem: &Diagnostic| rejects.iter().any(|said| said.span() == problem.span());
    problems.retain(|problem| problem.code != Code::PlanNothingRejected || !is_said(problem));
    problems.extend(rejects);
    problems.extend(check_python(document));
    let waits = afters.iter().map(|after| (after.from, after.to));
    let edges: Vec<(usize, usize)> = links.iter().map(|link| (link.from, link.to)).chain(waits).collect();
    let graph = StageGraph::new(document.stages.len(), &edges)
        .map_err(|cycles| {
            problems.extend(cycles.iter().filter_map(|cycle| check::cycle(document, &links, &afters, &cycle.edges)))
        })
        .ok();
    let order = graph.as_ref().map(StageGraph::order).unwrap_or_default();
    let connections = Connections { links: &links, into: &into, afters: &afters, order };
    // Where it is not known which of two stages is there, they are not in each other's way.
    let is_sure = |draft: &StageDraft| draft.spec.when != Some(false) && !draft.is_lost("when");
    let unsure = left_out(document, connections, is_sure);
    problems.extend(paths::paths(document, &staying(&kinds, &unsure), &edges));
    let left_out = left_out(document, connections, |draft| draft.spec.when != Some(false));
    let cuts: Vec<Cut> = resolved.iter().map(|resolved| resolved.cut.unwrap_or_default()).collect();
    // What is left out may have nothing to read.
    let kept = staying(&kinds, &left_out);
    let look =
        columns::Look { document, links: &links, into: &into, afters: &afters, kinds: &kept, cuts: &cuts, settings };
    let columns = look.columns(graph.as_ref().map(StageGraph::order), problems);
    problems.extend(check::templates(document, &links, &kept, &into, &columns));
    problems.extend(check::keys(document, &links, &kept, &into, &columns));
    if document.stages.is_empty() && problems.iter().all(|problem| !problem.is_error()) {
        problems.push(Diagnostic::without_place(Code::SpecMissingKey, "the pipeline has no stages"));
    }
    Analysis { links, into, afters, resources, resolved, columns, graph, left_out }
}

/// The kinds of the stages that are not left out.
fn staying<'a>(kinds: &[Option<&'a StageKind>], left_out: &[Option<Reason>]) -> Vec<Option<&'a StageKind>> {
    kinds.iter().zip(left_out).map(|(kind, reason)| kind.filter(|_| reason.is_none())).collect()
}

impl Analysis {
    /// Without the stages that are left out, and what connects others with them.
    fn without_left_out(self) -> Self {
        let is_in = |at: usize| self.left_out[at].is_none();
        let links: Vec<Link> = self.links.into_iter().filter(|link| is_in(link.from) && is_in(link.to)).collect();
        let afters: Vec<After> = self.afters.into_iter().filter(|after| is_in(after.from) && is_in(after.to)).collect();
        let waits = afters.iter().map(|after| (after.from, after.to));
        let edges: Vec<(usize, usize)> = links.iter().map(|link| (link.from, link.to)).chain(waits).collect();
        let stages = self.left_out.len();
        Self {
            into: into(&links, stages),
            graph: self.graph.and_then(|_| StageGraph::new(stages, &edges).ok()),
            links,
            afters,
            ..self
        }
    }
}

fn into(links: &[Link], stages: usize) -> Vec<Vec<usize>> {
    let mut into = vec![Vec::new(); stages];
    links.iter().enumerate().for_each(|(at, link)| into[link.to].push(at));
    into
}

fn resolve(
    document: &Document,
    draft: &StageDraft,
    links: &[&Link],
    settings: &Settings,
    resources: &[Option<Resource>],
    problems: &mut Vec<Diagnostic>,
) -> Resolved {
    let mut resolver = Resolver { document, draft, problems };
    let kind = resolver.kind(links);
    Resolved {
        workers: resolver.workers(settings.workers, settings.cores),
        memory: resolver.memory(kind.as_ref()),
        cut: resolver.cut(),
        capacity: resolver.capacity(),
        timeout: resolver.timeout(kind.as_ref()),
        recycle: resolver.recycle(kind.as_ref()),
        log_level: resolver.log_level(),
        retry: resolver.retry(),
        on_error: resolver.on_error(),
        budget: resolver.budget(),
        checkpoint: resolver.checkpoint(kind.as_ref()),
        uses: resolver.uses(kind.as_ref(), resources),
        kind,
    }
}

fn check_python(document: &Document) -> Option<Diagnostic> {
    let python = &document.python;
    let others = python.interpreter.is_some() || python.requirements.is_some();
    let message =
        "`venv` names an environment that is used as it is, so `requirements` and `interpreter` have no meaning";
    let span = document.python_span.unwrap_or_default();
    (python.venv.is_some() && others).then(|| Diagnostic::new(Code::PlanBadOption, span, message))
}

/// Puts the stages in order and the edges between them. Nothing can be wrong any more, but for what a failed pass forgot to say.
fn build(document: &Document, settings: &Settings, analysis: Analysis) -> Result<Plan, Diagnostic> {
    let unclear = |draft: &StageDraft| {
        let message = format!("the stage `{}` has a value that is not known", draft.name);
        Diagnostic::new(Code::SpecBadValue, draft.name_span, message)
    };
    let analysis = analysis.without_left_out();
    let Some(graph) = &analysis.graph else {
        return Err(Diagnostic::without_place(Code::PlanCycle, "the stages form a cycle"));
    };
    let mut after = vec![Vec::new(); document.stages.len()];
    analysis.afters.iter().for_each(|wait| after[wait.to].push(wait.from));
    let held_back: Vec<bool> =
        (0..analysis.links.len()).map(|at| is_held_back(document, &analysis, &after, at)).collect();
    let spills = deadlock::spilling(graph, &held_back);
    let mut ids = vec![StageId(0); document.stages.len()];
    let order: Vec<usize> = graph.order().iter().copied().filter(|at| analysis.left_out[*at].is_none()).collect();
    for (position, stage) in order.iter().enumerate() {
        ids[*stage] = StageId(u32::try_from(position).expect("a file has fewer stages than bytes"));
    }
    let mut edges = Vec::new();
    let mut stages = Vec::new();
    for &at in &order {
        let draft = &document.stages[at];
        let resolved = &analysis.resolved[at];
        let kind = resolved.kind.clone().ok_or_else(|| unclear(draft))?;
        let id = ids[at];
        let inputs = inputs(&kind, &analysis, at, &ids, &spills, document, &mut edges).ok_or_else(|| unclear(draft))?;
        let after = after[at].iter().map(|awaited| ids[*awaited]).collect();
        let mut stage = Stage { after, ..stage(document, draft, resolved, &analysis.resources, kind, id, inputs) };
        for port in &mut stage.ports {
            port.columns = analysis.columns.of(at, &port.name).cloned();
        }
        size(&mut stage, &stages, &mut edges, resolved.capacity, settings);
        stages.push(stage);
    }
    for edge in &edges {
        let Edge { id, from, port, .. } = edge;
        stages[from.index()].ports[*port].edges.push(*id);
    }
    for awaited in analysis.afters.iter().map(|wait| ids[wait.from]) {
        stages[awaited.index()].is_awaited = true;
    }
    // Queries and sources seldom reject rows, and it would be told of all of them.
    for stage in stages.iter_mut().filter(|stage| matches!(stage.kind, StageKind::Sql(_) | StageKind::Read(_))) {
        let is_fail = stage.on_error == OnError::Fail;
        stage.ports.retain(|port| !is_fail || port.name != Port::REJECTED || !port.edges.is_empty());
    }
    pushdown::push_down(&mut stages, &edges);
    checkpoint::cut_at_files(&mut stages, &mut edges);
    Ok(Plan {
        name: document.name.clone(),
        file: document.source.path().to_owned(),
        folder: document.folder.clone(),
        stages,
        edges,
        left_out: analysis
            .left_out
            .iter()
            .zip(&document.stages)
            .filter_map(|(reason, draft)| Some(LeftOut { stage: draft.name.clone(), reason: reason.clone()? }))
            .filter(|left_out| left_out.reason != Reason::Dissolved)
            .collect(),
        hooks: Vec::new(),
        params: params(document),
        python: python(document),
        resources: analysis.resources.into_iter().flatten().collect(),
        workers: settings.workers.get(),
        seed: document.seed,
        log_level: LogLevel::default(),
        is_in_foreground: false,
        is_trial: false,
    })
}

/// Whether the consumer may read this edge only after another one: see `deadlock`. `after` has the stages that every stage waits for.
fn is_held_back(document: &Document, analysis: &Analysis, after: &[Vec<usize>], at: usize) -> bool {
    let consumer = analysis.links[at].to;
    let siblings = &analysis.into[consumer];
    if !after[consumer].is_empty() {
        true
    } else if document.stages[consumer].kind() == Some("sql") {
        siblings.len() > 1
    } else {
        siblings[0] != at && order(&document.stages[consumer]) == Order::Preserve
    }
}

fn order(draft: &StageDraft) -> Order {
    match draft.spec.order {
        Some(RowOrderSpec::Any) => Order::Any,
        Some(RowOrderSpec::Preserve) | None => Order::Preserve,
    }
}

/// The inputs of a stage; their edges are added to `edges`.
fn inputs(
    kind: &StageKind,
    analysis: &Analysis,
    stage: usize,
    ids: &[StageId],
    spills: &[bool],
    document: &Document,
    edges: &mut Vec<Edge>,
) -> Option<Vec<Input>> {
    let is_sql = matches!(kind, StageKind::Sql(_));
    let resolved = &analysis.resolved[stage];
    let mut inputs: Vec<Input> = Vec::new();
    for &at in &analysis.into[stage] {
        let link = &analysis.links[at];
        let id = EdgeId(u32::try_from(edges.len()).ok()?);
        // What one name of a `foreach` stands for is one table.
        if inputs.last().is_none_or(|input| is_sql && input.table != link.table) {
            inputs.push(Input { table: link.table.clone(), members: Vec::new() });
        }
        let port = ports::ports(&document.stages[link.from])?.iter().position(|port| *port == link.port)?;
        edges.push(Edge {
            id,
            from: ids[link.from],
            port,
            to: ids[stage],
            input: inputs.len() - 1,
            capacity: Capacity { batches: Capacity::DEFAULT_BATCHES, bytes: Capacity::MOST_BYTES },
            cut: resolved.cut,
            spills: spills[at],
        });
        inputs.last_mut()?.members.push(id);
    }
    Some(inputs)
}

/// Sets what may wait in front of a stage and what it may keep, by what the stages `before` may give.
fn size(stage: &mut Stage, before: &[Stage], edges: &mut [Edge], given: GivenCapacity, settings: &Settings) {
    let mut supplies = Vec::new();
    for id in stage.inputs.iter().flat_map(|input| &input.members) {
        let edge = &mut edges[id.index()];
        let producer = &before[edge.from.index()];
        let supply = producer.supply.map(|supply| supply.over_edge(edge.cut));
        let workers = settings.workers.get();
        let at_once = supply::at_once(producer, workers).max(supply::at_once(stage, workers));
        let bytes = || NonZeroU64::new(supply::queue_bytes(supply, edge.cut, at_once)).expect("at least one batch");
        let is_stored = |stage: &Stage| stage.checkpoint.as_ref().is_some_and(Checkpoint::has_store);
        let batches = if is_stored(producer) || is_stored(stage) { STORE_REQUESTS } else { Capacity::DEFAULT_BATCHES };
        edge.capacity =
            Capacity { batches: given.batches.unwrap_or(batches), bytes: given.bytes.unwrap_or_else(bytes) };
        supplies.push(supply);
    }
    let files = match &stage.kind {
        StageKind::Read(read) => (settings.file_sizes)(read),
        _ => None,
    };
    if let StageKind::Sql(sql) = &stage.kind
        && !sql.row_wise
    {
        stage.memory = stage.memory.or(NonZeroU64::new(supply::query_memory(sql, &supplies)));
    }
    stage.supply = Supply::of(&stage.kind, stage.cut, &supplies, files);
}

fn stage(
    document: &Document,
    draft: &StageDraft,
    resolved: &Resolved,
    resources: &[Option<Resource>],
    kind: StageKind,
    id: StageId,
    inputs: Vec<Input>,
) -> Stage {
    let resolver = Resolver { document, draft, problems: &mut Vec::new() };
    let mut ports = ports::ports(draft).unwrap_or_default();
    if matches!(&kind, StageKind::Sql(sql) if !sql.row_wise) {
        ports.retain(|port| *port != Port::REJECTED);
    }
    let env = draft.spec.env.iter().flatten();
    let is_device = |of: &Use| resources[of.resource.index()].as_ref().is_some_and(|one| one.devices.is_some());
    let is_python = matches!(kind, StageKind::Python(_));
    let (holds, uses) = resolved.uses.iter().copied().partition(|of| is_python && is_device(of));
    Stage {
        id,
        name: draft.name.clone(),
        foreach: draft.foreach.clone(),
        description: draft.spec.description.clone(),
        kind,
        inputs,
        ports: ports.into_iter().map(|name| Port { name: name.to_owned(), edges: Vec::new(), columns: None }).collect(),
        workers: resolved.workers,
        memory: resolved.memory,
        timeout: resolved.timeout,
        recycle: resolved.recycle,
        log_level: resolved.log_level,
        retry: resolved.retry,
        on_error: resolved.on_error,
        budget: resolved.budget,
        cut: resolved.cut.unwrap_or_default(),
        order: order(draft),
        params: draft.scope.as_ref().map(|scope| Arc::new(values(&scope.params))),
        env: env.map(|(name, value)| (name.clone(), variable(value))).collect(),
        cwd: resolver.cwd(),
        after: Vec::new(),
        is_awaited: false,
        checkpoint: resolved.checkpoint.clone(),
        uses,
        holds,
        supply: None,
        file: draft.scope.as_ref().map(|scope| scope.file.clone()),
        line: draft.line,
    }
}

fn params(document: &Document) -> BTreeMap<String, serde_json::Value> {
    values(&document.params)
}

fn values(params: &[Param]) -> BTreeMap<String, serde_json::Value> {
    params.iter().filter_map(|param| Some((param.name.clone(), param.value.clone()?))).collect()
}

fn python(document: &Document) -> PythonPlan {
    let spec = &document.python;
    let path = |path: &String| absolute(&document.folder, path);
    let (requirements, requirement_files) = match &spec.requirements {
        None => (Vec::new(), Vec::new()),
        Some(RequirementsSpec::File(file)) => (Vec::new(), vec![path(file)]),
        Some(RequirementsSpec::List(list)) => (list.clone(), Vec::new()),
    };
    // A bare name is a program to be looked up, as everywhere.
    let interpreter = |name: &String| if name.contains('/') { path(name) } else { name.into() };
    PythonPlan {
        requirements,
        requirement_files,
        path: if spec.path.is_empty() { vec![document.folder.clone()] } else { spec.path.iter().map(path).collect() },
        interpreter: spec.interpreter.as_ref().map(interpreter),
        venv: spec.venv.as_ref().map(path),
        nice: spec.nice.unwrap_or(0),
        threads: spec.threads.and_then(NonZeroU32::new),
    }
}
