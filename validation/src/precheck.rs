//! Judges identity updates before they cost gas.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_chain::wallets::{WalletChains, WalletError, WalletQuery};
use hawser_gateway::identity::{IdentityCheck, WalletFault};
use hawser_mls::identity::{Judgement, WalletQuestion, fold_trusted, judge, wallet_questions};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use tokio::sync::Semaphore;

/// How far before an endpoint's newest block a signature may be: whoever signed may have seen
/// another endpoint. A guess.
const AHEAD_MAX: u64 = 10;
/// Wallets that are asked at once, for whomever.
const AT_ONCE: usize = 8;

/// By the rules that nodes judge by, and what contract wallets say now.
pub(super) struct Updates {
    wallets: WalletChains,
    asking: Semaphore,
}

impl Updates {
    /// Contract wallets of other chains vouch for nothing.
    pub(super) fn new(wallets: WalletChains) -> Self {
        Self { wallets, asking: Semaphore::new(AT_ONCE) }
    }

    /// Nodes ask the same question, and have the update wait until it is answered. A block that the
    /// chain does not have, or does not know the state of any more, is never answered.
    async fn ask(&self, question: WalletQuestion) -> Result<(), WalletFault> {
        let WalletQuestion { chain_id, address, block_number, digest, signature } = question;
        let unknown = |error| self.unknown(chain_id, &error);
        let _place = self.asking.acquire().await;
        let newest = self.wallets.newest(chain_id).await.map_err(unknown)?;
        if block_number > newest.saturating_add(AHEAD_MAX) {
            let text = format!(
                "Signature validation failed: a contract wallet is said to have signed at block \
                 {block_number} of chain {chain_id}, which has {newest}"
            );
            return Err(WalletFault::Never(text));
        }
        if block_number > newest {
            return Ok(()); // nodes wait for it, and not for long
        }
        let query = WalletQuery {
            wallet: address.0.into(),
            digest: digest.0.into(),
            signature: signature.into(),
            block_number: Some(block_number),
        };
        let answer = self.wallets.ask(chain_id, &query).await.map_err(unknown)?;
        if answer.agrees {
            return Ok(());
        }
        let text = format!(
            "Signature validation failed: the contract wallet {address} of chain {chain_id} has \
             not signed it"
        );
        Err(WalletFault::Never(text))
    }

    fn unknown(&self, chain_id: u64, error: &WalletError) -> WalletFault {
        match error {
            WalletError::NoEndpoint(_) => {
                let known: Vec<_> = self.wallets.ids().map(|id| id.to_string()).collect();
                let known = match &known[..] {
                    [] => "none".to_owned(),
                    ids => ids.join(", "),
                };
                WalletFault::Never(format!(
                    "contract wallets of chain {chain_id} cannot be asked here; those of these \
                     chains can: {known}"
                ))
            }
            WalletError::Connect(_) | WalletError::Rpc(_) => {
                tracing::warn!(
                    code = "wallet_unavailable",
                    chain_id,
                    "a contract wallet cannot be asked: {error}"
                );
                WalletFault::NotNow(format!(
                    "the contract wallets of chain {chain_id} cannot be asked now"
                ))
            }
        }
    }
}

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

    fn wallets<'a>(&'a self, update: &'a IdentityUpdate) -> BoxFuture<'a, Result<(), WalletFault>> {
        async {
            let questions =
                wallet_questions(update).map_err(|error| WalletFault::Never(error.to_string()))?;
            for question in questions {
                self.ask(question).await?;
            }
            Ok(())
        }
        .boxed()
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

    const CHAIN_ID: u64 = 31_339;

    /// A wallet founds its inbox. An account with a key needs no contract to be asked.
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

    #[tokio::test]
    async fn what_nodes_could_not_ask_about_is_refused() {
        let chain = EmbeddedChain::start(EmbeddedSettings::new(CHAIN_ID)).await.unwrap();
        let url = format!("http://{}", chain.local_addr());
        let away = "http://127.0.0.1:9".to_owned();
        let updates = Updates::new(WalletChains::new([(CHAIN_ID, url), (1, away)]));
        let never = async |update: IdentityUpdate, why: &str| {
            assert!(updates.check([0; 32], &[], &update).is_ok(), "it waits at nodes");
            let told = updates.wallets(&update).await;
            assert!(
                matches!(&told, Err(WalletFault::Never(text)) if text.contains(why)),
                "{told:?}"
            );
        };
        assert_eq!(updates.wallets(&founding(7, CHAIN_ID, 0)).await, Ok(()));
        never(founding(8, CHAIN_ID, 0), "has not signed").await;
        never(founding(7, CHAIN_ID, 1 << 60), "which has").await;
        never(founding(7, 999_999, 0), "1, 31339").await;
        let soon = updates.wallets(&founding(8, CHAIN_ID, AHEAD_MAX)).await;
        assert_eq!(soon, Ok(()), "another endpoint may have that block");
        let away = updates.wallets(&founding(7, 1, 0)).await;
        assert!(matches!(away, Err(WalletFault::NotNow(_))), "{away:?}");
    }
}
