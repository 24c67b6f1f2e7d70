//! What a request may ask for. What is refused here has cost nothing but its parsing.

use std::collections::BTreeMap;

use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor as PbCursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use hawser_proto::{Bytes, Cursor, OriginatorId, PayerAddress, TOPIC_LEN_BYTES_MAX, Topic};

use crate::status::Refusal;

/// Topics or originators of one request.
const SELECTED_MAX: usize = 10_000;
/// Originators that one cursor names.
const CURSOR_ENTRIES_MAX: usize = 100;
/// Identifiers whose inboxes are asked for in one request.
const IDENTIFIERS_MAX: usize = 1000;
/// Payers of one request: each may take a row for every minute of its past.
const PAYERS_MAX: usize = 100;

/// A limit that a request does not keep. The texts are part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("cannot filter by both topics and originators")]
    Both,
    #[error("query must contain either topics or originators")]
    Neither,
    #[error("too many subscriptions: {0}, at most {SELECTED_MAX} are allowed")]
    TooMany(usize),
    #[error("topic has {0} bytes, between 1 and {TOPIC_LEN_BYTES_MAX} are allowed")]
    TopicLength(usize),
    #[error("cursor has {0} entries, at most {CURSOR_ENTRIES_MAX} are allowed")]
    CursorEntries(usize),
    #[error("filter must not be nil")]
    FilterMissing,
    #[error("filter must contain at least one originator node id")]
    OriginatorsMissing,
    #[error("last_seen cursor is required")]
    CursorMissing,
    #[error("at least one filter is required")]
    FiltersMissing,
    #[error("too many requests: {0}, at most {IDENTIFIERS_MAX} are allowed")]
    TooManyIdentifiers(usize),
    #[error("payer_addresses cannot be empty")]
    PayersMissing,
    #[error("too many payer_addresses: {0}, at most {PAYERS_MAX} are allowed")]
    TooManyPayers(usize),
    #[error("payer_addresses[{0}] is no address: 20 bytes, hex")]
    PayerAddress(usize),
    #[error("granularity {0} is not known")]
    Granularity(i32),
}

/// What is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    Nothing,
    /// Those that can be on an envelope; others select nothing.
    Topics(Vec<Topic>),
    Originators(Vec<OriginatorId>),
}

impl LimitError {
    /// How it reads when a subscription breaks it.
    pub(crate) fn of_subscription(self) -> Refusal {
        match self {
            Self::FilterMissing | Self::OriginatorsMissing | Self::CursorMissing => {
                Refusal::Filter(self)
            }
            error => Refusal::Subscription(error),
        }
    }
}

/// A query or a subscription that keeps its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) selection: Selection,
    /// `None` and an empty one differ for subscriptions: live only, or from the beginning.
    pub(crate) last_seen: Option<Cursor>,
}

impl Selected {
    pub(crate) fn parse(query: Option<pb::EnvelopesQuery>) -> Result<Self, LimitError> {
        let query = query.unwrap_or_default();
        if !query.topics.is_empty() && !query.originator_node_ids.is_empty() {
            return Err(LimitError::Both);
        }
        let count = query.topics.len() + query.originator_node_ids.len();
        if count > SELECTED_MAX {
            return Err(LimitError::TooMany(count));
        }
        query.topics.iter().try_for_each(check_topic)?;
        let last_seen = query.last_seen.as_ref().map(cursor).transpose()?;
        let selection = if !query.topics.is_empty() {
            Selection::Topics(query.topics.into_iter().filter_map(storable).collect())
        } else if !query.originator_node_ids.is_empty() {
            let ids = query.originator_node_ids.into_iter().map(OriginatorId);
            Selection::Originators(ids.collect())
        } else {
            Selection::Nothing
        };
        Ok(Self { selection, last_seen })
    }
}

/// Originators, and where to begin in their strands.
pub(crate) fn originators(
    filter: Option<pb::subscribe_originators_request::OriginatorFilter>,
) -> Result<(Vec<OriginatorId>, Cursor), LimitError> {
    let filter = filter.ok_or(LimitError::FilterMissing)?;
    if filter.originator_node_ids.is_empty() {
        return Err(LimitError::OriginatorsMissing);
    }
    let last_seen = filter.last_seen.ok_or(LimitError::CursorMissing)?;
    if filter.originator_node_ids.len() > SELECTED_MAX {
        return Err(LimitError::TooMany(filter.originator_node_ids.len()));
    }
    let last_seen = cursor(&last_seen)?;
    Ok((filter.originator_node_ids.into_iter().map(OriginatorId).collect(), last_seen))
}

/// Topics, each with its cursor; of a topic that is named again only the first counts.
pub(crate) fn topic_filters(
    filters: Vec<pb::subscribe_topics_request::TopicFilter>,
) -> Result<Vec<(Topic, Cursor)>, LimitError> {
    if filters.is_empty() {
        return Err(LimitError::FiltersMissing);
    }
    if filters.len() > SELECTED_MAX {
        return Err(LimitError::TooMany(filters.len()));
    }
    let mut topics = Vec::with_capacity(filters.len());
    for filter in filters {
        check_topic(&filter.topic)?;
        let last_seen = filter.last_seen.as_ref().map(cursor).transpose()?.unwrap_or_default();
        topics.extend(storable(filter.topic).map(|topic| (topic, last_seen)));
    }
    Ok(topics)
}

/// Topics of which the newest envelope is asked, in place: `None` where none can be.
pub(crate) fn newest_topics(topics: Vec<Bytes>) -> Result<Vec<Option<Topic>>, LimitError> {
    if topics.len() > SELECTED_MAX {
        return Err(LimitError::TooMany(topics.len()));
    }
    Ok(topics.into_iter().map(storable).collect())
}

/// Identifiers whose inboxes are asked for, as written. What kind they are said to be is not looked
/// at: only addresses are looked up.
pub(crate) fn identifiers(request: pb::GetInboxIdsRequest) -> Result<Vec<String>, LimitError> {
    match request.requests.len() {
        0..=IDENTIFIERS_MAX => Ok(request.requests.into_iter().map(|it| it.identifier).collect()),
        count => Err(LimitError::TooManyIdentifiers(count)),
    }
}

/// Payers by the texts that name them, and the minutes of a period.
pub(crate) fn payers(
    request: meta::GetPayerInfoRequest,
) -> Result<(BTreeMap<String, PayerAddress>, u32), LimitError> {
    use meta::PayerInfoGranularity as Granularity;
    match request.payer_addresses.len() {
        0 => return Err(LimitError::PayersMissing),
        1..=PAYERS_MAX => {}
        count => return Err(LimitError::TooManyPayers(count)),
    }
    let minutes = match Granularity::try_from(request.granularity) {
        Ok(Granularity::Unspecified | Granularity::Hour) => 60,
        Ok(Granularity::Day) => 24 * 60,
        Err(_) => return Err(LimitError::Granularity(request.granularity)),
    };
    let address = |(index, text): (usize, String)| {
        let address = text.parse().map_err(|_| LimitError::PayerAddress(index))?;
        Ok((text, address))
    };
    let payers = request.payer_addresses.into_iter().enumerate().map(address);
    Ok((payers.collect::<Result<_, _>>()?, minutes))
}

/// A topic that can be on an envelope.
fn storable(topic: Bytes) -> Option<Topic> {
    Topic::parse(topic).ok()
}

fn check_topic(topic: &Bytes) -> Result<(), LimitError> {
    match topic.len() {
        1..=TOPIC_LEN_BYTES_MAX => Ok(()),
        len => Err(LimitError::TopicLength(len)),
    }
}

fn cursor(cursor: &PbCursor) -> Result<Cursor, LimitError> {
    match cursor.node_id_to_sequence_id.len() {
        0..=CURSOR_ENTRIES_MAX => Ok(Cursor::from(cursor)),
        entries => Err(LimitError::CursorEntries(entries)),
    }
}
