//! Texts that hang together: whoever is linked to one of a cluster is of it (single linkage), by union-find.
//!
//! For the clusters of every threshold a maximum spanning forest of the pairs is enough (Gower and Ross 1969, "Minimum
//! Spanning Trees and Single Linkage Cluster Analysis"), so there are never more edges to keep than texts.

use std::collections::BTreeMap;

/// A pair of texts, the earlier one first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// The earlier one.
    pub a: u32,
    /// The later one.
    pub b: u32,
    /// How much they have in common, from 0 to 1.
    pub similarity: f32,
}

/// Texts that hang together.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The first of them.
    pub first: u32,
    /// All others in their order, each with its most similar neighbour that a pair links it to, and how similar that is.
    pub others: Vec<(u32, u32, f32)>,
}

/// Sets that grow together; the smallest number stands for each.
#[derive(Default)]
struct Sets(BTreeMap<u32, u32>);

impl Sets {
    fn of(&mut self, mut node: u32) -> u32 {
        while let Some(&parent) = self.0.get(&node) {
            if let Some(&next) = self.0.get(&parent) {
                // Path halving.
                self.0.insert(node, next);
            }
            node = parent;
        }
        node
    }

    /// True if they were apart.
    fn join(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.of(a), self.of(b));
        if a != b {
            self.0.insert(a.max(b), a.min(b));
        }
        a != b
    }
}

/// Leaves a maximum spanning forest of the edges, the most similar pairs first (Kruskal 1956).
pub(crate) fn forest(edges: &mut Vec<Edge>) {
    edges.sort_unstable_by(|one, other| {
        other.similarity.total_cmp(&one.similarity).then((one.b, one.a).cmp(&(other.b, other.a)))
    });
    let mut sets = Sets::default();
    edges.retain(|edge| sets.join(edge.a, edge.b));
}

/// The clusters at a threshold, in the order of their first texts.
pub fn clusters(edges: &[Edge], threshold: f64) -> Vec<Cluster> {
    let linked = || edges.iter().filter(|edge| f64::from(edge.similarity) >= threshold);
    let mut sets = Sets::default();
    let mut nearest: BTreeMap<u32, (u32, f32)> = BTreeMap::new();
    for edge in linked() {
        sets.join(edge.a, edge.b);
        for (row, other) in [(edge.a, edge.b), (edge.b, edge.a)] {
            let best = nearest.entry(row).or_insert((other, edge.similarity));
            if edge.similarity > best.1 {
                *best = (other, edge.similarity);
            }
        }
    }
    let mut found: BTreeMap<u32, Cluster> = BTreeMap::new();
    for (row, (other, similarity)) in nearest {
        let first = sets.of(row);
        let cluster = found.entry(first).or_insert_with(|| Cluster { first, others: Vec::new() });
        if row != first {
            cluster.others.push((row, other, similarity));
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edge(a: u32, b: u32, similarity: f32) -> Edge {
        Edge { a, b, similarity }
    }

    #[test]
    fn a_threshold_is_moved_over_the_same_edges() {
        let edges = [edge(5, 9, 0.95), edge(1, 5, 0.7), edge(2, 3, 0.85)];
        let found = clusters(&edges, 0.8);
        assert_eq!(found.iter().map(|cluster| cluster.first).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(found[1].others, [(9, 5, 0.95)]);
        let found = clusters(&edges, 0.6);
        assert_eq!(found[0], Cluster { first: 1, others: vec![(5, 9, 0.95), (9, 5, 0.95)] });
        assert!(clusters(&edges, 0.99).is_empty());
    }

    proptest! {
        #[test]
        fn a_forest_has_the_clusters_of_all_edges(
            pairs in proptest::collection::vec((0_u32..30, 0_u32..30, 0_u32..100), 0..120), threshold in 0.0..1.0
        ) {
            let all: Vec<Edge> = pairs
                .into_iter()
                .filter(|(a, b, _)| a != b)
                .map(|(a, b, similarity)| edge(a.min(b), a.max(b), similarity as f32 / 100.0))
                .collect();
            let mut few = all.clone();
            forest(&mut few);
            prop_assert!(few.len() < 30);
            let of = |edges: &[Edge]| -> Vec<(u32, Vec<u32>)> {
                let rows = |cluster: Cluster| cluster.others.iter().map(|(row, ..)| *row).collect();
                clusters(edges, threshold).into_iter().map(|cluster| (cluster.first, rows(cluster))).collect()
            };
            prop_assert_eq!(of(&few), of(&all));
        }
    }
}
