//! Fuzz target: files of an exported log, lines of rows, verdicts on ranges and manifests of exports.

use bytes::Bytes;
use hawser_audit::export::{Manifest, PartReader, encode_part};
use hawser_audit::partition::{LineReader, RangeVerdict};
use hawser_audit::replay::{GapReason, StoredMark, StrandRow};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{OriginatorId, SequenceId};

use super::Target;

pub(super) const TARGET: Target =
    Target { name: "exported-part", run, seeds, memory_factor: CLAIMED_PER_BYTE };

/// The library reserves the memory that a page claims, up to the limit of a column of a row group: some 100 MB, for
/// a file of any length. So this target watches for panics and for more than that, and not for a share of its
/// input. A file of this schema has 1 KB at least.
const CLAIMED_PER_BYTE: usize = 256 * 1024;

fn seeds() -> Vec<Vec<u8>> {
    let envelope = |at: u64| StrandRow::Envelope {
        sequence: SequenceId(at),
        bytes: Bytes::from(vec![7; usize::try_from(at).unwrap_or(0) * 3]),
        mark: if at.is_multiple_of(2) { StoredMark::Valid } else { StoredMark::Invalid(4) },
        leaf: Some(TreeHash([3; 32])),
    };
    let gap =
        StrandRow::Gap { from: SequenceId(9), through: SequenceId(12), reason: GapReason::Void };
    let rows = (1..9).map(envelope).chain([gap]).collect();
    let part = encode_part(OriginatorId(100), rows).expect("rows of a log");
    let gap_alone = StrandRow::Gap {
        from: SequenceId(1),
        through: SequenceId::MAX,
        reason: GapReason::Missing,
    };
    let wide = encode_part(OriginatorId(u32::MAX), vec![gap_alone]).expect("rows of a log");
    let bare = encode_part(OriginatorId(0), Vec::new()).expect("no rows");
    let line = concat!(
        r#"{"originator_id":100,"sequence_id":1,"through_sequence_id":1,"kind":"envelope","#,
        r#""mark":"invalid","rule":4,"leaf_hash":null,"bytes":"AAAA","payer":null}"#,
        "\n"
    );
    let manifest = Manifest::new("testnet".to_owned(), OriginatorId(100), &[1; 16]).to_text();
    let pruned = line
        .replace("envelope", "pruned")
        .replace(r#""mark":"invalid","rule":4"#, r#""mark":null,"rule":null"#);
    let statement = r#"{"originator_id":100,"statement":"AAAA"}"#.to_owned();
    let lines =
        [line.repeat(3), pruned, line.replace("AAAA", ""), statement].map(String::into_bytes);
    [part, bare, wide, manifest.into_bytes()].into_iter().chain(lines).collect()
}

/// No input causes a panic, or an allocation of the length that it claims; rows that are read have places.
fn run(input: &[u8]) {
    if let Ok(reader) = PartReader::from_bytes(Bytes::copy_from_slice(input)) {
        let _ = reader.take_while(Result::is_ok).count();
    }
    let _ = LineReader::new(input).take_while(Result::is_ok).count();
    if let Ok(text) = str::from_utf8(input) {
        let _ = (Manifest::parse(text), RangeVerdict::parse(text));
    }
}
