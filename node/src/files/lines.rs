//! Client envelopes as lines of JSON: what `hawser publish` sends, and what chain files hold.
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
//! Other fields are for other readers. Empty lines are passed over, but counted.

use std::fmt;

use hawser_proto::envelope::{ClientEnvelope, LayerError, Payload};
use hawser_proto::mls::parse_group_message;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::{Bytes, OriginatorId};
use serde::Deserialize;

/// Who puts an envelope in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// A node.
    Node,
    /// The app chain's group message broadcaster.
    Group,
    /// The app chain's identity update broadcaster.
    Identity,
}

impl Route {
    /// The chain strand, if it is one.
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

    /// What `expect_route` says for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Group => "chain:group",
            Self::Identity => "chain:identity",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line that holds an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeLine {
    /// Its place in the file, from 1.
    pub number: u64,
    /// The client envelope.
    pub client_bytes: Bytes,
    /// Who puts it in order.
    pub route: Route,
    /// Names the publish call, if it shares one.
    pub request: Option<String>,
    /// Unix seconds.
    pub block_time_s: Option<u64>,
    /// The transaction.
    pub transaction_hash: Option<[u8; 32]>,
}

/// A line cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("line {number}: {fault}")]
pub struct LineError {
    /// Its place in the file, from 1.
    pub number: u64,
    /// What is wrong with it.
    pub fault: LineFault,
}

/// Why a line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LineFault {
    /// It is no JSON object of this form.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// `hex` is no hex.
    #[error("hex: {0}")]
    Hex(hex::FromHexError),
    /// `transaction_hash` is not 32 bytes of hex.
    #[error("transaction_hash: {0}")]
    TransactionHash(hex::FromHexError),
    /// `expect_route` has another value.
    #[error("expect_route is {0:?}, and can be node, chain:group or chain:identity")]
    Route(String),
    /// There is no `expect_route`, and the envelope does not tell either.
    #[error("no expect_route, and hex is no client envelope: {0}")]
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

/// Reads line `number` of a file; `None` if nothing is on it.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_line(number: u64, text: &str) -> Result<Option<EnvelopeLine>, LineError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    read(number, text).map(Some).map_err(|fault| LineError { number, fault })
}

/// Reads all lines of a file.
///
/// # Errors
/// Names the first line that is wrong.
pub fn parse(text: &str) -> Result<Vec<EnvelopeLine>, LineError> {
    (1..)
        .zip(text.lines())
        .filter_map(|(number, line)| parse_line(number, line).transpose())
        .collect()
}

fn read(number: u64, text: &str) -> Result<EnvelopeLine, LineFault> {
    let written: Written = serde_json::from_str(text)?;
    let client_bytes = Bytes::from(hex::decode(bare(&written.hex)).map_err(LineFault::Hex)?);
    let route = match written.expect_route {
        Some(name) => Route::from_name(&name).ok_or(LineFault::Route(name))?,
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

fn bare(hex: &str) -> &str {
    hex.strip_prefix("0x").unwrap_or(hex)
}

fn hash_of(text: &str) -> Result<[u8; 32], LineFault> {
    let mut hash = [0; 32];
    hex::decode_to_slice(bare(text), &mut hash).map_err(LineFault::TransactionHash)?;
    Ok(hash)
}

/// Who puts an envelope in order, by its payload: identity updates, commits and proposals belong
/// to the chain, everything else to a node.
#[must_use]
pub fn route_of(client: &ClientEnvelope) -> Route {
    match client.payload() {
        Payload::IdentityUpdate(_) => Route::Identity,
        Payload::GroupMessage(message) => match &message.version {
            Some(Version::V1(v1))
                if parse_group_message(&v1.data).is_ok_and(|frame| frame.is_chain_bound()) =>
            {
                Route::Group
            }
            // A node says better than we do what is wrong with a broken one.
            _ => Route::Node,
        },
        _ => Route::Node,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const VECTORS: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");

    fn fault(text: &str) -> LineFault {
        parse_line(1, text).unwrap_err().fault
    }

    #[test]
    fn the_payload_tells_the_same_route_as_the_vectors() {
        let text = std::fs::read_to_string(VECTORS).unwrap();
        let lines = parse(&text).unwrap();
        assert_eq!(lines.len(), 67);
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
        assert_eq!(line.route, Route::Group);
        assert_eq!(line.client_bytes, Bytes::from_static(&[0xff]));
    }

    #[test]
    fn empty_lines_are_passed_over_but_counted() {
        let text = "\n  \n{\"hex\":\"\",\"expect_route\":\"node\"}\n";
        let numbers: Vec<_> = parse(text).unwrap().iter().map(|line| line.number).collect();
        assert_eq!(numbers, [3]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(fault("{}"), LineFault::Json(_)));
        assert!(matches!(fault("[1]"), LineFault::Json(_)));
        assert!(matches!(fault(r#"{"hex":"0"}"#), LineFault::Hex(_)));
        assert!(matches!(fault(r#"{"hex":"zz"}"#), LineFault::Hex(_)));
        assert!(matches!(fault(r#"{"hex":"ff"}"#), LineFault::Envelope(_)));
        assert!(matches!(fault(r#"{"hex":"","expect_route":"moon"}"#), LineFault::Route(_)));
        let short = r#"{"hex":"","expect_route":"node","transaction_hash":"00"}"#;
        assert!(matches!(fault(short), LineFault::TransactionHash(_)));
        let negative = r#"{"hex":"","expect_route":"node","block_time":-1}"#;
        assert!(matches!(fault(negative), LineFault::Json(_)));
        let error = parse("\n{}").unwrap_err();
        assert_eq!(error.number, 2);
        assert!(error.to_string().starts_with("line 2: "), "{error}");
    }
}
