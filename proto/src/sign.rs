//! Digests, keys and the 65-byte recoverable signatures of the network.
//!
//! A signature is `r ‖ s ‖ v` over secp256k1, with v = 0 or 1. Every digest is keccak-256 over a domain
//! label and the exact bytes that were sent; no Ethereum message prefix is used.
//!
//! The implementation is libsecp256k1, because it recovers and signs about twice as fast as k256
//! (measured in `docs/performance.md`). Signing is deterministic (RFC 6979), so the bytes do not
//! depend on that choice.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Secp256k1, SignOnly};
use sha3::{Digest as _, Keccak256};

use crate::ids::OriginatorId;

/// Half of the order of secp256k1, big-endian (SEC 2 §2.4.1). A signature with s above it has an equivalent one with s
/// below: the order minus s.
pub const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// A keccak-256 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// Returns keccak-256 over the concatenated parts.
#[must_use]
pub fn keccak256(parts: &[&[u8]]) -> Digest {
    let mut hasher = Keccak256::new();
    for part in parts {
        hasher.update(part);
    }
    Digest(hasher.finalize().into())
}

/// Returns the digest that a payer signs: the target node and the client's exact bytes. The retention is
/// not part of it.
#[must_use]
pub fn payer_digest(target: OriginatorId, unsigned_client_envelope: &[u8]) -> Digest {
    keccak256(&[&payer_label(target), unsigned_client_envelope])
}

/// Length of [`payer_label`].
pub(crate) const PAYER_LABEL_LEN_BYTES: usize = 17;

/// Returns the bytes before those of a client that a payer signs.
pub(crate) fn payer_label(target: OriginatorId) -> [u8; PAYER_LABEL_LEN_BYTES] {
    let mut label = *b"target|____payer|";
    label[7..11].copy_from_slice(&target.0.to_be_bytes());
    label
}

/// The bytes before those that an originator signs.
pub(crate) const ORIGINATOR_LABEL: &[u8] = b"originator|";

/// Returns the digest that an originator signs: its statement of order, time and price, byte for byte.
#[must_use]
pub fn originator_digest(unsigned_originator_envelope: &[u8]) -> Digest {
    keccak256(&[ORIGINATOR_LABEL, unsigned_originator_envelope])
}

/// Returns the digest that a node signs in a token: of its header and claims as they are sent, with the dot between
/// them.
#[must_use]
pub fn node_token_digest(signing_input: &str) -> Digest {
    keccak256(&[b"jwt|", signing_input.as_bytes()])
}

/// The reason a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature is not `r ‖ s ‖ v` of 65 bytes.
    #[error("signature has {0} bytes instead of 65")]
    Length(usize),
    /// The last byte is not a raw recovery id. Ethereum's 27 and 28 are refused.
    #[error("recovery id {0} is not in 0..=3")]
    RecoveryId(u8),
    /// r or s is zero or too large, or r is not on the curve.
    #[error("no public key can be recovered from the signature")]
    Unrecoverable,
    /// An originator's signature is not in canonical form: s in the lower half, v 0 or 1.
    #[error("signature is not in canonical form (s in the lower half, v 0 or 1)")]
    NotCanonical,
}

/// A signature of 65 bytes, `r ‖ s ‖ v` with v in 0..=3. It may still be invalid: only recovery shows that.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 65]);

impl Signature {
    /// Takes the bytes as sent.
    ///
    /// # Errors
    /// Returns an error if there are not 65 bytes, or the recovery id is out of range (as 27 and 28 are).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let bytes: [u8; 65] = bytes.try_into().map_err(|_| SignatureError::Length(bytes.len()))?;
        if bytes[64] > 3 {
            return Err(SignatureError::RecoveryId(bytes[64]));
        }
        Ok(Self(bytes))
    }

    /// Returns the bytes as sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// Requires the canonical form of a stored originator's signature: low s, v 0 or 1.
    ///
    /// # Errors
    /// [`SignatureError::NotCanonical`] for every other form.
    pub fn require_canonical(&self) -> Result<(), SignatureError> {
        if self.0[64] <= 1 && self.0[32..64] <= HALF_ORDER[..] {
            Ok(())
        } else {
            Err(SignatureError::NotCanonical)
        }
    }

    /// Converts an originator's signature to canonical form. The input may have Ethereum's v of 27 or 28, or s in the
    /// upper half; the result verifies for the same key.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a signature, or have no canonical form.
    pub fn canonicalize(bytes: &[u8]) -> Result<Self, SignatureError> {
        let mut bytes: [u8; 65] =
            bytes.try_into().map_err(|_| SignatureError::Length(bytes.len()))?;
        if let 27 | 28 = bytes[64] {
            bytes[64] -= 27;
        }
        let mut signature = secp256k1::ecdsa::Signature::from_compact(&bytes[..64])
            .map_err(|_| SignatureError::Unrecoverable)?;
        signature.normalize_s();
        let compact = signature.serialize_compact();
        // Negating s mirrors the point R, which flips the parity of its y: v has to change with s.
        let is_twin = compact[32..] != bytes[32..64];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] ^= u8::from(is_twin);
        let signature = Self::from_bytes(&bytes)?;
        signature.require_canonical()?;
        Ok(signature)
    }

    /// Recovers the key that made this signature over `digest`. High s is accepted, as everywhere in
    /// the network; [`Signature::require_canonical`] is stricter.
    ///
    /// # Errors
    /// [`SignatureError::Unrecoverable`] when no key can have made it.
    pub fn recover(&self, digest: Digest) -> Result<PublicKey, SignatureError> {
        let v = RecoveryId::try_from(i32::from(self.0[64]))
            .map_err(|_| SignatureError::RecoveryId(self.0[64]))?;
        let key = RecoverableSignature::from_compact(&self.0[..64], v)
            .and_then(|signature| signature.recover(secp256k1::Message::from_digest(digest.0)))
            .map_err(|_| SignatureError::Unrecoverable)?;
        Ok(PublicKey(key.serialize_uncompressed()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

/// An uncompressed secp256k1 point: 65 bytes, beginning with 4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 65]);

impl PublicKey {
    /// Takes an uncompressed point. `None` unless it has 65 bytes, begins with 4 and lies on the
    /// curve.
    #[must_use]
    pub fn from_uncompressed(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 65] = bytes.try_into().ok()?;
        let on_curve = secp256k1::PublicKey::from_byte_array_uncompressed(bytes).is_ok();
        (bytes[0] == 4 && on_curve).then_some(Self(bytes))
    }

    /// Takes a point in any of the forms that clients read: uncompressed (65 bytes from 4 on),
    /// compressed (33 bytes from 2 or 3 on), or the x coordinate alone (33 bytes from 5 on), which
    /// stands for the point with an even y (SEC 1 §2.3.4). Returns `None` for other bytes.
    #[must_use]
    pub fn from_sec1(bytes: &[u8]) -> Option<Self> {
        let [tag, x @ ..] = bytes else { return None };
        if *tag == 4 {
            return Self::from_uncompressed(bytes);
        }
        let tag = match tag {
            2 | 5 => 2,
            3 => 3,
            _ => return None,
        };
        let mut compressed = [tag; 33];
        if x.len() != 32 {
            return None;
        }
        compressed[1..].copy_from_slice(x);
        let key = secp256k1::PublicKey::from_byte_array_compressed(compressed).ok()?;
        Some(Self(key.serialize_uncompressed()))
    }

    /// Returns the 65 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// Returns the 33 bytes of the compressed form (SEC 1 §2.3.3).
    #[must_use]
    pub fn compressed(&self) -> [u8; 33] {
        let mut compressed = [2 | (self.0[64] & 1); 33];
        compressed[1..].copy_from_slice(&self.0[1..33]);
        compressed
    }

    /// Returns true if this key made the signature `r ‖ s` over `digest`; false for malformed bytes too. High s is
    /// accepted. For signatures whose recovery id is ignored; [`Signature::recover`] is for all others.
    #[must_use]
    pub fn verifies(&self, digest: Digest, compact: &[u8]) -> bool {
        let Ok(mut signature) = secp256k1::ecdsa::Signature::from_compact(compact) else {
            return false;
        };
        signature.normalize_s(); // the library takes the lower twin only
        let message = secp256k1::Message::from_digest(digest.0);
        secp256k1::PublicKey::from_byte_array_uncompressed(self.0)
            .is_ok_and(|key| signature.verify(message, &key).is_ok())
    }

    /// Returns the account of this key: the last 20 bytes of keccak-256 over the point without its
    /// leading 4.
    #[must_use]
    pub fn address(&self) -> Address {
        let digest = keccak256(&[&self.0[1..]]).0;
        let mut address = [0; 20];
        address.copy_from_slice(&digest[12..]);
        Address(address)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// An account on the chains, of a payer, a node or a user. Prints with the EIP-55 checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub [u8; 20]);

/// The account that signed a payer envelope and pays for it.
pub type PayerAddress = Address;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lower = hex::encode(self.0);
        let hash = keccak256(&[lower.as_bytes()]).0;
        let checked = lower.bytes().enumerate().map(|(i, digit)| {
            let nibble = (hash[i / 2] >> (4 * (1 - i % 2))) & 0xf;
            char::from(if nibble >= 8 { digit.to_ascii_uppercase() } else { digit })
        });
        write!(f, "0x{}", checked.collect::<String>())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Address {
    type Err = hex::FromHexError;

    /// Parses hex with or without `0x`, in any letter case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut address = [0; 20];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut address)?;
        Ok(Self(address))
    }
}

/// The bytes or the text are not a secret key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret key is 32 bytes, not zero and below the group order, written as 64 hex digits")]
pub struct SecretKeyError;

/// The secret key of a node or a payer. Clones share one allocation, which is wiped with the last of
/// them. Never printed.
#[derive(Clone)]
pub struct SecretKey(Arc<SigningKey>);

struct SigningKey {
    scalar: secp256k1::SecretKey,
    /// Signing context, blinded once when the key is loaded: see [`SecretKey::sign`].
    context: Secp256k1<SignOnly>,
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.scalar.non_secure_erase();
    }
}

impl SecretKey {
    /// Takes the scalar as 32 big-endian bytes.
    ///
    /// # Errors
    /// Returns an error if the scalar is zero or not below the group order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SecretKeyError> {
        let scalar = secp256k1::SecretKey::from_secret_bytes(*bytes).map_err(|_| SecretKeyError)?;
        let mut context = Secp256k1::signing_only();
        let random = RandomState::new().hash_one(bytes).to_be_bytes();
        context.seeded_randomize(&keccak256(&[b"blinding|", bytes, &random]).0);
        Ok(Self(Arc::new(SigningKey { scalar, context })))
    }

    /// Parses 64 hex digits. A leading `0x` is optional; surrounding white space is ignored.
    ///
    /// # Errors
    /// For any other text. The error does not repeat the text.
    pub fn from_hex(text: &str) -> Result<Self, SecretKeyError> {
        let text = text.trim();
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
            .map_err(|_| SecretKeyError)?;
        Self::from_bytes(&bytes)
    }

    /// Returns the scalar, for writing a key file.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.scalar.to_secret_bytes()
    }

    /// Returns the key that verifies signatures.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(secp256k1::PublicKey::from_secret_key(&self.0.scalar).serialize_uncompressed())
    }

    /// Signs a digest: deterministic (RFC 6979), low s, v 0 or 1.
    ///
    /// The library's safe function blinds its context again after every signature, which takes longer
    /// than the signature itself (`docs/performance.md`). This one uses a context blinded once per
    /// key.
    #[must_use]
    #[expect(unsafe_code, reason = "the safe function costs more than twice as much")]
    pub fn sign(&self, digest: Digest) -> Signature {
        use secp256k1::ffi::{self, CPtr as _, recovery};

        let mut signature = recovery::RecoverableSignature::new();
        // SAFETY: the context was made for signing and lives as long as `self`; signing only
        // reads it. All other pointers are to live values of the sizes that the function expects:
        // 65 bytes, 32 bytes, 32 bytes. A null pointer for extra nonce data is allowed.
        let made = unsafe {
            recovery::secp256k1_ecdsa_sign_recoverable(
                self.0.context.ctx().as_ptr(),
                &mut signature,
                digest.0.as_ptr(),
                self.0.scalar.as_c_ptr(),
                ffi::secp256k1_nonce_function_rfc6979,
                std::ptr::null(),
            )
        };
        assert_eq!(made, 1, "every valid key signs every digest");
        let (v, compact) = RecoverableSignature::from(signature).serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = v.to_u8();
        Signature(bytes)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public_key().address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts/signatures.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn unhex(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
    }

    fn check(key: &SecretKey, digest: Digest, case: &serde_json::Value) {
        assert_eq!(digest.0.as_slice(), unhex(&case["digest"]));
        let golden = Signature::from_bytes(&unhex(&case["signature"])).unwrap();
        assert_eq!(key.sign(digest), golden);
        assert_eq!(golden.recover(digest), Ok(key.public_key()));
        assert_eq!(golden.require_canonical(), Ok(()));
    }

    #[test]
    fn digests_and_signatures_equal_the_golden_ones() {
        let vectors = vectors();
        let key = SecretKey::from_hex(vectors["private_key"].as_str().unwrap()).unwrap();
        assert_eq!(key.public_key().address().to_string(), vectors["address"].as_str().unwrap());
        let payer = vectors["payer"].as_array().unwrap();
        let originator = vectors["originator"].as_array().unwrap();
        let tokens = vectors["jwt"].as_array().unwrap();
        assert!(!payer.is_empty() && !originator.is_empty() && !tokens.is_empty());
        for case in payer {
            let target = u32::try_from(case["target_originator"].as_u64().unwrap()).unwrap();
            let client = unhex(&case["unsigned_client_envelope"]);
            check(&key, payer_digest(OriginatorId(target), &client), case);
        }
        for case in originator {
            check(&key, originator_digest(&unhex(&case["unsigned_originator_envelope"])), case);
        }
        for case in tokens {
            check(&key, node_token_digest(case["text"].as_str().unwrap()), case);
        }
    }

    #[test]
    fn keys_and_accounts_equal_the_golden_ones() {
        let vectors = vectors();
        let cases = vectors["keys"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let secret = SecretKey::from_hex(case["private_key"].as_str().unwrap()).unwrap();
            let key = secret.public_key();
            let uncompressed = unhex(&case["uncompressed_public_key"]);
            assert_eq!(PublicKey::from_uncompressed(&uncompressed), Some(key), "{case}");
            let compressed = unhex(&case["compressed_public_key"]);
            assert_eq!(key.compressed()[..], compressed[..], "{case}");
            assert_eq!(PublicKey::from_sec1(&compressed), Some(key), "{case}");
            assert_eq!(key.address().to_string(), case["address"].as_str().unwrap());
        }
    }

    #[test]
    fn labels_and_originators_are_those_of_the_constants() {
        let text = include_str!("../../tests/vectors/contracts/constants.json");
        let constants: serde_json::Value = serde_json::from_str(text).unwrap();
        let prefix = |of: &str| constants["signature_prefixes"][of].as_str().unwrap().as_bytes();
        assert_eq!(ORIGINATOR_LABEL, prefix("originator"));
        let label = [prefix("target"), &[1, 2, 3, 4], prefix("payer")].concat();
        assert_eq!(payer_label(OriginatorId(0x0102_0304))[..], label[..]);
        let id = |value: &serde_json::Value| {
            OriginatorId(u32::try_from(value.as_u64().unwrap()).unwrap())
        };
        let chain = &constants["chain_originator_ids"];
        assert_eq!(OriginatorId::GROUP_MESSAGES, id(&chain["group_messages"]));
        assert_eq!(OriginatorId::IDENTITY_UPDATES, id(&chain["identity_updates"]));
        let migrated = &constants["migration_originator_ids"];
        let kept = ["group_messages", "welcome_messages", "key_packages"];
        assert_eq!(OriginatorId::MIGRATED, kept.map(|kind| id(&migrated[kind])));
        assert_eq!(OriginatorId::FIRST_NODE, id(&constants["node_id_increment"]));
    }

    #[test]
    fn signatures_of_wrong_length_or_recovery_id_are_refused() {
        assert_eq!(Signature::from_bytes(&[0; 64]), Err(SignatureError::Length(64)));
        assert_eq!(Signature::from_bytes(&[27; 65]), Err(SignatureError::RecoveryId(27)));
        let zero = Signature::from_bytes(&[0; 65]).unwrap();
        assert_eq!(zero.recover(Digest([1; 32])), Err(SignatureError::Unrecoverable));
    }

    #[test]
    fn the_high_twin_of_a_signature_recovers_but_is_not_canonical() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let digest = keccak256(&[b"twin"]);
        let low = key.sign(digest);
        let high = high_twin(&low);
        assert_eq!(high.recover(digest), Ok(key.public_key()));
        assert_eq!(high.require_canonical(), Err(SignatureError::NotCanonical));
    }

    /// A signer may choose its point so that r is the x coordinate without the group order, which only a v of 2 or 3
    /// says. Another program computed the accounts from the definition.
    #[test]
    fn each_recovery_id_names_the_key_of_its_own_point() {
        let digest = keccak256(&[b"xmtp vector high r"]);
        let accounts = [
            "41cdcb0fa4d231b2b5f90599e10a88d54c672eac",
            "5b3f73d85765e6dbfb6626d1d0f33460f07f52df",
            "122252a648e1e60b20dc18ea506015de263b1747",
            "d055ccdd954a7b9a3382fbc57d64d1efb4eaf375",
        ];
        for (v, account) in (0..).zip(accounts) {
            let mut bytes = [0; 65];
            (bytes[31], bytes[63], bytes[64]) = (2, 7, v);
            let signature = Signature::from_bytes(&bytes).unwrap();
            let key = signature.recover(digest).unwrap();
            assert_eq!(hex::encode(key.address().0), account, "v {v}");
            assert!(key.verifies(digest, &bytes[..64]), "v {v}");
            assert_eq!(high_twin(&signature).recover(digest), Ok(key), "v {v}");
            assert_eq!(signature.require_canonical().is_ok(), v <= 1, "v {v}");
        }
    }

    #[test]
    fn every_way_to_write_a_signature_has_one_canonical_form() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        for text in 0..20u8 {
            let signature = key.sign(keccak256(&[&[text]]));
            for mut bytes in [*signature.as_bytes(), *high_twin(&signature).as_bytes()] {
                assert_eq!(Signature::canonicalize(&bytes), Ok(signature));
                bytes[64] += 27;
                assert_eq!(Signature::canonicalize(&bytes), Ok(signature));
            }
        }
        assert_eq!(Signature::canonicalize(&[0; 64]), Err(SignatureError::Length(64)));
        assert!(Signature::canonicalize(&[0xff; 65]).is_err());
        assert!(Signature::canonicalize(&[1; 65]).is_ok(), "it need not verify");
    }

    fn high_twin(low: &Signature) -> Signature {
        const ORDER: [u8; 32] = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xfe, 0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c,
            0xd0, 0x36, 0x41, 0x41,
        ];
        let mut bytes = *low.as_bytes();
        let mut borrow = 0u16;
        for i in (0..32).rev() {
            let difference = 0x100 + u16::from(ORDER[i]) - u16::from(bytes[32 + i]) - borrow;
            bytes[32 + i] = u8::try_from(difference & 0xff).unwrap();
            borrow = 1 - (difference >> 8);
        }
        bytes[64] ^= 1;
        Signature::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn secret_keys_are_never_printed() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        assert!(!format!("{key:?}").contains("0707"));
    }

    #[test]
    fn points_off_the_curve_are_no_keys() {
        let mut bytes = *SecretKey::from_bytes(&[7; 32]).unwrap().public_key().as_bytes();
        assert!(PublicKey::from_uncompressed(&bytes).is_some());
        bytes[64] ^= 1;
        assert_eq!(PublicKey::from_uncompressed(&bytes), None);
        assert_eq!(PublicKey::from_uncompressed(&bytes[1..]), None);
    }

    #[test]
    fn a_point_is_read_in_every_form() {
        for number in 1..9 {
            let key = SecretKey::from_bytes(&[number; 32]).unwrap().public_key();
            let is_odd = key.as_bytes()[64] % 2;
            let short = |tag: u8| [&[tag], &key.as_bytes()[1..33]].concat();
            assert_eq!(PublicKey::from_sec1(key.as_bytes()), Some(key));
            assert_eq!(PublicKey::from_sec1(&short(2 + is_odd)), Some(key));
            assert_eq!(key.compressed()[..], short(2 + is_odd)[..]);
            assert_eq!(PublicKey::from_sec1(&short(5)) == Some(key), is_odd == 0);
            for other in [&short(6)[..], &short(2)[..32], &key.as_bytes()[1..], &[]] {
                assert_eq!(PublicKey::from_sec1(other), None);
            }
        }
    }
}
