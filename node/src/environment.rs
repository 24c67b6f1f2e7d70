//! The environment of this process, once the settings have been read from it, and its core dumps: the system shows
//! both, and neither has secrets.

#[cfg(test)]
#[path = "../../api/src/log_lines.rs"]
pub(crate) mod log_lines;

use std::ffi::CString;

use crate::settings::table;

/// Overwrites the values of secret settings, and of the variables in `others`, in the environment of this process, so
/// that neither `/proc/PID/environ` nor a child process shows them. To be called when all of them have been read.
///
/// Returns false, and overwrites nothing, once the process has a second thread, which may read the environment at the
/// same time. The caller must report that.
#[must_use]
pub fn erase_secrets<'a>(others: impl IntoIterator<Item = &'a str>) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return false;
    }
    for name in table::secret_variables().into_iter().chain(others) {
        let Ok(name) = CString::new(name) else { continue };
        #[expect(unsafe_code, reason = "the standard library does not overwrite a variable")]
        // SAFETY: `name` ends with a zero byte. The value that is found is a text of this process's environment, which
        // ends with a zero byte too, may be written to, and is read by no other thread, since there is none.
        unsafe {
            let value = libc::getenv(name.as_ptr());
            if !value.is_null() {
                value.write_bytes(0, libc::strlen(value));
            }
        }
    }
    true
}

/// Forbids core dumps of this process, which would contain its keys. A limit of one byte also stops a dump to a program
/// (a `core_pattern` that begins with `|`), for which Linux ignores every other limit.
pub fn forbid_core_dumps() {
    let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    #[expect(unsafe_code, reason = "the standard library has no limits")]
    // SAFETY: `limit` is a valid rlimit for the length of the call, and is only read. The call fails if the hard limit
    // is 0, which only a privileged process may raise. No file is written then, but Linux still gives a dump to a
    // program.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
}

/// Logs that secrets are still in the environment.
pub fn warn_of_secrets() {
    tracing::warn!(
        code = "secrets_in_environment",
        "secrets stay in the environment of this process, which /proc shows to its user, because it has several threads \
         already: give them in files"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::log_lines::LogLines;
    use super::*;

    /// The other thread may read the environment while it is overwritten.
    #[test]
    fn a_process_with_several_threads_keeps_its_secrets_and_says_so() {
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || ended.recv());
        assert!(!erase_secrets(["PATH"]));
        assert!(std::env::var("PATH").is_ok_and(|path| !path.is_empty()), "it is left as it is");
        drop(end);
        assert!(other.join().unwrap().is_err(), "it was there to the end");
        let log = LogLines::default();
        tracing::subscriber::with_default(log.clone(), warn_of_secrets);
        let lines = log.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("WARN "), "{lines:?}");
        assert!(lines[0].contains("code=\"secrets_in_environment\""), "{lines:?}");
    }
}
