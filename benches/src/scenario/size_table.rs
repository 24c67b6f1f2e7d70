//! The figures of [`Size`] as a table.

use std::fmt::Write as _;

use crate::error::BenchError;
use crate::scenario::catch_up::CaughtUp;
use crate::scenario::expensive::{Expensive, TOPICS_MAX};
use crate::scenario::fill::Grown;
use crate::scenario::query::AskedAtOnce;
use crate::scenario::sizes::{Rebuilt, Size, StreamFigures};
use crate::stats::{self, grouped};

impl Size {
    fn written_per_stored(&self) -> f64 {
        let sum = |of: fn(&Grown) -> u64| stats::float(self.grown.iter().map(of).sum());
        sum(|grown| grown.written_bytes) / sum(|grown| grown.envelope_bytes)
    }

    fn grow_cpu_us(&self) -> f64 {
        let sum = |of: fn(&Grown) -> f64| self.grown.iter().map(of).sum::<f64>();
        sum(|grown| grown.node_cpu_us * stats::float(grown.added))
            / sum(|grown| stats::float(grown.added))
    }

    fn rebuilt_per_second(&self) -> f64 {
        let rate = |it: Rebuilt| stats::float(self.rows) / (it.first_s + it.second_s);
        known(self.rebuild.map(rate))
    }
}

/// A line of the table: its name, digits behind the point, and the figure of a size.
type Line = (&'static str, usize, fn(&Size) -> f64);

const LINES: &[Line] = &[
    ("envelopes in the log", 0, |it| stats::float(it.rows)),
    ("bytes in the folder for each of them", 0, |it| {
        known(it.disk_bytes.map(stats::float)) / stats::float(it.rows.max(1))
    }),
    ("bytes written to disk for each byte stored, while growing", 2, Size::written_per_stored),
    ("CPU time of a stored envelope while growing, µs", 1, Size::grow_cpu_us),
    ("start after a stop, s", 2, |it| known(it.start_s)),
    ("start after a kill, s", 2, |it| known(it.start_killed_s)),
    ("envelopes in a page", 1, |it| {
        it.query.envelopes_each.unwrap_or_else(|| it.query.page.into())
    }),
    ("a page alone, p50 ms", 2, |it| it.query.client.p50_us / 1e3),
    ("a page alone, p99 ms", 2, |it| it.query.client.p99_us / 1e3),
    ("a page alone, CPU ms of the node", 3, |it| it.query.server_cpu_us / 1e3),
    ("pages/s, many clients", 0, |it| at_once(it, |it| it.pages_per_second)),
    ("a page, many clients, p99 ms", 2, |it| at_once(it, |it| it.client.p99_us / 1e3)),
    ("a page, many clients, CPU ms of the node", 3, |it| {
        at_once(it, |it| known(it.server_cpu_us) / 1e3)
    }),
    ("topics that envelopes were spread over, of the 10,000 below", 0, |it| {
        stats::float(it.publish.plan.topics.min(TOPICS_MAX))
    }),
    ("newest envelopes of 10,000 topics, p50 ms", 1, |it| p50_ms(it.reads.newest.as_ref())),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.newest.as_ref())),
    ("the same, turns that a limited caller pays for", 1, |it| turns(it.reads.newest.as_ref())),
    ("newest envelopes of the crowded topics, p50 ms", 1, |it| {
        p50_ms(it.reads.newest_crowded.as_ref())
    }),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.newest_crowded.as_ref())),
    ("the same, turns that a limited caller pays for", 1, |it| {
        turns(it.reads.newest_crowded.as_ref())
    }),
    ("usage of the busy payer, p50 ms", 1, |it| p50_ms(it.reads.payer_info.as_ref())),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.payer_info.as_ref())),
    ("the same, turns that a limited caller pays for", 1, |it| turns(it.reads.payer_info.as_ref())),
    ("a page of 10,000 topics from 0, p50 ms", 1, |it| p50_ms(it.reads.planned.as_ref())),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.planned.as_ref())),
    ("the same, turns that a limited caller pays for", 1, |it| turns(it.reads.planned.as_ref())),
    ("a page of 10,000 topics from just below the head, p50 ms", 1, |it| {
        p50_ms(it.reads.planned_below_head.as_ref())
    }),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.planned_below_head.as_ref())),
    ("the same, turns that a limited caller pays for", 1, |it| {
        turns(it.reads.planned_below_head.as_ref())
    }),
    ("a page of the crowded topics from 0, p50 ms", 1, |it| {
        p50_ms(it.reads.planned_crowded.as_ref())
    }),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.planned_crowded.as_ref())),
    ("the same, turns that a limited caller pays for", 1, |it| {
        turns(it.reads.planned_crowded.as_ref())
    }),
    ("resident after reading, MiB", 0, |it| mib(it.resident_kib)),
    ("published/s, 20 in a request", 0, |it| it.publish.envelopes_per_second),
    ("a published envelope, CPU µs of the node", 1, |it| known(it.publish.node_cpu_us)),
    ("first page of a stream of 10,000 topics, p50 ms", 1, |it| {
        streams(it, |it| it.first_page.p50_us / 1e3)
    }),
    ("streams that come back after a restart", 0, |it| {
        streams(it, |it| stats::float(it.came_back.all.streams))
    }),
    ("all of them live after, s", 2, |it| streams(it, |it| it.came_back.all.elapsed_s)),
    ("each of them, CPU µs of the node", 0, |it| streams(it, |it| it.came_back.all.node_cpu_us)),
    ("times that one was refused", 0, |it| streams(it, |it| stats::float(it.came_back.all.again))),
    ("resident beside them, MiB", 0, |it| mib(it.streams.map(|it| it.came_back.all.resident_kib))),
    ("single envelopes beside them, p50 ms", 2, |it| {
        streams(it, |it| it.came_back.single.p50_us / 1e3)
    }),
    ("the same, CPU µs of the node", 0, |it| streams(it, |it| it.came_back.single_cpu_us)),
    ("an envelope for all streams of one topic, p50 ms", 1, |it| {
        streams(it, |it| it.heard.heard.p50_us / 1e3)
    }),
    ("the strand as one stream, envelopes/s", 0, |it| {
        streams(it, |it| it.strand.envelopes_per_second)
    }),
    ("the same, share of a plain stream, %", 0, |it| {
        streams(it, |it| it.strand.bytes_per_second / it.strand.plain_bytes_per_second * 100.0)
    }),
    ("an empty follower, verified envelopes/s", 0, |it| verified(it.catch_up.as_ref())),
    ("the same, CPU µs of the follower", 1, |it| {
        known(it.catch_up.as_ref().map(|it| it.follower_cpu_us))
    }),
    ("the same, CPU µs of the leader", 1, |it| {
        known(it.catch_up.as_ref().map(|it| it.leader_cpu_us))
    }),
    ("the same, most memory of the follower, MiB", 0, |it| follower_mib(it.catch_up.as_ref())),
    ("an empty follower that shows first, readable envelopes/s", 0, |it| {
        known(it.catch_up_shown.as_ref().map(|it| it.envelopes_per_second))
    }),
    ("the same, verified envelopes/s", 0, |it| verified(it.catch_up_shown.as_ref())),
    ("the same, most memory of the follower, MiB", 0, |it| {
        follower_mib(it.catch_up_shown.as_ref())
    }),
    ("rebuild until it was cut off, s", 1, |it| known(it.rebuild.map(|it| it.first_s))),
    ("rebuild from there to the end, s", 1, |it| known(it.rebuild.map(|it| it.second_s))),
    ("rebuilt envelopes/s", 0, Size::rebuilt_per_second),
];

/// Returns a figure, or NaN for one that was not measured.
fn known(figure: Option<f64>) -> f64 {
    figure.unwrap_or(f64::NAN)
}

fn p50_ms(read: Option<&Expensive>) -> f64 {
    known(read.map(|it| it.client.p50_us / 1e3))
}

fn cpu_ms(read: Option<&Expensive>) -> f64 {
    known(read.and_then(|it| it.server_cpu_us)) / 1e3
}

fn turns(read: Option<&Expensive>) -> f64 {
    known(read.and_then(|it| it.turns))
}

fn mib(kib: Option<u64>) -> f64 {
    known(kib.map(stats::float)) / 1024.0
}

fn at_once(size: &Size, of: impl Fn(&AskedAtOnce) -> f64) -> f64 {
    known(size.query.at_once.as_ref().map(of))
}

fn streams(size: &Size, of: impl Fn(&StreamFigures) -> f64) -> f64 {
    known(size.streams.as_ref().map(of))
}

fn verified(caught_up: Option<&CaughtUp>) -> f64 {
    known(caught_up.map(|it| stats::float(it.envelopes) / it.verified_s))
}

fn follower_mib(caught_up: Option<&CaughtUp>) -> f64 {
    let kib = |it: &CaughtUp| it.memory.iter().map(|at| at.follower.resident_kib).max();
    mib(caught_up.and_then(kib))
}

/// Returns the figures of all sizes, or of all nodes, as a Markdown table, with the ratio of the last one to the first.
/// Lines that none of them has a figure for are left out.
pub(crate) fn table(sizes: &[Size]) -> Result<String, BenchError> {
    let mut out = String::new();
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return Ok(out) };
    write!(out, "| published envelopes")?;
    for size in sizes {
        write!(out, " | {}", grouped(stats::float(size.at)))?;
        if let Some(node) = size.node {
            write!(out, " at `{node}`")?;
        }
    }
    writeln!(out, " | ratio |\n|---|{}--:|", "--:|".repeat(sizes.len()))?;
    for (name, digits, figure) in LINES {
        if sizes.iter().all(|size| !figure(size).is_finite()) {
            continue;
        }
        write!(out, "| {name}")?;
        for size in sizes {
            write!(out, " | {}", number(figure(size), *digits))?;
        }
        writeln!(out, " | {} |", number(figure(last) / figure(first), 2))?;
    }
    Ok(out)
}

fn number(value: f64, digits: usize) -> String {
    match digits {
        _ if !value.is_finite() => "–".to_owned(),
        0 => grouped(value),
        digits => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::results::Run;

    #[test]
    fn what_is_not_known_is_a_dash() {
        assert_eq!(number(f64::NAN, 2), "–");
        assert_eq!(number(1234.5, 0), "1 234");
        assert_eq!(number(1.0 / 3.0, 2), "0.33");
        assert_eq!(table(&[]).unwrap(), "");
    }

    #[test]
    fn a_node_that_ran_already_has_a_column_of_what_its_api_shows() {
        let run: Run = serde_json::from_str(include_str!("../../results/sizes.json")).unwrap();
        let own = run.sizes[0].clone();
        let node: SocketAddr = "127.0.0.1:6250".parse().unwrap();
        let mut other = Size { node: Some(node), grown: Vec::new(), start_s: None, ..own.clone() };
        (other.disk_bytes, other.start_killed_s, other.rebuild) = (None, None, None);
        other.reads.payer_info = None;
        let row = |sizes: &[Size], name: &str| {
            let table = table(sizes).unwrap();
            table.lines().find(|line| line.starts_with(&format!("| {name}"))).map(str::to_owned)
        };
        let both = [own, other.clone()];
        assert!(
            row(&both, "published envelopes").unwrap().contains("1 000 000 at `127.0.0.1:6250`")
        );
        assert_eq!(
            row(&both, "start after a stop, s").unwrap(),
            "| start after a stop, s | 0.05 | – | – |"
        );
        assert_eq!(
            row(&both, "pages/s").unwrap(),
            "| pages/s, many clients | 6 293 | 6 293 | 1.00 |"
        );
        assert!(row(&both, "bytes written").unwrap().ends_with("| – | – |"));
        assert!(row(&both, "usage of the busy payer").unwrap().ends_with("| – | – |"));
        assert_eq!(row(&both, "an empty follower"), None, "not measured at all");
        assert_eq!(row(&[other.clone()], "start after"), None, "left out, as no column has it");
        let kept: Size = serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap();
        assert_eq!((kept.node, kept.rows, kept.start_s), (Some(node), other.rows, None));
        assert!(kept.reads.newest.is_some() && kept.reads.payer_info.is_none());
    }
}
