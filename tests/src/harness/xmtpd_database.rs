//! A database as xmtpd keeps one, in a Postgres server of its own. Only what an import reads is there.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{OriginatorId, PublicKey, Signature};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{ports, strand, wait};

/// Tables with the names and columns of xmtpd, at version 23 of its schema.
const TABLES: &str = "
    CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL);
    INSERT INTO schema_migrations VALUES (23, false);
    CREATE TABLE node_info (node_id int NOT NULL, public_key bytea NOT NULL);
    CREATE TABLE staged_originator_envelopes (id bigserial PRIMARY KEY, topic bytea NOT NULL);
    CREATE TABLE payers (id serial PRIMARY KEY, address text NOT NULL UNIQUE);
    CREATE TABLE gateway_envelopes_meta (
        gateway_time timestamp NOT NULL DEFAULT now(), originator_node_id int NOT NULL,
        originator_sequence_id bigint NOT NULL, topic bytea NOT NULL, payer_id int REFERENCES payers (id),
        expiry bigint NOT NULL, PRIMARY KEY (originator_node_id, originator_sequence_id)
    ) PARTITION BY LIST (originator_node_id);
    CREATE TABLE gateway_envelopes_blob (
        originator_node_id int NOT NULL, originator_sequence_id bigint NOT NULL,
        originator_envelope bytea NOT NULL, PRIMARY KEY (originator_node_id, originator_sequence_id)
    ) PARTITION BY LIST (originator_node_id);
    CREATE TABLE gateway_envelopes_latest (
        originator_node_id int PRIMARY KEY, originator_sequence_id bigint NOT NULL);
    CREATE TABLE latest_block (contract_address text PRIMARY KEY, block_number bigint NOT NULL);
    CREATE TABLE payer_ledger_events (event_id bytea PRIMARY KEY);
    CREATE TABLE payer_reports (
        id bytea PRIMARY KEY, originator_node_id int NOT NULL, end_sequence_id bigint NOT NULL);
    CREATE TABLE payer_report_attestations (payer_report_id bytea, node_id bigint);
    CREATE TABLE unsettled_usage (
        payer_id int NOT NULL, originator_id int NOT NULL, minutes_since_epoch int NOT NULL,
        last_sequence_id bigint NOT NULL);";

/// Width of the partitions of xmtpd, in places.
const BAND: u64 = 1_000_000;

/// A Postgres server without durability.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    process: Child,
    _folder: TempDir,
}

/// A certificate that has signed itself, and its key, as PEM.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its secret key.
    pub key: String,
}

impl Certificate {
    /// Makes one for a host.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(host: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        Self {
            certificate: pem("CERTIFICATE", made.cert.der()),
            key: pem("PRIVATE KEY", &made.signing_key.serialize_der()),
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let lines = STANDARD.encode(der);
    let lines: Vec<_> = lines.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A session with one database. Close it before anything that wants the database for itself.
#[derive(Debug)]
pub struct Session {
    /// Its connection.
    pub client: Client,
    name: String,
    port: u16,
}

impl Postgres {
    /// Starts a server; `None` with a message if this machine has none.
    ///
    /// # Panics
    /// Panics if it cannot be made.
    pub async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// Starts a server that also takes TLS connections, with this certificate.
    ///
    /// # Panics
    /// Panics if it cannot be made.
    pub async fn start_with_tls(certificate: &Certificate) -> Option<Self> {
        Self::start_with(Some(certificate)).await
    }

    async fn start_with(certificate: Option<&Certificate>) -> Option<Self> {
        let Some(programs) = programs() else {
            let why = "because there is no Postgres here; install postgresql";
            let _ = writeln!(io::stderr(), "NOT TESTED: imports, {why}");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let user = other_user();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let as_user = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = folder.path().join("data");
        let mut initdb = as_user("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "-D"]).arg(&data);
        assert!(initdb.status().unwrap().success(), "initdb");
        let port = ports::free();
        let mut server = as_user("postgres");
        server.arg("-F").arg("-D").arg(&data).arg("-k").arg(folder.path());
        server.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        if let Some(certificate) = certificate {
            server.args(["-c", "ssl=on", "-c", "ssl_cert_file=server.crt"]);
            for (name, text) in
                [("server.crt", &certificate.certificate), ("server.key", &certificate.key)]
            {
                let path = data.join(name);
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                if let Some((uid, gid)) = user {
                    chown(&path, Some(uid), Some(gid)).unwrap();
                }
            }
        }
        let process = server.spawn().unwrap();
        let postgres = Self { port, process, _folder: folder };
        wait::until("Postgres answers", async || connect(port, "postgres").await).await;
        Some(postgres)
    }

    /// Makes a database with the tables of xmtpd, for a node with this id and key.
    ///
    /// # Panics
    /// Panics if Postgres fails.
    pub async fn create(&self, name: &str, node: OriginatorId, key: &PublicKey) -> Session {
        let server = connect(self.port, "postgres").await.unwrap();
        server.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let session = self.open(name).await;
        session.client.batch_execute(TABLES).await.unwrap();
        let info = "INSERT INTO node_info VALUES ($1, $2)";
        let key = &key.as_bytes()[..];
        session.client.execute(info, &[&number(node), &key]).await.unwrap();
        session
    }

    /// Opens a database again.
    ///
    /// # Panics
    /// Panics if Postgres fails.
    pub async fn open(&self, name: &str) -> Session {
        let client = connect(self.port, name).await.unwrap();
        Session { client, name: name.to_owned(), port: self.port }
    }

    /// Returns the connection string of a database.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its processes end with a fast shutdown; a killed server would leave them.
        let stopped = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        if stopped.is_ok_and(|it| it.success()) {
            let _ = self.process.wait();
        }
    }
}

impl Session {
    /// Stores envelopes of one strand as xmtpd does.
    ///
    /// # Panics
    /// Panics if Postgres fails, or the bytes are no envelope of the strand.
    pub async fn insert(
        &self,
        originator: OriginatorId,
        envelopes: impl IntoIterator<Item = Bytes>,
    ) {
        let (mut places, mut topics, mut expiries) = (Vec::new(), Vec::new(), Vec::new());
        let (mut payers, mut stored) = (Vec::new(), Vec::new());
        for bytes in envelopes {
            let envelope = strand::open(&bytes);
            assert_eq!(envelope.id().originator, originator);
            places.push(i64::try_from(envelope.id().sequence.0).unwrap());
            topics.push(envelope.unsigned().payer().client().topic().as_bytes().to_vec());
            expiries.push(i64::try_from(envelope.unsigned().expiry_unix_s()).unwrap());
            payers.push(payer_of(&envelope));
            stored.push(bytes.to_vec());
        }
        let Some(&last) = places.last() else { return };
        self.make_partitions(originator, u64::try_from(last).unwrap()).await;
        let own = number(originator);
        let execute = async |text: &str, values: &[&(dyn tokio_postgres::types::ToSql + Sync)]| {
            self.client.execute(text, values).await.unwrap();
        };
        let text = "INSERT INTO payers (address) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING";
        execute(text, &[&payers]).await;
        let text = "INSERT INTO gateway_envelopes_meta \
                    (originator_node_id, originator_sequence_id, topic, expiry, payer_id) \
                    SELECT $1, r.place, r.topic, r.expiry, p.id FROM \
                    unnest($2::bigint[], $3::bytea[], $4::bigint[], $5::text[]) AS r (place, topic, expiry, payer) \
                    JOIN payers p ON p.address = r.payer";
        execute(text, &[&own, &places, &topics, &expiries, &payers]).await;
        let text = "INSERT INTO gateway_envelopes_blob SELECT $1, * FROM unnest($2::bigint[], $3::bytea[])";
        execute(text, &[&own, &places, &stored]).await;
        let text = "INSERT INTO gateway_envelopes_latest VALUES ($1, $2) \
                    ON CONFLICT (originator_node_id) DO UPDATE SET originator_sequence_id = $2";
        execute(text, &[&own, &last]).await;
    }

    async fn make_partitions(&self, originator: OriginatorId, last: u64) {
        for table in ["meta", "blob"] {
            let parent = format!("gateway_envelopes_{table}");
            let own = format!("{parent}_o{originator}");
            let mut text = format!(
                "CREATE TABLE IF NOT EXISTS {own} PARTITION OF {parent} FOR VALUES IN ({originator}) \
                 PARTITION BY RANGE (originator_sequence_id);"
            );
            for start in (0..=last).step_by(usize::try_from(BAND).unwrap()) {
                let end = start + BAND;
                text += &format!(
                    "CREATE TABLE IF NOT EXISTS {own}_s{start}_{end} PARTITION OF {own} \
                     FOR VALUES FROM ({start}) TO ({end});"
                );
            }
            self.client.batch_execute(&text).await.unwrap();
        }
    }

    /// Sets the highest place of the own strand that was given out.
    ///
    /// # Panics
    /// Panics if Postgres fails.
    pub async fn set_counter(&self, place: i64) {
        let text = "SELECT setval('staged_originator_envelopes_id_seq', $1)";
        self.client.query_one(text, &[&place]).await.unwrap();
    }

    /// Changes something.
    ///
    /// # Panics
    /// Panics if Postgres fails.
    pub async fn change(&self, text: &str) {
        self.client.batch_execute(text).await.unwrap();
    }

    /// Ends the session and waits until the server has forgotten it.
    ///
    /// # Panics
    /// Panics if Postgres fails.
    pub async fn close(self) {
        let Self { client, name, port } = self;
        drop(client);
        let server = connect(port, "postgres").await.unwrap();
        wait::until("the session has ended", async || {
            let text = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
            let open: i64 = server.query_one(text, &[&name]).await.unwrap().get(0);
            (open == 0).then_some(())
        })
        .await;
    }
}

fn number(originator: OriginatorId) -> i32 {
    i32::try_from(originator.0).unwrap()
}

fn payer_of(envelope: &OriginatorEnvelope) -> String {
    let payer = envelope.unsigned().payer();
    let signature = Signature::from_bytes(payer.signature_bytes().unwrap()).unwrap();
    signature.recover(payer.digest()).unwrap().address().to_string()
}

async fn connect(port: u16, database: &str) -> Option<Client> {
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Returns the folder of the server's programs, which Debian keeps out of the search path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<_> = versions.flatten().map(|it| it.path().join("bin")).collect();
    folders.retain(|it| it.join("initdb").is_file() && it.join("postgres").is_file());
    folders.sort();
    folders.pop()
}

/// Returns the user of the server where the tests run as root, which Postgres refuses.
fn other_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if id(&["-u"])? != 0 {
        return None;
    }
    Some((id(&["-u", "postgres"])?, id(&["-g", "postgres"])?))
}
