//! Descriptors of RPC methods: the path, the streaming sides, and the memory cost of a request.

use crate::decoded_size::FieldCost;

/// The sides of a method that stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    /// One request message, one response message.
    Unary,
    /// One request message, a stream of response messages.
    ServerStream,
    /// Streams in both directions.
    Bidi,
}

impl MethodKind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server",
            Self::Bidi => "bidi",
        }
    }

    pub(crate) fn style(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream | Self::Bidi => "stream",
        }
    }
}

/// A method with metrics of its own.
#[derive(Debug, Clone, Copy)]
pub struct RpcMethod {
    path: &'static str,
    kind: MethodKind,
    fields: &'static [FieldCost],
    takes_messages: bool,
}

/// The default costs, for requests with a handful of fields at most: strings, and messages of strings.
const SMALL_REQUEST: &[FieldCost] = &[
    FieldCost::by_length(1, 64),
    FieldCost::by_length(2, 64),
    FieldCost::by_length(3, 64),
    FieldCost::by_length(4, 64),
    FieldCost::by_length(5, 64),
    FieldCost::by_length(6, 64),
    FieldCost::by_length(7, 64),
];

impl RpcMethod {
    /// Describes the method with this `path` in requests: `/package.Service/RpcMethod`. Its requests are charged as
    /// if they were all small fields; see [`RpcMethod::decoding`].
    #[must_use]
    pub const fn new(path: &'static str, kind: MethodKind) -> Self {
        Self { path, kind, fields: SMALL_REQUEST, takes_messages: false }
    }

    /// Sets the costs of the fields of requests.
    #[must_use]
    pub const fn decoding(self, fields: &'static [FieldCost]) -> Self {
        Self { fields, ..self }
    }

    /// Declares that the handler of a stream of requests takes its [messages](crate::RequestMessages). It reads them
    /// without delay, or charges its call for a full flow-control window itself. Calls of other methods are charged for
    /// the window from the beginning.
    #[must_use]
    pub const fn taking_messages(self) -> Self {
        Self { takes_messages: true, ..self }
    }

    /// Returns true if the handler takes the messages of a stream of requests itself.
    pub(crate) fn takes_messages(&self) -> bool {
        self.takes_messages
    }

    /// Returns true if unread requests may stay in the flow-control window of a call until it ends.
    pub(crate) fn leaves_unread(&self) -> bool {
        self.kind == MethodKind::Bidi && !self.takes_messages
    }

    pub(crate) fn fields(&self) -> &'static [FieldCost] {
        self.fields
    }

    /// Returns the path of its requests.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    pub(crate) fn kind(&self) -> MethodKind {
        self.kind
    }

    pub(crate) fn labels(&self) -> [(&'static str, &'static str); 3] {
        let (service, name) = self.path[1..].split_once('/').unwrap_or(("unknown", "unknown"));
        [("grpc_type", self.kind.label()), ("grpc_service", service), ("grpc_method", name)]
    }

    pub(crate) fn open_labels(&self) -> [(&'static str, &'static str); 2] {
        [("style", self.kind.style()), ("method", self.path)]
    }
}
