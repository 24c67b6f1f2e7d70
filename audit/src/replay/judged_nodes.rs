//! The nodes that a log is judged by, as a state file names them: so that a person learns which of them changed.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;
use hawser_rules::Registry;
use serde::{Deserialize, Serialize};

/// Nodes that a sentence names. A guess: more of them are another network.
const NAMED_MAX: usize = 8;

/// A node with the facts by which its envelopes are judged, hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct JudgedNode {
    public_key: String,
    absences: String,
}

/// The nodes that judge a log, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JudgedNodes(BTreeMap<u32, JudgedNode>);

impl JudgedNodes {
    pub(super) fn new(registry: &Registry) -> Self {
        let judged = |id: OriginatorId, key: &[u8]| JudgedNode {
            public_key: hex::encode(key),
            absences: hex::encode(registry.absences(id).to_bytes()),
        };
        let nodes = registry.nodes();
        Self(nodes.map(|it| (it.id.0, judged(it.id, it.public_key.as_bytes()))).collect())
    }

    /// Returns what differs in `given`, in a phrase for people.
    pub(super) fn differences(&self, given: &Self) -> String {
        if self.0.is_empty() {
            return "the file does not name them".to_owned();
        }
        let ids: Vec<&u32> =
            self.0.keys().chain(given.0.keys().filter(|id| !self.0.contains_key(id))).collect();
        let mut found = Vec::new();
        for id in ids {
            match (self.0.get(id), given.0.get(id)) {
                (Some(_), None) => found.push(format!("node {id} is not given now")),
                (None, Some(_)) => found.push(format!("node {id} was not given then")),
                (Some(then), Some(now)) => {
                    if then.public_key != now.public_key {
                        found.push(format!("node {id} had another key"));
                    }
                    if then.absences != now.absences {
                        found.push(format!("node {id} had other absences"));
                    }
                }
                (None, None) => {}
            }
        }
        let more = found.len().saturating_sub(NAMED_MAX);
        found.truncate(NAMED_MAX);
        match (found.is_empty(), more) {
            (true, _) => "the file names the same ones, so it was edited".to_owned(),
            (_, 0) => found.join(", "),
            _ => format!("{}, and {more} more differences", found.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_rules::{Absence, Absences};

    use super::*;
    use crate::replay::testing::{NODE, WITNESS, key, settings};

    #[test]
    fn every_kind_of_difference_is_named() {
        let registry = settings().registry;
        let then = JudgedNodes::new(&registry);
        let without: Registry = registry.nodes().filter(|it| it.id == NODE).cloned().collect();
        let now = JudgedNodes::new(&without);
        assert_eq!(then.differences(&now), format!("node {WITNESS} is not given now"));
        assert_eq!(now.differences(&then), format!("node {WITNESS} was not given then"));

        let mut others: Vec<_> = registry.nodes().cloned().collect();
        others[0].public_key = key(7).public_key();
        let absences = Absences::new(vec![Absence { from_s: 5, until_s: Some(9) }]).unwrap();
        let others = others.into_iter().collect::<Registry>().with_absences([(WITNESS, absences)]);
        let found = then.differences(&JudgedNodes::new(&others));
        assert_eq!(
            found,
            format!("node {NODE} had another key, node {WITNESS} had other absences")
        );

        assert_eq!(JudgedNodes::default().differences(&then), "the file does not name them");
        let many = (0..20).map(|id| (id, then.0[&NODE.0].clone())).collect();
        let found = JudgedNodes(many).differences(&then);
        assert!(found.ends_with(", and 14 more differences"), "{found}");
    }
}
