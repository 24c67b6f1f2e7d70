//! Reads a database of the reference implementation, whose table and column names appear here.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use tokio::sync::mpsc;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, WasNull, WrongType};
use tokio_postgres::{Client, Row};

use super::address::DatabaseAddress;
use super::error::ImportError;
use super::facts::{AsideFacts, SourceFacts, StrandFacts};
use super::strand::SourceRow;

/// The schema version that this program reads (xmtpd of July 2026).
const SCHEMA: i64 = 23;
/// The number of rows in one batch, which is one write. A guess: enough to verify signatures together on many cores.
const BATCH_ROWS: u32 = 4096;
/// The largest length of one batch in bytes, which bounds the memory. A guess.
const BATCH_BYTES: usize = 8 << 20;
/// Rows that one query reads: whole batches. A guess: about a hundredth of the rows of a partition, so that no query is
/// planned as a scan of one.
const PAGE_ROWS: u32 = 3 * BATCH_ROWS;
/// The settings of each session. With this working memory, Postgres sorts a page of common envelopes in memory and not
/// on its disk. Compiling a query for so few rows would take longer than running it.
const SESSION: &str = "SET default_transaction_read_only = on; SET statement_timeout = 0; \
                       SET idle_in_transaction_session_timeout = 0; SET work_mem = '64MB'; SET jit = off";

/// The time for a connection to be there. Guess: a server that is starting answers sooner.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// A database at one time: everything is read from one Postgres snapshot.
pub(super) struct SourceDatabase {
    address: DatabaseAddress,
    client: Client,
}

impl SourceDatabase {
    /// Connects, and checks that no other session is open and that the schema is known.
    ///
    /// # Errors
    /// Fails when it cannot be reached or is refused.
    pub(super) async fn open(postgres: &str) -> Result<Self, ImportError> {
        let mut address = DatabaseAddress::parse(postgres)?;
        address.config.application_name("hawser import");
        let client = connect(&address).await?;
        let source = Self { address, client };
        require_alone(&source.client, 1).await?;
        source.require_schema().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        source.client.batch_execute(begin).await.map_err(failed("beginning to read"))?;
        Ok(source)
    }

    async fn require_schema(&self) -> Result<(), ImportError> {
        let there = "SELECT to_regclass('schema_migrations') IS NOT NULL";
        let step = failed("reading the version of the tables");
        let is_there: bool =
            first(&self.client.query_one(there, &[]).await.map_err(&step)?, &step)?;
        if !is_there {
            return Err(ImportError::Schema { found: 0, known: SCHEMA });
        }
        let version = "SELECT coalesce(max(version) FILTER (WHERE NOT dirty), 0)::bigint \
                       FROM schema_migrations";
        let found: i64 = first(&self.client.query_one(version, &[]).await.map_err(&step)?, &step)?;
        if found == SCHEMA { Ok(()) } else { Err(ImportError::Schema { found, known: SCHEMA }) }
    }

    /// Reads the facts about the database.
    ///
    /// # Errors
    /// Fails when Postgres fails.
    pub(super) async fn facts(&self) -> Result<SourceFacts, ImportError> {
        let step = failed("reading what the database says of itself");
        let client = &self.client;
        let node = client
            .query_opt("SELECT node_id, public_key FROM node_info", &[])
            .await
            .map_err(&step)?
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .transpose()
            .map_err(&step)?;
        let counter = self.counter(client).await?;
        let contracts = client
            .query("SELECT lower(contract_address) FROM latest_block ORDER BY 1", &[])
            .await
            .map_err(&step)?;
        let contracts: Vec<String> =
            contracts.iter().map(|row| first(row, &step)).collect::<Result<_, _>>()?;
        let name = "SELECT current_database()::text, \
                    (SELECT oid::bigint FROM pg_database WHERE datname = current_database())";
        let name = client.query_one(name, &[]).await.map_err(&step)?;
        let (name, oid): (String, i64) = pair(&name, &step)?;
        let count = async |table: &str| count(client, table).await;
        let aside = AsideFacts {
            ledger_events: count("payer_ledger_events").await?,
            reports: count("payer_reports").await?,
            attestations: count("payer_report_attestations").await?,
            usage_minutes: count("unsettled_usage").await?,
            positions: i64::try_from(contracts.len()).unwrap_or(i64::MAX),
        };
        let fingerprint = format!("xmtpd {name} {oid} {node:?}");
        let staged = count("staged_originator_envelopes").await?;
        let strands = self.strands().await?;
        Ok(SourceFacts { fingerprint, node, strands, staged, counter, contracts, aside })
    }

    async fn strands(&self) -> Result<BTreeMap<OriginatorId, StrandFacts>, ImportError> {
        let step = failed("counting the envelopes");
        let mut strands: BTreeMap<OriginatorId, StrandFacts> = BTreeMap::new();
        let counted = |table: &str| {
            format!(
                "SELECT originator_node_id, count(*), max(originator_sequence_id) FROM {table} \
                 GROUP BY originator_node_id"
            )
        };
        let described = counted("gateway_envelopes_meta");
        for row in self.client.query(&described, &[]).await.map_err(&step)? {
            let strand = strands.entry(originator_of(&row, &step)?).or_default();
            strand.described = row.try_get(1).map_err(&step)?;
            strand.head = row.try_get(2).map_err(&step)?;
        }
        let stored = counted("gateway_envelopes_blob");
        for row in self.client.query(&stored, &[]).await.map_err(&step)? {
            strands.entry(originator_of(&row, &step)?).or_default().stored =
                row.try_get(1).map_err(&step)?;
        }
        let latest =
            "SELECT originator_node_id, originator_sequence_id FROM gateway_envelopes_latest";
        for row in self.client.query(latest, &[]).await.map_err(&step)? {
            strands.entry(originator_of(&row, &step)?).or_default().recorded_head =
                row.try_get(1).map_err(&step)?;
        }
        Ok(strands)
    }

    /// Returns the highest sequence id of the own strand that was ever assigned.
    async fn counter(&self, client: &Client) -> Result<i64, ImportError> {
        let counter = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END \
                       FROM staged_originator_envelopes_id_seq";
        let step = failed("reading the counter of the own strand");
        first(&client.query_one(counter, &[]).await.map_err(&step)?, &step)
    }

    /// Returns the last sequence id of the next page of a strand; `None` at its end.
    ///
    /// # Errors
    /// Fails when Postgres fails.
    pub(super) async fn next_page(
        &self,
        originator: OriginatorId,
        after: SequenceId,
    ) -> Result<Option<SequenceId>, ImportError> {
        let page = format!(
            "SELECT max(place) FROM (SELECT originator_sequence_id AS place \
             FROM gateway_envelopes_meta \
             WHERE originator_node_id = {originator} AND originator_sequence_id > {after} \
             ORDER BY originator_sequence_id LIMIT {PAGE_ROWS}) AS page"
        );
        let step = failed("reading places");
        let row = self.client.query_one(&page, &[]).await.map_err(&step)?;
        let through: Option<i64> = first(&row, &step)?;
        Ok(through.and_then(|it| u64::try_from(it).ok()).map(SequenceId))
    }

    /// Reads the rows after `after`, up to and including `through`, in batches. Returns true when the receiver is gone.
    ///
    /// # Errors
    /// Fails when Postgres fails.
    pub(super) async fn read_page(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        through: SequenceId,
        rows_to: &mpsc::Sender<Vec<SourceRow>>,
        note: &mut (dyn FnMut(u64) + Send),
    ) -> Result<bool, ImportError> {
        let step = failed("reading envelopes");
        let part = format!(
            "WHERE originator_node_id = {originator} AND originator_sequence_id > {after} \
             AND originator_sequence_id <= {through}"
        );
        let page = format!(
            "SELECT coalesce(m.place, b.place), m.topic, m.expiry, p.address, b.originator_envelope \
             FROM (SELECT originator_sequence_id AS place, topic, expiry, payer_id \
                   FROM gateway_envelopes_meta {part}) AS m \
             FULL JOIN (SELECT originator_sequence_id AS place, originator_envelope \
                   FROM gateway_envelopes_blob {part}) AS b ON b.place = m.place \
             LEFT JOIN payers AS p ON p.id = m.payer_id ORDER BY 1"
        );
        let none: [i32; 0] = [];
        let rows = self.client.query_raw(&page, none).await.map_err(&step)?;
        let mut rows = std::pin::pin!(rows);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        loop {
            let row = rows.try_next().await.map_err(&step)?;
            let is_end = row.is_none();
            if let Some(row) = row {
                let row = source_row(&row).map_err(&step)?;
                bytes += row.envelope.as_ref().map_or(0, Bytes::len);
                batch.push(row);
            }
            if is_end || batch.len() >= BATCH_ROWS as usize || bytes >= BATCH_BYTES {
                let count = batch.len();
                let full = std::mem::take(&mut batch);
                bytes = 0;
                if rows_to.send(full).await.is_err() {
                    return Ok(true);
                }
                note(count as u64);
            }
            if is_end {
                return Ok(false);
            }
        }
    }

    /// Checks that nothing was written since the import began.
    ///
    /// # Errors
    /// [`ImportError::Changed`], and an error if Postgres fails.
    pub(super) async fn require_still(&self, facts: &SourceFacts) -> Result<(), ImportError> {
        let now = Self { address: self.address.clone(), client: connect(&self.address).await? };
        require_alone(&now.client, 2).await?;
        let counter = now.counter(&now.client).await?;
        let staged = count(&now.client, "staged_originator_envelopes").await?;
        if (counter, staged) != (facts.counter, facts.staged) {
            let what = format!("the counter of its strand stands at {counter}");
            return Err(ImportError::Changed { what });
        }
        for (originator, strand) in now.strands().await? {
            if facts.strands.get(&originator) != Some(&strand) {
                return Err(ImportError::Changed { what: format!("originator {originator}") });
            }
        }
        Ok(())
    }
}

/// Returns a function that converts an error of Postgres in this step.
fn failed(step: &'static str) -> impl Fn(tokio_postgres::Error) -> ImportError {
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

/// Connects, within [`CONNECT_MAX`].
async fn connect(address: &DatabaseAddress) -> Result<Client, ImportError> {
    let connected = tokio::time::timeout(CONNECT_MAX, connect_anyway(address)).await;
    connected
        .unwrap_or(Err(ImportError::Silent { step: "connecting to Postgres", after: CONNECT_MAX }))
}

async fn connect_anyway(
    DatabaseAddress { config, tls }: &DatabaseAddress,
) -> Result<Client, ImportError> {
    let mut connected = config.connect(tls.clone()).await;
    // The server may support only TLS that this program cannot use, and the operator has not required TLS. An error
    // from the server itself is final.
    let has_failed = connected.as_ref().is_err_and(|error| error.as_db_error().is_none());
    if has_failed && config.get_ssl_mode() == SslMode::Prefer {
        connected = config.clone().ssl_mode(SslMode::Disable).connect(tls.clone()).await;
    }
    let (client, connection) = connected.map_err(failed("connecting to Postgres"))?;
    tokio::spawn(async move {
        // The client's next call returns the error.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to Postgres has ended");
        }
    });
    client.batch_execute(SESSION).await.map_err(failed("setting up the session"))?;
    Ok(client)
}

/// Checks that no other session has the database open. A node keeps its sessions while it runs.
async fn require_alone(client: &Client, own: i64) -> Result<(), ImportError> {
    let step = failed("looking for other sessions");
    let standby = client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(&step)?;
    if first(&standby, &step)? {
        return Err(ImportError::Standby);
    }
    // Some users cannot see the kind and the application name of a session, but all can see that it exists. Sessions of
    // the server itself belong to no user.
    let others = "SELECT count(*), \
                  coalesce(string_agg(DISTINCT coalesce(nullif(application_name, ''), 'unnamed'), ', '), '') \
                  FROM pg_stat_activity WHERE datname = current_database() AND usesysid IS NOT NULL \
                  AND coalesce(backend_type, 'client backend') = 'client backend'";
    let others = client.query_one(others, &[]).await.map_err(&step)?;
    let (sessions, names): (i64, String) = pair(&others, &step)?;
    if sessions > own {
        return Err(ImportError::InUse { sessions: sessions - own, names });
    }
    Ok(())
}

async fn count(client: &Client, table: &str) -> Result<i64, ImportError> {
    let step = failed("counting rows");
    first(
        &client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.map_err(&step)?,
        &step,
    )
}

/// Returns the value in the first column.
///
/// # Errors
/// Fails if the column has another type: the tables were altered.
fn first<'a, T: FromSql<'a>>(
    row: &'a Row,
    step: impl Fn(tokio_postgres::Error) -> ImportError,
) -> Result<T, ImportError> {
    row.try_get(0).map_err(step)
}

/// Returns the values in the first two columns; see [`first`].
fn pair<'a, A: FromSql<'a>, B: FromSql<'a>>(
    row: &'a Row,
    step: impl Fn(tokio_postgres::Error) -> ImportError,
) -> Result<(A, B), ImportError> {
    Ok((first(row, &step)?, row.try_get(1).map_err(step)?))
}

/// Returns the originator in the first column. A negative id is mapped to one that no registry has.
fn originator_of(
    row: &Row,
    step: impl Fn(tokio_postgres::Error) -> ImportError,
) -> Result<OriginatorId, ImportError> {
    Ok(OriginatorId(u32::from_ne_bytes(first::<i32>(row, step)?.to_ne_bytes())))
}

fn source_row(row: &Row) -> Result<SourceRow, tokio_postgres::Error> {
    let topic: Option<Vec<u8>> = row.try_get(1)?;
    let expiry: Option<i64> = row.try_get(2)?;
    let envelope: Option<&[u8]> = row.try_get(4)?;
    Ok(SourceRow {
        sequence: row.try_get(0)?,
        described: topic.zip(expiry),
        payer: row.try_get(3)?,
        envelope: envelope.map(Bytes::copy_from_slice),
    })
}
