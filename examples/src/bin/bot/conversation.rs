//! A group: made or joined, spoken in and listened to.

use std::collections::HashSet;

use hawser_proto::Topic;
use hawser_proto::TopicKind;
use hawser_proto::envelope::ClientEnvelope;
use hawser_proto::pb::xmtp::mls::api::v1 as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as envelopes_pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::*;

use crate::Failure;
use crate::inbox::{CIPHERSUITE, Inbox, envelope, topic};
use crate::network::Received;

/// A group as one of its members has it.
pub(crate) struct Conversation {
    group: MlsGroup,
    id: [u8; 16],
    /// The last commit that was applied here: whoever reads a message must have it too.
    commit: u64,
    /// Messages of one's own that have not come back yet.
    said: HashSet<Vec<u8>>,
}

impl Conversation {
    /// Makes a group of two. Returns the commit that adds the other one, and the welcome: it is
    /// for the other one when the commit is on the chain.
    pub(crate) fn create(
        me: &Inbox,
        key_package: &ClientEnvelope,
    ) -> Result<(Self, envelopes_pb::ClientEnvelope, Vec<u8>), Failure> {
        let id: [u8; 16] = rand::random();
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(CIPHERSUITE)
            .use_ratchet_tree_extension(true)
            .build();
        let group_id = GroupId::from_slice(&id);
        let mut group =
            MlsGroup::new_with_group_id(&me.mls, &me.keys, &config, group_id, me.credential())?;
        let (commit, welcome, _) =
            group.add_members(&me.mls, &me.keys, &[invited(me, key_package)?])?;
        group.merge_pending_commit(&me.mls)?;
        let commit = group_message(id, commit.tls_serialize_detached()?, None);
        Ok((
            Self { group, id, commit: 0, said: HashSet::new() },
            commit,
            welcome.tls_serialize_detached()?,
        ))
    }

    /// What the new member finds among its welcomes. Clients of people encrypt it once more.
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

    /// Takes part in the group that one was welcomed to.
    pub(crate) fn join(me: &Inbox, received: &Received) -> Result<Self, Failure> {
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
        Ok(Self { group, id, commit: metadata.message_cursor, said: HashSet::new() })
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    pub(crate) fn topic(&self) -> Topic {
        topic(TopicKind::GroupMessages, &self.id)
    }

    /// The last commit that was applied here, by its place on the chain.
    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }

    /// The chain has given this place to the commit that made the group.
    pub(crate) fn commit_is_at(&mut self, sequence_id: u64) {
        self.commit = sequence_id;
    }

    /// A message to everybody in the group.
    pub(crate) fn say(
        &mut self,
        me: &Inbox,
        text: &str,
    ) -> Result<envelopes_pb::ClientEnvelope, Failure> {
        let message = self.group.create_message(&me.mls, &me.keys, text.as_bytes())?;
        let message = message.tls_serialize_detached()?;
        self.said.insert(message.clone());
        Ok(group_message(self.id, message, Some(self.commit)))
    }

    /// What somebody else says; nothing if it is something else.
    pub(crate) fn hear(
        &mut self,
        me: &Inbox,
        received: &Received,
    ) -> Result<Option<String>, Failure> {
        let Payload::GroupMessage(input) = received.envelope.payload() else { return Ok(None) };
        let Some(pb::group_message_input::Version::V1(input)) = &input.version else {
            return Ok(None);
        };
        // The commit that made the group is applied, and what one said oneself cannot be decrypted.
        if received.originator == 0 || self.said.remove(&input.data[..]) {
            return Ok(None);
        }
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&input.data)?;
        let message = message.try_into_protocol_message()?;
        let processed = self.group.process_message(&me.mls, message)?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(said) => {
                Ok(Some(String::from_utf8_lossy(&said.into_bytes()).into_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// Who is to be added. Anybody may have written the key package: it is checked.
fn invited(me: &Inbox, key_package: &ClientEnvelope) -> Result<KeyPackage, Failure> {
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
