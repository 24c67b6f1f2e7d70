//! Pictures as inline SVG. Shapes stretch with the page; labels are text beside them, which does not.

use hawser_proto::date::date_text;

use super::markup::Markup;

/// Bars of a picture. A guess: on a phone each has some pixels.
const BARS_MAX: i64 = 90;
/// Height of a picture, in units of its own. Chosen: heights of bars are percents.
const HEIGHT: u64 = 100;

/// Values by day, in as many equal spans of days as there is room for.
#[derive(Debug)]
pub(super) struct Spans {
    first: i64,
    last: i64,
    days: i64,
    values: Vec<u64>,
}

impl Spans {
    /// Collects values by day, from the first to the last; `join` joins those of one span.
    pub(super) fn new(
        values: impl Iterator<Item = (i64, u64)> + Clone,
        (first, last): (i64, i64),
        join: fn(u64, u64) -> u64,
    ) -> Self {
        let days = (last - first) / BARS_MAX + 1;
        let spans = usize::try_from((last - first) / days + 1).unwrap_or(1);
        let mut sums = vec![0; spans];
        for (day, value) in values {
            let at = usize::try_from((day - first) / days).unwrap_or(usize::MAX);
            if let Some(sum) = sums.get_mut(at) {
                *sum = join(*sum, value);
            }
        }
        Self { first, last, days, values: sums }
    }

    /// Returns the highest value.
    pub(super) fn max(&self) -> u64 {
        self.values.iter().copied().max().unwrap_or(0)
    }

    fn label(&self, at: usize) -> String {
        let from = self.first + i64::try_from(at).unwrap_or(0) * self.days;
        match self.days {
            1 => date_text(from),
            days => {
                format!("{} – {}", date_text(from), date_text((from + days - 1).min(self.last)))
            }
        }
    }
}

/// Draws bars, one for each span, with the highest value and the ends of the axis.
pub(super) fn bars(to: &mut Markup, name: &str, spans: &Spans, show: fn(u64) -> String) {
    let max = spans.max().max(1);
    to.raw("<figure><figcaption><b>").text(name).raw("</b><span>at most ");
    to.text(show(spans.max())).raw(if spans.days == 1 { " a day" } else { " in " });
    if spans.days > 1 {
        to.text(spans.days).raw(" days");
    }
    to.raw("</span></figcaption><svg class=\"bars\" preserveAspectRatio=\"none\" viewBox=\"0 0 ");
    to.text(spans.values.len() * 10).raw(" ").text(HEIGHT).raw("\" role=\"img\" aria-label=\"");
    to.text(name).raw("\">");
    for (at, &value) in spans.values.iter().enumerate() {
        // A value that is there is seen.
        let height = scaled(value, max, HEIGHT).max(u64::from(value > 0));
        to.raw("<rect x=\"").text(at * 10 + 1).raw("\" y=\"").text(HEIGHT - height);
        to.raw("\" width=\"8\" height=\"").text(height).raw("\"><title>");
        to.text(spans.label(at)).raw(": ").text(show(value)).raw("</title></rect>");
    }
    to.raw("</svg><div class=\"axis\"><span>").text(date_text(spans.first)).raw("</span><span>");
    to.text(date_text(spans.last)).raw("</span></div></figure>");
}

/// Draws one bar of a list, as long as its part of the longest one.
pub(super) fn row(
    to: &mut Markup,
    (label, title): (&str, &str),
    value: u64,
    max: u64,
    shown: &str,
) {
    to.raw("<div class=\"row\"><span class=\"mono\" title=\"").text(title).raw("\">").text(label);
    to.raw("</span><svg preserveAspectRatio=\"none\" viewBox=\"0 0 1000 10\"><rect width=\"");
    to.text(scaled(value, max.max(1), 1_000).max(2)).raw("\" height=\"10\"/></svg><span>");
    to.text(shown).raw("</span></div>");
}

/// Draws ranges of places on a strand that ends at `end`. Each has the class that draws its colour.
pub(super) fn strip(to: &mut Markup, end: u64, ranges: &[(u64, u64, &'static str, String)]) {
    to.raw("<svg class=\"strip\" preserveAspectRatio=\"none\" viewBox=\"0 0 1000 10\">");
    to.raw("<rect class=\"held\" width=\"1000\" height=\"10\"/>");
    for (from, through, class, title) in ranges {
        let start = scaled(from.saturating_sub(1), end.max(1), 1_000).min(997);
        let stop = scaled(*through, end.max(1), 1_000).min(1_000);
        to.raw("<rect class=\"").raw(class).raw("\" x=\"").text(start).raw("\" width=\"");
        to.text(stop.saturating_sub(start).max(3)).raw("\" height=\"10\"><title>");
        to.text(title).raw("</title></rect>");
    }
    to.raw("</svg>");
}

/// Returns `value` of `max` in units of `whole`.
fn scaled(value: u64, max: u64, whole: u64) -> u64 {
    let scaled = u128::from(value.min(max)) * u128::from(whole) / u128::from(max.max(1));
    u64::try_from(scaled).unwrap_or(whole)
}
