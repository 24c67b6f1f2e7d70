//! The log filter of a running node: an operator changes it, and it returns by itself.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::admin::{LogRequest, ORDER_LASTS_MAX};
use crate::error::RunError;
use crate::log_control::{LogControl, LogFilter};

/// The log filter of this process.
pub(super) struct LogLevels {
    /// `None` if the process does not write log lines of its own.
    control: Option<LogControl>,
    runtime: Handle,
    changed: Arc<Mutex<Option<ChangedFilter>>>,
}

/// A filter that an operator has set.
struct ChangedFilter {
    text: String,
    until: Instant,
    /// Ends the task that waits for `until`.
    waiting: AbortHandle,
}

impl LogLevels {
    /// Begins with the level of the settings. Needs a tokio runtime.
    pub(super) fn new(control: Option<LogControl>) -> Self {
        Self { control, runtime: Handle::current(), changed: Arc::default() }
    }

    /// Carries out a request. Returns the filter in force.
    ///
    /// # Errors
    /// Fails when the filter or its time cannot be used, or this process writes no log lines.
    pub(super) fn work(&self, request: &LogRequest) -> Result<Value, RunError> {
        let control = self.control.as_ref().ok_or_else(|| {
            RunError::refused("this process writes no log lines whose level could be changed")
        })?;
        match request {
            LogRequest::Show => {}
            LogRequest::Reset => self.reset(control)?,
            LogRequest::Set { filter, for_s } => self.set(control, filter, *for_s)?,
        }
        Ok(self.shown())
    }

    fn shown(&self) -> Value {
        match &*self.changed.lock() {
            None => json!({ "filter": null, "left_s": null }),
            Some(ChangedFilter { text, until, .. }) => {
                let left = until.saturating_duration_since(Instant::now());
                json!({ "filter": text, "left_s": left.as_secs() })
            }
        }
    }

    /// Sets a filter for a time, after which the one of the settings applies again. The latest change counts.
    fn set(&self, control: &LogControl, text: &str, for_s: u64) -> Result<(), RunError> {
        let filter =
            LogFilter::parse(text).map_err(|error| RunError::refused(error.to_string()))?;
        let lasts = Duration::from_secs(for_s);
        if lasts.is_zero() || lasts > ORDER_LASTS_MAX {
            let max_s = ORDER_LASTS_MAX.as_secs();
            return Err(RunError::refused(format!(
                "{for_s} s: a filter lasts from 1 to {max_s} s"
            )));
        }
        let mut changed = self.changed.lock();
        // The line is written by the old filter, which may show it while the new one does not.
        tracing::info!(filter = text, for_s, "the operator changes the log filter");
        control.change(Some(&filter)).map_err(RunError::failed)?;
        if let Some(before) = changed.take() {
            before.waiting.abort();
        }
        let until = Instant::now() + lasts;
        let (state, control) = (Arc::downgrade(&self.changed), control.clone());
        let waiting = self.runtime.spawn(async move {
            tokio::time::sleep_until(until).await;
            let Some(state) = state.upgrade() else { return };
            let mut changed = state.lock();
            // A change at this moment has another end.
            if changed.as_ref().is_none_or(|changed| changed.until != until) {
                return;
            }
            match control.change(None) {
                Ok(()) => {
                    *changed = None;
                    tracing::info!("the log filter is that of the settings again");
                }
                Err(error) => tracing::warn!(error, "the log filter stays after its end"),
            }
        });
        let (text, waiting) = (text.to_owned(), waiting.abort_handle());
        *changed = Some(ChangedFilter { text, until, waiting });
        Ok(())
    }

    fn reset(&self, control: &LogControl) -> Result<(), RunError> {
        let mut changed = self.changed.lock();
        control.change(None).map_err(RunError::failed)?;
        if let Some(before) = changed.take() {
            before.waiting.abort();
            tracing::info!("the log filter is that of the settings again");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::log_lines::LogLines;

    /// The changes of a filter, by their loggers; `None` is the level of the settings.
    type Changes = Arc<Mutex<Vec<Option<usize>>>>;

    fn levels() -> (LogLevels, Changes) {
        let changes = Changes::default();
        let noted = changes.clone();
        let control = LogControl::new(move |filter| {
            noted.lock().push(filter.map(|filter| filter.loggers.len()));
            Ok(())
        });
        (LogLevels::new(Some(control)), changes)
    }

    fn set(filter: &str, for_s: u64) -> LogRequest {
        LogRequest::Set { filter: filter.to_owned(), for_s }
    }

    #[tokio::test]
    async fn a_filter_ends_by_itself_and_only_its_own_end_counts() {
        let (levels, changes) = levels();
        assert_eq!(levels.work(&LogRequest::Show).unwrap()["filter"], Value::Null);
        let shown = levels.work(&set("a=debug", 1)).unwrap();
        assert_eq!(shown["filter"], "a=debug");
        levels.work(&set("a=debug,b=debug", 3600)).unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(*changes.lock(), [Some(1), Some(2)], "the end of the first one ends no other");
        let shown = levels.work(&LogRequest::Show).unwrap();
        assert!(shown["left_s"].as_u64().is_some_and(|left| left > 3000), "{shown}");
        levels.work(&LogRequest::Reset).unwrap();
        levels.work(&set("a=debug", 1)).unwrap();
        for _ in 0..4000 {
            if changes.lock().len() == 5 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(*changes.lock(), [Some(1), Some(2), None, Some(1), None]);
        assert_eq!(levels.work(&LogRequest::Show).unwrap()["filter"], Value::Null);
    }

    #[tokio::test]
    async fn a_filter_that_cannot_be_taken_back_is_still_shown_and_the_log_says_why() {
        let control = LogControl::new(|filter| match filter {
            Some(_) => Ok(()),
            None => Err("no room".to_owned()),
        });
        let levels = LogLevels::new(Some(control));
        let log = LogLines::default();
        let _guard = tracing::subscriber::set_default(log.clone());
        levels.work(&set("a=debug", 1)).unwrap();
        let warned = || log.lines().into_iter().find(|line| line.starts_with("WARN "));
        for _ in 0..4000 {
            if warned().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let line = warned().unwrap();
        assert!(line.contains("message=") && line.contains("no room"), "{line}");
        assert!(log.lines().iter().all(|line| !line.contains("again")), "{:?}", log.lines());
        let shown = levels.work(&LogRequest::Show).unwrap();
        assert_eq!(shown, json!({ "filter": "a=debug", "left_s": 0 }));
    }

    #[tokio::test]
    async fn what_cannot_be_used_changes_nothing() {
        let (levels, changes) = levels();
        for (filter, for_s) in [("loud", 60), ("info", 0), ("info", 24 * 3600 + 1), ("", 60)] {
            assert!(levels.work(&set(filter, for_s)).is_err(), "{filter} for {for_s}");
        }
        assert!(changes.lock().is_empty());
        let none = LogLevels::new(None);
        assert!(none.work(&LogRequest::Show).is_err());
    }
}
