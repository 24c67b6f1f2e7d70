//! Verifies the five kinds of signatures and finds their signers.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use hawser_proto::Digest;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::message_contents as legacy;
use p256::ecdsa::signature::Verifier as _;
use pb::signature::Signature as Kind;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use super::error::IdentityViolation;
use super::kind::SignatureKind;
use super::legacy::{Delegation, wallet_of};
use super::member::{MemberIdentifier, Passkey};
use super::recover::{low_s, personal_digest, recover};
use super::wallet::{WalletAccount, WalletQuestion};

/// Context of installations' signatures (Ed25519ph, RFC 8032 §5.1; XIP-46).
const INSTALLATION_CONTEXT: &[u8] = b"IDENTITY UPDATE SIGNATURE";

/// A signature that is not verified yet.
#[derive(Debug)]
pub(super) enum UnverifiedSignature<'a> {
    Account(&'a Bytes),
    Contract { account: WalletAccount, block_number: u64, signature: &'a Bytes },
    Installation { key: &'a Bytes, signature: &'a Bytes },
    Legacy { key: &'a legacy::SignedPublicKey, signature: &'a Bytes },
    Passkey(&'a pb::RecoverablePasskeySignature),
}

/// A verified signature: the signer and its kind.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) identifier: MemberIdentifier,
    pub(super) kind: SignatureKind,
    /// Identifies the signature; a later update with the same one is a replay.
    pub(super) replay_key: Bytes,
    pub(super) chain_id: Option<u64>,
}

/// The data that a browser adds to a passkey's signature (WebAuthn §5.8.1).
#[derive(Deserialize)]
struct ClientData {
    origin: String,
    challenge: String,
}

/// The text of an update in the forms that signers sign, each computed on first use.
pub(super) struct SignedText {
    text: String,
    personal: OnceCell<Digest>,
    prehash: OnceCell<Sha512>,
    challenge: OnceCell<String>,
}

impl SignedText {
    pub(super) fn new(text: String) -> Self {
        let (personal, prehash, challenge) = <(OnceCell<_>, OnceCell<_>, OnceCell<_>)>::default();
        Self { text, personal, prehash, challenge }
    }

    /// Returns the digest as a personal message (ERC-191).
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

impl<'a> UnverifiedSignature<'a> {
    /// Reads a signature.
    pub(super) fn read(signature: &'a Kind) -> Result<Self, IdentityViolation> {
        Ok(match signature {
            Kind::Erc191(account) => Self::Account(&account.bytes),
            Kind::Erc6492(contract) => {
                let account = WalletAccount::parse(&contract.account_id)?;
                let (block_number, signature) = (contract.block_number, &contract.signature);
                Self::Contract { account, block_number, signature }
            }
            Kind::InstallationKey(installation) => {
                Self::Installation { key: &installation.public_key, signature: &installation.bytes }
            }
            Kind::DelegatedErc191(delegated) => Self::Legacy {
                key: delegated
                    .delegated_key
                    .as_ref()
                    .ok_or(IdentityViolation::Malformed("missing delegated key"))?,
                signature: &delegated
                    .signature
                    .as_ref()
                    .ok_or(IdentityViolation::Malformed("missing signature of the delegated key"))?
                    .bytes,
            },
            Kind::Passkey(passkey) => Self::Passkey(passkey),
        })
    }

    /// Verifies the signature. A contract wallet is assumed to agree; its chain has to confirm the
    /// [`question`](Self::question).
    pub(super) fn verify(&self, signed: &SignedText) -> Result<Signer, IdentityViolation> {
        match self {
            Self::Installation { key, signature } => verify_installation(key, signature, signed)?,
            Self::Passkey(passkey) => verify_passkey(passkey, signed)?,
            Self::Legacy { key, signature } => {
                let (delegate, _) = recover(signed.personal(), signature)?;
                let wallet = wallet_of(key)?;
                if wallet.delegate != delegate {
                    return Err(IdentityViolation::Signature("not made with the delegated key"));
                }
                return Ok(wallet.into());
            }
            // An account's signature is verified by recovering its key, a contract wallet's by its chain.
            Self::Account(_) | Self::Contract { .. } => {}
        }
        self.signer(None, signed)
    }

    /// Returns true if [`signer`](Self::signer) recovers an account, which costs about as much as a verification.
    pub(super) fn recovers(&self, known: Option<&MemberIdentifier>) -> bool {
        match self {
            Self::Account(_) => known.is_none(),
            Self::Legacy { .. } => true,
            Self::Contract { .. } | Self::Installation { .. } | Self::Passkey(_) => false,
        }
    }

    /// Returns the signer of a valid signature. Copies all bytes, because states outlive the envelopes that they come
    /// from. A `known` account is not recovered again. No signature is by one that is written in another way than
    /// signers are: its text may have any length, and each member that it adds would have a copy.
    pub(super) fn signer(
        &self,
        known: Option<&MemberIdentifier>,
        signed: &SignedText,
    ) -> Result<Signer, IdentityViolation> {
        let account = MemberIdentifier::of_address;
        Ok(match self {
            Self::Account(signature) => {
                let (identifier, replay_key) = match known {
                    Some(known) if known.is_of_address() => (known.clone(), low_s(signature)?),
                    Some(_) => return Err(IdentityViolation::Signature("not the account's")),
                    None => {
                        let (address, low) = recover(signed.personal(), signature)?;
                        (account(address), low)
                    }
                };
                Signer::new(identifier, SignatureKind::Erc191, Bytes::copy_from_slice(&replay_key))
            }
            Self::Contract { account: WalletAccount { chain_id, text, .. }, signature, .. } => {
                let bytes = Bytes::copy_from_slice(signature);
                let identifier = MemberIdentifier::Ethereum(text.clone());
                let signer = Signer::new(identifier, SignatureKind::Erc1271, bytes);
                Signer { chain_id: Some(*chain_id), ..signer }
            }
            Self::Installation { key, signature } => {
                let identifier = MemberIdentifier::Installation(Bytes::copy_from_slice(key));
                let bytes = Bytes::copy_from_slice(signature);
                Signer::new(identifier, SignatureKind::InstallationKey, bytes)
            }
            Self::Legacy { key, .. } => wallet_of(key)?.into(),
            Self::Passkey(passkey) => {
                let identifier = MemberIdentifier::Passkey(Passkey {
                    key: Bytes::copy_from_slice(&passkey.public_key),
                    relying_party: Some(client_data(passkey)?.origin.into()),
                });
                // r ‖ s as sent, as clients do: the same signature with the other s has another replay key.
                let signature = p256_signature(passkey)?.to_bytes();
                Signer::new(identifier, SignatureKind::P256, Bytes::copy_from_slice(&signature))
            }
        })
    }

    /// Returns the question for the chain of a contract wallet; `None` for other signatures.
    pub(super) fn question(&self, signed: &SignedText) -> Option<WalletQuestion> {
        let Self::Contract { account, block_number, signature } = self else { return None };
        Some(WalletQuestion {
            chain_id: account.chain_id,
            address: account.address,
            block_number: *block_number,
            digest: signed.personal(),
            signature: Bytes::copy_from_slice(signature), // a question outlives its envelope
        })
    }
}

impl Signer {
    fn new(identifier: MemberIdentifier, kind: SignatureKind, replay_key: Bytes) -> Self {
        Self { identifier, kind, replay_key, chain_id: None }
    }
}

/// The signer is the wallet that delegated.
impl From<Delegation> for Signer {
    fn from(Delegation { address, signature, .. }: Delegation) -> Self {
        let identifier = MemberIdentifier::of_address(address);
        let bytes = Bytes::copy_from_slice(&signature);
        Self::new(identifier, SignatureKind::LegacyDelegated, bytes)
    }
}

fn verify_installation(
    key: &[u8],
    signature: &[u8],
    signed: &SignedText,
) -> Result<(), IdentityViolation> {
    let key = VerifyingKey::try_from(key)
        .map_err(|_| IdentityViolation::Malformed("installation key that is no Ed25519 point"))?;
    let signature = ed25519_dalek::Signature::from_slice(signature)
        .map_err(|_| IdentityViolation::Signature("an Ed25519 signature has 64 bytes"))?;
    key.verify_prehashed(signed.prehash(), Some(INSTALLATION_CONTEXT), &signature)
        .map_err(|_| IdentityViolation::Signature("not made with the installation's key"))
}

/// Verifies a passkey's assertion (WebAuthn §7.2) as far as a node knows the expected values: the
/// challenge, not the origin.
fn verify_passkey(
    passkey: &pb::RecoverablePasskeySignature,
    signed: &SignedText,
) -> Result<(), IdentityViolation> {
    if client_data(passkey)?.challenge != signed.challenge() {
        return Err(IdentityViolation::Signature("the passkey signed another challenge"));
    }
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&passkey.public_key)
        .map_err(|_| IdentityViolation::Signature("the passkey is no P-256 point"))?;
    let mut data = passkey.authenticator_data.to_vec();
    data.extend_from_slice(&Sha256::digest(&passkey.client_data_json));
    key.verify(&data, &p256_signature(passkey)?)
        .map_err(|_| IdentityViolation::Signature("not made with the passkey"))
}

fn client_data(passkey: &pb::RecoverablePasskeySignature) -> Result<ClientData, IdentityViolation> {
    serde_json::from_slice(&passkey.client_data_json).map_err(|_| {
        IdentityViolation::Signature("client data that is not JSON with origin and challenge")
    })
}

fn p256_signature(
    passkey: &pb::RecoverablePasskeySignature,
) -> Result<p256::ecdsa::Signature, IdentityViolation> {
    p256::ecdsa::Signature::from_der(&passkey.signature)
        .map_err(|_| IdentityViolation::Signature("a passkey's signature is written in DER"))
}
