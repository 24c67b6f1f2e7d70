//! Reads a database of the reference implementation, whose table and column names appear here.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use tokio_postgres::Row;

use super::address::DatabaseAddress;
use super::batches::RowBatches;
use super::error::ImportError;
use super::facts::{SCHEMA, SkippedRows, SourceFacts, StrandFacts, TailEvidence};
use super::session::{PostgresLimits, PostgresSession, failed, pair, within};
use super::strand::SourceRow;

/// The number of rows in one batch, which one thread checks and which is one write. As in an export: the larger a
/// batch, the fewer additions a signature in it takes (`docs/decisions/0036-payers-of-an-export-are-recovered.md`).
const BATCH_ROWS: u32 = 8192;
/// The largest length of one batch in bytes, which bounds the memory. A guess.
const BATCH_BYTES: usize = 4 << 20;
/// Rows that one query reads: whole batches. A guess: about a hundredth of the rows of a partition, so that no query is
/// planned as a scan of one.
const PAGE_ROWS: u32 = 2 * BATCH_ROWS;
/// The longest envelope, and the longest topic, that is read, in bytes: above the largest request that a node of either
/// kind takes (25 MiB). Bounds the memory, because a column of an altered database may have a GiB.
const COLUMN_BYTES_MAX: usize = 32 << 20;
/// The number of characters that are read of a payer's or contract's address, and of bytes of a node's key. It exceeds
/// the length of an address (42) and of a key (65), so that a longer text is cut and still equals no known one.
const NAME_LEN_READ: usize = 80;
/// The queries for the highest place of each strand that a table besides those of envelopes knows.
const EVIDENCE: [(TailEvidence, &str); 2] = [
    (
        TailEvidence::Usage,
        "SELECT originator_id, max(last_sequence_id) FROM unsettled_usage GROUP BY originator_id",
    ),
    (
        TailEvidence::Reports,
        "SELECT originator_node_id, max(end_sequence_id) FROM payer_reports GROUP BY originator_node_id",
    ),
];

/// The rows of a batch so far.
#[derive(Default)]
struct RowBatch {
    rows: Vec<SourceRow>,
    len_bytes: usize,
}

impl RowBatch {
    fn push(&mut self, row: SourceRow) {
        self.len_bytes += row.len_bytes();
        self.rows.push(row);
    }

    /// Returns true if the batch takes no further row.
    fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS as usize || self.len_bytes >= BATCH_BYTES
    }
}

/// A database at one time: everything is read from one Postgres snapshot.
pub(super) struct SourceDatabase {
    address: DatabaseAddress,
    session: PostgresSession,
}

impl SourceDatabase {
    /// Connects to the database of a connection string, or of `name` if that is given, and checks that no other session
    /// is open and that the schema is known.
    ///
    /// # Errors
    /// Fails when it cannot be reached or is refused.
    pub(super) async fn open(
        postgres: &str,
        name: Option<&str>,
        limits: PostgresLimits,
    ) -> Result<Self, ImportError> {
        let mut address = DatabaseAddress::parse(postgres)?;
        if let Some(name) = name {
            address.config.dbname(name);
        }
        address.config.application_name("hawser import");
        let session = PostgresSession::connect(&address, limits).await?;
        session.require_alone(1).await?;
        let source = Self { address, session };
        source.require_schema().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        source.session.run("beginning to read", begin).await?;
        Ok(source)
    }

    async fn require_schema(&self) -> Result<(), ImportError> {
        let there = "SELECT to_regclass('schema_migrations') IS NOT NULL";
        let step = "reading the version of the tables";
        if !self.session.value::<bool>(step, there).await? {
            return Err(ImportError::Schema { found: 0, known: SCHEMA });
        }
        let version = "SELECT coalesce(max(version) FILTER (WHERE NOT dirty), 0)::bigint \
                       FROM schema_migrations";
        let found: i64 = self.session.value(step, version).await?;
        if found == SCHEMA { Ok(()) } else { Err(ImportError::Schema { found, known: SCHEMA }) }
    }

    /// Reads the facts about the database.
    ///
    /// # Errors
    /// Fails when Postgres fails.
    pub(super) async fn facts(&self) -> Result<SourceFacts, ImportError> {
        let step = "reading what the database says of itself";
        let session = &self.session;
        let node = format!(
            "SELECT node_id, substring(public_key FROM 1 FOR {NAME_LEN_READ}) FROM node_info"
        );
        let node = session.scan(step, &node).await?;
        let node = node.first().map(pair).transpose().map_err(failed(step))?;
        let counter = counter(session).await?;
        let contracts = format!(
            "SELECT lower(left(contract_address, {NAME_LEN_READ})) FROM latest_block ORDER BY 1"
        );
        let contracts = session.scan(step, &contracts).await?;
        let contracts: Result<Vec<String>, _> =
            contracts.iter().map(|row| row.try_get(0)).collect();
        let contracts = contracts.map_err(failed(step))?;
        let name = "SELECT current_database()::text, \
                    (SELECT oid::bigint FROM pg_database WHERE datname = current_database())";
        let name = session.row(step, name).await?;
        let (name, oid): (String, i64) = pair(&name).map_err(failed(step))?;
        let aside = SkippedRows {
            ledger_events: session.count("payer_ledger_events").await?,
            reports: session.count("payer_reports").await?,
            attestations: session.count("payer_report_attestations").await?,
            usage_minutes: session.count("unsettled_usage").await?,
            positions: i64::try_from(contracts.len()).unwrap_or(i64::MAX),
        };
        let fingerprint = format!("xmtpd {name} {oid} {node:?}");
        let staged = session.count("staged_originator_envelopes").await?;
        let strands = strands(session).await?;
        Ok(SourceFacts { fingerprint, node, strands, staged, counter, contracts, aside })
    }

    /// Returns the last sequence id of the next page of a strand; `None` at its end.
    ///
    /// # Errors
    /// [`ImportError::OtherPage`] if the page would not end behind `after`, and an error if Postgres fails.
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
        let through: Option<i64> = self.session.value("reading places", &page).await?;
        let through = through.and_then(|it| u64::try_from(it).ok()).map(SequenceId);
        match through {
            Some(through) if through <= after => {
                Err(ImportError::OtherPage { originator, through })
            }
            through => Ok(through),
        }
    }

    /// Reads the rows after `after`, up to and including `through`, in batches. Returns true when no results of these
    /// are wanted any more.
    ///
    /// Reads the places that the table of descriptions has. The table of bytes has as many rows of the strand. So the
    /// table has bytes without a description only if it also lacks the bytes of a description, which this function
    /// notices.
    ///
    /// The page has to end with the row at `through`. So a server that names places without an end has to send a row
    /// for each page, and the import checks each row.
    ///
    /// # Errors
    /// [`ImportError::OtherPage`], and an error if Postgres fails.
    pub(super) async fn read_page<T: Send + 'static>(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        through: SequenceId,
        batches: &RowBatches<T>,
        note: &mut (dyn FnMut(u64) + Send),
    ) -> Result<bool, ImportError> {
        let (step, limit) = ("reading envelopes", self.session.limits.answer);
        let page = page_query(originator, after, through);
        let rows = within(step, limit, self.session.rows(step, &page)).await?;
        let mut rows = std::pin::pin!(rows);
        let lost = self.session.failed(step);
        let (mut batch, mut last) = (RowBatch::default(), None);
        loop {
            let next = async { rows.try_next().await.map_err(&lost) };
            let row = within(step, limit, next).await?;
            let is_end = row.is_none();
            if let Some(row) = row {
                let row = source_row(&row).map_err(failed(step))?;
                last = Some(row.sequence);
                batch.push(row);
            }
            if batch.is_full() || (is_end && !batch.rows.is_empty()) {
                let full = std::mem::take(&mut batch).rows;
                let count = full.len();
                if !batches.send(originator, full).await {
                    return Ok(true);
                }
                note(count as u64);
            }
            if is_end {
                let is_whole = last.is_some_and(|it| u64::try_from(it) == Ok(through.0));
                let other = ImportError::OtherPage { originator, through };
                return if is_whole { Ok(false) } else { Err(other) };
            }
        }
    }

    /// Checks that nothing was written since the import began.
    ///
    /// # Errors
    /// [`ImportError::Changed`], and an error if Postgres fails.
    pub(super) async fn require_still(&self, facts: &SourceFacts) -> Result<(), ImportError> {
        let now = PostgresSession::connect(&self.address, self.session.limits).await?;
        now.require_alone(2).await?;
        let counter = counter(&now).await?;
        let staged = now.count("staged_originator_envelopes").await?;
        if (counter, staged) != (facts.counter, facts.staged) {
            let what = format!("the counter of its strand is at {counter} now");
            return Err(ImportError::Changed { what });
        }
        match changed_strand(&facts.strands, &strands(&now).await?) {
            Some(originator) => {
                Err(ImportError::Changed { what: format!("originator {originator}") })
            }
            None => Ok(()),
        }
    }
}

/// Returns a strand that has changed, or that one side lacks.
fn changed_strand(
    before: &BTreeMap<OriginatorId, StrandFacts>,
    now: &BTreeMap<OriginatorId, StrandFacts>,
) -> Option<OriginatorId> {
    before.keys().chain(now.keys()).copied().find(|it| before.get(it) != now.get(it))
}

/// Returns the query for the rows of a strand after `after`, up to and including `through`. Postgres sends no column
/// that is longer than the bounds of this file.
fn page_query(originator: OriginatorId, after: SequenceId, through: SequenceId) -> String {
    let part = format!(
        "WHERE originator_node_id = {originator} AND originator_sequence_id > {after} \
         AND originator_sequence_id <= {through}"
    );
    let bounded = |column: &str| {
        format!("CASE WHEN octet_length({column}) <= {COLUMN_BYTES_MAX} THEN {column} END")
    };
    let (topic, envelope) = (bounded("m.topic"), bounded("b.originator_envelope"));
    format!(
        "SELECT m.place, {topic}, m.expiry, left(p.address, {NAME_LEN_READ}), {envelope}, \
         coalesce(octet_length(b.originator_envelope) > {COLUMN_BYTES_MAX}, false) \
         FROM (SELECT originator_sequence_id AS place, topic, expiry, payer_id \
               FROM gateway_envelopes_meta {part}) AS m \
         LEFT JOIN (SELECT originator_sequence_id AS place, originator_envelope \
               FROM gateway_envelopes_blob {part}) AS b ON b.place = m.place \
         LEFT JOIN payers AS p ON p.id = m.payer_id ORDER BY m.place"
    )
}

/// Returns the highest sequence id of the own strand that was ever assigned.
async fn counter(session: &PostgresSession) -> Result<i64, ImportError> {
    let counter = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END \
                   FROM staged_originator_envelopes_id_seq";
    session.value("reading the counter of the own strand", counter).await
}

/// Counts the envelopes of each strand, and reads what other tables say about its end.
async fn strands(
    session: &PostgresSession,
) -> Result<BTreeMap<OriginatorId, StrandFacts>, ImportError> {
    let step = "counting the envelopes";
    let mut strands: BTreeMap<OriginatorId, StrandFacts> = BTreeMap::new();
    let counted = |table: &str| {
        format!(
            "SELECT originator_node_id, count(*), max(originator_sequence_id) FROM {table} \
             GROUP BY originator_node_id"
        )
    };
    for row in session.scan(step, &counted("gateway_envelopes_meta")).await? {
        let strand = strands.entry(originator_of(&row, step)?).or_default();
        strand.described = row.try_get(1).map_err(failed(step))?;
        strand.head = row.try_get(2).map_err(failed(step))?;
    }
    for row in session.scan(step, &counted("gateway_envelopes_blob")).await? {
        strands.entry(originator_of(&row, step)?).or_default().stored =
            row.try_get(1).map_err(failed(step))?;
    }
    let latest = "SELECT originator_node_id, originator_sequence_id FROM gateway_envelopes_latest";
    for row in session.scan(step, latest).await? {
        strands.entry(originator_of(&row, step)?).or_default().recorded_head =
            row.try_get(1).map_err(failed(step))?;
    }
    for (evidence, sql) in EVIDENCE {
        for row in session.scan(step, sql).await? {
            let strand = strands.entry(originator_of(&row, step)?).or_default();
            let place = row.try_get(1).map_err(failed(step))?;
            strand.evidence.insert(evidence, place);
        }
    }
    Ok(strands)
}

/// Returns the originator in the first column. A negative id is mapped to one that no registry has.
fn originator_of(row: &Row, step: &'static str) -> Result<OriginatorId, ImportError> {
    let id: i32 = row.try_get(0).map_err(failed(step))?;
    Ok(OriginatorId(u32::from_ne_bytes(id.to_ne_bytes())))
}

fn source_row(row: &Row) -> Result<SourceRow, tokio_postgres::Error> {
    let topic: Option<Vec<u8>> = row.try_get(1)?;
    let envelope: Option<&[u8]> = row.try_get(4)?;
    Ok(SourceRow {
        sequence: row.try_get(0)?,
        is_long: topic.is_none() || row.try_get::<_, bool>(5)?,
        topic: topic.unwrap_or_default(),
        expiry: row.try_get(2)?,
        payer: row.try_get(3)?,
        envelope: envelope.map(Bytes::copy_from_slice),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::super::session::SCAN_ROWS_MAX;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    /// Reads one message: its length follows a type byte, which the first message of a session lacks.
    async fn read_message(stream: &mut TcpStream, has_type: bool) -> Option<()> {
        if has_type {
            stream.read_u8().await.ok()?;
        }
        let length = stream.read_u32().await.ok()?;
        let mut rest = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
        stream.read_exact(&mut rest).await.ok()?;
        Some(())
    }

    /// Plays a server that completes the start of a session and this many statements, and then says nothing more.
    async fn fall_silent_after(statements: usize, mut stream: TcpStream) -> Option<()> {
        read_message(&mut stream, false).await?;
        let ready = *b"Z\0\0\0\x05I";
        stream.write_all(b"R\0\0\0\x08\0\0\0\0").await.ok()?;
        stream.write_all(&ready).await.ok()?;
        for _ in 0..statements {
            read_message(&mut stream, true).await?;
            stream.write_all(b"C\0\0\0\x08SET\0").await.ok()?;
            stream.write_all(&ready).await.ok()?;
        }
        // Reads on, so that the connection stays open.
        while read_message(&mut stream, true).await.is_some() {}
        Some(())
    }

    async fn refused_by(statements: usize, limits: PostgresLimits) -> String {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let playing = tokio::spawn(async move {
            let (stream, _) = server.accept().await.unwrap();
            fall_silent_after(statements, stream).await
        });
        let url = format!("postgres://reader:secret@127.0.0.1:{port}/xmtpd?sslmode=disable");
        let Err(error) = SourceDatabase::open(&url, None, limits).await else {
            panic!("it was silent");
        };
        playing.abort();
        assert!(matches!(error, ImportError::Silent { .. }), "{error}");
        error.to_string()
    }

    /// Plays a server that answers every query with this many rows of one number, 7.
    async fn give_rows(count: usize, mut stream: TcpStream) -> Option<()> {
        const READY: &[u8] = b"Z\0\0\0\x05I";
        const DONE: &[u8] = b"C\0\0\0\x0bSELECT\0";
        const ROW: &[u8] = b"D\0\0\0\x12\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x07";
        let parsed: [&[u8]; 7] = [
            b"1\0\0\0\x04",
            b"t\0\0\0\x06\0\0",
            b"T\0\0\0\x1a\0\x01n\0",
            &[0; 6],
            b"\0\0\0\x14\0\x08",
            &[0xff; 4],
            &[0; 2],
        ];
        read_message(&mut stream, false).await?;
        stream.write_all(b"R\0\0\0\x08\0\0\0\0").await.ok()?;
        stream.write_all(READY).await.ok()?;
        loop {
            let kind = stream.read_u8().await.ok()?;
            read_message(&mut stream, false).await?;
            let answer = match kind {
                b'Q' => [DONE, READY].concat(),
                b'P' => parsed.concat(),
                b'B' => [&b"2\0\0\0\x04"[..], &ROW.repeat(count), DONE].concat(),
                b'C' => b"3\0\0\0\x04".to_vec(),
                b'S' => READY.to_vec(),
                _ => Vec::new(),
            };
            stream.write_all(&answer).await.ok()?;
        }
    }

    /// Opens a session with a server that answers every query with this many rows.
    async fn giving(count: usize) -> (SourceDatabase, JoinHandle<Option<()>>) {
        let limits = PostgresLimits { connect: LONG, answer: LONG, count: LONG };
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let playing = tokio::spawn(async move {
            let (stream, _) = server.accept().await.unwrap();
            give_rows(count, stream).await
        });
        let url = format!("postgres://reader@127.0.0.1:{port}/xmtpd?sslmode=disable");
        let address = DatabaseAddress::parse(&url).unwrap();
        let session = PostgresSession::connect(&address, limits).await.unwrap();
        (SourceDatabase { address, session }, playing)
    }

    /// An altered database may have any number of originators and of contracts.
    #[tokio::test]
    async fn a_table_with_too_many_rows_is_refused() {
        for (count, is_taken) in [(SCAN_ROWS_MAX, true), (SCAN_ROWS_MAX + 1, false)] {
            let (source, playing) = giving(count).await;
            let scanned = source.session.scan("counting", "SELECT n FROM altered").await;
            playing.abort();
            assert_eq!(scanned.as_ref().map_or(0, Vec::len), if is_taken { count } else { 0 });
            let refused = scanned.err();
            assert_eq!(refused.is_none(), is_taken);
            assert!(refused.is_none_or(|it| it.refuses_content()));
        }
    }

    /// A hostile server names places without an end, and an index that is damaged names places that no row has.
    #[tokio::test]
    async fn a_page_ends_behind_its_beginning_and_with_a_row() {
        const OWN: OriginatorId = OriginatorId(100);
        let (source, playing) = giving(1).await;
        let next = source.next_page(OWN, SequenceId(6)).await.unwrap();
        assert_eq!(next, Some(SequenceId(7)));
        for after in [7, 8] {
            let refused = source.next_page(OWN, SequenceId(after)).await.unwrap_err();
            assert!(matches!(refused, ImportError::OtherPage { .. }), "{refused}");
        }
        playing.abort();
        let (source, playing) = giving(0).await;
        let (batches, _results) = RowBatches::new(|_, rows: Vec<SourceRow>| rows.len());
        let (after, through) = (SequenceId(6), SequenceId(7));
        let read = source.read_page(OWN, after, through, &batches, &mut |_| {}).await;
        playing.abort();
        let refused = read.unwrap_err();
        assert!(matches!(refused, ImportError::OtherPage { .. }), "{refused}");
        assert!(refused.refuses_content(), "a repeated command would find the same");
    }

    #[test]
    fn a_strand_that_is_gone_has_changed_too() {
        let of = |heads: &[(u32, i64)]| -> BTreeMap<_, _> {
            let strand = |head| StrandFacts { head, ..StrandFacts::default() };
            heads.iter().map(|&(id, head)| (OriginatorId(id), strand(head))).collect()
        };
        let before = of(&[(100, 7), (200, 1)]);
        assert_eq!(changed_strand(&before, &before), None);
        for now in [&[(100, 7), (200, 2)][..], &[(100, 7)], &[(100, 7), (200, 1), (300, 1)]] {
            let changed = changed_strand(&before, &of(now));
            assert!(matches!(changed, Some(OriginatorId(200 | 300))), "{now:?}: {changed:?}");
        }
    }

    /// A column of Postgres has up to a GiB, and the payers of all rows may be one long text.
    #[test]
    fn every_long_column_is_bounded_where_it_is_read() {
        let page = page_query(OriginatorId(100), SequenceId(3), SequenceId(9));
        let (columns, tables) = page.split_once(" FROM (").unwrap();
        for column in ["m.topic", "b.originator_envelope"] {
            let bounded = format!("CASE WHEN octet_length({column}) <= 33554432 THEN {column} END");
            assert!(columns.contains(&bounded), "{columns}");
        }
        assert!(columns.contains("left(p.address, 80)"), "{columns}");
        let read = "originator_node_id = 100 AND originator_sequence_id > 3 AND originator_sequence_id <= 9";
        assert_eq!(tables.matches(read).count(), 2, "{tables}");
    }

    /// The tables of an altered database may have anything of any length beside an envelope.
    #[test]
    fn rows_with_long_topics_make_small_batches() {
        let row = |sequence| SourceRow {
            sequence,
            is_long: false,
            topic: vec![7; BATCH_BYTES / 8],
            expiry: 0,
            payer: Some("0".repeat(BATCH_BYTES / 8)),
            envelope: None,
        };
        let mut batch = RowBatch::default();
        (1..=3).for_each(|sequence| batch.push(row(sequence)));
        assert!(!batch.is_full());
        batch.push(row(4));
        assert!(batch.is_full());
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_does_not_hold_an_import_for_ever() {
        let connect = PostgresLimits { connect: SHORT, answer: LONG, count: LONG };
        assert!(refused_by(0, connect).await.starts_with("connecting to Postgres: no answer"));
        let answer = PostgresLimits { connect: LONG, answer: SHORT, count: LONG };
        let said = refused_by(1, answer).await;
        assert!(said.starts_with("looking for other sessions: no answer"), "{said}");
        assert!(said.contains("repeat the command"), "{said}");
    }
}
