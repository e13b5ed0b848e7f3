//! [`StageGraph`]: the stages as a directed graph without cycles. The only file that names petgraph.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use petgraph::algo::{bridges::bridges, kosaraju_scc};
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex, UnGraph};
use petgraph::visit::EdgeRef;

/// A directed graph without cycles. Nodes are numbered from 0 in the order of the file; edges in the order given.
#[derive(Debug)]
pub struct StageGraph {
    graph: DiGraph<(), ()>,
    order: Vec<usize>,
}

/// Edges that form a cycle, in the direction of the data: each starts where the one before it ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Cycle {
    pub edges: Vec<usize>,
}

impl StageGraph {
    /// The graph of `nodes` nodes with `edges` from producer to consumer, or one shortest cycle for every knot of stages that
    /// need each other.
    ///
    /// # Errors
    /// When there is a cycle.
    pub fn new(nodes: usize, edges: &[(usize, usize)]) -> Result<Self, Vec<Cycle>> {
        let mut graph = DiGraph::with_capacity(nodes, edges.len());
        for _ in 0..nodes {
            graph.add_node(());
        }
        for (from, to) in edges {
            graph.add_edge(NodeIndex::new(*from), NodeIndex::new(*to), ());
        }
        let cycles = cycles(&graph);
        if !cycles.is_empty() {
            return Err(cycles);
        }
        let order = order(&graph);
        Ok(Self { graph, order })
    }

    /// The nodes, producers before consumers; where that leaves a choice, in the order of the file.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// For every edge, whether it is the only connection between what lies on its two sides, whatever the direction.
    pub fn bridges(&self) -> Vec<bool> {
        // The algorithm knows at most one edge between two nodes; two are no bridges.
        let mut pairs: HashMap<(NodeIndex, NodeIndex), Vec<usize>> = HashMap::new();
        for edge in self.graph.edge_references() {
            let (one, other) = (edge.source().min(edge.target()), edge.source().max(edge.target()));
            pairs.entry((one, other)).or_default().push(edge.id().index());
        }
        let mut simple: UnGraph<(), usize> = UnGraph::with_capacity(self.graph.node_count(), pairs.len());
        for _ in self.graph.node_indices() {
            simple.add_node(());
        }
        for ((one, other), edges) in &pairs {
            simple.add_edge(*one, *other, edges[0]);
        }
        let mut are_bridges = vec![false; self.graph.edge_count()];
        for bridge in bridges(&simple) {
            let is_single =
                pairs[&(bridge.source().min(bridge.target()), bridge.source().max(bridge.target()))].len() == 1;
            are_bridges[*bridge.weight()] = is_single;
        }
        are_bridges
    }
}

fn cycles(graph: &DiGraph<(), ()>) -> Vec<Cycle> {
    // Not Tarjan's algorithm, which recurses as deep as a chain of stages is long.
    let mut knots = kosaraju_scc(graph);
    knots.retain(|knot| knot.len() > 1 || graph.contains_edge(knot[0], knot[0]));
    knots.iter_mut().for_each(|knot| knot.sort());
    knots.sort();
    knots.iter().filter_map(|knot| shortest_cycle(graph, *knot.first()?)).collect()
}

/// A shortest cycle through `start`.
fn shortest_cycle(graph: &DiGraph<(), ()>, start: NodeIndex) -> Option<Cycle> {
    let mut reached_by: HashMap<NodeIndex, EdgeIndex> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        let mut edges: Vec<_> = graph.edges(node).map(|edge| edge.id()).collect();
        edges.sort();
        for edge in edges {
            let (_, target) = graph.edge_endpoints(edge)?;
            if target == start {
                return Some(trace(graph, start, edge, &reached_by));
            }
            reached_by.entry(target).or_insert_with(|| {
                queue.push_back(target);
                edge
            });
        }
    }
    None
}

fn trace(
    graph: &DiGraph<(), ()>,
    start: NodeIndex,
    last: EdgeIndex,
    reached_by: &HashMap<NodeIndex, EdgeIndex>,
) -> Cycle {
    let mut edges = vec![last.index()];
    let mut node = graph.edge_endpoints(last).map_or(start, |(source, _)| source);
    while node != start {
        let edge = reached_by[&node];
        edges.push(edge.index());
        node = graph.edge_endpoints(edge).map_or(start, |(source, _)| source);
    }
    edges.reverse();
    Cycle { edges }
}

fn order(graph: &DiGraph<(), ()>) -> Vec<usize> {
    let mut missing: Vec<usize> =
        graph.node_indices().map(|node| graph.edges_directed(node, petgraph::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..missing.len()).filter(|node| missing[*node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for edge in graph.edges(NodeIndex::new(node)) {
            let target = edge.target().index();
            missing[target] -= 1;
            if missing[target] == 0 {
                ready.push(Reverse(target));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_follows_the_data_and_then_the_file() {
        let graph = StageGraph::new(5, &[(3, 0), (0, 1), (2, 1)]).expect("no cycle");
        assert_eq!(graph.order(), [2, 3, 0, 1, 4]);
    }

    #[test]
    fn every_knot_shows_one_shortest_cycle() {
        let cycles = StageGraph::new(6, &[(0, 1), (1, 2), (2, 0), (1, 0), (3, 3), (4, 5)]).expect_err("two knots");
        assert_eq!(cycles, [Cycle { edges: vec![0, 3] }, Cycle { edges: vec![4] }]);
    }

    #[test]
    fn every_edge_of_a_long_chain_is_a_bridge() {
        let edges: Vec<(usize, usize)> = (0..9_999).map(|node| (node, node + 1)).collect();
        let graph = StageGraph::new(10_000, &edges).expect("no cycle");
        assert!(graph.bridges().iter().all(|is_bridge| *is_bridge));
    }

    #[test]
    fn a_double_edge_and_a_diamond_are_no_bridges() {
        let graph = StageGraph::new(6, &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (4, 5)]).expect("no cycle");
        assert_eq!(graph.bridges(), [false, false, false, false, true, false, false]);
    }
}
