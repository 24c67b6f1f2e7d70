//! A group of two: creating, joining, sending and receiving.

use std::collections::HashSet;

use hawser_proto::Topic;
use hawser_proto::TopicKind;
use hawser_proto::envelope::ClientEnvelope;
use hawser_proto::pb::xmtp::mls::api::v1 as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as envelopes_pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::*;

use crate::BoxError;
use crate::inbox::{CIPHERSUITE, Inbox, envelope, topic};
use crate::network::Received;

/// The state of a group at one of its members.
pub(crate) struct Conversation {
    group: MlsGroup,
    id: [u8; 16],
    /// The last commit that this member applied. Messages depend on it.
    commit: u64,
    /// Own messages that the stream has not delivered yet. MLS cannot decrypt them.
    own_pending: HashSet<Vec<u8>>,
}

impl Conversation {
    /// Creates a group and adds a member. Returns the commit and the welcome; the welcome must follow the commit.
    pub(crate) fn create(
        me: &Inbox,
        key_package: &ClientEnvelope,
    ) -> Result<(Self, envelopes_pb::ClientEnvelope, Vec<u8>), BoxError> {
        let id: [u8; 16] = rand::random();
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(CIPHERSUITE)
            .use_ratchet_tree_extension(true)
            .build();
        let group_id = GroupId::from_slice(&id);
        let mut group =
            MlsGroup::new_with_group_id(&me.mls, &me.keys, &config, group_id, me.credential())?;
        let (commit, welcome, _) =
            group.add_members(&me.mls, &me.keys, &[validated_key_package(me, key_package)?])?;
        group.merge_pending_commit(&me.mls)?;
        let commit = group_message(id, commit.tls_serialize_detached()?, None);
        Ok((
            Self { group, id, commit: 0, own_pending: HashSet::new() },
            commit,
            welcome.tls_serialize_detached()?,
        ))
    }

    /// Returns the envelope of a welcome. XMTP's clients encrypt the welcome once more.
    pub(crate) fn welcome(
        to: &Inbox,
        welcome: Vec<u8>,
        commit: u64,
    ) -> envelopes_pb::ClientEnvelope {
        use prost::Message as _;
        let metadata = pb::WelcomeMetadata { message_cursor: commit };
        let input = pb::welcome_message_input::V1 {
            installation_key: to.installation_key(),
            data: welcome.into(),
            welcome_metadata: metadata.encode_to_vec().into(),
            ..Default::default()
        };
        let version = Some(pb::welcome_message_input::Version::V1(input));
        let payload = Payload::WelcomeMessage(pb::WelcomeMessageInput { version });
        envelope(&to.welcome_topic(), payload, None)
    }

    /// Joins the group of a welcome.
    pub(crate) fn join(me: &Inbox, received: &Received) -> Result<Self, BoxError> {
        use prost::Message as _;
        let Payload::WelcomeMessage(input) = received.envelope.payload() else {
            return Err("no welcome".into());
        };
        let Some(pb::welcome_message_input::Version::V1(input)) = &input.version else {
            return Err("a welcome of another version".into());
        };
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&input.data)?;
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            return Err("no welcome".into());
        };
        let config = MlsGroupJoinConfig::builder().use_ratchet_tree_extension(true).build();
        let staged = StagedWelcome::new_from_welcome(&me.mls, &config, welcome, None)?;
        let group = staged.into_group(&me.mls)?;
        let id = group.group_id().as_slice().try_into()?;
        let metadata = pb::WelcomeMetadata::decode(input.welcome_metadata.clone())?;
        Ok(Self { group, id, commit: metadata.message_cursor, own_pending: HashSet::new() })
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    pub(crate) fn topic(&self) -> Topic {
        topic(TopicKind::GroupMessages, &self.id)
    }

    /// Returns the sequence id of the last commit that this member applied.
    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }

    /// Records the sequence id of the commit that made the group.
    pub(crate) fn set_commit(&mut self, sequence_id: u64) {
        self.commit = sequence_id;
    }

    /// Encrypts a message to the group.
    pub(crate) fn encrypt(
        &mut self,
        me: &Inbox,
        text: &str,
    ) -> Result<envelopes_pb::ClientEnvelope, BoxError> {
        let message = self.group.create_message(&me.mls, &me.keys, text.as_bytes())?;
        let message = message.tls_serialize_detached()?;
        self.own_pending.insert(message.clone());
        Ok(group_message(self.id, message, Some(self.commit)))
    }

    /// Decrypts a message of another member. `None` for commits and own messages.
    pub(crate) fn decrypt(
        &mut self,
        me: &Inbox,
        received: &Received,
    ) -> Result<Option<String>, BoxError> {
        let Payload::GroupMessage(input) = received.envelope.payload() else { return Ok(None) };
        let Some(pb::group_message_input::Version::V1(input)) = &input.version else {
            return Ok(None);
        };
        // Originator 0 is the chain: its only commit made the group and is applied already.
        if received.originator == 0 || self.own_pending.remove(&input.data[..]) {
            return Ok(None);
        }
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&input.data)?;
        let message = message.try_into_protocol_message()?;
        let processed = self.group.process_message(&me.mls, message)?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                Ok(Some(String::from_utf8_lossy(&message.into_bytes()).into_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// Validates the key package of the new member, because any payer can publish one.
fn validated_key_package(me: &Inbox, key_package: &ClientEnvelope) -> Result<KeyPackage, BoxError> {
    let Payload::UploadKeyPackage(upload) = key_package.payload() else {
        return Err("no key package".into());
    };
    let upload = upload.key_package.as_ref().ok_or("an empty key package")?;
    let package = KeyPackageIn::tls_deserialize_exact_bytes(&upload.key_package_tls_serialized)?;
    Ok(package.validate(me.mls.crypto(), ProtocolVersion::Mls10)?)
}

fn group_message(id: [u8; 16], data: Vec<u8>, after: Option<u64>) -> envelopes_pb::ClientEnvelope {
    let input = pb::group_message_input::V1 { data: data.into(), ..Default::default() };
    let version = Some(pb::group_message_input::Version::V1(input));
    let payload = Payload::GroupMessage(pb::GroupMessageInput { version });
    envelope(&topic(TopicKind::GroupMessages, &id), payload, after)
}
