//! [`Publisher`]: puts a stage's batches on its edges: settles their columns, cuts them as the consumer asked, spills what does
//! not fit where an edge may spill. In the order of the sequence, so that everything depends on the data alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use crate::batch::{Batch, BatchError, Columns, ConformError, Cutter, LINE, Origin, Rows, SpillSpace};
use crate::format::Format;
use crate::plan::{EdgeId, Plan, Port, Stage, StageId, StageKind};

/// What one batch became on one edge.
#[derive(Debug)]
pub struct Put {
    pub edge: EdgeId,
    pub pieces: Vec<Batch>,
    pub held_bytes: u64,
    pub spilled: bool,
}

#[derive(Debug)]
pub struct Publisher {
    plan: Arc<Plan>,
    /// By stage and port.
    columns: BTreeMap<(StageId, usize), Columns>,
    /// Columns of ports that gave no rows, where they are known.
    without_rows: BTreeMap<(StageId, usize), SchemaRef>,
    cutters: BTreeMap<EdgeId, Cutter>,
    /// Rows and bytes that a cutter holds.
    held: BTreeMap<EdgeId, u64>,
    /// Bytes in memory on edges that spill.
    in_memory: BTreeMap<EdgeId, u64>,
    spill: SpillSpace,
    spilled: u64,
}

impl Publisher {
    pub fn new(plan: Arc<Plan>, spill: SpillSpace) -> Self {
        let mut columns = BTreeMap::new();
        for stage in &plan.stages {
            for port in 0..stage.ports.len() {
                columns.insert((stage.id, port), first_columns(stage, port));
            }
        }
        let cutters = plan.edges.iter().filter_map(|edge| {
            let cut = edge.cut?;
            Some((edge.id, Cutter::new(cut.rows, cut.bytes).at_files(cut.at_files)))
        });
        let cutters = cutters.collect();
        Self {
            columns,
            without_rows: BTreeMap::new(),
            cutters,
            held: BTreeMap::new(),
            in_memory: BTreeMap::new(),
            spill,
            spilled: 0,
            plan,
        }
    }

    /// Puts one batch on all edges of a port. Empty batches leave no piece.
    ///
    /// # Errors
    /// If its columns do not fit those of the batches before, or it cannot be spilled.
    pub fn put(&mut self, stage: StageId, port: usize, batch: Batch) -> Result<Vec<Put>, BatchError> {
        let columns = self.columns.get_mut(&(stage, port)).expect("every port has columns");
        let batch = batch.conform(columns)?;
        let edges = self.plan.stage(stage).ports[port].edges.clone();
        edges.into_iter().map(|edge| self.put_on(edge, &batch)).collect()
    }

    /// Puts the rows of several batches on all edges of a port, as one batch.
    ///
    /// # Errors
    /// As for [`Publisher::put`], or if they do not have the same columns.
    pub fn put_joined(&mut self, stage: StageId, port: usize, parts: &[Batch]) -> Result<Vec<Put>, BatchError> {
        let joined = join(parts)?;
        self.put(stage, port, joined)
    }

    fn put_on(&mut self, edge: EdgeId, batch: &Batch) -> Result<Put, BatchError> {
        let rows = batch.contents()?;
        let pieces = match self.cutters.get_mut(&edge) {
            None if batch.rows() == 0 => Vec::new(),
            None => vec![batch.clone()],
            Some(cutter) if cutter.passes(&rows) => vec![batch.clone()],
            Some(cutter) => {
                let cut = cutter.push(rows, batch.origin().clone());
                let pieces: Vec<Batch> = cut.into_iter().map(|(rows, origin)| Batch::new(rows, origin)).collect();
                let held = self.held.entry(edge).or_default();
                let given: u64 = pieces.iter().map(Batch::bytes).sum();
                *held = (*held + batch.bytes()).saturating_sub(given);
                pieces
            }
        };
        self.place(edge, pieces)
    }

    /// The last pieces of the stage's edges.
    ///
    /// # Errors
    /// If a piece cannot be spilled.
    pub fn finish(&mut self, stage: StageId) -> Result<Vec<Put>, BatchError> {
        let ports = self.plan.stage(stage).ports.clone();
        let mut puts = Vec::new();
        for edge in ports.iter().flat_map(|port| &port.edges) {
            let last = self.cutters.get_mut(edge).and_then(Cutter::finish);
            self.held.remove(edge);
            let pieces = last.into_iter().map(|(rows, origin)| Batch::new(rows, origin)).collect();
            puts.push(self.place(*edge, pieces)?);
        }
        Ok(puts)
    }

    fn place(&mut self, edge: EdgeId, pieces: Vec<Batch>) -> Result<Put, BatchError> {
        let held_bytes = self.held.get(&edge).copied().unwrap_or(0);
        let plan = self.plan.edge(edge);
        let bytes: u64 = pieces.iter().map(Batch::bytes).sum();
        let in_memory = self.in_memory.entry(edge).or_default();
        if !plan.spills || *in_memory + bytes <= plan.capacity.bytes.get() {
            *in_memory += bytes;
            return Ok(Put { edge, pieces, held_bytes, spilled: false });
        }
        let mut spilled = Vec::with_capacity(pieces.len());
        for piece in pieces {
            self.spilled += 1;
            spilled.push(piece.spill(&self.spill, &format!("edge-{}-{}", edge.0, self.spilled))?);
        }
        Ok(Put { edge, pieces: spilled, held_bytes, spilled: true })
    }

    /// A piece that was put on the edge in memory has left it.
    pub fn taken(&mut self, edge: EdgeId, bytes: u64) {
        let in_memory = self.in_memory.entry(edge).or_default();
        *in_memory = in_memory.saturating_sub(bytes);
    }

    /// The columns of a port, as they are settled so far, or as they are known without rows.
    pub fn columns(&self, stage: StageId, port: usize) -> Option<SchemaRef> {
        let settled = self.columns.get(&(stage, port)).and_then(Columns::settled);
        settled.or_else(|| self.without_rows.get(&(stage, port)).cloned())
    }

    /// Remembers the columns of a port that may not give any rows.
    pub fn know_columns(&mut self, stage: StageId, port: usize, schema: SchemaRef) {
        self.without_rows.insert((stage, port), schema);
    }

    /// The columns of an input: those of the first of its members that has any.
    pub fn input_columns(&self, stage: StageId, input: usize) -> Option<SchemaRef> {
        let members = &self.plan.stage(stage).inputs[input].members;
        members.iter().find_map(|&edge| {
            let edge = self.plan.edge(edge);
            self.columns(edge.from, edge.port)
        })
    }
}

/// One batch with the rows of all. Its columns are those of the first of the parts that all others can be brought to; how rows that have the
/// same columns are divided among parts does not matter.
fn join(parts: &[Batch]) -> Result<Batch, BatchError> {
    if let [part] = parts {
        return Ok(part.clone());
    }
    let contents = parts.iter().map(Batch::contents).collect::<Result<Vec<_>, _>>()?;
    let mut first_error = None;
    for base in &contents {
        match conformed(base, &contents) {
            Ok(alike) => {
                let schema = alike[0].schema();
                let mut origin = Origin::default();
                parts.iter().for_each(|part| origin.extend(part.origin().clone()));
                return Ok(Batch::new(Rows::join(&schema, alike)?, origin));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.expect("there are parts").into())
}

fn conformed(base: &Rows, contents: &[Rows]) -> Result<Vec<Rows>, ConformError> {
    let mut columns = Columns::from_first();
    base.clone().conform(&mut columns)?;
    // Once for the columns that are open in some of them, and once more when they are settled.
    for rows in contents {
        rows.clone().conform(&mut columns)?;
    }
    contents.iter().map(|rows| rows.clone().conform(&mut columns)).collect()
}

fn first_columns(stage: &Stage, port: usize) -> Columns {
    let name = stage.ports[port].name.as_str();
    let is_main = name == Port::MAIN;
    match &stage.kind {
        StageKind::Python(python) => {
            python.returns.get(name).map_or_else(Columns::from_first, |it| Columns::declared(it))
        }
        StageKind::Command(command) if is_main && !command.returns.is_empty() => Columns::declared(&command.returns),
        // Lines have one column whether there are any or not.
        StageKind::Command(command) if is_main && command.output == Some(Format::Lines) => {
            Columns::declared(&[(LINE.to_owned(), DataType::Utf8)])
        }
        _ => Columns::from_first(),
    }
}
