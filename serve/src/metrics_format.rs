//! The two text formats of metrics: OpenMetrics 1.0, and the older one of Prometheus (version 0.0.4).
//!
//! A scraper states the accepted format in `Accept`. A sample has the same name in both, so that a query works with
//! either: the samples of a counter end in `_total`, except those of plain counters. The formats differ in the family's
//! name before the samples, in the names of some types, and in the last line.

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::ACCEPT;

/// The name of the newer format.
const OPEN_METRICS: &str = "application/openmetrics-text";
/// Parts of `Accept` that are read; further ones are ignored. A guess: scrapers send five.
const PARTS_MAX: usize = 64;

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// OpenMetrics as of its draft 0.0.1, which scrapers before 2022 ask for. The text is the same.
    OpenMetricsDraft,
    /// The text format of Prometheus, version 0.0.4.
    Text,
}

impl MetricsFormat {
    /// Returns the format that a scraper asks for with these headers; see [`asked_by`](Self::asked_by).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).into_iter();
        Self::asked_by(values.filter_map(|value| value.to_str().ok()))
    }

    /// Returns the format that a scraper asks for with these values of `Accept`: OpenMetrics if it names it, and
    /// prefers no `text/plain`. A request without `Accept`, or with `*/*` alone, gets the older format, which
    /// browsers show.
    #[must_use]
    pub fn asked_by<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut text) = ((0.0, Self::OpenMetrics), 0.0);
        for part in accept.into_iter().flat_map(|value| value.split(',')).take(PARTS_MAX) {
            let Some(AcceptedType { name, version, quality }) = AcceptedType::parse(part) else {
                continue;
            };
            if name.eq_ignore_ascii_case("text/plain") {
                text = f32::max(text, quality);
            }
            let format = match version {
                None | Some("1.0.0") => Self::OpenMetrics,
                Some("0.0.1") => Self::OpenMetricsDraft,
                Some(_) => continue,
            };
            if name.eq_ignore_ascii_case(OPEN_METRICS) && quality > open.0 {
                open = (quality, format);
            }
        }
        if open.0 > 0.0 && open.0 >= text { open.1 } else { Self::Text }
    }

    /// Returns the value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetricsDraft => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Renders a page that is in the OpenMetrics format.
    #[must_use]
    pub fn from_open_metrics(self, page: String) -> String {
        match self {
            Self::OpenMetrics | Self::OpenMetricsDraft => page,
            Self::Text => plain_text(&page),
        }
    }

    /// Renders a page that is in the older format.
    #[must_use]
    pub fn from_text(self, page: String) -> String {
        match self {
            Self::OpenMetrics | Self::OpenMetricsDraft => open_metrics(&page),
            Self::Text => page,
        }
    }
}

/// One part of `Accept` (RFC 9110, section 12.5.1).
struct AcceptedType<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// From 0 to 1; 0 means that the type is not accepted.
    quality: f32,
}

impl<'a> AcceptedType<'a> {
    /// Parses a part; `None` if its quality is not a number.
    fn parse(part: &'a str) -> Option<Self> {
        let mut pieces = part.split(';').map(str::trim);
        let mut parsed = Self { name: pieces.next()?, version: None, quality: 1.0 };
        for (name, value) in pieces.filter_map(|piece| piece.split_once('=')) {
            if name.eq_ignore_ascii_case("q") {
                let quality: f32 = value.parse().ok()?;
                parsed.quality = quality.is_finite().then_some(quality)?.clamp(0.0, 1.0);
            } else if name.eq_ignore_ascii_case("version") {
                parsed.version = Some(value.trim_matches('"'));
            }
        }
        Some(parsed)
    }
}

/// Renders a page of OpenMetrics in the older format: a counter's family has the name of its samples, a family without
/// a type is a plain counter, and there is no last line.
fn plain_text(page: &str) -> String {
    renamed(page, |name, kind| match kind {
        "counter" => (format!("{name}_total"), kind),
        "unknown" => (name.to_owned(), "counter"),
        kind => (name.to_owned(), kind),
    })
}

/// Renders a page of the older format in OpenMetrics. A counter whose name does not end in `_total` has no type there.
fn open_metrics(page: &str) -> String {
    let mut text = renamed(page, |name, kind| match (kind, name.strip_suffix("_total")) {
        ("counter", Some(family)) => (family.to_owned(), kind),
        ("counter", None) | ("untyped", _) => (name.to_owned(), "unknown"),
        (kind, _) => (name.to_owned(), kind),
    });
    text.push_str("# EOF\n");
    text
}

/// Returns a page with the name and the type of each family as `rename` returns them. Omits the comments that only
/// one format has.
fn renamed<'a>(page: &'a str, rename: impl Fn(&str, &'a str) -> (String, &'a str)) -> String {
    let mut text = String::with_capacity(page.len() + page.len() / 32);
    let mut help = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            let (name, kind) = rename(name, kind);
            // Writing into memory cannot fail.
            if let Some((_, help_text)) = help.take().and_then(|help| help.split_once(' ')) {
                let _ = writeln!(text, "# HELP {name} {help_text}");
            }
            let _ = writeln!(text, "# TYPE {name} {kind}");
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_format_that_it_prefers() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_2_30 =
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
        use MetricsFormat::{OpenMetrics, OpenMetricsDraft, Text};
        for (accept, expected) in [
            (&[][..], Text),
            (&["*/*"], Text),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Text),
            (&[prometheus_3], OpenMetrics),
            (&[protobuf_first], OpenMetrics),
            (&[prometheus_2_30], OpenMetricsDraft),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["APPLICATION/OpenMetrics-Text; Version=\"1.0.0\""], OpenMetrics),
            (&["text/plain;q=0.5", "application/openmetrics-text;q=0.5"], OpenMetrics),
            (&["text/plain", "application/openmetrics-text;q=0.9"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=NaN"], Text),
            (&["application/openmetrics-text;version=9.0.0"], Text),
            (&[",;=;q,,"], Text),
        ] {
            let accepted = accept.iter().copied();
            assert_eq!(MetricsFormat::asked_by(accepted), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_page_has_the_same_samples_in_both_formats() {
        let page = "# HELP calls Calls begun\n# TYPE calls counter\ncalls_total{of=\"a b\"} 3\n\
                    # HELP took Seconds\n# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 1\n\
                    # TYPE odd unknown\n# UNIT odd bytes\nodd 1\n# EOF\n";
        let open = MetricsFormat::OpenMetrics;
        assert_eq!(open.from_open_metrics(page.to_owned()), page);
        let expected = "# HELP calls_total Calls begun\n# TYPE calls_total counter\n\
                        calls_total{of=\"a b\"} 3\n\
                        # HELP took Seconds\n# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 1\n\
                        # TYPE odd counter\nodd 1\n";
        assert_eq!(MetricsFormat::Text.from_open_metrics(page.to_owned()), expected);
        assert_eq!(MetricsFormat::Text.from_text(expected.to_owned()), expected);
        let back = open.from_text(expected.to_owned());
        assert_eq!(back, page.replace("# UNIT odd bytes\n", ""));
        let other = open.from_text("# TYPE odd untyped\nodd 1\n".to_owned());
        assert_eq!(other, "# TYPE odd unknown\nodd 1\n# EOF\n");
    }
}
