//! Files of an export: a file with its final name is complete.

use std::fs::{self, File, Metadata};
use std::io::{BufWriter, ErrorKind, Read, Seek as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hawser_proto::OriginatorId;
use parquet::file::writer::SerializedFileWriter;
use serde::{Deserialize, Serialize};

use super::error::ExportError;
use super::record::describe;
use super::table::{LOG, RowGroup, Table, Value};
use crate::plain_file::{self, PlainFileError, SymbolicLinks};
use crate::replay::StrandRow;

/// Bytes of a row group, and so of memory. A guess: engines read some tens of MiB at once for each core.
pub(super) const GROUP_LEN_BYTES: usize = 16 * 1024 * 1024;
/// Rows of a row group. A guess: small envelopes reach it first.
pub(super) const GROUP_ROWS: usize = 32 * 1024;
/// Bytes of a buffer for reading. A guess.
const BUFFER_LEN_BYTES: usize = 1024 * 1024;

/// The length and the digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Rows.
    pub rows: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// BLAKE3, hex.
    pub blake3: String,
}

/// A file that is being written. Until [`FinishedPart::show`] it has another name, which engines ignore.
pub(super) struct PartWriter {
    path: PathBuf,
    beside: PathBuf,
    /// Absent once the file is finished.
    writer: Option<SerializedFileWriter<Digesting>>,
    group: RowGroup,
    rows: u64,
    len_bytes: u64,
}

impl PartWriter {
    /// Begins a file at a path below the folder of an export.
    pub(super) fn create(
        folder: &Path,
        path: &Path,
        table: &'static Table,
    ) -> Result<Self, ExportError> {
        let beside = beside(path);
        make_folders(folder, path)?;
        let file = create_fresh(&beside)?;
        let (schema, fail) = (table.schema(), ExportError::parquet(path));
        let writer = schema.and_then(|schema| {
            SerializedFileWriter::new(Digesting::new(file), schema, Arc::new(table.properties()))
        });
        let writer = Some(writer.map_err(fail)?);
        let (path, group) = (path.to_owned(), RowGroup::new(table));
        Ok(Self { path, beside, writer, group, rows: 0, len_bytes: 0 })
    }

    /// Adds a row. Writes a row group when enough of them wait.
    pub(super) fn push(&mut self, row: Vec<Value>) -> Result<(), ExportError> {
        self.group.push(row);
        self.rows += 1;
        if self.group.rows() >= GROUP_ROWS || self.group.len_bytes() >= GROUP_LEN_BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the length of all values so far, in bytes.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes + self.group.len_bytes() as u64
    }

    fn write_group(&mut self) -> Result<(), ExportError> {
        self.len_bytes += self.group.len_bytes() as u64;
        let writer = self.writer.as_mut().expect("the file is not finished");
        self.group.write(writer).map_err(ExportError::parquet(&self.path))
    }

    /// Writes the waiting rows and syncs the file. The file keeps its temporary name until [`FinishedPart::show`].
    pub(super) fn finish(mut self) -> Result<FinishedPart, ExportError> {
        if self.group.rows() > 0 {
            self.write_group()?;
        }
        let writer = self.writer.take().expect("the file is finished once");
        let written = writer.into_inner().map_err(ExportError::parquet(&self.path));
        let synced = written.and_then(|it| it.finish().map_err(ExportError::io(&self.beside)));
        let (len_bytes, blake3) = synced.inspect_err(|_| self.remove())?;
        let digest = FileDigest { rows: self.rows, len_bytes, blake3 };
        let (path, beside) = (self.path.clone(), self.beside.clone());
        Ok(FinishedPart { path, beside, digest })
    }

    /// Removes the file, which is incomplete, so that it takes no room on a full disk. If it cannot be removed, the
    /// next run replaces it.
    fn remove(&self) {
        let _ = fs::remove_file(&self.beside);
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if self.writer.is_some() {
            self.remove();
        }
    }
}

/// Returns the bytes of a file of the table `log`, as an export writes them, for samples and tests.
///
/// # Errors
/// Never for rows of a log.
pub fn encode_part(originator: OriginatorId, rows: Vec<StrandRow>) -> Result<Vec<u8>, ExportError> {
    let encode = || {
        let properties = Arc::new(LOG.properties());
        let mut writer = SerializedFileWriter::new(Vec::new(), LOG.schema()?, properties)?;
        let mut group = RowGroup::new(&LOG);
        for record in describe(originator, true, rows) {
            group.push(record.values);
        }
        group.write(&mut writer)?;
        writer.into_inner()
    };
    encode().map_err(ExportError::parquet(Path::new("bytes")))
}

/// A file that is on the disk under its temporary name.
#[derive(Debug)]
pub(super) struct FinishedPart {
    path: PathBuf,
    beside: PathBuf,
    pub(super) digest: FileDigest,
}

impl FinishedPart {
    /// Gives the file its final name.
    pub(super) fn show(self) -> Result<FileDigest, ExportError> {
        fs::rename(&self.beside, &self.path).map_err(ExportError::io(&self.path))?;
        sync_folder_of(&self.path)?;
        Ok(self.digest)
    }

    /// Removes the file.
    pub(super) fn discard(self) -> Result<(), ExportError> {
        fs::remove_file(&self.beside).map_err(ExportError::io(&self.beside))
    }
}

/// Returns the name of a file before it is complete.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

fn sync_folder_of(path: &Path) -> Result<(), ExportError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ExportError::io(folder))
}

/// Makes the folder of an export.
///
/// # Errors
/// When it cannot be made, or a file has its name.
pub(super) fn make_root(folder: &Path) -> Result<(), ExportError> {
    fs::create_dir_all(folder).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => ExportError::InTheWay(folder.to_owned()),
        _ => ExportError::io(folder)(error),
    })
}

/// Makes the folders between that of an export and a file in it. A link among them would lead to the files of others.
fn make_folders(folder: &Path, path: &Path) -> Result<(), ExportError> {
    let below = path.strip_prefix(folder).expect("the file is below the folder");
    let mut at = folder.to_owned();
    for name in below.parent().into_iter().flatten() {
        at.push(name);
        match fs::create_dir(&at) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(&at).map_err(ExportError::io(&at))?;
                if !found.is_dir() {
                    return Err(ExportError::InTheWay(at));
                }
            }
            made => made.map_err(ExportError::io(&at))?,
        }
    }
    Ok(())
}

/// Creates a file that no other process has open. Removes a file that an interrupted run has left under the name, and
/// never follows a link.
fn create_fresh(path: &Path) -> Result<File, ExportError> {
    if plain_file(path)?.is_some() {
        fs::remove_file(path).map_err(ExportError::io(path))?;
    }
    File::create_new(path).map_err(ExportError::io(path))
}

/// Returns the metadata of a file, or `None` if there is none.
///
/// # Errors
/// When a link, a folder, a pipe or a device has the name.
fn plain_file(path: &Path) -> Result<Option<Metadata>, ExportError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found)),
        Ok(_) => Err(ExportError::InTheWay(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ExportError::io(path)(error)),
    }
}

/// Opens a file for reading. Does not follow a link, and does not block on a pipe.
///
/// # Errors
/// When a link, a folder, a pipe or a device has the name, and when the system cannot open the file.
pub(super) fn open_plain(path: &Path) -> Result<File, ExportError> {
    let refused = |error| match error {
        PlainFileError::System(error) => ExportError::io(path)(error),
        PlainFileError::NotPlain | PlainFileError::TooLong { .. } => {
            ExportError::InTheWay(path.to_owned())
        }
    };
    plain_file::open_plain(path, SymbolicLinks::Refused).map_err(refused)
}

/// Opens the file that runs lock, and locks it. Does not change its content.
///
/// # Errors
/// When another run has locked it, or it is not a plain file.
pub(super) fn lock(folder: &Path) -> Result<File, ExportError> {
    let path = folder.join(".lock");
    let file = match plain_file(&path)? {
        Some(found) => {
            let file = File::options().write(true).open(&path).map_err(ExportError::io(&path))?;
            let opened = file.metadata().map_err(ExportError::io(&path))?;
            // Another user may put a link there between the two looks.
            if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
                return Err(ExportError::InTheWay(path));
            }
            file
        }
        None => match File::create_new(&path) {
            // Another run was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(ExportError::Busy(folder.to_owned()));
            }
            file => file.map_err(ExportError::io(&path))?,
        },
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(ExportError::Busy(folder.to_owned())),
    }
}

/// Writes a small file atomically: under its name it is either complete or absent.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), ExportError> {
    let beside = beside(path);
    let mut file = create_fresh(&beside)?;
    let mut write = || {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(ExportError::io(path))?;
    sync_folder_of(path)
}

/// Returns the length and the BLAKE3 of a file.
pub(super) fn digest_of(path: &Path) -> Result<(u64, String), ExportError> {
    digest_of_file(&mut open_plain(path)?, path)
}

/// Returns the length and the BLAKE3 of an open file, from its beginning.
fn digest_of_file(file: &mut File, path: &Path) -> Result<(u64, String), ExportError> {
    let mut read = || {
        file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_LEN_BYTES];
        let mut len_bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((len_bytes, hasher.finalize().to_hex().to_string())),
                read => {
                    len_bytes += read as u64;
                    hasher.update(&buffer[..read]);
                }
            }
        }
    };
    read().map_err(ExportError::io(path))
}

/// Requires that an open file has the bytes of one of these.
///
/// # Errors
/// When it has other ones, or cannot be read.
pub(super) fn verify(
    file: &mut File,
    path: &Path,
    listed: &[&FileDigest],
) -> Result<(), ExportError> {
    let found = digest_of_file(file, path)?;
    match listed.iter().any(|it| (it.len_bytes, &it.blake3) == (found.0, &found.1)) {
        true => Ok(()),
        false => Err(ExportError::malformed(
            path,
            "the file differs from the one that the manifest lists",
        )),
    }
}

/// A file whose digest is taken while it is written.
struct Digesting {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    len_bytes: u64,
}

impl Digesting {
    fn new(file: File) -> Self {
        let file = BufWriter::with_capacity(BUFFER_LEN_BYTES, file);
        Self { file, hasher: blake3::Hasher::new(), len_bytes: 0 }
    }

    fn finish(mut self) -> std::io::Result<(u64, String)> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok((self.len_bytes, self.hasher.finalize().to_hex().to_string()))
    }
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.len_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
