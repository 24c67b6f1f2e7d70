//! Errors of an import.

use std::path::PathBuf;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId, one_line};
use hawser_storage::{CommitError, DatabaseError, OpenError, ReadError};

use super::check::ImportPlanError;
use super::strand::RowError;
use crate::error::RunError;
use crate::service::open::OpenNodeError;
use crate::service::strand_faults::StrandFaultsError;

/// Error of an import.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The database is refused.
    #[error("{0}. Nothing was imported")]
    Refused(#[from] ImportPlanError),
    /// The connection string is malformed, or requests an unsupported option.
    #[error("--postgres: {0}")]
    Address(String),
    /// The database is in use.
    #[error(
        "{sessions} other sessions have the database open ({names}): stop xmtpd and everything else that is \
         connected, and import again"
    )]
    InUse {
        /// The number of other sessions.
        sessions: i64,
        /// The application names of the sessions.
        names: String,
    },
    /// The server is a standby, which does not show the programs that write to its primary.
    #[error(
        "this server is a standby of another one: name the primary, which shows the programs that write to it"
    )]
    Standby,
    /// The tables have another schema version.
    #[error(
        "the tables of the database have version {found}, and version {known} is needed: start the version \
         of xmtpd once that brings them there, and stop it"
    )]
    Schema {
        /// The version found; 0 if there is none.
        found: i64,
        /// The version that this program knows.
        known: i64,
    },
    /// The database has changed since the import began.
    #[error(
        "the database has changed while it was read ({what}): a node writes to it. Stop that node, remove the \
         data folder if it is still there, and import again"
    )]
    Changed {
        /// The change.
        what: String,
    },
    /// The tables are not those of the schema version that they name.
    #[error(
        "{step}: {source}{}. The tables have version {known} and another form: they were altered, or the database \
         is not xmtpd's. Nothing more was read",
        cause(source)
    )]
    Tables {
        /// The step that failed.
        step: &'static str,
        /// The failure.
        source: tokio_postgres::Error,
        /// The schema version that the database names.
        known: i64,
    },
    /// A table has more rows than that of any node.
    #[error(
        "{step}: more than {max} originators or contracts in a table, or longer names than any has: it was altered, or \
         the database is not xmtpd's. Nothing more was read"
    )]
    Many {
        /// The step that failed.
        step: &'static str,
        /// The maximum number of rows that are read.
        max: usize,
    },
    /// A page of rows does not end with the row that the server has named as its last one.
    #[error(
        "originator {originator}: the server names place {through} as the end of the next rows, and they end \
         elsewhere: an index of gateway_envelopes_meta is damaged (REINDEX), or this is no Postgres server. Nothing \
         more was read"
    )]
    OtherPage {
        /// The strand.
        originator: OriginatorId,
        /// The last sequence id that the server has named.
        through: SequenceId,
    },
    /// Postgres does not answer.
    #[error(
        "{step}: no answer within {} s: check the address, that it is a Postgres server, and its log and load. Then \
         repeat the command; it continues where it stopped",
        after.as_secs()
    )]
    Silent {
        /// The step that failed.
        step: &'static str,
        /// The time waited.
        after: Duration,
    },
    /// The connection to Postgres has ended.
    #[error("{step}: {cause}")]
    Ended {
        /// The step that failed.
        step: &'static str,
        /// The reason.
        cause: String,
    },
    /// Postgres has failed.
    #[error("{step}: {source}{}", cause(source))]
    Postgres {
        /// The step that failed.
        step: &'static str,
        /// The failure.
        source: tokio_postgres::Error,
    },
    /// A row is not an envelope that a node of the network has signed.
    #[error(
        "originator {originator}, place {sequence}: {source}. The database was altered, or the node has stored \
         what its originator has not signed. If that is another node, leave its strand out with --leave-out \
         {originator}; otherwise take everything from peers (docs/runbooks/replace-xmtpd.md)"
    )]
    Row {
        /// The strand.
        originator: OriginatorId,
        /// The sequence id in the row.
        sequence: i64,
        /// The defect of the row.
        source: RowError,
    },
    /// Database and log differ at the end.
    #[error(
        "originator {originator} differs: the database has {there}, the log {here}. Remove the data folder and \
         import again"
    )]
    Differs {
        /// The strand.
        originator: OriginatorId,
        /// The count and the digest in the database.
        there: String,
        /// The count and the digest in the log.
        here: String,
    },
    /// The data folder contains something else.
    #[error(
        "{path} is not empty: name a new folder (--data-dir), or that of an earlier run which was interrupted"
    )]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },
    /// Another import holds the data folder.
    #[error(
        "{path}: another import is at work in this folder, or has just ended. Wait for its end, or name another folder \
         (--data-dir). This one has changed nothing"
    )]
    FolderHeld {
        /// The folder.
        path: PathBuf,
    },
    /// The data folder contains the unfinished import of another database.
    #[error(
        "{path} holds the unfinished import of another database: name another folder (--data-dir)"
    )]
    OtherImport {
        /// The folder.
        path: PathBuf,
    },
    /// The data folder contains a part of a strand that this run leaves out.
    #[error(
        "the data folder holds a part of originator {originator} from an earlier run, and this run leaves that strand \
         out: give the same --migration-key and --leave-out as before, or remove the data folder and import again"
    )]
    OtherStrand {
        /// The strand.
        originator: OriginatorId,
    },
    /// The data folder cannot be used.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The failure.
        source: std::io::Error,
    },
    /// The database was refused, and the envelopes that were written from it cannot be removed.
    #[error(
        "{refused}. The import could not remove what it had written: {path}: {source}. Remove the data folder"
    )]
    NotCleared {
        /// The reason for the refusal.
        refused: Box<ImportError>,
        /// The folder.
        path: PathBuf,
        /// The failure.
        source: std::io::Error,
    },
    /// The database was refused, and the data folder has envelopes that an earlier run has found good.
    #[error(
        "{refused}. {path} has what an earlier run has written: if you can repair the database, do so and repeat the \
         command, which continues there; otherwise remove the folder"
    )]
    Kept {
        /// The reason for the refusal.
        refused: Box<ImportError>,
        /// The folder.
        path: PathBuf,
    },
    /// Registry, rates or chains cannot be used.
    #[error(transparent)]
    Node(#[from] Box<OpenNodeError>),
    /// The contracts of the network cannot be determined.
    #[error(transparent)]
    Deployment(#[from] RunError),
    /// The log cannot be written.
    #[error("writing the log: {0}")]
    Commit(#[from] CommitError),
    /// The log cannot be synced to the disk.
    #[error("writing the log: {0}")]
    Flush(#[from] DatabaseError),
    /// The log cannot be read.
    #[error("reading the log: {0}")]
    Read(#[from] ReadError),
}

impl ImportError {
    /// Returns true if the content of the database is the reason: a row, or a change since the import began. A later
    /// run could not continue with the envelopes that this one has written.
    pub(super) fn refuses_content(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Row { .. }
                | Self::Changed { .. }
                | Self::Tables { .. }
                | Self::Many { .. }
                | Self::OtherPage { .. }
        )
    }
}

/// Returns the cause of an error, which its own text omits, as the end of a sentence. The server may have chosen it.
pub(super) fn cause(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.map(|cause| format!(": {}", one_line(&cause))).unwrap_or_default()
}

impl From<OpenNodeError> for ImportError {
    fn from(error: OpenNodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

impl From<StrandFaultsError> for ImportError {
    fn from(error: StrandFaultsError) -> Self {
        match error {
            StrandFaultsError::Read(error) => Self::Read(error),
            StrandFaultsError::Commit(error) => Self::Commit(error),
        }
    }
}

impl From<OpenError> for ImportError {
    fn from(error: OpenError) -> Self {
        OpenNodeError::from(error).into()
    }
}

impl From<ImportError> for RunError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Node(error) => (*error).into(),
            ImportError::Deployment(error) => error,
            ImportError::Address(_) => Self::usage(error),
            ImportError::Refused(_)
            | ImportError::InUse { .. }
            | ImportError::Standby
            | ImportError::Schema { .. }
            | ImportError::Tables { .. }
            | ImportError::Many { .. }
            | ImportError::OtherPage { .. }
            | ImportError::Changed { .. }
            | ImportError::Row { .. }
            | ImportError::Differs { .. }
            | ImportError::FolderInUse { .. }
            | ImportError::FolderHeld { .. }
            | ImportError::OtherImport { .. }
            | ImportError::OtherStrand { .. }
            | ImportError::NotCleared { .. }
            | ImportError::Kept { .. } => Self::refused(error),
            ImportError::Postgres { .. }
            | ImportError::Ended { .. }
            | ImportError::Silent { .. }
            | ImportError::Folder { .. }
            | ImportError::Commit(_)
            | ImportError::Flush(_)
            | ImportError::Read(_) => Self::failed(error),
        }
    }
}
