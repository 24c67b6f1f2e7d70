//! Fuzz target: identity updates, on their own and after the captured ones.

use std::sync::LazyLock;

use bytes::Bytes;
use hawser_mls::identity::{AssociationState, UpdateJudgement, fold_trusted, judge};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use prost::Message as _;

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "identity-update", run, seeds, memory_factor: 1024 };

/// Returns the state of each inbox after every captured update.
static STATES: LazyLock<Vec<AssociationState>> = LazyLock::new(|| {
    let mut states: Vec<AssociationState> = Vec::new();
    for bytes in corpus::identity_updates() {
        let update = IdentityUpdate::decode(Bytes::from(bytes)).expect("a captured update");
        let before = states.iter().rfind(|state| state.inbox_id() == update.inbox_id);
        match judge(before, &update, |_| None) {
            UpdateJudgement::Valid(after) => states.push(after),
            other => panic!("a captured update is {other:?}"),
        }
    }
    states
});

/// Makes the states as well, which is no part of what an input costs.
fn seeds() -> Vec<Vec<u8>> {
    LazyLock::force(&STATES);
    corpus::identity_updates()
}

/// For every answer of wallets, an update is valid, is invalid, or waits for exactly these wallets. A valid update
/// leads a trusting reader to the same state.
fn run(input: &[u8]) {
    let Ok(update) = IdentityUpdate::decode(Bytes::copy_from_slice(input)) else { return };
    let inbox = update.inbox_id.as_str();
    let before = STATES.iter().filter(|state| state.inbox_id() == inbox).map(Some).chain([None]);
    for before in before {
        let agreed = judge(before, &update, |_| Some(true));
        match (&agreed, judge(before, &update, |_| None)) {
            (UpdateJudgement::Valid(after), UpdateJudgement::Valid(same)) => {
                assert_eq!(*after, same)
            }
            (UpdateJudgement::Invalid(error), UpdateJudgement::Invalid(same)) => {
                assert_eq!(*error, same)
            }
            (UpdateJudgement::Valid(_), UpdateJudgement::Waiting(questions)) => {
                assert!(!questions.is_empty())
            }
            (agreed, silent) => panic!("{agreed:?} with answers and {silent:?} without"),
        }
        if let UpdateJudgement::Valid(after) = agreed {
            let folded = fold_trusted(before.cloned(), [&update]);
            assert_eq!(folded.expect("it was judged valid"), Some(after));
        }
    }
}
