//! Tests of the log and its projections, as one program, because each separate program would link RocksDB again.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backup;
mod backup_names;
mod chain;
mod commit;
mod copies;
mod damage;
mod damaged_blocks;
mod damaged_files;
mod damaged_marks;
mod dropped;
mod emptied;
mod host;
mod membership;
mod misbehavior;
mod older_rows;
mod open;
mod promote;
mod prune;
mod prune_beside;
mod prune_faults;
mod read;
mod rebuild;
mod recent;
mod recovery;
mod remake;
mod reopen;
mod reports;
mod reprice;
mod rollback;
mod scrub;
mod support;
mod table_files;
mod trees;
mod unverified;
