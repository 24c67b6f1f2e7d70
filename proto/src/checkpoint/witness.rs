//! Cosignatures of witnesses: C2SP `tlog-cosignature`, version 1, with Ed25519.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::names::{WitnessName, key_id, note_text};
use super::statement::Checkpoint;

/// Signature type of timestamped Ed25519 cosignatures (C2SP signed-note).
const TYPE: u8 = 4;

/// The reason a witness's cosignature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// The 32 bytes are not a public key.
    #[error("the witness's key is not an Ed25519 public key")]
    Key,
    /// The cosignature names another key.
    #[error("the cosignature is by another key than the witness's")]
    OtherKey,
    /// The time exceeds the range of the format.
    #[error("the time of the cosignature is not below 2^63")]
    Time,
    /// The key did not sign this checkpoint.
    #[error("the witness did not sign this checkpoint")]
    Signature,
}

/// The name and the public key of a witness that a reader trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: WitnessName,
    key: VerifyingKey,
}

impl WitnessKey {
    /// Takes a witness's name and public key.
    ///
    /// # Errors
    /// [`WitnessError::Key`] if the bytes are not a public key.
    pub fn new(name: WitnessName, key: &[u8; 32]) -> Result<Self, WitnessError> {
        let key = VerifyingKey::from_bytes(key).map_err(|_| WitnessError::Key)?;
        Ok(Self { name, key })
    }

    /// Reads a key as text (C2SP signed-note, *Verifier keys*): name, id and key, with `+` between them.
    ///
    /// # Errors
    /// [`WitnessError::Key`] if the text is not the key of a timestamped Ed25519 cosigner, or its id does not match
    /// name and key.
    pub fn of_verifier_key(text: &str) -> Result<Self, WitnessError> {
        let mut parts = text.splitn(3, '+');
        let mut next = || parts.next().ok_or(WitnessError::Key);
        let (name, id, key) = (next()?, next()?, next()?);
        let name = WitnessName::new(name).ok_or(WitnessError::Key)?;
        let key = STANDARD.decode(key).map_err(|_| WitnessError::Key)?;
        let key = key.strip_prefix(&[TYPE]).and_then(|key| key.try_into().ok());
        let read = Self::new(name, key.ok_or(WitnessError::Key)?)?;
        let is_named = id == format!("{:08x}", u32::from_be_bytes(read.id()));
        is_named.then_some(read).ok_or(WitnessError::Key)
    }

    /// Returns name and key id, as [`WitnessCosignature::signer`] does.
    #[must_use]
    pub fn signer(&self) -> (&WitnessName, [u8; 4]) {
        (&self.name, self.id())
    }

    /// Returns the id that signature lines of this key carry.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(self.name.as_str(), &[TYPE], self.key.as_bytes())
    }

    /// Returns the public key. What it signs does not contain the name, so it is one signer under all its names.
    #[must_use]
    pub fn public_key(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }
}

/// The name and the secret key of a witness.
#[derive(Clone)]
pub struct WitnessSigner {
    name: WitnessName,
    key: SigningKey,
    id: [u8; 4],
}

impl WitnessSigner {
    /// Takes a witness's name and the 32 bytes of its secret key (RFC 8032 §5.1.5).
    #[must_use]
    pub fn new(name: WitnessName, seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let id = key_id(name.as_str(), &[TYPE], key.verifying_key().as_bytes());
        Self { name, key, id }
    }

    /// Returns the key that readers verify with.
    #[must_use]
    pub fn key(&self) -> WitnessKey {
        WitnessKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Returns the public key as text, for readers' lists of witnesses (C2SP signed-note, *Verifier keys*).
    #[must_use]
    pub fn verifier_key(&self) -> String {
        let id = u32::from_be_bytes(self.id);
        let key = [&[TYPE][..], &self.key.verifying_key().as_bytes()[..]].concat();
        format!("{}+{id:08x}+{}", self.name.as_str(), STANDARD.encode(key))
    }

    /// Returns name and key id, as [`WitnessCosignature::signer`] does.
    #[must_use]
    pub fn signer(&self) -> (&WitnessName, [u8; 4]) {
        (&self.name, self.id)
    }

    /// Cosigns a checkpoint of `network`. The caller has checked that it is consistent with every
    /// earlier checkpoint of this log that the witness cosigned.
    #[must_use]
    pub fn cosign(&self, network: &str, of: &Checkpoint, time_unix_s: u64) -> WitnessCosignature {
        let message = WitnessCosignature::message(network, of, time_unix_s);
        let signature = self.key.sign(message.as_bytes()).to_bytes();
        WitnessCosignature { name: self.name.clone(), key_id: self.id, time_unix_s, signature }
    }
}

impl fmt::Debug for WitnessSigner {
    /// Formats the name without the secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WitnessSigner").field(&self.name).finish()
    }
}

/// The statement of a witness that the checkpoint's tree is consistent with all earlier trees of this log that it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessCosignature {
    /// The witness's name.
    pub name: WitnessName,
    /// The id of its key.
    pub key_id: [u8; 4],
    /// Time of the statement, unix seconds.
    pub time_unix_s: u64,
    /// The Ed25519 signature over [`WitnessCosignature::message`].
    pub signature: [u8; 64],
}

impl WitnessCosignature {
    /// Returns the name and the key id, which together identify a signer.
    #[must_use]
    pub fn signer(&self) -> (&WitnessName, [u8; 4]) {
        (&self.name, self.key_id)
    }

    /// Returns the text that a witness signs: a header, its time, and the text of the checkpoint's note.
    #[must_use]
    pub fn message(network: &str, of: &Checkpoint, time_unix_s: u64) -> String {
        format!("cosignature/v1\ntime {time_unix_s}\n{}", note_text(network, of))
    }

    /// Checks the cosignature of a checkpoint of `network` with a key that the reader trusts.
    ///
    /// # Errors
    /// Returns an error if that key did not sign the checkpoint.
    pub fn verify(
        &self,
        network: &str,
        of: &Checkpoint,
        key: &WitnessKey,
    ) -> Result<(), WitnessError> {
        if self.name != key.name || self.key_id != key.id() {
            return Err(WitnessError::OtherKey);
        }
        if self.time_unix_s > i64::MAX as u64 {
            return Err(WitnessError::Time);
        }
        let message = Self::message(network, of, self.time_unix_s);
        let signature = Signature::from_bytes(&self.signature);
        key.key.verify_strict(message.as_bytes(), &signature).map_err(|_| WitnessError::Signature)
    }
}
