//! Which edges need a queue that spills to disk, so that bounded queues cannot deadlock.
//!
//! A stage that reads one input only after another *holds back* the later one: the members of a union behind the first, and
//! any input of a query with several inputs, as the engine decides which one it drains first. A stage with `after` holds back
//! all its inputs until the stages that it waits for have ended. A queue that is held back fills up and stops its producer; if
//! what is waited for needs that producer, nobody moves.
//!
//! An `after` is an edge of the graph like the others, but for what it carries: nothing until its producer has ended, and then
//! the word that it has. So it is empty as long as it is waited for, and never full.
//!
//! In a deadlock every stage waits for a neighbour: a producer for room in a full edge, a consumer for data (or the word) from
//! an empty one. Following the waits leads from stage to stage along edges and, as stages are finite, around a closed walk.
//! Somewhere on it a stage holds back a full edge `e` because it waits for another edge that is empty; otherwise all waits would
//! point the same way along the data, and the graph has no directed cycle. The walk enters that stage through `e` and leaves it
//! through another edge. If `e` were a bridge, the walk would have to come back across `e` in the other direction, that is, with
//! the consumer waiting for data from `e`; but `e` is full. So a held-back edge in a deadlock is never a bridge of the
//! undirected graph. It is therefore enough that every held-back edge which is not a bridge never fills: it spills.

use super::graph::StageGraph;

/// For every held-back edge of `graph`, whether it must spill. `held_back` has an entry per edge of data; the graph's edges behind
/// those are of `after`.
pub fn spilling(graph: &StageGraph, held_back: &[bool]) -> Vec<bool> {
    held_back.iter().zip(graph.bridges()).map(|(held_back, is_bridge)| *held_back && !is_bridge).collect()
}
