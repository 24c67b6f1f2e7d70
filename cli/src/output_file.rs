//! Files that an operator names for a result. Other users may be able to write into the folders of these files.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use hawser_node::error::RunError;
use hawser_node::files::write_whole;

/// Writes a file as a whole, in place of the plain file of that name if there is one.
///
/// # Errors
/// When a link, a folder or a device has the name: another user could have put it there to divert the content. When the
/// file cannot be written.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), RunError> {
    let fail = |error| RunError::failed(format!("{}: {error}", path.display()));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let text = "it is a link, a folder or a device, and not written to: remove it, or name another file";
            Err(RunError::refused(format!("{}: {text}", path.display())))
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(fail(error)),
        _ => write_whole(path, content).map_err(fail),
    }
}

/// Writes a new file, and never replaces one. Removes a file that cannot be written as a whole: it would be in the way
/// of the next attempt.
///
/// # Errors
/// Refused when there is a file of that name. Fails when the file cannot be written.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), RunError> {
    create(path, |file| file.write_all(content))
}

/// Writes a new file like [`write_new`], by a function.
///
/// # Errors
/// As [`write_new`], and the errors of the function.
pub(crate) fn create(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), RunError> {
    let fail =
        |error: &dyn std::fmt::Display| RunError::failed(format!("{}: {error}", path.display()));
    let mut file = File::create_new(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => RunError::refused(format!(
            "{}: the file exists already, and is not replaced: name another one",
            path.display()
        )),
        _ => fail(&error),
    })?;
    write(&mut file).and_then(|()| file.sync_all()).map_err(|error| {
        // If it cannot be removed either, the next attempt says that it exists.
        let _ = fs::remove_file(path);
        fail(&error)
    })
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;

    use super::*;

    #[test]
    fn a_new_file_replaces_none_and_a_part_of_one_does_not_stay() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("proof.json");
        let full = create(&file, |file| {
            file.write_all(b"a part")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert!(full.is_err() && !file.exists(), "{full:?}");
        write_new(&file, b"whole").unwrap();
        let refused = write_new(&file, b"other").unwrap_err();
        assert_eq!(refused.kind, RunErrorKind::Refused);
        assert!(refused.text.contains("is not replaced"), "{refused:?}");
        assert_eq!(fs::read(&file).unwrap(), b"whole");
    }

    #[test]
    fn a_file_is_replaced_and_a_link_is_neither_followed_nor_replaced() {
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("page.html"), place.path().join("link.html"));
        let others = place.path().join("others");
        write(&file, b"first").unwrap();
        write(&file, b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        fs::write(&others, "of others").unwrap();
        std::os::unix::fs::symlink(&others, &link).unwrap();
        let refused = write(&link, b"page").unwrap_err();
        assert!(refused.text.contains("it is a link"), "{refused:?}");
        // A link is planted under the temporary name, too.
        std::os::unix::fs::symlink(&others, place.path().join("page.html.new")).unwrap();
        write(&file, b"third").unwrap();
        assert_eq!(fs::read(&others).unwrap(), b"of others");
        assert_eq!(fs::read(&file).unwrap(), b"third");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
