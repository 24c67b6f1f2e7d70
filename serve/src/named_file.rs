//! Files that an operator names, and pipes in their places.
//!
//! The enemy is a path that names something else than a file: a program that opens a pipe waits until another one
//! writes into it, and a device may have no end.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The time within which another program has to open a pipe. A guess: a script starts both programs at once.
const WRITER_MAX: Duration = Duration::from_secs(10);
/// The time between two reads of a pipe without content. A guess.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The largest file for which memory is taken at once. A guess: files of secrets are far smaller, and copies of their
/// beginnings would stay in memory if it grew.
const TAKEN_AT_ONCE_BYTES_MAX: u64 = 1 << 20;
/// The flag `O_NONBLOCK` of `open` on Linux, and on macOS and BSD. The standard library has no name for it.
const NONBLOCK: i32 = if cfg!(target_os = "linux") { 0o4000 } else { 0x4 };

/// Reads a text file, or the text that another program writes into a pipe, such as that of `<(command)` in a shell.
///
/// # Errors
/// Those of [`read_bytes`], and an error if the content is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read_bytes(path, u64::MAX)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads at most this many bytes of a file, or of what another program writes into a pipe.
///
/// Waits for that program as long as it has the pipe open. A pipe that no program opens is given up after ten seconds.
///
/// # Errors
/// When the system cannot read the file, when the path names a device, and when no program writes into the pipe.
pub fn read_bytes(path: &Path, len_bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let found = file.metadata()?;
    let kind = found.file_type();
    if kind.is_fifo() {
        return read_pipe(file, len_bytes_max, WRITER_MAX);
    }
    // The system's own error about a folder names it.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is neither a file nor a pipe: name a file"));
    }
    let at_once = found.len().min(len_bytes_max).min(TAKEN_AT_ONCE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(at_once).unwrap_or_default());
    file.take(len_bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns true if a path names a pipe, at which opening may wait.
///
/// # Errors
/// When there is no such file, or the system does not tell.
pub fn is_pipe(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.file_type().is_fifo())
}

/// Opens a path for reading. Without the flag the system waits for a program that writes into a pipe, for ever if there
/// is none.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(NONBLOCK).open(path)
}

fn read_pipe(mut pipe: File, len_bytes_max: u64, writer_max: Duration) -> io::Result<Vec<u8>> {
    let (mut bytes, mut has_writer, opened) = (Vec::new(), false, Instant::now());
    loop {
        let left = len_bytes_max.saturating_sub(bytes.len() as u64);
        match pipe.by_ref().take(left).read_to_end(&mut bytes) {
            // The end of what was written, if a program has had the pipe open.
            Ok(_) if has_writer || !bytes.is_empty() => return Ok(bytes),
            Ok(_) if opened.elapsed() < writer_max => {}
            Ok(_) => {
                let text = "it is a pipe, and no program writes into it: name a file";
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => has_writer = true,
            Err(error) => return Err(error),
        }
        thread::sleep(READ_AGAIN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A new pipe in a folder of its own.
    fn pipe() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        (folder, pipe)
    }

    #[test]
    fn a_pipe_that_no_program_writes_into_ends_the_wait() {
        let (_folder, pipe) = pipe();
        let error = read_pipe(open(&pipe).unwrap(), u64::MAX, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("no program writes"), "{error}");
    }

    #[test]
    fn a_pipe_is_read_to_the_end_of_what_a_program_writes_and_no_further_than_is_wanted() {
        let written = "line\n".repeat(50_000);
        for wanted in [written.len(), 7] {
            let (_folder, pipe) = pipe();
            let writer = {
                let (pipe, content) = (pipe.clone(), written.clone());
                thread::spawn(move || fs::write(pipe, content))
            };
            // The writer waits for this reader, however late it is.
            let read = read_pipe(open(&pipe).unwrap(), wanted as u64, Duration::MAX).unwrap();
            assert_eq!(read, written.as_bytes()[..wanted]);
            let is_whole = wanted == written.len();
            assert_eq!(writer.join().unwrap().is_ok(), is_whole, "the rest has no reader");
        }
    }

    #[test]
    fn a_file_is_read_as_it_is_and_a_device_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file).unwrap(), "text");
        assert_eq!(read_bytes(&file, 3).unwrap(), b"tex");
        assert_eq!(read_text(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(read_text(folder.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
        let endless = read_text(Path::new("/dev/zero")).unwrap_err();
        assert!(endless.to_string().contains("neither a file nor a pipe"), "{endless}");
        fs::write(&file, [0xff]).unwrap();
        assert_eq!(read_text(&file).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
