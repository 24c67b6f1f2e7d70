//! Envelopes that did not come with their topic rows are read from the log.

use std::thread::Builder;

use bytes::Bytes;
use hawser_proto::EnvelopeId;
use hawser_storage::Snapshot;

use crate::read::error::QueryError;
use crate::read::page::{PageRow, PlannedPage};

/// Size from which a page is read by two threads, in envelopes. Guessed: each envelope mostly lies
/// in a block of its own, and starting a thread costs about as much as reading ten of them.
const READ_BY_TWO_FROM: usize = 64;

/// Returns the envelopes of a page with their rows, in its order. Those that did not come with their rows are read
/// from the log; `None` for one that is not there.
pub(super) fn complete(
    snapshot: &Snapshot<'_>,
    page: PlannedPage,
) -> Result<Vec<(PageRow, Option<Bytes>)>, QueryError> {
    let PlannedPage { rows, mut envelopes, .. } = page;
    let lacking = |place: &usize| envelopes[*place].is_none();
    let lacking: Vec<usize> = (0..rows.len()).filter(lacking).collect();
    if !lacking.is_empty() {
        let ids: Vec<EnvelopeId> = lacking.iter().map(|&place| rows[place].id).collect();
        for (place, bytes) in lacking.into_iter().zip(fetch(snapshot, &ids)?) {
            envelopes[place] = bytes;
        }
    }
    Ok(rows.into_iter().zip(envelopes).collect())
}

/// Returns the envelopes of `ids`, in that order; `None` for one that is not in the log. Reads them in the
/// order of the log, which is faster.
pub(super) fn fetch(
    snapshot: &Snapshot<'_>,
    ids: &[EnvelopeId],
) -> Result<Vec<Option<Bytes>>, QueryError> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_unstable_by_key(|&place| ids[place]);
    let ascending: Vec<EnvelopeId> = order.iter().map(|&place| ids[place]).collect();
    let mut envelopes = vec![None; ids.len()];
    for (&place, bytes) in order.iter().zip(get_many(snapshot, &ascending, Builder::new())?) {
        envelopes[place] = bytes;
    }
    Ok(envelopes)
}

/// Reads ascending envelopes, many of them on this thread and on another one, which `thread` starts. If the system has
/// no further thread, this one reads all.
fn get_many(
    snapshot: &Snapshot<'_>,
    ascending: &[EnvelopeId],
    thread: Builder,
) -> Result<Vec<Option<Bytes>>, QueryError> {
    if ascending.len() < READ_BY_TWO_FROM {
        return Ok(snapshot.get_many(ascending)?);
    }
    let (low, high) = ascending.split_at(ascending.len() / 2);
    let (low, high) = std::thread::scope(|scope| {
        let other = thread.spawn_scoped(scope, || snapshot.get_many(high));
        let low = snapshot.get_many(low);
        let high = match other {
            Ok(other) => other.join().expect("a panic ends the process"),
            Err(_) => snapshot.get_many(high),
        };
        (low, high)
    });
    let mut both = low?;
    both.append(&mut high?);
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::{append, committed, id, store, topic};

    /// Containers bound the number of threads, and a panic ends the process of a node.
    #[test]
    fn a_page_is_read_without_a_further_thread() {
        const ENVELOPES: u64 = 2 * READ_BY_TWO_FROM as u64;
        let store = store();
        let item = |sequence| committed(id(100, sequence), topic(1), 1, Vec::new());
        let changes: Vec<_> = (1..=ENVELOPES).map(|sequence| append(&item(sequence))).collect();
        store.commit(&changes).unwrap();
        let ids: Vec<EnvelopeId> = (1..=ENVELOPES).map(|sequence| id(100, sequence)).collect();
        // No address space has room for this stack.
        let none = Builder::new().stack_size(1 << 47);
        let read = get_many(&store.snapshot(), &ids, none).unwrap();
        let expected: Vec<_> = (1..=ENVELOPES).map(|sequence| Some(item(sequence).bytes)).collect();
        assert_eq!(read, expected);
    }
}
