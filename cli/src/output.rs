//! Output of commands: text, or JSON for programs.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use hawser_node::error::{RunError, RunErrorKind};
use hawser_proto::date::date_text;
use hawser_proto::steers_terminal;

/// Prints a line. Characters that steer a terminal are escaped, because a node, a registrant or the writer of a file
/// may have chosen parts of the text.
pub(crate) fn line(text: impl fmt::Display) {
    styled_line(Escaped(text));
}

/// Prints a line to the error output, for people beside a program that reads the output. As with [`line()`], characters
/// that steer a terminal are escaped.
pub(crate) fn note(text: impl fmt::Display) {
    // A failing error output cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{}", Escaped(text));
}

/// Prints a line with its control characters, for texts of this program alone. A closed pipe, as `head` leaves it, ends
/// the program without a message, and as failed: it did not do the rest of its work, and its verdict was not reached.
pub(crate) fn styled_line(text: impl fmt::Display) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            // A failing error output cannot be reported anywhere.
            let _ = writeln!(io::stderr(), "hawser: the output cannot be written: {error}");
        }
        std::process::exit(i32::from(exit_code(RunErrorKind::Failed)));
    }
}

/// Reports the progress of a command: text for people, or JSON for programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporter {
    /// True if programs read the output.
    pub(crate) as_json: bool,
}

impl Reporter {
    /// Prints an event in the one form or the other. Only `hawser dev` and `hawser chain dev` run
    /// long enough to have events.
    #[cfg(feature = "dev")]
    pub(crate) fn event(self, text: impl FnOnce() -> String, event: impl FnOnce() -> Value) {
        if self.as_json {
            line(event());
        } else {
            line(text());
        }
    }

    /// Prints a line that has no form for programs.
    pub(crate) fn text(self, text: impl fmt::Display) {
        if !self.as_json {
            line(text);
        }
    }
}

/// The longest printed error, in characters. A guess: those of this program alone are far shorter.
const FAILURE_LEN_MAX: usize = 65_536;

/// Prints an error to the error output, unless its text is empty.
pub(crate) fn failure(failure: &RunError, as_json: bool) {
    if failure.text.is_empty() {
        return;
    }
    // A node, a chain or a file may have chosen parts of it.
    let text = shortened(&failure.text);
    let text = if as_json {
        let error = json!({ "error": text, "exit_code": exit_code(failure.kind) });
        Escaped(error).to_string()
    } else {
        format!("hawser: {}", plain_lines(&text))
    };
    // A failing error output cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns the text of an error, cut if it is longer than any of this program.
fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let mut kept: String = chars.by_ref().take(FAILURE_LEN_MAX).collect();
    if chars.next().is_some() {
        kept.push('…');
    }
    kept
}

/// Returns the exit code for the reason of a failure.
#[must_use]
pub(crate) fn exit_code(reason: RunErrorKind) -> u8 {
    match reason {
        RunErrorKind::Failed => 1,
        RunErrorKind::Usage => 2,
        RunErrorKind::Refused => 3,
        RunErrorKind::NotFound => 4,
        RunErrorKind::Answer(code) => code,
    }
}

/// Asks the user at the terminal to confirm a change. `unchanged` is the text about the change that was not made.
///
/// Commands call this unless `--yes` is given. Without a terminal there is an error: a script has to give `--yes`, so
/// that it changes nothing that its author did not mean to change.
///
/// # Errors
/// When the answer is not yes, when there is no terminal, and when the terminal cannot be read or written.
pub(crate) fn confirm(question: impl fmt::Display, unchanged: &str) -> Result<(), RunError> {
    if !io::stdin().is_terminal() {
        return Err(RunError::refused(format!(
            "{unchanged}: there is no terminal at which to ask. Give --yes to confirm without being asked"
        )));
    }
    if ask(question)? {
        return Ok(());
    }
    Err(RunError::refused(format!("{unchanged}: it was not confirmed")))
}

/// Asks the user at the terminal. Returns true if the answer is yes.
///
/// # Errors
/// When the terminal cannot be read or written.
fn ask(question: impl fmt::Display) -> Result<bool, RunError> {
    let mut answer = String::new();
    let mut out = io::stderr();
    let asked = write!(out, "{} [y/N] ", Escaped(question)).and_then(|()| out.flush());
    asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).map_err(RunError::failed)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Returns a path as a value of JSON. Bytes that are not UTF-8 are replaced: `json!` panics at the path itself.
#[must_use]
pub(crate) fn shown_path(path: &Path) -> String {
    path.display().to_string()
}

/// The longest printed part of a text from outside, in characters. A guess.
const PLAIN_LEN_MAX: usize = 200;

/// Makes a text from outside fit for a terminal: short, and without control characters.
#[must_use]
pub(crate) fn plain(text: &str) -> String {
    without_controls(text).take(PLAIN_LEN_MAX).collect()
}

/// Makes a text from outside fit for a terminal, at its whole length: a node could otherwise clear the terminal of its
/// reader, or add lines that look like this program's.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    without_controls(text).collect()
}

/// Makes the texts of a page from outside fit for a terminal, as [`printable`] does. Fields of an object keep their
/// names: no command prints them.
#[must_use]
pub(crate) fn printable_page(page: &Value) -> Value {
    match page {
        Value::String(text) => printable(text).into(),
        Value::Array(items) => items.iter().map(printable_page).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), printable_page(value))).collect()
        }
        other => other.clone(),
    }
}

fn without_controls(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|it| if steers_terminal(it) { ' ' } else { it })
}

/// Makes a text from outside that may have several lines fit for a terminal: without other control characters.
fn plain_lines(text: &str) -> String {
    text.chars().map(|it| if steers_terminal(it) && it != '\n' { ' ' } else { it }).collect()
}

/// A text whose characters that steer a terminal are escaped, as `\u001b`, except for line ends and tabs. JSON has only
/// line ends between its values, and escapes in this form within them (RFC 8259, section 7), so it keeps its meaning.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapingWriter(f), "{}", self.0)
    }
}

/// Escapes what is written, piece by piece: an envelope in JSON may have a hundred megabytes.
struct EscapingWriter<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for EscapingWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_escaped = |it: char| steers_terminal(it) && !matches!(it, '\n' | '\t');
        let mut begin = 0;
        for (at, it) in text.match_indices(is_escaped) {
            self.0.write_str(&text[begin..at])?;
            it.chars().try_for_each(|it| write!(self.0, "\\u{:04x}", u32::from(it)))?;
            begin = at + it.len();
        }
        self.0.write_str(&text[begin..])
    }
}

/// Returns a number with its noun: `1 request`, `2 requests`.
#[must_use]
pub(crate) fn count<N>(number: N, thing: &str) -> String
where
    N: Copy + fmt::Display + PartialEq + From<u8>,
{
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Formats a number of bytes for people, such as `3.25 MiB`.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Formats a time in unix nanoseconds as RFC 3339, UTC.
#[must_use]
pub(crate) fn time(unix_ns: i64) -> String {
    const SECOND_NS: i64 = 1_000_000_000;
    const DAY_S: i64 = 86_400;
    let (seconds, ns) = (unix_ns.div_euclid(SECOND_NS), unix_ns.rem_euclid(SECOND_NS));
    let (day, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z", date_text(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_dates() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(time(1_750_000_001_000_000_000), "2025-06-15T15:06:41.000000000Z");
        assert_eq!(time(951_827_696_000_000_007), "2000-02-29T12:34:56.000000007Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(time(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(time(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }

    #[test]
    fn texts_from_outside_are_short_and_steer_no_terminal() {
        assert_eq!(plain("a\u{1b}[2J\nb\u{9b}c"), "a [2J b c");
        assert_eq!(plain(&"ü".repeat(1000)).chars().count(), PLAIN_LEN_MAX);
        assert_eq!(plain_lines("a\u{1b}[2J\nb\u{9b}c\r"), "a [2J\nb c ");
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a b c", "they turn the text around");
    }

    /// A node could otherwise add lines about other nodes to a list.
    #[test]
    fn no_text_of_a_page_from_outside_begins_a_line() {
        let page = |text: &str| json!({ "state": text, "rows": [text, { "a": text }], "b": [1, null, true] });
        assert_eq!(printable_page(&page("ok\nnode 7: ok\u{1b}[2J")), page("ok node 7: ok [2J"));
    }

    #[test]
    fn an_error_is_cut_where_none_of_this_program_ends() {
        let longest = "ü".repeat(FAILURE_LEN_MAX);
        assert_eq!(shortened(&longest), longest);
        assert_eq!(shortened(&format!("{longest}x")), format!("{longest}…"));
    }

    /// Each command prints its results by it.
    #[test]
    fn no_printed_line_steers_a_terminal_and_json_keeps_its_value() {
        let hostile = "\u{1b}[2J\u{9b}1m\u{7f}\r\u{202e}end ü";
        let shown = Escaped(format_args!("node {hostile}\n\tlast")).to_string();
        let expected = "node \\u001b[2J\\u009b1m\\u007f\\u000d\\u202eend ü\n\tlast";
        assert_eq!(shown, expected);
        let value = json!({ "address": hostile, "of": [hostile] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = Escaped(text).to_string();
            assert!(!shown.contains(|it: char| steers_terminal(it) && it != '\n'), "{shown}");
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn things_are_counted() {
        assert_eq!(count(1_usize, "request"), "1 request");
        assert_eq!(count(0_u64, "request"), "0 requests");
        assert_eq!(count(u64::MAX, "byte"), "18446744073709551615 bytes");
    }
}
