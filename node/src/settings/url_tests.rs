//! Tests of settings with URLs, which may contain keys.

use super::tests::{read, secret_file};

/// The parsers of URLs delete line breaks, and one wrong URL would be left of two.
#[test]
fn a_file_with_one_url_per_line_is_refused_with_the_way_to_write_it() {
    const WAY: &str = "separate URLs by commas";
    for (env, scheme) in [
        ("XMTPD_SETTLEMENT_CHAIN_RPC_URL_FILE", "https"),
        ("XMTPD_APP_CHAIN_RPC_URL_FILE", "https"),
        ("XMTPD_APP_CHAIN_WSS_URL_FILE", "wss"),
        ("HAWSER_WALLET_RPC_FILE", "1=https"),
    ] {
        let refusal = |text: String| {
            let (_folder, path) = secret_file(0o600, &text);
            read(&[], &[(env, &path)]).err().map(|errors| errors.to_string()).unwrap_or_default()
        };
        for between in ["\n", "\r\n", "\t", " "] {
            let told = refusal(format!("{scheme}://a/hunter2{between}{scheme}://b/hunter2\n"));
            assert_eq!(told.matches(WAY).count(), 1, "{env} {between:?}: {told}");
            assert!(!told.contains("hunter2"), "{env} {between:?}: {told}");
        }
        let told = refusal(format!("{scheme}://a,\n{scheme}://b\n"));
        assert!(!told.contains(WAY), "{env}: {told}");
    }
}
