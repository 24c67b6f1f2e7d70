//! Who may publish what.

use hawser_gateway::policy::config::PolicyFile;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use prost::Message as _;
use tonic::{Code, Request, Status};

use super::fake::Manner;
use super::world::{Net, commit, message, welcome};

async fn with(policies: &str) -> Net {
    let policies = PolicyFile::parse(policies).unwrap();
    Net::with(1, |settings| settings.policies = policies, |_| {}).await
}

async fn publish_from(net: &Net, address: &str, text: &str) -> Result<(), Status> {
    let envelopes = vec![message(1, text)];
    let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
    request.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    net.client().await.publish_client_envelopes(request).await.map(|_| ())
}

#[tokio::test]
async fn a_caller_that_has_used_up_its_limit_is_told_when_to_come_back() {
    let net = with("[default]\nenvelopes_per_minute = 2").await;
    publish_from(&net, "1.2.3.4", "a").await.unwrap();
    publish_from(&net, "1.2.3.4", "b").await.unwrap();
    let refused = publish_from(&net, "1.2.3.4", "c").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let wait: u64 =
        refused.metadata().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    publish_from(&net, "1.2.3.5", "c").await.unwrap();
    assert_eq!(net.nodes[0].calls(), 3, "what is refused reaches no node");
    assert_eq!(net.sample("xmtp_gateway_refused_total{reason=\"limit\"}").await, 1);
}

#[tokio::test]
async fn kinds_sizes_and_prices_are_limited() {
    let net = with(
        "[default]\nkinds = [\"message\"]\nenvelope_bytes_max = 110\n\
         picodollars_per_envelope_max = 2000000",
    )
    .await;
    let code =
        async |envelope| net.publish(vec![envelope]).await.map_or_else(|e| e.code(), |_| Code::Ok);
    assert_eq!(code(message(1, "short")).await, Code::Ok);
    assert_eq!(code(welcome(1)).await, Code::PermissionDenied);
    assert_eq!(code(commit(1, "a")).await, Code::PermissionDenied);
    assert_eq!(code(message(1, &"a".repeat(60))).await, Code::PermissionDenied);
    assert_eq!(code(message(1, &"a".repeat(40))).await, Code::ResourceExhausted);
}

#[tokio::test]
async fn what_a_busy_node_charges_keeps_those_away_who_do_not_pay_it_and_nobody_else() {
    let usual = Net::start(1).await.publish(vec![message(1, "a")]).await.unwrap();
    let unsigned = usual[0].unsigned_originator_envelope.clone();
    let base = pb::UnsignedOriginatorEnvelope::decode(unsigned).unwrap().base_fee_picodollars;
    // Before a node is chosen its id is taken to be a byte longer.
    let base = base + 200 * 60;
    let net = with(&format!(
        "[policies.poor]\npicodollars_per_envelope_max = {}\n\
         [policies.rich]\npicodollars_per_envelope_max = {}\n\
         [callers]\n\"1.2.3.4\" = \"poor\"\n\"1.2.3.5\" = \"rich\"",
        base + 5_000,
        base + 20_000
    ))
    .await;
    let code = async |address, text| {
        let published = publish_from(&net, address, text).await;
        published.map_or_else(|status| status.code(), |()| Code::Ok)
    };
    let (poor, rich) = ("1.2.3.4", "1.2.3.5");
    net.nodes[0].becomes(Manner::IsBusy(15_000));
    assert_eq!(code(poor, "a").await, Code::Ok, "nobody knows yet");
    assert_eq!(code(poor, "b").await, Code::ResourceExhausted);
    assert_eq!(code(rich, "c").await, Code::Ok);
    assert_eq!(code(poor, "d").await, Code::ResourceExhausted);
    net.nodes[0].becomes(Manner::Honest);
    assert_eq!(code(rich, "e").await, Code::Ok);
    assert_eq!(code(poor, "f").await, Code::Ok, "it is not busy any more");
}

#[tokio::test]
async fn callers_without_a_token_are_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "a secret of at least thirty-two bytes").unwrap();
    let net = with(&format!(
        "[identity]\nkind = \"jwt\"\n[identity.jwt]\nalgorithm = \"HS256\"\nkeys_file = {file:?}\n\
         [policies.none]\ndeny = true\n[callers]\nmallory = \"none\""
    ))
    .await;
    let publish = async |token: Option<String>| {
        let envelopes = vec![message(1, "a")];
        let mut request = Request::new(api::PublishClientEnvelopesRequest { envelopes });
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        let answer = net.client().await.publish_client_envelopes(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let token = |subject: &str| {
        let claims = serde_json::json!({ "sub": subject, "exp": 4_000_000_000u64 });
        let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of at least thirty-two bytes");
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    assert_eq!(publish(None).await, Code::Unauthenticated);
    assert_eq!(publish(Some("nonsense".into())).await, Code::Unauthenticated);
    assert_eq!(publish(Some(token("mallory"))).await, Code::PermissionDenied);
    assert_eq!(publish(Some(token("alice"))).await, Code::Ok);
    // Whoever only asks for nodes needs none.
    assert_eq!(net.get_nodes().await.len(), 1);
}

#[tokio::test]
async fn a_gateway_whose_login_service_is_away_starts_and_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let net = with(&format!(
        "[identity]\nkind = \"jwt\"\n[identity.jwt]\nalgorithm = \"ES256\"\n\
         jwks_url = \"http://{nobody}/keys\""
    ))
    .await;
    let refused = net.publish(vec![message(1, "a")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(net.unmet().await, ["token_keys_known"]);
    assert_eq!(net.get_nodes().await.len(), 1, "whoever only asks for nodes needs no token");
}
