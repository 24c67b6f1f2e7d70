//! Files that substitute for the registry and the rates of a gateway. They are read at intervals. Invalid content is
//! logged once, and the last valid state is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hawser_engine::ports::Clock as _;
use hawser_engine::runtime::SystemClock;
use hawser_rules::{RateTable, Registry};
use tokio::sync::watch;

use crate::error::RunError;
use crate::files::{self, POLL_EVERY, rates, registry};

/// Follows the registry in a file.
///
/// # Errors
/// Fails when it cannot be read now.
pub(super) fn follow_registry(path: &Path) -> Result<watch::Receiver<Arc<Registry>>, RunError> {
    follow(path, |path| Ok(files::read(path, registry::parse)?))
}

/// Follows the rates in a file, confirmed as of each read.
///
/// # Errors
/// Fails when they cannot be read now.
pub(super) fn follow_rates(path: &Path) -> Result<watch::Receiver<Arc<RateTable>>, RunError> {
    follow(path, |path| Ok(files::read(path, rates::parse)?.confirmed(SystemClock.now_ns())))
}

/// Reads a file now, and again until the receiver is dropped.
fn follow<T: PartialEq + Send + Sync + 'static>(
    path: &Path,
    read: impl Fn(&Path) -> Result<T, RunError> + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, RunError> {
    let (sender, receiver) = watch::channel(Arc::new(read(path)?));
    let path: PathBuf = path.to_owned();
    tokio::spawn(async move {
        let mut is_logged = false;
        while !sender.is_closed() {
            tokio::time::sleep(POLL_EVERY).await;
            match read(&path) {
                Ok(new) => {
                    is_logged = false;
                    sender.send_if_modified(|known| {
                        let changed = **known != new;
                        if changed {
                            *known = Arc::new(new);
                        }
                        changed
                    });
                }
                Err(error) if !is_logged => {
                    is_logged = true;
                    tracing::error!(
                        code = "file_ignored",
                        "a changed file cannot be used, and its last contents stay in force: {error}"
                    );
                }
                Err(_) => {}
            }
        }
    });
    Ok(receiver)
}
