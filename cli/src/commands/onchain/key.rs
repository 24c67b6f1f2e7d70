//! The key of the account in whose name a command acts: from a file or from the environment.

use std::path::{Path, PathBuf};

use alloy::signers::local::PrivateKeySigner;
use hawser_proto::SecretKey;
use zeroize::Zeroizing;

use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_node::settings::table::{KEY_ENV, KEY_FILE_ENV};

/// Variables with the name of a key file, or with the key itself.
pub(crate) struct KeyVariables {
    file: &'static str,
    text: &'static str,
}

/// Variables of the account that sends a transaction.
pub(crate) const SENDER: &[KeyVariables] = &[KeyVariables { file: KEY_FILE_ENV, text: KEY_ENV }];
/// Variables of an account that pays: those of [`SENDER`], then those of the gateway's payer.
pub(crate) const PAYER: &[KeyVariables] = &[
    KeyVariables { file: KEY_FILE_ENV, text: KEY_ENV },
    KeyVariables { file: "XMTPD_PAYER_PRIVATE_KEY_FILE", text: "XMTPD_PAYER_PRIVATE_KEY" },
];

/// Reads the key from the file, or else from the first variable that is set.
///
/// # Errors
/// When the text is no key, or other users can read the file.
pub(crate) fn signer(
    file: Option<&Path>,
    names: &[KeyVariables],
) -> Result<Option<PrivateKeySigner>, RunError> {
    if let Some(file) = file {
        return from_file(file).map(Some);
    }
    for names in names {
        if let Some(file) = given(names.file) {
            let file = PathBuf::from(file.as_str());
            return from_file(&file).map_err(|failure| failure.while_doing(names.file)).map(Some);
        }
        if let Some(text) = given(names.text) {
            let secret = SecretKey::from_hex(&text)
                .map_err(|error| RunError::usage(format!("{}: {error}", names.text)))?;
            return from_secret(&secret).map(Some);
        }
    }
    Ok(None)
}

fn given(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().map(Zeroizing::new).filter(|text| !text.is_empty())
}

fn from_file(path: &Path) -> Result<PrivateKeySigner, RunError> {
    from_secret(&read(path)?)
}

/// Reads a secret key from a file.
///
/// # Errors
/// When the text is no key, or other users can read the file.
pub(crate) fn read(path: &Path) -> Result<SecretKey, RunError> {
    key::read(path).map_err(|error| error.at(path))
}

fn from_secret(secret: &SecretKey) -> Result<PrivateKeySigner, RunError> {
    let bytes = Zeroizing::new(secret.to_bytes());
    PrivateKeySigner::from_slice(bytes.as_slice()).map_err(RunError::failed)
}
