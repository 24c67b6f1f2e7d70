//! The relation of a data folder to the folder that this host wrote last, and the facts that decide it.

use hawser_proto::SequenceId;

/// The relation of a data folder to the folder that this host wrote last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderStanding {
    /// This host wrote the folder last, and the folder has that state or a newer one.
    Newest,
    /// The operator has stated that the key has no strand yet, and neither folder nor marker contradict.
    New,
    /// The folder may lack the end of this node's strand.
    Unknown(UnknownFolder),
    /// The disk refused writes when the folder was opened, so the folder is compared with the marker when writes
    /// work again. Until then nothing is signed.
    Unjudged,
}

/// The reason for which a folder may lack the end of this node's strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownFolder {
    /// The folder has nothing of the strand, and this host has never run this node.
    Empty,
    /// The operator has stated that the key has no strand yet, and too few of the other nodes have answered to
    /// know better.
    Unanswered,
    /// The folder has a strand, and this host has never run this node: the folder comes from another host, or the
    /// state folder was lost.
    NoMarker,
    /// The host marker cannot be read.
    DamagedMarker,
    /// This host wrote another folder of this node last.
    OtherFolder,
    /// The database is a copy: its folder is not the one that this host wrote.
    Copied,
    /// The folder has an older state than this host wrote last: a backup was put back.
    Older,
    /// The machine was started again while the last commits to the folder had not waited for the disk.
    Unsynced,
    /// A peer has shown more of the strand than the folder has.
    Contradicted,
    /// Another process has signed envelopes of the strand while this node published, so only the operator
    /// can say that it has ended.
    Stopped,
}

impl UnknownFolder {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Empty,
        Self::Unanswered,
        Self::NoMarker,
        Self::DamagedMarker,
        Self::OtherFolder,
        Self::Copied,
        Self::Older,
        Self::Unsynced,
        Self::Contradicted,
        Self::Stopped,
    ];

    /// Returns the name of the reason in files, logs and JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unanswered => "unanswered",
            Self::NoMarker => "no_marker",
            Self::DamagedMarker => "damaged_marker",
            Self::OtherFolder => "other_folder",
            Self::Copied => "copied",
            Self::Older => "older",
            Self::Unsynced => "unsynced",
            Self::Contradicted => "contradicted",
            Self::Stopped => "stopped",
        }
    }

    /// Returns true if the reason itself shows that the folder lacked places of the strand, or that another process may
    /// have signed some.
    #[must_use]
    pub fn shows_lack(self) -> bool {
        match self {
            Self::Older | Self::Unsynced | Self::Contradicted | Self::Stopped => true,
            Self::Empty
            | Self::Unanswered
            | Self::NoMarker
            | Self::DamagedMarker
            | Self::OtherFolder
            | Self::Copied => false,
        }
    }

    /// Returns the reason as a clause about the folder, for operators.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Empty => "the data folder is empty and this node's key is registered already",
            Self::Unanswered => {
                "too few of the other nodes can be asked if the key is new, as --new-strand says (if it is, \
                 `hawser restore confirm --complete` skips no place)"
            }
            Self::NoMarker => "this host has not run this node before",
            Self::DamagedMarker => "the host marker in the state folder cannot be read",
            Self::OtherFolder => "this host wrote another data folder of this node last",
            Self::Copied => "the data folder is a copy of the one that this host wrote",
            Self::Older => "the data folder is older than what this host wrote last",
            Self::Unsynced => {
                "the machine was started again before the last envelopes were on its disk (--durability os)"
            }
            Self::Contradicted => {
                "a peer has shown more of this node's strand than the folder held"
            }
            Self::Stopped => "another process has signed envelopes of this node's strand",
        }
    }
}

impl std::fmt::Display for UnknownFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.explanation())
    }
}

/// The facts about an open folder that the marker records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FolderFacts {
    pub(crate) incarnation: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) inode: u64,
    /// Head of the own strand.
    pub(crate) head: SequenceId,
}
