//! The kinds of members and of their signatures.

use std::fmt;

/// A kind of member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// An Ethereum account.
    Ethereum,
    /// An installation of an app.
    Installation,
    /// A passkey.
    Passkey,
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethereum => "ethereum",
            Self::Installation => "installation",
            Self::Passkey => "passkey",
        })
    }
}

/// A kind of signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    /// An account's key over a personal message (ERC-191).
    Erc191,
    /// A contract wallet's agreement (ERC-1271).
    Erc1271,
    /// An installation's key (Ed25519ph).
    InstallationKey,
    /// A key of the second protocol generation, to which a wallet delegated signing.
    LegacyDelegated,
    /// A passkey (WebAuthn, P-256).
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
