//! Files that are opened by their names: regular ones alone.
//!
//! The attacker puts a pipe in the place of a file, at which a reader waits for ever, or a device whose bytes do not
//! end.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The treatment of a symbolic link that has the name of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SymbolicLinks {
    /// The file that it names is opened: the caller chose the name.
    Followed,
    /// The link is refused: other users may write into the folder.
    Refused,
}

/// The reason why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum PlainFileError {
    /// The system cannot open or read it.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A folder, a pipe or a device has the name, or a link where none is followed.
    #[error("it is not a regular file: copy the content into one, and name that")]
    NotPlain,
    /// The file is longer than any file of its kind.
    #[error("the file is too long: at most {len_bytes_max} bytes are read")]
    TooLong {
        /// The maximum number of bytes that are read.
        len_bytes_max: u64,
    },
}

impl PlainFileError {
    /// Returns true if there is no such file.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::System(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens a regular file for reading. Does not wait for the writer of a pipe.
///
/// # Errors
/// When something else has the name, and when the system cannot open the file.
pub fn open_plain(path: &Path, links: SymbolicLinks) -> Result<File, PlainFileError> {
    let (found, flags) = match links {
        SymbolicLinks::Followed => (fs::metadata(path)?, libc::O_NONBLOCK),
        SymbolicLinks::Refused => {
            (fs::symlink_metadata(path)?, libc::O_NONBLOCK | libc::O_NOFOLLOW)
        }
    };
    // Opening alone may move a device.
    if !found.is_file() {
        return Err(PlainFileError::NotPlain);
    }
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    // Another user may put something else there between the two looks.
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(PlainFileError::NotPlain),
    }
}

/// Reads a text file of up to `len_bytes_max` bytes. Follows a link.
///
/// # Errors
/// When it is no regular file, is longer or is not text, and when the system cannot read it.
pub fn read_text(path: &Path, len_bytes_max: u64) -> Result<String, PlainFileError> {
    let file = open_plain(path, SymbolicLinks::Followed)?;
    let mut text = String::new();
    if file.metadata()?.len() <= len_bytes_max {
        file.take(len_bytes_max.saturating_add(1)).read_to_string(&mut text)?;
        if text.len() as u64 <= len_bytes_max {
            return Ok(text);
        }
    }
    Err(PlainFileError::TooLong { len_bytes_max })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn pipes_devices_and_folders_are_refused_and_long_files_are_not_read() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        fs::write(at("file"), "four").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("link-to-device")).unwrap();
        for name in ["pipe", "link-to-device", "", "/dev/zero"] {
            let found = read_text(&at(name), 10);
            assert!(matches!(found, Err(PlainFileError::NotPlain)), "{name}: {found:?}");
        }
        assert_eq!(read_text(&at("file"), 4).unwrap(), "four");
        assert_eq!(read_text(&at("link"), 4).unwrap(), "four");
        let refused = open_plain(&at("link"), SymbolicLinks::Refused);
        assert!(matches!(refused, Err(PlainFileError::NotPlain)));
        let long = read_text(&at("file"), 3);
        assert!(matches!(long, Err(PlainFileError::TooLong { len_bytes_max: 3 })), "{long:?}");
        assert!(read_text(&at("none"), 3).unwrap_err().is_absence());
    }
}
