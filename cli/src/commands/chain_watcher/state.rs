//! The code behind the contracts, as the operator has accepted it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use hawser_chain::admin::Contract;
use hawser_node::error::RunError;

use crate::output_file;

/// The accepted code of each contract.
pub(super) struct KnownCode {
    file: Option<PathBuf>,
    /// `None` before the first look.
    accepted: Option<BTreeMap<Contract, Address>>,
}

impl KnownCode {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or is not a file of this program.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, RunError> {
        let accepted = match file.map(std::fs::read_to_string) {
            None => None,
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => None,
            Some(text) => {
                let path = file.unwrap_or(Path::new("")).display();
                let text = text.map_err(|error| RunError::failed(format!("{path}: {error}")))?;
                let wrong = || {
                    RunError::failed(format!("{path}: the file is not a state of chain-watcher"))
                };
                Some(parse(&text).ok_or_else(wrong)?)
            }
        };
        Ok(Self { file: file.map(Path::to_owned), accepted })
    }

    /// Returns the accepted code. Accepts the code of the first look, and writes it to the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn accepted(
        &mut self,
        seen: &BTreeMap<Contract, Address>,
    ) -> Result<&BTreeMap<Contract, Address>, RunError> {
        if let (None, Some(file)) = (&self.accepted, &self.file) {
            let names = seen.iter().map(|(contract, code)| (contract.name(), code.to_string()));
            let text = serde_json::Value::from_iter(names).to_string();
            output_file::write(file, text.as_bytes())?;
        }
        Ok(self.accepted.get_or_insert_with(|| seen.clone()))
    }
}

fn parse(text: &str) -> Option<BTreeMap<Contract, Address>> {
    let names: BTreeMap<String, Address> = serde_json::from_str(text).ok()?;
    let all = || Contract::ALL.into_iter().chain(Contract::OPTIONAL);
    let contract = |name: &str| all().find(|it| it.name() == name);
    names.into_iter().map(|(name, code)| Some((contract(&name)?, code))).collect()
}
