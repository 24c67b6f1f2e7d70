//! Long files that a backup reads or writes once. They take no room in the system's file cache, in which the node's
//! readers have what they need.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_setfl};

/// Alignment of the memory and the places of reads that pass by the file cache, in bytes. Chosen: the block of most
/// disks and file systems, and a multiple of the others'.
const ALIGNMENT: usize = 4096;

/// A file of this machine that is read from its begin to its end, past the file cache where the file system can.
pub(crate) struct UncachedFile {
    file: File,
    is_direct: bool,
}

impl UncachedFile {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match open_direct(path) {
            Ok(file) => Ok(Self { file, is_direct: true }),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                Ok(Self { file: File::open(path)?, is_direct: false })
            }
            Err(error) => Err(error),
        }
    }
}

/// Opens a file for direct reads.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if the file system or the operating system has none.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// See above.
#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(ErrorKind::InvalidInput.into())
}

impl Read for UncachedFile {
    /// Reads through the cache from the first read on that the file system refuses: of a place or into memory that is
    /// not aligned as it demands.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Err(error) if self.is_direct && error.kind() == ErrorKind::InvalidInput => {
                fcntl_setfl(&self.file, OFlags::empty())?;
                self.is_direct = false;
                self.file.read(buffer)
            }
            read => read,
        }
    }
}

/// Memory into which an [`UncachedFile`] can be read.
pub(crate) struct ReadBuffer {
    memory: Vec<u8>,
    begin: usize,
}

impl ReadBuffer {
    /// Allocates `len` zeros. A multiple of 4 KiB keeps the places of all reads aligned.
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGNMENT];
        let begin = memory.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        Self { memory, begin }
    }

    /// Returns all of the memory.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let end = self.memory.len() - (ALIGNMENT - self.begin);
        &mut self.memory[self.begin..end]
    }
}

/// Gives back the room in the file cache of a part of a file that has been synced. Only advice: a system that does not
/// take it keeps the part until it needs the room.
pub(crate) fn leave_cache(file: &File, from: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let Some(len) = std::num::NonZeroU64::new(len) {
        let _ = rustix::fs::fadvise(file, from, Some(len), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, from, len);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Reads a file in steps of `step` bytes, each into memory that begins `shift` bytes behind an aligned address.
    fn read_in_steps(path: &Path, step: usize, shift: usize) -> Vec<u8> {
        let (mut file, mut read) = (UncachedFile::open(path).unwrap(), Vec::new());
        let mut buffer = ReadBuffer::new(step + shift);
        loop {
            let part = &mut buffer.bytes()[shift..];
            match file.read(part).unwrap() {
                0 => return read,
                len => read.extend_from_slice(&part[..len]),
            }
        }
    }

    /// A file system takes direct reads of whole blocks only, and files end anywhere.
    #[test]
    fn files_of_any_length_are_read_whole_into_memory_of_any_alignment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for len in [0, 1, 4095, 4096, 4097, 65_536, 70_001] {
            let bytes: Vec<u8> = (0..len).map(|at: u32| (at % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            for (step, shift) in [(4096, 0), (16_384, 0), (5000, 0), (4096, 1), (100, 7)] {
                assert!(read_in_steps(&path, step, shift) == bytes, "{len}: {step}, {shift}");
            }
        }
    }

    #[test]
    fn memory_for_reads_is_aligned_and_has_the_length_that_was_asked_for() {
        for len in [1, 4096, 10_000] {
            let mut buffer = ReadBuffer::new(len);
            let bytes = buffer.bytes();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % ALIGNMENT), (len, 0));
        }
    }
}
