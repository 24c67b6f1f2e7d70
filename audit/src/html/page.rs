//! Renders the page: findings first, then pictures, then the parts that were not checked.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;
use hawser_proto::date::date_text;
use hawser_proto::price::PicoDollarPrice;

use super::charts::{Spans, bars, row, strip};
use super::markup::{Markup, bytes, dollars, duration, number};
use crate::replay::{DayFigures, Gap, GapReason, PayerFigures, ReplayReport, ReplayedStrand};

/// Faults that are listed. A guess: a person reads the first few, and the file stays small.
const FAULTS_MAX: usize = 300;
/// Strands that have pictures, by envelopes. A guess: a network has a handful of nodes.
const STRANDS_MAX: usize = 24;
/// Payers that have a bar. A guess, as the next three: a person reads the page, and the data beside it has all.
const PAYERS_MAX: usize = 20;
/// Gaps of a strand that are drawn.
const GAPS_DRAWN_MAX: usize = 400;
/// Gaps of a strand that are listed.
const GAPS_LISTED_MAX: usize = 12;
/// Nodes that have a column beside checkpoints.
const SIGNERS_MAX: usize = 24;
/// Part of the envelopes, as a divisor, that may be dated outside of the drawn days. A guess: a strand with more of
/// them has no other picture.
const OUTSIDE_PART: u64 = 100;
/// Part of all days, as a divisor, that the drawn ones are at most if others are left out. A guess: bars of a fourth of
/// the room can still be read.
const SQUEEZED_PART: i64 = 4;
/// Nanoseconds of a day.
const DAY_NS: i64 = 86_400_000_000_000;

/// Facts about the replay that stand at the end of the page.
#[derive(Debug, Clone, Copy)]
pub struct PageFacts<'a> {
    /// The source of the keys, for people.
    pub keys: &'a str,
    /// The name and version of the program.
    pub tool: &'a str,
    /// The auditor's time, unix nanoseconds.
    pub now_ns: i64,
}

/// Returns the report as a page of HTML.
#[must_use]
pub fn page(report: &ReplayReport, facts: PageFacts<'_>) -> String {
    let mut to = Markup::default();
    to.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    to.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    // Were anything to slip through, it could neither run nor load.
    to.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">");
    to.raw("<meta name=\"color-scheme\" content=\"light dark\"><title>Audit: ")
        .text(report.verdict());
    to.raw("</title><style>").raw(include_str!("style.css")).raw("</style></head><body><main>");
    head(&mut to, report);
    faults(&mut to, report);
    sentences(&mut to, "Incomplete", &report.incomplete);
    throughput(&mut to, report);
    fees(&mut to, report);
    gaps(&mut to, report);
    lags(&mut to, report);
    checkpoints(&mut to, report);
    strands(&mut to, report);
    sentences(&mut to, "Not checked", &report.unchecked);
    to.raw("<footer>Keys: ").text(facts.keys).raw(". Made by ").text(facts.tool).raw(" on ");
    to.text(date_text(facts.now_ns.div_euclid(DAY_NS))).raw(".</footer></main></body></html>\n");
    to.into_string()
}

fn head(to: &mut Markup, report: &ReplayReport) {
    let verdict = report.verdict();
    let class = match verdict {
        "clean" => "<span class=\"verdict clean\">",
        "faulty" => "<span class=\"verdict faulty\">",
        _ => "<span class=\"verdict incomplete\">",
    };
    to.raw("<div class=\"head\"><h1>");
    match report.node_id {
        OriginatorId(0) => to.text(&report.network),
        node => to.raw("The log of node ").text(node).raw(" in ").text(&report.network),
    };
    to.raw("</h1>").element(class, verdict, "</span><div class=\"tiles\">");
    let sum = |figure: fn(&ReplayedStrand) -> u64| {
        number(report.strands.iter().map(figure).fold(0, u64::saturating_add))
    };
    let len = report.strands.iter().map(|it| it.figures.bytes).fold(0, u64::saturating_add);
    let tiles = [
        ("strands", number(report.strands.len() as u64)),
        ("envelopes", sum(|it| it.figures.envelopes)),
        ("of envelopes", bytes(len)),
        ("checkpoints", sum(|it| total(&it.figures.checkpoints))),
        ("cosignatures", sum(|it| total(&it.figures.cosigners))),
        ("faults", number(report.all_faults().count())),
    ];
    for (name, value) in tiles {
        to.element("<div><b>", value, "</b>").element("<span>", name, "</span></div>");
    }
    to.raw("</div></div>");
}

fn total(counts: &BTreeMap<OriginatorId, u64>) -> u64 {
    counts.values().fold(0, |sum, count| sum.saturating_add(*count))
}

fn faults(to: &mut Markup, report: &ReplayReport) {
    let all = report.all_faults();
    if all.count() == 0 {
        return;
    }
    to.raw("<section><h2>Faults</h2><div class=\"wide\"><table><tr><th>kind</th><th>of the</th><th class=\"n\">number</th></tr>");
    for (kind, count) in all.counts() {
        to.element("<tr><td class=\"mono\">", kind.name(), "</td>");
        to.element("<td>", kind.party(), "</td>");
        to.element("<td class=\"n\">", number(*count), "</td></tr>");
    }
    to.raw("</table></div><h3>The first of them</h3><div class=\"wide\"><table class=\"faults\"><tr><th>place</th><th>kind</th><th>fault</th></tr>");
    for fault in all.kept().iter().take(FAULTS_MAX) {
        to.element("<tr><td class=\"mono\">", fault.place(), "</td>");
        to.element("<td class=\"mono\">", fault.kind.name(), "");
        if let Some(rule) = fault.rule {
            to.element(" (rule ", rule, ")");
        }
        to.element("</td><td class=\"t\">", &fault.text, "</td></tr>");
    }
    to.raw("</table></div></section>");
}

fn sentences(to: &mut Markup, title: &'static str, sentences: &[String]) {
    if sentences.is_empty() {
        return;
    }
    to.raw("<section><h2>").raw(title).raw("</h2><ul>");
    for sentence in sentences {
        to.element("<li>", sentence, "</li>");
    }
    to.raw("</ul></section>");
}

/// Returns the strands that have pictures: those with the most envelopes, by id.
fn pictured(report: &ReplayReport) -> Vec<&ReplayedStrand> {
    let mut strands: Vec<&ReplayedStrand> = report.strands.iter().collect();
    strands.sort_by_key(|strand| std::cmp::Reverse(strand.figures.envelopes));
    strands.truncate(STRANDS_MAX);
    strands.sort_by_key(|strand| strand.originator_id);
    strands
}

/// The days that all pictures have.
struct DrawnDays {
    first: i64,
    last: i64,
    /// Envelopes that are dated on other days.
    outside: u64,
}

impl DrawnDays {
    /// Returns the days from the first to the last one with envelopes. A node may date a few envelopes by centuries
    /// back or ahead. They would squeeze all others into one bar, so they are left out. `None` without envelopes.
    fn of(strands: &[&ReplayedStrand]) -> Option<Self> {
        let mut sums: BTreeMap<i64, u64> = BTreeMap::new();
        for (day, figures) in strands.iter().flat_map(|it| &it.figures.days) {
            let sum = sums.entry(*day).or_default();
            *sum = sum.saturating_add(figures.envelopes);
        }
        let days: Vec<(i64, u64)> = sums.into_iter().collect();
        let all = days.iter().fold(0_u64, |sum, (_, envelopes)| sum.saturating_add(*envelopes));
        let (mut from, mut through) = (0, days.len().checked_sub(1)?);
        let whole = Self { first: days[from].0, last: days[through].0, outside: 0 };
        let mut outside = 0_u64;
        while from < through {
            let below = days[from + 1].0 - days[from].0;
            let above = days[through].0 - days[through - 1].0;
            // The day that is farther from its neighbour goes first.
            let end = if below >= above { from } else { through };
            let more = outside.saturating_add(days[end].1);
            if below.max(above) == 1 || more > all / OUTSIDE_PART {
                break;
            }
            outside = more;
            if end == from { from += 1 } else { through -= 1 }
        }
        let inner = Self { first: days[from].0, last: days[through].0, outside };
        let is_squeezed = inner.last - inner.first < (whole.last - whole.first) / SQUEEZED_PART;
        Some(if is_squeezed { inner } else { whole })
    }

    fn contains(&self, day: i64) -> bool {
        (self.first..=self.last).contains(&day)
    }
}

/// Draws a picture by day for each strand, all with the same days.
fn by_day(
    to: &mut Markup,
    report: &ReplayReport,
    value: fn(&DayFigures) -> u64,
    join: fn(u64, u64) -> u64,
    show: fn(u64) -> String,
) {
    let strands = pictured(report);
    let Some(days) = DrawnDays::of(&strands) else {
        to.raw("<p>There are no envelopes.</p>");
        return;
    };
    let spans = |strand: &&ReplayedStrand| {
        let drawn = strand.figures.days.iter().filter(|(day, _)| days.contains(**day));
        let values = drawn.map(|(day, figures)| (*day, value(figures)));
        (strand.originator_id, Spans::new(values, (days.first, days.last), join))
    };
    let mut drawn = strands.iter().map(spans).filter(|(_, spans)| spans.max() > 0).peekable();
    if drawn.peek().is_none() {
        to.raw("<p>There are none.</p>"); // chains sign no checkpoints
        return;
    }
    if days.outside > 0 {
        let text = "<p>Envelopes dated outside of these days, which are not drawn: ";
        to.element(text, number(days.outside), ".</p>");
    }
    to.raw("<div class=\"charts\">");
    for (originator, spans) in drawn {
        bars(to, &format!("Strand {originator}"), &spans, show);
    }
    to.raw("</div>");
}

fn throughput(to: &mut Markup, report: &ReplayReport) {
    to.raw("<section><h2>Envelopes by strand and day</h2>");
    by_day(to, report, |day| day.envelopes, u64::saturating_add, number);
    to.raw("</section>");
}

fn lags(to: &mut Markup, report: &ReplayReport) {
    to.raw("<section><h2>From an envelope to its checkpoint</h2>");
    to.raw("<p>The longest time of each day, for checkpoints of the strand's own node.</p>");
    let lag = |day: &DayFigures| u64::try_from(day.lag_ns_max).unwrap_or(0);
    let show = |ns: u64| duration(i64::try_from(ns).unwrap_or(i64::MAX));
    by_day(to, report, lag, u64::max, show);
    to.raw("</section>");
}

fn fees(to: &mut Markup, report: &ReplayReport) {
    to.raw("<section><h2>Fees by payer</h2>");
    let mut payers: BTreeMap<&str, PayerFigures> = BTreeMap::new();
    let mut others = PayerFigures::default();
    let add = |to: &mut PayerFigures, from: &PayerFigures| {
        to.messages = to.messages.saturating_add(from.messages);
        to.picodollars = to.picodollars.plus(from.picodollars);
    };
    for strand in &report.strands {
        for (payer, figures) in &strand.figures.payers {
            add(payers.entry(payer).or_default(), figures);
        }
        add(&mut others, &strand.figures.other_payers);
    }
    let mut payers: Vec<(&str, PayerFigures)> = payers.into_iter().collect();
    payers.sort_by_key(|(payer, figures)| {
        (std::cmp::Reverse((figures.picodollars, figures.messages)), *payer)
    });
    for (_, figures) in payers.iter().skip(PAYERS_MAX) {
        add(&mut others, figures);
    }
    let max = payers.first().map_or(PicoDollarPrice(0), |(_, figures)| figures.picodollars);
    let max = max.max(others.picodollars);
    for (payer, figures) in payers.iter().take(PAYERS_MAX) {
        let chars: Vec<char> = payer.chars().collect();
        let short = match chars.len() {
            13.. => format!("0x{}…{}", text(&chars[..6]), text(&chars[chars.len() - 4..])),
            _ => (*payer).to_owned(),
        };
        let title = format!("0x{payer}: {} messages", number(figures.messages));
        let fees = figures.picodollars;
        row(to, (&short, &title), fees.0, max.0, &dollars(fees));
    }
    if others.messages > 0 {
        let title = format!("{} messages", number(others.messages));
        let fees = others.picodollars;
        row(to, ("all others", &title), fees.0, max.0, &dollars(fees));
    }
    if payers.is_empty() {
        to.raw("<p>No payer was charged.</p>");
    }
    to.raw("</section>");
}

fn text(chars: &[char]) -> String {
    chars.iter().collect()
}

fn class(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Missing => "missing",
        GapReason::Expired => "expired",
        GapReason::Void | GapReason::DeclaredVoid => "void",
        GapReason::Pruned => "pruned",
        GapReason::NotShown => "not_shown",
    }
}

fn gaps(to: &mut Markup, report: &ReplayReport) {
    to.raw("<section><h2>Places without an envelope</h2>");
    let with_gaps: Vec<_> =
        pictured(report).into_iter().filter(|it| !it.figures.gaps.is_empty()).collect();
    if with_gaps.is_empty() {
        to.raw("<p>There are none.</p></section>");
        return;
    }
    to.raw("<div class=\"legend\">");
    for (class, name) in [
        (
            "<svg viewBox=\"0 0 1 1\"><rect class=\"missing\" width=\"1\" height=\"1\"/></svg>",
            "missing: no peer had them",
        ),
        (
            "<svg viewBox=\"0 0 1 1\"><rect class=\"expired\" width=\"1\" height=\"1\"/></svg>",
            "expired or pruned",
        ),
        (
            "<svg viewBox=\"0 0 1 1\"><rect class=\"void\" width=\"1\" height=\"1\"/></svg>",
            "declared empty",
        ),
        (
            "<svg viewBox=\"0 0 1 1\"><rect class=\"not_shown\" width=\"1\" height=\"1\"/></svg>",
            "not shown",
        ),
    ] {
        to.raw("<span>").raw(class).raw(name).raw("</span>");
    }
    to.raw("</div>");
    for strand in with_gaps {
        let gaps = &strand.figures.gaps;
        to.element("<h3>Strand ", strand.originator_id, ", places 1 to ");
        to.text(number(strand.reached.0)).raw("</h3>");
        let described = |gap: &Gap| {
            let (from, through) = (number(gap.from.0), number(gap.through.0));
            let places =
                if gap.from == gap.through { from } else { format!("{from} to {through}") };
            format!("{places}: {}", gap.reason.name().replace('_', " "))
        };
        let drawn = gaps.iter().take(GAPS_DRAWN_MAX);
        let drawn: Vec<_> = drawn
            .map(|gap| (gap.from.0, gap.through.0, class(gap.reason), described(gap)))
            .collect();
        strip(to, strand.reached.0, &drawn);
        to.raw("<ul>");
        for gap in gaps.iter().take(GAPS_LISTED_MAX) {
            to.element("<li>", described(gap), "</li>");
        }
        if gaps.len() > GAPS_LISTED_MAX {
            to.element("<li>and ", number((gaps.len() - GAPS_LISTED_MAX) as u64), " more</li>");
        }
        to.raw("</ul>");
    }
    to.raw("</section>");
}

fn checkpoints(to: &mut Markup, report: &ReplayReport) {
    to.raw("<section><h2>Checkpoints, and who cosigned</h2>");
    let strands = pictured(report);
    let nodes: BTreeSet<OriginatorId> = strands
        .iter()
        .flat_map(|it| it.figures.checkpoints.keys().chain(it.figures.cosigners.keys()))
        .copied()
        .collect();
    if nodes.is_empty() {
        to.raw("<p>No checkpoint was verified.</p></section>");
        return;
    }
    to.raw(
        "<p>Checkpoints that a node signed + cosignatures that it gave, all of them verified.</p>",
    );
    to.raw("<div class=\"wide\"><table><tr><th>strand</th>");
    for node in nodes.iter().take(SIGNERS_MAX) {
        to.element("<th class=\"n\">node ", node, "</th>");
    }
    to.raw("<th class=\"n\">witnesses</th><th class=\"n\">unknown</th></tr>");
    for strand in strands {
        let figures = &strand.figures;
        to.element("<tr><td>", strand.originator_id, "</td>");
        for node in nodes.iter().take(SIGNERS_MAX) {
            let of = |counts: &BTreeMap<OriginatorId, u64>| {
                number(counts.get(node).copied().unwrap_or(0))
            };
            to.element("<td class=\"n\">", of(&figures.checkpoints), " + ");
            to.element("", of(&figures.cosigners), "</td>");
        }
        to.element("<td class=\"n\">", number(figures.witnesses), "</td>");
        to.element("<td class=\"n\">", number(figures.unknown_signers), "</td></tr>");
    }
    to.raw("</table></div></section>");
}

fn strands(to: &mut Markup, report: &ReplayReport) {
    to.raw("<section><h2>Strands</h2><div class=\"wide\"><table><tr><th>strand</th><th class=\"n\">places</th><th class=\"n\">envelopes</th><th class=\"n\">marked invalid</th><th class=\"n\">faults</th><th>root</th></tr>");
    let mut sorted: Vec<&ReplayedStrand> = report.strands.iter().collect();
    sorted.sort_by_key(|strand| strand.originator_id);
    for strand in sorted.into_iter().take(STRANDS_MAX * 10) {
        let short: String = strand.root.chars().take(12).collect();
        to.element("<tr><td>", strand.originator_id, "</td>");
        for figure in [
            strand.reached.0,
            strand.figures.envelopes,
            strand.figures.invalid,
            strand.faults.count(),
        ] {
            to.element("<td class=\"n\">", number(figure), "</td>");
        }
        to.element("<td class=\"mono\" title=\"", &strand.root, "\">")
            .text(short)
            .raw("…</td></tr>");
    }
    to.raw("</table></div></section>");
}
