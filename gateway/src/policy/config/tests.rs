//! Tests of the policy file.

use hawser_rules::PayloadClass;

use super::*;

#[test]
fn a_policy_is_given_to_an_address_however_it_is_written_and_to_networks() {
    let file = |callers: &str| {
        PolicyFile::parse(&format!(
            "[identity]\nkind = \"ip\"\n[policies.none]\ndeny = true\n[policies.some]\n[callers]\n{callers}"
        ))
    };
    let denied = |callers: &str, caller: &str| {
        let address = caller.parse::<IpAddr>().unwrap();
        file(callers).unwrap().policy_of(&ClientAddress::from(address).to_string()).deny
    };
    for (named, inside, outside) in [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("192.0.2.0/24", "::ffff:192.0.2.9", "192.0.3.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::9", "2001:db8:1:3::1"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::9", "2001:db8:1:3::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::ffff:192.0.2.0/120", "192.0.2.9", "192.0.3.1"),
    ] {
        let callers = format!("\"{named}\" = \"none\"");
        assert!(denied(&callers, inside), "{named} has {inside}");
        assert!(!denied(&callers, outside), "{named} lacks {outside}");
    }
    let nested = "\"10.0.0.0/8\" = \"none\"\n\"10.1.0.0/16\" = \"some\"\n\"10.1.2.3\" = \"none\"";
    assert!(
        denied(nested, "10.9.9.9") && !denied(nested, "10.1.9.9") && denied(nested, "10.1.2.3")
    );
    let error = |callers: &str| file(callers).unwrap_err().to_string();
    assert!(error("alice = \"none\"").contains("\"alice\": with identity.kind"));
    let twice = "\"2001:db8::1\" = \"none\"\n\"2001:db8::/64\" = \"some\"";
    assert!(error(twice).contains("2001:db8::/64 two policies"));
    let twice = "\"10.0.0.0/8\" = \"none\"\n\"10.1.2.3/8\" = \"some\"";
    assert!(error(twice).contains("two policies"));
}

#[test]
fn a_whole_file_is_read() {
    let file = PolicyFile::parse(
        r#"
        [identity]
        kind = "jwt"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        [identity.jwt]
        algorithm = "ES256"
        jwks_url = "https://login.example/keys"
        issuer = "https://login.example"
        any_audience = true
        [default]
        envelopes_per_minute = 50
        kinds = ["message", "welcome"]
        envelopes_per_hour_by_kind = { welcome = 5 }
        [policies.plenty]
        envelopes_per_day = 100000
        [callers]
        alice = "plenty"
        "#,
    )
    .unwrap();
    assert_eq!(file.identity.kind, CallerIdentityKind::Jwt);
    assert_eq!(file.identity.jwt.as_ref().unwrap().claim, "sub");
    assert_eq!(file.policy_of("alice").envelopes_per_day, Some(100_000));
    assert!(file.policy_of("alice").allows(PayloadClass::Commit));
    let by_kind = BTreeMap::from([(PayloadClass::Welcome, 5)]);
    assert_eq!(file.policy_of("bob").envelopes_per_hour_by_kind, by_kind);
    assert!(!file.policy_of("bob").allows(PayloadClass::Commit));
}

/// An operator copies the example and puts hashes of keys in place of the shortened ones.
#[test]
fn the_example_of_the_page_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/gateway.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut examples = page.split("```toml\n").skip(1).filter_map(|it| it.split("```").next());
    let example = examples.find(|it| it.starts_with("[identity]\nkind = \"address\"")).unwrap();
    let whole = |text: String, hash: &str| text.replace(&format!("{hash}…"), &hash.repeat(16));
    let example = ["0d9b", "77c1", "e05a"].into_iter().fold(example.to_owned(), whole);
    let file = PolicyFile::parse(&example).unwrap();
    assert!(file.policies.contains_key("plenty"));
}

#[test]
fn mistakes_are_reported() {
    let error = |text: &str| PolicyFile::parse(text).unwrap_err().to_string();
    assert!(error("[callers]\nalice = \"b\"").contains("\"alice\""));
    assert!(error("[identity]\nkind = \"jwt\"").contains("[identity.jwt]"));
    let jwt = "[identity.jwt]\nalgorithm = \"HS256\"\n";
    assert!(error(jwt).contains("keys_file"));
    assert!(error(&format!("{jwt}jwks_url = \"https://a\"")).contains("secret"));
    let open = "[identity.jwt]\nalgorithm = \"ES256\"\njwks_url = \"https://a/keys\"\n";
    assert!(error(open).contains("any_issuer"));
    assert!(error(&format!("{open}issuer = \"a\"")).contains("any_audience"));
    assert!(error(&format!("{open}audience = \"a\"")).contains("any_issuer"));
    let any = "any_issuer = true\nany_audience = true\n";
    assert!(PolicyFile::parse(&format!("{open}{any}")).is_ok());
    for (url, is_taken) in [
        ("http://login.example/keys", false),
        ("http://127.0.0.1.example/keys", false),
        ("ftp://127.0.0.1/keys", false),
        ("http://127.0.0.1:8080/keys", true),
        ("http://[::1]/keys", true),
        ("http://localhost/keys", true),
        ("https://login.example/keys", true),
    ] {
        let text = format!("{any}algorithm = \"ES256\"\njwks_url = \"{url}\"");
        let file = PolicyFile::parse(&format!("[identity.jwt]\n{text}"));
        assert_eq!(file.is_ok(), is_taken, "{url}");
    }
    assert!(error("[identity]\nkind = \"api-key\"").contains("[identity.api_keys]"));
    assert!(error("[identity.api_keys]\nalice = \"secret\"").contains("alice"));
    assert!(error("[identity]\nkind = \"webhook\"").contains("[webhook]"));
    assert!(error("[webhook]\nurl = \"http://decide.example/\"").contains("https:"));
    // The error gets into logs.
    let secret = "http://user:hunter2@decide.example:81/hunter2?key=hunter2";
    let keys = format!("[identity.jwt]\n{any}algorithm = \"ES256\"\njwks_url = \"{secret}\"");
    for text in [error(&format!("[webhook]\nurl = \"{secret}\"")), error(&keys)] {
        assert!(text.contains("\"http://decide.example:81\""), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let webhook = "[webhook]\nurl = \"http://127.0.0.1:1/\"\n";
    assert!(error(&format!("{webhook}timeout_ms = 0")).contains("timeout_ms"));
    let text = error(&format!("{webhook}cache_s = {}", i64::MAX));
    assert_eq!(text, format!("[webhook] cache_s = {}: it must be 0 to 86400", i64::MAX));
    let file = PolicyFile::parse(webhook).unwrap().webhook.unwrap();
    assert_eq!((file.timeout_ms, file.cache_s), (2_000, 60));
    assert!(!file.allow_without_answer, "fail closed");
    assert!(error("[default]\nkinds_denied = [\"massage\"]").contains("use one of message, "));
    assert!(error("[default]\nenvelopes_per_minutes = 1").contains("envelopes_per_minutes"));
    assert!(error("[total]\ndeny = true").contains("[total]"));
    assert!(error("[total]\nretention_days = 30").contains("[total]"));
    for days in [0, 1, 366] {
        let of_policy = error(&format!("[policies.a]\nretention_days = {days}"));
        assert!(of_policy.contains(&format!("retention_days = {days}")), "{of_policy}");
        let of_tenant = format!("[tenants.a.default]\nretention_days = {days}");
        assert!(error(&of_tenant).contains("2 to 365"));
    }
    assert!(PolicyFile::parse("[total]\ngas_per_day = 1").is_ok());
    assert!(PolicyFile::parse("[network]\ngas_per_day = 1").is_ok());
    for rule in ["deny = true", "envelopes_per_hour_by_kind = { commit = 1 }"] {
        assert!(error(&format!("[network]\n{rule}")).contains("[network]"));
    }
    let all_are_one = "[identity]\nkind = \"none\"\n[network]\ngas_per_day = 1";
    assert!(error(all_are_one).contains("[network]"));
    let by_kind = |kind: &str| format!("[total.envelopes_per_minute_by_kind]\n{kind} = 1");
    assert!(PolicyFile::parse(&by_kind("commit")).is_ok());
    assert!(error(&by_kind("comit")).contains("\"comit\" is not a kind"));
    assert!(error("[default]\nkinds = [\"massage\"]").starts_with("line 2: "));
    assert!(error("[identity]\ntrusted_proxies = [\"10.0.0.0/33\"]").contains("network"));
}

/// Redis counts with floating-point numbers, which end before the numbers of a file.
#[test]
fn a_limit_that_gateways_cannot_count_together_is_refused_by_its_name() {
    let [largest, beyond] = [LIMIT_MAX, LIMIT_MAX + 1];
    let tenant = "[tenants.a]\npayer_key_file = \"a.key\"\n";
    for (section, key) in [
        ("default", "picodollars_per_hour"),
        ("total", "picodollars_per_day"),
        ("policies.a", "gas_per_day"),
        ("tenants.a.default", "envelopes_per_hour"),
        ("tenants.a.total", "envelopes_per_day"),
    ] {
        let text = format!("{tenant}[{section}]\n{key} = {beyond}");
        let error = PolicyFile::parse(&text).unwrap_err().to_string();
        let expected = format!("[{section}] {key} = {beyond}: it must be 0 to {largest}");
        assert_eq!(error, expected);
    }
    let by_kind = format!("[default]\nenvelopes_per_minute_by_kind = {{ commit = {beyond} }}");
    let error = PolicyFile::parse(&by_kind).unwrap_err().to_string();
    assert!(error.contains("envelopes_per_minute_by_kind"), "{error}");
    assert!(PolicyFile::parse(&format!("[total]\npicodollars_per_day = {largest}")).is_ok());
}

/// The error of a start is a line of the log.
#[test]
fn a_secret_at_a_wrong_key_is_not_shown() {
    for (text, line, what) in [
        ("[tenants.a]\npayer_key = \"0x5ec2e7\"", 2, "unknown field `payer_key`"),
        ("[webhook]\nurl = \"https://a\"\ntoken = \"0x5ec2e7\"", 3, "unknown field `token`"),
        ("[identity]\nkind = \"none\"\nkey = 0x5ec2e7zz", 3, ""),
        ("[identity]\napi_keys = \"0x5ec2e7\"", 2, "invalid type, expected a map"),
        ("webhook = \"https://user:5ec2e7@a, expected b\"", 1, "invalid type, expected struct"),
        (
            "[identity]\nkind = \"5ec2e7, expected a\"",
            2,
            "unknown variant, expected one of `address`",
        ),
        ("[identity.jwt]\nalgorithm = \"5ec2e7\"", 2, "unknown variant, expected one of `HS256`"),
        ("[default]\nkinds = [\"5ec2e7\"]", 2, "a text here is not a kind of envelope"),
        ("[identity]\ntrusted_proxies = [\"5ec2e7\"]", 2, "a text is not a network"),
        (
            "[webhook]\nurl = \"https://a\"\ntimeout_ms = \"5ec2e7\"",
            3,
            "invalid type, expected u64",
        ),
    ] {
        let error = PolicyFile::parse(text).unwrap_err().to_string();
        let begins = error.starts_with(&format!("line {line}: {what}"));
        assert!(begins && !error.contains("5ec2e7") && !error.contains('\n'), "{error}");
    }
    // An operator takes [callers] for [identity.api_keys].
    let error = PolicyFile::parse("[callers]\nalice = \"5ec2e7\"").unwrap_err().to_string();
    assert!(!error.contains("5ec2e7"), "{error}");
}
