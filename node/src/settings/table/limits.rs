//! The settings of a node that limit its callers.

use super::setting::{ABOVE_ZERO, DURATION_ABOVE_ZERO, Setting, switch, urls, value};

pub(in crate::settings) const REQUIRE_NODE_AUTH: Setting = switch(
    "api.require-replication-node-auth",
    "XMTPD_API_REQUIRE_REPLICATION_NODE_AUTH",
    "false",
    "Serve the ReplicationApi only to callers whose token proves that they are a node of the registry",
);
pub(in crate::settings) const REQUIRE_BALANCE: Setting = switch(
    "api.require-payer-positive-balance",
    "XMTPD_API_REQUIRE_PAYER_POSITIVE_BALANCE",
    "false",
    "Take publishes only from payers whose balance on the settlement chain covers them",
);
pub(in crate::settings) const ENABLE: Setting = switch(
    "rate-limit.enable",
    "XMTPD_RATE_LIMIT_ENABLE",
    "false",
    "Limit queries and streams of each client address",
);
pub(in crate::settings) const PER_MINUTE: Setting = value(
    "rate-limit.t2-per-minute-capacity",
    "XMTPD_RATE_LIMIT_T2_PER_MINUTE_CAPACITY",
    Some("60"),
    ABOVE_ZERO,
    "60",
    "Tokens for queries that an address gets in a minute; a query costs the root of its topics",
);
pub(in crate::settings) const PER_HOUR: Setting = value(
    "rate-limit.t2-per-hour-capacity",
    "XMTPD_RATE_LIMIT_T2_PER_HOUR_CAPACITY",
    Some("1200"),
    ABOVE_ZERO,
    "1200",
    "Tokens for queries that an address gets in an hour; a query costs the root of its topics",
);
pub(in crate::settings) const OPENS_PER_MINUTE: Setting = value(
    "rate-limit.t2-subscribe-opens-per-minute",
    "XMTPD_RATE_LIMIT_T2_SUBSCRIBE_OPENS_PER_MINUTE",
    Some("10"),
    ABOVE_ZERO,
    "10",
    "Streams of topics that an address may open in a minute",
);
pub(in crate::settings) const SUBSCRIBE_ALL: Setting = value(
    "rate-limit.t-1-max-concurrent-subscribe-all",
    "XMTPD_RATE_LIMIT_T1_MAX_CONCURRENT_SUBSCRIBE_ALL",
    Some("2"),
    ABOVE_ZERO,
    "2",
    "Streams of all envelopes that an address may have open at once",
);
pub(in crate::settings) const TRUSTED_PROXIES: Setting = value(
    "rate-limit.trusted-proxy-cidrs",
    "XMTPD_RATE_LIMIT_TRUSTED_PROXY_CIDRS",
    None,
    "networks such as 10.0.0.0/8, comma separated",
    "10.0.0.0/8,fd00::/8",
    "Networks of the proxies in front of this node, whose X-Forwarded-For and PROXY headers name \
     the client; also without rate limits",
);
pub(in crate::settings) const BREAKER_FAILURES: Setting = value(
    "rate-limit.breaker-failure-threshold",
    "XMTPD_RATE_LIMIT_BREAKER_FAILURE_THRESHOLD",
    Some("5"),
    ABOVE_ZERO,
    "5",
    "Failures of Redis in a row after which it is not asked for a while: the circuit breaker opens",
);
pub(in crate::settings) const BREAKER_COOLDOWN: Setting = value(
    "rate-limit.breaker-cooldown",
    "XMTPD_RATE_LIMIT_BREAKER_COOLDOWN",
    Some("10s"),
    DURATION_ABOVE_ZERO,
    "10s",
    "Time for which Redis is not asked after the circuit breaker has opened; calls pass meanwhile",
);
pub(in crate::settings) const REDIS_CALL_TIMEOUT: Setting = value(
    "rate-limit.redis-call-timeout",
    "XMTPD_RATE_LIMIT_REDIS_CALL_TIMEOUT",
    Some("50ms"),
    DURATION_ABOVE_ZERO,
    "50ms",
    "Time limit of a request to Redis; a call whose request times out passes",
);
pub(in crate::settings) const STREAM_TTL: Setting = value(
    "rate-limit.stream-ttl",
    "XMTPD_RATE_LIMIT_STREAM_TTL",
    Some("15m"),
    DURATION_ABOVE_ZERO,
    "15m",
    "Time after which Redis frees the stream places of a process that has ended without notice",
);
pub(in crate::settings) const STREAM_REFRESH: Setting = value(
    "rate-limit.stream-refresh-interval",
    "XMTPD_RATE_LIMIT_STREAM_REFRESH_INTERVAL",
    Some("5m"),
    DURATION_ABOVE_ZERO,
    "5m",
    "Time between two renewals of a stream place in Redis",
);
pub(in crate::settings) const REDIS_URL: Setting = urls(
    ("redis.redis-url", "XMTPD_REDIS_URL"),
    ("redis.redis-url-file", "XMTPD_REDIS_URL_FILE"),
    "a URL such as redis://HOST:6379/0, without TLS",
    "redis://127.0.0.1:6379/0",
    "A Redis that several processes share their rate limits in, and gateways their nonces and topics; without it each \
     keeps its own",
);
pub(in crate::settings) const REDIS_KEY_PREFIX: Setting = value(
    "redis.key-prefix",
    "XMTPD_REDIS_KEY_PREFIX",
    Some("xmtpd:"),
    "a text",
    "xmtpd:",
    "Begins every key in Redis",
);
pub(in crate::settings) const REDIS_CONNECT_TIMEOUT: Setting = value(
    "redis.connect-timeout",
    "XMTPD_REDIS_CONNECT_TIMEOUT",
    Some("10s"),
    DURATION_ABOVE_ZERO,
    "10s",
    "Time limit of the first connection to Redis",
);
pub(in crate::settings) const CONNECTIONS_PER_ADDRESS: Setting = value(
    "connections-per-address",
    "HAWSER_CONNECTIONS_PER_ADDRESS",
    Some("256"),
    ABOVE_ZERO,
    "256",
    "Connections that one client address may have open at once",
);
pub(in crate::settings) const STREAMS_PER_CONNECTION: Setting = value(
    "streams-per-connection",
    "HAWSER_STREAMS_PER_CONNECTION",
    Some("1000"),
    ABOVE_ZERO,
    "1000",
    "Calls that one connection may have open at once",
);
pub(in crate::settings) const TOPICS_PER_STREAM: Setting = value(
    "topics-per-stream",
    "HAWSER_TOPICS_PER_STREAM",
    Some("1000000"),
    "a whole number from 10000 to 1000000",
    "100000",
    "Topics that one stream of Subscribe may have",
);
pub(in crate::settings) const QUEUE_PER_STREAM: Setting = value(
    "queue-per-stream",
    "HAWSER_QUEUE_PER_STREAM",
    Some("4MiB"),
    "a size from 256KiB to 16MiB, such as 512KiB or 4MiB",
    "4MiB",
    "Bytes that wait in memory for one stream; one that is slower continues from disk",
);
pub(in crate::settings) const MISBEHAVIOR_REPORTS_PER_ADDRESS: Setting = value(
    "misbehavior-reports-per-address",
    "HAWSER_MISBEHAVIOR_REPORTS_PER_ADDRESS",
    Some("10"),
    "a whole number from 1 to 1000",
    "10",
    "Reports of misbehaviour that one client address may submit in a minute; ten times as many in an hour",
);
pub(in crate::settings) const PUBLISHES_PER_PAYER: Setting = value(
    "publishes-per-payer",
    "HAWSER_PUBLISHES_PER_PAYER",
    Some("0"),
    "a whole number; 0 for no limit",
    "0",
    "Publish requests of one payer that are taken in a second, and at once; 0 for no limit",
);
pub(in crate::settings) const VALIDATION_API: Setting = switch(
    "validation-api",
    "HAWSER_VALIDATION_API",
    "false",
    "Serve the ValidationApi on the port of the API, to every caller",
);
pub(in crate::settings) const MIGRATION_SERVER: Setting = switch(
    "migration-server.enable",
    "XMTPD_MIGRATION_SERVER_ENABLE",
    "false",
    "Not supported: a node that imports from the older network takes no publishes meanwhile",
);
pub(in crate::settings) const MIGRATION_CLIENT: Setting = switch(
    "migration-client.enable",
    "XMTPD_MIGRATION_CLIENT_ENABLE",
    "false",
    "Not supported: a node that follows such an import takes no publishes meanwhile",
);
pub(in crate::settings) const MIGRATION_SOURCE: Setting = value(
    "migration-client.from-node-id",
    "XMTPD_MIGRATION_CLIENT_FROM_NODE_ID",
    Some("100"),
    "the id of a node, 100 or more",
    "100",
    "Node that the strands of the older network are taken from",
);
pub(in crate::settings) const MIGRATION_KEY: Setting = value(
    "migration-key",
    "HAWSER_MIGRATION_KEY",
    None,
    "a public key: 130 hex digits that begin with 04, 0x in front optional",
    "0x04…",
    "Public key that signed the strands of the older network; without it they are not followed",
);

/// The limits that hold only while [`ENABLE`] is on.
pub(in crate::settings) const RATES: [&Setting; 4] =
    [&PER_MINUTE, &PER_HOUR, &OPENS_PER_MINUTE, &SUBSCRIBE_ALL];

/// The settings without effect while [`ENABLE`] is off.
pub(in crate::settings) const OF_RATES: [&Setting; 10] = [
    &PER_MINUTE,
    &PER_HOUR,
    &OPENS_PER_MINUTE,
    &SUBSCRIBE_ALL,
    &BREAKER_FAILURES,
    &BREAKER_COOLDOWN,
    &REDIS_CALL_TIMEOUT,
    &STREAM_TTL,
    &STREAM_REFRESH,
    &REDIS_URL,
];

/// All settings of this file in the order of the help text.
pub(super) const ALL: [&Setting; 27] = [
    &REQUIRE_NODE_AUTH,
    &REQUIRE_BALANCE,
    &ENABLE,
    &PER_MINUTE,
    &PER_HOUR,
    &OPENS_PER_MINUTE,
    &SUBSCRIBE_ALL,
    &TRUSTED_PROXIES,
    &BREAKER_FAILURES,
    &BREAKER_COOLDOWN,
    &REDIS_CALL_TIMEOUT,
    &STREAM_TTL,
    &STREAM_REFRESH,
    &REDIS_URL,
    &REDIS_KEY_PREFIX,
    &REDIS_CONNECT_TIMEOUT,
    &CONNECTIONS_PER_ADDRESS,
    &STREAMS_PER_CONNECTION,
    &TOPICS_PER_STREAM,
    &QUEUE_PER_STREAM,
    &MISBEHAVIOR_REPORTS_PER_ADDRESS,
    &PUBLISHES_PER_PAYER,
    &VALIDATION_API,
    &MIGRATION_SERVER,
    &MIGRATION_CLIENT,
    &MIGRATION_SOURCE,
    &MIGRATION_KEY,
];
