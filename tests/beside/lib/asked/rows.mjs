// The rows of docs/beside-xmtpd.md that explain differences, and the requests that show them. A request
// that is not here has a row of its own name, or none.

const ROWS = {
  "a page of several originators": ["two topics", "originators in another order"],
  "the newest envelope of a topic": ["the newest of a report topic"],
  "a page that is cut at the limit": ["all strands", "both chains", "originators in packed form"],
  "an originator named twice in a query": ["an originator named twice"],
  "a cursor of 2^63 or more": ["a cursor of 2^63 or more by originator"],
  "`GetPayerInfo` with an unknown granularity": ["usage with a negative granularity"],
  "misbehavior reports": ["misbehavior reports may be submitted", `health of "xmtp.xmtpv4.message_api.MisbehaviorApi"`],
  "a known field of another wire type": ["a topic as a number", "a limit as bytes", "the newest of a topic as a number",
    "the inbox of an identifier as a number"],
  "an inbox identifier with a zero byte": ["the inbox of an identifier with a zero byte"],
  "a message of `Subscribe` that is none": ["Subscribe: a message that is none", "Subscribe: a message that is none, and the end"],
  "a unary call with no message, or with two": ["call: no frame", "call: two frames", "wire: gRPC-Web without a body"],
  "a message with unknown flags": ["call: a frame with unknown flags", "call: a frame of trailers", "wire: gRPC-Web of garbage"],
  "a deadline that is over before the call begins": ["call: a timeout of 1 ns", "call: a timeout of 0"],
  "a deadline that cannot be read": ["call: a timeout of nine digits", "call: a timeout without a unit",
    "call: a timeout of an unknown unit", "call: a negative timeout"],
  "a stream whose deadline is over": ["call: a stream with a timeout of 300 ms", "call: a live stream with a timeout of 300 ms"],
  "a content type with parameters": ["call: a content type with parameters"],
  "a path that begins with two slashes": ["wire: a path with two slashes"],
  "messages in JSON over gRPC and gRPC-Web": ["wire: application/grpc+json", "wire: gRPC-Web in JSON"],
  "gRPC over HTTP/1.1": ["wire: gRPC over HTTP/1.1"],
  "the text form of gRPC-Web": ["wire: gRPC-Web as text"],
  "browsers over HTTP/2 without TLS": ["browser: a preflight", "browser: an answer to a browser"],
  "OPTIONS that is no preflight, or of a path that is not served": ["browser: OPTIONS without a method", "browser: a preflight of an unknown path"],
  Connect: ["browser: a Connect call", "browser: a Connect call in JSON", "browser: a Connect call by GET", "browser: a Connect stream"],
  "GET of a path that is not served": ["browser: GET of the root", "browser: GET over HTTP/1.1", "browser: a health check by GET"],
  "an unknown field in a payer envelope": ["publish: an unknown field in the payer envelope"],
  "the same payer envelope published again": ["publish: an envelope twice in a request"],
  "what a node refuses, through a gateway": ["PayerApi: publishing a report", "PayerApi: publishing an attestation",
    "PayerApi: publishing a key package of garbage", "PayerApi: publishing an identity update for a short inbox id",
    "PayerApi: publishing a commit of a group id of 5 bytes", "PayerApi: publishing a dependency on a node",
    "GatewayApi: publishing an identity update for a short inbox id", "GatewayApi: publishing a dependency on a node"],
};

const OF_REQUEST = new Map(Object.entries(ROWS).flatMap(([row, requests]) => requests.map((request) => [request, row])));

/** The name of the row that would explain a difference. */
export const rowOf = (request) => OF_REQUEST.get(request) ?? request.replace(/^publish: /, "");

/** All rows that a request names here. */
export const named = () => Object.keys(ROWS);
