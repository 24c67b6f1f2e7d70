//! Group messages: the outer frame of what members send to their group (RFC 9420 §6).

use super::MlsParseError;
use super::proposal::{commit, proposal};
use super::reader::Reader;
use crate::ids::GroupId;

/// The protection of a message's content (RFC 9420 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFormat {
    /// Signed and readable by every node.
    PublicMessage,
    /// Signed and encrypted to the group.
    PrivateMessage,
}

/// The kind of a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// Data of the application.
    Application,
    /// A change to the group that a later commit may take up.
    Proposal,
    /// A change to the group; starts its next epoch.
    Commit,
}

impl ContentType {
    fn parse(value: u8) -> Result<Self, MlsParseError> {
        match value {
            1 => Ok(Self::Application),
            2 => Ok(Self::Proposal),
            3 => Ok(Self::Commit),
            other => Err(MlsParseError::ContentType(other)),
        }
    }
}

/// The sender that a public message claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlsSender {
    /// A member, by its leaf index.
    Member(u32),
    /// A sender that the group's `external_senders` extension lists at this index.
    External(u32),
    /// A client that proposes its own addition.
    NewMemberProposal,
    /// A client that adds itself by an external commit.
    NewMemberCommit,
}

/// The parts of a group message that are readable without the group's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMessageFrame<'a> {
    /// Public or private.
    pub wire_format: WireFormat,
    /// Id of the group, of any length.
    pub group_id: &'a [u8],
    /// Epoch in which the message was made.
    pub epoch: u64,
    /// Application data, proposal or commit.
    pub content_type: ContentType,
    /// Claimed sender; `None` in private messages, which encrypt it.
    pub sender: Option<MlsSender>,
    /// Data that the application attached unencrypted.
    pub authenticated_data: &'a [u8],
}

impl GroupMessageFrame<'_> {
    /// Returns true for proposals and commits. Their order decides the state of the group, so the
    /// chain orders them and no node may.
    #[must_use]
    pub fn is_chain_bound(&self) -> bool {
        match self.content_type {
            ContentType::Application => false,
            ContentType::Proposal | ContentType::Commit => true,
        }
    }

    /// Checks that clients take the message in the topic of `topic_id`. They decode its group id before they compare it
    /// with the topic, and read nothing more of a topic that has a message with one of other than 16 bytes. They read
    /// only topics with an identifier of 16 bytes, so another topic may have messages with any group id.
    ///
    /// # Errors
    /// [`MlsParseError::GroupIdLen`].
    pub fn check_group_id(&self, topic_id: &[u8]) -> Result<(), MlsParseError> {
        let is_read = GroupId::from_slice(topic_id).is_some();
        match GroupId::from_slice(self.group_id) {
            None if is_read => Err(MlsParseError::GroupIdLen(self.group_id.len())),
            _ => Ok(()),
        }
    }
}

/// Parses an `MLSMessage` that is a `PublicMessage` or a `PrivateMessage`, to its last byte.
///
/// # Errors
/// If `data` is anything else, including a well-formed message followed by more bytes.
pub fn parse_group_message(data: &[u8]) -> Result<GroupMessageFrame<'_>, MlsParseError> {
    let mut reader = Reader::new(data);
    reader.protocol_version()?;
    let frame = match reader.u16()? {
        1 => public_message(&mut reader)?,
        2 => private_message(&mut reader)?,
        other => return Err(MlsParseError::WireFormat(other)),
    };
    reader.finish()?;
    Ok(frame)
}

/// Returns true if software that reads a message no further than its content type takes `data` for an application
/// message. The reference implementation reads so: it checks neither what follows nor the form of lengths, and takes
/// unknown content of a private message for an application message.
#[must_use]
pub fn is_application_elsewhere(data: &[u8]) -> bool {
    loose_content_type(data) == Ok(ContentType::Application)
}

fn loose_content_type(data: &[u8]) -> Result<ContentType, MlsParseError> {
    let mut reader = Reader::new(data);
    reader.protocol_version()?;
    let wire_format = reader.u16()?;
    reader.loose_vector()?; // group_id
    reader.u64()?; // epoch
    match wire_format {
        1 => {
            sender(&mut reader)?;
            reader.loose_vector()?; // authenticated_data
            ContentType::parse(reader.u8()?)
        }
        2 => Ok(ContentType::parse(reader.u8()?).unwrap_or(ContentType::Application)),
        other => Err(MlsParseError::WireFormat(other)),
    }
}

/// Reads a `PrivateMessage` (RFC 9420 §6.3).
fn private_message<'a>(reader: &mut Reader<'a>) -> Result<GroupMessageFrame<'a>, MlsParseError> {
    let group_id = reader.vector()?;
    let epoch = reader.u64()?;
    let content_type = ContentType::parse(reader.u8()?)?;
    let authenticated_data = reader.vector()?;
    reader.vector()?; // encrypted_sender_data
    reader.vector()?; // ciphertext
    Ok(GroupMessageFrame {
        wire_format: WireFormat::PrivateMessage,
        group_id,
        epoch,
        content_type,
        sender: None,
        authenticated_data,
    })
}

/// Reads a `PublicMessage` (RFC 9420 §6.2): the content, its signature, and the tags that bind it to
/// the group.
fn public_message<'a>(reader: &mut Reader<'a>) -> Result<GroupMessageFrame<'a>, MlsParseError> {
    let group_id = reader.vector()?;
    let epoch = reader.u64()?;
    let sender = sender(reader)?;
    let authenticated_data = reader.vector()?;
    let content_type = ContentType::parse(reader.u8()?)?;
    match content_type {
        ContentType::Application => {
            reader.vector()?;
        }
        ContentType::Proposal => proposal(reader)?,
        ContentType::Commit => commit(reader)?,
    }
    reader.vector()?; // signature
    if content_type == ContentType::Commit {
        reader.vector()?; // confirmation_tag
    }
    if matches!(sender, MlsSender::Member(_)) {
        reader.vector()?; // membership_tag
    }
    Ok(GroupMessageFrame {
        wire_format: WireFormat::PublicMessage,
        group_id,
        epoch,
        content_type,
        sender: Some(sender),
        authenticated_data,
    })
}

fn sender(reader: &mut Reader<'_>) -> Result<MlsSender, MlsParseError> {
    match reader.u8()? {
        1 => Ok(MlsSender::Member(reader.u32()?)),
        2 => Ok(MlsSender::External(reader.u32()?)),
        3 => Ok(MlsSender::NewMemberProposal),
        4 => Ok(MlsSender::NewMemberCommit),
        other => Err(MlsParseError::Selector { field: "sender_type", value: other.into() }),
    }
}
