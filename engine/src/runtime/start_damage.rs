//! Damage that the start of a node has found and skipped.

use hawser_proto::{Cursor, EnvelopeId};
use hawser_storage::{Damage, ReadError, Store};

use super::chain_clock::ChainClock;
use super::publisher::Publisher;

/// Returns the rows that a start could not read. Nothing else is known of them yet: a scrub finds the damaged parts.
pub(super) fn at_start(
    store: &Store,
    heads: &Cursor,
    chain_clock: &ChainClock,
    publisher: &Publisher,
) -> Vec<Damage> {
    let own = store.identity().node;
    let own_end = EnvelopeId::new(own, heads.get(own));
    // A disk that fails for a moment, and projections that are being made, are no damage.
    let of_own = publisher.unread_own_end().filter(ReadError::is_damage).map(|error| {
        // After the end of the strand, a start reads the messages of the last minutes.
        let is_end = store.snapshot().last_held(own).is_err();
        if is_end { of_end(own_end, &error) } else { of_family("congestion", &error) }
    });
    let of_chains = chain_clock.unread().iter().filter(|(_, error)| error.is_damage());
    let of_chains = of_chains.map(|(end, error)| of_end(*end, error));
    let unread = store.unread_families();
    let of_families = unread.iter().map(|it| of_family(it.family, &it.cause));
    of_own.into_iter().chain(of_chains).chain(of_families).collect()
}

fn of_end(end: EnvelopeId, error: &ReadError) -> Damage {
    Damage { first: Some(end), last: Some(end), ..of_family("log", error) }
}

fn of_family(family: &'static str, error: &ReadError) -> Damage {
    Damage { family, first: None, last: None, file: None, cause: error.to_string() }
}
