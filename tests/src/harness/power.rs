//! Simulated power loss of a folder: removes all bytes that no completed sync has covered.
//!
//! Killing a process cannot show whether it syncs, since the page cache outlives it. So nodes run
//! with the library of `hawser-syncspy` loaded, which writes down every completed sync; after the
//! kill, [`cut`] leaves in the folder only the bytes that a disk is certain to have.
//!
//! Files of a database only grow, so a length says which bytes are safe. A file whose folder was
//! not synced after its creation has no name after a power loss. Renames are taken as done: the
//! one file that is renamed over another, `CURRENT`, keeps its name here in any case.

use std::fs::{self, File, Metadata, OpenOptions};
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use super::binary::syncspy;

/// The same length as in `hawser-syncspy`; if they differed, all tests that read the log would fail.
const RECORD_LEN_BYTES: usize = 48;
const LOG_VARIABLE: &str = "HAWSER_SYNCSPY_LOG";

/// The identity of a file. Inode numbers are reused, so the time of creation is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    born_ns: u64,
}

/// One completed sync.
#[derive(Debug, Clone, Copy)]
struct Sync {
    file: FileId,
    size_bytes: u64,
    began_ns: u64,
}

/// The syncs of one node, over all its lives.
#[derive(Debug, Clone)]
pub struct SyncLog {
    path: PathBuf,
}

/// Bytes and files that a power loss has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// Bytes cut from the ends of files.
    pub bytes: u64,
    /// Files without a name.
    pub files: u64,
}

impl AddAssign for Loss {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.files += more.files;
    }
}

impl SyncLog {
    /// Creates an empty log at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes a process that is about to start write to this log.
    pub fn watch(&self, command: &mut Command) {
        command.env("LD_PRELOAD", syncspy()).env(LOG_VARIABLE, &self.path);
    }

    fn syncs(&self) -> Vec<Sync> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        bytes.chunks_exact(RECORD_LEN_BYTES).map(parse).collect()
    }

    /// Returns the count of completed syncs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.syncs().len()
    }

    /// Returns true before the first sync.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the length of the beginning of a file that syncs have covered, in bytes.
    ///
    /// # Panics
    /// Panics if the file does not exist.
    #[must_use]
    pub fn synced_len(&self, path: &Path) -> u64 {
        synced_len(&self.syncs(), file_id(&fs::metadata(path).unwrap()))
    }
}

fn parse(record: &[u8]) -> Sync {
    let field = |at: usize| {
        u64::from_le_bytes(record[at * 8..][..8].try_into().expect("eight bytes of each field"))
    };
    let file = FileId { device: field(0), inode: field(1), born_ns: field(2) };
    Sync { file, size_bytes: field(3), began_ns: field(4) }
}

fn file_id(metadata: &Metadata) -> FileId {
    let device = metadata.dev();
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    FileId {
        device: u64::from(libc::major(device)) << 32 | u64::from(libc::minor(device)),
        inode: metadata.ino(),
        born_ns: born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap()),
    }
}

fn synced_len(syncs: &[Sync], file: FileId) -> u64 {
    let of_file = syncs.iter().filter(|sync| sync.file == file);
    of_file.map(|sync| sync.size_bytes).max().unwrap_or(0)
}

/// Removes from `folder` and its subfolders all bytes that are not durable by `log`. No
/// process may have the folder open.
///
/// # Panics
/// Panics if a file cannot be changed.
pub fn cut(folder: &Path, log: &SyncLog) -> Loss {
    let mut loss = Loss::default();
    cut_folder(folder, &log.syncs(), &mut loss);
    loss
}

fn cut_folder(folder: &Path, syncs: &[Sync], loss: &mut Loss) {
    let folder_id = file_id(&fs::metadata(folder).unwrap());
    let last_sync_ns = syncs.iter().filter(|sync| sync.file == folder_id).map(|sync| sync.began_ns);
    let last_sync_ns = last_sync_ns.max().unwrap_or(0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        let file = file_id(&metadata);
        if metadata.is_dir() {
            cut_folder(&path, syncs, loss);
        } else if !metadata.is_file() {
            // A socket holds no bytes. It stays, as after a crash.
        } else if file.born_ns > last_sync_ns && !path.ends_with("CURRENT") {
            fs::remove_file(&path).unwrap();
            loss.files += 1;
        } else {
            let keep = synced_len(syncs, file).min(metadata.len());
            OpenOptions::new().write(true).open(&path).unwrap().set_len(keep).unwrap();
            loss.bytes += metadata.len() - keep;
        }
    }
}

/// Returns the write-ahead log in use: RocksDB's `*.log` file with the highest number.
///
/// # Panics
/// Panics if `folder` and its subfolders have no such file.
#[must_use]
pub fn write_ahead_log(folder: &Path) -> PathBuf {
    let mut logs = Vec::new();
    collect_logs(folder, &mut logs);
    logs.into_iter().max().unwrap_or_else(|| panic!("no log in {}", folder.display())).1
}

fn collect_logs(folder: &Path, logs: &mut Vec<(u64, PathBuf)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_logs(&path, logs);
        } else if path.extension().is_some_and(|extension| extension == "log")
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            logs.push((number, path));
        }
    }
}

/// Returns the first `len` bytes of a write-ahead log without RocksDB's framing in blocks of 32 KiB.
///
/// # Panics
/// Panics if the file cannot be read.
#[must_use]
pub fn written(path: &Path, len: u64) -> Vec<u8> {
    const BLOCK: usize = 32 * 1024;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(File::open(path).unwrap(), len),
        &mut bytes,
    )
    .unwrap();
    let mut content = Vec::with_capacity(bytes.len());
    for mut block in bytes.chunks(BLOCK) {
        // Checksum (4), length (2), type (1); four bytes more in the types for recycled files.
        while let [_, _, _, _, len_low, len_high, kind, rest @ ..] = block {
            let extra = if matches!(kind, 5..=8 | 11 | 131) { 4 } else { 0 };
            let len = usize::from(u16::from_le_bytes([*len_low, *len_high]));
            let Some(fragment) = rest.get(extra..extra + len) else { break };
            if *kind == 0 && len == 0 {
                break;
            }
            content.extend(fragment);
            block = &rest[extra + len..];
        }
    }
    content
}

/// Returns true if `hay` contains `needle`.
#[must_use]
pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}
