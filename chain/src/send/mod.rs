//! Talking to a chain for a person: one way for every command and for the deployment.
//!
//! ```text
//! Chain::connect(url, id)          reachable, and the chain that was meant
//!   chain.view(to, &call)          reads
//!   chain.quote(from, &call)       what a call would do and cost, without sending it
//!   Sender::new(chain, key)        owns the key's nonces on that chain
//!     sender.send(&call)           quote, sign, send, wait for the receipt
//! ```
//!
//! Nothing here waits for ever: a request has [`REQUEST_MAX`], a transaction [`RECEIPT_MAX`]
//! unless told otherwise. A revert is shown by the error's name and arguments.

mod call;
mod chain;
mod error;
mod sender;

pub use call::{Call, Quote};
pub use chain::{Chain, REQUEST_MAX, http_client};
pub(crate) use chain::{EthCallError, install_cryptography, parse as parse_url};
pub(crate) use error::innermost;
pub use error::{ConnectError, RequestError, SendError, ViewError};
pub use sender::{RECEIPT_MAX, Sender};
