//! One session with Postgres, each step of which has a time limit.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hawser_proto::one_line;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, WasNull, WrongType};
use tokio_postgres::{Client, Row, RowStream};

use super::address::DatabaseAddress;
use super::error::{ImportError, cause};
use super::facts::SCHEMA;

/// The settings of each session. With this working memory, Postgres sorts a page of common envelopes in memory and not
/// on its disk. Compiling a query for so few rows would take longer than running it.
const SETTINGS: &str = "SET default_transaction_read_only = on; SET statement_timeout = 0; \
                        SET idle_in_transaction_session_timeout = 0; SET work_mem = '64MB'; SET jit = off";

/// The maximum number of rows that a query for one row of each strand, or of each contract, may give. Bounds the
/// memory. A guess: far above the number of nodes and contracts of any network.
pub(super) const SCAN_ROWS_MAX: usize = 10_000;

/// The maximum number of bytes that these rows may have together. A guess: a thousand for each; a row has a few
/// numbers, or a name.
const SCAN_BYTES_MAX: usize = 1000 * SCAN_ROWS_MAX;

/// The time without any traffic after which the system asks whether the server's machine is still there. A guess.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

/// The number of times that other sessions are looked for before they count: Postgres lists a session of a program that
/// has just ended until the process of that session has ended too. A guess.
const SESSION_LOOKS: u32 = 20;
/// The time between two of these looks.
const SESSION_LOOKS_EVERY: Duration = Duration::from_millis(100);

/// The times that an import waits for Postgres.
#[derive(Debug, Clone, Copy)]
pub(super) struct PostgresLimits {
    /// For a connection to be there. Guess: a server that is starting answers sooner.
    pub(super) connect: Duration,
    /// For the next answer or row of a query that reads through an index. A guess: a hundred times what a slow disk
    /// needs for one page.
    pub(super) answer: Duration,
    /// For the answer of a query that reads a whole table. A guess: a billion rows from a slow disk.
    pub(super) count: Duration,
}

impl Default for PostgresLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            answer: Duration::from_secs(300),
            count: Duration::from_secs(3600),
        }
    }
}

/// A session. Each call names its step, for the error.
pub(super) struct PostgresSession {
    client: Client,
    pub(super) limits: PostgresLimits,
    /// The reason for which the connection has ended.
    ended: Arc<OnceLock<String>>,
}

impl PostgresSession {
    /// Connects.
    ///
    /// # Errors
    /// Fails if the server cannot be reached or does not answer in time.
    pub(super) async fn connect(
        address: &DatabaseAddress,
        limits: PostgresLimits,
    ) -> Result<Self, ImportError> {
        let step = "connecting to Postgres";
        within(step, limits.connect, connect(address, limits)).await
    }

    /// Returns a function that converts an error of a call in this step.
    pub(super) fn failed(
        &self,
        step: &'static str,
    ) -> impl Fn(tokio_postgres::Error) -> ImportError {
        let ended = self.ended.clone();
        move |source| match ended.get().filter(|_| source.is_closed()) {
            Some(cause) => ImportError::Ended { step, cause: cause.clone() },
            None => failed(step)(source),
        }
    }

    /// Runs a statement without an answer.
    pub(super) async fn run(&self, step: &'static str, sql: &str) -> Result<(), ImportError> {
        let run = async { self.client.batch_execute(sql).await.map_err(self.failed(step)) };
        within(step, self.limits.answer, run).await
    }

    /// Returns the one row of an answer.
    pub(super) async fn row(&self, step: &'static str, sql: &str) -> Result<Row, ImportError> {
        let row = async { self.client.query_one(sql, &[]).await.map_err(self.failed(step)) };
        within(step, self.limits.answer, row).await
    }

    /// Returns the first value of the one row of an answer.
    pub(super) async fn value<T>(&self, step: &'static str, sql: &str) -> Result<T, ImportError>
    where
        T: for<'a> FromSql<'a>,
    {
        self.row(step, sql).await?.try_get(0).map_err(failed(step))
    }

    /// Begins a query, and returns its rows as they come.
    pub(super) async fn rows(
        &self,
        step: &'static str,
        sql: &str,
    ) -> Result<RowStream, ImportError> {
        let none: [i32; 0] = [];
        self.client.query_raw(sql, none).await.map_err(self.failed(step))
    }

    /// Returns all rows of a query that reads a whole table.
    ///
    /// # Errors
    /// [`ImportError::Many`] if there are more than 10,000 rows, or long ones: the tables were altered, or the server
    /// does not do what it is told.
    pub(super) async fn scan(
        &self,
        step: &'static str,
        sql: &str,
    ) -> Result<Vec<Row>, ImportError> {
        let sql = format!("{sql} LIMIT {}", SCAN_ROWS_MAX + 1);
        within(step, self.limits.count, self.read_all(step, &sql)).await
    }

    async fn read_all(&self, step: &'static str, sql: &str) -> Result<Vec<Row>, ImportError> {
        let mut stream = pin!(self.rows(step, sql).await?);
        let failed = self.failed(step);
        let (mut rows, mut len_bytes) = (Vec::new(), 0);
        while let Some(row) = stream.try_next().await.map_err(&failed)? {
            len_bytes += row.raw_size_bytes();
            if rows.len() == SCAN_ROWS_MAX || len_bytes > SCAN_BYTES_MAX {
                return Err(ImportError::Many { step, max: SCAN_ROWS_MAX });
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Returns the number of rows in a table.
    pub(super) async fn count(&self, table: &str) -> Result<i64, ImportError> {
        let step = "counting rows";
        let sql = format!("SELECT count(*) FROM {table}");
        let row = async { self.client.query_one(&sql, &[]).await.map_err(self.failed(step)) };
        within(step, self.limits.count, row).await?.try_get(0).map_err(failed(step))
    }

    /// Checks that no other session has the database open. A node keeps its sessions while it runs, so a session that
    /// ends within two seconds does not belong to a running node.
    ///
    /// # Errors
    /// Fails if there are more than `own` sessions, or on a standby.
    pub(super) async fn require_alone(&self, own: i64) -> Result<(), ImportError> {
        let step = "looking for other sessions";
        if self.value(step, "SELECT pg_is_in_recovery()").await? {
            return Err(ImportError::Standby);
        }
        let mut looks_left = SESSION_LOOKS;
        loop {
            let (sessions, names) = self.sessions(step).await?;
            if sessions <= own {
                return Ok(());
            }
            looks_left -= 1;
            if looks_left == 0 {
                let names = one_line(&names);
                return Err(ImportError::InUse { sessions: sessions - own, names });
            }
            tokio::time::sleep(SESSION_LOOKS_EVERY).await;
        }
    }

    /// Returns the number of sessions that have the database open, and the names of the others.
    async fn sessions(&self, step: &'static str) -> Result<(i64, String), ImportError> {
        // Some users cannot see the kind and the application name of a session, but all can see that it exists.
        // Sessions of the server itself belong to no user.
        let sessions = "SELECT count(*), \
                  coalesce(string_agg(DISTINCT coalesce(nullif(application_name, ''), 'unnamed'), ', ') \
                  FILTER (WHERE pid <> pg_backend_pid()), '') \
                  FROM pg_stat_activity WHERE datname = current_database() AND usesysid IS NOT NULL \
                  AND coalesce(backend_type, 'client backend') = 'client backend'";
        pair(&self.row(step, sessions).await?).map_err(failed(step))
    }
}

/// Waits for a step of an import at most this long.
pub(super) async fn within<T>(
    step: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, ImportError>>,
) -> Result<T, ImportError> {
    let done = tokio::time::timeout(after, work).await;
    done.unwrap_or(Err(ImportError::Silent { step, after }))
}

async fn connect(
    DatabaseAddress { config, tls }: &DatabaseAddress,
    limits: PostgresLimits,
) -> Result<PostgresSession, ImportError> {
    let mut config = config.clone();
    config.keepalives_idle(KEEPALIVE_AFTER).keepalives_interval(KEEPALIVE_AFTER / 3);
    let mut connected = config.connect(tls.clone()).await;
    // The server may support only TLS that this program cannot use, and the operator has not required TLS. An error
    // from the server itself is final.
    let has_failed = connected.as_ref().is_err_and(|error| error.as_db_error().is_none());
    if let Some(without_tls) = tls.without_tls().filter(|_| has_failed) {
        connected = config.connect(without_tls).await;
    }
    let (client, connection) = connected.map_err(failed("connecting to Postgres"))?;
    let session = PostgresSession { client, limits, ended: Arc::default() };
    let ended = session.ended.clone();
    tokio::spawn(async move {
        // Calls fail when the connection is dropped, so the reason is there before.
        let mut connection = pin!(connection);
        if let Err(error) = connection.as_mut().await {
            ended.get_or_init(|| format!("{error}{}", cause(&error)));
        }
    });
    let set = session.client.batch_execute(SETTINGS).await;
    set.map_err(session.failed("setting up the session"))?;
    Ok(session)
}

/// Returns a function that converts an error of Postgres in this step.
pub(super) fn failed(step: &'static str) -> impl Fn(tokio_postgres::Error) -> ImportError {
    move |source| {
        if is_of_form(&source) {
            ImportError::Tables { step, source, known: SCHEMA }
        } else {
            ImportError::Postgres { step, source }
        }
    }
}

/// Returns true if an error comes from a table, a column or a type that the schema does not have.
fn is_of_form(error: &tokio_postgres::Error) -> bool {
    let is_missing = matches!(
        error.code(),
        Some(
            &SqlState::UNDEFINED_TABLE
                | &SqlState::UNDEFINED_COLUMN
                | &SqlState::UNDEFINED_FUNCTION
        )
    );
    let cause = std::error::Error::source(error);
    is_missing || cause.is_some_and(|cause| cause.is::<WrongType>() || cause.is::<WasNull>())
}

/// Returns the values in the first two columns.
///
/// # Errors
/// Fails if a column has another type: the tables were altered.
pub(super) fn pair<'a, A: FromSql<'a>, B: FromSql<'a>>(
    row: &'a Row,
) -> Result<(A, B), tokio_postgres::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}
