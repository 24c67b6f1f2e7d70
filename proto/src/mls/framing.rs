//! Group messages: the outer frame of what members send to their group (RFC 9420 §6).

use super::MlsParseError;
use super::proposal::{commit, proposal};
use super::reader::Reader;

/// `ProtocolVersion` of MLS 1.0.
pub(super) const MLS_1_0: u16 = 1;

/// Whether the content of a message can be read by others than the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFormat {
    /// Signed only.
    PublicMessage,
    /// Signed and encrypted.
    PrivateMessage,
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// What people write to each other.
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

/// Who says to have sent a public message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A member, by its leaf index.
    Member(u32),
    /// Someone whom the group's `external_senders` extension lists at this place.
    External(u32),
    /// Someone who proposes to be added.
    NewMemberProposal,
    /// Someone who adds itself.
    NewMemberCommit,
}

/// A group message as far as it can be read without the group's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMessageFrame<'a> {
    /// Public or private.
    pub wire_format: WireFormat,
    /// The group it belongs to; may be of any length.
    pub group_id: &'a [u8],
    /// The epoch it was made in.
    pub epoch: u64,
    /// Application data, proposal or commit.
    pub content_type: ContentType,
    /// Visible in public messages only.
    pub sender: Option<Sender>,
    /// What the application attached in the clear.
    pub authenticated_data: &'a [u8],
}

impl GroupMessageFrame<'_> {
    /// True for proposals and commits: their order decides what the group becomes, so the chain
    /// orders them and no node may.
    #[must_use]
    pub fn is_chain_bound(&self) -> bool {
        match self.content_type {
            ContentType::Application => false,
            ContentType::Proposal | ContentType::Commit => true,
        }
    }
}

/// Reads an `MLSMessage` that is a `PublicMessage` or a `PrivateMessage`, to its last byte.
///
/// # Errors
/// If `data` is anything else, including a well-formed message followed by more bytes.
pub fn parse_group_message(data: &[u8]) -> Result<GroupMessageFrame<'_>, MlsParseError> {
    let mut reader = Reader::new(data);
    version(&mut reader)?;
    let frame = match reader.u16()? {
        1 => public_message(&mut reader)?,
        2 => private_message(&mut reader)?,
        other => return Err(MlsParseError::WireFormat(other)),
    };
    reader.finish()?;
    Ok(frame)
}

pub(super) fn version(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    match reader.u16()? {
        MLS_1_0 => Ok(()),
        other => Err(MlsParseError::Version(other)),
    }
}

/// RFC 9420 §6.3.
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

/// RFC 9420 §6.2: the content, its signature, and what binds it to the group.
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
    if matches!(sender, Sender::Member(_)) {
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

fn sender(reader: &mut Reader<'_>) -> Result<Sender, MlsParseError> {
    match reader.u8()? {
        1 => Ok(Sender::Member(reader.u32()?)),
        2 => Ok(Sender::External(reader.u32()?)),
        3 => Ok(Sender::NewMemberProposal),
        4 => Ok(Sender::NewMemberCommit),
        other => Err(MlsParseError::Selector { field: "sender_type", value: other.into() }),
    }
}
