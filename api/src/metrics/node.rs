//! Metrics of the node's state at a scrape: readiness, strands, storage, stages of a publish, peers.

use std::fmt;

use hawser_engine::counters::Operation;
use hawser_proto::OriginatorId;
use hawser_serve::metrics::Exposition;
use hawser_serve::readiness::{Condition, Purpose};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::chains::{chains, contracts};
use super::records::{backups, kept_reports, payer_reports, second_statements, stored_reports};
use crate::misbehavior_page::{self, FactCounts};
use crate::node_status::{NodeObserver, NodeStatus, OriginatorReport, PeerReport};

impl fmt::Debug for NodeObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeObserver")
    }
}

/// Observes the node at each scrape. Blocks on the disk.
impl Collector for NodeObserver {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        let status = self.observe();
        identity(&mut out, self)?;
        readiness(&mut out, &status)?;
        originators(&mut out, &status)?;
        storage(&mut out, self, &status)?;
        operations(&mut out, self)?;
        streams(&mut out, self)?;
        publishing(&mut out, self)?;
        identities(&mut out, self)?;
        peers(&mut out, &status)?;
        replication(&mut out, self)?;
        misbehavior(&mut out, self)?;
        payer_reports(&mut out, self)?;
        backups(&mut out, self)?;
        trees(&mut out, self)?;
        chains(&mut out, &status.chains)?;
        contracts(&mut out, &status.chains)
    }
}

fn identity(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    observer.build.encode_build(out)?;
    let identity = observer.engine.store().identity();
    let node = identity.node.to_string();
    let role = if identity.node == OriginatorId::REPLICA { "replica" } else { "primary" };
    out.gauges(
        "xmtp_node_info",
        "Always 1; the labels say which node this is",
        [([("node_id", node.as_str()), ("network", identity.network.as_str()), ("role", role)], 1)],
    )?;
    let leads = observer.engine.clock_leads().into_iter();
    #[expect(clippy::cast_precision_loss, reason = "leads of years are whole microseconds still")]
    let seconds = leads.map(|it| ([("source", it.source.name())], it.lead_ns as f64 / 1e9));
    out.gauges(
        "xmtp_clock_offset_seconds",
        "Lead of this node's clock over that of the chain, or over the median of the peers' clocks, in seconds",
        seconds,
    )?;
    observer.build.encode_start_time(out)
}

fn readiness(out: &mut Exposition<'_>, status: &NodeStatus) -> fmt::Result {
    out.gauges(
        "xmtp_ready",
        "1 if the node is ready for it",
        Purpose::ALL
            .map(|purpose| ([("for", purpose.label())], i64::from(status.ready.contains(purpose)))),
    )?;
    out.gauge("xmtp_status_verdict", "0 ok, 1 degraded, 2 failing", Some(status.level as i64))?;
    Condition::encode_all(&status.conditions, out)
}

fn originators(out: &mut Exposition<'_>, status: &NodeStatus) -> fmt::Result {
    let strands = &status.originators;
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
        "Time since a peer first claimed an envelope that this node lacks, seconds; 0 if it lacks none",
        strands.iter().map(|it| (label(it.originator_id), it.lag_s)),
    )?;
    out.gauges(
        "xmtp_peer_source",
        "1 for the peer that the strand is pulled from",
        strands.iter().filter_map(|it| Some((via(it.originator_id, it.source_node_id?), 1))),
    )?;
    out.plain_counters(
        "xmtp_sync_messages_received_count",
        "Envelopes of the strand that peers sent and that were checked",
        strands.iter().filter_map(|it| Some((label(it.originator_id), it.received?))),
    )?;
    out.counters(
        "xmtp_originator_searches",
        "Searches for places that the strand passed over",
        strands.iter().filter_map(|it| Some((label(it.originator_id), it.searches?))),
    )?;
    let cosigned = |it: &OriginatorReport| {
        let checkpoint = it.checkpoint?;
        Some((label(it.originator_id), checkpoint.cosigned_by as u64))
    };
    out.gauges(
        "xmtp_checkpoint_cosignatures",
        "Nodes that cosigned the newest cosigned checkpoint of the strand",
        strands.iter().filter_map(cosigned),
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

fn storage(out: &mut Exposition<'_>, observer: &NodeObserver, status: &NodeStatus) -> fmt::Result {
    let counters = observer.engine.counters();
    out.histogram(
        "xmtp_commit_group_envelopes",
        "Envelopes in one synced write to the log",
        counters.group_envelopes.histogram(),
    )?;
    out.histogram(
        "xmtp_fsync_seconds",
        "Time of a synced write, seconds",
        counters.commit.seconds.histogram(),
    )?;
    out.gauge(
        "xmtp_log_bytes",
        "Size of the database on disk, bytes",
        Some(status.disk.log_bytes),
    )?;
    out.gauge(
        "xmtp_disk_free_bytes",
        "Free space on the database's disk, bytes",
        status.disk.free_bytes,
    )?;
    out.gauge(
        "xmtp_disk_total_bytes",
        "Size of the database's disk, bytes",
        status.disk.total_bytes,
    )?;
    out.gauge(
        "xmtp_compaction_pending_bytes",
        "Estimate of the bytes that compactions still have to rewrite",
        Some(observer.engine.store().compaction_pending_bytes()),
    )?;
    out.counter(
        "xmtp_pruned",
        "Envelopes that were removed after their expiry",
        counters.pruned.get(),
    )?;
    out.counter("xmtp_pruned_bytes", "Bytes of these envelopes", counters.pruned_bytes.get())?;
    out.gauge(
        "xmtp_prune_backlog",
        "Envelopes that could be removed and are still held, as of the last run",
        Some(counters.prune_backlog.get()),
    )?;
    scrubs(out, observer)
}

fn scrubs(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let scrub = &observer.engine.counters().scrub;
    out.counter("xmtp_scrub_bytes", "Bytes that scrubs read back", scrub.bytes.get())?;
    out.counter("xmtp_scrub_damages", "Damaged parts that were found", scrub.damages.get())?;
    out.counter("xmtp_scrub_repaired", "Damaged parts that were put back", scrub.repaired.get())?;
    out.gauge(
        "xmtp_scrub_left",
        "Damaged parts that the last scrub has left",
        Some(scrub.left.get()),
    )?;
    let finished = Some(scrub.finished_unix_s.get()).filter(|it| *it > 0);
    out.gauge(
        "xmtp_scrub_finished_timestamp_seconds",
        "End of the last scrub, unix seconds",
        finished,
    )
}

fn trees(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let counters = observer.engine.counters();
    out.counter(
        "xmtp_checkpoints_signed",
        "Checkpoints that this node signed, of its own strand and of the chains' strands",
        counters.checkpoints.get(),
    )?;
    let shown = &counters.checkpoint_exchange;
    out.counters(
        "xmtp_checkpoints_shown",
        "Checkpoints from peers that were new or were refused, by result",
        [
            ([("result", "agreed")], shown.agreed.get()),
            ([("result", "contradicting")], shown.contradicting.get()),
            ([("result", "differing")], shown.differing.get()),
            ([("result", "dropped")], shown.dropped.get()),
            ([("result", "forged")], shown.forged.get()),
            ([("result", "unknown")], shown.unknown.get()),
        ],
    )?;
    out.counter(
        "xmtp_checkpoints_cosigned",
        "Checkpoints of other nodes that this node cosigned",
        shown.cosigned.get(),
    )?;
    out.counter(
        "xmtp_checkpoints_unreadable",
        "Nodes' checkpoints of a strand that could not be read on the disk",
        shown.unreadable.get(),
    )?;
    let asked = &counters.witnesses;
    out.counters(
        "xmtp_witness_requests",
        "Cosignatures that the named witnesses gave, and turns of strands that failed, by result",
        [
            ([("result", "cosigned")], asked.cosigned.get()),
            ([("result", "failed")], asked.failed.get()),
        ],
    )?;
    out.gauge(
        "xmtp_tree_leaves_behind",
        "Places of all strands that their trees do not cover",
        Some(counters.tree_leaves_behind.get()),
    )
}

fn operations(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
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
        all.iter().map(|(query, op, it)| (label(query, op), it.seconds.histogram())),
    )?;
    out.counters(
        "db_query_errors",
        "Operations on the log and its projections that failed",
        all.iter().map(|(query, op, it)| (label(query, op), it.errors.get())),
    )
}

fn streams(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let streams = observer.engine.reader().streams();
    out.gauge(
        "xmtp_subscriber_lag_bytes",
        "Bytes in the queues of streams, counted once for each stream",
        Some(streams.waiting_bytes.get()),
    )?;
    out.counter(
        "xmtp_subscriber_demotions",
        "Moves of a slow stream from its queue back to disk",
        streams.demotions.get(),
    )?;
    out.counter(
        "xmtp_subscriber_wakeups",
        "Wakeups of streams, for envelopes, a page from disk or a reached place",
        streams.wakeups.get(),
    )
}

fn publishing(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let counters = observer.engine.counters();
    out.histograms(
        "xmtp_publish_seconds",
        "A publish by its stages: checked, ordered and signed, made durable, seconds",
        [
            ([("stage", "admit")], counters.admit_seconds.histogram()),
            ([("stage", "sequence")], counters.sequence_seconds.histogram()),
            ([("stage", "commit")], counters.commit_seconds.histogram()),
            ([("stage", "total")], counters.publish_seconds.histogram()),
        ],
    )?;
    out.histogram(
        "xmtp_api_stage_envelope_seconds",
        "A publish taken until its envelopes were checked, seconds",
        counters.admit_seconds.histogram(),
    )?;
    out.histogram(
        "xmtp_api_staged_envelope_processing_delay_seconds",
        "From there until they had their places and were signed, seconds",
        counters.sequence_seconds.histogram(),
    )?;
    out.histogram(
        "xmtp_api_wait_for_gateway_publish_seconds",
        "Envelopes checked until they were durable, seconds",
        counters.admitted_seconds.histogram(),
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

fn identities(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let counters = &observer.engine.counters().identities;
    out.counters(
        "xmtp_identity_updates",
        "Identity updates of the chain, by verdict",
        [
            ([("verdict", "valid")], counters.valid.get()),
            ([("verdict", "invalid")], counters.invalid.get()),
        ],
    )?;
    out.counter(
        "xmtp_identity_updates_unanswered",
        "Identity updates marked invalid because their contract wallet could not be asked in time",
        counters.unanswered.get(),
    )?;
    out.gauge(
        "xmtp_identity_inboxes_waiting",
        "Inboxes with updates that wait for their verdict",
        Some(counters.inboxes_waiting.get()),
    )
}

fn peers(out: &mut Exposition<'_>, status: &NodeStatus) -> fmt::Result {
    let peers = &status.peers;
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
    let transport = |peer: &PeerReport| {
        let labels = [("node_id", peer.node_id.to_string()), ("transport", peer.transport?.into())];
        Some((labels, 1_u64))
    };
    out.gauges(
        "xmtp_peer_transport",
        "1 for the transport of the connection to the peer",
        peers.iter().filter_map(transport),
    )?;
    // There is no other error while there is a connection.
    let connected = peers.iter().filter(|peer| peer.connected);
    out.gauges(
        "xmtp_peer_token_refused",
        "1 if the peer refuses this node's token, and is called without one",
        connected.map(|peer| (label(peer.node_id), i64::from(peer.last_error.is_some()))),
    )?;
    out.gauges(
        "xmtp_peer_rtt_seconds",
        "To the peer and back, seconds",
        peers.iter().filter_map(|peer| Some((label(peer.node_id), peer.round_trip_s?))),
    )?;
    out.plain_counters(
        "xmtp_sync_failed_outgoing_sync_connections_counter",
        "Attempts to reach the node that came to nothing",
        peers.iter().map(|peer| (originator(peer.node_id), peer.failed_attempts)),
    )?;
    out.plain_counters(
        "xmtp_sync_messages_received_error_count",
        "Sessions with the peer, and attempts at one, that ended because of what it sent",
        peers.iter().map(|peer| (originator(peer.node_id), peer.refused)),
    )
}

fn misbehavior(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let liveness = &observer.engine.counters().liveness;
    out.counters(
        "xmtp_liveness_reports",
        "Reports that this node made of others that do not answer as they should, by kind",
        [
            ([("kind", "failed_request")], liveness.failed.get()),
            ([("kind", "slow_node")], liveness.slow.get()),
            ([("kind", "unresponsive_node")], liveness.unresponsive.get()),
        ],
    )?;
    let counts = misbehavior_page::counts(&observer.engine).into_iter();
    let label = |node: u32, verdict| [("originator_id", node.to_string()), ("verdict", verdict)];
    let both = |(node, it): (u32, FactCounts)| {
        [
            (label(node, "proven".to_owned()), it.proven),
            (label(node, "claim".to_owned()), it.claims),
        ]
    };
    out.gauges(
        "xmtp_misbehavior_facts",
        "Facts about the node that there is evidence of",
        counts.flat_map(both),
    )?;
    second_statements(out, observer)?;
    stored_reports(out, observer)?;
    kept_reports(out, observer)?;
    out.counter(
        "xmtp_envelopes_withdrawn",
        "Envelopes of other nodes that readers were shown before they were verified, and get no more",
        observer.engine.counters().withdrawn.get(),
    )?;
    let differing = observer.engine.store().differing_fees().into_iter();
    out.counters(
        "xmtp_fees_differing",
        "Envelopes of the node whose stated fees were not the ones that this node booked",
        differing.map(|(node, envelopes)| ([("originator_id", node.to_string())], envelopes)),
    )
}

fn replication(out: &mut Exposition<'_>, observer: &NodeObserver) -> fmt::Result {
    let counts = observer.peers.counts();
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
        "Sessions begun with peers, over QUIC and over gRPC",
        counts.sessions,
    )?;
    let subscribed = counts.subscribed.into_iter();
    out.counters(
        "xmtp_sync_subscribe_rpc",
        "Streams of strands that this node opened at peers over gRPC, by method",
        subscribed.map(|(originator, rpc, count)| {
            ([("rpc", rpc.to_owned()), ("originator_id", originator.to_string())], count)
        }),
    )?;
    out.counter("xmtp_peer_dials", "Attempts to reach a peer", counts.dials)?;
    out.counter("xmtp_peer_envelopes_sent", "Envelopes sent to peers", counts.envelopes_sent)?;
    out.counter(
        "xmtp_peer_envelopes_rewritten",
        "Envelopes from gRPC whose outer layer was put into canonical form",
        counts.rewritten,
    )?;
    out.counters(
        "xmtp_replicated",
        "Outcomes of envelopes from peers, and of gaps that no peer filled",
        counts.replicated.into_iter().map(|(result, count)| ([("result", result)], count)),
    )?;
    let invalid = ("rule", observer.engine.counters().invalid.get());
    out.counters(
        "xmtp_verify_failures",
        "Refusals of peers' bytes, and envelopes stored as invalid, by reason",
        counts.refused.into_iter().chain([invalid]).map(|(kind, count)| ([("kind", kind)], count)),
    )
}
