//! Settings in a TOML file. A key is a flag without its dashes: `[api] port = 5050` is
//! `--api.port 5050`, and `data-dir = "/var/lib/hawser"` is `--data-dir /var/lib/hawser`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hawser_serve::named_file::read_text;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::error::SettingError;
use super::nearest::nearest;
use super::table;
use super::table::gateway::PAYER_KEY_FILE_ALIAS;
use super::table::node::CONFIG_FILE;

/// The device that stands for a file without settings. Operators name it where the environment names a file that is not
/// to be read.
const NO_SETTINGS: &str = "/dev/null";

/// The unchecked values of a file by flag name.
#[derive(Default)]
pub(super) struct SettingsFile {
    path: PathBuf,
    pub(super) values: BTreeMap<String, Zeroizing<String>>,
    /// The errors of the file itself.
    pub(super) errors: Vec<SettingError>,
}

impl SettingsFile {
    /// Reads a file. An invalid key or value adds an error.
    pub(super) fn read(path: &Path) -> Self {
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        match read_table(path) {
            Ok(table) => file.take_table("", &table),
            Err(why) => file.errors.push(SettingError {
                name: names(),
                given: Some(format!("{}: {why}", path.display())),
                expected: CONFIG_FILE.form.into(),
                example: CONFIG_FILE.example.into(),
            }),
        }
        file.require_private();
        file
    }

    /// Returns true if the file cannot be read, or is no TOML.
    pub(super) fn is_unread(&self) -> bool {
        self.errors.iter().any(|error| error.name == names())
    }

    /// Returns the key and the path, so that an operator finds the line.
    pub(super) fn name_of(&self, flag: &str) -> String {
        format!("{flag} in {}", self.path.display())
    }

    fn take_table(&mut self, prefix: &str, table: &Table) {
        for (key, value) in table {
            let flag = format!("{prefix}{key}");
            match value {
                Value::Table(table) => self.take_table(&format!("{flag}."), table),
                value => self.take_value(flag, value),
            }
        }
    }

    /// Takes over one value of the file, or records the error in it.
    fn take_value(&mut self, key: String, value: &Value) {
        let (alias, aliased) = PAYER_KEY_FILE_ALIAS;
        let flag = if key == alias { aliased.to_owned() } else { key.clone() };
        let known = table::file_keys();
        if !known.contains(&flag.as_str()) {
            let near = nearest(&flag, &known).unwrap_or_default();
            let error = SettingError {
                name: self.name_of(&flag),
                given: Some("not a setting".into()),
                expected: "the name of a flag, without its dashes".into(),
                example: near.into(),
            };
            self.errors.push(error);
            return;
        }
        match text_of(value) {
            Some(_) if self.values.contains_key(&flag) => {
                let error = SettingError {
                    name: self.name_of(&key),
                    given: Some("a second value of one setting".into()),
                    expected: "one value of each setting".into(),
                    example: format!("{flag} = \"…\""),
                };
                self.errors.push(error);
            }
            Some(text) => {
                self.values.insert(flag, Zeroizing::new(text));
            }
            None => {
                let error = SettingError {
                    name: self.name_of(&key),
                    given: Some(format!("a TOML {}", value.type_str())),
                    expected: "text, a whole number, true or false, or a list of these".into(),
                    example: format!("{key} = \"…\""),
                };
                self.errors.push(error);
            }
        }
    }

    /// Checks that a file with a secret has the permissions required of a secret file.
    fn require_private(&mut self) {
        let Some(flag) =
            table::secret_flags().into_iter().find(|flag| self.values.contains_key(*flag))
        else {
            return;
        };
        let mode = std::fs::metadata(&self.path).map_or(0, |found| found.mode() & 0o7777);
        if mode & 0o077 != 0 {
            let error = SettingError {
                name: self.name_of(flag),
                given: Some(format!("a secret in a file of mode {mode:04o}")),
                expected: "a file readable by its owner only (chmod 600), or the secret in a file \
                           of its own"
                    .into(),
                example: format!("{flag}-file = \"FILE\""),
            };
            self.errors.push(error);
            self.values.remove(flag);
        }
    }
}

fn names() -> String {
    format!("--{} ({})", CONFIG_FILE.flag, CONFIG_FILE.env)
}

/// Parses the file. The error states the line number but not its text, which may be a secret.
fn read_table(path: &Path) -> Result<Table, String> {
    if path == Path::new(NO_SETTINGS) {
        return Ok(Table::new());
    }
    let text = read_text(path).map_err(|error| error.to_string())?;
    let text = Zeroizing::new(text);
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("line {line}: {}", error.message())
    })
}

/// Converts a value to the text of a flag, in which lists are separated by commas.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        Value::Array(list) => {
            let texts: Option<Vec<_>> =
                list.iter().map(|value| (!value.is_array()).then(|| text_of(value))?).collect();
            Some(texts?.join(","))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_device_is_a_file_without_settings_and_no_other_device_is_read() {
        let file = SettingsFile::read(Path::new(NO_SETTINGS));
        assert!(file.values.is_empty() && file.errors.is_empty());
        assert!(SettingsFile::read(Path::new("/dev/zero")).is_unread());
    }
}
