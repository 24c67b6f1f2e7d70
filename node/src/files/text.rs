//! Text files, and pipes in their places.

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

/// Reads a text file, or the text that another program writes into a pipe, such as that of `<(command)` in a shell.
///
/// Waits for that program as long as it has the pipe open. A pipe that no program opens is given up after ten seconds.
///
/// # Errors
/// When the system cannot read the file, when it is not UTF-8, and when no program writes into the pipe.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    if is_pipe(path)? { read_pipe(path, WRITER_MAX) } else { fs::read_to_string(path) }
}

/// Returns true if a path names a pipe, at which opening may wait.
///
/// # Errors
/// When there is no such file, or the system does not tell.
pub(crate) fn is_pipe(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.file_type().is_fifo())
}

fn read_pipe(path: &Path, writer_max: Duration) -> io::Result<String> {
    // Without this flag the system waits for a program that writes, for ever if there is none.
    let mut pipe = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let (mut bytes, mut has_writer, opened) = (Vec::new(), false, Instant::now());
    loop {
        match pipe.read_to_end(&mut bytes) {
            // The end of what was written, if a program has had the pipe open.
            Ok(_) if has_writer || !bytes.is_empty() => break,
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
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_pipe_that_no_program_writes_into_ends_the_wait() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = read_pipe(&pipe, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("no program writes"), "{error}");
    }

    #[test]
    fn a_pipe_is_read_to_the_end_of_what_a_program_writes() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let written = "line\n".repeat(50_000);
        let content = written.clone();
        let writer = {
            let pipe = pipe.clone();
            thread::spawn(move || fs::write(pipe, content))
        };
        // The writer waits for this reader, however late it is.
        assert_eq!(read_pipe(&pipe, Duration::MAX).unwrap(), written);
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file).unwrap(), "text");
        assert_eq!(read_text(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
