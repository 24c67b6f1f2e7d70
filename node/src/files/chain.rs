//! A chain file: a substitute for the app chain that contains both chain strands.
//!
//! Its lines have the form of [`super::lines`]. In the order of the file, lines of `chain:group` get the sequence ids
//! 1, 2, 3, … of strand 0, and lines of `chain:identity` those of strand 1; lines of `node` are skipped. Without
//! `block_time`, a line's time is 1,750,000,000 seconds plus its number, counted from 1 over all lines of the file.
//! Without `transaction_hash`, the hash is the keccak-256 of the envelope.
//!
//! The file is append-only, like a chain. A last line without a line end is accepted if it is complete JSON. All nodes
//! must be given the same file, or their strands differ.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hawser_engine::chain_strand::ChainEvent;
use hawser_proto::sign::keccak256;
use hawser_proto::{OriginatorId, SequenceId};

use super::FileStamp;
use super::lines::{EnvelopeLine, LineError, parse_line};

/// The block time of the (absent) line 0, unix seconds. An arbitrary fixed value, so that all nodes agree.
const FIRST_BLOCK_TIME_S: u64 = 1_750_000_000;
/// The largest number of events that one poll returns. A guess that bounds memory and the length of a commit.
const EVENTS_MAX: usize = 1024;
/// The longest line in bytes. A guess: the longest payload of a chain in hex is far shorter.
const LINE_LEN_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The number of bytes before the read position that are compared when the file has changed. A guess: enough to notice
/// a replaced file, and cheap to read.
const ANCHOR_LEN_BYTES: usize = 64 * 1024;

/// The error about a pipe, a folder or a device in the place of a file.
const NOT_REGULAR: &str = "it is not a regular file: name one to which lines are appended";

/// Error of reading a chain file.
#[derive(Debug, thiserror::Error)]
pub enum ChainFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A line is not an envelope, so the following lines cannot be numbered.
    #[error(transparent)]
    Line(#[from] LineError),
    /// A line is too long to be an envelope, or is not text. Holds its number.
    #[error("line {0} is not UTF-8 text, or is too long")]
    NoLine(u64),
    /// Content that was already read has changed.
    #[error(
        "the file has changed before the end of line {0}, up to which it was read; \
         lines can only be appended"
    )]
    Changed(u64),
}

/// A reader of a growing chain file.
#[derive(Debug)]
pub struct ChainFile {
    path: PathBuf,
    /// The identity, length and time of the file when it was last read.
    seen: Option<FileStamp>,
    position: FilePosition,
}

/// A position up to which a file has been read.
#[derive(Debug, Clone, Default)]
pub struct FilePosition {
    offset: u64,
    lines: u64,
    /// True if the last line was accepted without its line end, which must come next.
    open_line: bool,
    /// The bytes before `offset`.
    anchor: Vec<u8>,
    heads: [SequenceId; 2],
}

/// Events of both strands, each ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainEvents {
    /// Events of strand 0.
    pub groups: Vec<ChainEvent>,
    /// Events of strand 1.
    pub identities: Vec<ChainEvent>,
}

impl ChainEvents {
    /// Returns the number of events of both strands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len() + self.identities.len()
    }

    /// Returns true if there is no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn strand(&mut self, originator: OriginatorId) -> &mut Vec<ChainEvent> {
        match originator {
            OriginatorId::GROUP_MESSAGES => &mut self.groups,
            _ => &mut self.identities,
        }
    }
}

impl ChainFile {
    /// Starts at the beginning of a file, without opening it.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None, position: FilePosition::default() }
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the last sequence ids that were read, of strands 0 and 1.
    #[must_use]
    pub fn heads(&self) -> [SequenceId; 2] {
        self.position.heads
    }

    /// Returns the position up to which the file has been read.
    #[must_use]
    pub fn place(&self) -> FilePosition {
        self.position.clone()
    }

    /// Returns to an earlier position, after which the next poll starts.
    pub fn go_back(&mut self, place: FilePosition) {
        (self.position, self.seen) = (place, None);
    }

    /// Reads the next events, at most a bounded number; empty if nothing is new. Opens the file only if
    /// its length or time has changed.
    ///
    /// # Errors
    /// Returns an error once for each change that makes the file invalid. No part of such a change is accepted, and
    /// reading continues at the same position when the file changes again. What the system does not read is read again
    /// by the next call.
    pub fn poll(&mut self) -> Result<ChainEvents, ChainFileError> {
        // Without this flag the system waits for a program that writes into a pipe.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other(NOT_REGULAR).into());
        }
        let stamp = FileStamp::of(&found);
        if self.seen == Some(stamp) {
            return Ok(ChainEvents::default());
        }
        self.seen = Some(stamp);
        let mut position = self.position.clone();
        let events = position.read(file).inspect_err(|error| {
            // The disk may fail for a moment, and the file need not change after that.
            if matches!(error, ChainFileError::Read(_)) {
                self.seen = None;
            }
        })?;
        self.position = position;
        if !events.is_empty() {
            self.seen = None; // there may be more: a part was read
        }
        Ok(events)
    }
}

impl FilePosition {
    fn read(&mut self, mut file: File) -> Result<ChainEvents, ChainFileError> {
        self.require_same_past(&mut file)?;
        let mut reader = BufReader::new(file);
        let mut events = ChainEvents::default();
        let mut bytes = Vec::new();
        while events.len() < EVENTS_MAX {
            bytes.clear();
            let len = (&mut reader).take(LINE_LEN_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            if len == 0 || !self.take(&bytes, &mut events)? {
                break;
            }
        }
        Ok(events)
    }

    /// Checks that the bytes before the read position are unchanged, and leaves the file at that position.
    fn require_same_past(&self, file: &mut File) -> Result<(), ChainFileError> {
        let anchor_len = u64::try_from(self.anchor.len()).unwrap_or(u64::MAX);
        let mut found = Vec::with_capacity(self.anchor.len());
        file.seek(SeekFrom::Start(self.offset.saturating_sub(anchor_len)))?;
        (&mut *file).take(anchor_len).read_to_end(&mut found)?;
        if found == self.anchor { Ok(()) } else { Err(ChainFileError::Changed(self.lines)) }
    }

    /// Accepts one line. Returns false if the line is not complete yet.
    fn take(&mut self, bytes: &[u8], events: &mut ChainEvents) -> Result<bool, ChainFileError> {
        let ended = bytes.last() == Some(&b'\n');
        if self.open_line {
            if !bytes.trim_ascii().is_empty() {
                return Err(ChainFileError::Changed(self.lines));
            }
            self.advance(bytes);
            self.open_line = !ended;
            return Ok(true);
        }
        let number = self.lines + 1;
        let text = std::str::from_utf8(bytes);
        if !ended {
            if bytes.len() as u64 == LINE_LEN_BYTES_MAX {
                return Err(ChainFileError::NoLine(number));
            }
            let complete =
                text.is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
            if !complete {
                return Ok(false);
            }
        }
        let text = text.map_err(|_| ChainFileError::NoLine(number))?;
        if let Some(line) = parse_line(number, text)? {
            self.add(&line, events);
        }
        self.advance(bytes);
        self.lines = number;
        self.open_line = !ended;
        Ok(true)
    }

    fn add(&mut self, line: &EnvelopeLine, events: &mut ChainEvents) {
        let Some(originator) = line.route.strand() else { return };
        let head = &mut self.heads[usize::from(originator != OriginatorId::GROUP_MESSAGES)];
        *head = head.next();
        events.strand(originator).push(ChainEvent {
            sequence: *head,
            block_time_s: line.block_time_s.unwrap_or(FIRST_BLOCK_TIME_S + line.number),
            transaction_hash: line
                .transaction_hash
                .unwrap_or_else(|| keccak256(&[&line.client_bytes]).0),
            client_bytes: line.client_bytes.clone(),
            topic_identifier: None,
            bootstrapped: false,
        });
    }

    fn advance(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.anchor.extend_from_slice(bytes);
        // The bound is twice the length, so that short lines do not move the whole anchor each time.
        if self.anchor.len() > 2 * ANCHOR_LEN_BYTES {
            self.anchor.drain(..self.anchor.len() - ANCHOR_LEN_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use super::*;
    use crate::files::lines::tests::VECTORS;

    struct Growing {
        _folder: tempfile::TempDir,
        path: PathBuf,
        file: ChainFile,
    }

    impl Growing {
        fn new(content: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("chain.jsonl");
            std::fs::write(&path, content).unwrap();
            Self { _folder: folder, file: ChainFile::new(&path), path }
        }

        fn append(&self, content: &str) {
            let mut file = OpenOptions::new().append(true).open(&self.path).unwrap();
            file.write_all(content.as_bytes()).unwrap();
        }

        /// Polls until there is nothing more to read.
        fn drain(&mut self) -> Result<ChainEvents, ChainFileError> {
            let mut all = ChainEvents::default();
            loop {
                let events = self.file.poll()?;
                if events.is_empty() {
                    return Ok(all);
                }
                all.groups.extend(events.groups);
                all.identities.extend(events.identities);
            }
        }

        fn ids(&mut self) -> Vec<u64> {
            self.drain().unwrap().groups.iter().map(|event| event.sequence.0).collect()
        }
    }

    fn group(byte: u8) -> String {
        format!("{{\"hex\":\"{byte:02x}\",\"expect_route\":\"chain:group\"}}")
    }

    #[test]
    fn each_strand_is_numbered_in_the_order_of_the_file() {
        let mut growing = Growing::new(&std::fs::read_to_string(VECTORS).unwrap());
        let events = growing.drain().unwrap();
        let numbers = |events: &[ChainEvent]| -> Vec<u64> {
            events.iter().map(|event| event.sequence.0).collect()
        };
        assert_eq!(numbers(&events.groups), (1..=24).collect::<Vec<_>>());
        assert_eq!(numbers(&events.identities), (1..=10).collect::<Vec<_>>());
        assert_eq!(growing.file.heads(), [SequenceId(24), SequenceId(10)]);
    }

    #[test]
    fn time_and_transaction_come_from_the_line_or_from_its_place_and_bytes() {
        let hash = "11".repeat(32);
        let identity = format!(
            r#"{{"hex":"01","expect_route":"chain:identity","block_time":7,"transaction_hash":"0x{hash}"}}"#
        );
        let mut growing = Growing::new(&format!("\n{}\n{identity}\n", group(5)));
        let events = growing.drain().unwrap();
        assert_eq!(events.groups[0].block_time_s, 1_750_000_002);
        assert_eq!(events.groups[0].transaction_hash, keccak256(&[&[5]]).0);
        assert_eq!(events.identities[0].block_time_s, 7);
        assert_eq!(events.identities[0].transaction_hash, [0x11; 32]);
    }

    #[test]
    fn appended_lines_go_on_where_the_file_ended() {
        let mut growing = Growing::new(&format!("{}\n", group(1)));
        assert_eq!(growing.ids(), [1]);
        assert_eq!(growing.ids(), [0; 0]);
        growing.append(&format!("{}\n{}\n", group(2), group(3)));
        assert_eq!(growing.ids(), [2, 3]);
    }

    #[test]
    fn a_line_that_is_still_being_written_waits_for_its_rest() {
        let (line, rest) = (group(1), group(2));
        let (half, other_half) = line.split_at(9);
        let mut growing = Growing::new(half);
        assert_eq!(growing.ids(), [0; 0]);
        growing.append(other_half);
        assert_eq!(growing.ids(), [1], "complete without its end");
        growing.append(&format!("\n{rest}"));
        assert_eq!(growing.ids(), [2]);
        growing.append("\r\n");
        assert_eq!(growing.ids(), [0; 0]);
        growing.append(&format!("{}\n", group(3)));
        let events = growing.drain().unwrap();
        assert_eq!(events.groups[0].block_time_s, 1_750_000_003, "line ends are not lines");
    }

    #[test]
    fn a_file_that_shrinks_or_changes_is_reported_once_and_left_alone() {
        let (one, two) = (format!("{}\n", group(1)), format!("{}\n", group(2)));
        for other in ["", &two, &format!("{two}{two}")] {
            let mut growing = Growing::new(&one);
            assert_eq!(growing.ids(), [1]);
            std::fs::write(&growing.path, other).unwrap();
            assert!(matches!(growing.file.poll(), Err(ChainFileError::Changed(1))), "{other}");
            assert_eq!(growing.ids(), [0; 0], "said once");
            std::fs::write(&growing.path, format!("{one}{two}")).unwrap();
            assert_eq!(growing.ids(), [2], "goes on when the past is back");
        }
    }

    #[test]
    fn a_bad_line_stops_the_strands_before_it() {
        let mut growing = Growing::new(&format!("{}\n", group(1)));
        assert_eq!(growing.ids(), [1]);
        growing.append(&format!("{}\nnonsense\n{}\n", group(2), group(3)));
        let error = growing.file.poll().unwrap_err();
        assert!(error.to_string().starts_with("line 3: "), "{error}");
        assert!(growing.file.poll().unwrap().is_empty());
        assert_eq!(growing.file.heads()[0], SequenceId(1));
    }

    #[test]
    fn long_files_come_in_parts() {
        let lines = (EVENTS_MAX * 2 + 5) as u64;
        let content: String =
            (0..lines).map(|i| format!("{}\n", group(i.to_le_bytes()[0]))).collect();
        let mut growing = Growing::new(&content);
        assert_eq!(growing.file.poll().unwrap().len(), EVENTS_MAX);
        assert_eq!(growing.ids(), ((EVENTS_MAX as u64 + 1)..=lines).collect::<Vec<_>>());
        growing.append(&format!("{}\n", group(0)));
        assert_eq!(growing.ids(), [lines + 1]);
    }

    /// Played by a file of the system whose first byte cannot be read, as on a disk that fails for a moment.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_cannot_be_read_is_read_again_although_it_does_not_change() {
        let mut file = ChainFile::new(Path::new("/proc/self/mem"));
        for _ in 0..2 {
            assert!(matches!(file.poll(), Err(ChainFileError::Read(_))));
        }
    }

    #[test]
    fn a_missing_file_is_an_error_and_so_is_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = ChainFile::new(&folder.path().join("none"));
        assert!(matches!(file.poll(), Err(ChainFileError::Read(_))));
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for not_regular in [folder.path(), pipe.as_path()] {
            let error = ChainFile::new(not_regular).poll().unwrap_err();
            assert!(error.to_string().contains("regular file"), "{error}");
        }
    }
}
