//! The errors of contract wallets' chains as callers get them.

use hawser_serve::WarningThrottle;

use crate::wallets::WalletError;

/// Tells callers that a wallet cannot be asked, and the operator why.
#[derive(Debug, Default)]
pub(crate) struct UnansweredWallets(WarningThrottle);

impl UnansweredWallets {
    /// Returns the text of an error for a caller. The reason for which a chain does not answer names an endpoint of the
    /// operator's and quotes it, so the log has it, and the caller does not. Callers can cause such errors at will, by
    /// naming a block whose state the endpoints have pruned. So the log has one line a minute.
    pub(crate) fn text_of(&self, error: &WalletError) -> String {
        let WalletError::NoAnswer { chain_id, .. } = error else { return error.to_string() };
        if self.0.is_due() {
            tracing::warn!(
                code = "wallet_unavailable",
                chain_id,
                "a contract wallet cannot be asked: {error}"
            );
        }
        format!("the contract wallets of chain {chain_id} cannot be asked now")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Counts the lines of a log.
    struct Lines(Arc<AtomicUsize>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// Played by callers who name blocks of which no endpoint has the state any more.
    #[tokio::test(start_paused = true)]
    async fn callers_cause_one_line_a_minute_and_learn_nothing_of_the_endpoints() {
        let (unanswered, lines) = (UnansweredWallets::default(), Arc::new(AtomicUsize::new(0)));
        let reason = "https://paid.example refuses eth_call: missing trie node".to_owned();
        let error = WalletError::NoAnswer { chain_id: 5, reason };
        for minute in 1..=2 {
            tracing::subscriber::with_default(Lines(lines.clone()), || {
                for _ in 0..100 {
                    let text = unanswered.text_of(&error);
                    assert_eq!(text, "the contract wallets of chain 5 cannot be asked now");
                }
            });
            assert_eq!(lines.load(Ordering::Relaxed), minute);
            tokio::time::advance(Duration::from_secs(61)).await;
        }
        let unknown = WalletError::UnknownChain(7);
        assert_eq!(unanswered.text_of(&unknown), unknown.to_string());
    }
}
