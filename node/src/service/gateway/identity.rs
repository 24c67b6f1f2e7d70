//! Judges identity updates before they cost gas.

use hawser_gateway::identity::IdentityCheck;
use hawser_mls::identity::{Judgement, fold_trusted, judge};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

/// By the rules that nodes judge by, without asking contract wallets: nodes do that.
pub(super) struct Updates;

impl IdentityCheck for Updates {
    fn check(
        &self,
        _: [u8; 32],
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
    ) -> Result<(), String> {
        // Whatever is wrong with the log, it is not this update's fault.
        let Ok(before) = fold_trusted(None, earlier) else { return Ok(()) };
        match judge(before.as_ref(), update, |_| None) {
            Judgement::Valid(_) | Judgement::Waiting(_) => Ok(()),
            Judgement::Invalid(error) => Err(error.to_string()),
        }
    }
}
