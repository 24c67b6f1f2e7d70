//! Everything that is measured, for the scrape. The names are those of `docs/metrics.md`.

use std::sync::Arc;

use hawser_engine::counters::{DURATION_BOUNDS_S, Durations, Operation, SIZE_BOUNDS};
use hawser_engine::runtime::PublishError;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use crate::conditions::Purpose;
use crate::methods::Outlet;
use crate::outside::{ChainState, ChainStrand, StrandDoing};
use crate::report::{Observer, Sighting};
use hawser_serve::CallMetrics;
use hawser_serve::metrics::{Buckets, Counter, Exposition, Gauge};

/// What the handlers count.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    handed_out: [Counter; Outlet::ALL.len()],
    subscribers: Gauge,
    refused: Counter,
    too_large: Counter,
    unavailable: Counter,
}

impl Numbers {
    pub(crate) fn handed_out(&self, outlet: Outlet, envelopes: u64) {
        self.handed_out[outlet as usize].add(envelopes);
    }

    pub(crate) fn publish_refused(&self, error: &PublishError) {
        match error {
            PublishError::Refused(_) => self.refused.add(1),
            PublishError::AnswerTooLarge => self.too_large.add(1),
            PublishError::Unavailable { .. } => self.unavailable.add(1),
        }
    }

    /// Counts a stream as long as the result lives.
    pub(crate) fn subscribed(self: &Arc<Self>) -> Subscribed {
        self.subscribers.add(1);
        Subscribed(self.clone())
    }
}

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct Subscribed(Arc<Numbers>);

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.0.subscribers.add(-1);
    }
}

/// Everything that a scrape shows.
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new(calls: CallMetrics, numbers: Arc<Numbers>, observer: Observer) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(calls));
        registry.register_collector(Box::new(OfHandlers(numbers)));
        registry.register_collector(Box::new(OfNode(observer)));
        Self { registry }
    }

    /// The page in the OpenMetrics text format.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("a string takes everything");
        page
    }
}

#[derive(Debug)]
struct OfHandlers(Arc<Numbers>);

impl Collector for OfHandlers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self(numbers) = self;
        let mut out = Exposition::new(encoder);
        out.counters(
            "xmtp_api_outgoing_envelopes",
            "Envelopes handed out, by the path of the method",
            Outlet::ALL.into_iter().map(|outlet| {
                ([("method", outlet.path())], numbers.handed_out[outlet as usize].get())
            }),
        )?;
        out.gauge(
            "xmtp_subscribers",
            "Streams of envelopes that are open",
            Some(numbers.subscribers.get()),
        )?;
        let rejected =
            |code, reason, count: &Counter| ([("code", code), ("reason", reason)], count.get());
        out.counters(
            "xmtp_publish_rejected",
            "Publish requests of which nothing was stored",
            [
                rejected("invalid_argument", "rule", &numbers.refused),
                rejected("resource_exhausted", "answer_too_large", &numbers.too_large),
                rejected("unavailable", "node_state", &numbers.unavailable),
            ],
        )
    }
}

struct OfNode(Observer);

impl std::fmt::Debug for OfNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OfNode")
    }
}

impl Collector for OfNode {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut out = Exposition::new(encoder);
        let sighting = self.0.look();
        identity(&mut out, &self.0)?;
        readiness(&mut out, &sighting)?;
        originators(&mut out, &sighting)?;
        storage(&mut out, &self.0, &sighting)?;
        operations(&mut out, &self.0)?;
        streams(&mut out, &self.0)?;
        publishing(&mut out, &self.0)?;
        identities(&mut out, &self.0)?;
        peers(&mut out, &self.0, &sighting)?;
        chains(&mut out, &sighting)?;
        contracts(&mut out, &sighting)
    }
}

type Written = Result<(), std::fmt::Error>;

fn identity(out: &mut Exposition<'_>, observer: &Observer) -> Written {
    let about = &observer.about;
    out.gauges(
        "xmtp_build_info",
        "Always 1; the labels say what runs",
        [([("version", about.version.as_str()), ("commit", about.commit.as_str())], 1)],
    )?;
    let identity = observer.engine.store().identity();
    let node = identity.node.to_string();
    out.gauges(
        "xmtp_node_info",
        "Always 1; the labels say which node this is",
        [(
            [
                ("node_id", node.as_str()),
                ("network", identity.network.as_str()),
                ("role", "primary"),
            ],
            1,
        )],
    )?;
    let started_s = about.started_ns as f64 / 1e9;
    out.gauge(
        "xmtp_start_time_seconds",
        "When this process began to serve, unix seconds",
        Some(started_s),
    )
}

fn readiness(out: &mut Exposition<'_>, sighting: &Sighting) -> Written {
    out.gauges(
        "xmtp_ready",
        "1 if the node is ready for it",
        Purpose::ALL
            .map(|purpose| ([("for", purpose.label())], i64::from(sighting.ready.is_for(purpose)))),
    )?;
    out.gauge("xmtp_status_verdict", "0 ok, 1 degraded, 2 failing", Some(sighting.verdict as i64))?;
    out.gauges(
        "xmtp_condition",
        "1 if the condition is met",
        sighting.conditions.iter().map(|it| ([("name", it.name)], i64::from(it.met))),
    )
}

fn originators(out: &mut Exposition<'_>, sighting: &Sighting) -> Written {
    let strands = &sighting.originators;
    let label = |id: u32| [("originator_id", id.to_string())];
    out.gauges(
        "xmtp_sync_originator_sequence_id",
        "The highest sequence id that is durable here",
        strands.iter().map(|it| (label(it.originator_id), it.position)),
    )?;
    out.gauges(
        "xmtp_originator_lag_envelopes",
        "Envelopes that a peer holds and this node does not",
        strands.iter().map(|it| (label(it.originator_id), it.lag_envelopes)),
    )?;
    out.gauges(
        "xmtp_originator_lag_seconds",
        "For how long the first envelope that is missing here has been known to exist, seconds",
        strands.iter().map(|it| (label(it.originator_id), it.lag_s)),
    )?;
    out.gauges(
        "xmtp_peer_source",
        "1 for the peer that is asked for what comes next of the strand",
        strands.iter().filter_map(|it| Some((via(it.originator_id, it.source_node_id?), 1))),
    )?;
    out.counters(
        "xmtp_sync_messages_received_count",
        "Envelopes of the strand that peers sent and that were checked",
        strands.iter().filter_map(|it| Some((label(it.originator_id), it.received?))),
    )?;
    let last = strands.iter().filter_map(|it| Some((it.originator_id, it.last_envelope_ns?)));
    out.gauges(
        "xmtp_originator_last_envelope_seconds",
        "The time of the newest envelope held, as its originator gave it, unix seconds",
        last.map(|(id, ns)| (label(id), ns as f64 / 1e9)),
    )
}

fn via(originator: u32, source: u32) -> [(&'static str, String); 2] {
    [("originator_id", originator.to_string()), ("via", source.to_string())]
}

fn storage(out: &mut Exposition<'_>, observer: &Observer, sighting: &Sighting) -> Written {
    let counters = observer.engine.counters();
    let (groups, envelopes) = counters.group_envelopes.get();
    out.histogram(
        "xmtp_commit_group_envelopes",
        "Envelopes in one synced write to the log",
        &Buckets::new(&SIZE_BOUNDS, groups, envelopes as f64),
    )?;
    out.histogram(
        "xmtp_fsync_seconds",
        "A write handed over until it was durable, seconds",
        &buckets(&counters.commit.seconds),
    )?;
    out.gauge("xmtp_log_bytes", "What the database takes, bytes", Some(sighting.disk.log_bytes))?;
    out.gauge(
        "xmtp_disk_free_bytes",
        "Free space on the database's disk, bytes",
        sighting.disk.free_bytes,
    )?;
    out.gauge(
        "xmtp_compaction_pending_bytes",
        "What background work still has to rewrite, estimated bytes",
        Some(observer.engine.store().compaction_pending_bytes()),
    )
}

fn operations(out: &mut Exposition<'_>, observer: &Observer) -> Written {
    let counters = observer.engine.counters();
    let reads = observer.engine.reader().counters();
    let all: [(&str, &str, &Operation); 8] = [
        ("commit", "write", &counters.commit),
        ("inboxes", "read", &reads.inboxes),
        ("newest", "read", &reads.newest),
        ("query_originators", "read", &reads.query_originators),
        ("query_topics", "read", &reads.query_topics),
        ("strand_page", "read", &counters.strand_page),
        ("stream_page", "read", &reads.stream_page),
        ("usage", "read", &reads.usage),
    ];
    let label = |query: &'static str, op: &'static str| [("query", query), ("op", op)];
    out.histograms(
        "db_query_duration_seconds",
        "An operation on the log and its projections, seconds",
        all.iter().map(|(query, op, it)| (label(query, op), buckets(&it.seconds))),
    )?;
    out.counters(
        "db_query_errors",
        "Operations on the log and its projections that failed",
        all.iter().map(|(query, op, it)| (label(query, op), it.errors.get())),
    )
}

fn streams(out: &mut Exposition<'_>, observer: &Observer) -> Written {
    let streams = observer.engine.reader().streams();
    out.gauge(
        "xmtp_subscriber_lag_bytes",
        "What waits in memory for streams, bytes",
        Some(streams.waiting_bytes.get()),
    )?;
    out.counter(
        "xmtp_subscriber_demotions",
        "Times that a stream was too slow for what was committed and went on from disk",
        streams.demotions.get(),
    )
}

fn publishing(out: &mut Exposition<'_>, observer: &Observer) -> Written {
    let counters = observer.engine.counters();
    out.histograms(
        "xmtp_publish_seconds",
        "A publish by its stages: checked, ordered and signed, made durable, seconds",
        [
            ([("stage", "admit")], buckets(&counters.admit_seconds)),
            ([("stage", "sequence")], buckets(&counters.sequence_seconds)),
            ([("stage", "commit")], buckets(&counters.commit_seconds)),
            ([("stage", "total")], buckets(&counters.publish_seconds)),
        ],
    )?;
    out.histogram(
        "xmtp_api_stage_envelope_seconds",
        "A publish taken until its envelopes were checked, seconds",
        &buckets(&counters.admit_seconds),
    )?;
    out.histogram(
        "xmtp_api_staged_envelope_processing_delay_seconds",
        "From there until they had their places and were signed, seconds",
        &buckets(&counters.sequence_seconds),
    )?;
    out.histogram(
        "xmtp_api_wait_for_gateway_publish_seconds",
        "Envelopes checked until they were durable, seconds",
        &buckets(&counters.admitted_seconds),
    )?;
    out.counter(
        "xmtp_published",
        "Envelopes sequenced here and acknowledged",
        counters.published.get(),
    )?;
    out.counter(
        "xmtp_publish_replayed",
        "Envelopes answered with the result of an earlier publish",
        counters.replayed.get(),
    )
}

fn identities(out: &mut Exposition<'_>, observer: &Observer) -> Written {
    let counters = &observer.engine.counters().identities;
    out.counters(
        "xmtp_identity_updates",
        "Identity updates of the chain, by verdict",
        [
            ([("verdict", "valid")], counters.valid.get()),
            ([("verdict", "invalid")], counters.invalid.get()),
        ],
    )?;
    out.gauge(
        "xmtp_identity_inboxes_waiting",
        "Inboxes with updates that wait for their verdict",
        Some(counters.inboxes_waiting.get()),
    )
}

fn peers(out: &mut Exposition<'_>, observer: &Observer, sighting: &Sighting) -> Written {
    let counts = observer.peers.counts();
    let peers = &sighting.peers;
    let label = |node: u32| [("node_id", node.to_string())];
    let originator = |node: u32| [("originator_id", node.to_string())];
    let up = peers.iter().filter(|peer| peer.connected).count();
    out.gauge(
        "xmtp_sync_outgoing_sync_connections",
        "Peers that this node is connected to",
        Some(up as u64),
    )?;
    out.gauge(
        "xmtp_sync_failed_outgoing_sync_connections",
        "Peers that this node is not connected to",
        Some((peers.len() - up) as u64),
    )?;
    out.gauges(
        "xmtp_peer_up",
        "1 if there is a connection to the peer",
        peers.iter().map(|peer| (label(peer.node_id), i64::from(peer.connected))),
    )?;
    out.gauges(
        "xmtp_peer_rtt_seconds",
        "To the peer and back, seconds",
        peers.iter().filter_map(|peer| Some((label(peer.node_id), peer.round_trip_s?))),
    )?;
    out.counters(
        "xmtp_sync_failed_outgoing_sync_connections_counter",
        "Attempts to reach the node that came to nothing",
        peers.iter().map(|peer| (originator(peer.node_id), peer.failed_attempts)),
    )?;
    out.counters(
        "xmtp_sync_messages_received_error_count",
        "Sessions with the peer, and attempts at one, that ended because of what it sent",
        peers.iter().map(|peer| (originator(peer.node_id), peer.refused)),
    )?;
    out.counters(
        "xmtp_peer_bytes",
        "Bytes of strands exchanged with peers",
        [
            ([("direction", "in")], counts.bytes_received),
            ([("direction", "out")], counts.bytes_sent),
        ],
    )?;
    out.counter(
        "xmtp_peer_sessions",
        "Sessions begun with peers that have proved their ids",
        counts.sessions,
    )?;
    out.counter("xmtp_peer_dials", "Attempts to reach a peer", counts.dials)?;
    out.counter("xmtp_peer_envelopes_sent", "Envelopes sent to peers", counts.envelopes_sent)?;
    out.counters(
        "xmtp_replicated",
        "Envelopes from peers, and places without one, by what became of them",
        counts.replicated.into_iter().map(|(result, count)| ([("result", result)], count)),
    )?;
    let invalid = ("rule", observer.engine.counters().invalid.get());
    out.counters(
        "xmtp_verify_failures",
        "What peers sent and was refused, or stored and marked invalid, by reason",
        counts.refused.into_iter().chain([invalid]).map(|(kind, count)| ([("kind", kind)], count)),
    )
}

fn chains(out: &mut Exposition<'_>, sighting: &Sighting) -> Written {
    let chains = &sighting.chains;
    let label = |chain: &ChainState| [("chain", chain.name)];
    let age = |chain: &ChainState| Some((label(chain), chain.unseen_for?.as_secs_f64()));
    out.gauges(
        "xmtp_chain_head_age_seconds",
        "For how long the chain has not said where it is, seconds",
        chains.iter().filter_map(age),
    )?;
    out.gauges(
        "xmtp_chain_head_block",
        "The chain's last block",
        chains.iter().filter_map(|chain| Some((label(chain), chain.head?))),
    )?;
    out.gauges(
        "xmtp_chain_pushed",
        "1 if the chain tells what is new over a WebSocket",
        chains.iter().map(|chain| (label(chain), i64::from(chain.pushed))),
    )?;
    let lists = || chains.iter().flat_map(|chain| &chain.lists);
    out.gauges(
        "xmtp_chain_list_age_seconds",
        "How long ago the list was read whole, seconds",
        lists().map(|list| ([("list", list.name)], list.age.as_secs_f64())),
    )?;
    out.counters(
        "xmtp_chain_list_failures",
        "Times that it could not be read",
        lists().map(|list| ([("list", list.name)], list.failures)),
    )?;
    let depths = |chain: &ChainState| {
        let name = chain.name;
        let labels = move |depth| [("chain", name), ("depth_bucket", depth)];
        let depths = chain.reorganisations.clone().into_iter();
        depths.map(move |(depth, count)| (labels(depth), count))
    };
    out.counters(
        "xmtp_chain_reorgs",
        "Times that blocks which had been read were replaced, by how many they were",
        chains.iter().flat_map(depths),
    )?;
    let faults = |chain: &ChainState| {
        let name = chain.name;
        let faults = chain.faults.clone().into_iter();
        faults.map(move |(kind, count)| ([("chain", name), ("kind", kind)], count))
    };
    out.counters(
        "xmtp_rpc_errors",
        "Requests to the chain's endpoints that got no useful answer",
        chains.iter().flat_map(faults),
    )?;
    let active = |chain: &ChainState| {
        let name = chain.name;
        let endpoints = chain.endpoints.iter().map(|it| it.active).collect::<Vec<_>>();
        endpoints.into_iter().enumerate().map(move |(index, active)| {
            let labels = [("chain", name.to_owned()), ("endpoint_index", index.to_string())];
            (labels, i64::from(active))
        })
    };
    out.gauges(
        "xmtp_rpc_active",
        "1 for the endpoint that gave the last answer, counted from 0 in order of preference",
        chains.iter().flat_map(active),
    )
}

fn contracts(out: &mut Exposition<'_>, sighting: &Sighting) -> Written {
    let strands = || sighting.chains.iter().flat_map(|chain| &chain.strands);
    let label = |strand: &ChainStrand| [("contract_address", strand.contract.clone())];
    out.counters(
        "xmtp_indexer_log_streamer_logs",
        "Events of the contract that were stored",
        strands().map(|it| (label(it), it.events)),
    )?;
    out.counters(
        "xmtp_indexer_bytes_indexer",
        "Bytes of payloads in them",
        strands().map(|it| (label(it), it.bytes)),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_current_block",
        "The last block that was read for the contract",
        strands().filter_map(|it| Some((label(it), it.read_block?))),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_max_block",
        "The last block of its chain",
        strands().filter_map(|it| Some((label(it), it.head_block?))),
    )?;
    out.gauges(
        "xmtp_indexer_log_streamer_block_lag",
        "Blocks between the two",
        strands().map(|it| (label(it), it.lag_blocks())),
    )?;
    out.gauges(
        "xmtp_indexer_lag_seconds",
        "For how long not everything of the contract was read, seconds",
        strands().map(|it| (label(it), it.behind_for.unwrap_or_default().as_secs_f64())),
    )?;
    out.gauges(
        "xmtp_indexer_halted",
        "1 if the contract is not read any further until somebody has decided",
        strands().map(|it| (label(it), i64::from(matches!(it.doing, StrandDoing::Halted(_))))),
    )?;
    let requests = |it: &ChainStrand| {
        let contract = it.contract.clone();
        let labels = move |success: &'static str| {
            [("contract_address", contract.clone()), ("success", success.to_owned())]
        };
        [(labels("true"), it.pages), (labels("false"), it.failed_pages)]
    };
    out.counters(
        "xmtp_indexer_log_streamer_get_logs_requests",
        "Questions for events of the contract",
        strands().flat_map(requests),
    )?;
    out.gauges(
        "xmtp_indexer_get_logs_seconds",
        "How long the answers to these took, together, seconds",
        strands().map(|it| (label(it), it.asking.as_secs_f64())),
    )?;
    out.gauges(
        "xmtp_indexer_storing_seconds",
        "How long storing the contract's events took, together, seconds",
        strands().map(|it| (label(it), it.storing.as_secs_f64())),
    )?;
    out.counters(
        "xmtp_indexer_retryable_storage_error_count",
        "Times that storing events of the contract was tried again",
        strands().map(|it| (label(it), it.retries)),
    )?;
    out.counters(
        "xmtp_indexer_gaps",
        "Times that events were missing in what endpoints had answered",
        strands().map(|it| (label(it), it.gaps)),
    )?;
    let odd = |it: &ChainStrand| {
        let contract = it.contract.clone();
        let kinds = it.odd.clone().into_iter();
        kinds.map(move |(kind, count)| {
            ([("contract_address", contract.clone()), ("kind", kind.to_owned())], count)
        })
    };
    out.counters(
        "xmtp_indexer_odd_logs",
        "Logs in answers that should not have been there, by kind",
        strands().flat_map(odd),
    )
}

fn buckets(durations: &Durations) -> Buckets {
    let (counts, sum_s) = durations.get();
    Buckets::new(&DURATION_BOUNDS_S, counts, sum_s)
}
