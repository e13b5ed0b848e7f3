//! Edges of a random history: how what is published is cut, and what lies there.

use proptest::prelude::*;

use super::{Fake, Lane, index};
use crate::plan::{EdgeId, StageId};
use crate::run::scheduler::*;

/// The rows that an edge's cut keeps back.
#[derive(Default)]
pub struct FakeCutter {
    held: Vec<u64>,
    pub held_bytes: u64,
    /// Rows of the largest batch that was put on the edge, and bytes of the largest one that was given, before or after its cut.
    pub largest: u64,
    pub largest_bytes: u64,
}

impl Fake<'_> {
    pub(super) fn put(&mut self, stage: StageId, port: usize, rows: &[u64], weight: u64) {
        let edges = self.plan.stage(stage).ports[port].edges.clone();
        let queued = edges.into_iter().map(|edge| self.put_on(edge, rows, weight)).collect();
        self.push(Lane::Stage(stage), Event::Queued { stage, queued });
    }

    /// Cuts as the consumer asks; what is not full yet is kept back.
    fn put_on(&mut self, edge: EdgeId, rows: &[u64], weight: u64) -> QueuedPieces {
        let plan = self.plan.edge(edge);
        let cutter = self.cutters.entry(edge).or_default();
        cutter.largest = cutter.largest.max(rows.len() as u64);
        cutter.largest_bytes = cutter.largest_bytes.max(rows.len() as u64 * weight);
        let mut pieces = Vec::new();
        match self.shapes[plan.to.index()].cut {
            Some(cut) => {
                cutter.held.extend(rows);
                while cutter.held.len() >= index(cut) {
                    pieces.push(cutter.held.drain(..index(cut)).collect());
                }
            }
            None if rows.is_empty() => {}
            None => pieces.push(rows.to_vec()),
        }
        let held_bytes = cutter.held.len() as u64 * weight;
        cutter.held_bytes = held_bytes;
        let pieces = pieces.into_iter().map(|rows| self.piece(edge, rows, weight)).collect();
        QueuedPieces { edge, pieces, held_bytes, spilled: plan.spills && self.rng.random_bool(0.5) }
    }

    fn piece(&mut self, edge: EdgeId, rows: Vec<u64>, weight: u64) -> Meta {
        let meta = self.store(rows, weight);
        self.on_edge.insert(meta.id, edge);
        let cutter = self.cutters.entry(edge).or_default();
        cutter.largest_bytes = cutter.largest_bytes.max(meta.bytes);
        meta
    }

    pub(super) fn finish(&mut self, stage: StageId) {
        let edges: Vec<EdgeId> = self.plan.stage(stage).ports.iter().flat_map(|port| port.edges.clone()).collect();
        let mut queued = Vec::new();
        for edge in edges {
            let weight = if self.plan.edge(edge).port == 0 { self.shapes[stage.index()].weight } else { 1 };
            let cutter = self.cutters.entry(edge).or_default();
            cutter.held_bytes = 0;
            let last = std::mem::take(&mut cutter.held);
            let pieces = if last.is_empty() { Vec::new() } else { vec![self.piece(edge, last, weight)] };
            queued.push(QueuedPieces { edge, pieces, held_bytes: 0, spilled: false });
        }
        self.push(Lane::Stage(stage), Event::PortsFinished { stage, queued });
    }

    /// For every edge, the bytes that really are in memory for it: on it, with its consumer, kept back by its cut, or given by its
    /// producer and waiting to be published. And how many of its batches there are.
    pub fn in_memory(&self) -> Vec<(u64, u64)> {
        let kept = |edge| self.cutters.get(&edge).map_or(0, |cutter| cutter.held_bytes);
        let mut edges: Vec<(u64, u64)> = self.plan.edges.iter().map(|edge| (kept(edge.id), 0)).collect();
        for batch in self.batches.keys() {
            let bytes = self.weights[batch];
            if let Some(edge) = self.on_edge.get(batch) {
                edges[edge.index()].0 += bytes;
                edges[edge.index()].1 += 1;
            } else if let Some((stage, port)) = self.given.get(batch) {
                self.plan.stage(*stage).ports[*port].edges.iter().for_each(|edge| edges[edge.index()].0 += bytes);
            }
        }
        edges
    }
}
