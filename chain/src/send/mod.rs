//! Calls and transactions at one endpoint of a chain, for commands and for the deployment.
//!
//! ```text
//! Chain::connect(url, id)          checks that the endpoint serves this chain
//!   chain.view(to, &call)          reads
//!   chain.quote(from, &call)       returns the result and the cost of a call, without sending it
//!   Sender::new(chain, key)        owns the key's nonces on that chain
//!     sender.send(&call)           quote, sign, send, wait for the receipt
//! ```
//!
//! Every wait is bounded: a request takes at most [`REQUEST_MAX`], a transaction [`RECEIPT_MAX`] by default. A revert
//! is shown by the error's name and arguments.

mod body;
mod call;
mod chain;
mod error;
mod sender;
mod stuck;
mod transport;

pub use body::{AnswerBodyError, read_body};
pub use call::{Call, Quote};
pub(crate) use chain::{BLOCK_NUMBER_MAX, EthCallError, install_cryptography, parse as parse_url};
pub use chain::{Chain, REQUEST_MAX, http_client};
pub(crate) use error::revert_of;
pub use error::{ConnectError, REVERTED_CODE, RequestError, SendError, ViewError};
pub use sender::{RECEIPT_MAX, Sender};
pub(crate) use stuck::{StuckNonce, with_doubled_fees};
pub(crate) use transport::ANSWER_LEN_BYTES_MAX;
