//! Typed settings of the limits on a node's callers.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use hawser_api::{RateLimitSettings, RedisSettings};
use hawser_serve::address::{Cidr, TrustedProxies};

use super::parse;
use super::reader::SettingsReader;
use super::sources::SettingOrigin;
use super::table::{Setting, limits};

/// Topics that the operator may allow a stream. A client that follows as many topics as one `SubscribeTopics` may name
/// must find room on a stream of `Subscribe`, too; and the protocol permits a million (`docs/protocol/api.md`).
const TOPICS_PER_STREAM: RangeInclusive<usize> = 10_000..=1_000_000;
/// Bytes that the operator may allow in a queue. A guess: with less, a burst of usual messages would send each stream
/// to the disk; with more, two streams that are not read would fill what all queues may hold together (32 MiB).
const QUEUE_PER_STREAM_BYTES: RangeInclusive<usize> = 256 << 10..=16 << 20;
/// Reports of misbehaviour that the operator may allow an address in a minute. Without any, the API is better switched
/// off. A guess: the node checks some seven hundred reports of one envelope in a minute.
const REPORTS_PER_ADDRESS: RangeInclusive<u32> = 1..=1000;

/// The limits on a node's callers.
#[derive(Debug, Clone)]
pub struct CallerLimitSettings {
    /// True if only nodes may call the `ReplicationApi`.
    pub require_node_auth: bool,
    /// True if publishes are accepted only from payers with sufficient balance.
    pub require_balance: bool,
    /// The number of publish requests per payer and second; `None` for no limit.
    pub publishes_per_payer: Option<NonZeroU32>,
    /// The limits per address; `None` if there are none.
    pub rates: Option<RateLimitSettings>,
    /// Proxies in front of the node.
    pub trusted_proxies: TrustedProxies,
    /// The largest number of connections per address.
    pub connections_per_address: usize,
    /// The largest number of open calls per connection.
    pub streams_per_connection: u32,
    /// The largest number of topics of a stream.
    pub topics_per_stream: usize,
    /// The largest number of bytes in a queue of a stream.
    pub queue_per_stream_bytes: usize,
    /// The largest number of reports of misbehaviour per address and minute.
    pub misbehavior_reports_per_address: u32,
}

impl SettingsReader<'_> {
    pub(super) fn caller_limits(&mut self) -> Option<CallerLimitSettings> {
        let require_node_auth = self.switch(&limits::REQUIRE_NODE_AUTH);
        let require_balance = self.switch(&limits::REQUIRE_BALANCE);
        let publishes_per_payer =
            self.get(&limits::PUBLISHES_PER_PAYER, |text| text.parse::<u32>().ok());
        let enable = self.switch(&limits::ENABLE);
        let rates = self.rate_limits();
        if enable == Some(true)
            && let Some(redis) = rates.as_ref().and_then(|rates| rates.redis.as_ref())
            && redis.stream_refresh_interval >= redis.stream_ttl
        {
            let given = "a time that is not below rate-limit.stream-ttl, so that places would become free while their \
                         streams are open";
            self.error(&limits::STREAM_REFRESH, Some(given.to_owned()));
        }
        if rates.is_some() {
            self.refuse_rates_without_switch();
        }
        let trusted_proxies = self.trusted_proxies();
        let connections = self.above_zero(&limits::CONNECTIONS_PER_ADDRESS);
        let streams = self.above_zero(&limits::STREAMS_PER_CONNECTION);
        let topics = self.get(&limits::TOPICS_PER_STREAM, |text| {
            text.parse::<usize>().ok().filter(|topics| TOPICS_PER_STREAM.contains(topics))
        });
        let queue = self.get(&limits::QUEUE_PER_STREAM, |text| {
            parse::size(text).filter(|bytes| QUEUE_PER_STREAM_BYTES.contains(bytes))
        });
        let reports = self.get(&limits::MISBEHAVIOR_REPORTS_PER_ADDRESS, |text| {
            text.parse::<u32>().ok().filter(|reports| REPORTS_PER_ADDRESS.contains(reports))
        });
        Some(CallerLimitSettings {
            require_node_auth: require_node_auth?,
            require_balance: require_balance?,
            publishes_per_payer: NonZeroU32::new(publishes_per_payer?),
            rates: Some(rates?).filter(|_| enable == Some(true)),
            trusted_proxies: trusted_proxies?,
            connections_per_address: usize::try_from(connections?).ok()?,
            streams_per_connection: streams?,
            topics_per_stream: topics?,
            queue_per_stream_bytes: queue?,
            misbehavior_reports_per_address: reports?,
        })
    }

    /// Refuses a limit of rates if nothing says that limits are on or off: the operator relies on it, and it would not
    /// hold.
    fn refuse_rates_without_switch(&mut self) {
        let is_given = |setting: &Setting| self.origin(setting) != SettingOrigin::Default;
        let given = limits::RATES.into_iter().find(|setting| is_given(setting));
        if let Some(given) = given.filter(|_| !is_given(&limits::ENABLE)) {
            let given = format!("nothing, beside --{}, which needs it", given.flag);
            self.error(&limits::ENABLE, Some(given));
        }
    }

    fn rate_limits(&mut self) -> Option<RateLimitSettings> {
        let per_minute = self.above_zero(&limits::PER_MINUTE);
        let per_hour = self.above_zero(&limits::PER_HOUR);
        let opens_per_minute = self.above_zero(&limits::OPENS_PER_MINUTE);
        let subscribe_all = self.above_zero(&limits::SUBSCRIBE_ALL);
        let redis = self.redis();
        Some(RateLimitSettings {
            per_minute: per_minute?.into(),
            per_hour: per_hour?.into(),
            opens_per_minute: opens_per_minute?.into(),
            subscribe_all_max: usize::try_from(subscribe_all?).ok()?,
            redis: redis?,
        })
    }

    /// Reads the Redis that holds the limits; `Some(None)` if none is configured.
    fn redis(&mut self) -> Option<Option<RedisSettings>> {
        let url = self.redis_url();
        let key_prefix = self.text(&limits::REDIS_KEY_PREFIX);
        let connect_timeout = self.duration_above_zero(&limits::REDIS_CONNECT_TIMEOUT);
        let call_timeout = self.duration_above_zero(&limits::REDIS_CALL_TIMEOUT);
        let breaker_failures = self.above_zero(&limits::BREAKER_FAILURES);
        let breaker_cooldown = self.duration_above_zero(&limits::BREAKER_COOLDOWN);
        let stream_ttl = self.duration_above_zero(&limits::STREAM_TTL);
        let stream_refresh = self.duration_above_zero(&limits::STREAM_REFRESH);
        let settings = RedisSettings {
            url: url.clone().unwrap_or_default(),
            key_prefix: key_prefix?.text.to_string(),
            connect_timeout: connect_timeout?,
            call_timeout: call_timeout?,
            breaker_failures_max: breaker_failures?,
            breaker_cooldown: breaker_cooldown?,
            stream_ttl: stream_ttl?,
            stream_refresh_interval: stream_refresh?,
        };
        Some(url.map(|_| settings))
    }

    /// Reads the URL of the Redis. A URL with TLS is an error: limits would be stored over an
    /// unprotected connection, or not at all.
    pub(super) fn redis_url(&mut self) -> Option<String> {
        let url = self.non_empty(&limits::REDIS_URL)?;
        self.refuses_spaces(&limits::REDIS_URL, &url);
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        if matches!(scheme.as_str(), "rediss" | "valkeys") {
            let given = format!(
                "a URL with {scheme}://, but this program speaks no TLS to Redis: put both into one private \
                 network, or a tunnel such as stunnel beside this program"
            );
            self.error(&limits::REDIS_URL, Some(given));
        }
        Some(url)
    }

    fn trusted_proxies(&mut self) -> Option<TrustedProxies> {
        let Some(text) = self.non_empty(&limits::TRUSTED_PROXIES) else {
            return Some(TrustedProxies::default());
        };
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty());
        let networks: Option<TrustedProxies> = networks.map(Cidr::parse).collect();
        if networks.is_none() {
            self.wrong(&limits::TRUSTED_PROXIES, &text);
        }
        networks
    }

    pub(super) fn above_zero(&mut self, setting: &Setting) -> Option<u32> {
        self.get(setting, |text| text.parse::<NonZeroU32>().ok().map(NonZeroU32::get))
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::tests::read;

    /// An operator who switches them off knows that they do not hold.
    #[test]
    fn a_limit_of_rates_is_refused_if_nothing_says_that_limits_are_on_or_off() {
        for flag in [
            "rate-limit.t2-per-minute-capacity",
            "rate-limit.t2-per-hour-capacity",
            "rate-limit.t2-subscribe-opens-per-minute",
            "rate-limit.t-1-max-concurrent-subscribe-all",
        ] {
            let refused = read(&[(flag, "7")], &[]).unwrap_err().to_string();
            assert!(refused.starts_with("1 fault "), "{refused}");
            assert!(refused.contains("--rate-limit.enable") && refused.contains(flag), "{refused}");
            for (enable, holds) in [("true", true), ("false", false)] {
                let limits =
                    read(&[(flag, "7"), ("rate-limit.enable", enable)], &[]).unwrap().limits;
                assert_eq!(limits.rates.is_some(), holds);
            }
        }
    }

    /// Clients would fail at a node whose operator has set such a limit, so the node does not start.
    #[test]
    fn limits_with_which_clients_would_fail_are_refused() {
        let limits = read(&[], &[]).unwrap().limits;
        assert_eq!((limits.topics_per_stream, limits.queue_per_stream_bytes), (1_000_000, 4 << 20));
        assert_eq!(limits.misbehavior_reports_per_address, 10);
        let env = [("HAWSER_TOPICS_PER_STREAM", "10000"), ("HAWSER_QUEUE_PER_STREAM", "256KiB")];
        let limits = read(&[("misbehavior-reports-per-address", "1000")], &env).unwrap().limits;
        assert_eq!((limits.topics_per_stream, limits.queue_per_stream_bytes), (10_000, 256 << 10));
        assert_eq!(limits.misbehavior_reports_per_address, 1000);
        for (flag, wrong) in [
            ("topics-per-stream", ["0", "9999", "1000001", "many"]),
            ("queue-per-stream", ["0", "255KiB", "17MiB", "4194304"]),
            ("misbehavior-reports-per-address", ["0", "-1", "1001", "1.5"]),
        ] {
            for text in wrong {
                let refused = read(&[(flag, text)], &[]).unwrap_err().to_string();
                assert!(refused.starts_with("1 fault ") && refused.contains(flag), "{refused}");
            }
        }
    }
}
