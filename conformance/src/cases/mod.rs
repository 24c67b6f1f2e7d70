//! Every case, one file for each subject.

mod calls;
mod connect_streams;
mod deadlines;
mod end_to_end;
mod gateway;
mod limits;
mod many_topics;
mod metadata;
mod oldest;
mod ordering;
mod performance;
mod proofs;
mod publish_refusals;
mod read_refusals;
mod reliability;
mod reports;
mod security;
mod streams;
mod subscribe;
mod subscribe_refusals;
mod subscribe_waves;
#[cfg(test)]
mod tests;
mod upgrade;
mod web;

use crate::case::Case;

pub use calls::{CHECKED_CALLS, OF_NO_CALL};

/// Returns every case, in the order of reports.
pub fn all() -> impl Iterator<Item = Case> {
    let files: [&[Case]; 22] = [
        end_to_end::CASES,
        metadata::CASES,
        proofs::CASES,
        gateway::CASES,
        web::CASES,
        connect_streams::CASES,
        upgrade::CASES,
        ordering::CASES,
        oldest::CASES,
        publish_refusals::CASES,
        read_refusals::CASES,
        streams::CASES,
        deadlines::CASES,
        subscribe::CASES,
        subscribe_waves::CASES,
        subscribe_refusals::CASES,
        limits::CASES,
        many_topics::CASES,
        reliability::CASES,
        performance::CASES,
        security::CASES,
        reports::CASES,
    ];
    files.into_iter().flatten().copied()
}
