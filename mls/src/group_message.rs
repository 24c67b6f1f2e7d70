//! Group messages, as far as they can be judged without the group's secrets.

use hawser_proto::mls::{MlsParseError, parse_group_message};

/// What anybody may know of a group message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMessage {
    /// The group it belongs to. 16 bytes in XMTP, any number in MLS.
    pub group_id: Vec<u8>,
    /// Whether it changes the group. True for proposals too: the chain orders both.
    pub is_commit: bool,
}

/// Why bytes are no group message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an MLS group message: {0}")]
pub struct GroupMessageError(#[from] MlsParseError);

/// Reads an MLS message that is public or private, to its last byte.
///
/// # Errors
/// If it is anything else.
pub fn group_message(bytes: &[u8]) -> Result<GroupMessage, GroupMessageError> {
    let frame = parse_group_message(bytes)?;
    Ok(GroupMessage { group_id: frame.group_id.to_vec(), is_commit: frame.is_chain_bound() })
}
