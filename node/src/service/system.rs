//! The process: its runtime, and system calls that the standard library lacks and that go through libc (the limit of
//! open files, free disk space, scheduling, immediate exit).

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use hawser_api::{DiskSpace, DiskView};
use hawser_storage::CACHE_BYTES_MIN;
use tokio::runtime::{Builder, Runtime};

/// The lowest permitted limit of open files of a process. A guess: the files that [`OpenFiles`] reserves leave room for
/// some thousands of connections.
pub(super) const OPEN_FILES_MIN: u64 = 4096;
/// The number of files for everything except the database and callers: listeners, the operator port (64 connections),
/// chains, Redis, nodes behind a gateway, settings files. A guess: the connections of that port, and as many others.
const OWN_FILES: u64 = 128;
/// The number of database files outside its share: logs, and files written by a flush or a compaction. A guess: two
/// jobs at a time, each with some outputs.
const DATABASE_BESIDE_FILES: u64 = 48;
/// The smallest and the largest number of table files that the database keeps open by default. A guess: it reopens
/// others for each read, and the largest number corresponds to more than a terabyte.
const DATABASE_FILES_MIN: u64 = 64;
const DATABASE_FILES_MAX: u64 = 16 * 1024;
/// The smallest number of connections that remain for callers, however many files the database is given.
/// A guess: a small network's nodes and an operator.
const CONNECTIONS_MIN: u64 = 48;
/// The fraction of the machine's memory for the database's block cache, and its bounds. A guess: indexes and filters
/// fit into it, and the system uses the rest for its page cache.
const CACHE_PART: u64 = 128;
const CACHE_BYTES_MAX: u64 = 4 << 30;

/// The number of task polls between two checks of sockets and timers. The library's default of 61 is too high next to
/// callers whose polls take half a millisecond (streams of hundreds of topics): an arriving publish would wait for
/// thirty of them. Measured with `hawser-bench floods`; a check takes about a microsecond.
const TURNS_BETWEEN_EVENTS: u32 = 8;

/// Creates the runtime of a service. Worker threads have time slices of [`RUNTIME_TURN_NS`]; threads for blocking work,
/// such as backups and pruning, have the system's default.
pub(super) fn runtime() -> io::Result<Runtime> {
    runtime_of("runtime", RUNTIME_TURN_NS)
}

/// Creates the runtime for connections that publish (`docs/decisions/0017-publishers-go-first.md`). Worker threads have
/// time slices of [`PUBLISH_TURN_NS`], so that they get a core before the threads of [`runtime`].
pub(super) fn publisher_runtime() -> io::Result<Runtime> {
    runtime_of("publishers", PUBLISH_TURN_NS)
}

/// Creates a runtime whose worker threads have this name and time slice.
fn runtime_of(name: &'static str, turn_ns: u64) -> io::Result<Runtime> {
    thread_local! {
        static RUNS_TASKS: Cell<bool> = const { Cell::new(false) };
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let named = AtomicUsize::new(0);
    let (ready, are_ready) = mpsc::channel();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .event_interval(TURNS_BETWEEN_EVENTS)
        .worker_threads(threads)
        // Threads are named in the order in which they start, and worker threads start first.
        .thread_name_fn(move || match named.fetch_add(1, Ordering::Relaxed) {
            number if number < threads => format!("{name}-{number}"),
            number => format!("blocking-{}", number - threads),
        })
        // A thread inherits the time slice of the thread that started it.
        .on_thread_start(|| ask_for_turns(SYSTEM_TURN_NS))
        // Only worker threads are parked; threads for blocking work wait elsewhere.
        .on_thread_park(move || {
            if !RUNS_TASKS.replace(true) {
                ask_for_turns(turn_ns);
                // Later worker threads, which replace one that blocks, are not waited for.
                let _ = ready.send(());
            }
        })
        .build()?;
    // The library starts all threads alike, and the first idle one takes the oldest work. Without this
    // wait, blocking work submitted now might be taken by a thread that was started as a worker, while
    // another thread becomes the worker.
    for _ in 0..threads {
        are_ready.recv().map_err(io::Error::other)?;
    }
    Ok(runtime)
}

/// Ends the runtimes of a node. Waits for the threads of each for `rest_max` at most: one that still worked when the
/// process ends could use a database that is gone.
///
/// The runtime of all connections ends first. Its tasks may wait for timers of the other one, because a call that began
/// as a publisher's takes them along when it moves. A runtime that ends wakes the tasks that wait for its timers, and
/// one that then polls its timer panics, which ends the process with a signal.
pub(super) fn shut_down(all: Runtime, publishers: Runtime, rest_max: Duration) {
    all.shutdown_timeout(rest_max);
    publishers.shutdown_timeout(rest_max);
}

/// Error of the open file limit: the process may not open enough files.
#[derive(Debug, thiserror::Error)]
#[error(
    "only {allowed} files may be open at once, and at least {OPEN_FILES_MIN} are needed: raise the hard limit \
     (ulimit -Hn, LimitNOFILE=65536)"
)]
pub(super) struct FileLimitError {
    allowed: u64,
}

/// The shares of the files that a process may open. Callers get the remainder, so that a flood of connections cannot
/// take a descriptor from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenFiles {
    /// The number of table files that the database may keep open.
    pub(super) database: usize,
    /// The number of connections that callers of a node may open.
    pub(super) connections: usize,
    /// The number of connections that callers of a process without a database may open.
    pub(super) gateway_connections: usize,
}

impl OpenFiles {
    /// Divides the permitted number of files, at least [`OPEN_FILES_MIN`]. `database` is the operator's setting.
    fn of(allowed: u64, database: Option<usize>) -> Self {
        let allowed = allowed.max(OPEN_FILES_MIN);
        let without_own = allowed - OWN_FILES;
        let most = without_own - DATABASE_BESIDE_FILES - CONNECTIONS_MIN;
        let database = database.map_or_else(
            || (allowed / 4).clamp(DATABASE_FILES_MIN, DATABASE_FILES_MAX),
            |files| u64::try_from(files).unwrap_or(u64::MAX).clamp(DATABASE_FILES_MIN, most),
        );
        let size = |files: u64| usize::try_from(files).unwrap_or(usize::MAX);
        Self {
            database: size(database),
            connections: size(without_own - DATABASE_BESIDE_FILES - database),
            gateway_connections: size(without_own),
        }
    }

    /// Returns the shares of this process. `database` is the operator's setting for the database.
    pub(super) fn of_process(database: Option<usize>) -> Self {
        Self::of(file_limit().map_or(u64::MAX, |limit| limit.rlim_cur), database)
    }
}

/// Returns the default size of the database's block cache, in bytes.
pub(super) fn cache_bytes() -> usize {
    cache_of(memory_bytes())
}

fn cache_of(memory_bytes: Option<u64>) -> usize {
    let part = memory_bytes.unwrap_or_default() / CACHE_PART;
    usize::try_from(part.min(CACHE_BYTES_MAX)).unwrap_or(usize::MAX).max(CACHE_BYTES_MIN)
}

/// Returns the memory that this process may use, in bytes: that of the machine, or the limit of its control group.
/// `None` if the system does not report it.
fn memory_bytes() -> Option<u64> {
    let of_machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_group = group_memory_bytes(Path::new("/sys/fs/cgroup"), &groups);
    of_machine.into_iter().chain(of_group).min()
}

/// Returns the lowest memory limit of a process's control group and of those around it, in bytes; `None` if none has
/// one. `root` is the hierarchy (version 2), and `groups` the system's list of the process's groups. In a container,
/// the root is the container's own group; on a host, a unit's group is below it.
fn group_memory_bytes(root: &Path, groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folder = root.join(group);
    let around = folder.ancestors().take_while(|folder| folder.starts_with(root));
    let limits = around.filter_map(|folder| {
        std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse::<u64>().ok()
    });
    limits.min()
}

/// Returns the limit of open files; `None` on a system without one.
fn file_limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the standard library has no limits")]
    // SAFETY: `limit` is a valid rlimit for the length of the call, which keeps no pointer.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    known.then_some(limit)
}

/// Returns the hard limit of open files, to which a node raises its own limit; `None` on a system without such a limit.
pub(super) fn open_files_max() -> Option<u64> {
    file_limit().map(|limit| limit.rlim_max)
}

/// Raises the limit of open files to the hard limit.
///
/// # Errors
/// Fails when the limit stays below [`OPEN_FILES_MIN`].
pub(super) fn require_open_files() -> Result<(), FileLimitError> {
    let Some(mut limit) = file_limit() else { return Ok(()) };
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

/// Starts the allocator's thread that returns freed memory to the system. Without it, free memory is returned only by
/// threads that allocate, and an idle node keeps what a flood took. Must be called after secrets are erased from the
/// environment, which needs a process with one thread.
pub(super) fn return_freed_memory() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        // As on systems without such threads.
        tracing::debug!(%error, "the allocator returns memory only when the process allocates");
    }
}

/// The increase of the nice value of threads that stand back. Other threads on the same core then get three times
/// their share. A guess: readers still progress while a node publishes at its maximum, and with a larger increase
/// threads that verify would hardly progress next to other programs.
#[cfg(target_os = "linux")]
const STAND_BACK_STEPS: i32 = 5;
/// The largest nice value on Linux.
#[cfg(target_os = "linux")]
const NICE_MAX: i32 = 19;

/// Lowers the priority of the calling thread relative to the other threads of this process. The thread reads for
/// callers, or checks large requests or data that readers already have. Otherwise a flood of queries and catching-up
/// streams would take most of the time of a small machine, because these threads outnumber those that publish. Linux
/// has a priority per thread; on other systems this does nothing.
pub(super) fn stand_back() {
    #[cfg(target_os = "linux")]
    if !reschedule(|thread| {
        thread.sched_nice = thread.sched_nice.saturating_add(STAND_BACK_STEPS).min(NICE_MAX);
        // A thread inherits the time slice of the thread that started it.
        thread.sched_runtime = SYSTEM_TURN_NS;
    }) {
        stand_back_by_number();
    }
}

/// The scheduler time slice, in nanoseconds, of the threads behind the runtime that a publish passes: the shortest that
/// Linux grants. Each of them works for some 30 µs at a time and waits most of the time, so its slices are never cut
/// off (`docs/decisions/0050-short-turns-for-publishes.md`).
const PUBLISH_TURN_NS: u64 = 100_000;
/// The scheduler time slice of the worker threads, in nanoseconds: above that of the threads to which
/// publishes go from there, and below the system's default (1.4 ms on two cores), which readers,
/// compactions and other programs have. A guess.
const RUNTIME_TURN_NS: u64 = 400_000;
/// The value that selects the system's default time slice.
const SYSTEM_TURN_NS: u64 = 0;

/// Gives the calling thread, which a publish passes, short time slices, so that it runs soon after it wakes.
pub(super) fn take_short_turns() {
    ask_for_turns(PUBLISH_TURN_NS);
}

/// Requests a time slice for the calling thread. This changes when the thread runs, not its total share. Kernels before
/// Linux 6.12 and other systems ignore it.
fn ask_for_turns(turn_ns: u64) {
    #[cfg(target_os = "linux")]
    let _ = reschedule(|thread| thread.sched_runtime = turn_ns);
    #[cfg(not(target_os = "linux"))]
    let _ = turn_ns;
}

/// Changes the scheduling attributes of the calling thread. A thread with an unusual policy is left unchanged, because
/// the numbers have another meaning there. Returns false if the change is refused, for example by a sandbox.
#[cfg(target_os = "linux")]
fn reschedule(change: impl FnOnce(&mut libc::sched_attr)) -> bool {
    let done = scheduling().and_then(|mut thread| {
        let policy = libc::c_int::try_from(thread.sched_policy);
        if !matches!(policy, Ok(libc::SCHED_OTHER | libc::SCHED_BATCH)) {
            return Ok(());
        }
        change(&mut thread);
        set_scheduling(&thread)
    });
    done.inspect_err(|error| tracing::debug!(%error, "a thread is scheduled like all others"))
        .is_ok()
}

/// Lowers the calling thread's priority by an older call, which some sandboxes permit
/// although they refuse the newer one.
#[cfg(target_os = "linux")]
fn stand_back_by_number() {
    #[expect(unsafe_code, reason = "the standard library has no scheduling")]
    // SAFETY: takes three numbers; 0 is the calling thread. A refusal leaves the priority as it is.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, STAND_BACK_STEPS);
    }
}

/// Returns the scheduling attributes of the calling thread.
#[cfg(target_os = "linux")]
fn scheduling() -> io::Result<libc::sched_attr> {
    let mut now = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    #[expect(unsafe_code, reason = "the standard library has no scheduling")]
    // SAFETY: 0 is the calling thread. The call writes at most the length beside `now`, which has room for it.
    let done = unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size_of::<libc::sched_attr>(), 0)
    };
    if done == 0 { Ok(now) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_os = "linux")]
fn set_scheduling(wanted: &libc::sched_attr) -> io::Result<()> {
    #[expect(unsafe_code, reason = "the standard library has no scheduling")]
    // SAFETY: 0 is the calling thread. `wanted` holds its own length, and is only read.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *wanted, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    // SAFETY: `path` ends with a zero byte, and `stat` has room for the result. It is read
    // only after the call has reported success.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    let bytes = |blocks: libc::fsblkcnt_t| blocks.saturating_mul(stat.f_frsize);
    Ok(DiskSpace { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) })
}

/// Ends the process without waiting for anything, not even for destructors of libraries, which
/// running threads may still be using.
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
    fn callers_get_the_files_that_the_database_and_the_process_leave() {
        for allowed in [4096, 5000, 1 << 20, u64::MAX] {
            for wanted in [None, Some(64), Some(500), Some(usize::MAX)] {
                let OpenFiles { database, connections, gateway_connections } =
                    OpenFiles::of(allowed, wanted);
                let (files, callers) = (database as u64, connections as u64);
                assert!(files >= 64 && callers >= 48, "{allowed} {wanted:?}");
                assert_eq!(files + callers + OWN_FILES + DATABASE_BESIDE_FILES, allowed);
                assert_eq!(gateway_connections as u64 + OWN_FILES, allowed);
            }
        }
        let of_operators = hawser_serve::pages::CONNECTIONS_MAX as u64;
        assert_eq!(OWN_FILES, 2 * of_operators, "they take no file of the chains and Redis");
        assert_eq!(OpenFiles::of(20_000, None).database, 5000);
        assert_eq!(OpenFiles::of(20_000, Some(9000)).database, 9000);
    }

    #[test]
    fn the_cache_is_a_part_of_the_memory_within_bounds() {
        const GIB: u64 = 1 << 30;
        for (memory, mib) in
            [(0, 64), (GIB, 64), (24 * GIB, 192), (64 * GIB, 512), (9999 * GIB, 4096)]
        {
            assert_eq!(cache_of(Some(memory)) >> 20, mib, "{memory}");
        }
        assert_eq!(cache_of(None) >> 20, 64);
        assert!(memory_bytes().is_some_and(|bytes| bytes > 0), "this system says how much it has");
    }

    #[test]
    fn the_memory_of_a_unit_is_the_lowest_limit_of_its_control_groups() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("system.slice");
        let unit = slice.join("hawser.service");
        std::fs::create_dir_all(&unit).unwrap();
        let limit = |group: &Path, limit: &str| {
            std::fs::write(group.join("memory.max"), limit).unwrap();
        };
        let groups = "1:name=systemd:/\n0::/system.slice/hawser.service\n";
        let found = || group_memory_bytes(root.path(), groups);
        assert_eq!(found(), None);
        limit(&unit, "2147483648\n");
        assert_eq!(found(), Some(2 << 30));
        limit(&slice, "1073741824\n");
        assert_eq!(found(), Some(1 << 30));
        limit(&slice, "max\n");
        assert_eq!(found(), Some(2 << 30));
        // A container sees its own group as the root.
        limit(root.path(), "536870912\n");
        assert_eq!(found(), Some(512 << 20));
        assert_eq!(group_memory_bytes(root.path(), "0::/\n"), Some(512 << 20));
        assert_eq!(group_memory_bytes(root.path(), ""), Some(512 << 20));
    }

    #[test]
    fn the_room_of_a_disk_is_told() {
        let space = Disk(std::env::temp_dir()).space().unwrap();
        assert!(space.total_bytes >= space.free_bytes && space.total_bytes > 0);
        assert_eq!(Disk("/no/such/folder".into()).space(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_stands_back_takes_no_other_one_with_it() {
        let before = scheduling().unwrap();
        let of_thread = std::thread::spawn(|| {
            stand_back();
            scheduling().unwrap().sched_nice
        });
        let expected = (before.sched_nice + STAND_BACK_STEPS).min(NICE_MAX);
        assert_eq!(of_thread.join().unwrap(), expected);
        assert_eq!(scheduling().unwrap().sched_nice, before.sched_nice);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_with_short_turns_keeps_its_priority_and_changes_no_other_thread() {
        let before = scheduling().unwrap();
        let of_thread = std::thread::spawn(|| {
            take_short_turns();
            scheduling().unwrap()
        });
        let after = of_thread.join().unwrap();
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(after.sched_nice, before.sched_nice);
        // Kernels without configurable time slices return 0.
        if before.sched_runtime > 0 {
            assert_eq!(after.sched_runtime, PUBLISH_TURN_NS);
        }
        assert_eq!(scheduling().unwrap().sched_runtime, before.sched_runtime);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_that_run_tasks_have_short_turns_and_those_for_blocking_work_and_readers_have_not() {
        let own = scheduling().unwrap().sched_runtime;
        for (runtime, expected) in
            [(runtime(), RUNTIME_TURN_NS), (publisher_runtime(), PUBLISH_TURN_NS)]
        {
            let (of_task, of_blocking, of_reader) = turns_of(&runtime.unwrap());
            assert_eq!((of_blocking, of_reader), (own, own));
            // Kernels without configurable time slices return 0.
            if own > 0 {
                assert_eq!(of_task, expected);
            }
        }
    }

    /// A call of a publisher has begun to wait, and has moved to the runtime of all connections with its connection.
    #[test]
    fn a_task_that_waits_for_a_timer_of_the_publishers_does_not_panic_at_the_end() {
        /// Tells how its task has ended.
        struct Ended(mpsc::Sender<bool>);
        impl Drop for Ended {
            fn drop(&mut self) {
                let _ = self.0.send(std::thread::panicking());
            }
        }
        let (all, publishers) = (runtime().unwrap(), publisher_runtime().unwrap());
        let of_publishers = publishers.enter();
        let timer = Box::pin(tokio::time::sleep(Duration::from_secs(3600)));
        drop(of_publishers);
        let ((begun, has_begun), (ended, has_ended)) = (mpsc::channel(), mpsc::channel());
        all.spawn(async move {
            let _ended = Ended(ended);
            begun.send(()).unwrap();
            timer.await;
        });
        has_begun.recv().unwrap();
        shut_down(all, publishers, Duration::from_secs(60));
        assert_eq!(has_ended.recv(), Ok(false), "its thread has not panicked");
    }

    /// Returns the time slices of a task, of blocking work, and of a reader's thread that the task starts.
    #[cfg(target_os = "linux")]
    fn turns_of(runtime: &Runtime) -> (u64, u64, u64) {
        let turn = || scheduling().unwrap().sched_runtime;
        runtime.block_on(async {
            let of_task = tokio::spawn(async move {
                // This is how the threads that read pages for streams are started.
                let reader = std::thread::spawn(move || {
                    stand_back();
                    turn()
                });
                let of_blocking = tokio::task::spawn_blocking(turn).await.unwrap();
                (turn(), of_blocking, reader.join().unwrap())
            });
            of_task.await.unwrap()
        })
    }
}
