//! A search for the cause of other amounts in a report, among the likely mistakes and lies.
//!
//! Each candidate gives a root, which the search compares with the root of the report:
//!
//! - fees as the originator stated them;
//! - minutes or envelopes that are left out at an end of the range, or minutes that are added there;
//! - a payer that is left out;
//! - usage in a minute, or an envelope, that is left out, counted twice, or counted for another payer;
//! - an amount that is doubled, zero, or equal to the one of another payer.
//!
//! A root does not show the amounts below it. So the search finds neither an amount that follows from nothing in the
//! log nor a payer without usage at this node.

use std::cell::Cell;
use std::collections::BTreeSet;

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{PayerAddress, SequenceId};

use super::amount_cause::{AmountCause, AmountPart};
use super::leaves::{Leaves, PayerFee, PicoDollars};
use super::own_usage::{ChargedEnvelope, MinuteOfPayer, OwnUsage};
use super::tree::Hash;

/// The largest number of whole trees that are built to find the cause of a difference. A guess: a tree of 10,000 payers
/// takes some hundredths of a second.
const TREES_MAX: usize = 512;
/// The largest number of leaves of these trees together. A guess: some seconds.
const LEAVES_MAX: usize = 5_000_000;
/// The largest number of rows that are summed up for whole trees. A guess: some seconds.
const ROWS_MAX: usize = 40_000_000;
/// The largest number of trees in which one leaf is replaced. A guess: a second, at 20 hashes each.
const REPLACED_MAX: usize = 50_000;
/// The largest number of trees in which the leaves of two payers are replaced: for exchanged amounts, for minutes that
/// are counted for another payer, and for envelopes that are. A guess: a second for each of the three, at 40 hashes a
/// tree.
const PAIRS_MAX: usize = 20_000;
/// The largest number of envelopes that are left out at one end of the range. A guess: a writer that stops too early,
/// or begins too late, does so by little.
const ENDS_MAX: usize = 64;

impl OwnUsage {
    /// Returns the amounts of the range.
    #[must_use]
    pub fn leaves(&self) -> Leaves {
        sum_of(&self.rows)
    }

    /// Returns the rows that a cause is about.
    #[must_use]
    pub fn rows_of(&self, cause: &AmountCause) -> Vec<MinuteOfPayer> {
        let of = |rows: &[MinuteOfPayer], keep: &dyn Fn(&MinuteOfPayer) -> bool| {
            rows.iter().filter(|row| keep(row)).copied().collect()
        };
        match cause {
            AmountCause::StatedFees(rows) => rows.clone(),
            AmountCause::WithoutPayer(payer) => of(&self.rows, &|row| row.payer == *payer),
            AmountCause::AfterMinute(minute) => of(&self.rows, &|row| row.minute <= *minute),
            AmountCause::BeforeMinute(minute) => of(&self.rows, &|row| row.minute >= *minute),
            AmountCause::ThroughMinute(minute) => of(&self.behind, &|row| row.minute <= *minute),
            AmountCause::FromMinute(minute) => of(&self.before, &|row| row.minute >= *minute),
            AmountCause::OtherAmount { payer, part, .. }
            | AmountCause::OtherPayer { from: payer, part, .. } => {
                let minute = match part {
                    AmountPart::All => None,
                    AmountPart::Minute(minute) => Some(*minute),
                    AmountPart::Envelope(envelope) => Some(envelope.minute),
                };
                let is_of = |row: &MinuteOfPayer| minute.is_none_or(|it| row.minute == it);
                of(&self.rows, &|row| row.payer == *payer && is_of(row))
            }
            AmountCause::Exchanged(one, other) => {
                of(&self.rows, &|row| row.payer == *one || row.payer == *other)
            }
            AmountCause::AfterEnvelope(_) | AmountCause::BeforeEnvelope(_) => {
                let omitted = self.envelopes.iter().filter(|it| is_omitted(cause, it.sequence));
                let omitted: BTreeSet<_> = omitted.map(|it| (it.minute, it.payer)).collect();
                of(&self.rows, &|row| omitted.contains(&(row.minute, row.payer)))
            }
            AmountCause::Unknown | AmountCause::NotSought => Vec::new(),
        }
    }

    /// Returns the envelopes that a cause is about, as far as they are known: those whose fees the originator stated
    /// differently, or all of the rows that it is about.
    #[must_use]
    pub fn envelopes_of(&self, cause: &AmountCause) -> Vec<SequenceId> {
        if let AmountCause::OtherAmount { part: AmountPart::Envelope(envelope), .. }
        | AmountCause::OtherPayer { part: AmountPart::Envelope(envelope), .. } = cause
        {
            return vec![envelope.sequence];
        }
        if let AmountCause::AfterEnvelope(_) | AmountCause::BeforeEnvelope(_) = cause {
            let sequences = self.envelopes.iter().map(|it| it.sequence);
            return sequences.filter(|it| is_omitted(cause, *it)).collect();
        }
        let rows: BTreeSet<_> =
            self.rows_of(cause).iter().map(|row| (row.minute, row.payer)).collect();
        let by_fee = matches!(cause, AmountCause::StatedFees(_));
        let is_at_fault = |envelope: &&ChargedEnvelope| {
            let is_of = rows.contains(&(envelope.minute, envelope.payer));
            is_of && !(by_fee && envelope.own == envelope.stated)
        };
        self.envelopes.iter().filter(is_at_fault).map(|envelope| envelope.sequence).collect()
    }
}

/// Returns true if an envelope lies in the part of the range that a cause says is left out.
fn is_omitted(cause: &AmountCause, sequence: SequenceId) -> bool {
    match cause {
        AmountCause::AfterEnvelope(last) => sequence <= *last,
        AmountCause::BeforeEnvelope(first) => sequence >= *first,
        _ => false,
    }
}

fn sum_of<'a>(rows: impl IntoIterator<Item = &'a MinuteOfPayer>) -> Leaves {
    Leaves::sum(rows.into_iter().map(|row| (row.payer, row.own)))
}

/// The root of a report, with which the roots of likely mistakes and lies are compared.
#[derive(Debug)]
struct SoughtRoot {
    root: Hash,
    /// The number of roots that were compared with it.
    compared: Cell<usize>,
}

impl SoughtRoot {
    fn new(root: Hash) -> Self {
        Self { root, compared: Cell::new(0) }
    }

    fn is(&self, root: Hash) -> bool {
        self.compared.set(self.compared.get() + 1);
        root == self.root
    }
}

/// Searches for the cause of a root other than that of `own`, which is the root of the rows. Cheap searches come first;
/// each has its own bound, because a hostile writer chooses the amounts.
pub(super) fn cause(reported: Hash, own: &Leaves, usage: &OwnUsage) -> AmountCause {
    let (sought, rows) = (SoughtRoot::new(reported), &usage.rows);
    if sought.is(Leaves::sum(rows.iter().map(|row| (row.payer, row.stated))).root()) {
        let differs = |row: &&MinuteOfPayer| row.own != row.stated;
        return AmountCause::StatedFees(rows.iter().filter(differs).copied().collect());
    }
    let other = other_amount(&sought, own, usage);
    let other = other.or_else(|| other_rows(&sought, own, usage));
    let other = other.or_else(|| other_payer(&sought, own, usage));
    other.or_else(|| other_envelopes(&sought, usage)).unwrap_or(AmountCause::Unknown)
}

/// Searches among usage that is counted for another payer, and amounts that are in each other's place.
fn other_payer(sought: &SoughtRoot, own: &Leaves, usage: &OwnUsage) -> Option<AmountCause> {
    let (tree, payers) = (own.tree(), own.payers());
    let fee = |place: usize| payers[place].fee.get();
    let is_reported = |changed: [(usize, u64); 2]| {
        let leaf = |(place, fee): (usize, u64)| {
            let fee = PicoDollars::new(fee)?;
            Some((place, PayerFee { payer: payers[place].payer, fee }.leaf()))
        };
        let [Some(one), Some(other)] = changed.map(leaf) else { return false };
        tree.root_with(&[one, other]).is_some_and(|root| sought.is(root))
    };
    let pairs = (0..payers.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
    let mut pairs = pairs.take(PAIRS_MAX);
    let in_place_of =
        |&(one, other): &(usize, usize)| is_reported([(one, fee(other)), (other, fee(one))]);
    if let Some((one, other)) = pairs.find(in_place_of) {
        return Some(AmountCause::Exchanged(payers[one].payer, payers[other].payer));
    }
    let moved = |from_payer: PayerAddress, amount: PicoDollarPrice, part: AmountPart| {
        (0..payers.len()).map(move |to| (from_payer, to, amount, part))
    };
    let rows = usage.rows.iter();
    let of_minutes = rows.flat_map(|row| moved(row.payer, row.own, AmountPart::Minute(row.minute)));
    let envelopes = usage.envelopes.iter();
    let of_envelopes = envelopes.flat_map(|it| moved(it.payer, it.own, AmountPart::Envelope(*it)));
    let mut moves = of_minutes.take(PAIRS_MAX).chain(of_envelopes.take(PAIRS_MAX));
    moves.find_map(|(from_payer, to, amount, part)| {
        let from = own.place_of(from_payer)?;
        let (left, more) = (fee(from).checked_sub(amount.0)?, fee(to).checked_add(amount.0)?);
        let is_it = from != to && is_reported([(from, left), (to, more)]);
        let to = payers[to].payer;
        is_it.then_some(AmountCause::OtherPayer { from: from_payer, to, own: amount, part })
    })
}

/// Searches among reports without the first or the last envelopes of the range.
fn other_envelopes(sought: &SoughtRoot, usage: &OwnUsage) -> Option<AmountCause> {
    let all = &usage.envelopes;
    let is_of = |envelopes: &[ChargedEnvelope]| {
        let amounts = envelopes.iter().map(|envelope| (envelope.payer, envelope.own));
        sought.is(Leaves::sum(amounts).root())
    };
    if let Some(end) = (1..all.len()).rev().take(ENDS_MAX).find(|end| is_of(&all[..*end])) {
        return Some(AmountCause::BeforeEnvelope(all[end].sequence));
    }
    let start = (1..all.len()).take(ENDS_MAX).find(|start| is_of(&all[*start..]))?;
    Some(AmountCause::AfterEnvelope(all[start - 1].sequence))
}

/// Searches among minutes and payers that are left out or added.
fn other_rows(sought: &SoughtRoot, own: &Leaves, usage: &OwnUsage) -> Option<AmountCause> {
    let rows = &usage.rows;
    let is_of = |amounts: Leaves| sought.is(amounts.root());
    let without =
        |keep: &dyn Fn(&MinuteOfPayer) -> bool| is_of(sum_of(rows.iter().filter(|row| keep(row))));
    let tried = TREES_MAX.min(LEAVES_MAX / own.payers().len().max(1));
    let summed = rows.len() + usage.before.len().max(usage.behind.len());
    // Half of the trees are for left-out payers. Of the other half, and of the rows, each of the four searches over
    // minutes gets a quarter. That is few minutes, but a wrong range is usually wrong at its ends, where they begin.
    let share = (tried / 8).min(ROWS_MAX / 4 / summed.max(1));
    let (first, last) = (minutes(rows), minutes(rows.iter().rev()));
    if let Some(minute) = first.take(share).find(|it| without(&|row| row.minute > *it)) {
        return Some(AmountCause::AfterMinute(minute));
    }
    if let Some(minute) = last.take(share).find(|it| without(&|row| row.minute < *it)) {
        return Some(AmountCause::BeforeMinute(minute));
    }
    let with = |more: &[MinuteOfPayer], keep: &dyn Fn(&MinuteOfPayer) -> bool| {
        is_of(sum_of(rows.iter().chain(more.iter().filter(|row| keep(row)))))
    };
    let mut behind = minutes(&usage.behind).take(share);
    if let Some(minute) = behind.find(|it| with(&usage.behind, &|row| row.minute <= *it)) {
        return Some(AmountCause::ThroughMinute(minute));
    }
    let mut before = minutes(usage.before.iter().rev()).take(share);
    if let Some(minute) = before.find(|it| with(&usage.before, &|row| row.minute >= *it)) {
        return Some(AmountCause::FromMinute(minute));
    }
    let mut payers = own.payers().iter().map(|leaf| leaf.payer).take(tried / 2);
    let payer = payers.find(|payer| {
        let others = own.payers().iter().filter(|leaf| leaf.payer != *payer);
        is_of(Leaves::sum(others.map(|leaf| (leaf.payer, leaf.fee.into()))))
    });
    payer.map(AmountCause::WithoutPayer)
}

/// Iterates over the minutes of rows, in their order.
fn minutes<'a>(rows: impl IntoIterator<Item = &'a MinuteOfPayer>) -> impl Iterator<Item = u32> {
    let mut previous = None;
    rows.into_iter().map(|row| row.minute).filter(move |minute| {
        let is_next = previous != Some(*minute);
        previous = Some(*minute);
        is_next
    })
}

/// Searches among single amounts that are wrong: each costs a hash per level of the tree.
fn other_amount(sought: &SoughtRoot, own: &Leaves, usage: &OwnUsage) -> Option<AmountCause> {
    let tree = own.tree();
    let mut tried = 0;
    let mut check =
        |payer: PayerAddress, part: AmountPart, amounts: [Option<u64>; 3]| -> Option<AmountCause> {
            let place = own.place_of(payer)?;
            let fee = own.payers()[place].fee;
            for amount in amounts.into_iter().flatten().filter(|amount| *amount != fee.get()) {
                tried += 1;
                let Some(amount) = PicoDollars::new(amount) else { continue };
                let leaf = PayerFee { payer, fee: amount }.leaf();
                let is_sought =
                    || tree.root_with(&[(place, leaf)]).is_some_and(|root| sought.is(root));
                if tried <= REPLACED_MAX && is_sought() {
                    let (own, reported) = (fee, amount);
                    return Some(AmountCause::OtherAmount { payer, reported, own, part });
                }
            }
            None
        };
    let changed = |payer, own_fee: PicoDollarPrice, stated: PicoDollarPrice| {
        let sum = own.of(payer).map_or(0, PicoDollars::get);
        let without = sum.checked_sub(own_fee.0);
        [without, sum.checked_add(own_fee.0), without.and_then(|rest| rest.checked_add(stated.0))]
    };
    for leaf in own.payers() {
        let sum = leaf.fee.get();
        let amounts = [Some(0), sum.checked_mul(2), None];
        if let Some(found) = check(leaf.payer, AmountPart::All, amounts) {
            return Some(found);
        }
    }
    for row in &usage.rows {
        let amounts = changed(row.payer, row.own, row.stated);
        if let Some(found) = check(row.payer, AmountPart::Minute(row.minute), amounts) {
            return Some(found);
        }
    }
    usage.envelopes.iter().find_map(|envelope| {
        let amounts = changed(envelope.payer, envelope.own, envelope.stated);
        check(envelope.payer, AmountPart::Envelope(*envelope), amounts)
    })
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;

    use super::*;

    fn row(minute: u32, payer: u8, own: u64, stated: u64) -> MinuteOfPayer {
        let (own, stated) = (PicoDollarPrice(own), PicoDollarPrice(stated));
        let last = SequenceId(u64::from(minute) * 10);
        MinuteOfPayer { minute, payer: Address([payer; 20]), own, stated, last }
    }

    fn envelope(sequence: u64, minute: u32, payer: u8, own: u64) -> ChargedEnvelope {
        let (sequence, payer) = (SequenceId(sequence), Address([payer; 20]));
        let own = PicoDollarPrice(own);
        ChargedEnvelope { sequence, minute, payer, own, stated: own }
    }

    fn usage() -> OwnUsage {
        OwnUsage {
            rows: vec![row(5, 1, 100, 100), row(5, 2, 50, 50), row(6, 1, 7, 8), row(7, 3, 0, 0)],
            before: vec![row(3, 9, 5, 5), row(4, 1, 3, 3)],
            behind: vec![row(8, 2, 4, 4), row(9, 4, 6, 6)],
            envelopes: vec![
                envelope(51, 5, 1, 60),
                envelope(52, 5, 1, 40),
                envelope(53, 5, 2, 50),
                ChargedEnvelope { stated: PicoDollarPrice(8), ..envelope(61, 6, 1, 7) },
                envelope(70, 7, 3, 0),
            ],
        }
    }

    fn cause_of(amounts: &[(u8, u64)]) -> AmountCause {
        let of_payer =
            |(payer, amount): &(u8, u64)| (Address([*payer; 20]), PicoDollarPrice(*amount));
        let amounts = amounts.iter().map(of_payer);
        let usage = usage();
        cause(Leaves::sum(amounts).root(), &usage.leaves(), &usage)
    }

    #[test]
    fn each_lie_is_named() {
        let payer = |id| Address([id; 20]);
        let of = |part, id, reported: u64, own: u64| AmountCause::OtherAmount {
            payer: payer(id),
            reported: PicoDollars::new(reported).unwrap(),
            own: PicoDollars::new(own).unwrap(),
            part,
        };
        let stated = AmountCause::StatedFees(vec![row(6, 1, 7, 8)]);
        let moved = |part, own| {
            let own = PicoDollarPrice(own);
            AmountCause::OtherPayer { from: payer(1), to: payer(2), own, part }
        };
        let lies: [(&[(u8, u64)], AmountCause); 15] = [
            (&[(1, 108), (2, 50), (3, 0)], stated),
            (&[(1, 107), (2, 50)], AmountCause::BeforeMinute(7)),
            (&[(1, 107), (3, 0)], AmountCause::WithoutPayer(payer(2))),
            (&[(1, 7), (3, 0)], AmountCause::AfterMinute(5)),
            (&[(1, 107), (2, 54), (3, 0)], AmountCause::ThroughMinute(8)),
            (&[(1, 107), (2, 54), (3, 0), (4, 6)], AmountCause::ThroughMinute(9)),
            (&[(1, 110), (2, 50), (3, 0)], AmountCause::FromMinute(4)),
            (&[(1, 107), (2, 100), (3, 0)], of(AmountPart::All, 2, 100, 50)),
            (&[(1, 207), (2, 50), (3, 0)], of(AmountPart::Minute(5), 1, 207, 107)),
            (
                &[(1, 67), (2, 50), (3, 0)],
                of(AmountPart::Envelope(envelope(52, 5, 1, 40)), 1, 67, 107),
            ),
            (&[(1, 50), (2, 107), (3, 0)], AmountCause::Exchanged(payer(1), payer(2))),
            (&[(1, 100), (2, 57), (3, 0)], moved(AmountPart::Minute(6), 7)),
            (&[(1, 67), (2, 90), (3, 0)], moved(AmountPart::Envelope(envelope(52, 5, 1, 40)), 40)),
            (&[(1, 100)], AmountCause::BeforeEnvelope(SequenceId(53))),
            (&[(1, 1), (2, 50), (3, 0)], AmountCause::Unknown),
        ];
        for (amounts, expected) in lies {
            assert_eq!(cause_of(amounts), expected, "{amounts:?}");
        }
    }

    #[test]
    fn a_part_of_the_envelopes_of_a_minute_is_named() {
        let envelopes = vec![
            envelope(51, 5, 1, 10),
            envelope(52, 5, 2, 20),
            envelope(53, 5, 1, 30),
            envelope(54, 5, 2, 40),
        ];
        let rows = vec![row(5, 1, 40, 40), row(5, 2, 60, 60)];
        let usage = OwnUsage { rows, envelopes, ..OwnUsage::default() };
        let found = |amounts: [u64; 2]| {
            let amounts = [1, 2].into_iter().zip(amounts);
            let amounts =
                amounts.map(|(payer, amount)| (Address([payer; 20]), PicoDollarPrice(amount)));
            let cause = cause(Leaves::sum(amounts).root(), &usage.leaves(), &usage);
            let rows = usage.rows_of(&cause).len();
            let envelopes: Vec<_> = usage.envelopes_of(&cause).iter().map(|id| id.0).collect();
            (cause, rows, envelopes)
        };
        let begins_late = AmountCause::AfterEnvelope(SequenceId(52));
        assert_eq!(found([30, 40]), (begins_late, 2, vec![51, 52]));
        let ends_early = AmountCause::BeforeEnvelope(SequenceId(53));
        assert_eq!(found([10, 20]), (ends_early, 2, vec![53, 54]));
        assert_eq!(found([11, 20]), (AmountCause::Unknown, 0, vec![]));
    }

    /// A range with more to try than each search may: an arbitrary amount costs so many trees and no more.
    #[test]
    fn the_search_for_an_arbitrary_amount_is_bounded() {
        const PAYERS: u32 = 500;
        const OF_EACH: u32 = 35;
        let payer = |index: u32| {
            let mut address = [0; 20];
            address[..4].copy_from_slice(&index.to_be_bytes());
            Address(address)
        };
        let of_payer = |index: u32| {
            let row = row(5 + index, 1, OF_EACH.into(), OF_EACH.into());
            MinuteOfPayer { payer: payer(index), ..row }
        };
        let of_envelope = |index: u32| {
            let envelope = envelope(index.into(), 5 + index % PAYERS, 1, 1);
            ChargedEnvelope { payer: payer(index % PAYERS), stated: PicoDollarPrice(2), ..envelope }
        };
        let rows: Vec<_> = (0..PAYERS).map(of_payer).collect();
        let envelopes: Vec<_> = (0..PAYERS * OF_EACH).map(of_envelope).collect();
        assert!(3 * envelopes.len() > REPLACED_MAX && rows.len() * rows.len() / 2 > PAIRS_MAX);
        let usage = OwnUsage { rows, envelopes, ..OwnUsage::default() };
        let own = usage.leaves();
        let compared = |search: &dyn Fn(&SoughtRoot) -> Option<AmountCause>| {
            let sought = SoughtRoot::new([7; 32]);
            assert_eq!(search(&sought), None);
            sought.compared.get()
        };
        assert_eq!(compared(&|sought| other_amount(sought, &own, &usage)), REPLACED_MAX);
        // The ends of the range, and the payers.
        let rows = compared(&|sought| other_rows(sought, &own, &usage));
        assert_eq!(rows, 2 * (TREES_MAX / 8) + TREES_MAX / 2);
        // A payer's usage is not moved to this payer itself.
        let pairs = compared(&|sought| other_payer(sought, &own, &usage));
        assert_eq!(pairs, 3 * PAIRS_MAX - 2 * (PAIRS_MAX / PAYERS as usize));
        assert_eq!(compared(&|sought| other_envelopes(sought, &usage)), 2 * ENDS_MAX);
        assert_eq!(cause([7; 32], &own, &usage), AmountCause::Unknown);
    }

    #[test]
    fn rows_and_envelopes_at_fault_are_those_of_the_cause() {
        let usage = usage();
        let found = |amounts: &[(u8, u64)]| {
            let cause = cause_of(amounts);
            let rows: Vec<_> = usage.rows_of(&cause).iter().map(|row| row.minute).collect();
            let envelopes: Vec<_> = usage.envelopes_of(&cause).iter().map(|id| id.0).collect();
            (rows, envelopes)
        };
        assert_eq!(found(&[(1, 108), (2, 50), (3, 0)]), (vec![6], vec![61]), "stated fees");
        assert_eq!(found(&[(1, 107), (3, 0)]), (vec![5], vec![53]), "without payer 2");
        assert_eq!(found(&[(1, 7), (3, 0)]), (vec![5, 5], vec![51, 52, 53]), "from minute 6");
        assert_eq!(found(&[(1, 67), (2, 50), (3, 0)]), (vec![5], vec![52]), "without envelope 52");
        assert_eq!(found(&[(1, 110), (2, 50), (3, 0)]), (vec![4], vec![]), "with minute 4");
        assert_eq!(found(&[(1, 1), (2, 50), (3, 0)]), (vec![], vec![]));
    }
}
