//! Checks of the machine: processor, open files, folders, disk, ports, certificate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use hawser_api::{DiskSpace, DiskView as _};
use hawser_serve::tls::Tls;
use hawser_storage::{
    ProcessorError, StoreIdentity, check_processor, file_of_lost_database, has_host_marker,
    host_dir,
};
use tokio::time::timeout;

use super::checked::DoctorCheck;
use crate::clock::signed_now_unix_s;
use crate::service::system::{self, Disk, OPEN_FILES_MIN};
use crate::settings::{DatabaseSettings, NodeApiSettings, NodeServiceSettings};

/// The remaining lifetime in days below which a certificate should have been renewed. A guess: those of public
/// authorities are renewed thirty days before their end.
pub(super) const CERTIFICATE_DAYS_MIN: i64 = 14;
/// The name of a file that is written into the data folder and removed again. No database file has this name.
const PROBE: &str = "doctor-probe";
/// The number of synced writes, of which the median counts: a single one may meet another load of the disk. A guess.
const SYNCS: usize = 9;
/// The time of a synced write above which publishes are slow, because each waits for one. Specified: operators of the
/// reference implementation are asked for a commit latency of 20 ms at most.
const SYNC_MAX: Duration = Duration::from_millis(20);
/// The time limit for a listener on this machine to answer. A guess.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// The time limit for the checks of the data folder. A guess: above [`SYNCS`] writes to the slowest disk that works.
const FOLDER_MAX: Duration = Duration::from_secs(15);

/// Checks that the processor has the instructions that the database is compiled with.
pub(super) fn processor() -> DoctorCheck {
    const NAME: &str = "processor";
    match check_processor() {
        Ok(()) => DoctorCheck::fine(NAME, "it has all instructions that RocksDB is compiled with"),
        Err(error) => {
            let found = format!("it lacks {}", error.missing.join(" and "));
            DoctorCheck::failed(NAME, found, ProcessorError::REMEDY)
        }
    }
}

/// Checks the limit of open files.
pub(super) fn open_files() -> DoctorCheck {
    judge_open_files(system::open_files_max())
}

fn judge_open_files(allowed: Option<u64>) -> DoctorCheck {
    const NAME: &str = "open_files";
    const REMEDY: &str = "raise the limit where the node is started (LimitNOFILE=65536, ulimit -n)";
    match allowed {
        None => DoctorCheck::fine(NAME, "this system has no limit"),
        Some(allowed) if allowed < OPEN_FILES_MIN => {
            let found = format!("{allowed} files may be open, and a node needs {OPEN_FILES_MIN}");
            DoctorCheck::failed(NAME, found, REMEDY)
        }
        Some(allowed) => DoctorCheck::fine(NAME, format!("{allowed} files may be open")),
    }
}

const DATA_FOLDER: &str = "data_folder";

/// Checks the data folder and the room on its disk. `None` if the disk does not answer: no further call about the
/// folder ends then.
pub(super) async fn data_disk(config: &DatabaseSettings) -> Option<Vec<DoctorCheck>> {
    let (path, min_bytes) = (config.data_dir.clone(), config.min_free_disk_bytes);
    let checks = move || {
        let mut checks = data_folder(&path);
        checks.push(disk_room(&path, min_bytes));
        checks
    };
    in_time(FOLDER_MAX, checks).await
}

/// Returns the check of a data folder whose disk does not answer.
pub(super) fn silent_disk(config: &DatabaseSettings) -> DoctorCheck {
    let (shown, seconds) = (config.data_dir.display(), FOLDER_MAX.as_secs());
    let found = format!("the disk of {shown} has not answered for {seconds} s");
    DoctorCheck::failed(DATA_FOLDER, found, "follow docs/runbooks/disk.md")
}

/// Makes checks on a thread of their own, which a disk that does not answer holds. `None` if they do not end in time.
async fn in_time<T: Send + 'static>(
    time_max: Duration,
    checks: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout(time_max, tokio::task::spawn_blocking(checks)).await.ok()?.ok()
}

/// Checks the data folder: its permissions, and that it is writable.
fn data_folder(path: &Path) -> Vec<DoctorCheck> {
    const NAME: &str = DATA_FOLDER;
    let shown = path.display();
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![DoctorCheck::fine(NAME, format!("{shown} is made at the first start"))];
        }
        Err(error) => {
            let remedy = "run this as the node's user, and check the owner of the folder";
            return vec![DoctorCheck::failed(NAME, format!("{shown}: {error}"), remedy)];
        }
        Ok(found) if !found.is_dir() => {
            let remedy = "name another folder (--data-dir)";
            return vec![DoctorCheck::failed(NAME, format!("{shown} is not a folder"), remedy)];
        }
        Ok(found) => found,
    };
    let mode = found.mode() & 0o7777;
    let probed = probe(path);
    let slow = probed.as_ref().ok().and_then(|took| judge_sync(*took));
    let written = match probed {
        Ok(took) => DoctorCheck::fine(
            NAME,
            format!("a synced write to {shown} took {} ms, as a median", took.as_millis()),
        ),
        Err(error) => {
            let remedy =
                "run this as the node's user; check owner, mode, and docs/runbooks/disk.md";
            DoctorCheck::failed(NAME, format!("{shown} cannot be written to: {error}"), remedy)
        }
    };
    let exposed = (mode & 0o077 != 0).then(|| {
        let found = format!("other users may look into {shown}: its mode is {mode:04o}");
        DoctorCheck::doubtful("data_folder_mode", found, format!("chmod 700 {shown}"))
    });
    [written].into_iter().chain(slow).chain(exposed).collect()
}

/// Judges the time of a synced write. Returns a check only if it is too long.
fn judge_sync(took: Duration) -> Option<DoctorCheck> {
    (took > SYNC_MAX).then(|| {
        let (ms, max_ms) = (took.as_millis(), SYNC_MAX.as_millis());
        let found = format!(
            "a synced write takes {ms} ms, and each publish waits for one: more than {max_ms} ms"
        );
        DoctorCheck::doubtful("disk_sync", found, "use a local disk with power-loss protection")
    })
}

/// Writes a small file with a sync after each line, and removes it. Returns the median time of a write with its sync.
fn probe(folder: &Path) -> io::Result<Duration> {
    let path = folder.join(PROBE);
    // An interrupted probe may have left its file. A link with that name is removed and never followed.
    let _ = fs::remove_file(&path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let mut times = Vec::new();
    let written = (0..SYNCS).try_for_each(|_| {
        let begun = Instant::now();
        file.write_all(b"this file may be removed\n")?;
        file.sync_all()?;
        times.push(begun.elapsed());
        Ok::<(), io::Error>(())
    });
    fs::remove_file(&path)?;
    written.map(|()| {
        times.sort_unstable();
        times[SYNCS / 2]
    })
}

/// Checks the free space on the disk of the data folder.
fn disk_room(data_dir: &Path, min_bytes: u64) -> DoctorCheck {
    let folder = data_dir.ancestors().find(|folder| folder.exists());
    let folder = folder.unwrap_or(Path::new("."));
    judge_room(Disk(folder.to_owned()).space(), min_bytes)
}

fn judge_room(space: Option<DiskSpace>, min_bytes: u64) -> DoctorCheck {
    const NAME: &str = "disk_room";
    const REMEDY: &str = "extend the disk, or prune: docs/runbooks/disk.md";
    let Some(DiskSpace { free_bytes, total_bytes }) = space else {
        let found = "the room on the disk of the data folder is not known";
        return DoctorCheck::doubtful(NAME, found, "watch it by other means");
    };
    let mib = |bytes: u64| bytes >> 20;
    let found = format!("{} MiB of {} MiB are free", mib(free_bytes), mib(total_bytes));
    if free_bytes < min_bytes {
        let found = format!("{found}, below --min-free-disk: nothing is published");
        return DoctorCheck::failed(NAME, found, REMEDY);
    }
    if free_bytes < total_bytes / 10 || free_bytes < min_bytes.saturating_mul(2) {
        return DoctorCheck::doubtful(NAME, found, REMEDY);
    }
    DoctorCheck::fine(NAME, found)
}

/// Checks that the addresses of a running node answer, or that those of a stopped node are free.
pub(super) fn ports(config: &NodeServiceSettings, is_running: bool) -> Vec<DoctorCheck> {
    let api = config.api.enable.then_some(config.api.address);
    match is_running {
        true => api.map(answers).into_iter().collect(),
        false => {
            let tcp = [api, config.metrics].into_iter().flatten();
            let tcp = tcp.map(|at| is_free("TCP", at, TcpListener::bind(at).map(drop)));
            let quic = config.quic_listen();
            tcp.chain(quic.map(|at| is_free("UDP", at, UdpSocket::bind(at).map(drop)))).collect()
        }
    }
}

const PORTS: &str = "ports";

fn answers(listen: SocketAddr) -> DoctorCheck {
    let at = reached_from_here(listen);
    match TcpStream::connect_timeout(&at, CONNECT_MAX) {
        Ok(_) => DoctorCheck::fine(PORTS, format!("the API answers at {at}")),
        Err(error) => {
            let remedy = "the node runs, and its API does not listen: see its log";
            DoctorCheck::failed(PORTS, format!("nothing answers at {at}: {error}"), remedy)
        }
    }
}

fn is_free(kind: &str, at: SocketAddr, bound: io::Result<()>) -> DoctorCheck {
    match bound {
        Ok(()) => DoctorCheck::fine(PORTS, format!("{kind} {at} is free")),
        Err(error) => {
            let remedy =
                "stop what uses it, or choose other ports (--api.port, --metrics.metrics-port)";
            DoctorCheck::failed(
                PORTS,
                format!("{kind} {at} cannot be listened on: {error}"),
                remedy,
            )
        }
    }
}

/// Returns the address at which a listener is reached from this machine.
fn reached_from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Checks the configured certificate, if there is one.
pub(super) fn certificate(config: &NodeApiSettings) -> Option<DoctorCheck> {
    const NAME: &str = "certificate";
    let now_s = signed_now_unix_s();
    Some(match Tls::load(config.tls.clone()?) {
        Ok(tls) => judge_certificate(tls.expires_unix_s().saturating_sub(now_s)),
        Err(error) => DoctorCheck::failed(NAME, error.to_string(), "bring files that can be used"),
    })
}

fn judge_certificate(left_s: i64) -> DoctorCheck {
    const NAME: &str = "certificate";
    const REMEDY: &str = "renew it: the node takes new files within seconds";
    match left_s.div_euclid(86_400) {
        ..0 => DoctorCheck::failed(NAME, "it has expired", REMEDY),
        left @ 0..CERTIFICATE_DAYS_MIN => {
            DoctorCheck::doubtful(NAME, format!("it expires in {}", days(left)), REMEDY)
        }
        left => DoctorCheck::fine(NAME, format!("it expires in {}", days(left))),
    }
}

/// Returns a number of days with its noun.
pub(super) fn days(count: i64) -> String {
    if count == 1 { "1 day".to_owned() } else { format!("{count} days") }
}

/// Checks that the data folder is the one registered on this host; with any other the node starts in quarantine.
pub(super) fn host_marker(config: &DatabaseSettings, identity: &StoreIdentity) -> DoctorCheck {
    const NAME: &str = "host_marker";
    if let Some(file) = file_of_lost_database(&config.data_dir) {
        let found = format!("the data folder has {file}, and its file CURRENT is lost");
        let remedy = "keep the folder, and follow docs/runbooks/restore.md, Damaged database: no node starts on it";
        return DoctorCheck::failed(NAME, found, remedy);
    }
    let has_database = config.data_dir.join("CURRENT").exists();
    let marker = host_dir(&config.state_dir, identity);
    let marker = marker.display();
    match (has_database, has_host_marker(&config.state_dir, identity)) {
        (_, Err(error)) => {
            let remedy = "run this as the node's user, and check owner and mode (--state-dir)";
            DoctorCheck::failed(NAME, format!("{marker}: {error}"), remedy)
        }
        (true, Ok(true)) => DoctorCheck::fine(NAME, format!("this host knows the node ({marker})")),
        (true, Ok(false)) => DoctorCheck::doubtful(
            NAME,
            format!(
                "there is a database, and this host has never run the node ({marker} has no marker)"
            ),
            "the node starts in quarantine: docs/runbooks/restore.md. Was --state-dir lost or changed?",
        ),
        (false, Ok(true)) => DoctorCheck::doubtful(
            NAME,
            format!("this host has run the node ({marker}), and the data folder has no database"),
            "the node starts in quarantine: docs/runbooks/restore.md. Was --data-dir changed?",
        ),
        (false, Ok(false)) if config.new_strand => {
            DoctorCheck::fine(NAME, "the first start of a key that has published nothing")
        }
        (false, Ok(false)) => DoctorCheck::doubtful(
            NAME,
            "the node has not run on this host",
            "say --new-strand at the first start if the key has published nothing; otherwise the node starts in \
             quarantine",
        ),
    }
}

#[cfg(test)]
mod tests {
    use hawser_net::PeerTransport;
    use hawser_proto::{OriginatorId, SecretKey};
    use hawser_storage::Durability;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::mpsc::channel;

    use super::super::checked::CheckResult::{Doubtful, Failed, Fine};
    use super::*;
    use crate::settings::SettingSources;

    #[test]
    fn too_few_open_files_fail() {
        let result = |allowed| judge_open_files(allowed).result;
        assert_eq!(result(Some(OPEN_FILES_MIN - 1)), Failed);
        assert_eq!((result(Some(OPEN_FILES_MIN)), result(None)), (Fine, Fine));
    }

    #[test]
    fn a_disk_is_doubtful_before_the_node_stops_publishing() {
        let result = |free_bytes, min| {
            judge_room(Some(DiskSpace { free_bytes, total_bytes: 1000 }), min).result
        };
        assert_eq!((result(99, 100), result(100, 100)), (Failed, Doubtful));
        assert_eq!((result(199, 100), result(200, 100)), (Doubtful, Fine));
        assert_eq!((result(99, 0), result(100, 0)), (Doubtful, Fine), "a tenth of the disk");
        assert_eq!(judge_room(None, 0).result, Doubtful);
    }

    #[test]
    fn a_certificate_is_doubtful_for_its_last_fourteen_days() {
        let result = |left_s| judge_certificate(left_s).result;
        assert_eq!((result(-1), result(0)), (Failed, Doubtful));
        assert_eq!((result(14 * 86_400 - 1), result(14 * 86_400)), (Doubtful, Fine));
        let found = |left_days: i64| judge_certificate(left_days * 86_400).found;
        assert_eq!((&found(1)[..], &found(2)[..]), ("it expires in 1 day", "it expires in 2 days"));
    }

    #[test]
    fn a_disk_whose_syncs_are_slow_is_doubtful() {
        assert_eq!(judge_sync(SYNC_MAX), None);
        let slow = judge_sync(SYNC_MAX + Duration::from_millis(1)).unwrap();
        assert_eq!((slow.name, slow.result), ("disk_sync", Doubtful));
        assert!(slow.found.contains("21 ms"), "{}", slow.found);
    }

    #[test]
    fn a_folder_is_probed_without_a_trace() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("data");
        let results = |folder: &Path| {
            // The disk of a test may be slow.
            let checks = data_folder(folder).into_iter().filter(|it| it.name != "disk_sync");
            checks.map(|it| (it.name, it.result)).collect::<Vec<_>>()
        };
        assert_eq!(results(&folder), [("data_folder", Fine)], "not there yet");
        assert!(!folder.exists());
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.join(PROBE), "left").unwrap();
        assert_eq!(results(&folder), [("data_folder", Fine)]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let exposed = [("data_folder", Fine), ("data_folder_mode", Doubtful)];
        assert_eq!(results(&folder), exposed);
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(results(&file), [("data_folder", Failed)]);
        fs::create_dir(folder.join(PROBE)).unwrap();
        assert_eq!(results(&folder)[0], ("data_folder", Failed), "it cannot be written");
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_up_no_other_check() {
        let (answer, answers) = channel::<()>();
        let silent = in_time(Duration::from_millis(20), move || answers.recv());
        assert_eq!(silent.await, None);
        drop(answer);
        assert_eq!(in_time(Duration::from_secs(60), || 7).await, Some(7));
    }

    #[test]
    fn a_folder_that_this_host_does_not_know_is_doubtful() {
        let place = tempfile::tempdir().unwrap();
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity =
            StoreIdentity { network: "test".into(), node: OriginatorId(100), public_key };
        let mut config = DatabaseSettings {
            data_dir: place.path().join("data"),
            state_dir: place.path().join("state"),
            new_strand: true,
            network: "test".into(),
            durability: Durability::Fsync,
            cache_bytes: None,
            open_files: None,
            min_free_disk_bytes: 0,
        };
        assert_eq!(host_marker(&config, &identity).result, Fine, "a first start");
        config.new_strand = false;
        assert_eq!(host_marker(&config, &identity).result, Doubtful);
        fs::create_dir(&config.data_dir).unwrap();
        fs::write(config.data_dir.join("CURRENT"), "").unwrap();
        let copied = host_marker(&config, &identity);
        assert!(copied.result == Doubtful && copied.found.contains("never run"), "{copied:?}");
        let dir = host_dir(&config.state_dir, &identity);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("marker"), "").unwrap();
        assert_eq!(host_marker(&config, &identity).result, Fine);
        fs::remove_file(config.data_dir.join("CURRENT")).unwrap();
        let gone = host_marker(&config, &identity);
        assert!(gone.result == Doubtful && gone.found.contains("no database"), "{gone:?}");
        fs::write(config.data_dir.join("000012.sst"), "").unwrap();
        let lost = host_marker(&config, &identity);
        assert!(lost.result == Failed && lost.found.contains("000012.sst"), "{lost:?}");
    }

    #[test]
    fn a_port_that_is_in_use_fails_and_a_running_node_is_reached_from_here() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = held.local_addr().unwrap();
        let bound = TcpListener::bind(at).map(drop);
        assert_eq!(is_free("TCP", at, bound).result, Failed);
        assert_eq!(answers(SocketAddr::from(([0, 0, 0, 0], at.port()))).result, Fine);
        drop(held);
        assert_eq!(answers(at).result, Failed);
        let anywhere = "[::]:5050".parse().unwrap();
        assert_eq!(reached_from_here(anywhere), "[::1]:5050".parse().unwrap());
    }

    #[test]
    fn only_a_node_that_opens_a_udp_port_needs_it_free() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = "01".repeat(32);
        let variables = [
            ("XMTPD_SIGNER_PRIVATE_KEY", key.as_str()),
            ("HAWSER_REGISTRY_FILE", "registry.json"),
            ("HAWSER_RATES_FILE", "rates.json"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut config = NodeServiceSettings::read(&SettingSources::new([], variables)).unwrap();
        (config.api.address, config.metrics) = (taken.local_addr().unwrap(), None);
        let of_udp = |config: &NodeServiceSettings| {
            let mut checks = ports(config, false).into_iter();
            checks.find(|it| it.found.starts_with("UDP")).map(|it| it.result)
        };
        assert_eq!(of_udp(&config), Some(Failed));
        config.peer_transport = PeerTransport::Grpc;
        assert_eq!(of_udp(&config), None);
        (config.peer_transport, config.api.enable) = (PeerTransport::Quic, false);
        assert_eq!(of_udp(&config), Some(Failed), "peers reach it over QUIC all the same");
    }
}
