//! Limits of requests. A request that exceeds one is refused before it causes more work than its parsing.
//!
//! The limits are specified in `docs/protocol/api.md`.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor as PbCursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as meta;
use hawser_proto::{
    Bytes, Cursor, CursorTextError, OriginatorId, PayerAddress, TOPIC_LEN_BYTES_MAX, Topic,
};
use tonic::metadata::MetadataMap;

/// Topics or originators of one request. Specified.
pub(crate) const SELECTED_MAX: usize = 10_000;
/// Entries of one cursor. Specified: the network has far fewer originators.
pub(crate) const CURSOR_ENTRIES_MAX: usize = 100;
/// Identifiers of one request for inboxes. Specified.
pub(crate) const IDENTIFIERS_MAX: usize = 1000;
/// Payer envelopes of one publish. Specified in `docs/protocol/api.md`; the value is a guess, far above
/// what clients and gateways send at once.
pub(crate) const PUBLISHED_MAX: usize = 10_000;
/// Payers of one request. Specified. Each payer's rows are read once, however often it is named.
pub(crate) const PAYERS_MAX: usize = 1000;

/// The metadata key of the cursor after which a stream of all envelopes begins. Specified in
/// `docs/protocol/api.md`.
pub(crate) const RESUME_HEADER: &str = "hawser-resume";
/// Paths of fields in requests: the topics of a query, those of `GetNewestEnvelope`, and the filters of
/// `SubscribeTopics`.
pub(crate) const QUERY_TOPICS: &str = "query.topics";
pub(crate) const TOPICS: &str = "topics";
pub(crate) const FILTERS: &str = "filters";

/// Largest number of characters of a wrong text that an error repeats. A guess: an address has 42.
const QUOTED_MAX: usize = 64;

/// The limit that a request breaks. The texts are part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("cannot filter by both topics and originators")]
    Both,
    #[error("query must contain either topics or originators")]
    Neither,
    // The second value is the path of the field that is wrong.
    #[error("too many subscriptions: {0}, at most {SELECTED_MAX} are allowed")]
    TooMany(usize, &'static str),
    #[error("topic has {0} bytes, between 1 and {TOPIC_LEN_BYTES_MAX} are allowed")]
    TopicLength(usize, String),
    #[error("cursor has {0} entries, at most {CURSOR_ENTRIES_MAX} are allowed")]
    CursorEntries(usize, String),
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
    #[error("too many payer_envelopes: {0}, at most {PUBLISHED_MAX} are allowed")]
    TooManyPublished(usize),
    #[error("payer_addresses cannot be empty")]
    PayersMissing,
    #[error("too many payer_addresses: {0}, at most {PAYERS_MAX} are allowed")]
    TooManyPayers(usize),
    #[error(
        "{RESUME_HEADER} must be ORIGINATOR=SEQUENCE,…: {0:?} is not such a pair, or names an originator twice"
    )]
    Resume(String),
    #[error("granularity {0} is unknown")]
    Granularity(i32),
}

impl LimitError {
    /// Returns the name of the limit in error details, a constant that programs can match.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Both => "TOPICS_AND_ORIGINATORS",
            Self::Neither => "NOTHING_SELECTED",
            Self::TooMany(..) => "TOO_MANY_SUBSCRIPTIONS",
            Self::TopicLength(..) => "TOPIC_LENGTH",
            Self::CursorEntries(..) => "CURSOR_ENTRIES",
            Self::FilterMissing | Self::FiltersMissing => "FILTER_MISSING",
            Self::OriginatorsMissing => "ORIGINATORS_MISSING",
            Self::CursorMissing => "CURSOR_MISSING",
            Self::TooManyIdentifiers(_) => "TOO_MANY_IDENTIFIERS",
            Self::TooManyPublished(_) => "TOO_MANY_ENVELOPES",
            Self::PayersMissing => "PAYERS_MISSING",
            Self::TooManyPayers(_) => "TOO_MANY_PAYERS",
            Self::Resume(_) => "RESUME_POINT",
            Self::Granularity(_) => "GRANULARITY",
        }
    }

    /// Returns the path of the field that is wrong, or the metadata key.
    pub(crate) fn field(&self) -> &str {
        match self {
            Self::TooMany(_, field) => field,
            Self::TopicLength(_, field) | Self::CursorEntries(_, field) => field,
            Self::Both | Self::Neither => "query",
            Self::CursorMissing => "filter.last_seen",
            Self::FilterMissing => "filter",
            Self::FiltersMissing => "filters",
            Self::OriginatorsMissing => "filter.originator_node_ids",
            Self::TooManyIdentifiers(_) => "requests",
            Self::TooManyPublished(_) => "payer_envelopes",
            Self::PayersMissing | Self::TooManyPayers(_) => "payer_addresses",
            Self::Resume(_) => RESUME_HEADER,
            Self::Granularity(_) => "granularity",
        }
    }
}

/// The envelopes that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// No topic and no originator is named.
    Nothing,
    /// Topics that an envelope can have; all others select nothing.
    Topics(Vec<Topic>),
    /// Originators.
    Originators(Vec<OriginatorId>),
}

/// A query or a subscription within its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    /// The envelopes to read.
    pub(crate) selection: Selection,
    /// The cursor to read from. For subscriptions, `None` means live only and an empty cursor means
    /// from the beginning.
    pub(crate) last_seen: Option<Cursor>,
}

impl Selected {
    /// Checks a query.
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub(crate) fn parse(query: Option<pb::EnvelopesQuery>) -> Result<Self, LimitError> {
        let query = query.unwrap_or_default();
        if !query.topics.is_empty() && !query.originator_node_ids.is_empty() {
            return Err(LimitError::Both);
        }
        for (count, field) in [
            (query.topics.len(), QUERY_TOPICS),
            (query.originator_node_ids.len(), "query.originator_node_ids"),
        ] {
            if count > SELECTED_MAX {
                return Err(LimitError::TooMany(count, field));
            }
        }
        for (place, topic) in query.topics.iter().enumerate() {
            check_topic(topic, || format!("{QUERY_TOPICS}[{place}]"))?;
        }
        let last_seen = query.last_seen.as_ref();
        let last_seen = last_seen.map(|it| cursor(it, || "query.last_seen".into())).transpose()?;
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

/// Returns the originators of a filter and the cursor to read from.
///
/// # Errors
/// The first limit that the filter breaks.
pub(crate) fn originators(
    filter: Option<pb::subscribe_originators_request::OriginatorFilter>,
) -> Result<(Vec<OriginatorId>, Cursor), LimitError> {
    let filter = filter.ok_or(LimitError::FilterMissing)?;
    if filter.originator_node_ids.is_empty() {
        return Err(LimitError::OriginatorsMissing);
    }
    let last_seen = filter.last_seen.ok_or(LimitError::CursorMissing)?;
    let count = filter.originator_node_ids.len();
    if count > SELECTED_MAX {
        return Err(LimitError::TooMany(count, "filter.originator_node_ids"));
    }
    let last_seen = cursor(&last_seen, || "filter.last_seen".into())?;
    Ok((filter.originator_node_ids.into_iter().map(OriginatorId).collect(), last_seen))
}

/// Returns the topics of filters, each with its cursor. The engine keeps the first filter of a topic
/// that is named twice.
///
/// # Errors
/// The first limit that a filter breaks.
pub(crate) fn topic_filters(
    filters: Vec<pb::subscribe_topics_request::TopicFilter>,
) -> Result<Vec<(Topic, Cursor)>, LimitError> {
    if filters.is_empty() {
        return Err(LimitError::FiltersMissing);
    }
    if filters.len() > SELECTED_MAX {
        return Err(LimitError::TooMany(filters.len(), FILTERS));
    }
    for (place, filter) in filters.iter().enumerate() {
        check_topic(&filter.topic, || format!("{FILTERS}[{place}].topic"))?;
    }
    // The names are copied: parts of the request's buffer would keep the whole buffer for the life of the stream.
    let mut names: Bytes = filters.iter().flat_map(|filter| &filter.topic[..]).copied().collect();
    let mut topics = Vec::with_capacity(filters.len());
    for (place, filter) in filters.into_iter().enumerate() {
        let field = || format!("{FILTERS}[{place}].last_seen");
        let last_seen = filter.last_seen.as_ref().map(|it| cursor(it, field)).transpose()?;
        let last_seen = last_seen.unwrap_or_default();
        let name = names.split_to(filter.topic.len());
        topics.extend(storable(name).map(|topic| (topic, last_seen)));
    }
    Ok(topics)
}

/// Returns the topics of a request in their places, `None` for those that no envelope can have.
///
/// # Errors
/// [`LimitError::TooMany`].
pub(crate) fn newest_topics(topics: Vec<Bytes>) -> Result<Vec<Option<Topic>>, LimitError> {
    if topics.len() > SELECTED_MAX {
        return Err(LimitError::TooMany(topics.len(), TOPICS));
    }
    Ok(topics.into_iter().map(storable).collect())
}

/// Checks the number of envelopes that a publish may have.
///
/// # Errors
/// [`LimitError::TooManyPublished`].
pub(crate) fn published(envelopes: usize) -> Result<(), LimitError> {
    if envelopes > PUBLISHED_MAX {
        return Err(LimitError::TooManyPublished(envelopes));
    }
    Ok(())
}

/// Returns the identifiers of a request as written. Their kinds are ignored, because only addresses
/// are looked up.
///
/// # Errors
/// [`LimitError::TooManyIdentifiers`].
pub(crate) fn identifiers(request: pb::GetInboxIdsRequest) -> Result<Vec<String>, LimitError> {
    match request.requests.len() {
        0..=IDENTIFIERS_MAX => Ok(request.requests.into_iter().map(|it| it.identifier).collect()),
        count => Err(LimitError::TooManyIdentifiers(count)),
    }
}

/// Returns the payers of a request with the texts that name them, and the minutes of a period.
///
/// # Errors
/// The first limit that the request breaks.
pub(crate) fn payers(
    request: meta::GetPayerInfoRequest,
) -> Result<(Vec<(String, PayerAddress)>, u32), LimitError> {
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
    let named = |text: String| {
        let payer = payer_address(&text);
        (text, payer)
    };
    Ok((request.payer_addresses.into_iter().map(named).collect(), minutes))
}

/// Returns the address that a text means. As in the reference implementation every text means one. Pairs of hex
/// digits are read up to the first other character, after a leading zero if the text has an odd length. The last 20
/// bytes count, with zeros in front of fewer.
fn payer_address(text: &str) -> PayerAddress {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let first = (digits.len() % 2 == 1).then_some(0);
    let values = digits.bytes().map(|digit| char::from(digit).to_digit(16));
    let mut address = [0u8; 20];
    let mut high = first;
    for value in values.map_while(|value| value.and_then(|value| u8::try_from(value).ok())) {
        let Some(above) = high.take() else {
            high = Some(value);
            continue;
        };
        address.rotate_left(1);
        address[19] = above << 4 | value;
    }
    hawser_proto::Address(address)
}

/// Returns the topic if an envelope can have it.
fn storable(topic: Bytes) -> Option<Topic> {
    Topic::parse(topic).ok()
}

/// Checks a topic. `field` returns its path.
fn check_topic(topic: &Bytes, field: impl FnOnce() -> String) -> Result<(), LimitError> {
    match topic.len() {
        1..=TOPIC_LEN_BYTES_MAX => Ok(()),
        len => Err(LimitError::TopicLength(len, field())),
    }
}

/// Checks and converts a cursor. `field` returns its path.
fn cursor(cursor: &PbCursor, field: impl FnOnce() -> String) -> Result<Cursor, LimitError> {
    match cursor.node_id_to_sequence_id.len() {
        0..=CURSOR_ENTRIES_MAX => Ok(Cursor::from(cursor)),
        entries => Err(LimitError::CursorEntries(entries, field())),
    }
}

/// Returns the beginning of a caller's text, for an error.
pub(crate) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}

/// Returns the cursor after which a stream of all envelopes begins; `None` if the caller gives none.
///
/// # Errors
/// [`LimitError::Resume`] with the entry that is wrong, [`LimitError::CursorEntries`].
pub(crate) fn resume_point(metadata: &MetadataMap) -> Result<Option<Cursor>, LimitError> {
    let mut values = metadata.get_all(RESUME_HEADER).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    let wrong = |entry: &str| LimitError::Resume(quoted(entry));
    let mut texts = Vec::new();
    for value in values {
        texts.push(value.to_str().map_err(|_| wrong("bytes that are not text"))?);
    }
    let read = Cursor::from_texts(texts, CURSOR_ENTRIES_MAX);
    read.map(Some).map_err(|error| match error {
        CursorTextError::Entry(entry) => wrong(entry),
        CursorTextError::Entries(entries) => {
            LimitError::CursorEntries(entries, RESUME_HEADER.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_resume_point_is_a_cursor_as_text() {
        let of = |texts: &[&str]| {
            let mut metadata = MetadataMap::new();
            texts.iter().for_each(|text| _ = metadata.append(RESUME_HEADER, text.parse().unwrap()));
            resume_point(&metadata)
        };
        let cursor = |entries: &[(u32, u64)]| {
            let places = entries.iter().copied().collect();
            Some(Cursor::from(&PbCursor { node_id_to_sequence_id: places }))
        };
        assert_eq!(of(&[]), Ok(None), "from now on");
        assert_eq!(of(&[""]), Ok(cursor(&[])), "from the beginning");
        assert_eq!(of(&["100=7, 0=2"]), Ok(cursor(&[(0, 2), (100, 7)])));
        assert_eq!(of(&["100=7", "200=1,"]), Ok(cursor(&[(100, 7), (200, 1)])));
        for wrong in [
            "100",
            "100:7",
            "=",
            "-1=2",
            "+1=2",
            "1=+2",
            "4294967296=1",
            "1=18446744073709551616",
            "1=2,1=3",
        ] {
            assert!(matches!(of(&[wrong]), Err(LimitError::Resume(_))), "{wrong}");
        }
        let many: Vec<String> = (0..101).map(|number| format!("{number}=1")).collect();
        let refused = LimitError::CursorEntries(101, RESUME_HEADER.into());
        assert_eq!(of(&[&many.join(",")]), Err(refused));
    }

    /// A developer sees which of thousands of fields is wrong.
    #[test]
    fn each_refusal_names_the_field_that_is_wrong() {
        use pb::subscribe_topics_request::TopicFilter;
        let long =
            || Some(PbCursor { node_id_to_sequence_id: (0..101).map(|id| (id, 1)).collect() });
        let field = |refused: LimitError| refused.field().to_owned();
        let query =
            |query: pb::EnvelopesQuery| Selected::parse(Some(query)).map(drop).map_err(field);
        let fine = Bytes::from_static(&[0, 1]);
        let topics = |topics| pb::EnvelopesQuery { topics, ..Default::default() };
        let strands =
            |ids: Vec<u32>| pb::EnvelopesQuery { originator_node_ids: ids, ..topics(vec![]) };
        let refused = |field: &str| Err::<(), _>(field.to_owned());
        assert_eq!(query(topics(vec![fine.clone(), Bytes::new()])), refused("query.topics[1]"));
        assert_eq!(query(topics(vec![fine.clone(); 10_001])), refused("query.topics"));
        assert_eq!(query(strands(vec![1; 10_001])), refused("query.originator_node_ids"));
        let ahead = pb::EnvelopesQuery { last_seen: long(), ..strands(vec![1]) };
        assert_eq!(query(ahead), refused("query.last_seen"));

        let filter = |topic: &Bytes, last_seen| TopicFilter { topic: topic.clone(), last_seen };
        let filters = |filters: Vec<TopicFilter>| topic_filters(filters).map(drop).map_err(field);
        let empty = filter(&Bytes::new(), None);
        assert_eq!(filters(vec![filter(&fine, None), empty]), refused("filters[1].topic"));
        assert_eq!(filters(vec![filter(&fine, long())]), refused("filters[0].last_seen"));
        assert_eq!(filters(vec![filter(&fine, None); 10_001]), refused("filters"));
    }

    /// Clients send requests that are as large as the specification allows. Other tests refuse one more.
    #[test]
    fn the_last_value_of_each_limit_is_allowed() {
        use pb::subscribe_originators_request::OriginatorFilter;
        use pb::subscribe_topics_request::TopicFilter;
        let last_seen =
            || Some(PbCursor { node_id_to_sequence_id: (0..100).map(|id| (id, 1)).collect() });
        let topic = Bytes::from(vec![0; 128]);
        let mut filters = vec![TopicFilter { topic, last_seen: None }; 10_000];
        filters[9_999].last_seen = last_seen();
        assert_eq!(topic_filters(filters).map(|topics| topics.len()), Ok(10_000));

        let originator_node_ids = (0..10_000).collect();
        let filter = OriginatorFilter { originator_node_ids, last_seen: last_seen() };
        assert_eq!(originators(Some(filter)).map(|(ids, _)| ids.len()), Ok(10_000));

        let payer_addresses = vec![String::new(); 1000];
        let usage = meta::GetPayerInfoRequest { payer_addresses, granularity: 0 };
        assert_eq!(payers(usage).map(|(payers, _)| payers.len()), Ok(1000));

        assert_eq!(published(10_000), Ok(()));
        assert_eq!(published(10_001), Err(LimitError::TooManyPublished(10_001)));

        let entries: Vec<String> = (0..100).map(|number| format!("{number}=1")).collect();
        let mut metadata = MetadataMap::new();
        metadata.insert(RESUME_HEADER, entries.join(",").parse().unwrap());
        let cursor = last_seen().as_ref().map(Cursor::from);
        assert_eq!(resume_point(&metadata), Ok(cursor));
    }

    proptest! {
        /// A caller may send any metadata.
        #[test]
        fn no_text_breaks_a_resume_point_and_a_cursor_is_read_as_it_was_written(
            text in "[ -~]{0,60}",
            places in proptest::collection::btree_map(any::<u32>(), any::<u64>(), 0..8),
        ) {
            let of = |text: &str| {
                let mut metadata = MetadataMap::new();
                metadata.insert(RESUME_HEADER, text.parse().unwrap());
                resume_point(&metadata)
            };
            let _ = of(&text);
            let entries: Vec<_> = places.iter().map(|(id, place)| format!("{id}={place}")).collect();
            let expected = Cursor::from(&PbCursor { node_id_to_sequence_id: places });
            prop_assert_eq!(of(&entries.join(",")), Ok(Some(expected)));
        }
    }

    #[test]
    fn every_text_stands_for_an_address_as_at_the_reference() {
        let of = |text: &str| hex::encode(payer_address(text).0);
        let zeros = |count: usize| "00".repeat(count);
        let whole = "ab".repeat(20);
        assert_eq!(of(&whole), whole);
        assert_eq!(of(&format!("0x{}", whole.to_uppercase())), whole, "letter case does not count");
        assert_eq!(of(&format!("0X{whole}")), whole);
        assert_eq!(of("0x12"), zeros(19) + "12", "zeros before a short one");
        assert_eq!(of("0x123"), zeros(18) + "0123", "an odd number of digits");
        assert_eq!(of(&format!("0x77{whole}")), whole, "the last 20 bytes of a long one");
        assert_eq!(of("0x1234zz56"), zeros(18) + "1234", "up to the first that is no digit");
        assert_eq!(of("0x123z"), zeros(19) + "12", "whole bytes only");
        assert_eq!([of(""), of("0x"), of("é")], [zeros(20), zeros(20), zeros(20)]);
    }
}
