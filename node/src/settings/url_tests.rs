//! Tests of settings with URLs, which may contain keys.

use super::tests::{pairs, read, secret_file};
use super::*;

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
            let error = refusal(format!("{scheme}://a/hunter2{between}{scheme}://b/hunter2\n"));
            assert_eq!(error.matches(WAY).count(), 1, "{env} {between:?}: {error}");
            assert!(!error.contains("hunter2"), "{env} {between:?}: {error}");
        }
        let error = refusal(format!("{scheme}://a,\n{scheme}://b\n"));
        assert!(!error.contains(WAY), "{env}: {error}");
    }
}

#[test]
fn of_the_nodes_to_follow_only_the_hosts_are_shown() {
    let urls = "https://user:hunter2@a.example/hunter2, http://b.example:5050";
    let given = SettingSources::new([], pairs(&[("HAWSER_FOLLOW", urls)]));
    let all = effective(&given);
    let follow = all.iter().find(|it| it.setting.flag == "follow").unwrap();
    let hosts = "https://a.example/…,http://b.example:5050";
    assert_eq!(follow.shown, ShownValue::Value(hosts.to_owned()));
    assert_eq!(follow.setting.file_names(), None);
    let files = [("HAWSER_REGISTRY_FILE", "r.json"), ("HAWSER_RATES_FILE", "r.json")];
    for wrong in ["ftp://user:hunter2@a.example/hunter2", "hunter2", "https://a hunter2"] {
        let given = [&files[..], &[("HAWSER_FOLLOW", wrong)]].concat();
        let refused = NodeServiceSettings::read_replica(&SettingSources::new([], pairs(&given)));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("--follow") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_url_or_a_key_in_place_of_the_name_of_its_file_is_not_repeated() {
    let url = "https://user:hunter2@rpc.example/hunter2";
    let key = "0x1111111111111111111111111111111111111111111111111111111111111112";
    for setting in table::of_node().filter(|it| it.file_names().is_some()) {
        let (flag, env) = setting.file_names().unwrap();
        for (secret, part, shown) in
            [(url, "hunter2", "a URL (not shown)"), (key, "11111", "a secret key (not shown)")]
        {
            for given in [
                SettingSources::new(pairs(&[(flag, secret)]), []),
                SettingSources::new([], pairs(&[(env, secret)])),
            ] {
                let error = given.value(setting).err().unwrap().to_string();
                assert!(error.contains(shown) && !error.contains(part), "{error}");
            }
        }
    }
}

/// The value that is shown of a setting, and the refusals of the settings.
fn shown_and_refused(env: &str, value: &str) -> (ShownValue, String) {
    let given = SettingSources::new([], pairs(&[(env, value)]));
    let shown = effective(&given).into_iter().find(|it| it.setting.env == env).unwrap().shown;
    let error = read(&[], &[(env, value)]).err().map(|errors| errors.to_string());
    (shown, error.unwrap_or_default())
}

#[test]
fn of_every_setting_that_may_have_a_url_only_the_host_is_shown() {
    const KEY: &str = "witness.example/w1+eb762cc2+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
    const URL: &str = "https://user:hunter2@a.example:8443/hunter2?key=hunter2,hunter2";
    let asked = &*format!("{KEY} https://w.example/hunter2,{KEY}");
    let asked_hosts = &*format!("{KEY} https://w.example/…,{KEY}");
    let unread = &*format!("{KEY} {URL}");
    let unread_hosts = &*format!("{KEY} https://a.example:8443/…,…");
    for (env, value, hosts) in [
        ("HAWSER_BOOTSTRAP_FROM", URL, "https://a.example:8443/…"),
        ("HAWSER_BOOTSTRAP_FROM", "s3://bucket/node", "s3://bucket/node"),
        ("HAWSER_BOOTSTRAP_FROM", "s3://id:hunter2@bucket/node", "s3://bucket/…"),
        ("HAWSER_BOOTSTRAP_FROM", "/srv/snapshots", "/srv/snapshots"),
        ("XMTPD_CONTRACTS_CONFIG_FILE_PATH", URL, "https://a.example:8443/…"),
        ("XMTPD_CONTRACTS_CONFIG_FILE_PATH", "config://testnet", "config://testnet"),
        ("XMTPD_CONTRACTS_CONFIG_FILE_PATH", "file:///etc/chain.json", "file:///etc/chain.json"),
        ("HAWSER_CHECKPOINT_WITNESSES", asked, asked_hosts),
        ("HAWSER_CHECKPOINT_WITNESSES", unread, unread_hosts),
    ] {
        let (shown, error) = shown_and_refused(env, value);
        assert_eq!(shown, ShownValue::Value(hosts.to_owned()), "{env}");
        assert!(!error.contains("hunter2"), "{env}: {error}");
    }
}

#[test]
fn the_url_of_a_chain_has_a_scheme_that_its_setting_takes() {
    let (rpc, push) = (["http://a:8545", "https://b/k"], ["ws://a:8546", "wss://b/k"]);
    for (env, right, others) in [
        ("XMTPD_SETTLEMENT_CHAIN_RPC_URL", rpc, push),
        ("XMTPD_APP_CHAIN_RPC_URL", rpc, push),
        ("XMTPD_SETTLEMENT_CHAIN_WSS_URL", push, rpc),
        ("XMTPD_APP_CHAIN_WSS_URL", push, rpc),
    ] {
        let refusal = |value: &str| shown_and_refused(env, value).1;
        assert!(!refusal(&right.join(",")).contains(env), "{env}");
        let of_other_scheme = format!("{},{}/hunter2", right[0], others[0]);
        for wrong in [of_other_scheme.as_str(), "a.example/hunter2", "a:8545", "hunter2"] {
            let refusal = refusal(wrong);
            assert_eq!(refusal.matches(env).count(), 1, "{env} {wrong}: {refusal}");
            assert!(!refusal.contains("hunter2"), "{env}: {refusal}");
        }
    }
}

#[test]
fn a_chain_may_not_be_gone_for_no_time_at_all() {
    for chain in ["SETTLEMENT", "APP"] {
        let env = format!("XMTPD_{chain}_CHAIN_MAX_CHAIN_DISCONNECT_TIME");
        assert!(read(&[], &[(&env, "0")]).unwrap_err().to_string().contains(&env));
        assert!(read(&[], &[(&env, "1s")]).is_ok());
    }
}
