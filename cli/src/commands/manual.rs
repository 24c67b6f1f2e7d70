//! `hawser manual`: a page for `man` about each command, made from the command tree.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};
use hawser_node::error::RunError;
use serde_json::json;

use crate::args::Cli;
use crate::output;

/// Writes the pages into a folder.
///
/// # Errors
/// When they cannot be written.
pub(super) fn run(folder: &Path, as_json: bool) -> Result<(), RunError> {
    let fail = |error: std::io::Error| RunError::failed(format!("{}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(fail)?;
    let pages = pages();
    for page in &pages {
        fs::write(folder.join(format!("{}.1", page.name)), &page.text).map_err(fail)?;
    }
    if as_json {
        let names: Vec<_> = pages.iter().map(|page| &page.name).collect();
        output::line(json!({ "folder": output::shown_path(folder), "pages": names }));
    } else {
        let count = output::count(pages.len(), "page");
        output::line(format_args!("{count} in {}", folder.display()));
    }
    Ok(())
}

/// A page of the manual.
struct ManualPage {
    /// Names of the commands that lead to it, with dashes between them.
    name: String,
    text: String,
}

/// Returns the pages of all commands that help shows, under each name of a command.
fn pages() -> Vec<ManualPage> {
    let mut root = Cli::command();
    // Gives the subcommands the options that all commands have.
    root.build();
    let after = root.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (_, exit_codes) = notes_and_codes(&after);
    let mut pages = Vec::new();
    add_pages(&root, "hawser", exit_codes.unwrap_or_default(), &mut pages);
    pages
}

fn add_pages(command: &Command, name: &str, exit_codes: &str, pages: &mut Vec<ManualPage>) {
    pages.push(ManualPage { name: name.to_owned(), text: page(command, name, exit_codes) });
    for subcommand in shown_subcommands(command) {
        let named = |own: &str| format!("{name}-{own}");
        let first = named(subcommand.get_name());
        add_pages(subcommand, &first, exit_codes, pages);
        // The title of the page is the first name, whichever name was asked for.
        for alias in subcommand.get_all_aliases() {
            let text = page(subcommand, &first, exit_codes);
            pages.push(ManualPage { name: named(alias), text });
        }
    }
}

fn shown_subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help")
}

/// Returns a page in roff, with the macros of man(7).
fn page(command: &Command, name: &str, exit_codes: &str) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long = command.get_long_about().map_or_else(|| about.clone(), ToString::to_string);
    let first = about.lines().next().unwrap_or_default().trim_end_matches('.');
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    let mut text = format!(
        ".TH {} 1 \"\" \"hawser {}\" \"Hawser\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
        escaped(&name.to_uppercase()),
        escaped(env!("HAWSER_VERSION")),
        escaped(name),
        escaped(first),
    );
    for (number, line) in usage.lines().enumerate() {
        let between = if number == 0 { "" } else { ".br\n" };
        let _ = writeln!(text, "{between}{}", escaped(line.trim()));
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (notes, own_codes) = notes_and_codes(&after);
    let _ = write!(text, ".SH DESCRIPTION\n{}", paragraphs(&long, ".PP"));
    if !notes.is_empty() {
        let _ = write!(text, ".PP\n{}", paragraphs(notes, ".PP"));
    }
    let shown = |arg: &&Arg| !arg.is_hide_set();
    let (arguments, options): (Vec<_>, Vec<_>) =
        command.get_arguments().filter(shown).partition(|arg| arg.is_positional());
    for (title, args) in [("ARGUMENTS", arguments), ("OPTIONS", options)] {
        if !args.is_empty() {
            let _ =
                write!(text, ".SH {title}\n{}", args.into_iter().map(entry).collect::<String>());
        }
    }
    let mut subcommands = shown_subcommands(command).peekable();
    if subcommands.peek().is_some() {
        text.push_str(".SH COMMANDS\n");
    }
    for subcommand in subcommands {
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        let name = escaped(&format!("{name}-{}", subcommand.get_name()));
        let _ = write!(text, ".TP\n.BR {name} (1)\n{}", paragraphs(&about, ".IP"));
    }
    let codes = own_codes.unwrap_or(exit_codes);
    let _ = write!(text, ".SH EXIT STATUS\n{}", paragraphs(codes, ".PP"));
    text
}

/// Returns the parts of the text below the help of a command: its notes, and its exit codes if it has codes of its own.
fn notes_and_codes(after: &str) -> (&str, Option<&str>) {
    match after.split_once("Exit codes: ") {
        Some((notes, codes)) => (notes.trim(), Some(codes)),
        None => (after.trim(), None),
    }
}

/// Returns the entry of an argument or an option: its forms, and below them its help.
fn entry(arg: &Arg) -> String {
    let values: String = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => {
            names.iter().map(|name| format!(" \\fI{}\\fR", escaped(name.as_str()))).collect()
        }
        _ => String::new(),
    };
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let forms: Vec<_> =
        short.into_iter().chain(long).map(|form| format!("\\fB{}\\fR", escaped(&form))).collect();
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let mut help = help.map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(help, " [default: {}]", defaults.join(" "));
    }
    let possible: Vec<_> =
        arg.get_possible_values().iter().map(|it| it.get_name().to_owned()).collect();
    if arg.get_action().takes_values() && !possible.is_empty() {
        let _ = write!(help, " [possible values: {}]", possible.join(", "));
    }
    let tag = format!("{}{values}", forms.join(", "));
    format!(".TP\n{}\n{}", tag.trim_start(), paragraphs(&help, ".IP"))
}

/// Returns a text in roff. For an empty line it has the macro that begins a paragraph.
fn paragraphs(text: &str, begin: &str) -> String {
    let mut roff = String::new();
    for line in text.lines().map(str::trim) {
        let _ = match line {
            "" => writeln!(roff, "{begin}"),
            line => writeln!(roff, "{}", escaped(line)),
        };
    }
    roff
}

/// Returns a line of text without a meaning for roff: no escapes, no macro at its beginning, and plain dashes.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_exit_code_belongs_to_the_description() {
        assert_eq!(notes_and_codes("Exit codes: 0 done."), ("", Some("0 done.")));
        assert_eq!(notes_and_codes("Stop it.\n\nExit codes: 0."), ("Stop it.", Some("0.")));
        assert_eq!(notes_and_codes("Stop it first."), ("Stop it first.", None));
        assert_eq!(notes_and_codes(""), ("", None));
    }

    #[test]
    fn a_text_is_no_macro() {
        assert_eq!(escaped(".br \\fB --x"), "\\&.br \\efB \\-\\-x");
        assert_eq!(paragraphs("a\n\n'b", ".IP"), "a\n.IP\n\\&'b\n");
    }
}
