//! Messages to the service manager: progress of the start, readiness, watchdog, stop. systemd names a datagram socket
//! for them in the environment (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::stop_signal::{StopReason, StopSignals};

/// The additional time that the manager grants a start after each progress message. A guess: the
/// messages are some seconds apart.
const WORK_MAX: Duration = Duration::from_secs(120);

/// The service manager. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ServiceManager(Arc<Socket>);

#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The interval of watchdog messages, if the manager requires them.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads the socket from the environment. Returns `None` if there is none, or if it cannot be
    /// used, which is logged.
    pub(super) fn from_env() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let text = |name| std::env::var(name).ok();
        let watchdog = watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        Self::at(&name, watchdog)
            .inspect_err(|error| tracing::warn!(?name, %error, "NOTIFY_SOCKET cannot be used"))
            .ok()
    }

    fn at(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            #[cfg(target_os = "linux")]
            Some(name) => {
                <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?
            }
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not block the node.
        socket.set_nonblocking(true)?;
        Ok(Self(Arc::new(Socket { socket, address, watchdog })))
    }

    /// Reports readiness, and from then on at intervals that tasks still run, if the manager
    /// requires it: on this runtime, and on that of publishers if there is one. Needs a tokio runtime.
    pub(super) fn ready(&self, publishers: Option<Handle>) {
        // It replaces the status of a start, such as one that rebuilds projections.
        self.notify("READY=1\nSTATUS=serving");
        let Some(every) = self.0.watchdog else { return };
        let service_manager = self.clone();
        tokio::spawn(async move {
            loop {
                if let Some(publishers) = &publishers {
                    // Fails only when that runtime ends, with the process.
                    let _ = publishers.spawn(std::future::ready(())).await;
                }
                service_manager.notify("WATCHDOG=1");
                tokio::time::sleep(every).await;
            }
        });
    }

    /// Reports long work before the process is ready. The manager displays it and extends its start timeout.
    pub(super) fn working(&self, status: &str) {
        self.notify(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={status}", WORK_MAX.as_micros()));
    }

    /// Reports that the process is stopping.
    pub(super) fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    fn notify(&self, state: &str) {
        let Socket { socket, address, .. } = &*self.0;
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(state, %error, "the service manager cannot be notified");
        }
    }
}

/// Reports that the process is ready, waits for a reason to stop, and reports that it is stopping. `publishers` is the
/// runtime of publishers' connections, if the service has one.
pub(super) async fn serve_until_stopped(ends: &mut StopSignals, publishers: Option<Handle>) {
    let service_manager = ServiceManager::from_env();
    if let Some(service_manager) = &service_manager {
        service_manager.ready(publishers);
    }
    match ends.next().await {
        StopReason::Signal(name) => tracing::info!(signal = name, "stopping"),
        StopReason::Parent => tracing::info!("the parent process has ended: stopping"),
    }
    service_manager.iter().for_each(ServiceManager::stopping);
}

/// Returns half the time after which the manager considers this process dead; `None` if it does not watch this process.
fn watchdog(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let is_own = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec: u64 = usec?.parse().ok()?;
    (is_own && usec > 1).then(|| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_manager_hears_of_start_life_and_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let every = Duration::from_millis(1);
        let service_manager = ServiceManager::at(path.as_os_str(), Some(every)).unwrap();
        service_manager.working("reading");
        assert_eq!(received(&manager), "EXTEND_TIMEOUT_USEC=120000000\nSTATUS=reading");
        service_manager.ready(None);
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(received(&manager), "WATCHDOG=1");
        assert_eq!(received(&manager), "WATCHDOG=1");
        drop(manager);
        service_manager.stopping(); // without a listener the message is dropped
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn no_sign_of_life_is_sent_while_the_publishers_threads_do_not_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let publishers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let publishers = publishers.unwrap();
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        publishers.spawn(async move { held.recv() });
        let every = Duration::from_millis(1);
        let service_manager = ServiceManager::at(path.as_os_str(), Some(every)).unwrap();
        service_manager.ready(Some(publishers.handle().clone()));
        assert_eq!(received(&manager), "READY=1\nSTATUS=serving");
        manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(manager.recv(&mut [0; 64]).is_err(), "no message while their one thread waits");
        manager.set_read_timeout(None).unwrap();
        drop(go_on);
        assert_eq!(received(&manager), "WATCHDOG=1");
        publishers.shutdown_background();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_socket_may_have_a_name_without_a_file() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("hawser-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let service_manager = ServiceManager::at(OsStr::new(&format!("@{name}")), None).unwrap();
        service_manager.stopping();
        assert_eq!(received(&manager), "STOPPING=1");
    }

    #[test]
    fn the_watchdog_is_told_twice_in_its_time_and_only_about_this_process() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(text("30000000"), None, 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog(text("30000000"), text("7"), 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog(text("30000000"), text("8"), 7), None);
        assert_eq!(watchdog(text("soon"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
