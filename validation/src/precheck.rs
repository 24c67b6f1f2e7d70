//! Validates identity updates before they are put on the chain, for gateways: an invalid one would
//! cost gas and be dropped by every node.

mod turns;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use hawser_mls::identity::{
    AssociationState, IdentityError, TrustedUpdate, UpdateCheck, WalletQuestion, wallet_questions,
};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

pub use turns::PrecheckCaller;
use turns::{PrecheckTurnError, PrecheckTurns};

use crate::limits::{ACTIONS_PER_TURN, REQUEST_WALLETS_MAX, WALLET_BLOCKS_AHEAD_MAX};
use crate::unanswered::UnansweredWallets;
use crate::wallets::{NewestBlock, WalletError, Wallets};

/// The reason contract wallets do not confirm an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VouchError {
    /// A wallet does not accept its signature, or nodes could not ask it.
    #[error("{0}")]
    Refused(String),
    /// A wallet's chain cannot be asked now.
    #[error("{0}")]
    Unavailable(String),
    /// The caller exceeds its limit of questions to wallets.
    #[error("{0}")]
    TooMany(String),
    /// The caller's turn did not come in time, because too many callers have questions to wallets.
    #[error("{0}")]
    Busy(String),
}

impl From<PrecheckTurnError> for VouchError {
    fn from(error: PrecheckTurnError) -> Self {
        match error {
            PrecheckTurnError::OfCaller => Self::TooMany(error.to_string()),
            PrecheckTurnError::OfAll => Self::Busy(error.to_string()),
        }
    }
}

/// Validates updates by the rules of the nodes and by contract wallets' present answers.
pub struct UpdatePrecheck {
    wallets: Arc<Wallets>,
    turns: PrecheckTurns,
    unanswered: UnansweredWallets,
}

impl UpdatePrecheck {
    /// Creates a precheck that asks contract wallets through `wallets`. The gateway has this number of `tenants`, which
    /// have equal shares of the questions. The precheck refuses an update that names a wallet of an unlisted chain.
    #[must_use]
    pub fn new(wallets: Arc<Wallets>, tenants: usize) -> Self {
        let (turns, unanswered) = (PrecheckTurns::new(tenants), UnansweredWallets::default());
        Self { wallets, turns, unanswered }
    }

    /// Asks every contract wallet that a caller's `update` names, one after another. If nodes cannot ask a wallet, the
    /// update and all later ones of its inbox would wait there.
    ///
    /// Each question costs the operator calls at an endpoint, even if the update is then refused. So an update has at
    /// most [`REQUEST_WALLETS_MAX`] questions, a caller has a limit, and all callers take turns at what a gateway asks.
    /// Each tenant has an equal share of that, so that none uses up the questions of another.
    ///
    /// # Errors
    /// Returns an error if there are too many questions, a wallet refuses or cannot be asked, or the update is
    /// malformed.
    pub async fn ask_wallets(
        &self,
        caller: PrecheckCaller<'_>,
        update: &IdentityUpdate,
    ) -> Result<(), VouchError> {
        let questions =
            wallet_questions(update).map_err(|error| VouchError::Refused(error.to_string()))?;
        if questions.is_empty() {
            return Ok(());
        }
        if questions.len() > REQUEST_WALLETS_MAX {
            return Err(VouchError::Refused(format!(
                "the update has {} signatures of contract wallets: at most {REQUEST_WALLETS_MAX} are asked about",
                questions.len()
            )));
        }
        self.turns.check(caller, questions.len())?;
        let mut newest = BTreeMap::new();
        for question in questions {
            self.turns.wait(caller).await?;
            let chain_id = question.chain_id;
            let newest = match newest.entry(chain_id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    let asked = self.wallets.newest_block(chain_id).await;
                    *unknown.insert(asked.map_err(|error| self.not_asked(chain_id, &error))?)
                }
            };
            self.ask(&question, newest).await?;
        }
        self.turns.note_agreed(caller);
        Ok(())
    }

    /// Asks one wallet. `newest` is the chain's newest block. Nodes ask the same question later and keep the update
    /// waiting until it is answered. A question about a block that the chain does not have, or whose state it has
    /// pruned, never gets an answer.
    async fn ask(&self, question: &WalletQuestion, newest: NewestBlock) -> Result<(), VouchError> {
        let WalletQuestion { chain_id, address, block_number, .. } = question;
        let is_ahead_of =
            |newest: u64| *block_number > newest.saturating_add(WALLET_BLOCKS_AHEAD_MAX);
        if is_ahead_of(newest.stated) {
            let text = format!(
                "Signature validation failed: the update states that a contract wallet signed at block \
                 {block_number} of chain {chain_id}, which has {}",
                newest.stated
            );
            return Err(VouchError::Refused(text));
        }
        let unknown = |error| self.not_asked(*chain_id, &error);
        let disagreed = || {
            let reason = "its endpoints do not agree on the newest block".to_owned();
            unknown(WalletError::NoAnswer { chain_id: *chain_id, reason })
        };
        // A wallet that accepted the signature so much earlier may have another owner by now.
        if is_ahead_of(newest.reached) {
            return Err(disagreed());
        }
        // Nodes wait a short time for a block that does not exist yet. Until then the wallet's answer at the newest
        // block counts: otherwise a hostile caller could block another user's inbox at the gateway's expense.
        let asked_at = (*block_number).min(newest.reached);
        let now = WalletQuestion { block_number: asked_at, ..question.clone() };
        if self.wallets.ask(&now).await.map_err(unknown)? {
            return Ok(());
        }
        if asked_at < (*block_number).min(newest.stated) {
            // The wallet may accept it at a later block, which an endpoint states to have.
            return Err(disagreed());
        }
        let text = format!(
            "Signature validation failed: the contract wallet {address} of chain {chain_id} has \
             not signed it"
        );
        Err(VouchError::Refused(text))
    }

    fn not_asked(&self, chain_id: u64, error: &WalletError) -> VouchError {
        match error {
            WalletError::UnknownChain(_) | WalletError::NoEndpoint(_) => {
                let known: Vec<_> = self.wallets.chain_ids().iter().map(u64::to_string).collect();
                let known = match &known[..] {
                    [] => "none".to_owned(),
                    ids => ids.join(", "),
                };
                VouchError::Refused(format!(
                    "contract wallets of chain {chain_id} cannot be asked here; those of these \
                     chains can: {known}"
                ))
            }
            WalletError::NoAnswer { .. } => VouchError::Unavailable(self.unanswered.text_of(error)),
        }
    }
}

/// Validates the updates of one inbox one after another, in turns, and advances its state. Does no I/O, and assumes
/// that every contract wallet agrees.
#[derive(Default)]
pub struct InboxPrecheck {
    state: Option<AssociationState>,
    /// The check of the next update, once its first turn is over.
    begun: Option<UpdateCheck<Arc<IdentityUpdate>>>,
    /// The next update of the log, once its first turn is over.
    adding: Option<TrustedUpdate<Arc<IdentityUpdate>>>,
}

/// The result of a turn of a check, or of an addition, that has found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckTurn {
    /// The update is valid, and is added.
    Done,
    /// The update has more actions to check, or to add.
    Later,
}

/// An update cannot have been valid in its place: the log that has it is not that of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the updates of the inbox do not follow from each other")]
pub struct BrokenLogError;

impl InboxPrecheck {
    /// Applies an update of the log, as a node shows it, for one turn of at most [`ACTIONS_PER_TURN`] actions. After
    /// [`CheckTurn::Later`], the next call has to be about the same update.
    ///
    /// # Errors
    /// [`BrokenLogError`]; the state is then unchanged. The caller must not validate updates against such a log,
    /// because a node could have invented it to let any update pass.
    pub fn add(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
        self.adding_turn(update).map_err(|_| BrokenLogError)
    }

    fn adding_turn(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, IdentityError> {
        let mut adding = match self.adding.take() {
            Some(adding) => adding,
            None => TrustedUpdate::begin(update.clone())?,
        };
        if adding.apply_next(self.state.as_ref(), ACTIONS_PER_TURN)? == ACTIONS_PER_TURN {
            self.adding = Some(adding);
            return Ok(CheckTurn::Later);
        }
        adding.finish(&mut self.state)?;
        Ok(CheckTurn::Done)
    }

    /// Validates `update` after the ones before it for one turn, which verifies the signatures of at most
    /// [`ACTIONS_PER_TURN`] actions, and adds it after the last turn. After [`CheckTurn::Later`], the next call has to
    /// be about the same update.
    ///
    /// # Errors
    /// Returns the reason every node would drop the update.
    pub fn check(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
        self.turn(update).map_err(|error| error.to_string())
    }

    fn turn(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, IdentityError> {
        let mut check = match self.begun.take() {
            Some(begun) => begun,
            None => UpdateCheck::begin(update.clone())?,
        };
        if check.verify_next(ACTIONS_PER_TURN)? == ACTIONS_PER_TURN {
            self.begun = Some(check);
            return Ok(CheckTurn::Later);
        }
        check.finish(self.state.as_ref())?.apply(&mut self.state);
        Ok(CheckTurn::Done)
    }
}

#[cfg(test)]
mod tests {
    use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings};
    use hawser_mls::identity::{MemberIdentifier, signed_text};
    use hawser_proto::pb::xmtp::identity::associations as pb;
    use hawser_proto::sign::keccak256;
    use hawser_proto::{Bytes, SecretKey};

    use super::*;
    use crate::limits::{PRECHECK_WALLETS_PER_CALLER_MAX, QUOTA_PERIOD};
    use crate::wallets::{ChainReply, WalletChainList, WalletChains};

    const CHAIN_ID: u64 = 31_339;

    /// Returns an update by which a wallet founds its inbox. The wallet is an account with a key, so no contract is
    /// asked.
    fn founding(signer: u8, chain_id: u64, block_number: u64) -> IdentityUpdate {
        let key = |number| SecretKey::from_bytes(&[number; 32]).unwrap();
        let founder = MemberIdentifier::of_address(key(7).public_key().address());
        let update = |bytes: Vec<u8>| {
            let signature = pb::SmartContractWalletSignature {
                account_id: format!("eip155:{chain_id}:{founder}"),
                block_number,
                signature: bytes.into(),
            };
            let create = pb::CreateInbox {
                initial_identifier: founder.to_string(),
                initial_identifier_signature: Some(pb::Signature {
                    signature: Some(pb::signature::Signature::Erc6492(signature)),
                }),
                ..pb::CreateInbox::default()
            };
            let kind = Some(pb::identity_action::Kind::CreateInbox(create));
            IdentityUpdate {
                actions: vec![pb::IdentityAction { kind }],
                inbox_id: founder.inbox_id(0),
                ..IdentityUpdate::default()
            }
        };
        let text = signed_text(&update(Vec::new())).unwrap();
        let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
        let digest = keccak256(&[prefix.as_bytes(), text.as_bytes()]);
        let mut signature = *key(signer).sign(digest).as_bytes();
        signature[64] += 27;
        update(Bytes::copy_from_slice(&signature).to_vec())
    }

    fn caller(name: &str) -> PrecheckCaller<'_> {
        PrecheckCaller { tenant: "", network: name, name }
    }

    /// A single caller cannot use up the questions that all callers together may ask.
    #[tokio::test(start_paused = true)]
    async fn a_caller_has_a_share_of_the_questions() {
        let wallets = Wallets::over_rpc([], WalletChainList::with([CHAIN_ID]));
        let updates = UpdatePrecheck::new(Arc::new(wallets), 1);
        let ask = async |name| updates.ask_wallets(caller(name), &founding(7, CHAIN_ID, 0)).await;
        let mut count = 0;
        while !matches!(ask("greedy").await, Err(VouchError::TooMany(_))) {
            count += 1;
        }
        assert_eq!(count, PRECHECK_WALLETS_PER_CALLER_MAX);
        let other = ask("other").await;
        assert!(matches!(other, Err(VouchError::Refused(_))), "it was asked for: {other:?}");
        tokio::time::advance(QUOTA_PERIOD).await;
        let again = ask("greedy").await;
        assert!(matches!(again, Err(VouchError::Refused(_))), "{again:?}");

        let mut many = founding(7, CHAIN_ID, 0);
        many.actions = vec![many.actions[0].clone(); REQUEST_WALLETS_MAX + 1];
        let refused = updates.ask_wallets(caller("third"), &many).await;
        assert!(matches!(&refused, Err(VouchError::Refused(text)) if text.contains("at most")));
    }

    /// A chain with a wallet from block 50 on, whose endpoints state different newest blocks.
    struct Heads(NewestBlock);

    #[tonic::async_trait]
    impl WalletChains for Heads {
        fn ids(&self) -> Vec<u64> {
            vec![CHAIN_ID]
        }

        async fn newest_block(&self, _: u64) -> Result<NewestBlock, WalletError> {
            Ok(self.0)
        }

        async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
            if question.block_number > self.0.reached {
                let reason = "most do not have the block".to_owned();
                return Err(WalletError::NoAnswer { chain_id: CHAIN_ID, reason });
            }
            Ok(ChainReply::Answer { agrees: question.block_number >= 50, block_time_s: 0 })
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_states_another_newest_block_has_no_signature_refused() {
        let checked = async |reached: u64, stated: u64, block_number: u64| {
            let heads = Arc::new(Heads(NewestBlock { reached, stated }));
            let wallets = Wallets::new(heads, WalletChainList::with([CHAIN_ID]));
            let updates = UpdatePrecheck::new(Arc::new(wallets), 1);
            updates.ask_wallets(caller("a"), &founding(7, CHAIN_ID, block_number)).await
        };
        assert_eq!(checked(100, 101, 101).await, Ok(()), "an endpoint is a block behind");
        assert_eq!(checked(100, 1 << 60, 105).await, Ok(()), "an endpoint states too high a block");
        for (reached, block_number) in [(10, 11), (10, 100), (10, 110), (60, 71), (60, 100)] {
            let low = checked(reached, 100, block_number).await;
            assert!(matches!(low, Err(VouchError::Unavailable(_))), "{low:?}");
        }
        assert_eq!(checked(60, 100, 70).await, Ok(()));
        for (reached, stated, block_number) in [(100, 101, 49), (10, 100, 111), (49, 49, 50)] {
            let refused = checked(reached, stated, block_number).await;
            assert!(matches!(refused, Err(VouchError::Refused(_))), "{refused:?}");
        }
    }

    /// No valid log holds two updates that both found the inbox.
    #[test]
    fn an_update_that_contradicts_the_log_breaks_it_and_changes_nothing() {
        let mut inbox = InboxPrecheck::default();
        assert_eq!(inbox.add(&founding(7, CHAIN_ID, 0).into()), Ok(CheckTurn::Done));
        assert_eq!(inbox.add(&founding(7, CHAIN_ID, 1).into()), Err(BrokenLogError));
        assert!(inbox.check(&founding(7, CHAIN_ID, 0).into()).is_err(), "the inbox is founded");
    }

    /// An update of the log may have thousands of signatures from which an account has to be recovered.
    #[test]
    fn a_turn_adds_a_bounded_part_of_an_update_of_the_log() {
        let mut inbox = InboxPrecheck::default();
        let mut long = founding(7, CHAIN_ID, 0);
        long.actions = vec![long.actions[0].clone(); 2 * ACTIONS_PER_TURN + 1];
        // The second action contradicts the first one, which is found in the first turn.
        assert_eq!(inbox.add(&Arc::new(long)), Err(BrokenLogError));

        assert_eq!(inbox.add(&founding(7, CHAIN_ID, 0).into()), Ok(CheckTurn::Done));
        let founder = MemberIdentifier::of_address(
            SecretKey::from_bytes(&[7; 32]).unwrap().public_key().address(),
        );
        let signature = Some(pb::Signature {
            signature: Some(pb::signature::Signature::Erc6492(pb::SmartContractWalletSignature {
                account_id: format!("eip155:{CHAIN_ID}:{founder}"),
                block_number: 0,
                signature: vec![1].into(),
            })),
        });
        let revoke = pb::RevokeAssociation {
            member_to_revoke: Some(founder.to_pb()),
            recovery_identifier_signature: signature,
        };
        let kind = Some(pb::identity_action::Kind::Revoke(revoke));
        let long = Arc::new(IdentityUpdate {
            actions: vec![pb::IdentityAction { kind }; 2 * ACTIONS_PER_TURN + 1],
            inbox_id: founder.inbox_id(0),
            ..IdentityUpdate::default()
        });
        for _ in 0..2 {
            assert_eq!(inbox.add(&long), Ok(CheckTurn::Later));
        }
        let members =
            |inbox: &InboxPrecheck| inbox.state.as_ref().map(|state| state.members().count());
        assert_eq!(members(&inbox), Some(1), "an update is added as a whole");
        assert_eq!(inbox.add(&long), Ok(CheckTurn::Done));
        assert_eq!(members(&inbox), Some(0));
    }

    /// The first action that breaks a rule of the inbox may be found only when all signatures are verified.
    #[test]
    fn a_turn_checks_a_bounded_part_of_an_update() {
        let mut inbox = InboxPrecheck::default();
        let mut long = founding(7, CHAIN_ID, 0);
        long.actions = vec![long.actions[0].clone(); 2 * ACTIONS_PER_TURN + 1];
        let long = Arc::new(long);
        for _ in 0..2 {
            assert_eq!(inbox.check(&long), Ok(CheckTurn::Later));
        }
        assert!(inbox.check(&long).is_err(), "an inbox is founded once");
        let short = Arc::new(founding(7, CHAIN_ID, 0));
        assert_eq!(inbox.check(&short), Ok(CheckTurn::Done), "nothing is left of the other");
    }

    #[tokio::test]
    async fn wallets_of_unknown_chains_are_refused() {
        let chain = EmbeddedChain::start(EmbeddedSettings::new(CHAIN_ID)).await.unwrap();
        let url = format!("http://{}", chain.local_addr());
        let away = "http://127.0.0.1:9".to_owned();
        let listed = WalletChainList::with([CHAIN_ID]);
        let wallets = Wallets::over_rpc([(CHAIN_ID, url), (1, away)], listed);
        let updates = UpdatePrecheck::new(Arc::new(wallets), 1);
        let never = async |update: IdentityUpdate, why: &str| {
            let update = Arc::new(update);
            let checked = InboxPrecheck::default().check(&update);
            assert_eq!(checked, Ok(CheckTurn::Done), "it waits at nodes");
            let asked = updates.ask_wallets(caller("a"), &update).await;
            assert!(
                matches!(&asked, Err(VouchError::Refused(text)) if text.contains(why)),
                "{asked:?}"
            );
        };
        assert_eq!(updates.ask_wallets(caller("a"), &founding(7, CHAIN_ID, 0)).await, Ok(()));
        never(founding(8, CHAIN_ID, 0), "has not signed").await;
        never(founding(7, CHAIN_ID, 1 << 60), "which has").await;
        never(founding(7, 999_999, 0), "1, 31339").await;
        let soon =
            updates.ask_wallets(caller("a"), &founding(7, CHAIN_ID, WALLET_BLOCKS_AHEAD_MAX)).await;
        assert_eq!(soon, Ok(()), "another endpoint may have that block");
        never(founding(8, CHAIN_ID, WALLET_BLOCKS_AHEAD_MAX), "has not signed").await;
        let away = updates.ask_wallets(caller("a"), &founding(7, 1, 0)).await;
        assert!(matches!(away, Err(VouchError::Unavailable(_))), "{away:?}");
    }
}
