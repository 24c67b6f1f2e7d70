//! Selection of the envelopes that go to the node, and their division into requests.

use std::collections::{BTreeMap, HashMap};

use hawser_node::files::lines::{EnvelopeLine, StrandKind};

/// The requests to send, and counts of envelopes that are left out.
#[derive(Debug, Default)]
pub(super) struct PublishPlan {
    /// Ordered by the first line of each request in the file.
    pub(super) requests: Vec<Vec<EnvelopeLine>>,
    /// Number of envelopes that a chain orders, by strand.
    pub(super) left_out: BTreeMap<StrandKind, usize>,
    /// Requests of which some envelopes are sent and some belong to a chain.
    pub(super) partly_left_out: usize,
}

impl PublishPlan {
    pub(super) fn of(lines: Vec<EnvelopeLine>) -> Self {
        let mut plan = Self::default();
        let mut place_of: HashMap<String, usize> = HashMap::new();
        let mut left_out_of: HashMap<String, usize> = HashMap::new();
        for line in lines {
            if line.route != StrandKind::Node {
                *plan.left_out.entry(line.route).or_default() += 1;
                *left_out_of.entry(line.request.unwrap_or_default()).or_default() += 1;
                continue;
            }
            match &line.request {
                // Without a name it is a request of its own.
                None => plan.requests.push(vec![line]),
                Some(name) => {
                    let place = *place_of.entry(name.clone()).or_insert(plan.requests.len());
                    if place == plan.requests.len() {
                        plan.requests.push(Vec::new());
                    }
                    plan.requests[place].push(line);
                }
            }
        }
        plan.partly_left_out =
            place_of.keys().filter(|name| left_out_of.contains_key(*name)).count();
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_node::files::lines;

    fn plan(lines: &[(&str, &str)]) -> PublishPlan {
        let text: String = lines
            .iter()
            .map(|(route, request)| {
                format!("{{\"hex\":\"\",\"expect_route\":\"{route}\"{request}}}\n")
            })
            .collect();
        PublishPlan::of(lines::parse(&text).unwrap())
    }

    fn numbers(plan: &PublishPlan) -> Vec<Vec<u64>> {
        plan.requests.iter().map(|lines| lines.iter().map(|line| line.number).collect()).collect()
    }

    #[test]
    fn lines_of_one_request_go_together_and_others_alone() {
        let (one, two) = (",\"request\":1", ",\"request\":\"two\"");
        let plan = plan(&[("node", one), ("node", ""), ("node", two), ("node", one), ("node", "")]);
        assert_eq!(numbers(&plan), [vec![1, 4], vec![2], vec![3], vec![5]]);
        assert_eq!(plan.partly_left_out, 0);
    }

    #[test]
    fn envelopes_for_chains_are_left_out_and_counted() {
        let one = ",\"request\":1";
        let plan = plan(&[
            ("chain:group", one),
            ("node", one),
            ("chain:identity", ""),
            ("chain:group", ",\"request\":2"),
            ("node", ""),
        ]);
        assert_eq!(numbers(&plan), [vec![2], vec![5]]);
        assert_eq!(
            plan.left_out,
            BTreeMap::from([(StrandKind::Group, 2), (StrandKind::Identity, 1)])
        );
        assert_eq!(plan.partly_left_out, 1);
    }
}
