//! Limits and counts of the open files of a process.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Limits a process that is about to start to `files` open files.
#[expect(unsafe_code, reason = "the standard library has no limits")]
pub fn limit_at_start(command: &mut Command, files: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    let set = move || {
        // SAFETY: `limit` is a valid rlimit for the length of the call, which keeps no pointer.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) };
}

/// Lets this process have at least `files` files open.
///
/// # Panics
/// Panics if the system refuses it.
#[expect(unsafe_code, reason = "the standard library has no limits")]
pub fn raise_own(files: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the length of the call, which keeps no pointer.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = limit.rlim_cur.max(files);
    // SAFETY: as above; the limit is only read.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Changes the soft limit of a running process on open files, below its hard limit `most`.
///
/// # Panics
/// Panics if the system refuses the change.
#[expect(unsafe_code, reason = "the standard library has no limits")]
pub fn limit(process: u32, files: u64, most: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: most };
    let id = libc::pid_t::try_from(process).unwrap();
    // SAFETY: as above; the pointer for the old limit is null.
    let result =
        unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Returns the number of files that a process has open.
///
/// # Panics
/// Panics if the process has ended.
#[must_use]
pub fn count(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}
