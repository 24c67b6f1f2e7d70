//! `hawser audit compare`: the places at which logs differ, and the differences.

use hawser_audit::compare::{
    ComparedBy, ComparedPlaces, OtherRate, OtherRates, Side, SignedAgain, StrandDifference,
    compare, other_rates,
};
use hawser_audit::replay::{LogSource, SourceError};
use hawser_node::error::RunError;
use serde_json::{Value, json};

use super::source::{self, OpenLog};
use crate::args::audit::AuditCompareArgs;
use crate::{exit_codes, output};

/// Runs the command.
///
/// # Errors
/// When a log cannot be read; and with an exit code of its own if logs differ, or if nothing of two logs was there to
/// be compared.
pub(super) fn run(args: &AuditCompareArgs, as_json: bool) -> Result<(), RunError> {
    let [first, others @ ..] = &args.logs[..] else {
        return Err(RunError::usage("give at least two logs"));
    };
    if others.is_empty() {
        return Err(RunError::usage("give at least two logs"));
    }
    let opened = args.logs.iter().map(|log| source::open(log)).collect::<Result<Vec<_>, _>>()?;
    let views = opened.iter().map(OpenLog::view).collect::<Result<Vec<_>, _>>()?;
    let by = if args.quick { ComparedBy::StoredTrees } else { ComparedBy::Rows };
    let (mut are_equal, mut not_compared) = (true, None);
    for (other, view) in others.iter().zip(&views[1..]) {
        let compared =
            LogComparison::of((first.as_str(), &*views[0]), (other.as_str(), &**view), by)
                .map_err(|error| RunError::failed(format!("{first} and {other}: {error}")))?;
        are_equal &= compared.is_equal();
        if compared.is_nothing() {
            not_compared = not_compared.or(Some(other));
        }
        if as_json {
            output::line(compared.to_json());
        } else {
            compared.print();
        }
    }
    let (code, text) = match (are_equal, not_compared) {
        (true, None) => return Ok(()),
        (true, Some(other)) => {
            (exit_codes::INCOMPLETE, format!("{first} and {other}: there was nothing to compare"))
        }
        (false, _) => (exit_codes::FAULTS, String::new()),
    };
    Err(exit_codes::answer(code, text))
}

/// The comparison of two logs.
struct LogComparison<'a> {
    first: &'a str,
    second: &'a str,
    by: ComparedBy,
    strands: Vec<StrandDifference>,
    rates: OtherRates,
    places: ComparedPlaces,
    tallies: u64,
}

impl<'a> LogComparison<'a> {
    fn of(
        (first, log): (&'a str, &dyn LogSource),
        (second, other): (&'a str, &dyn LogSource),
        by: ComparedBy,
    ) -> Result<Self, SourceError> {
        let strands = compare(log, other, by)?;
        let rates = match by {
            ComparedBy::Rows => other_rates(log, other)?,
            ComparedBy::StoredTrees => OtherRates::default(),
        };
        let mut places = ComparedPlaces::default();
        strands.iter().for_each(|strand| places.add(strand.compared));
        let tallies: u64 = strands.iter().map(|strand| strand.compared_tallies).sum();
        Ok(Self { first, second, by, strands, rates, places, tallies })
    }

    fn is_equal(&self) -> bool {
        self.strands.iter().all(StrandDifference::is_equal) && self.rates.count == 0
    }

    /// Returns true if nothing was there to be compared. Two nodes that show nothing are not equal for that.
    fn is_nothing(&self) -> bool {
        self.is_equal() && self.places == ComparedPlaces::default()
    }

    fn to_json(&self) -> Value {
        let differing: Vec<_> = self.strands.iter().filter(|it| !it.is_equal()).collect();
        let of_equal = self.strands.iter().filter(|it| it.is_equal() && it.signed_again_count > 0);
        let signed_again: Vec<Value> = of_equal
            .map(|it| {
                json!({
                    "originator_id": it.originator_id,
                    "signed_again": it.signed_again,
                    "signed_again_count": it.signed_again_count,
                })
            })
            .collect();
        json!({
            "first": self.first,
            "second": self.second,
            "equal": self.is_equal() && !self.is_nothing(),
            "compared_by": self.by,
            "compared": self.places,
            "compared_tallies": self.tallies,
            "strands": self.strands.len(),
            "differing": differing,
            "signed_again": signed_again,
            "other_rates": self.rates.first,
            "other_rate_count": self.rates.count,
            "unread_rates": self.rates.unread,
        })
    }

    fn print(&self) {
        let (first, second) = (self.first, self.second);
        for strand in &self.strands {
            if !strand.is_equal() {
                print(strand, first, second);
            }
            print_signed_again(strand);
        }
        for OtherRate { start_unix_s, text } in &self.rates.first {
            output::line(format_args!(
                "the rates from unix second {start_unix_s} in {first} and {second}: {text}"
            ));
        }
        if self.rates.unread > 0 {
            let rates = usize::try_from(self.rates.unread).unwrap_or(usize::MAX);
            let rates = output::count(rates, "newer rate");
            output::line(format_args!(
                "{first} and {second}: {rates} in one of them, which the other keeper may not have read yet"
            ));
        }
        let strands = output::count(self.strands.len(), "strand");
        let verdict = match (self.is_equal(), self.is_nothing()) {
            (false, _) => "different",
            (true, false) => "equal",
            (true, true) => "not compared",
        };
        let evidence = evidence(self.places, self.tallies);
        output::line(format_args!("{first} and {second}: {strands}, {verdict}: {evidence}"));
    }
}

/// Returns the basis of a verdict, for people.
fn evidence(compared: ComparedPlaces, tallies: u64) -> String {
    let ComparedPlaces { envelopes, stored_leaves, by_stored_trees, dated_otherwise } = compared;
    let count =
        |number: u64, thing| output::count(usize::try_from(number).unwrap_or(usize::MAX), thing);
    let mut text = format!("{} compared", count(envelopes, "envelope"));
    if dated_otherwise > 0 {
        text += &format!(
            ", {dated_otherwise} of them of chains with the same content and another time"
        );
    }
    if stored_leaves > 0 {
        let places = count(stored_leaves, "place");
        text += &format!(", {places} without an envelope by the leaves that the logs have stored");
    }
    if by_stored_trees > 0 {
        let places = count(by_stored_trees, "place");
        text += &format!(
            ", {places} by stored trees alone, which need not be those of the envelopes (--quick)"
        );
    }
    if tallies > 0 {
        text += &format!(", tallies: {tallies}");
    }
    text
}

fn print(found: &StrandDifference, first: &str, second: &str) {
    let strand = found.originator_id;
    let name = |side| if side == Side::First { first } else { second };
    if found.heads.0 != found.heads.1 {
        let (mine, other) = found.heads;
        output::line(format_args!("strand {strand}: to {mine} in {first}, to {other} in {second}"));
    }
    if let Some(place) = found.first_other_leaf {
        output::line(format_args!("strand {strand}: the stored trees differ from {place} on"));
    }
    for lacking in &found.lacking {
        let (from, through, of) = (lacking.from, lacking.through, name(lacking.lacking));
        output::line(format_args!("{strand}:{from} to {through}  not in {of}"));
    }
    for stated in &found.stated_void {
        let (from, through, of) = (stated.from, stated.through, name(stated.kept_by));
        output::line(format_args!(
            "{strand}:{from} to {through}  declared void by the node, as a statement in {of} says; \
             its signature was not checked (audit replay)"
        ));
    }
    for other in &found.other {
        let (place, what, text) = (other.sequence_id, other.what, &other.text);
        output::line(format_args!("{strand}:{place}  other {what}: {text}"));
    }
    for it in &found.other_checkpoints {
        let ((mine, other), size) = (&it.roots, it.size);
        output::line(format_args!(
            "strand {strand}: two roots of {size} places that its node has signed, {mine} in {first} and {other} in \
             {second}; neither signature was checked (audit replay)"
        ));
    }
    for it in &found.other_tallies {
        let (minute, what, text) = (it.minute, it.what, &it.text);
        output::line(format_args!("strand {strand}: other {what} in minute {minute}: {text}"));
    }
    let (lacking, other) = (output::count(found.lacking_count, "place"), found.other_count);
    output::line(format_args!("strand {strand}: {lacking} in one log only, {other} different"));
    for (side, error) in &found.unreadable {
        output::line(format_args!("strand {strand} in {}: {error}", name(*side)));
    }
}

fn print_signed_again(found: &StrandDifference) {
    let strand = found.originator_id;
    for SignedAgain { size, signer, what } in &found.signed_again {
        let what = match *what {
            "time" => "times of the checkpoint",
            "cosignature_time" => "times of the cosignature",
            "signature" => "signatures of one checkpoint",
            _ => "cosignatures of one time",
        };
        output::line(format_args!(
            "strand {strand}: two {what} of node {signer} for {size} places; neither signature was checked \
             (audit replay)"
        ));
    }
}
