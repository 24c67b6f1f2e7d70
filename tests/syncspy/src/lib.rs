//! Records which bytes of files a process has made durable, so that a test can remove all others.
//!
//! A preload library for Linux: it stands in for `fsync` and `fdatasync`, lets the kernel do its
//! work, and only when that has succeeded appends a record to the file that the environment
//! variable [`LOG_VARIABLE`] names. `sync_file_range` is passed by on purpose: it starts a write
//! and promises nothing.
//!
//! A record is [`RECORD_LEN_BYTES`] bytes, six little-endian 64-bit numbers:
//!
//! | field | meaning |
//! |---|---|
//! | device, inode | which file |
//! | born | its creation time, unix nanoseconds, since inodes are used again; 0 if unknown |
//! | size | its length when the sync **began**: what was appended later is not covered |
//! | began | when the sync began, unix nanoseconds |
//! | kind | the file type bits of its mode, to distinguish folders from files |
//!
//! It also lets a disk fail: while the folder that [`FAULTS_VARIABLE`] names holds a file `sync`, syncs of files fail
//! with EIO, and while it holds a file `read`, so do reads at a place of a file (`pread`).
//!
//! It also moves the wall clock of a process: `clock_gettime` adds the offset in the file that [`CLOCK_VARIABLE`]
//! names. `gettimeofday` is passed by on purpose, because RocksDB computes the ends of waits by it, which the kernel
//! compares with its own clock.

#![warn(missing_docs)]
#![expect(unsafe_code, reason = "stands in for functions of the C library")]

use std::ffi::{CStr, c_int, c_long, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

/// Names the file that records are appended to. Unset: nothing is recorded.
pub const LOG_VARIABLE: &CStr = c"HAWSER_SYNCSPY_LOG";
/// Names the folder whose files switch faults on. Unset: nothing fails.
pub const FAULTS_VARIABLE: &CStr = c"HAWSER_SYNCSPY_FAULTS";
/// Names the file with the lead of the wall clock over the machine's: eight bytes, nanoseconds, little-endian, negative
/// for a clock that is behind. It may be written while processes run. Unset: the machine's clock.
pub const CLOCK_VARIABLE: &CStr = c"HAWSER_SYNCSPY_CLOCK";
/// The length of a record.
pub const RECORD_LEN_BYTES: usize = 48;

const NOT_OPENED: c_int = -1;
static LOG: AtomicI32 = AtomicI32::new(NOT_OPENED);
/// The file with the lead of the clock, mapped; [`NO_LEAD`] without one, null before the first look.
static LEAD: AtomicPtr<i64> = AtomicPtr::new(std::ptr::null_mut());
static NO_LEAD: i64 = 0;

/// Stands in for the C library's `fsync`.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    observed(fd, libc::SYS_fsync)
}

/// Stands in for the C library's `fdatasync`.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    observed(fd, libc::SYS_fdatasync)
}

/// Stands in for the C library's `pread`.
///
/// # Safety
/// As for the C library's: `buffer` has room for `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(
    fd: c_int,
    buffer: *mut c_void,
    count: libc::size_t,
    offset: libc::off_t,
) -> libc::ssize_t {
    if fails(fd, c"read") {
        return -1;
    }
    // SAFETY: the caller promises what the system call needs.
    let result = unsafe { libc::syscall(libc::SYS_pread64, fd, buffer, count, offset) };
    libc::ssize_t::try_from(result).unwrap_or(-1)
}

/// Stands in for the C library's `pread64`, another name of [`pread`].
///
/// # Safety
/// As for [`pread`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(
    fd: c_int,
    buffer: *mut c_void,
    count: libc::size_t,
    offset: libc::off64_t,
) -> libc::ssize_t {
    // SAFETY: the caller promises the same.
    unsafe { pread(fd, buffer, count, offset) }
}

/// Stands in for the C library's `clock_gettime`.
///
/// # Safety
/// As for the C library's: `time` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: the caller promises what the system call needs.
    let result = unsafe { machine_time(clock, time) };
    if result == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the system call has written a time there.
        move_time(unsafe { &mut *time }, lead_ns());
    }
    result
}

/// Asks the kernel for the time of the machine, as `clock_gettime` would.
///
/// # Safety
/// `time` can be written.
unsafe fn machine_time(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    // SAFETY: the caller promises what the system call needs.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    c_int::try_from(result).unwrap_or(-1)
}

fn move_time(time: &mut libc::timespec, lead_ns: i64) {
    const SECOND_NS: i64 = 1_000_000_000;
    let ns = time.tv_nsec + lead_ns.rem_euclid(SECOND_NS);
    time.tv_sec += lead_ns.div_euclid(SECOND_NS) + ns / SECOND_NS;
    time.tv_nsec = ns % SECOND_NS;
}

/// Returns the lead of the wall clock that the file states now.
fn lead_ns() -> i64 {
    let mut lead = LEAD.load(Ordering::Acquire);
    if lead.is_null() {
        // Two threads may both map it once; a page is lost then, and nothing else.
        lead = map_lead();
        LEAD.store(lead, Ordering::Release);
    }
    // SAFETY: it points to a mapping that stays, or to a static, both aligned. Other processes change the mapped bytes,
    // all eight at once.
    unsafe { lead.read_volatile() }
}

fn map_lead() -> *mut i64 {
    // SAFETY: the name is a terminated string; the answer is null or one as well. The mapping is for reading only, and
    // is checked before it is used.
    unsafe {
        let path = libc::getenv(CLOCK_VARIABLE.as_ptr());
        let file = match path.is_null() {
            true => NOT_OPENED,
            false => libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC),
        };
        if file == NOT_OPENED {
            return (&raw const NO_LEAD).cast_mut();
        }
        let (len, protection) = (size_of::<i64>(), libc::PROT_READ);
        let null = std::ptr::null_mut();
        let mapped = libc::mmap(null, len, protection, libc::MAP_SHARED, file, 0);
        libc::close(file);
        match mapped == libc::MAP_FAILED {
            true => (&raw const NO_LEAD).cast_mut(),
            false => mapped.cast(),
        }
    }
}

/// Returns true if the fault of this name is on and `fd` is a file. It then sets `errno`.
fn fails(fd: c_int, name: &CStr) -> bool {
    // SAFETY: the names are terminated strings, `stat` can be written and is read only after it was, and the
    // processes that this library is loaded into do not change their environment.
    unsafe {
        let folder = libc::getenv(FAULTS_VARIABLE.as_ptr());
        if folder.is_null() {
            return false;
        }
        let folder = libc::open(folder, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        if folder < 0 {
            return false;
        }
        let is_on = libc::faccessat(folder, name.as_ptr(), libc::F_OK, 0) == 0;
        libc::close(folder);
        let mut stat = std::mem::zeroed::<libc::stat>();
        let is_file =
            libc::fstat(fd, &raw mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if is_on && is_file {
            *libc::__errno_location() = libc::EIO;
        }
        is_on && is_file
    }
}

fn observed(fd: c_int, call: c_long) -> c_int {
    if fails(fd, c"sync") {
        return -1;
    }
    let record = describe(fd);
    // SAFETY: both system calls take one descriptor and touch no memory of ours.
    let result = unsafe { libc::syscall(call, fd) };
    if let (0, Some(record)) = (result, record) {
        write_down(&record);
    }
    c_int::try_from(result).unwrap_or(-1)
}

/// The record of a sync of `fd` that begins now.
fn describe(fd: c_int) -> Option<[u8; RECORD_LEN_BYTES]> {
    // SAFETY: all-zero bytes are a valid `statx` and a valid `timespec`: both hold integers only.
    let (mut stat, mut now) = unsafe { (std::mem::zeroed::<libc::statx>(), std::mem::zeroed()) };
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the path is a terminated string, and `stat` and `now` live and can be written.
    let failed = unsafe {
        libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, wanted, &raw mut stat)
            | machine_time(libc::CLOCK_REALTIME, &raw mut now)
    };
    if failed != 0 {
        return None;
    }
    let born = match stat.stx_mask & libc::STATX_BTIME {
        0 => 0,
        _ => nanoseconds(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec.into()),
    };
    let fields = [
        u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        stat.stx_ino,
        born,
        stat.stx_size,
        nanoseconds(now.tv_sec, now.tv_nsec),
        (libc::mode_t::from(stat.stx_mode) & libc::S_IFMT).into(),
    ];
    let mut record = [0; RECORD_LEN_BYTES];
    for (place, field) in record.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    Some(record)
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    u64::try_from(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)).unwrap_or(0)
}

/// One `write` to a file opened for appending, so that records of several threads do not mix.
fn write_down(record: &[u8; RECORD_LEN_BYTES]) {
    let log = log();
    if log != NOT_OPENED {
        // SAFETY: the buffer lives and has the length that is said.
        unsafe { libc::write(log, record.as_ptr().cast(), record.len()) };
    }
}

fn log() -> c_int {
    let opened = LOG.load(Ordering::Acquire);
    if opened != NOT_OPENED {
        return opened;
    }
    // SAFETY: the name is a terminated string; the answer is null or one as well, and the
    // processes that this library is loaded into do not change their environment.
    let opened = unsafe {
        let path = libc::getenv(LOG_VARIABLE.as_ptr());
        if path.is_null() {
            return NOT_OPENED;
        }
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        libc::open(path, flags, 0o600)
    };
    // Two threads may both open it once; a descriptor is lost then, and nothing else.
    LOG.store(opened, Ordering::Release);
    opened
}
