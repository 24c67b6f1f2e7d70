//! Identity checks for tests, which do not read the updates.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_gateway::identity::{
    BrokenLogError, CheckTurn, IdentityCheck, InboxCheck, PrecheckCaller, VouchError,
};
use hawser_proto::InboxId;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

/// An identity check that accepts every update, unless its fields say otherwise.
#[derive(Default)]
pub(crate) struct FakeCheck {
    /// The inbox whose updates are refused.
    spoilt: Option<[u8; 32]>,
    /// True while all updates are refused.
    pub(crate) refuses_all: AtomicBool,
    /// The answer for contract wallets.
    wallets: Option<VouchError>,
}

impl FakeCheck {
    /// Refuses the updates of this inbox.
    pub(crate) fn without(spoilt: [u8; 32]) -> Self {
        Self { spoilt: Some(spoilt), ..Self::default() }
    }

    /// Gives this answer for contract wallets.
    pub(crate) fn of_wallets(fault: VouchError) -> Self {
        Self { wallets: Some(fault), ..Self::default() }
    }
}

impl IdentityCheck for FakeCheck {
    fn open(&self, inbox: InboxId) -> Box<dyn InboxCheck> {
        Box::new(Spoilt(self.refuses_all.load(Relaxed) || self.spoilt == Some(inbox.0)))
    }

    fn wallets<'a>(
        &'a self,
        _: PrecheckCaller<'a>,
        _: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        async { self.wallets.clone().map_or(Ok(()), Err) }.boxed()
    }
}

/// An inbox check that refuses every update if the value is true.
struct Spoilt(bool);

impl InboxCheck for Spoilt {
    fn add(&mut self, _: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
        Ok(CheckTurn::Done)
    }

    fn check(&mut self, _: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
        if self.0 { Err("it is spoilt".into()) } else { Ok(CheckTurn::Done) }
    }
}

/// The number of an update that is in no inbox's log.
pub(crate) const IMPOSSIBLE: u64 = u64::MAX;

/// An identity check that accepts an update if its number is the count of the earlier ones.
pub(crate) struct Numbered;

/// An inbox of [`Numbered`]: the count of its updates so far.
struct NumberedInbox(u64);

impl InboxCheck for NumberedInbox {
    fn add(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
        if update.client_timestamp_ns == IMPOSSIBLE {
            return Err(BrokenLogError);
        }
        self.0 += 1;
        Ok(CheckTurn::Done)
    }

    fn check(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
        let (own, next) = (update.client_timestamp_ns, self.0);
        self.0 += 1;
        if own == next { Ok(CheckTurn::Done) } else { Err(format!("it is {own} and not {next}")) }
    }
}

impl IdentityCheck for Numbered {
    fn open(&self, _: InboxId) -> Box<dyn InboxCheck> {
        Box::new(NumberedInbox(0))
    }

    fn wallets<'a>(
        &'a self,
        _: PrecheckCaller<'a>,
        _: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        async { Ok(()) }.boxed()
    }
}
