//! Client envelopes as lines of JSON: input of `hawser publish`, and content of chain files.
//!
//! A line is one object. Only `hex` is required: the bytes of a `ClientEnvelope`.
//!
//! | field | meaning |
//! |---|---|
//! | `hex` | the envelope, `0x` in front optional |
//! | `expect_route` | `node`, `chain:group` or `chain:identity`; without it the payload decides |
//! | `request` | lines with the same value belong to one publish call |
//! | `block_time` | chain files: when the block was made, unix seconds |
//! | `transaction_hash` | chain files: 32 bytes, hex |
//!
//! Other fields are ignored. Empty lines are skipped, but counted.

use std::fmt;

use hawser_proto::envelope::{ClientEnvelope, LayerError, Payload};
use hawser_proto::mls::parse_group_message;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::{Bytes, OriginatorId};
use serde::Deserialize;

/// The kind of originator that orders an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StrandKind {
    /// A node.
    Node,
    /// The app chain's group message broadcaster.
    Group,
    /// The app chain's identity update broadcaster.
    Identity,
}

impl StrandKind {
    /// Returns the originator of the chain strand; `None` for a node.
    #[must_use]
    pub fn strand(self) -> Option<OriginatorId> {
        match self {
            Self::Node => None,
            Self::Group => Some(OriginatorId::GROUP_MESSAGES),
            Self::Identity => Some(OriginatorId::IDENTITY_UPDATES),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Node, Self::Group, Self::Identity].into_iter().find(|route| route.name() == name)
    }

    /// Returns the value of `expect_route`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Group => "chain:group",
            Self::Identity => "chain:identity",
        }
    }
}

impl fmt::Display for StrandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line with an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeLine {
    /// Line number, from 1.
    pub number: u64,
    /// The client envelope.
    pub client_bytes: Bytes,
    /// The kind of originator that orders it.
    pub route: StrandKind,
    /// The name of the publish call that contains the line.
    pub request: Option<String>,
    /// The time of the block, unix seconds; only in chain files.
    pub block_time_s: Option<u64>,
    /// The hash of the transaction; only in chain files.
    pub transaction_hash: Option<[u8; 32]>,
}

/// Error of parsing one line.
#[derive(Debug, thiserror::Error)]
#[error("line {number}: {error}")]
pub struct LineError {
    /// Line number, from 1.
    pub number: u64,
    /// The error in its content.
    pub error: LineContentError,
}

/// Error of a line's content.
#[derive(Debug, thiserror::Error)]
pub enum LineContentError {
    /// The line is not a JSON object of this form.
    #[error("it is no JSON object with an envelope: {}", within_line(.0))]
    Json(#[from] serde_json::Error),
    /// The value of `hex` is not hex.
    #[error("hex: {0}")]
    Hex(hex::FromHexError),
    /// The value of `transaction_hash` is not 32 bytes of hex.
    #[error("transaction_hash: {0}")]
    TransactionHash(hex::FromHexError),
    /// The value of `expect_route` is unknown.
    #[error("expect_route must be node, chain:group or chain:identity, and is {0:?}")]
    Route(String),
    /// There is no `expect_route`, and the route cannot be derived from the envelope.
    #[error("expect_route is missing, and hex does not decode as a client envelope: {0}")]
    Envelope(#[from] LayerError),
}

#[derive(Deserialize)]
#[serde(expecting = "an object with the field hex")]
struct Written {
    hex: String,
    expect_route: Option<String>,
    request: Option<serde_json::Value>,
    block_time: Option<u64>,
    transaction_hash: Option<String>,
}

/// Parses line `number` of a file; `None` if it is empty.
///
/// # Errors
/// Fails when the line is not an envelope line.
pub(crate) fn parse_line(number: u64, text: &str) -> Result<Option<EnvelopeLine>, LineError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    read(number, text).map(Some).map_err(|error| LineError { number, error })
}

/// Parses all lines of a file.
///
/// # Errors
/// The error of the first invalid line.
pub fn parse(text: &str) -> Result<Vec<EnvelopeLine>, LineError> {
    (1..)
        .zip(text.lines())
        .filter_map(|(number, line)| parse_line(number, line).transpose())
        .collect()
}

fn read(number: u64, text: &str) -> Result<EnvelopeLine, LineContentError> {
    let written: Written = serde_json::from_str(text)?;
    let client_bytes = Bytes::from(hex::decode(bare(&written.hex)).map_err(LineContentError::Hex)?);
    let route = match written.expect_route {
        Some(name) => StrandKind::from_name(&name).ok_or(LineContentError::Route(name))?,
        None => route_of(&ClientEnvelope::parse(client_bytes.clone())?),
    };
    let transaction_hash = written.transaction_hash.map(|hash| hash_of(&hash)).transpose()?;
    Ok(EnvelopeLine {
        number,
        client_bytes,
        route,
        request: written
            .request
            .filter(|request| !request.is_null())
            .map(|request| request.to_string()),
        block_time_s: written.block_time,
        transaction_hash,
    })
}

/// Returns the text of an error in one line, which knows the line as the first of its text.
fn within_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn bare(hex: &str) -> &str {
    hex.strip_prefix("0x").unwrap_or(hex)
}

fn hash_of(text: &str) -> Result<[u8; 32], LineContentError> {
    let mut hash = [0; 32];
    hex::decode_to_slice(bare(text), &mut hash).map_err(LineContentError::TransactionHash)?;
    Ok(hash)
}

/// Returns the kind of originator that orders an envelope, by its payload: the app chain orders identity updates,
/// commits and proposals, a node everything else.
#[must_use]
pub fn route_of(client: &ClientEnvelope) -> StrandKind {
    match client.payload() {
        Payload::IdentityUpdate(_) => StrandKind::Identity,
        Payload::GroupMessage(message) => match &message.version {
            Some(Version::V1(v1))
                if parse_group_message(&v1.data).is_ok_and(|frame| frame.is_chain_bound()) =>
            {
                StrandKind::Group
            }
            // A malformed message goes to a node, whose error says more.
            _ => StrandKind::Node,
        },
        _ => StrandKind::Node,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const VECTORS: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");

    fn fault(text: &str) -> LineContentError {
        parse_line(1, text).unwrap_err().error
    }

    #[test]
    fn the_payload_tells_the_same_route_as_the_vectors() {
        let text = std::fs::read_to_string(VECTORS).unwrap();
        let lines = parse(&text).unwrap();
        assert!(!lines.is_empty());
        assert_eq!(lines.len(), text.lines().count());
        for line in lines {
            let client = ClientEnvelope::parse(line.client_bytes).unwrap();
            assert_eq!(route_of(&client), line.route, "line {}", line.number);
        }
    }

    #[test]
    fn only_hex_is_required() {
        let text = std::fs::read_to_string(VECTORS).unwrap();
        let with_all = parse_line(1, text.lines().next().unwrap()).unwrap().unwrap();
        assert_eq!(with_all.request.as_deref(), Some("6"));
        let bare = format!(r#"{{"hex":"0x{}"}}"#, hex::encode(&with_all.client_bytes));
        let line = parse_line(9, &bare).unwrap().unwrap();
        assert_eq!(line, EnvelopeLine { number: 9, request: None, ..with_all });
    }

    #[test]
    fn an_expected_route_is_believed() {
        let line = parse_line(1, r#"{"hex":"ff","expect_route":"chain:group"}"#).unwrap().unwrap();
        assert_eq!(line.route, StrandKind::Group);
        assert_eq!(line.client_bytes, Bytes::from_static(&[0xff]));
    }

    #[test]
    fn empty_lines_are_passed_over_but_counted() {
        let text = "\n  \n{\"hex\":\"\",\"expect_route\":\"node\"}\n";
        let numbers: Vec<_> = parse(text).unwrap().iter().map(|line| line.number).collect();
        assert_eq!(numbers, [3]);
    }

    #[test]
    fn each_error_is_named() {
        assert!(matches!(fault("{}"), LineContentError::Json(_)));
        assert!(matches!(fault("[1]"), LineContentError::Json(_)));
        assert!(matches!(fault(r#"{"hex":"0"}"#), LineContentError::Hex(_)));
        assert!(matches!(fault(r#"{"hex":"zz"}"#), LineContentError::Hex(_)));
        assert!(matches!(fault(r#"{"hex":"ff"}"#), LineContentError::Envelope(_)));
        assert!(matches!(fault(r#"{"hex":"","expect_route":"moon"}"#), LineContentError::Route(_)));
        let short = r#"{"hex":"","expect_route":"node","transaction_hash":"00"}"#;
        assert!(matches!(fault(short), LineContentError::TransactionHash(_)));
        let negative = r#"{"hex":"","expect_route":"node","block_time":-1}"#;
        assert!(matches!(fault(negative), LineContentError::Json(_)));
        let error = parse("\n{}").unwrap_err();
        assert_eq!(error.number, 2);
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        let error = parse("\n{\n").unwrap_err().to_string();
        assert!(error.ends_with(" parsing an object at column 1"), "one line number: {error}");
    }
}
