//! Arguments of `hawser conformance`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hawser_conformance::STREAM_TOPICS_MAX;
use hawser_node::settings;

/// The largest time limit of one answer. A guess: no client waits as long.
const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// The largest time limit of a case. A guess: above that of every case.
const LIMIT_MAX: Duration = Duration::from_secs(3600);

/// `hawser conformance`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --payer-key-file only cases that publish nothing are run. What the suite publishes stays until its retention of 2 days has passed: the protocol has no call that deletes.\n\nExit codes: 0 no case failed, 8 a case failed, 1 a node cannot be reached, 2 usage."
)]
pub(crate) struct ConformanceArgs {
    /// API of the node that is judged: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR", required_unless_present = "list")]
    pub(crate) target: Option<String>,
    /// API of another node of the same network.
    #[arg(long, value_name = "ADDR")]
    pub(crate) second: Option<String>,
    /// API of a gateway of the same network.
    #[arg(long, value_name = "ADDR")]
    pub(crate) gateway: Option<String>,
    /// File with the secret key of the payer who pays for the suite's envelopes.
    #[arg(long, value_name = "FILE")]
    pub(crate) payer_key_file: Option<PathBuf>,
    /// Id of the target in the registry. The payer signs for no other node [default: the id that the network.json
    /// beside the payer's key, or that of ./hawser-dev, has for the target's address].
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<u32>,
    /// Run only this area or case; may be given several times.
    #[arg(long, value_name = "AREA|CASE")]
    pub(crate) only: Vec<String>,
    /// Form of the result [default: text, or json with --json].
    #[arg(long, value_enum)]
    pub(crate) format: Option<ConformanceFormat>,
    /// Write the result to a file; progress is still printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Also run cases that attack the target.
    #[arg(long)]
    pub(crate) destructive: bool,
    /// Also run cases that send and store large amounts of data, use long retentions, or measure times.
    #[arg(long)]
    pub(crate) load: bool,
    /// Shell command that ends the target at once, as a crash does.
    #[arg(long, value_name = "CMD", requires = "start_command")]
    pub(crate) kill_command: Option<String>,
    /// Shell command that starts the target again and returns.
    #[arg(long, value_name = "CMD", requires = "kill_command")]
    pub(crate) start_command: Option<String>,
    /// Longest wait for one answer, such as 30s; a number alone counts seconds.
    #[arg(long, alias = "patience", value_name = "TIME", default_value = "10s", value_parser = |text: &str| time(text, ANSWER_TIMEOUT_MAX))]
    pub(crate) answer_timeout: Duration,
    /// Longest time of a case, such as 2m, if it is shorter than the case's own; a number alone counts seconds.
    #[arg(long, value_name = "TIME", value_parser = |text: &str| time(text, LIMIT_MAX))]
    pub(crate) limit: Option<Duration>,
    /// Topics of the case a-stream-of-a-million-topics.
    #[arg(long, value_name = "N", default_value_t = STREAM_TOPICS_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(STREAM_TOPICS_MAX)))]
    pub(crate) stream_topics: u32,
    /// Print every case with its rule and its needs, and run none.
    #[arg(long)]
    pub(crate) list: bool,
}

/// Form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConformanceFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For build servers: JUnit XML.
    Junit,
}

/// Parses a time from one second on. A number alone counts seconds.
fn time(text: &str, max: Duration) -> Result<Duration, String> {
    let seconds = || text.parse().ok().map(Duration::from_secs);
    let time = settings::duration(text).or_else(seconds);
    let time = time.filter(|time| (Duration::from_secs(1)..=max).contains(time));
    time.ok_or_else(|| format!("a time from 1s to {}s, such as 30s", max.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_as_elsewhere_or_counts_seconds() {
        let seconds = |text| time(text, ANSWER_TIMEOUT_MAX).ok().map(|time| time.as_secs());
        for (text, expected) in [("10", 10), ("10s", 10), ("1m30s", 90), ("600", 600)] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for wrong in ["0", "0s", "500ms", "601", "11m", "-1", "ten", "", "18446744073709551615"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
