//! The five kinds of signatures, and who made one.

use std::cell::OnceCell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::message_contents as legacy;
use hawser_proto::sign::keccak256;
use hawser_proto::{Address, Digest};
use p256::ecdsa::signature::Verifier as _;
use pb::signature::Signature as Kind;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use super::error::Refusal;
use super::legacy::wallet_of;
use super::member::{MemberIdentifier, Passkey};
use super::recover::recover;
use super::wallet::{WalletQuestion, account_of_wallet};

/// What installations' signatures are bound to (RFC 8032 §5.1, Ed25519ph).
const INSTALLATION_CONTEXT: &[u8] = b"IDENTITY UPDATE SIGNATURE";

/// How somebody signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    /// An account's key signed a personal message.
    Erc191,
    /// A contract wallet agrees.
    Erc1271,
    /// An installation's key.
    InstallationKey,
    /// A key that a wallet once delegated to.
    LegacyDelegated,
    /// A passkey.
    P256,
}

impl fmt::Display for SignatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Erc191 => "erc-191",
            Self::Erc1271 => "erc-1271",
            Self::InstallationKey => "installation-key",
            Self::LegacyDelegated => "legacy-delegated",
            Self::P256 => "p256",
        })
    }
}

/// A signature nobody has checked.
#[derive(Debug)]
pub(super) enum Claim<'a> {
    Account(&'a Bytes),
    Contract { chain_id: u64, address: Address, block_number: u64, signature: &'a Bytes },
    Installation { key: &'a Bytes, signature: &'a Bytes },
    Legacy { key: &'a legacy::SignedPublicKey, signature: &'a Bytes },
    Passkey(&'a pb::RecoverablePasskeySignature),
}

/// Who signed, and how.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) identifier: MemberIdentifier,
    pub(super) kind: SignatureKind,
    /// What must not be seen again in a later update.
    pub(super) replay_key: Bytes,
    pub(super) chain_id: Option<u64>,
}

/// What a browser signs beside the authenticator's data (WebAuthn §5.8.1).
#[derive(Deserialize)]
struct ClientData {
    origin: String,
    challenge: String,
}

/// A text in the forms in which signers sign it, each made when it is needed.
pub(super) struct Signed {
    text: String,
    personal: OnceCell<Digest>,
    prehash: OnceCell<Sha512>,
    challenge: OnceCell<String>,
}

impl Signed {
    pub(super) fn new(text: String) -> Self {
        let (personal, prehash, challenge) = <(OnceCell<_>, OnceCell<_>, OnceCell<_>)>::default();
        Self { text, personal, prehash, challenge }
    }

    /// As a personal message (ERC-191).
    pub(super) fn personal(&self) -> Digest {
        *self.personal.get_or_init(|| personal_digest(&self.text))
    }

    fn prehash(&self) -> Sha512 {
        self.prehash.get_or_init(|| Sha512::new_with_prefix(&self.text)).clone()
    }

    fn challenge(&self) -> &str {
        self.challenge.get_or_init(|| URL_SAFE_NO_PAD.encode(&self.text))
    }
}

/// What wallets sign when they are shown `text` (ERC-191, version 0x45).
pub(super) fn personal_digest(text: &str) -> Digest {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256(&[prefix.as_bytes(), text.as_bytes()])
}

impl<'a> Claim<'a> {
    pub(super) fn read(signature: &'a Kind) -> Result<Self, Refusal> {
        Ok(match signature {
            Kind::Erc191(account) => Self::Account(&account.bytes),
            Kind::Erc6492(contract) => {
                let (chain_id, address) = account_of_wallet(&contract.account_id)?;
                let (block_number, signature) = (contract.block_number, &contract.signature);
                Self::Contract { chain_id, address, block_number, signature }
            }
            Kind::InstallationKey(installation) => {
                Self::Installation { key: &installation.public_key, signature: &installation.bytes }
            }
            Kind::DelegatedErc191(delegated) => Self::Legacy {
                key: delegated
                    .delegated_key
                    .as_ref()
                    .ok_or(Refusal::Malformed("missing delegated key"))?,
                signature: &delegated
                    .signature
                    .as_ref()
                    .ok_or(Refusal::Malformed("missing signature of the delegated key"))?
                    .bytes,
            },
            Kind::Passkey(passkey) => Self::Passkey(passkey),
        })
    }

    /// Checks everything but what a contract wallet's chain has to say.
    pub(super) fn verify(&self, signed: &Signed) -> Result<Signer, Refusal> {
        match self {
            Self::Installation { key, signature } => verify_installation(key, signature, signed)?,
            Self::Passkey(passkey) => verify_passkey(passkey, signed)?,
            Self::Legacy { key, signature } => {
                let (delegate, _) = recover(signed.personal(), signature)?;
                if wallet_of(key)?.delegate != delegate {
                    return Err(Refusal::Signature("not made with the delegated key"));
                }
            }
            Self::Account(_) | Self::Contract { .. } => {} // the one shows its signer, the other asks
        }
        self.signer(None, signed)
    }

    /// Who signed, if the signature holds, in bytes of its own: states outlive the envelopes that
    /// made them. `known` spares recovering an account's address.
    pub(super) fn signer(
        &self,
        known: Option<&MemberIdentifier>,
        signed: &Signed,
    ) -> Result<Signer, Refusal> {
        let account = MemberIdentifier::of_address;
        Ok(match self {
            Self::Account(signature) => {
                let (identifier, replay_key) = match known {
                    Some(known) => (known.clone(), super::recover::low_s(signature)?),
                    None => {
                        let (address, low) = recover(signed.personal(), signature)?;
                        (account(address), low)
                    }
                };
                Signer::new(identifier, SignatureKind::Erc191, Bytes::copy_from_slice(&replay_key))
            }
            Self::Contract { chain_id, address, signature, .. } => {
                let bytes = Bytes::copy_from_slice(signature);
                let signer = Signer::new(account(*address), SignatureKind::Erc1271, bytes);
                Signer { chain_id: Some(*chain_id), ..signer }
            }
            Self::Installation { key, signature } => {
                let identifier = MemberIdentifier::Installation(Bytes::copy_from_slice(key));
                let bytes = Bytes::copy_from_slice(signature);
                Signer::new(identifier, SignatureKind::InstallationKey, bytes)
            }
            Self::Legacy { key, .. } => {
                let wallet = wallet_of(key)?;
                let bytes = Bytes::copy_from_slice(&wallet.signature);
                Signer::new(account(wallet.address), SignatureKind::LegacyDelegated, bytes)
            }
            Self::Passkey(passkey) => {
                let identifier = MemberIdentifier::Passkey(Passkey {
                    key: Bytes::copy_from_slice(&passkey.public_key),
                    relying_party: Some(client_data(passkey)?.origin),
                });
                let signature = p256_signature(passkey)?.normalize_s().to_bytes();
                Signer::new(identifier, SignatureKind::P256, Bytes::copy_from_slice(&signature))
            }
        })
    }

    /// What the wallet's chain has to be asked, for contract wallets.
    pub(super) fn question(&self, signed: &Signed) -> Option<WalletQuestion> {
        let Self::Contract { chain_id, address, block_number, signature } = self else {
            return None;
        };
        Some(WalletQuestion {
            chain_id: *chain_id,
            address: *address,
            block_number: *block_number,
            digest: signed.personal(),
            signature: Bytes::copy_from_slice(signature), // questions wait, and answers are kept
        })
    }
}

impl Signer {
    fn new(identifier: MemberIdentifier, kind: SignatureKind, replay_key: Bytes) -> Self {
        Self { identifier, kind, replay_key, chain_id: None }
    }
}

fn verify_installation(key: &[u8], signature: &[u8], signed: &Signed) -> Result<(), Refusal> {
    let key = VerifyingKey::try_from(key)
        .map_err(|_| Refusal::Malformed("installation key that is no Ed25519 point"))?;
    let signature = ed25519_dalek::Signature::from_slice(signature)
        .map_err(|_| Refusal::Signature("an Ed25519 signature has 64 bytes"))?;
    key.verify_prehashed(signed.prehash(), Some(INSTALLATION_CONTEXT), &signature)
        .map_err(|_| Refusal::Signature("not made with the installation's key"))
}

/// WebAuthn §7.2, as far as a node knows what to expect.
fn verify_passkey(
    passkey: &pb::RecoverablePasskeySignature,
    signed: &Signed,
) -> Result<(), Refusal> {
    if client_data(passkey)?.challenge != signed.challenge() {
        return Err(Refusal::Signature("the passkey signed another challenge"));
    }
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&passkey.public_key)
        .map_err(|_| Refusal::Signature("the passkey is no P-256 point"))?;
    let mut data = passkey.authenticator_data.to_vec();
    data.extend_from_slice(&Sha256::digest(&passkey.client_data_json));
    key.verify(&data, &p256_signature(passkey)?)
        .map_err(|_| Refusal::Signature("not made with the passkey"))
}

fn client_data(passkey: &pb::RecoverablePasskeySignature) -> Result<ClientData, Refusal> {
    serde_json::from_slice(&passkey.client_data_json)
        .map_err(|_| Refusal::Signature("client data that is not JSON with origin and challenge"))
}

fn p256_signature(
    passkey: &pb::RecoverablePasskeySignature,
) -> Result<p256::ecdsa::Signature, Refusal> {
    p256::ecdsa::Signature::from_der(&passkey.signature)
        .map_err(|_| Refusal::Signature("a passkey's signature is written in DER"))
}
