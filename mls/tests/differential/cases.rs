//! The cases: every known variation of an update's encoding and signatures, and random updates.

use std::collections::BTreeMap;

use hawser_mls::identity::{AssociationState, UpdateJudgement, WalletQuestion, judge, signed_text};
use hawser_proto::pb::xmtp::identity::associations as pb;
use prost::Message as _;

use super::{forms, random};
use crate::common::Act;

/// An update after the first updates of a log.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) log: String,
    pub(crate) after: usize,
    pub(crate) update: Vec<u8>,
}

pub(crate) type Logs = BTreeMap<String, Vec<pb::IdentityUpdate>>;

/// The cases under construction.
#[derive(Default)]
pub(crate) struct Cases {
    pub(crate) logs: Logs,
    pub(crate) cases: Vec<Case>,
}

/// The chains whose wallets clients know without configuration.
const WALLET_CHAINS: [u64; 11] = [1, 10, 100, 137, 232, 324, 480, 2741, 8453, 42161, 59144];

/// Returns the answer of every contract wallet, the same as the stand-in's: it agrees if its chain is known and the
/// first byte of the signature is even.
pub(crate) fn agrees(question: &WalletQuestion) -> bool {
    WALLET_CHAINS.contains(&question.chain_id)
        && question.signature.first().is_some_and(|byte| byte % 2 == 0)
}

pub(crate) fn all() -> (Logs, Vec<Case>) {
    let mut cases = Cases::default();
    forms::add(&mut cases);
    random::add(&mut cases);
    (cases.logs, cases.cases)
}

impl Cases {
    /// Adds a log of valid updates.
    pub(crate) fn log(&mut self, name: &str, updates: Vec<pb::IdentityUpdate>) {
        updates.iter().fold(None, |state, update| Some(after(state.as_ref(), update).unwrap()));
        self.logs.insert(name.to_owned(), updates);
    }

    pub(crate) fn case(&mut self, name: impl Into<String>, log: &str, update: &pb::IdentityUpdate) {
        let after = self.logs[log].len();
        self.bytes(name, log, after, update.encode_to_vec());
    }

    pub(crate) fn bytes(
        &mut self,
        name: impl Into<String>,
        log: &str,
        after: usize,
        update: Vec<u8>,
    ) {
        let (name, log) = (name.into(), log.to_owned());
        self.cases.push(Case { name, log, after, update });
    }
}

/// Returns the state after an update; `None` if it is invalid.
pub(crate) fn after(
    before: Option<&AssociationState>,
    update: &pb::IdentityUpdate,
) -> Option<AssociationState> {
    match judge(before, update, |question| Some(agrees(question))) {
        UpdateJudgement::Valid(after) => Some(after),
        _ => None,
    }
}

/// Returns an update with all its signatures, without a check of the time or of identifiers' spelling. The signed
/// text is this library's: if the client computes another one, the verdicts differ.
pub(crate) fn signed(inbox_id: &str, time_ns: u64, actions: &[Act]) -> pb::IdentityUpdate {
    let with = |text: &str| pb::IdentityUpdate {
        actions: actions
            .iter()
            .map(|act| pb::IdentityAction { kind: Some(act.kind(text)) })
            .collect(),
        client_timestamp_ns: time_ns,
        inbox_id: inbox_id.to_owned(),
    };
    // A malformed update has no text.
    let text = signed_text(&with("-")).unwrap_or_default();
    with(&text)
}
