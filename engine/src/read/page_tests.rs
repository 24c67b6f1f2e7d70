//! Pages as clients read them: they sort each by time, and pass over what lies below a place that they have.

use proptest::prelude::*;

use super::super::testing::id;
use super::*;

fn row(originator: u32, sequence: u64, originator_ns: i64) -> PageRow {
    PageRow { topic: 0, id: id(originator, sequence), originator_ns }
}

fn page(rows: &[PageRow]) -> PlannedPage {
    let envelopes = rows.iter().map(|row| Some(row.id.to_string().into()));
    PlannedPage {
        rows: rows.to_vec(),
        envelopes: envelopes.collect(),
        depends_on: Vec::new(),
        len_bytes: 0,
        finished: true,
    }
}

fn ids(page: &PlannedPage) -> String {
    page.rows.iter().map(|row| row.id.to_string()).collect::<Vec<_>>().join(" ")
}

/// Reads on from page to page as a client does. Returns the envelopes that it takes in.
fn read_as_a_client(rows: &[PageRow], limit: usize) -> BTreeSet<EnvelopeId> {
    let mut cursor: BTreeMap<OriginatorId, EnvelopeId> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    loop {
        let is_new = |row: &&PageRow| cursor.get(&row.id.originator).is_none_or(|it| *it < row.id);
        let rest: Vec<PageRow> = rows.iter().filter(is_new).take(limit).copied().collect();
        if rest.is_empty() {
            return taken;
        }
        let mut page = page(&rest);
        page.end_strands_at_steps_back();
        assert!(!page.rows.is_empty(), "an empty page would say that there is no more");
        page.rows.sort_by_key(|row| row.originator_ns);
        for row in page.rows {
            let last = cursor.entry(row.id.originator).or_insert(row.id);
            if *last <= row.id {
                *last = row.id;
                taken.insert(row.id);
            }
        }
    }
}

proptest! {
    /// A hostile node dates its envelopes arbitrarily, and so does one whose clock is set back.
    #[test]
    fn a_client_loses_nothing_whatever_times_nodes_give(
        strands in prop::collection::vec(prop::collection::vec(-3i64..4, 0..12), 1..4),
        limit in 1usize..9,
    ) {
        let mut rows = Vec::new();
        for (originator, times) in (100..).zip(&strands) {
            rows.extend((1..).zip(times).map(|(sequence, &time)| row(originator, sequence, time)));
        }
        let all: BTreeSet<EnvelopeId> = rows.iter().map(|row| row.id).collect();
        prop_assert_eq!(read_as_a_client(&rows, limit), all);
    }
}

#[test]
fn a_nodes_strand_ends_before_it_steps_back_and_others_go_on() {
    let rows = [row(100, 1, 7), row(200, 4, 9), row(100, 2, 6), row(200, 5, 9), row(100, 3, 8)];
    let mut cut = page(&rows);
    cut.end_strands_at_steps_back();
    assert_eq!(ids(&cut), "100:1 200:4 200:5");
    let of_rows: Vec<Option<Bytes>> =
        cut.rows.iter().map(|row| Some(row.id.to_string().into())).collect();
    assert_eq!(cut.envelopes, of_rows, "each row keeps its own envelope");
    assert!(!cut.finished, "the rest follows");
}

#[test]
fn pages_without_a_step_back_and_strands_of_chains_stay_whole() {
    let ascending = [row(100, 1, 5), row(200, 1, 3), row(100, 2, 5), row(200, 2, 4)];
    let mut whole = page(&ascending);
    whole.end_strands_at_steps_back();
    assert_eq!(whole, page(&ascending));
    // An envelope of a node may depend on each of them.
    let of_chain = [row(0, 1, 5), row(0, 2, 4), row(100, 1, 6)];
    let mut whole = page(&of_chain);
    whole.end_strands_at_steps_back();
    assert_eq!(whole, page(&of_chain));
}

/// A hostile node may have signed envelopes with a hundred dependencies each.
#[test]
fn a_page_is_charged_for_all_that_it_holds_of_its_rows() {
    let mut filling = Filling::default();
    for sequence in 1..=1000 {
        let depends_on = (0..98).map(|strand| id(strand, 1)).collect();
        let (originator_ns, len_bytes, envelope) = (0, 9, None);
        let id = id(100, sequence);
        filling.push(0, TopicRow { id, originator_ns, len_bytes, depends_on, envelope });
        let of_rows = filling.rows.capacity() * size_of::<PageRow>();
        let of_envelopes = filling.envelopes.capacity() * size_of::<Option<Bytes>>();
        let of_places = filling.depends_on.capacity() * size_of::<(usize, EnvelopeId)>();
        let held_bytes = of_rows + of_envelopes + of_places;
        let charged_bytes = filling.held_bytes();
        assert!(held_bytes <= charged_bytes, "{sequence}: {charged_bytes} of {held_bytes} bytes");
    }
}
