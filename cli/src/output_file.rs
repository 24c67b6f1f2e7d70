//! Files that an operator names for a result. Other users may be able to write into the folders of these files.

use std::fs;
use std::io::ErrorKind;
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

#[cfg(test)]
mod tests {
    use super::*;

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
