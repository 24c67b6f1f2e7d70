//! The exchange between a node in quarantine and its operator, through files on the host.
//!
//! The node writes the reason why it waits ([`RestoreQuestion`]), and the operator's command writes the answer
//! ([`RestoreAnswer`]) beside it. Both are in the state folder, which is not part of a backup or a copy of the data
//! folder, and an answer is valid for one question only. So no copy of a data folder includes a permission to sign.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hawser_engine::own_strand::{GAP, gap_of};
use hawser_proto::{OriginatorId, SequenceId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::write_whole;

const QUESTION: &str = "quarantine.json";
const ANSWER: &str = "confirmed.json";
const PUBLISHING: &str = "publishing.json";
/// The longest file that is read, in bytes. A guess: each file has a few hundred bytes.
const LEN_BYTES_MAX: u64 = 64 * 1024;

/// The question of a node that may not sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreQuestion {
    /// An id that differs each time that the node starts to ask.
    pub id: String,
    /// An id that differs for each process of the node.
    #[serde(default)]
    pub process: String,
    /// Id of the node.
    pub node_id: OriginatorId,
    /// Name of its network.
    pub network: String,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// The last sequence id of its own strand in that folder.
    pub head: SequenceId,
    /// The reason why it does not sign, and what would end the quarantine.
    pub reason: String,
    /// True if the data folder was a replica's, comes from a backup or from before an upgrade, the machine went down
    /// before its end was on the disk, or this host or a peer knows of more than it held: it may lack the last
    /// envelopes of the strand. Named as in the files of versions that knew of replicas alone.
    #[serde(default, rename = "is_promoted")]
    pub may_lack_places: bool,
}

/// The operator's answer, which states that no other process signs with the node's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreAnswer {
    /// Id of the question.
    pub id: String,
    /// The number of sequence ids to skip.
    pub gap: u64,
}

impl RestoreAnswer {
    /// Creates the answer that the folder may lack places that were signed: the node continues behind a gap of some
    /// units of [`GAP`].
    ///
    /// The width follows from the question. So another folder of the same age, also a copy of this one, seldom
    /// continues at the same place, although neither learns of the other while no peer can be asked.
    #[must_use]
    pub fn behind_gap(question: &RestoreQuestion) -> Self {
        Self { id: question.id.clone(), gap: gap_of(question.id.as_bytes()) }
    }

    /// Creates the answer that the folder contains everything that was ever signed: the node continues at the next
    /// place. If that is false, it signs a place twice.
    #[must_use]
    pub fn complete(question: &RestoreQuestion) -> Self {
        Self { id: question.id.clone(), gap: 0 }
    }

    /// Returns the number of sequence ids that the node skips. A folder that may lack places is not complete, whatever
    /// the operator confirms.
    #[must_use]
    pub fn gap_after(&self, question: &RestoreQuestion) -> u64 {
        if question.may_lack_places { self.gap.max(GAP) } else { self.gap }
    }
}

/// The note of a process, which has asked its operator, that it may sign.
#[derive(Debug, Serialize, Deserialize)]
struct PublishingNote {
    /// The process, as in [`RestoreQuestion::process`].
    process: String,
}

/// The nodes of a host that ask their operator.
#[derive(Debug, Default)]
pub struct AskingNodes {
    /// The questions, each with its folder, in the order of the nodes.
    pub questions: Vec<(RestoreFolder, RestoreQuestion)>,
    /// Folders whose question cannot be read, each with the reason.
    pub unreadable: Vec<(RestoreFolder, io::Error)>,
}

/// The folder through which one node of this host and its operator exchange question and answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreFolder(PathBuf);

impl RestoreFolder {
    /// Creates the value for a node's folder; see [`hawser_storage::host_dir`].
    #[must_use]
    pub fn new(host_dir: &Path) -> Self {
        Self(host_dir.to_owned())
    }

    /// Returns the questions of all nodes of this host. A question that cannot be read does not hide the others.
    ///
    /// # Errors
    /// Fails when the state folder cannot be read. A missing folder has no questions.
    pub fn asking(state_dir: &Path) -> io::Result<AskingNodes> {
        let mut asking = AskingNodes::default();
        let entries = match fs::read_dir(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(asking),
            entries => entries?,
        };
        for entry in entries {
            let folder = Self(entry?.path());
            match folder.question() {
                Ok(Some(question)) => asking.questions.push((folder, question)),
                Ok(None) => {}
                Err(error) => asking.unreadable.push((folder, error)),
            }
        }
        asking.questions.sort_by_key(|(_, question)| question.node_id);
        Ok(asking)
    }

    /// Returns the path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the question, if there is one.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn question(&self) -> io::Result<Option<RestoreQuestion>> {
        read(&self.0.join(QUESTION))
    }

    /// Takes the answer, if there is one. It is removed durably before it is returned, so that it counts only once.
    ///
    /// # Errors
    /// Fails when the file cannot be read or removed. The answer must not count then: it stays for the next look, if
    /// the disk permits.
    pub(crate) fn take_answer(&self) -> io::Result<Option<RestoreAnswer>> {
        self.take_answer_with(|folder| File::open(folder)?.sync_all())
    }

    /// Takes the answer as [`take_answer`](Self::take_answer), with the function that makes its removal durable.
    fn take_answer_with(
        &self,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Option<RestoreAnswer>> {
        let path = self.0.join(ANSWER);
        let answer: Option<RestoreAnswer> = read(&path)?;
        if let Some(answer) = &answer {
            fs::remove_file(&path)?;
            if let Err(error) = sync(&self.0) {
                // The operator has no reason to answer again. If this fails, too, the question stays.
                let _ = self.reply(answer);
                return Err(error);
            }
        }
        Ok(answer)
    }

    /// Writes a question in place of an earlier one. The node that asks does not publish.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn ask(&self, question: &RestoreQuestion) -> io::Result<()> {
        self.remove(PUBLISHING)?;
        write(&self.0.join(QUESTION), question)
    }

    /// Notes that a process may sign. To be called before its question is removed: a process that starts removes the
    /// question of an earlier one, too, and the operator has to distinguish the two.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn note_publishing(&self, process: &str) -> io::Result<()> {
        write(&self.0.join(PUBLISHING), &PublishingNote { process: process.to_owned() })
    }

    /// Returns true if the process that asked this question has noted, since it asked last, that it may sign.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn publishes_since(&self, question: &RestoreQuestion) -> io::Result<bool> {
        let note = read::<PublishingNote>(&self.0.join(PUBLISHING))?;
        Ok(note.is_some_and(|note| note.process == question.process))
    }

    /// Writes an answer in place of an earlier one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn reply(&self, answer: &RestoreAnswer) -> io::Result<()> {
        write(&self.0.join(ANSWER), answer)
    }

    /// Removes question and answer.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn clear(&self) -> io::Result<()> {
        self.remove(ANSWER)?;
        self.remove(QUESTION)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The question of a running node, as it is in its folder.
#[derive(Debug, Clone)]
pub(crate) struct PostedQuestion {
    folder: RestoreFolder,
    wanted: Option<RestoreQuestion>,
    is_there: bool,
}

impl PostedQuestion {
    /// Creates a value for a folder, which may have the question of an earlier process.
    pub(crate) fn new(folder: RestoreFolder) -> Self {
        Self { folder, wanted: None, is_there: false }
    }

    /// Returns true if the folder has this question, or none if there is none.
    pub(crate) fn is(&self, wanted: Option<&RestoreQuestion>) -> bool {
        self.is_there && self.wanted.as_ref() == wanted
    }

    /// Writes a question in place of an earlier one, or removes that. To be called again while it fails: a full disk
    /// has room later, and without the question the operator cannot answer.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn post(&mut self, wanted: Option<&RestoreQuestion>) -> io::Result<()> {
        self.is_there = false;
        self.wanted = wanted.cloned();
        match wanted {
            Some(question) => self.folder.ask(question)?,
            None => self.folder.clear()?,
        }
        self.is_there = true;
        Ok(())
    }

    /// Notes that the process may sign, and removes the question. To be called again while it fails.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn end(&mut self, process: &str) -> io::Result<()> {
        // A disk without room refuses the note, and still removes the question: no operator is to answer that.
        let noted = self.folder.note_publishing(process);
        self.post(None)?;
        noted
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() <= LEN_BYTES_MAX => {}
        Ok(_) => {
            return Err(io::Error::other(format!(
                "{} was not written by this program: move it away",
                path.display()
            )));
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_whole(path, &serde_json::to_vec_pretty(value)?)
}

/// Returns the question of a node whose whole folder ends at place 7.
#[cfg(test)]
pub(crate) fn test_question() -> RestoreQuestion {
    RestoreQuestion {
        id: "1".to_owned(),
        process: "a".to_owned(),
        node_id: OriginatorId(100),
        network: "test".to_owned(),
        data_dir: "data".into(),
        head: SequenceId(7),
        reason: "because".to_owned(),
        may_lack_places: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use hawser_engine::own_strand::{
        GAP_MAX, OperatorConfirmation, OwnStrandGuard, StrandObservation,
    };
    use hawser_storage::{FolderStanding, UnknownFolder};

    use super::*;

    /// A question may be answered by a program of another version than that of the node which asked it.
    #[test]
    fn ids_of_a_question_are_plain_numbers() {
        let text =
            r#"{"id":"1","process":"a","node_id":100,"network":"test","data_dir":"data","head":7,"#;
        let text = [text, r#""reason":"because","is_promoted":false}"#].concat();
        assert_eq!(serde_json::from_str::<RestoreQuestion>(&text).unwrap(), test_question());
        assert_eq!(serde_json::to_string(&test_question()).unwrap(), text);
    }

    #[test]
    fn a_folder_that_may_lack_places_is_followed_by_a_gap_whatever_the_operator_confirms() {
        let whole = test_question();
        let lacking = RestoreQuestion { may_lack_places: true, ..test_question() };
        assert_eq!(RestoreAnswer::complete(&whole).gap_after(&whole), 0);
        for question in [&whole, &lacking] {
            let gap = RestoreAnswer::behind_gap(question).gap_after(question);
            assert!((GAP..=GAP_MAX).contains(&gap) && gap.is_multiple_of(GAP), "{gap}");
        }
        assert_eq!(RestoreAnswer::complete(&lacking).gap_after(&lacking), GAP);
    }

    /// Returns the last place that a folder which ends at 7 leaves out, if its operator confirms while no peer can be
    /// asked.
    fn left_out_through(question: &RestoreQuestion) -> SequenceId {
        let start = Instant::now();
        let standing = FolderStanding::Unknown(UnknownFolder::NoMarker);
        let mut guard = OwnStrandGuard::new(standing, SequenceId::NONE, start, 0);
        let held = question.head;
        guard.observe(start, StrandObservation { held, ..StrandObservation::default() });
        let gap = RestoreAnswer::behind_gap(question).gap_after(question);
        let about = guard.status();
        guard.note_confirmation(start, 0, OperatorConfirmation { gap, about });
        guard.release(start).unwrap().skip_through.unwrap()
    }

    /// Played by an operator who promotes two replicas, or restores one backup on two machines, while all peers are cut
    /// off.
    #[test]
    fn two_folders_of_one_age_that_are_confirmed_without_peers_seldom_continue_at_one_place() {
        let ends: Vec<SequenceId> = (0..1_000)
            .map(|n| RestoreQuestion { id: format!("{n:032x}-1-{n}-1"), ..test_question() })
            .map(|question| left_out_through(&question))
            .collect();
        for SequenceId(end) in &ends {
            assert!((7 + GAP..=7 + GAP_MAX).contains(end) && (end - 7) % GAP == 0, "{end}");
        }
        let same = ends.chunks(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(same <= 10, "{same} of 500 pairs; 2 are expected");
        let different: BTreeSet<_> = ends.iter().collect();
        assert!(different.len() > 200, "{}", different.len());
        let again = left_out_through(&test_question());
        assert_eq!(left_out_through(&test_question()), again, "one question has one gap");
    }

    /// A node that starts removes the question of an earlier process, also if it is in quarantine again.
    #[test]
    fn only_the_process_that_asked_shows_that_it_publishes() {
        let state = tempfile::tempdir().unwrap();
        let folder = RestoreFolder::new(state.path());
        let question = test_question();
        let mut posted = PostedQuestion::new(folder.clone());
        posted.post(Some(&question)).unwrap();
        assert!(!folder.publishes_since(&question).unwrap());
        let mut restarted = PostedQuestion::new(folder.clone());
        restarted.post(None).unwrap();
        assert_eq!(folder.question().unwrap(), None);
        assert!(!folder.publishes_since(&question).unwrap());
        restarted.end("b").unwrap();
        assert!(!folder.publishes_since(&question).unwrap());
        posted.end(&question.process).unwrap();
        assert_eq!(folder.question().unwrap(), None);
        assert!(folder.publishes_since(&question).unwrap());
        posted.post(Some(&question)).unwrap();
        assert!(!folder.publishes_since(&question).unwrap(), "it asks again");
        // The disk refuses the note.
        fs::create_dir(state.path().join(PUBLISHING)).unwrap();
        posted.end(&question.process).unwrap_err();
        assert_eq!(folder.question().unwrap(), None, "the node asks nothing any more");
        fs::remove_dir(state.path().join(PUBLISHING)).unwrap();
        posted.end(&question.process).unwrap();
        assert!(folder.publishes_since(&question).unwrap());
    }

    /// The disk of the state folder is full when the node begins to ask.
    #[test]
    fn a_question_that_cannot_be_written_is_written_when_the_disk_permits() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("test-100");
        let question = test_question();
        let mut posted = PostedQuestion::new(RestoreFolder::new(&dir));
        assert!(!posted.is(None), "an earlier process may have left one");
        posted.post(Some(&question)).unwrap_err();
        assert!(!posted.is(Some(&question)));
        fs::create_dir(&dir).unwrap();
        posted.post(Some(&question)).unwrap();
        assert!(posted.is(Some(&question)) && !posted.is(None));
        assert_eq!(RestoreFolder::new(&dir).question().unwrap(), Some(question));
        posted.post(None).unwrap();
        assert!(posted.is(None));
        assert_eq!(RestoreFolder::new(&dir).question().unwrap(), None);
    }

    /// Played by a disk that fails for a moment.
    #[test]
    fn an_answer_whose_removal_is_not_durable_counts_at_the_next_look() {
        let state = tempfile::tempdir().unwrap();
        let folder = RestoreFolder::new(state.path());
        let answer = RestoreAnswer::complete(&test_question());
        folder.reply(&answer).unwrap();
        folder.take_answer_with(|_| Err(io::Error::other("the disk fails"))).unwrap_err();
        assert_eq!(folder.take_answer().unwrap(), Some(answer));
        assert_eq!(folder.take_answer().unwrap(), None, "an answer counts once");
    }

    /// Played by a disk that has damaged the question of one node of a host.
    #[test]
    fn a_damaged_question_keeps_none_of_the_other_nodes() {
        let state = tempfile::tempdir().unwrap();
        let [damaged, whole] = ["test-100", "test-200"].map(|name| state.path().join(name));
        for dir in [&damaged, &whole] {
            fs::create_dir(dir).unwrap();
            RestoreFolder::new(dir).ask(&test_question()).unwrap();
        }
        fs::write(damaged.join(QUESTION), "{").unwrap();
        let asking = RestoreFolder::asking(state.path()).unwrap();
        assert_eq!(asking.questions, [(RestoreFolder::new(&whole), test_question())]);
        let unreadable: Vec<_> = asking.unreadable.iter().map(|(it, _)| it.path()).collect();
        assert_eq!(unreadable, [&*damaged]);
        // The node writes it again when it starts.
        RestoreFolder::new(&damaged).ask(&test_question()).unwrap();
        assert_eq!(RestoreFolder::asking(state.path()).unwrap().questions.len(), 2);
    }

    #[test]
    fn question_and_answer_travel_through_the_folder() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(RestoreFolder::asking(&state.path().join("none")).unwrap().questions, []);
        let dir = state.path().join("test-100");
        fs::create_dir(&dir).unwrap();
        fs::write(state.path().join("stray"), "no folder").unwrap();
        let folder = RestoreFolder::new(&dir);
        assert_eq!(RestoreFolder::asking(state.path()).unwrap().questions, []);
        let question = test_question();
        folder.ask(&question).unwrap();
        assert_eq!(
            RestoreFolder::asking(state.path()).unwrap().questions,
            [(folder.clone(), question.clone())]
        );
        assert_eq!(folder.take_answer().unwrap(), None);
        folder.reply(&RestoreAnswer::complete(&question)).unwrap();
        assert_eq!(
            folder.take_answer().unwrap(),
            Some(RestoreAnswer { id: "1".to_owned(), gap: 0 })
        );
        assert_eq!(folder.take_answer().unwrap(), None, "an answer counts once");
        folder.reply(&RestoreAnswer::behind_gap(&question)).unwrap();
        assert!(folder.take_answer().unwrap().unwrap().gap >= 1_000_000);
        folder.clear().unwrap();
        folder.clear().unwrap();
        assert_eq!((folder.question().unwrap(), folder.take_answer().unwrap()), (None, None));
        fs::write(dir.join(ANSWER), "{").unwrap();
        assert!(folder.take_answer().is_err());
    }
}
