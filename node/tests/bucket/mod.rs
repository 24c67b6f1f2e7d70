//! Tests of backups in a bucket: with a service that lies in every way, and with a real one.

mod real;
mod service;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hawser_engine::price::price;
use hawser_node::bucket::{BucketKeys, BucketObjects, BucketSettings, ObjectsAt};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_storage::{
    BackupError, BackupReport, Backups, Change, Durability, FoundObject, InvalidRule, LogEntry,
    LogItem, NewBackup, Objects, Store, StoreIdentity, StoreSettings, WantedBackup,
    forget_seen_in_backups,
};
use service::{BUCKET, LONG_AGO, Lie, Service};
use tempfile::TempDir;

const OWN: OriginatorId = OriginatorId(100);
const NETWORK: &str = "testnet";
const SECRET: &str = "a-secret-that-nothing-shows";
const NOW_UNIX_S: u64 = 10_000;
/// The length of an object that needs more than one part of an upload.
const LARGE_LEN_BYTES: usize = 9 << 20;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).unwrap()
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A data folder, and a bucket of a service at `endpoint`.
struct Place {
    root: TempDir,
    settings: BucketSettings,
}

impl Place {
    fn new(endpoint: &str) -> Self {
        let keys = BucketKeys {
            id: "the-id".to_owned(),
            secret: SECRET.to_owned(),
            token: Some("the-token-of-a-session".to_owned()),
        };
        let settings = BucketSettings {
            bucket: BUCKET.to_owned(),
            prefix: "nodes/100".to_owned(),
            endpoint: Some(endpoint.to_owned()),
            region: "us-east-1".to_owned(),
            keys: Some(keys),
            allow_http: false,
        };
        Self { root: tempfile::tempdir().unwrap(), settings }
    }

    fn of(service: &Service) -> Self {
        Self::new(&format!("http://{}", service.address))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn objects(&self) -> Arc<dyn Objects> {
        let stop = Arc::new(|| false);
        ObjectsAt::Bucket(Box::new(self.settings.clone())).open(stop).unwrap()
    }

    fn backups(&self) -> Backups {
        Backups::existing(self.objects()).unwrap()
    }

    fn open(&self, name: &str) -> Store {
        let public_key = key().public_key();
        let identity = StoreIdentity { network: NETWORK.to_owned(), node: OWN, public_key };
        Store::open(&StoreSettings {
            path: self.path(name),
            identity,
            durability: Durability::Fsync,
            price,
            host: None,
            open_files_max: 64,
            cache_bytes: 8 << 20,
        })
        .unwrap()
    }

    fn back_up(&self, store: &Store, now_unix_s: u64) -> Result<BackupReport, BackupError> {
        self.back_up_at_pace(store, now_unix_s, &mut go_on)
    }

    fn back_up_at_pace(
        &self,
        store: &Store,
        now_unix_s: u64,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<BackupReport, BackupError> {
        let key = key();
        store.backup(&NewBackup { to: self.objects(), key: Some(&key), now_unix_s }, pace)
    }

    fn restore(&self, name: &str) -> Result<(), BackupError> {
        let wanted = WantedBackup { network: Some(NETWORK.to_owned()), ..WantedBackup::default() };
        let target = self.path("restored");
        self.backups().restore(name, &wanted, &target, price, &mut go_on).map(drop)
    }

    fn assert_nothing_restored(&self) {
        assert!(!self.path("restored").exists() && !self.path("restored.restoring").exists());
    }
}

/// Extends the own strand. The log accepts any bytes; these are hidden from readers.
fn extend(store: &Store, count: u64, len_bytes: usize) {
    let head = store.snapshot().head(OWN).unwrap().0;
    for sequence in head + 1..=head + count {
        // The bytes are not compressible, so that a large envelope makes a large file.
        let mut state = sequence;
        let byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        let bytes = Bytes::from(std::iter::repeat_with(byte).take(len_bytes).collect::<Vec<_>>());
        let id = EnvelopeId::new(OWN, SequenceId(sequence));
        store.commit(&[Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))]).unwrap();
    }
}

fn contents(store: &Store) -> Vec<LogItem> {
    let snapshot = store.snapshot();
    let head = snapshot.head(OWN).unwrap();
    snapshot.log(EnvelopeId::new(OWN, SequenceId::NONE), head).map(|it| it.unwrap()).collect()
}

/// Checks that backups are made, listed, verified, restored and removed in a bucket like in a folder.
fn assert_backups_work(place: &Place) {
    assert!(matches!(Backups::existing(place.objects()), Err(BackupError::NotBackups { .. })));
    let store = place.open("data");
    extend(&store, 5, 100);
    extend(&store, 1, LARGE_LEN_BYTES);
    store.flush().unwrap();
    let first = place.back_up(&store, 1).unwrap();
    assert_eq!(first.files, first.files_copied);
    assert!(first.bytes > LARGE_LEN_BYTES as u64, "{first:?}");
    extend(&store, 5, 100);
    let second = place.back_up(&store, 2).unwrap();
    assert!(second.bytes_copied < LARGE_LEN_BYTES as u64, "what is there is not sent again");
    let backups = place.backups();
    let names = backups.names().unwrap();
    assert_eq!(names, [first.name.clone(), second.name.clone()]);
    assert_eq!(backups.newest(&WantedBackup::default(), NOW_UNIX_S).unwrap(), second.name);
    for name in &names {
        assert!(backups.verify(name, &mut go_on).unwrap().is_signed);
    }
    place.restore(&second.name).unwrap();
    assert_eq!(contents(&place.open("restored")), contents(&store));
    assert_eq!(backups.prune(1, NOW_UNIX_S).unwrap().removed, [first.name]);
    backups.verify(&second.name, &mut go_on).unwrap();
    assert!(backups.prune(1, NOW_UNIX_S).unwrap().removed.is_empty());
    assert_eq!(place.objects().find("lock").unwrap(), FoundObject::Absent);
}

#[test]
fn backups_work_in_a_bucket_of_several_pages() {
    let service = Service::start();
    assert_backups_work(&Place::of(&service));
    assert_eq!(service.open_uploads(), 0);
    let names = service.names();
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("nodes/100/")));
}

/// Makes a backup of a small store and returns it with its name.
fn small_backup(place: &Place) -> (Store, String) {
    let store = place.open("data");
    extend(&store, 5, 100);
    let name = place.back_up(&store, 1).unwrap().name;
    (store, name)
}

#[test]
fn a_service_that_fails_at_times_is_asked_again() {
    let service = Service::start();
    let place = Place::of(&service);
    service.lie(Some(Lie::FailTimes(2)));
    let (_store, name) = small_backup(&place);
    service.lie(Some(Lie::FailTimes(2)));
    place.backups().verify(&name, &mut go_on).unwrap();
    // More failures than this make the operation fail, after a known number of requests.
    service.lie(Some(Lie::FailTimes(usize::MAX)));
    let before = service.requests();
    let error = place.objects().find("lock").unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");
    assert_eq!(service.requests() - before, 5);
}

/// If the location does not answer, nothing is known about its backups; wrong answers count against them.
#[test]
fn a_place_that_does_not_answer_is_told_apart_from_one_that_lies() {
    let service = Service::start();
    let place = Place::of(&service);
    let (_store, name) = small_backup(&place);
    let (root, backups) = (place.objects().location(""), place.backups());
    let check = || {
        let error = backups.verify(&name, &mut go_on).unwrap_err();
        (error.is_unreachable(&root), error.to_string())
    };
    for silence in [Lie::FailTimes(usize::MAX), Lie::Refuse("not you".to_owned())] {
        service.lie(Some(silence.clone()));
        let (is_unreachable, text) = check();
        assert!(is_unreachable, "{silence:?}: {text}");
    }
    for lie in [Lie::FlippedBit, Lie::Longer, Lie::EndlessBody] {
        service.lie(Some(lie.clone()));
        let (is_unreachable, text) = check();
        assert!(!is_unreachable, "{lie:?}: {text}");
    }
    service.lie(None);
    let file = service.names().into_iter().find(|it| it.contains("/files/")).unwrap();
    service.remove(&file);
    assert!(!check().0, "a file that is missing is damage");
    // An error of another folder is not an error of the location.
    let elsewhere = PathBuf::from("/elsewhere");
    service.lie(Some(Lie::Refuse("not you".to_owned())));
    let error = backups.verify(&name, &mut go_on).unwrap_err();
    assert!(!error.is_unreachable(&elsewhere));
    // There is no service at all.
    let gone = Place::new("http://127.0.0.1:9");
    let error = Backups::existing(gone.objects()).unwrap_err();
    assert!(error.is_unreachable(&gone.objects().location("")), "{error}");
}

#[test]
fn other_bytes_than_were_written_are_never_restored() {
    let service = Service::start();
    let place = Place::of(&service);
    let (_store, name) = small_backup(&place);
    let backups = place.backups();
    let refused = |what: &str| {
        let verified = backups.verify(&name, &mut go_on).unwrap_err().to_string();
        let restored = place.restore(&name).unwrap_err().to_string();
        assert!(verified.contains(what) && restored.contains(what), "{verified}; {restored}");
        place.assert_nothing_restored();
    };
    service.lie(Some(Lie::FlippedBit));
    refused("the hash at its end does not match");
    service.lie(Some(Lie::Longer));
    refused("the hash at its end does not match");
    service.lie(Some(Lie::EndlessBody));
    refused("other bytes than those that were asked for");
    service.lie(None);
    let files: Vec<_> = service.names().into_iter().filter(|it| it.contains("/files/")).collect();
    for file in files {
        let whole = service.get(&file).unwrap();
        if whole.is_empty() {
            continue;
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        service.put(&file, &flipped, LONG_AGO);
        refused("damaged");
        service.put(&file, &[&whole[..], b"more"].concat(), LONG_AGO);
        service.lie(None);
        refused("bytes instead of");
        assert!(!service.reads().contains(&file), "a wrong length is seen before a byte is read");
        service.remove(&file);
        refused("is missing");
        service.put(&file, &whole, LONG_AGO);
    }
    place.restore(&name).unwrap();
}

#[test]
fn answers_and_lists_without_an_end_end() {
    let service = Service::start();
    let place = Place::of(&service);
    let (store, _name) = small_backup(&place);
    let backups = place.backups();
    service.lie(Some(Lie::EndlessList));
    let error = backups.names().unwrap_err().to_string();
    assert!(error.contains("does not end"), "{error}");
    assert!(backups.prune(1, NOW_UNIX_S).is_err());
    service.lie(Some(Lie::LongNames));
    let (asked, error) = (service.requests(), backups.names().unwrap_err().to_string());
    assert!(error.contains("names of the list"), "{error}");
    assert!(service.requests() - asked < 20, "more than it may hold was asked for");
    service.lie(Some(Lie::ForeignList));
    let error = backups.names().unwrap_err().to_string();
    assert!(error.contains("another folder"), "{error}");
    assert!(backups.prune(1, NOW_UNIX_S).is_err());
    service.lie(Some(Lie::EndlessError));
    for error in [backups.names().unwrap_err(), place.back_up(&store, 2).unwrap_err()] {
        assert!(error.to_string().chars().count() < 1000, "{error}");
    }
    service.lie(None);
    assert_eq!(backups.names().unwrap().len(), 1);
}

#[test]
fn no_answer_shows_the_keys_and_none_leads_elsewhere() {
    let (service, other) = (Service::start(), Service::start());
    let place = Place::of(&service);
    service
        .lie(Some(Lie::Refuse(format!("\u{1b}[2J you sent {SECRET} and the-token-of-a-session"))));
    let error = place.objects().list("files").unwrap_err();
    assert!(error.to_string().contains("you sent"), "{error}");
    let text = format!("{error} {error:?} {:?} {:?}", place.objects(), place.settings);
    assert!(!text.contains(SECRET) && !text.contains("the-token-of-a-session"), "{text}");
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    service.lie(Some(Lie::Redirect(format!("http://{}/{BUCKET}/nodes/100/lock", other.address))));
    place.objects().find("lock").unwrap_err();
    assert_eq!(other.requests(), 0);
}

#[test]
fn an_interrupted_backup_does_not_exist_and_leaves_no_upload() {
    let service = Service::start();
    let place = Place::of(&service);
    let store = place.open("data");
    extend(&store, 1, LARGE_LEN_BYTES);
    store.flush().unwrap();
    // The large file is read once for its hash, and once to be sent.
    let mut left = 2 * LARGE_LEN_BYTES - (64 << 10);
    let stopped = place.back_up_at_pace(&store, 1, &mut |bytes| {
        let bytes = usize::try_from(bytes).unwrap();
        left = left.saturating_sub(bytes);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    assert!(!service.names().iter().any(|name| name.contains("manifests")));
    assert_eq!(service.open_uploads(), 0);
    assert!(!service.names().iter().any(|name| name.ends_with("/lock")));
    let whole = place.back_up(&store, 2).unwrap();
    place.restore(&whole.name).unwrap();
    assert_eq!(contents(&place.open("restored")), contents(&store));
}

#[test]
fn a_node_that_stops_during_a_backup_leaves_neither_lock_nor_upload() {
    let service = Service::start();
    let place = Place::of(&service);
    let store = place.open("data");
    extend(&store, 1, LARGE_LEN_BYTES);
    store.flush().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let is_stopped = Arc::new(move || asked.load(Ordering::Relaxed));
    let to: Arc<dyn Objects> = Arc::new(BucketObjects::new(&place.settings, is_stopped).unwrap());
    // The large file is read once for its hash, and once to be sent.
    let mut left = 2 * LARGE_LEN_BYTES - (64 << 10);
    let mut was_sending = false;
    let new = NewBackup { to, key: None, now_unix_s: 1 };
    let stopped = store.backup(&new, &mut |bytes| {
        left = left.saturating_sub(usize::try_from(bytes).unwrap());
        if left > 0 {
            return ControlFlow::Continue(());
        }
        was_sending = service.open_uploads() == 1 && service.get("nodes/100/lock").is_some();
        stop.store(true, Ordering::Relaxed);
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    assert!(was_sending);
    assert_eq!(service.open_uploads(), 0);
    assert!(service.get("nodes/100/lock").is_none());
}

#[test]
fn one_writer_is_at_work_in_a_bucket_at_a_time() {
    let service = Service::start();
    let place = Place::of(&service);
    let (store, name) = small_backup(&place);
    extend(&store, 1, 100);
    let lock = "nodes/100/lock";
    let mut was_busy = false;
    place
        .back_up_at_pace(&store, 2, &mut |_| {
            let prune = place.backups().prune(1, NOW_UNIX_S);
            was_busy |= matches!(prune, Err(BackupError::Busy { .. }));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(was_busy && service.get(lock).is_none());
    // A lock that was abandoned long ago is taken over; a recently written one is not.
    service.put(lock, b"hawser lock 1 0123", LONG_AGO);
    place.back_up(&store, 3).unwrap();
    assert!(service.get(lock).is_none());
    // A holder whose lock was taken over, or that the service admitted besides another one, writes no manifest.
    for lie in [None, Some(Lie::NoConditions)] {
        service.lie(lie);
        extend(&store, 1, 100);
        let before = place.backups().names().unwrap().len();
        let lost = place.back_up_at_pace(&store, 4, &mut |_| {
            service.put(lock, b"hawser lock 1 of another one", LONG_AGO);
            ControlFlow::Continue(())
        });
        assert!(matches!(lost, Err(BackupError::Busy { .. })), "{lost:?}");
        assert_eq!(place.backups().names().unwrap().len(), before);
        assert_eq!(service.get(lock).unwrap(), b"hawser lock 1 of another one");
        service.remove(lock);
    }
    place.backups().verify(&name, &mut go_on).unwrap();
}

#[test]
fn a_backup_whose_files_were_removed_meanwhile_does_not_stay() {
    let service = Service::start();
    let place = Place::of(&service);
    let (store, name) = small_backup(&place);
    extend(&store, 1, 100);
    service.lie(Some(Lie::FilesRemoved));
    let lost = place.back_up(&store, 2);
    assert!(matches!(lost, Err(BackupError::Missing { .. })), "{lost:?}");
    service.lie(None);
    let names = place.backups().names().unwrap();
    assert_eq!(names, [name]);
    let whole = place.back_up(&store, 3).unwrap();
    place.backups().verify(&whole.name, &mut go_on).unwrap();
}

#[test]
fn a_backup_of_another_network_is_refused() {
    let service = Service::start();
    let place = Place::of(&service);
    let (_store, name) = small_backup(&place);
    let wanted = WantedBackup { network: Some("other".to_owned()), ..WantedBackup::default() };
    let target = place.path("restored");
    let error = place.backups().restore(&name, &wanted, &target, price, &mut go_on).unwrap_err();
    assert!(matches!(error, BackupError::OtherNetwork { .. }), "{error}");
    place.assert_nothing_restored();
}

#[test]
fn work_that_has_to_stop_does_not_wait_for_a_silent_service() {
    // This listener accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new(&format!("http://{}", silent.local_addr().unwrap()));
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let is_stopped = Arc::new(move || asked.load(Ordering::Relaxed));
    let objects = BucketObjects::new(&place.settings, is_stopped).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| objects.find("lock"));
        let (_connection, _) = silent.accept().unwrap();
        stop.store(true, Ordering::Relaxed);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    });
}

/// Others may write to the bucket: an object with the right name and length, and other bytes.
#[test]
fn a_file_that_was_replaced_is_written_again_and_one_that_was_not_is_not_read() {
    let service = Service::start();
    let place = Place::of(&service);
    let store = place.open("data");
    extend(&store, 1, LARGE_LEN_BYTES);
    store.flush().unwrap();
    let first = place.back_up(&store, 1).unwrap();
    let len = |name: &String| service.get(name).unwrap().len();
    let is_file = |name: &String| name.contains("/files/");
    let file = service.names().into_iter().filter(is_file).max_by_key(len).unwrap();
    let whole = service.get(&file).unwrap();
    service.lie(None);
    assert!(place.back_up(&store, 2).unwrap().bytes_copied < LARGE_LEN_BYTES as u64);
    assert!(!service.reads().contains(&file), "its version is the one that was written");

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    service.put(&file, &flipped, LONG_AGO);
    assert!(place.backups().verify(&first.name, &mut go_on).is_err());
    let healed = place.back_up(&store, 3).unwrap();
    assert!(healed.bytes_copied > LARGE_LEN_BYTES as u64, "{healed:?}");
    assert!(service.get(&file).unwrap() == whole);
    place.backups().verify(&first.name, &mut go_on).unwrap();

    // The service's disk has changed it, and the service does not know: a check finds it, and the next backup reads
    // everything then.
    service.rot(&file, &flipped);
    assert!(place.back_up(&store, 4).unwrap().bytes_copied < LARGE_LEN_BYTES as u64);
    assert!(place.backups().verify(&first.name, &mut go_on).is_err());
    forget_seen_in_backups(&place.path("data"), &*place.objects()).unwrap();
    assert!(place.back_up(&store, 5).unwrap().bytes_copied > LARGE_LEN_BYTES as u64);
    assert!(service.get(&file).unwrap() == whole);
}

/// The same for the chunks of snapshots.
#[test]
fn a_chunk_that_was_replaced_is_written_again_and_one_that_was_not_is_not_read() {
    let service = Service::start();
    let place = Place::of(&service);
    let store = place.open("data");
    extend(&store, 3, 1000);
    let copy = |at| store.create_bootstrap(place.objects(), at, &mut go_on).unwrap();
    assert_eq!(copy(1).chunks_new, 1);
    let chunk = service.names().into_iter().find(|name| name.contains("/chunks/")).unwrap();
    let whole = service.get(&chunk).unwrap();
    service.lie(None);
    assert_eq!(copy(2).chunks_new, 0);
    assert!(!service.reads().contains(&chunk));
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    service.put(&chunk, &flipped, LONG_AGO);
    assert_eq!(copy(3).chunks_new, 1);
    assert!(service.get(&chunk).unwrap() == whole);
}

#[test]
fn a_real_service_keeps_backups() {
    let Some(server) = real::Server::start() else { return };
    let place = Place::new(&server.endpoint);
    server.make_bucket(BUCKET);
    assert_backups_work(&place);
    // A second writer is refused while the first one holds the lock, as with the fake service above.
    let objects = place.objects();
    let _held = objects.lock().unwrap();
    let prune = place.backups().prune(1, NOW_UNIX_S);
    assert!(matches!(prune, Err(BackupError::Busy { .. })), "{prune:?}");
}
