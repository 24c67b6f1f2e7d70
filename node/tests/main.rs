//! Tests of copies of a log in other locations: backups in a bucket, snapshots from a web server.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bucket;
mod web;
