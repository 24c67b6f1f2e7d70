//! Secret keys in files: 64 hex digits, accessible only to their owner.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use hawser_proto::SecretKey;
use hawser_proto::sign::SecretKeyError;
use hawser_serve::named_file::read_text;
use zeroize::Zeroizing;

use crate::error::RunError;

/// The variable with the folder of the files that systemd's `LoadCredential=` gives to a service.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The id of root, who may read every file.
const ROOT: u32 = 0;
/// The number of hex digits from which on a name may be a key. A guess: a mistyped key may lack some.
const KEY_DIGITS_MIN: usize = 60;

/// Error of reading a secret from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The path names a folder.
    #[error("it is a folder; name the file with the secret")]
    IsFolder,
    /// The file has no content but white space.
    #[error("the file is empty")]
    Empty,
    /// Other users may read or write the file, so its content may no longer be secret.
    #[error("its mode is {mode:04o}: a secret may be readable by its owner only (chmod 600)")]
    Exposed {
        /// Permission bits.
        mode: u32,
    },
    /// The file belongs to another user than that of this process, who may read and replace it.
    #[error(
        "it belongs to user {owner}, and this process runs as user {own}: run it as that user, or give the file to this \
         one (chown)"
    )]
    OfOther {
        /// The id of the file's owner.
        owner: u32,
        /// The id of this process's user.
        own: u32,
    },
    /// The text is not a key.
    #[error(transparent)]
    NoKey(#[from] SecretKeyError),
}

impl SecretFileError {
    /// Returns the error of a command that needs the secret in `path`.
    #[must_use]
    pub fn at(&self, path: &Path) -> RunError {
        let text = match path.to_str().and_then(misplaced_secret) {
            Some(secret) => format!("{secret} in place of the name of a file: {self}"),
            None => format!("{}: {self}", path.display()),
        };
        match self {
            Self::Read(error) if error.kind() == io::ErrorKind::NotFound => {
                RunError::not_found(text)
            }
            Self::Exposed { .. } | Self::OfOther { .. } => RunError::refused(text),
            Self::Read(_) | Self::IsFolder | Self::Empty | Self::NoKey(_) => RunError::failed(text),
        }
    }
}

/// Returns what was given in place of a name if that may be a secret itself; `None` for a name. Errors show this
/// instead, because they get into logs.
#[must_use]
pub fn misplaced_secret(name: &str) -> Option<&'static str> {
    let digits = name.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    if digits.len() >= KEY_DIGITS_MIN && digits.bytes().all(|it| it.is_ascii_hexdigit()) {
        return Some("a secret key (not shown)");
    }
    if name.contains("://") {
        return Some("a URL (not shown)");
    }
    name.contains("password=").then_some("a connection string (not shown)")
}

/// Reads a secret text and trims white space around it.
///
/// # Errors
/// Fails when the file cannot be read, when its group or others may read or write it, or when it belongs to another
/// user than that of this process and root.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let found = std::fs::metadata(path)?;
    if found.is_dir() {
        return Err(SecretFileError::IsFolder);
    }
    let is_credential = is_in(path, std::env::var_os(CREDENTIALS).as_deref());
    check_private(found.mode() & 0o7777, found.uid(), own_user(), is_credential)?;
    let text = Zeroizing::new(read_text(path)?);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Returns true if a file is directly in a folder.
fn is_in(path: &Path, folder: Option<&OsStr>) -> bool {
    folder.is_some_and(|folder| path.parent() == Some(Path::new(folder)))
}

/// Checks that only root and the user `own` may read or write a file.
///
/// The files of `LoadCredential=` belong to root. Since version 254 systemd lets the service's user read them by an
/// access list, whose mask replaces the group's bits: their mode is 0440. No other user can enter their
/// folder.
fn check_private(
    mode: u32,
    owner: u32,
    own: u32,
    is_credential: bool,
) -> Result<(), SecretFileError> {
    let exposed = if is_credential { 0o037 } else { 0o077 };
    if mode & exposed != 0 {
        return Err(SecretFileError::Exposed { mode });
    }
    if owner != own && owner != ROOT {
        return Err(SecretFileError::OfOther { owner, own });
    }
    Ok(())
}

/// Returns the id of the user with whose rights this process reads files.
#[expect(unsafe_code, reason = "the standard library does not tell the user")]
fn own_user() -> u32 {
    // SAFETY: the call takes nothing, changes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Reads a secret key.
///
/// # Errors
/// The errors of [`read_secret`], and an error if the text is not a key.
pub fn read(path: &Path) -> Result<SecretKey, SecretFileError> {
    let text = read_secret(path)?;
    if text.is_empty() {
        return Err(SecretFileError::Empty);
    }
    Ok(SecretKey::from_hex(&text)?)
}

/// Writes a new secret key file, mode 0600. Never replaces a file. Removes one that cannot be written as a whole: its
/// key is in use nowhere, and no later attempt would replace it.
///
/// # Errors
/// Fails when the file exists, or cannot be written.
pub fn write_new(path: &Path, key: &SecretKey) -> io::Result<()> {
    let mut text = Zeroizing::new(hex_of(key).to_string());
    text.push('\n');
    create(path, |file| file.write_all(text.as_bytes()))
}

fn create(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written = write(&mut file).and_then(|()| file.sync_all()).and_then(|()| {
        // Otherwise, a power failure could remove the name of the file after its node has been registered.
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    });
    if written.is_err() {
        // If it cannot be removed either, the next attempt says that it exists.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Returns the key as `0x` and 64 hex digits.
#[must_use]
pub fn hex_of(key: &SecretKey) -> Zeroizing<String> {
    let bytes = Zeroizing::new(key.to_bytes());
    Zeroizing::new(format!("0x{}", hex::encode(bytes.as_slice())))
}

/// Returns a new random key.
#[must_use]
pub fn generate() -> SecretKey {
    loop {
        let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
        // All but one in 2^128 random values are below the group order.
        if let Ok(key) = SecretKey::from_bytes(&bytes) {
            return key;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::RunErrorKind;

    #[test]
    fn a_written_key_reads_back_and_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = generate();
        write_new(&path, &key).unwrap();
        assert_eq!(read(&path).unwrap().public_key(), key.public_key());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = write_new(&path, &generate()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_part_of_a_key_on_a_full_disk_does_not_stay_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let full = create(&path, |file| {
            file.write_all(b"0x12")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!path.exists());
        write_new(&path, &generate()).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, &generate()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, SecretFileError::Exposed { mode: seen } if seen == mode));
        }
    }

    /// The owner could read the key, and put another one in its place.
    #[test]
    fn a_key_of_another_user_is_refused() {
        let check = |owner, own| check_private(0o600, owner, own, false);
        assert!(check(1000, 1000).is_ok());
        assert!(check(ROOT, 1000).is_ok(), "root reads every file anyway");
        for (owner, own) in [(1000, ROOT), (1000, 1001)] {
            let error = check(owner, own).unwrap_err();
            assert!(matches!(error, SecretFileError::OfOther { .. }), "{error}");
            assert_eq!(error.at(Path::new("key")).kind, RunErrorKind::Refused);
        }
    }

    /// systemd gives a file of mode 0440 to the service's user by an access list.
    #[test]
    fn a_credential_of_systemd_may_show_the_mask_of_its_access_list() {
        let folder = Some(OsStr::new("/run/credentials/hawser.service/"));
        assert!(is_in(Path::new("/run/credentials/hawser.service/node.key"), folder));
        for elsewhere in ["/etc/hawser/node.key", "/run/credentials/hawser.service/a/node.key"] {
            assert!(!is_in(Path::new(elsewhere), folder), "{elsewhere}");
        }
        assert!(!is_in(Path::new("/etc/hawser/node.key"), None));
        for mode in [0o440, 0o400] {
            assert!(check_private(mode, ROOT, 999, true).is_ok(), "{mode:o}");
        }
        assert!(check_private(0o440, ROOT, 999, false).is_err(), "another file of this mode");
        for mode in [0o444, 0o460, 0o450] {
            assert!(check_private(mode, ROOT, 999, true).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn each_fault_of_a_key_file_has_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let reason = || read(&path).map(drop).unwrap_err().at(&path).kind;
        assert_eq!(reason(), RunErrorKind::NotFound);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(reason(), RunErrorKind::Failed);
        std::fs::remove_dir(&path).unwrap();
        write_new(&path, &generate()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(reason(), RunErrorKind::Refused);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read(&path), Err(SecretFileError::Empty)));
    }

    /// A variable such as `XMTPD_SIGNER_PRIVATE_KEY_FILE` may have the key itself by mistake.
    #[test]
    fn an_error_does_not_show_a_secret_in_place_of_the_name_of_its_file() {
        let key = hex_of(&generate()).to_string();
        let url = "postgres://me:hunter2@host/base";
        let words = "host=a password=hunter2";
        for secret in [&*key, &key[2..], &key[..64], &format!(" {key}\n"), url, words] {
            let path = Path::new(secret);
            let error = read(path).unwrap_err().at(path);
            assert_eq!(error.kind, RunErrorKind::NotFound);
            assert!(error.text.contains("(not shown) in place of the name of a file"), "{error:?}");
            let part = &secret.trim()[5..20];
            assert!(!error.text.contains(part) && !error.text.contains("hunter2"), "{error:?}");
        }
        for name in ["node.key", "/etc/hawser/node.key", "0xabcdef", "passwords", &"a".repeat(40)] {
            assert_eq!(misplaced_secret(name), None);
        }
    }

    #[test]
    fn an_error_does_not_repeat_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path).unwrap().write_all(b"hunter2").unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, SecretFileError::NoKey(_)));
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn generated_keys_differ() {
        assert_ne!(generate().public_key(), generate().public_key());
    }
}
