//! Calls of the operating system that the standard library lacks: the limit of open files, free
//! space on a disk, options of the allocator, and ending at once. They go through libc.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use hawser_api::{DiskSpace, DiskView};

/// The fewest open files that a process must be allowed. A guess: a node opens one for each stream
/// and each table file.
pub(super) const OPEN_FILES_MIN: u64 = 4096;

/// The process is not allowed to open enough files.
#[derive(Debug, thiserror::Error)]
#[error(
    "only {allowed} files may be open at once, and at least {OPEN_FILES_MIN} are needed: raise \
     the limit (ulimit -n, LimitNOFILE=)"
)]
pub(super) struct FileLimitError {
    allowed: u64,
}

/// Raises the limit of open files to the hard limit.
///
/// # Errors
/// When the limit stays below [`OPEN_FILES_MIN`].
pub(super) fn require_open_files() -> Result<(), FileLimitError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the standard library has no limits")]
    // SAFETY: `limit` is a valid rlimit for the length of the call, which keeps no pointer.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if !known {
        return Ok(()); // a system without this limit
    }
    let before = limit.rlim_cur;
    if before < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        #[expect(unsafe_code, reason = "the standard library has no limits")]
        // SAFETY: as above; the limit is only read.
        let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
        if !raised {
            limit.rlim_cur = before;
        }
    }
    if limit.rlim_cur < OPEN_FILES_MIN {
        return Err(FileLimitError { allowed: limit.rlim_cur });
    }
    Ok(())
}

/// Length from which an allocation is a mapping of its own, which goes back to the system when it is
/// freed. Measured under all attacks of `tests/tests/memory` together: at most 219 MiB above the idle
/// node, 416 to 506 MiB with the library's moving threshold, which keeps freed answers in its arenas.
#[cfg(target_env = "gnu")]
const MAPPED_LEN_BYTES_MIN: libc::c_int = 256 * 1024;
/// Free bytes at the end of an arena from which they go back to the system. A guess.
#[cfg(target_env = "gnu")]
const TRIMMED_LEN_BYTES_MIN: libc::c_int = 1024 * 1024;

/// Makes the allocator give large buffers back when they are freed, whatever was freed before. Other
/// allocators than glibc's are left as they are.
pub(super) fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_LEN_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, TRIMMED_LEN_BYTES_MIN),
    ] {
        #[expect(unsafe_code, reason = "the standard library does not know its allocator")]
        // SAFETY: takes two numbers, and may be called at any time.
        let set = unsafe { libc::mallopt(option, value) } == 1;
        debug_assert!(set, "both are options of glibc, and the values are within their ranges");
    }
}

/// The disk that holds a folder.
#[derive(Debug, Clone)]
pub(super) struct Disk(pub(super) PathBuf);

impl DiskView for Disk {
    fn space(&self) -> Option<DiskSpace> {
        space_of(&self.0).ok()
    }
}

fn space_of(path: &Path) -> io::Result<DiskSpace> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    #[expect(unsafe_code, reason = "the standard library does not tell the room on a disk")]
    // SAFETY: `path` ends with a zero byte, and `stat` has room for what is written. It is read
    // only after the call has said that it was filled.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    let bytes = |blocks: libc::fsblkcnt_t| blocks.saturating_mul(stat.f_frsize);
    Ok(DiskSpace { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) })
}

/// Ends the process without waiting for anything, not even for the destructors of libraries, which
/// threads that are still at work may be using.
pub(super) fn exit_now(code: u8) -> ! {
    #[expect(unsafe_code, reason = "std::process::exit runs destructors")]
    // SAFETY: never returns and touches no memory of ours.
    unsafe {
        libc::_exit(i32::from(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_disk_is_told() {
        let space = Disk(std::env::temp_dir()).space().unwrap();
        assert!(space.total_bytes >= space.free_bytes && space.total_bytes > 0);
        assert_eq!(Disk("/no/such/folder".into()).space(), None);
    }
}
