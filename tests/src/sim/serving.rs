//! Answers of a simulated node to wants.

use bytes::Bytes;
use hawser_engine::replication::{
    GapRanges, RequestId, StrandItem, Want, WantResponse, WantedItems,
};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::LogItem;
use rand::RngExt as _;

use super::liar::{is_kept_back, twist};
use super::members::LIAR;
use super::wire::{Event, Path, Stream};
use super::world::Sim;

impl Sim {
    pub(super) fn take_want(&mut self, path: Path, request: RequestId, want: Want) {
        let stream =
            Stream { request, want, position: want.after, last_arrival: self.now, is_idle: false };
        self.connection(path).streams.insert(want.originator, stream);
        self.plan_serving(path, want.originator, request);
    }

    pub(super) fn plan_serving(
        &mut self,
        path: Path,
        originator: OriginatorId,
        request: RequestId,
    ) {
        let generation = self.connection(path).generation;
        self.plan(1, Event::Serve { path, generation, originator, request });
    }

    /// Sends the next few items, as a reader of the strand would.
    pub(super) fn serve(&mut self, path: Path, originator: OriginatorId, request: RequestId) {
        if self.reference.contains_key(&path.server) {
            return self.serve_as_reference(path, originator, request);
        }
        if self.stays_silent(path, originator) {
            return;
        }
        let asked = self.connections[&path].streams.get(&originator).map(|stream| stream.want);
        if let Some(want) = asked.filter(Want::is_for_gaps) {
            return self.name_gaps(path, request, want);
        }
        let few = self.rng.random_range(1..8);
        let server = &self.nodes[&path.server];
        let head = server.verified_head(originator);
        let Some(stream) = self.connections[&path].streams.get(&originator) else { return };
        if stream.request != request {
            return; // a later want has taken its place
        }
        let (want, position) = (stream.want, stream.position);
        let through = want.up_to().map_or(head, |up_to| up_to.min(head));
        let signed = self.signed_beyond(path, originator, position);
        let end = signed.map_or(through, |signed| through.min(signed.checkpoint.last()));
        let mut items = Vec::new();
        let mut reached = position;
        for item in server.log_items(originator, position, few) {
            let Some((item, last)) = item_of(item, end) else { break };
            reached = last;
            items.push(item);
        }
        if let Some(signed) = signed
            && reached > position
            && items.iter().all(|item| matches!(item, StrandItem::Envelope(_)))
        {
            let prefix = self.prefix(path, originator, reached, signed);
            items.splice(0..0, prefix.map(|it| StrandItem::Prefix(Box::new(it))));
        }
        if self.denies(path, want, &items) {
            (items, reached) = (Vec::new(), reached.max(through));
        }
        if path.server == LIAR && self.faults.lies {
            items = twist(items, originator, position, request, &mut self.rng);
        }
        if path.server == LIAR
            && let Some(hostility) = &self.hostility
        {
            items = hostility.twist(items, path.follower, originator, request, &mut self.rng);
        }
        if path.server == LIAR {
            items = self.play_script(items, path, originator, request);
        }
        if path.server == LIAR && self.faults.withholds_from == Some(path.follower) {
            items.retain(|item| !is_kept_back(item, originator));
        }
        let is_whole = reached >= through;
        if is_whole && want.up_to().is_some() {
            items.push(StrandItem::End);
        }
        self.send(path, originator, WantResponse { peer: path.server, request, items });
        let stream = self.connection(path).streams.get_mut(&originator).expect("it was there");
        stream.position = reached;
        stream.is_idle = is_whole;
        if is_whole && want.up_to().is_some() {
            self.connection(path).streams.remove(&originator);
        } else if !is_whole {
            self.plan_serving(path, originator, request);
        }
    }

    /// Answers a want for gaps alone, as a reader of the strand would.
    fn name_gaps(&mut self, path: Path, request: RequestId, want: Want) {
        let originator = want.originator;
        let Some(stream) = self.connections[&path].streams.get(&originator) else { return };
        if stream.request != request {
            return; // a later want has taken its place
        }
        let server = &self.nodes[&path.server];
        let head = server.verified_head(originator);
        let up_to = want.up_to().expect("it has an end");
        let end = head.min(up_to);
        let log = server.log(originator, want.after).into_iter();
        let items = log.map_while(|item| item_of(item, end)).map(|(item, _)| item);
        let mut items: Vec<_> =
            items.filter(|item| matches!(item, StrandItem::Gap { .. })).collect();
        let from = head.max(want.after).next();
        if from <= up_to {
            items.push(StrandItem::Gap { from, to: up_to, expired: false });
        }
        if let WantedItems::GapsOf(ranges) = want.items {
            items = items.iter().flat_map(|gap| cut(gap, ranges)).collect();
        }
        items.push(StrandItem::End);
        self.send(path, originator, WantResponse { peer: path.server, request, items });
        self.connection(path).streams.remove(&originator);
    }

    /// Puts items on the wire, behind everything before them on the same stream.
    pub(super) fn send(
        &mut self,
        path: Path,
        originator: OriginatorId,
        response: WantResponse<Bytes>,
    ) {
        if response.items.is_empty() {
            return;
        }
        let delay = self.delay(self.faults.delay_ms_max);
        let now = self.now;
        let connection = self.connection(path);
        let generation = connection.generation;
        let last = connection.streams.get(&originator).map_or(now, |stream| stream.last_arrival);
        let at = last.max(now + delay);
        if let Some(stream) = connection.streams.get_mut(&originator) {
            stream.last_arrival = at;
        }
        self.queue.push(at, Event::Arrive { path, generation, originator, response });
    }

    /// Wakes the streams that wait for this strand to grow.
    pub(super) fn wake_streams(&mut self, server: OriginatorId, originator: OriginatorId) {
        let mut woken = Vec::new();
        for (path, connection) in self.connections.iter_mut().filter(|(p, _)| p.server == server) {
            if let Some(stream) = connection.streams.get_mut(&originator).filter(|s| s.is_idle) {
                stream.is_idle = false;
                woken.push((*path, stream.request));
            }
        }
        for (path, request) in woken {
            self.plan_serving(path, originator, request);
        }
        self.plan_clocks(server, originator);
    }
}

/// Returns the parts of a gap that lie in some ranges.
fn cut(gap: &StrandItem<Bytes>, ranges: GapRanges) -> Vec<StrandItem<Bytes>> {
    let StrandItem::Gap { from, to, .. } = *gap else { panic!("{gap:?}") };
    let parts = ranges.iter().map(|(first, last)| (from.max(first), to.min(last)));
    let parts = parts.filter(|(from, to)| from <= to);
    parts.map(|(from, to)| StrandItem::Gap { from, to, expired: false }).collect()
}

/// Returns the item for a step of the log, cut at `through`, and the place that it reaches; `None` beyond.
fn item_of(item: LogItem, through: SequenceId) -> Option<(StrandItem<Bytes>, SequenceId)> {
    let (item, first, last) = match item {
        LogItem::Envelope { id, bytes, .. } => {
            (StrandItem::Envelope(bytes), id.sequence, id.sequence)
        }
        LogItem::Skipped { from, through: to, .. } => {
            let to = to.min(through);
            (StrandItem::Gap { from, to, expired: false }, from, to)
        }
    };
    (first <= through).then_some((item, last))
}
