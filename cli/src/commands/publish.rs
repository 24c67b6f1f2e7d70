//! `hawser publish`: signs client envelopes and sends them to a node.

mod plan;
mod target;

use hawser_conformance::case_error::code_name;
use hawser_node::CheckedChannel;
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::files::lines::{self, EnvelopeLine};
use hawser_node::files::{self, key};
use hawser_proto::envelope::{ClientEnvelope, OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::message_api::PublishPayerEnvelopesRequest;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_client::PublishApiClient;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SecretKey};
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Status};

use crate::args::PublishArgs;
use crate::{client, output};
use plan::PublishPlan;

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, or when not every request was accepted.
pub(super) async fn run(args: PublishArgs, as_json: bool) -> Result<(), RunError> {
    let payer = key::read(&args.payer_key_file).map_err(|error| error.at(&args.payer_key_file))?;
    let lines = files::read(&args.file, lines::parse)?;
    let plan = PublishPlan::of(lines);
    let target = target::find(&args)?;
    let channel = client::connect(&args.node).await?;
    let sender = RequestSender { channel, payer, target, retention_days: args.retention_days };
    let summary = sender.send_all(&plan, as_json).await;
    summary.print(&plan, target, as_json);
    summary.conclude()
}

/// Sends requests to one node.
struct RequestSender {
    channel: CheckedChannel,
    payer: SecretKey,
    target: OriginatorId,
    retention_days: u32,
}

/// The outcome of all requests.
#[derive(Default)]
struct PublishSummary {
    published: Vec<EnvelopeId>,
    requests_taken: usize,
    rejected: Vec<RejectedRequest>,
    /// Requests that were not sent because an earlier one failed.
    not_tried: usize,
}

/// A request that was not accepted.
struct RejectedRequest {
    lines: Vec<u64>,
    code: Code,
    text: String,
    /// Advice beyond the node's status.
    hints: Vec<String>,
}

impl RequestSender {
    async fn send_all(&self, plan: &PublishPlan, as_json: bool) -> PublishSummary {
        let mut summary = PublishSummary::default();
        for (index, request) in plan.requests.iter().enumerate() {
            match self.send(request).await {
                Ok(ids) => {
                    if !as_json {
                        print_published(request, &ids);
                    }
                    summary.requests_taken += 1;
                    summary.published.extend(ids);
                }
                Err(status) => {
                    let rejection = self.rejection(request, &status).await;
                    if !as_json {
                        rejection.print();
                    }
                    summary.rejected.push(rejection);
                    if client::reason_of(status.code()) == RunErrorKind::Failed {
                        summary.not_tried = plan.requests.len() - index - 1;
                        break;
                    }
                }
            }
        }
        summary
    }

    /// Publishes one request and checks that the response contains its envelopes.
    async fn send(&self, request: &[EnvelopeLine]) -> Result<Vec<EnvelopeId>, Status> {
        let sign = |line: &EnvelopeLine| {
            let bytes = line.client_bytes.clone();
            PayerEnvelope::sign(bytes, self.target, self.retention_days, &self.payer)
        };
        let payer_envelopes = request.iter().map(sign).collect();
        let mut api = PublishApiClient::new(self.channel.clone())
            .max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX);
        let message = PublishPayerEnvelopesRequest { payer_envelopes };
        let answer = client::whole(api.publish_payer_envelopes(message)).await?.into_inner();
        let envelopes = answer.originator_envelopes;
        let answers_request = |(line, envelope): (&EnvelopeLine, &OriginatorEnvelope)| {
            envelope.id().originator == self.target
                && *envelope.unsigned().payer().client().as_bytes() == line.client_bytes
        };
        let parsed: Result<Vec<_>, _> = envelopes
            .iter()
            .map(|envelope| OriginatorEnvelope::parse(envelope.encode_to_vec().into()))
            .collect();
        match parsed {
            Ok(parsed)
                if parsed.len() == request.len()
                    && request.iter().zip(&parsed).all(answers_request) =>
            {
                Ok(parsed.iter().map(OriginatorEnvelope::id).collect())
            }
            _ => Err(Status::data_loss("the node's response has other envelopes than the request")),
        }
    }

    async fn rejection(&self, request: &[EnvelopeLine], status: &Status) -> RejectedRequest {
        let hints = match status.code() {
            Code::InvalidArgument => self.missing_dependencies(request).await,
            Code::Unimplemented => vec![client::NO_SUCH_CALL.to_owned()],
            _ => Vec::new(),
        };
        RejectedRequest {
            lines: request.iter().map(|line| line.number).collect(),
            code: status.code(),
            text: output::printable(status.message()),
            hints,
        }
    }

    /// Returns advice about the lines whose dependencies the node lacks.
    async fn missing_dependencies(&self, request: &[EnvelopeLine]) -> Vec<String> {
        let mut api = MetadataApiClient::new(self.channel.clone());
        let asked = api.get_sync_cursor(GetSyncCursorRequest {});
        let Ok(answer) = client::whole(asked).await else {
            return Vec::new(); // the status itself is printed in any case
        };
        let seen = Cursor::from(&answer.into_inner().latest_sync.unwrap_or_default());
        request.iter().flat_map(|line| missing_of(line, &seen)).collect()
    }
}

fn missing_of(line: &EnvelopeLine, seen: &Cursor) -> Vec<String> {
    let Ok(client) = ClientEnvelope::parse(line.client_bytes.clone()) else { return Vec::new() };
    let missing = client.depends_on().iter().filter(|id| !seen.covers(**id));
    missing
        .map(|id| {
            format!(
                "line {} depends on {id}, and the node has strand {} up to {} only: publish it \
                 again when the node holds more of that strand",
                line.number,
                id.originator,
                seen.get(id.originator)
            )
        })
        .collect()
}

fn print_published(request: &[EnvelopeLine], ids: &[EnvelopeId]) {
    for (line, id) in request.iter().zip(ids) {
        let topic = ClientEnvelope::parse(line.client_bytes.clone())
            .map(|client| client.topic().to_string())
            .unwrap_or_default();
        output::line(format_args!("{id}  line {}  {topic}", line.number));
    }
}

impl RejectedRequest {
    fn print(&self) {
        let lines: Vec<_> = self.lines.iter().map(ToString::to_string).collect();
        let word = if lines.len() == 1 { "line" } else { "lines" };
        let name = code_name(self.code);
        output::line(format_args!("refused  {word} {}  {name}: {}", lines.join(","), self.text));
        for hint in &self.hints {
            output::line(format_args!("         {hint}"));
        }
    }
}

impl PublishSummary {
    fn print(&self, plan: &PublishPlan, target: OriginatorId, as_json: bool) {
        if as_json {
            output::line(self.json(plan, target));
            return;
        }
        let mut text = format!(
            "published {} in {} to node {target}",
            output::count(self.published.len(), "envelope"),
            output::count(self.requests_taken, "request"),
        );
        if !self.rejected.is_empty() {
            text += &format!("; {} refused", output::count(self.rejected.len(), "request"));
        }
        if self.not_tried > 0 {
            text += &format!("; {} not tried", output::count(self.not_tried, "request"));
        }
        for (route, left_out) in &plan.left_out {
            text += &format!("; left out {} for {route}", output::count(*left_out, "envelope"));
        }
        if plan.partly_left_out > 0 {
            let requests = output::count(plan.partly_left_out, "request");
            text += &format!("; {requests} went without the envelopes that belong to a chain");
        }
        output::line(text);
    }

    fn json(&self, plan: &PublishPlan, target: OriginatorId) -> serde_json::Value {
        let ids: Vec<_> = self.published.iter().map(ToString::to_string).collect();
        let refused: Vec<_> = self
            .rejected
            .iter()
            .map(|rejection| {
                json!({
                    "lines": rejection.lines,
                    "status": code_name(rejection.code),
                    "text": rejection.text,
                    "hints": rejection.hints,
                })
            })
            .collect();
        let left_out: serde_json::Map<_, _> = plan
            .left_out
            .iter()
            .map(|(route, count)| (route.name().to_owned(), json!(count)))
            .collect();
        json!({
            "target": target.0,
            "published": self.published.len(),
            "requests": self.requests_taken,
            "ids": ids,
            "refused": refused,
            "not_tried": self.not_tried,
            "left_out": left_out,
            "partly_left_out": plan.partly_left_out,
        })
    }

    /// The worst outcome decides the exit code: a failure before a refusal.
    fn conclude(&self) -> Result<(), RunError> {
        let reasons = || self.rejected.iter().map(|rejection| client::reason_of(rejection.code));
        match reasons().find(|reason| *reason == RunErrorKind::Failed).or_else(|| reasons().next())
        {
            None => Ok(()),
            Some(kind) => Err(RunError { kind, text: String::new() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(code: Code) -> RejectedRequest {
        RejectedRequest { lines: vec![1], code, text: String::new(), hints: Vec::new() }
    }

    fn reason(codes: &[Code]) -> Option<RunErrorKind> {
        let rejected = codes.iter().map(|code| rejection(*code)).collect();
        PublishSummary { rejected, ..PublishSummary::default() }
            .conclude()
            .err()
            .map(|failure| failure.kind)
    }

    #[test]
    fn the_worst_outcome_decides_the_exit_code() {
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[Code::InvalidArgument]), Some(RunErrorKind::Refused));
        assert_eq!(reason(&[Code::InvalidArgument, Code::Unavailable]), Some(RunErrorKind::Failed));
    }

    #[test]
    fn a_dependency_that_the_node_lacks_is_named() {
        let text = std::fs::read_to_string(crate::VECTORS).unwrap();
        let lines = lines::parse(&text).unwrap();
        let depends = |line: &&EnvelopeLine| !missing_of(line, &Cursor::new()).is_empty();
        let line = lines.iter().find(depends).unwrap();
        let client = ClientEnvelope::parse(line.client_bytes.clone()).unwrap();
        let needed = client.depends_on()[0];
        let hint = missing_of(line, &Cursor::new()).remove(0);
        assert!(hint.contains(&format!("line {} depends on {needed}", line.number)), "{hint}");
        assert!(missing_of(line, &[needed].into_iter().collect()).is_empty());
    }
}
