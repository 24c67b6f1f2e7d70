//! The call by which a log asks a witness for a cosignature: the body and the answer of C2SP `tlog-witness`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::names::WitnessName;
use super::note::{LINE_START, NOTE_LEN_BYTES_MAX};
use super::witness::WitnessCosignature;
use crate::decimal::decimal;
use crate::ids::SequenceId;
use crate::merkle::{ConsistencyProof, PROOF_LEN_MAX, TreeHash};

/// Path of the call, relative to the witness's URL prefix.
pub const SUBMISSION_PATH: &str = "/add-checkpoint";
/// Media type of an answer with the size that the witness cosigned last.
pub const SIZE_MEDIA_TYPE: &str = "text/x.tlog.size";
/// The longest body in bytes: a size, the longest proof, and a note.
pub const SUBMISSION_LEN_BYTES_MAX: usize = NOTE_LEN_BYTES_MAX + 64 * (PROOF_LEN_MAX + 1);
/// The longest answer in bytes. A guess: a witness has a handful of keys, and a line less than 300 bytes.
pub const ANSWER_LEN_BYTES_MAX: usize = 16 * 1024;

/// The reason a body is not a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmissionError {
    /// The body is longer than [`SUBMISSION_LEN_BYTES_MAX`].
    #[error("a submission has at most {SUBMISSION_LEN_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
    /// The body is not in the form of a submission.
    #[error("the body is not a line `old SIZE`, the hashes of a proof, an empty line, and a note")]
    Form,
}

/// A checkpoint on its way to a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSubmission {
    /// The size of the checkpoint that the witness has cosigned last, as far as the log knows; 0 for none.
    pub old_size: u64,
    /// Proof that the tree begins with the tree of the old size; empty for an old size of 0.
    pub proof: ConsistencyProof,
    /// The checkpoint as a note.
    pub note: String,
}

impl CheckpointSubmission {
    /// Writes the body.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut body = format!("old {}\n", self.old_size);
        for hash in &self.proof.0 {
            body.push_str(&STANDARD.encode(hash.0));
            body.push('\n');
        }
        body.push('\n');
        body.push_str(&self.note);
        body
    }

    /// Parses a body. Does not parse the note.
    ///
    /// # Errors
    /// [`SubmissionError`].
    pub fn decode(body: &[u8]) -> Result<Self, SubmissionError> {
        if body.len() > SUBMISSION_LEN_BYTES_MAX {
            return Err(SubmissionError::TooLong(body.len()));
        }
        let body = std::str::from_utf8(body).map_err(|_| SubmissionError::Form)?;
        let (head, note) = body.split_once("\n\n").ok_or(SubmissionError::Form)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(decimal);
        let old_size = old.filter(|&old| old <= SequenceId::MAX.0).ok_or(SubmissionError::Form)?;
        let mut hashes = Vec::new();
        for line in lines {
            let hash = STANDARD.decode(line).ok().and_then(|bytes| TreeHash::from_slice(&bytes));
            if hashes.len() == PROOF_LEN_MAX {
                return Err(SubmissionError::Form);
            }
            hashes.push(hash.ok_or(SubmissionError::Form)?);
        }
        Ok(Self { old_size, proof: ConsistencyProof(hashes), note: note.to_owned() })
    }
}

/// Writes the answer of a witness: a line for each cosignature.
#[must_use]
pub fn cosignature_lines(cosignatures: &[WitnessCosignature]) -> String {
    let line = |it: &WitnessCosignature| {
        let bytes = [&it.key_id[..], &it.time_unix_s.to_be_bytes(), &it.signature].concat();
        format!("{LINE_START}{} {}\n", it.name.as_str(), STANDARD.encode(bytes))
    };
    cosignatures.iter().map(line).collect()
}

/// Parses the answer of a witness and returns its Ed25519 cosignatures, unverified. Other lines are left out, since a
/// witness may sign with keys of other types too.
#[must_use]
pub fn read_cosignature_lines(answer: &[u8]) -> Vec<WitnessCosignature> {
    let text = std::str::from_utf8(answer.get(..ANSWER_LEN_BYTES_MAX).unwrap_or(answer));
    let line = |line: &str| {
        let (name, signature) = line.strip_prefix(LINE_START)?.split_once(' ')?;
        let bytes = STANDARD.decode(signature).ok()?;
        let (key_id, rest) = bytes.split_first_chunk::<4>()?;
        let (time, signature) = rest.split_first_chunk::<8>()?;
        Some(WitnessCosignature {
            name: WitnessName::new(name)?,
            key_id: *key_id,
            time_unix_s: u64::from_be_bytes(*time),
            signature: signature.try_into().ok()?,
        })
    };
    text.unwrap_or_default().split('\n').filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::names::note_text;
    use super::super::statement::Checkpoint;
    use super::super::witness::{WitnessKey, WitnessSigner};
    use super::*;
    use crate::ids::OriginatorId;

    fn submission(old_size: u64, hashes: u8) -> CheckpointSubmission {
        let proof = ConsistencyProof((0..hashes).map(|it| TreeHash([it; 32])).collect());
        CheckpointSubmission { old_size, proof, note: "a note\n\n— a line\n".to_owned() }
    }

    #[test]
    fn a_body_has_this_form() {
        let zeros = "A".repeat(43);
        let body = format!("old 7\n{zeros}=\n\na note\n\n— a line\n");
        assert_eq!(submission(7, 1).encode(), body);
        assert_eq!(CheckpointSubmission::decode(body.as_bytes()), Ok(submission(7, 1)));
        assert_eq!(submission(0, 0).encode(), "old 0\n\na note\n\n— a line\n");
        for old_size in [0, 1, SequenceId::MAX.0] {
            for hashes in [0, 1, 64] {
                let it = submission(old_size, hashes);
                assert_eq!(CheckpointSubmission::decode(it.encode().as_bytes()), Ok(it));
            }
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let zeros = "A".repeat(43);
        for body in [
            String::new(),
            "\n\nnote".into(),
            "old\n\nnote".into(),
            "old 07\n\nnote".into(),
            "old -1\n\nnote".into(),
            "old 9223372036854775808\n\nnote".into(),
            "old 7 \n\nnote".into(),
            "old 7\nnote".into(),
            "old 7\nAAAA\n\nnote".into(),
            format!("old 7\n{zeros}\n\nnote"),
            format!("old 7\n{zeros}=\r\n\nnote"),
            format!("old 7\n{}\nnote", format!("{zeros}=\n").repeat(65)),
        ] {
            let read = CheckpointSubmission::decode(body.as_bytes());
            assert_eq!(read, Err(SubmissionError::Form), "{body:?}");
        }
        assert_eq!(CheckpointSubmission::decode(b"old \xff\n\n"), Err(SubmissionError::Form));
        let long = vec![b'a'; SUBMISSION_LEN_BYTES_MAX + 1];
        let refused = Err(SubmissionError::TooLong(long.len()));
        assert_eq!(CheckpointSubmission::decode(&long), refused);
    }

    #[test]
    fn an_answer_is_read_back_and_what_is_no_cosignature_is_left_out() {
        let (node, originator, root) = (OriginatorId(100), OriginatorId(0), TreeHash([3; 32]));
        let of = Checkpoint { node, originator, size: 9, root, time_ns: 5 };
        let signer = WitnessSigner::new(WitnessName::new("w.example/1").unwrap(), &[7; 32]);
        let cosigned = signer.cosign("test", &of, 1_700_000_000);
        let lines = cosignature_lines(std::slice::from_ref(&cosigned));
        let text = note_text("test", &of);
        let answer =
            format!("{text}\n— other AAAAAAAAAAAA\n{lines}— w.example/1 AAAA\n— two words x\n");
        let read = read_cosignature_lines(answer.as_bytes());
        assert_eq!(read, [cosigned]);
        let key = WitnessKey::of_verifier_key(&signer.verifier_key()).unwrap();
        assert_eq!(read[0].verify("test", &of, &key), Ok(()));
        assert_eq!(read_cosignature_lines(b"\xff"), []);
    }

    proptest! {
        #[test]
        fn nothing_from_outside_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = CheckpointSubmission::decode(&bytes);
            let _ = read_cosignature_lines(&bytes);
            let _ = WitnessKey::of_verifier_key(&String::from_utf8_lossy(&bytes));
        }
    }
}
