//! The filter of a process's log lines, which an operator may change for a while.
//!
//! A filter is a list such as `info,hawser_net=debug`: a level for all loggers, and levels of single ones. It is
//! bounded, and has no patterns, so that a filter costs each line little.

use std::fmt;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;

/// The longest text of a filter, in bytes, and the most loggers in it. Guesses: an operator names a few.
pub const FILTER_LEN_BYTES_MAX: usize = 1024;
const LOGGERS_MAX: usize = 32;
/// The levels by name.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Error of a text that is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFilterError {
    /// The text is too long.
    #[error("the filter has {0} bytes: at most {FILTER_LEN_BYTES_MAX} are read")]
    TooLong(usize),
    /// There are too many loggers.
    #[error("the filter names more than {LOGGERS_MAX} loggers")]
    TooManyLoggers,
    /// A level does not exist.
    #[error("{0:?} is not a level: off, error, warn, info, debug or trace")]
    Level(String),
    /// A name cannot be that of a logger.
    #[error(
        "{0:?} is not a logger: letters, digits and _, with :: or . between the parts, as in hawser_net::session"
    )]
    Logger(String),
    /// A level for all loggers, or one for the same logger, is given twice.
    #[error("the filter has two levels for {0}")]
    Twice(String),
}

/// A filter of log lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogFilter {
    /// The level of the loggers that are not named; `None` for that of the settings.
    pub level: Option<LevelFilter>,
    /// Loggers with their levels. A level also holds for the loggers below.
    pub loggers: Vec<(String, LevelFilter)>,
}

impl LogFilter {
    /// Reads a filter. The parts of a logger may be separated by `.`, as log lines in JSON show them.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, LogFilterError> {
        if text.len() > FILTER_LEN_BYTES_MAX {
            return Err(LogFilterError::TooLong(text.len()));
        }
        let mut filter = Self::default();
        for part in text.split(',').map(str::trim) {
            let Some((logger, level)) = part.split_once('=') else {
                if filter.level.replace(level_of(part)?).is_some() {
                    return Err(LogFilterError::Twice("all loggers".to_owned()));
                }
                continue;
            };
            let (logger, level) = (logger_of(logger)?, level_of(level)?);
            if filter.loggers.iter().any(|(known, _)| *known == logger) {
                return Err(LogFilterError::Twice(logger));
            }
            if filter.loggers.len() == LOGGERS_MAX {
                return Err(LogFilterError::TooManyLoggers);
            }
            filter.loggers.push((logger, level));
        }
        Ok(filter)
    }
}

fn level_of(text: &str) -> Result<LevelFilter, LogFilterError> {
    let level = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    level.map(|(_, level)| *level).ok_or_else(|| LogFilterError::Level(text.to_owned()))
}

fn logger_of(text: &str) -> Result<String, LogFilterError> {
    let name = text.trim().replace('.', "::");
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if name.split("::").all(is_part) {
        Ok(name)
    } else {
        Err(LogFilterError::Logger(text.to_owned()))
    }
}

/// Changes the filter of a process. `None` restores the level of the settings.
type Change = dyn Fn(Option<&LogFilter>) -> Result<(), String> + Send + Sync;

/// The means to change the filter of a process. Clones change the same one.
#[derive(Clone)]
pub struct LogControl(Arc<Change>);

impl LogControl {
    /// Creates a control from the function that changes the filter.
    pub fn new(
        change: impl Fn(Option<&LogFilter>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(change))
    }

    /// Changes the filter; `None` restores the level of the settings.
    ///
    /// # Errors
    /// Fails when the process writes no log lines.
    pub fn change(&self, filter: Option<&LogFilter>) -> Result<(), String> {
        (self.0)(filter)
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_a_level_for_all_and_levels_of_loggers() {
        let parse = |text| LogFilter::parse(text).unwrap();
        let all = |level| LogFilter { level: Some(level), loggers: Vec::new() };
        assert_eq!(parse("debug"), all(LevelFilter::DEBUG));
        assert_eq!(parse(" OFF "), all(LevelFilter::OFF));
        let filter = parse("hawser_net.session=Trace, info ,quinn=error");
        assert_eq!(filter.level, Some(LevelFilter::INFO));
        let loggers = [("hawser_net::session", LevelFilter::TRACE), ("quinn", LevelFilter::ERROR)];
        assert_eq!(filter.loggers, loggers.map(|(name, level)| (name.to_owned(), level)));
        assert_eq!(parse("hawser_api=debug").level, None);
    }

    #[test]
    fn a_text_that_is_no_filter_is_refused_by_its_part() {
        use LogFilterError::{Level, Logger, TooLong, TooManyLoggers, Twice};
        let wrong = |text: &str| LogFilter::parse(text).unwrap_err();
        for text in ["", "loud", "5", "info,", "hawser=", "hawser=info=debug", "[span]"] {
            assert!(matches!(wrong(text), Level(_)), "{text}: {:?}", wrong(text));
        }
        // Of patterns over fields and spans, which could cost each line much.
        for text in ["[{a=x.*}]=info", "=info", "a b=info", "a::=info", "a..b=info", "ä=info"] {
            assert!(matches!(wrong(text), Logger(_) | Level(_)), "{text}: {:?}", wrong(text));
        }
        assert_eq!(wrong("info,debug"), Twice("all loggers".to_owned()));
        assert_eq!(wrong("a.b=info,a::b=debug"), Twice("a::b".to_owned()));
        let many = |count: u32| {
            let parts: Vec<_> = (0..count).map(|number| format!("a{number}=info")).collect();
            parts.join(",")
        };
        assert_eq!(LogFilter::parse(&many(32)).unwrap().loggers.len(), 32);
        assert_eq!(wrong(&many(33)), TooManyLoggers);
        assert_eq!(wrong(&"a".repeat(1025)), TooLong(1025));
    }
}
