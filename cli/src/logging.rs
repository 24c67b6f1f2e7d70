//! Log lines, as text or as one JSON object per line; and the handling of panics. [`line_counts`] decides which of many
//! equal lines are written.

mod line_counts;
#[cfg(test)]
mod panic_tests;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::time::Instant;

use hawser_node::log_control::{LogControl, LogFilter};
use hawser_node::settings::LogSettings;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, JsonFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::reload;

use crate::{clock, output};
use line_counts::{LeftOutLines, LineCounts, LineDecision, WINDOW};

/// The logger of the line about a panic, which no filter leaves out: it is the last one, and the process ends.
const PANICS: &str = "hawser::panics";

/// Starts logging to the error output. Must be called once. Returns the control of the log filter.
pub(crate) fn install(config: LogSettings) -> LogControl {
    let level = LevelFilter::from_level(config.level);
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter(level, None))
        .with_writer(io::stderr)
        // It would print to the error output, and panic if that is closed.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    // Fails only if a logger is installed already, as in tests.
    if config.json {
        let lines = CountedLines::new(JsonLines, true);
        let base = base.fmt_fields(JsonFields::new()).event_format(lines).with_filter_reloading();
        let handle = base.reload_handle();
        let _ = base.try_init();
        control(level, move |filter| handle.reload(filter))
    } else {
        let lines = CountedLines::new(format::format().with_timer(Utc), false);
        let base = base.event_format(lines).with_filter_reloading();
        let handle = base.reload_handle();
        let _ = base.try_init();
        control(level, move |filter| handle.reload(filter))
    }
}

/// Returns the control of a logger whose filter `reload` replaces. `level` is that of the settings.
fn control(
    level: LevelFilter,
    reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
) -> LogControl {
    LogControl::new(move |changed| {
        reload(filter(level, changed)).map_err(|error| error.to_string())
    })
}

/// Selects this program's lines from a level on, and warnings of libraries. The level is `changed`'s, or else `level`.
/// Loggers that `changed` names have their own.
fn filter(level: LevelFilter, changed: Option<&LogFilter>) -> EnvFilter {
    let level = changed.and_then(|changed| changed.level).unwrap_or(level);
    let libraries = match level {
        LevelFilter::TRACE => LevelFilter::DEBUG,
        LevelFilter::ERROR | LevelFilter::OFF => level,
        _ => LevelFilter::WARN,
    };
    let mut text = format!("{libraries},hawser={level}");
    for (logger, level) in changed.into_iter().flat_map(|changed| &changed.loggers) {
        // Writing into memory cannot fail.
        let _ = write!(text, ",{logger}={level}");
    }
    // The last of two levels for one logger counts.
    EnvFilter::new(text + "," + PANICS + "=error")
}

/// Makes a panic in any thread or task end the process after it was logged: a node that lacks a part
/// is worse than one that restarts.
pub(crate) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        let cause = cause_of(panic);
        tracing::error!(
            target: PANICS,
            code = "panic",
            thread,
            place,
            %backtrace,
            "a part of the node panicked: {cause}"
        );
        std::process::abort();
    }));
}

fn cause_of<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// RFC 3339 in UTC with nanoseconds.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&now())
    }
}

fn now() -> String {
    output::time(clock::now_ns())
}

/// One JSON object per line: `time`, `level`, `logger`, `caller`, `message`, and the fields of the line and of the
/// spans around it, which [`JsonFields`] has written.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = fields_of_spans(context);
        fields.extend(fields_of(event));
        writeln!(writer, "{}", json_line(event.metadata(), fields))
    }
}

/// Returns the fields of the spans around a line, such as `request_id`. An inner span counts before an outer one.
fn fields_of_spans<S, N>(context: &FmtContext<'_, S, N>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let mut fields = Map::new();
    for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
        let extensions = span.extensions();
        let written = extensions.get::<FormattedFields<N>>();
        let read: Option<Map<String, Value>> =
            written.and_then(|it| serde_json::from_str(&it.fields).ok());
        fields.extend(read.unwrap_or_default());
    }
    fields
}

/// Returns a line of a place of the code as JSON.
fn json_line(metadata: &Metadata<'_>, fields: Map<String, Value>) -> Value {
    let mut line = Map::new();
    line.insert("time".into(), now().into());
    line.insert("level".into(), metadata.level().as_str().into());
    line.insert("logger".into(), metadata.target().replace("::", ".").into());
    if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
        line.insert("caller".into(), format!("{file}:{number}").into());
    }
    line.extend(fields);
    Value::Object(line)
}

/// A format that writes a bounded number of lines for each place of the code in a minute: a peer, a payer or a failing
/// disk must not fill the disk of the logs. Lines of debug and trace are all written.
struct CountedLines<F> {
    lines: F,
    /// True if the format is JSON.
    as_json: bool,
    counts: Mutex<LineCounts>,
}

impl<F> CountedLines<F> {
    fn new(lines: F, as_json: bool) -> Self {
        Self { lines, as_json, counts: Mutex::default() }
    }

    /// Counts a line. Returns true if it is to be written, and the counts of the windows that have ended. Calls
    /// `message` at most once, and without the lock of the counts: the values of a message may log themselves.
    fn count(
        &self,
        metadata: &'static Metadata<'static>,
        message: impl FnOnce() -> String,
    ) -> (bool, Vec<LeftOutLines>) {
        let now = Instant::now();
        let mut counts = self.counts.lock();
        let ended = counts.take_ended(now);
        let mut decision = counts.note(metadata, now, None);
        drop(counts);
        if decision == LineDecision::NeedsMessage {
            let message = message();
            decision = self.counts.lock().note(metadata, now, Some(message));
        }
        (decision == LineDecision::Write, ended)
    }
}

impl<S, N, F> FormatEvent<S, N> for CountedLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return self.lines.format_event(context, writer, event);
        }
        let (is_written, ended) = self.count(metadata, || message_of(event));
        for left_out in &ended {
            writeln!(writer, "{}", line_of(left_out, self.as_json))?;
        }
        if is_written { self.lines.format_event(context, writer, event) } else { Ok(()) }
    }
}

/// Returns the line about lines that were left out.
fn line_of(left_out: &LeftOutLines, as_json: bool) -> String {
    let LeftOutLines { metadata, message, count } = left_out;
    let message = output::plain(message);
    let text = format!("{message} … {count} more in {} s", WINDOW.as_secs());
    if as_json {
        let fields = [
            ("message".to_owned(), Value::from(text)),
            ("left_out".to_owned(), Value::from(*count)),
        ];
        return json_line(metadata, fields.into_iter().collect()).to_string();
    }
    format!("{} {:>5} {}: {text}", now(), metadata.level().as_str(), metadata.target())
}

fn message_of(event: &Event<'_>) -> String {
    let fields = fields_of(event);
    fields.get("message").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn fields_of(event: &Event<'_>) -> Map<String, Value> {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let mut fields = fields.0;
    // A line about another strand than that of its envelope keeps the id of the other strand.
    let place = fields.get(ENVELOPE).and_then(Value::as_str).and_then(place_of);
    if let Some((originator, sequence)) = place {
        let originator = Value::from(originator);
        let shown = fields.entry("originator_id").or_insert_with(|| originator.clone());
        if *shown == originator {
            fields.insert("sequence_id".into(), sequence.into());
        }
    }
    fields
}

/// Returns the originator and the sequence id of an envelope's id, such as `100:5`.
fn place_of(envelope: &str) -> Option<(u64, u64)> {
    let (originator, sequence) = envelope.split_once(':')?;
    Some((originator.parse().ok()?, sequence.parse().ok()?))
}

/// Fields that hold an id, which is a number in JSON also where the code logs it as text.
const IDS: [&str; 2] = ["node_id", "originator_id"];
/// The field that holds the id of an envelope. In JSON it is followed by its two parts, `originator_id` and
/// `sequence_id`, by which programs search.
const ENVELOPE: &str = "envelope";

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match text.parse::<u64>() {
            Ok(id) if IDS.contains(&field.name()) => self.put(field, id),
            _ => self.put(field, text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that `log` writes, as JSON.
    fn json_lines(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(LevelFilter::INFO, None))
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let written = lines.0.lock().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_json_line_has_the_usual_keys_and_the_fields() {
        let text = json_lines(|| {
            tracing::info!(port = 5050, node_id = %"100", why = %"100", "started \"api\" server");
            tracing::debug!("not shown");
            tracing::info!(target: "quinn", "not shown");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "started \"api\" server");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["logger"], "hawser.logging.tests");
        assert_eq!(line["port"], 5050);
        assert_eq!(line["node_id"], 100);
        assert_eq!(line["why"], "100");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
        assert!(line["caller"].as_str().unwrap().contains("logging.rs:"));
    }

    #[test]
    fn a_json_line_has_the_parts_of_an_envelopes_id() {
        let text = json_lines(|| {
            tracing::info!(envelope = %"100:5", "one");
            tracing::info!(envelope = %"100:5", originator_id = %"100", "of the same strand");
            tracing::info!(envelope = %"100:5", originator_id = %"200", "about another strand");
            tracing::info!(envelope = %"none", "no id");
        });
        let parts = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            ["envelope", "originator_id", "sequence_id"].map(|field| line[field].clone())
        };
        let shown: Vec<_> = text.lines().map(parts).collect();
        assert_eq!(shown[0], [Value::from("100:5"), 100.into(), 5.into()]);
        assert_eq!(shown[1], shown[0]);
        assert_eq!(shown[2], [Value::from("100:5"), 200.into(), Value::Null]);
        assert_eq!(shown[3], [Value::from("none"), Value::Null, Value::Null]);
    }

    #[test]
    fn a_json_line_has_the_fields_of_its_request() {
        let text = json_lines(|| {
            let _outer =
                tracing::info_span!("outer", request_id = 6_u64, peer = "public").entered();
            let _request = tracing::info_span!("request", request_id = 7_u64).entered();
            tracing::info!(peer = "own", "one");
            tracing::info!("two");
        });
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: Vec<_> = lines.iter().map(|line| line["request_id"].as_u64()).collect();
        assert_eq!(ids, [Some(7), Some(7)]);
        assert_eq!([&lines[0]["peer"], &lines[1]["peer"]], ["own", "public"]);
    }

    /// A caller may cause a line for each of its calls, such as those that read a damaged part of the log.
    #[test]
    fn a_flood_of_one_line_is_cut_and_other_lines_are_not() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(LevelFilter::DEBUG, None))
            .with_writer(move || writer.clone())
            .event_format(CountedLines::new(JsonLines, true))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for step in 0..150 {
                tracing::error!(step, "flood");
                tracing::debug!(step, "asked for");
            }
            tracing::error!("other");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let count = |message: &str| text.matches(&format!("\"message\":\"{message}\"")).count();
        assert_eq!(["flood", "asked for", "other"].map(count), [100, 150, 1], "{text}");
    }

    /// A value of a message may log while it is written. That line is counted, too.
    #[test]
    fn a_message_that_logs_itself_finds_the_counts_unlocked() {
        let lines = Lines::default();
        let writer = lines.clone();
        let counted = Arc::new(CountedLines::new(JsonLines, true));
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(SharedFormat(counted.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..150 {
                let value = std::fmt::from_fn(|writer| {
                    // A line of this value would take the lock.
                    writer.write_str(if counted.counts.is_locked() { "locked" } else { "free" })
                });
                tracing::error!("flood of {value}");
            }
        });
        let ended = counted.counts.lock().take_ended(Instant::now() + WINDOW);
        let ended: Vec<_> = ended.iter().map(|it| (it.message.as_str(), it.count)).collect();
        assert_eq!(ended, [("flood of free", 50)]);
    }

    #[test]
    fn lines_that_were_left_out_are_told_in_both_forms() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(LeftOutFormat)
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!("a peer is\nodd"));
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let [as_text, as_json] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let wanted = "  WARN hawser::logging::tests: a peer is odd … 1204 more in 60 s";
        assert!(as_text.ends_with(wanted), "{as_text}");
        let line: Value = serde_json::from_str(as_json).unwrap();
        assert_eq!(line["message"], "a peer is odd … 1204 more in 60 s");
        assert_eq!(line["left_out"], 1204);
        assert_eq!(line["level"], "WARN");
    }

    /// Writes with a format that a test looks at.
    struct SharedFormat(Arc<CountedLines<JsonLines>>);

    impl<S, N> FormatEvent<S, N> for SharedFormat
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(
            &self,
            context: &FmtContext<'_, S, N>,
            writer: Writer<'_>,
            event: &Event<'_>,
        ) -> fmt::Result {
            self.0.format_event(context, writer, event)
        }
    }

    /// Writes an event as one whose repetitions were left out.
    struct LeftOutFormat;

    impl<S, N> FormatEvent<S, N> for LeftOutFormat
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        fn format_event(
            &self,
            _context: &FmtContext<'_, S, N>,
            mut writer: Writer<'_>,
            event: &Event<'_>,
        ) -> fmt::Result {
            let (metadata, message) = (event.metadata(), message_of(event));
            let left_out = LeftOutLines { metadata, message, count: 1204 };
            writeln!(writer, "{}", line_of(&left_out, false))?;
            writeln!(writer, "{}", line_of(&left_out, true))
        }
    }

    #[test]
    fn what_is_logged_changes_while_the_process_runs() {
        let lines = Lines::default();
        let writer = lines.clone();
        let base = tracing_subscriber::fmt()
            .with_env_filter(filter(LevelFilter::INFO, None))
            .with_writer(move || writer.clone())
            .event_format(JsonLines)
            .with_filter_reloading();
        let handle = base.reload_handle();
        let control = control(LevelFilter::INFO, move |filter| handle.reload(filter));
        let change = |text: &str| {
            let filter = LogFilter::parse(text).unwrap();
            control.change(Some(&filter)).unwrap();
        };
        tracing::subscriber::with_default(base.finish(), || {
            let log = |step: u32| {
                tracing::debug!(step, "shown");
                tracing::debug!(target: "hawser_net::session", step, "shown");
                tracing::info!(target: "quinn", step, "shown");
                tracing::error!(step, "shown");
            };
            log(1);
            change("hawser_net=debug");
            log(2);
            change("off,quinn=info");
            log(3);
            control.change(None).unwrap();
            log(4);
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let shown: Vec<(u64, String)> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| (line["step"].as_u64().unwrap(), line["logger"].as_str().unwrap().into()))
            .collect();
        let own = "hawser.logging.tests";
        let expected = [(1, own), (2, "hawser_net.session"), (2, own), (3, "quinn"), (4, own)];
        assert_eq!(shown, expected.map(|(step, logger)| (step, logger.to_owned())));
    }

    /// An operator has silenced all loggers, and forgets it before the process ends.
    #[test]
    fn a_panic_is_told_whatever_is_logged() {
        let lines = Lines::default();
        let writer = lines.clone();
        let changed = LogFilter::parse("off,hawser.panics=off").unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(LevelFilter::INFO, Some(&changed)))
            .with_writer(move || writer.clone())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("silenced");
            tracing::error!(target: PANICS, "told");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let messages: Vec<_> = messages.map(|line| line["message"].clone()).collect();
        assert_eq!(messages, ["told"]);
    }
}
