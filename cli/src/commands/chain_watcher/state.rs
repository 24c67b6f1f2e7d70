//! The state that the watcher keeps between two looks: the code behind the contracts, as the operator has accepted it,
//! the time since which nodes have no report, and the reports that are not settled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use hawser_audit::plain_file;
use hawser_chain::admin::Contract;
use hawser_chain::admin::watcher::OlderReports;
use hawser_node::error::RunError;
use hawser_proto::OriginatorId;
use serde_json::{Value, json};

use super::totals::Reports;
use crate::output_file;

/// The entry of the file with the nodes that have no report. All others are contracts.
const UNREPORTED: &str = "unreported_since";
/// The longest file that is read, bytes. A guess: a contract takes a hundred bytes, and a node without a report thirty.
const LEN_BYTES_MAX: u64 = 1 << 20;

/// The state of the watcher.
#[derive(Default)]
pub(super) struct WatcherState {
    file: Option<PathBuf>,
    /// The accepted code of each contract that a look has shown.
    accepted: BTreeMap<Contract, Address>,
    /// The time since which each node without any report is known to have none, unix seconds.
    unreported_since: BTreeMap<OriginatorId, u64>,
    /// True if the file lacks something of the above.
    is_unsaved: bool,
    /// The reports that are not settled. Not in the file: a new process reads the older ones again.
    pub(super) older: OlderReports,
}

impl WatcherState {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or is not a file of this program.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, RunError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let text = match plain_file::read_text(path, LEN_BYTES_MAX) {
            Err(error) if error.is_absence() => None,
            read => Some(read),
        };
        let shown = path.display();
        let mut state = match text {
            None => Self::default(),
            Some(text) => {
                let text = text.map_err(|error| RunError::failed(format!("{shown}: {error}")))?;
                parse(&text).ok_or_else(|| {
                    RunError::failed(format!("{shown}: the file is not a state of chain-watcher"))
                })?
            }
        };
        state.file = Some(path.to_owned());
        Ok(state)
    }

    /// Notes the code and the reports of a look at `now_s`. Accepts the code of each contract that no look has shown
    /// before.
    pub(super) fn note(
        &mut self,
        code: &BTreeMap<Contract, Address>,
        reports: &Reports,
        now_s: u64,
    ) {
        let has_none = |node: &OriginatorId| {
            node.is_node() && reports.get(node).is_some_and(|(count, _)| *count == 0)
        };
        let before = (self.accepted.clone(), self.unreported_since.clone());
        self.unreported_since.retain(|node, _| has_none(node));
        for node in reports.keys().copied().filter(has_none) {
            self.unreported_since.entry(node).or_insert(now_s);
        }
        for (contract, found) in code {
            self.accepted.entry(*contract).or_insert(*found);
        }
        self.is_unsaved |= before != (self.accepted.clone(), self.unreported_since.clone());
    }

    /// Writes the file, if there is one and it lacks something.
    ///
    /// # Errors
    /// When the file cannot be written. The next call tries again.
    pub(super) fn save(&mut self) -> Result<(), RunError> {
        let Some(file) = self.file.as_ref().filter(|_| self.is_unsaved) else { return Ok(()) };
        let names = self
            .accepted
            .iter()
            .map(|(contract, code)| (contract.name().to_owned(), Value::from(code.to_string())));
        let nodes = self.unreported_since.iter();
        let nodes: BTreeMap<_, _> = nodes.map(|(node, since)| (node.to_string(), since)).collect();
        let unreported = (UNREPORTED.to_owned(), json!(nodes));
        let text = Value::from_iter(names.chain([unreported])).to_string();
        output_file::write(file, text.as_bytes())?;
        self.is_unsaved = false;
        Ok(())
    }

    /// Returns the accepted code.
    pub(super) fn accepted(&self) -> &BTreeMap<Contract, Address> {
        &self.accepted
    }

    /// Returns the time since which each node without any report is known to have none, unix seconds.
    pub(super) fn unreported_since(&self) -> &BTreeMap<OriginatorId, u64> {
        &self.unreported_since
    }
}

fn parse(text: &str) -> Option<WatcherState> {
    let mut entries: BTreeMap<String, Value> = serde_json::from_str(text).ok()?;
    let unreported = entries.remove(UNREPORTED).unwrap_or_else(|| json!({}));
    let unreported: BTreeMap<String, u64> = serde_json::from_value(unreported).ok()?;
    let unreported =
        unreported.into_iter().map(|(node, since)| Some((OriginatorId(node.parse().ok()?), since)));
    let all = || Contract::ALL.into_iter().chain(Contract::OPTIONAL);
    let contract = |name: &str| all().find(|it| it.name() == name);
    let accepted = entries.into_iter().map(|(name, code)| {
        Some((contract(&name)?, serde_json::from_value::<Address>(code).ok()?))
    });
    Some(WatcherState {
        file: None,
        accepted: accepted.collect::<Option<_>>()?,
        unreported_since: unreported.collect::<Option<_>>()?,
        is_unsaved: false,
        older: OlderReports::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(counts: &[(u32, u64)]) -> Reports {
        counts.iter().map(|(node, count)| (OriginatorId(*node), (*count, Vec::new()))).collect()
    }

    #[test]
    fn the_time_without_a_report_is_remembered_until_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known.json");
        let code: BTreeMap<_, _> = [(Contract::PayerRegistry, Address::repeat_byte(1))].into();
        let mut state = WatcherState::load(Some(&file)).unwrap();
        state.note(&code, &reports(&[(100, 1), (200, 0), (300, 0), (11, 0)]), 50);
        state.save().unwrap();
        // Another process continues, as with --once.
        let mut state = WatcherState::load(Some(&file)).unwrap();
        let upgraded = [(Contract::PayerRegistry, Address::repeat_byte(2))].into();
        state.note(&upgraded, &reports(&[(100, 1), (200, 0), (300, 1), (400, 0)]), 90);
        state.save().unwrap();
        assert_eq!(
            *state.unreported_since(),
            [(OriginatorId(200), 50), (OriginatorId(400), 90)].into()
        );
        assert_eq!(*state.accepted(), code, "an upgrade is not accepted by itself");
        assert_eq!(
            WatcherState::load(Some(&file)).unwrap().unreported_since(),
            state.unreported_since()
        );
    }

    /// Contracts may come later, such as those of the app chain if its endpoint was not named at the first look.
    #[test]
    fn the_code_of_a_contract_that_comes_later_is_accepted_then_and_no_other_code_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known.json");
        let [first, later, other] = [1, 2, 3].map(Address::repeat_byte);
        let (payers, gateway) = (Contract::PayerRegistry, Contract::AppChainGateway);
        let mut state = WatcherState::load(Some(&file)).unwrap();
        state.note(&[(payers, first)].into(), &reports(&[]), 50);
        state.save().unwrap();
        let mut state = WatcherState::load(Some(&file)).unwrap();
        state.note(&[(payers, other), (gateway, later)].into(), &reports(&[]), 60);
        state.save().unwrap();
        let mut state = WatcherState::load(Some(&file)).unwrap();
        assert_eq!(*state.accepted(), [(payers, first), (gateway, later)].into());
        state.note(&[(gateway, other)].into(), &reports(&[]), 70);
        assert_eq!(*state.accepted(), [(payers, first), (gateway, later)].into());
    }

    /// Without the file, the next process would accept whatever code it finds.
    #[test]
    fn a_state_that_could_not_be_written_is_written_later_although_nothing_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later").join("known.json");
        let code: BTreeMap<_, _> = [(Contract::PayerRegistry, Address::repeat_byte(1))].into();
        let mut state = WatcherState::load(Some(&file)).unwrap();
        state.note(&code, &reports(&[(200, 0)]), 50);
        assert!(state.save().is_err(), "the folder is missing");
        assert_eq!(*state.accepted(), code, "alarms are judged nevertheless");

        std::fs::create_dir(folder.path().join("later")).unwrap();
        state.note(&code, &reports(&[(200, 0)]), 60);
        state.save().unwrap();
        let known = WatcherState::load(Some(&file)).unwrap();
        assert_eq!(*known.accepted(), code);
        assert_eq!(*known.unreported_since(), [(OriginatorId(200), 50)].into());
        std::fs::remove_file(&file).unwrap();
        state.save().unwrap();
        assert!(!file.exists(), "nothing has changed since it was written");
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read_and_another_one_refused() {
        let address = Address::repeat_byte(1);
        let name = Contract::PayerRegistry.name();
        let state = parse(&json!({ name: address.to_string() }).to_string()).unwrap();
        assert_eq!(*state.accepted(), [(Contract::PayerRegistry, address)].into());
        let texts = ["[]", "{\"Other\":\"0x00\"}", "{\"unreported_since\":{\"x\":1}}"];
        assert!(texts.into_iter().all(|text| parse(text).is_none()));
    }

    /// The bytes of the device do not end.
    #[test]
    fn a_device_and_a_file_without_an_end_are_not_read() {
        let place = tempfile::tempdir().unwrap();
        let long = place.path().join("long");
        std::fs::File::create(&long).unwrap().set_len(LEN_BYTES_MAX + 1).unwrap();
        let device = Path::new("/dev/zero");
        for (file, wanted) in [(device, "not a regular file"), (long.as_path(), "too long")] {
            let refused = WatcherState::load(Some(file)).err().unwrap();
            assert!(refused.text.contains(wanted), "{}", refused.text);
        }
    }
}
