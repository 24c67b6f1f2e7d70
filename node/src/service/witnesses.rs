//! Asks witnesses to cosign this node's checkpoints (C2SP `tlog-witness`), and stores their cosignatures.
//!
//! A witness is an external service with a key that the operator trusts. It may be slow, silent, send endlessly, sign
//! something else, or state sizes that no checkpoint has. Each strand has its own task at each witness, so that none
//! waits for another. Each response has a size limit and a time limit, and a stated size leads to one more attempt.
//! Only a valid cosignature with the witness's key is stored, and every other outcome is followed by a growing pause.

use std::sync::Arc;
use std::time::Duration;

use alloy::transports::http::reqwest::Client;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use hawser_chain::send::{http_client, read_body};
use hawser_engine::Engine;
use hawser_engine::runtime::replication::Replication;
use hawser_proto::checkpoint::{
    ANSWER_LEN_BYTES_MAX, Checkpoint, CheckpointSubmission, CosignedCheckpoint, SIZE_MEDIA_TYPE,
    SUBMISSION_PATH, SignedCheckpoint, WitnessCosignature, WitnessKey, read_cosignature_lines,
};
use hawser_proto::merkle::ConsistencyProof;
use hawser_proto::{OriginatorId, decimal, one_line};
use hawser_storage::{ReadError, Store};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::settings::{WitnessSource, place_of};

/// The pauses before turns of a strand: the first one before the first turn and after a successful one, and each twice
/// as long after a failure. A guess: a node with rate limits lets an address ask for three strands at this rate.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(10))
    .with_max_delay(Duration::from_secs(300))
    .without_max_times();
/// The time limit for a witness to answer. A guess: it may be waiting for its own tree.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The asking tasks: one for each strand at each witness with a URL.
pub(super) struct WitnessTasks {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl WitnessTasks {
    /// Starts the tasks. If a witness's client cannot be created, this is logged, and the node
    /// runs without its cosignatures.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn start(
        engine: &Engine,
        replication: &Replication,
        witnesses: &[WitnessSource],
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for WitnessSource { key, url } in witnesses {
            let Some(url) = url else { continue };
            let client = match http_client() {
                Ok(client) => client,
                Err(error) => {
                    let url = place_of(url);
                    tracing::error!(code = "witness_unasked", url, %error, "a witness cannot be asked");
                    continue;
                }
            };
            let url = format!("{}{SUBMISSION_PATH}", url.trim_end_matches('/'));
            let asking = WitnessCall {
                engine: engine.clone(),
                replication: replication.clone(),
                key: key.clone(),
                client,
                url,
            };
            let own = engine.store().identity().node;
            let strands = std::iter::once(own).chain(OriginatorId::CHAINS);
            ask_about_each(&mut tasks, strands, &Arc::new(asking), PAUSES, &stopped);
        }
        Self { stop, tasks }
    }

    /// Stops the tasks. Responses in transit are abandoned.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The state of one strand at one witness.
struct StrandTurns {
    originator: OriginatorId,
    /// The size of the last checkpoint that the witness has cosigned, as far as this process knows.
    cosigned: u64,
    /// True if the last turn failed, so that the failure is logged once.
    is_failing: bool,
}

/// A witness as the asking tasks see it.
trait AskWitness: Send + Sync + 'static {
    /// Asks for a cosignature of a strand's newest checkpoint, unless the witness has cosigned
    /// it. May be dropped at any point.
    fn ask(&self, turns: &mut StrandTurns) -> impl Future<Output = Result<(), AskError>> + Send;

    /// Records the end of a turn, before its result is stored in `turns`.
    fn log_result(&self, turns: &StrandTurns, result: &Result<(), AskError>);
}

/// Starts a task for each strand. A witness may know only some strands and may be silent about one; the others neither
/// wait for that one nor share its pauses.
fn ask_about_each(
    tasks: &mut JoinSet<()>,
    strands: impl Iterator<Item = OriginatorId>,
    witness: &Arc<impl AskWitness>,
    pauses: ExponentialBuilder,
    stopped: &watch::Receiver<bool>,
) {
    for originator in strands {
        let turns = StrandTurns { originator, cosigned: 0, is_failing: false };
        tasks.spawn(turns.run(witness.clone(), pauses, stopped.clone()));
    }
}

impl StrandTurns {
    async fn run(
        mut self,
        witness: Arc<impl AskWitness>,
        pauses: ExponentialBuilder,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut growing = pauses.build();
        loop {
            let pause = growing.next().expect("the number of pauses is not limited");
            let turn = async {
                tokio::time::sleep(pause).await;
                witness.ask(&mut self).await
            };
            let result = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                result = turn => result,
            };
            if result.is_ok() {
                growing = pauses.build();
            }
            witness.log_result(&self, &result);
            self.is_failing = result.is_err();
        }
    }
}

/// One witness that is asked.
struct WitnessCall {
    engine: Engine,
    replication: Replication,
    key: WitnessKey,
    client: Client,
    url: String,
}

/// The answer of a witness.
#[derive(Debug, PartialEq, Eq)]
enum WitnessAnswer {
    Cosigned(WitnessCosignature),
    /// The witness has last cosigned this size.
    OtherSize(u64),
    /// The response has no cosignature that this key made for this checkpoint, or an invalid one under its name.
    Forged,
    /// The witness refuses to cosign, for this reason.
    Refused(String),
}

/// Error of a turn.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the witness does not answer: {0}")]
    Silent(String),
    #[error("the witness refuses: {0}")]
    Refused(String),
    #[error("the answer is not signed with the key that is configured for the witness")]
    Forged,
    #[error("the witness has cosigned {0} places, which is more than this node holds")]
    Ahead(u64),
    #[error("the log cannot be read: {0}")]
    Log(String),
}

impl AskWitness for WitnessCall {
    async fn ask(&self, turns: &mut StrandTurns) -> Result<(), AskError> {
        let (originator, old) = (turns.originator, turns.cosigned);
        let Some((signed, proof)) = self.read(originator, old).await? else { return Ok(()) };
        let size = signed.checkpoint.size;
        let mut answer = self.submit(&signed, old, proof).await?;
        if let WitnessAnswer::OtherSize(old) = answer {
            if old > size {
                return Err(AskError::Ahead(old));
            }
            // Only a cosignature shows that the witness has that size: it could name the newest one to be left alone.
            let proof = self.proof(originator, old, size).await?;
            answer = self.submit(&signed, old, proof).await?;
        }
        match answer {
            WitnessAnswer::Cosigned(line) => {
                turns.cosigned = size;
                self.engine.counters().witnesses.cosigned.inc();
                let mut shown = CosignedCheckpoint::from(signed);
                shown.add_witness(line);
                // A checkpoint beyond those that are looked at is dropped, and the next one is asked for.
                let _ = self.replication.show_checkpoint(shown);
                Ok(())
            }
            WitnessAnswer::OtherSize(size) => {
                let why = format!("it names the size {size} after it was given that size");
                Err(AskError::Refused(why))
            }
            WitnessAnswer::Forged => Err(AskError::Forged),
            WitnessAnswer::Refused(why) => Err(AskError::Refused(why)),
        }
    }

    /// Logs the first failure after a success, and the first success after a failure.
    fn log_result(&self, turns: &StrandTurns, result: &Result<(), AskError>) {
        let (name, originator) = (self.key.signer().0.as_str(), turns.originator);
        match result {
            Err(error) => {
                self.engine.counters().witnesses.failed.inc();
                if !turns.is_failing {
                    tracing::warn!(code = "witness_failed", witness = name, originator_id = %originator, %error, "a witness does not cosign");
                }
            }
            Ok(()) if turns.is_failing => {
                tracing::info!(witness = name, originator_id = %originator, "the witness cosigns again");
            }
            Ok(()) => {}
        }
    }
}

impl WitnessCall {
    /// Reads the newest checkpoint that this node has signed of a strand, and the consistency proof from the old size.
    /// `None` if the witness has cosigned it, or if this node has cut the strand since: it then signs no more of it.
    async fn read(
        &self,
        originator: OriginatorId,
        old: u64,
    ) -> Result<Option<(SignedCheckpoint, ConsistencyProof)>, AskError> {
        let (store, key) = (self.engine.store().clone(), self.key.clone());
        let newest = super::blocking(move || newest_of(&store, originator)).await;
        let newest = newest.map_err(|error| AskError::Log(error.to_string()))?;
        let is_cosigned = |it: &CosignedCheckpoint| {
            it.signed.checkpoint.size <= old
                || it.witnesses.iter().any(|it| it.signer() == key.signer())
        };
        let Some(newest) = newest.filter(|it| !is_cosigned(it)) else { return Ok(None) };
        let proof = self.proof(originator, old, newest.signed.checkpoint.size).await?;
        Ok(Some((newest.signed, proof)))
    }

    async fn proof(
        &self,
        originator: OriginatorId,
        old: u64,
        size: u64,
    ) -> Result<ConsistencyProof, AskError> {
        if old == 0 || old == size {
            return Ok(ConsistencyProof(Vec::new()));
        }
        let store = self.engine.store().clone();
        let prove = move || store.snapshot().consistency(originator, old, size);
        super::blocking(prove).await.map_err(|error| AskError::Log(error.to_string()))
    }

    async fn submit(
        &self,
        signed: &SignedCheckpoint,
        old_size: u64,
        proof: ConsistencyProof,
    ) -> Result<WitnessAnswer, AskError> {
        let identity = self.engine.store().identity();
        let key_of = |node| (node == identity.node).then_some(identity.public_key);
        let note = CosignedCheckpoint::from(*signed).to_note(&identity.network, key_of);
        let body = CheckpointSubmission { old_size, proof, note }.encode();
        let asked = timeout(ANSWER_MAX, self.send(body)).await;
        let response =
            asked.unwrap_or_else(|_| Err("none in time".to_owned())).map_err(AskError::Silent)?;
        Ok(response.judge(&identity.network, &signed.checkpoint, &self.key))
    }

    async fn send(&self, body: String) -> Result<WitnessResponse, String> {
        let sent = self.client.post(&self.url).header(CONTENT_TYPE, "text/plain").body(body).send();
        let response = sent.await.map_err(|error| error.without_url().to_string())?;
        let status = response.status();
        let media_type = response.headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        let body = read_body(response, ANSWER_LEN_BYTES_MAX).await;
        Ok(WitnessResponse { status, media_type, body: body.map_err(|error| error.to_string())? })
    }
}

/// Returns the newest checkpoint that a store's node has signed of a strand. `None` if there is none, and if the store
/// has another tree: the strand of a chain was cut since, and the node signs no more of it.
fn newest_of(
    store: &Store,
    originator: OriginatorId,
) -> Result<Option<CosignedCheckpoint>, ReadError> {
    let snapshot = store.snapshot();
    let newest = snapshot.checkpoint(originator, store.identity().node, u64::MAX)?;
    let Some(newest) = newest else { return Ok(None) };
    Ok(snapshot.is_of_tree(&newest.signed.checkpoint)?.then_some(newest))
}

/// The response of a witness, as it came.
struct WitnessResponse {
    status: StatusCode,
    media_type: String,
    body: Vec<u8>,
}

impl WitnessResponse {
    /// Judges the response to a checkpoint of this network. `key` is that of the witness.
    fn judge(&self, network: &str, of: &Checkpoint, key: &WitnessKey) -> WitnessAnswer {
        let Self { status, media_type, body } = self;
        if *status == StatusCode::OK {
            let lines = read_cosignature_lines(body).into_iter();
            let mut made = lines.filter(|line| line.verify(network, of, key).is_ok());
            return made.next().map_or(WitnessAnswer::Forged, WitnessAnswer::Cosigned);
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(REASON_LEN_BYTES_MAX)]);
        if *status == StatusCode::CONFLICT && media_type.starts_with(SIZE_MEDIA_TYPE) {
            let size = text.strip_suffix('\n').and_then(decimal);
            return size.map_or_else(
                || WitnessAnswer::Refused("it names no size".into()),
                WitnessAnswer::OtherSize,
            );
        }
        WitnessAnswer::Refused(format!("{} {}", status.as_u16(), one_line(text.trim())))
    }
}

/// The longest refusal text that is kept, in bytes. A guess: two lines.
const REASON_LEN_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use hawser_proto::checkpoint::{WitnessName, WitnessSigner, cosignature_lines};
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::{Bytes, EnvelopeId, SecretKey, SequenceId};
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::{Change, InvalidRule, LogEntry, StoreIdentity};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    use super::*;

    /// The chain was reorganised, and the strand cut, after the node had signed a tree of two places.
    #[test]
    fn no_witness_is_asked_about_a_tree_from_before_a_cut() {
        let (node, originator) = (OriginatorId(100), OriginatorId::GROUP_MESSAGES);
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let identity = StoreIdentity { network: "test".into(), node, public_key: key.public_key() };
        let store = Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap();
        let id = EnvelopeId::new(originator, SequenceId(1));
        let entry = LogEntry::invalid(id, Bytes::from_static(b"envelope"), InvalidRule(1));
        store.commit(&[Change::Append(entry)]).unwrap();
        let sign = |size, root| {
            let of = Checkpoint { node, originator, size, root, time_ns: size };
            store.put_checkpoint(&of.sign(&key).into()).unwrap();
            newest_of(&store, originator).unwrap().map(|it| it.signed.checkpoint.size)
        };
        assert_eq!(newest_of(&store, originator), Ok(None));
        assert_eq!(sign(1, store.snapshot().root(originator, 1).unwrap()), Some(1));
        assert_eq!(sign(2, TreeHash([1; 32])), None);
    }

    fn signer(seed: u8) -> WitnessSigner {
        WitnessSigner::new(WitnessName::new("w.example/1").unwrap(), &[seed; 32])
    }

    fn checkpoint(size: u64) -> Checkpoint {
        let (node, originator) = (OriginatorId(100), OriginatorId(100));
        Checkpoint { node, originator, size, root: TreeHash([1; 32]), time_ns: 7 }
    }

    fn judged(status: u16, media_type: &str, body: &[u8]) -> WitnessAnswer {
        let status = StatusCode::from_u16(status).unwrap();
        let (media_type, body) = (media_type.to_owned(), body.to_vec());
        let response = WitnessResponse { status, media_type, body };
        response.judge("test", &checkpoint(9), &signer(1).key())
    }

    fn line(signer: &WitnessSigner, network: &str, size: u64) -> WitnessCosignature {
        signer.cosign(network, &checkpoint(size), 1_700_000_000)
    }

    #[test]
    fn only_what_the_named_key_signed_about_this_checkpoint_is_a_cosignature() {
        let good = line(&signer(1), "test", 9);
        let lines = |lines: &[WitnessCosignature]| cosignature_lines(lines).into_bytes();
        let answer = judged(200, "text/plain", &lines(std::slice::from_ref(&good)));
        assert_eq!(answer, WitnessAnswer::Cosigned(good.clone()));
        // A witness with several keys sends several lines.
        let two = lines(&[line(&signer(2), "test", 9), good.clone()]);
        assert_eq!(judged(200, "", &two), WitnessAnswer::Cosigned(good));
        for forged in [
            lines(&[line(&signer(2), "test", 9)]),
            lines(&[line(&signer(1), "test", 8)]),
            lines(&[line(&signer(1), "other", 9)]),
            Vec::new(),
            b"\xff\xff".to_vec(),
            vec![b'\n'; ANSWER_LEN_BYTES_MAX],
        ] {
            assert_eq!(judged(200, "text/plain", &forged), WitnessAnswer::Forged);
        }
    }

    #[test]
    fn a_conflict_names_a_size_in_its_one_form_and_everything_else_is_a_refusal() {
        assert_eq!(judged(409, "text/x.tlog.size", b"7\n"), WitnessAnswer::OtherSize(7));
        assert_eq!(judged(409, "text/x.tlog.size; charset=x", b"0\n"), WitnessAnswer::OtherSize(0));
        for body in
            [&b""[..], b"7", b"07\n", b"-1\n", b"7\n7\n", b"\xff\n", b"99999999999999999999\n"]
        {
            let answer = judged(409, "text/x.tlog.size", body);
            assert_eq!(answer, WitnessAnswer::Refused("it names no size".into()), "{body:?}");
        }
        let answer = judged(404, "text/plain", b"no\x1b[31m such log\n");
        assert_eq!(answer, WitnessAnswer::Refused("404 no [31m such log".into()));
        let long = judged(503, "", &[b'a'; 10_000]);
        assert_eq!(long, WitnessAnswer::Refused(format!("503 {}", "a".repeat(200))));
    }

    /// A witness that cosigns one strand, refuses another, and never answers about the third.
    #[derive(Default)]
    struct ChoosyWitness {
        cosigned: AtomicU32,
        all_cosigned: Notify,
    }

    /// A time limit far above a few milliseconds of work on any machine; only a failing test reaches it.
    const TEST_WITHIN: Duration = Duration::from_secs(60);
    const TURNS: u32 = 20;

    impl AskWitness for ChoosyWitness {
        async fn ask(&self, turns: &mut StrandTurns) -> Result<(), AskError> {
            match turns.originator {
                OriginatorId::GROUP_MESSAGES => Err(AskError::Refused("404 no such log".into())),
                OriginatorId::IDENTITY_UPDATES => std::future::pending().await,
                _ => {
                    turns.cosigned += 1;
                    if self.cosigned.fetch_add(1, Ordering::Relaxed) + 1 == TURNS {
                        self.all_cosigned.notify_one();
                    }
                    Ok(())
                }
            }
        }

        fn log_result(&self, turns: &StrandTurns, result: &Result<(), AskError>) {
            assert_eq!(result.is_err(), turns.originator == OriginatorId::GROUP_MESSAGES);
        }
    }

    /// Twenty turns of a strand that shared the pauses of a failing one would take a quarter of an hour.
    #[tokio::test]
    async fn a_strand_that_a_witness_refuses_or_is_silent_about_holds_up_no_other_one() {
        let (stop, stopped) = watch::channel(false);
        let (mut tasks, witness) = (JoinSet::new(), Arc::new(ChoosyWitness::default()));
        let pauses = PAUSES
            .with_min_delay(Duration::from_millis(1))
            .with_max_delay(Duration::from_secs(24 * 3600));
        let strands = OriginatorId::CHAINS.into_iter().chain([OriginatorId(100)]);
        ask_about_each(&mut tasks, strands, &witness, pauses, &stopped);
        timeout(TEST_WITHIN, witness.all_cosigned.notified()).await.expect("it is asked again");
        // This also stops the task that waits for a response, and the one that pauses.
        stop.send_replace(true);
        let ended = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
        timeout(TEST_WITHIN, ended).await.expect("they stop");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{SUBMISSION_PATH}", listener.local_addr().unwrap());
        let head = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {url}\r\nconnection: close\r\n\
             content-length: 0\r\n\r\n"
        );
        // The witness answers once, so a second request would fail.
        let answers = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(head.as_bytes()).await.unwrap();
        };
        let client = http_client().unwrap();
        let (response, ()) = tokio::join!(client.post(&url).body("old 0").send(), answers);
        let status = response.unwrap().status();
        assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
        assert!(matches!(judged(status.as_u16(), "", b""), WitnessAnswer::Refused(_)));
    }
}
