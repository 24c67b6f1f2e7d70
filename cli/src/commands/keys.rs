//! `hawser keys`: secret keys of nodes and payers.

use std::io::{self, ErrorKind};
use std::path::Path;

use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_proto::SecretKey;
use serde_json::json;

use super::keys_rotate;
use crate::args::keys::KeysCommand;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a file cannot be written or read, and those of `keys rotate`.
pub(super) async fn run(command: &KeysCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        KeysCommand::Generate { out } => generate(out.as_deref(), as_json),
        KeysCommand::Show { file } => show(file, as_json),
        KeysCommand::Rotate(args) => keys_rotate::run(args, as_json).await,
    }
}

fn generate(out: Option<&Path>, as_json: bool) -> Result<(), RunError> {
    let secret = key::generate();
    let place = match out {
        Some(path) => {
            key::write_new(path, &secret).map_err(|error| not_written(path, &error))?;
            ("file", path.display().to_string())
        }
        None => ("private_key", key::hex_of(&secret).to_string()),
    };
    print(&secret, Some(place), as_json);
    Ok(())
}

/// Returns the error for a file that a new key could not be written to.
fn not_written(path: &Path, error: &io::Error) -> RunError {
    let path = path.display();
    match error.kind() {
        ErrorKind::AlreadyExists => RunError::refused(format!(
            "{path}: the file exists already, and no key is ever replaced: name another file"
        )),
        _ => RunError::failed(format!("{path}: {error}")),
    }
}

fn show(file: &Path, as_json: bool) -> Result<(), RunError> {
    print(&key::read(file).map_err(|error| error.at(file))?, None, as_json);
    Ok(())
}

fn print(secret: &SecretKey, place: Option<(&str, String)>, as_json: bool) {
    let public = secret.public_key();
    let compressed = format!("0x{}", hex::encode(public.compressed()));
    let mut fields = vec![
        ("address", public.address().to_string()),
        ("public_key", public.to_string()),
        ("compressed_public_key", compressed),
    ];
    fields.extend(place);
    if as_json {
        let object: serde_json::Map<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        output::line(serde_json::Value::Object(object));
    } else {
        for (name, value) in fields {
            output::line(format_args!("{:<21} {value}", name.replace('_', " ")));
        }
    }
}
