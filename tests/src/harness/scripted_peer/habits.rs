//! The habits of a scripted peer.

use std::time::Duration;

/// Length of a message that the peer never ends.
pub const LONG_BYTES: usize = 24 << 20;

/// The end of a stream that ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// With status OK, as of a reader that was too slow.
    Ok,
    /// Without any status.
    NoStatus,
}

/// The methods for streams that the peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Methods {
    /// `SubscribeOriginators` and the older one.
    #[default]
    Both,
    /// Only the older one, `SubscribeEnvelopes`.
    Older,
    /// Only the older one. The refusal of the other comes after the headers of the answer.
    OlderSaidLate,
    /// Neither method.
    Neither,
}

/// An attack, in the place of envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Bytes that are not a message.
    Garbage,
    /// An envelope of another originator.
    ForeignOriginator,
    /// An envelope that its originator has not signed.
    Forged,
    /// Keep-alives without an end.
    KeepAlives,
    /// A message far above the limit.
    HugeFrame,
    /// Claims of more envelopes, and nothing else.
    Silence,
    /// An error whose details are malformed.
    BadDetails,
    /// A keep-alive, and the end of the stream in good order.
    EmptyEnds,
}

impl Attack {
    /// All attacks.
    pub const ALL: [Self; 8] = [
        Self::Garbage,
        Self::ForeignOriginator,
        Self::Forged,
        Self::KeepAlives,
        Self::HugeFrame,
        Self::Silence,
        Self::BadDetails,
        Self::EmptyEnds,
    ];
}

/// Habits of the peer. The default is the usual behaviour of the reference implementation.
#[derive(Debug, Clone)]
pub struct Habits {
    /// The methods that it has.
    pub methods: Methods,
    /// True if the peer serves a vector clock.
    pub tells_clock: bool,
    /// Answers calls of methods that it lacks with a web page of the HTTP status 404, as a proxy does, or a server of
    /// another kind than gRPC.
    pub answers_404: bool,
    /// The first message of a stream is a keep-alive.
    pub greets: bool,
    /// Time of silence before a keep-alive.
    pub keep_alive: Duration,
    /// Time after each message of a stream with envelopes. The reference implementation waits after those with many.
    pub stream_pause: Duration,
    /// Envelopes after which each stream ends, and how.
    pub ends_after: Option<(usize, StreamEnd)>,
    /// Sends each envelope twice.
    pub repeats: bool,
    /// Sends another statement behind each envelope of its own strand, for the same place.
    pub tells_two_stories: bool,
    /// Begins each stream at the first place, whatever the caller holds.
    pub forgets_cursors: bool,
    /// Writes the outer layer with its fields the other way round and one more at the end.
    pub odd_outer_form: bool,
    /// Seconds after which it signs what it has dated, as after an outage. The expiry follows from the later time.
    pub signs_after_s: u64,
    /// The maximum number of bytes of envelopes in one message.
    pub frame_bytes_max: usize,
    /// Envelopes of a page above which its message claims to be longer than messages may be.
    pub page_rows_max: usize,
    /// The same of a message of a stream.
    pub stream_rows_max: usize,
    /// Time that each page takes.
    pub page_takes: Duration,
    /// Refuses all pages, as a peer with too many callers does.
    pub is_busy: bool,
    /// Refuses calls with a node token, as a peer does whose clock is another.
    pub refuses_tokens: bool,
    /// Refuses calls for strands that are not its own.
    pub refuses_others: bool,
    /// Its list of originators lacks all others: a call for the strand of another gets what is there when the call
    /// begins, and then keep-alives alone.
    pub has_old_list: bool,
    /// Answers calls for strands that are not its own with [`LONG_BYTES`] and leaves the last one out.
    pub sends_long: bool,
    /// An attack in place of all envelopes.
    pub attack: Option<Attack>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            methods: Methods::Both,
            tells_clock: true,
            answers_404: false,
            greets: true,
            keep_alive: Duration::from_secs(1),
            stream_pause: Duration::ZERO,
            ends_after: None,
            repeats: false,
            tells_two_stories: false,
            forgets_cursors: false,
            odd_outer_form: false,
            signs_after_s: 0,
            frame_bytes_max: 24 * 1024 * 1024,
            page_rows_max: usize::MAX,
            stream_rows_max: usize::MAX,
            page_takes: Duration::ZERO,
            is_busy: false,
            refuses_tokens: false,
            refuses_others: false,
            has_old_list: false,
            sends_long: false,
            attack: None,
        }
    }
}

impl Habits {
    /// Returns true if the peer makes no attack.
    #[must_use]
    pub fn are_peaceful(&self) -> bool {
        self.attack.is_none()
    }
}
