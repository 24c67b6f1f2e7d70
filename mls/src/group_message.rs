//! Reads the parts of group messages that are not encrypted.

use hawser_proto::mls::{MlsParseError, parse_group_message};

/// The public facts of a group message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMessage {
    /// Id of the group: 16 bytes in XMTP, any number in MLS.
    pub group_id: Vec<u8>,
    /// True for commits, and for proposals too: the chain orders both.
    pub is_commit: bool,
}

/// The bytes are not a group message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an MLS group message: {0}")]
pub struct GroupMessageError(#[from] MlsParseError);

/// Parses a public or private MLS message to its last byte.
///
/// # Errors
/// Returns an error if the bytes are not exactly one public or private MLS message.
pub fn group_message(bytes: &[u8]) -> Result<GroupMessage, GroupMessageError> {
    let frame = parse_group_message(bytes)?;
    Ok(GroupMessage { group_id: frame.group_id.to_vec(), is_commit: frame.is_chain_bound() })
}
