//! Evidence files: reports with the keys and rates to judge them by, as JSON.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_proto::{Address, Bytes, OriginatorId, PublicKey};
use hawser_rules::fees::complete_until_ns;
use hawser_rules::misbehavior::report::REPORT_LEN_BYTES_MAX;
use hawser_rules::misbehavior::{
    ChainRecord, Judgement, MisbehaviorVerdict, ReportCase, TreeEvidence, TreeFault, verify,
    verify_trees,
};
use hawser_rules::{Absence, Absences, NodeRecord, Rate, RateTable, Registry};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

/// The schema that this program writes and reads.
pub const SCHEMA: &str = "hawser-evidence/1";
/// Length of the longest file that is read, in bytes. A guess: some reports of the largest kind.
pub const FILE_LEN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Reports of one file. A guess: as many as one answer of a node.
const REPORTS_MAX: usize = 1_000;
/// Pieces of one entry on signed trees. Specified (`docs/protocol/misbehavior.md`): the most that a fault has.
const PIECES_MAX: usize = 4;
/// Nodes and rates of one file, and absences of one node. A guess: far above any network.
pub(crate) const ENTRIES_MAX: usize = 10_000;

/// The error in an evidence file.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceFileError {
    /// The file, in bytes, is too long.
    #[error("the file has {0} bytes, at most {FILE_LEN_BYTES_MAX} are read")]
    TooLong(usize),
    /// The file is no JSON of this schema.
    #[error("the file is not an evidence file: {0}")]
    Json(#[from] serde_json::Error),
    /// The file is of another schema.
    #[error("the file has schema {0:?}, and this program reads {SCHEMA:?}")]
    Schema(String),
    /// A field has another form.
    #[error("field {field}: {text:?} is not a valid {expected}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// The beginning of its text.
        text: String,
        /// The form that it should have.
        expected: &'static str,
    },
    /// The rates of the file are no price list.
    #[error("rates: {0}")]
    Rates(String),
    /// The file has no keys, and none are given beside it.
    #[error("the file has no registry: give one (--registry)")]
    NoRegistry,
}

/// An evidence file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvidenceFile {
    /// [`SCHEMA`].
    pub schema: String,
    /// The program that wrote the file.
    #[serde(default)]
    pub tool: String,
    /// The reports.
    #[serde(default, deserialize_with = "bounded::<_, _, REPORTS_MAX>")]
    pub reports: Vec<ReportEntry>,
    /// Evidence that rests on signed trees, which no report can carry.
    #[serde(
        default,
        deserialize_with = "bounded::<_, _, REPORTS_MAX>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub trees: Vec<TreeEntry>,
    /// The nodes of the network, as the writer knew them.
    #[serde(
        default,
        deserialize_with = "bounded::<_, _, ENTRIES_MAX>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub registry: Vec<NodeEntry>,
    /// The contract that the nodes were read from, if the writer knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_source: Option<RegistrySource>,
    /// The history of rates, as the writer knew it, by ascending start.
    #[serde(
        default,
        deserialize_with = "bounded::<_, _, ENTRIES_MAX>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub rates: Vec<Rate>,
    /// Time up to which the rates are complete, unix nanoseconds. If it is absent, they are so up to five minutes
    /// before the newest one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates_confirmed_ns: Option<i64>,
    /// The writer's judgements, in the order of the reports, then of the trees. Not read, because a reader judges
    /// the evidence again.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Value>,
}

/// A report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportEntry {
    /// The unsigned report, base64.
    pub report: String,
    /// The host's signature, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_signature: Option<String>,
    /// The node that supplied the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_node_id: Option<OriginatorId>,
    /// The time at which the host says that it stored the report, unix nanoseconds. Not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time_ns: Option<u64>,
}

/// Evidence that rests on signed trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// The name of the fault.
    pub fault: String,
    /// The pieces, base64.
    #[serde(deserialize_with = "bounded::<_, _, PIECES_MAX>")]
    pub pieces: Vec<String>,
}

/// A fault in an evidence file that this program does not know, by the beginning of its name. A later version may have
/// written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownTreeFault(pub String);

impl UnknownTreeFault {
    const VERDICT: MisbehaviorVerdict = MisbehaviorVerdict::Inconclusive;
    const TEXT: &str =
        "this version does not know the fault and has not judged it: a later version may";

    /// Renders the verdict for programs, in the form of those on known faults.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "verdict": Self::VERDICT.name(),
            "fault": self.0,
            "misbehaving_node_id": null,
            "sequence_id": 0,
            "facts": [{ "fact": "unknown_fault", "text": Self::TEXT, "envelope": null, "numbers": {} }],
            "missing": [],
        })
    }
}

impl fmt::Display for UnknownTreeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The writer of the file has chosen the name, and another line of it could look like a verdict.
        write!(f, "{}: {:?}\n  {}", Self::VERDICT.name(), self.0, Self::TEXT)
    }
}

/// A node of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its id.
    pub node_id: OriginatorId,
    /// Its key: 65 bytes, hex. Empty if the registry has no valid one; the node then signs nothing, and counts among
    /// those that could have seen an outage.
    pub public_key: String,
    /// True if it is in the canonical network.
    #[serde(default = "yes")]
    pub canonical: bool,
    /// Its absences, unix seconds: from its removal to its return.
    #[serde(
        default,
        deserialize_with = "bounded::<_, _, ENTRIES_MAX>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub absences: Vec<(u64, Option<u64>)>,
}

/// The contract of a node registry, as it was read. A reader can look there whether the keys are right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrySource {
    /// Address of the contract: 20 bytes, hex.
    pub contract: String,
    /// Id of its chain.
    pub chain_id: u64,
    /// The newest block of the chain before the registry was read; absent if the writer did not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
}

impl RegistrySource {
    /// Checks the address, and returns the source with the address in one form.
    ///
    /// # Errors
    /// [`EvidenceFileError::Field`] if it is no address.
    pub fn checked(self) -> Result<Self, EvidenceFileError> {
        let address = self.contract.parse::<Address>();
        let contract = match address {
            Ok(address) => address.to_string(),
            Err(_) => return Err(wrong("contract", &self.contract, "address of a contract")),
        };
        Ok(Self { contract, ..self })
    }

    /// Returns true if both are the same contract, perhaps read at other times. To be asked of checked sources.
    #[must_use]
    pub fn is_same_contract(&self, other: &Self) -> bool {
        (&self.contract, self.chain_id) == (&other.contract, other.chain_id)
    }
}

impl fmt::Display for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of chain {}", self.contract, self.chain_id)?;
        self.block.map_or(Ok(()), |block| write!(f, ", read after block {block}"))
    }
}

fn yes() -> bool {
    true
}

/// Reads a list. A longer one is refused before more of it is kept.
pub(crate) fn bounded<'de, D, T, const MAX: usize>(list: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if list.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }
    list.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}

/// A report with its bytes decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiledReport {
    /// The unsigned report.
    pub report: Bytes,
    /// The host's signature, as sent.
    pub host_signature: Option<Bytes>,
    /// The node that supplied the report.
    pub host: Option<OriginatorId>,
    /// The time at which the host says that it stored the report, unix nanoseconds.
    pub server_time_ns: Option<u64>,
}

/// The keys and rates that reports are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKeys {
    /// The nodes of the network.
    pub registry: Registry,
    /// The history of rates, if known.
    pub rates: Option<RateTable>,
}

impl KnownKeys {
    /// Judges a report by these keys and rates, and by the data of chains. The host's time counts if its signature is
    /// valid.
    #[must_use]
    pub fn judge(&self, held: &FiledReport, chain: &dyn ChainRecord) -> Judgement {
        let case = ReportCase {
            report: &held.report,
            host_signature: held.host_signature.as_deref(),
            host: held.host,
            registry: &self.registry,
            rates: self.rates.as_ref(),
            chain,
            held_at_ns: None,
        };
        let judgement = verify(&case);
        let held_at_ns = held.server_time_ns.filter(|_| judgement.host.node().is_some());
        match held_at_ns.and_then(|ns| i64::try_from(ns).ok()) {
            Some(ns) => verify(&ReportCase { held_at_ns: Some(ns), ..case }),
            None => judgement,
        }
    }

    /// Judges evidence that rests on signed trees by these keys.
    #[must_use]
    pub(crate) fn judge_trees(&self, held: &TreeEvidence) -> Judgement {
        verify_trees(held, &self.registry)
    }
}

impl EvidenceFile {
    /// Makes a file of reports and of evidence that rests on signed trees, with all that is needed to judge them, and
    /// the writer's judgements. It names no source of the registry.
    #[must_use]
    pub fn new(
        tool: &str,
        (reports, trees): (&[FiledReport], &[TreeEvidence]),
        verdicts: Vec<Value>,
        keys: &KnownKeys,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            tool: tool.to_owned(),
            reports: reports.iter().map(ReportEntry::of).collect(),
            trees: trees.iter().map(TreeEntry::of).collect(),
            registry: NodeEntry::all(&keys.registry),
            registry_source: None,
            rates: keys.rates.iter().flat_map(RateTable::rates).copied().collect(),
            rates_confirmed_ns: keys.rates.as_ref().and_then(RateTable::complete_until_ns),
            verdicts,
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`EvidenceFileError`] for text of another form, and above the bounds.
    pub fn parse(text: &str) -> Result<Self, EvidenceFileError> {
        if text.len() > FILE_LEN_BYTES_MAX {
            return Err(EvidenceFileError::TooLong(text.len()));
        }
        let mut file: Self = serde_json::from_str(text)?;
        file.registry_source = file.registry_source.map(RegistrySource::checked).transpose()?;
        if file.schema != SCHEMA {
            return Err(EvidenceFileError::Schema(beginning(&file.schema)));
        }
        Ok(file)
    }

    /// Returns the reports with their bytes.
    ///
    /// # Errors
    /// [`EvidenceFileError::Field`] for text that is no base64.
    pub fn held(&self) -> Result<Vec<FiledReport>, EvidenceFileError> {
        self.reports.iter().map(ReportEntry::held).collect()
    }

    /// Returns the evidence that rests on signed trees, of the faults that this program knows.
    ///
    /// # Errors
    /// [`EvidenceFileError::Field`] for text that is no base64.
    pub fn held_trees(&self) -> Result<Vec<TreeEvidence>, EvidenceFileError> {
        self.trees.iter().filter_map(|entry| entry.held().transpose()).collect()
    }

    /// Returns the other faults, one for each entry: a later version of this program may know them.
    pub fn unknown_faults(&self) -> impl Iterator<Item = UnknownTreeFault> {
        let faults = self.trees.iter().map(|entry| &entry.fault);
        let unknown = faults.filter(|fault| TreeFault::of_name(fault).is_none());
        unknown.map(|fault| UnknownTreeFault(beginning(fault)))
    }

    /// Returns the keys and rates of the file. A reader who judges by them trusts the file's writer.
    ///
    /// # Errors
    /// [`EvidenceFileError`] for a malformed key, time or price list, and for a file without nodes.
    pub fn keys(&self) -> Result<KnownKeys, EvidenceFileError> {
        let registry = NodeEntry::registry(&self.registry)?;
        let rates = match self.rates.as_slice() {
            [] => None,
            rates @ [.., newest] => {
                // Without the time the list may lack every rate that begins later, and that honest nodes apply.
                let until_ns = self.rates_confirmed_ns;
                let until_ns = until_ns.unwrap_or_else(|| complete_until_ns(newest.start_unix_s));
                let rates = RateTable::new(rates.to_vec(), Some(until_ns));
                Some(rates.map_err(|error| EvidenceFileError::Rates(error.to_string()))?)
            }
        };
        Ok(KnownKeys { registry, rates })
    }
}

impl ReportEntry {
    fn of(held: &FiledReport) -> Self {
        Self {
            report: STANDARD.encode(&held.report),
            host_signature: held.host_signature.as_ref().map(|it| STANDARD.encode(it)),
            host_node_id: held.host,
            server_time_ns: held.server_time_ns,
        }
    }

    fn held(&self) -> Result<FiledReport, EvidenceFileError> {
        if self.report.len() / 4 * 3 > REPORT_LEN_BYTES_MAX + 3 {
            return Err(wrong("report", &self.report, "report of at most 8 MiB"));
        }
        let signature = self.host_signature.as_ref().map(|it| decoded("host_signature", it));
        Ok(FiledReport {
            report: decoded("report", &self.report)?,
            host_signature: signature.transpose()?,
            host: self.host_node_id,
            server_time_ns: self.server_time_ns,
        })
    }
}

impl TreeEntry {
    fn of(held: &TreeEvidence) -> Self {
        let pieces = held.pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
        Self { fault: held.fault.name().to_owned(), pieces }
    }

    /// Decodes the pieces; `None` for a fault that this program does not know, whose pieces it cannot judge.
    fn held(&self) -> Result<Option<TreeEvidence>, EvidenceFileError> {
        let Some(fault) = TreeFault::of_name(&self.fault) else { return Ok(None) };
        let pieces = self.pieces.iter().map(|text| decoded("pieces", text));
        let pieces = pieces.collect::<Result<_, _>>()?;
        Ok(Some(TreeEvidence { fault, pieces }))
    }
}

impl NodeEntry {
    pub(crate) fn of(record: &NodeRecord, registry: &Registry) -> Self {
        let absences = registry.absences(record.id).iter();
        Self {
            node_id: record.id,
            public_key: hex::encode(record.public_key.as_bytes()),
            canonical: record.canonical,
            absences: absences.map(|it| (it.from_s, it.until_s)).collect(),
        }
    }

    /// Returns the entries of all nodes, those without a valid key last.
    fn all(registry: &Registry) -> Vec<Self> {
        let without_key = |(node_id, canonical)| Self {
            node_id,
            public_key: String::new(),
            canonical,
            absences: registry.absences(node_id).iter().map(|it| (it.from_s, it.until_s)).collect(),
        };
        let usable = registry.nodes().map(|it| Self::of(it, registry));
        usable.chain(registry.unusable().map(without_key)).collect()
    }

    /// Returns the nodes of entries. A reader who judges by them trusts the writer of the entries.
    ///
    /// # Errors
    /// [`EvidenceFileError`] for a malformed key or list of absences, and for no entries.
    pub fn registry(entries: &[Self]) -> Result<Registry, EvidenceFileError> {
        if entries.is_empty() {
            return Err(EvidenceFileError::NoRegistry);
        }
        let (mut records, mut unusable) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            match entry.record()? {
                Some(record) => records.push(record),
                None => unusable.push((entry.node_id, entry.canonical)),
            }
        }
        let absences: Result<Vec<_>, _> = entries.iter().map(Self::absences).collect();
        let registry: Registry = records.into_iter().collect();
        Ok(registry.with_absences(absences?).with_unusable(unusable))
    }

    /// Returns the record of the entry; `None` if it has no key.
    fn record(&self) -> Result<Option<NodeRecord>, EvidenceFileError> {
        if self.public_key.is_empty() {
            return Ok(None);
        }
        let text = self.public_key.trim_start_matches("0x");
        let key = hex::decode(text).ok().and_then(|bytes| PublicKey::from_sec1(&bytes));
        let public_key = key.ok_or_else(|| wrong("public_key", &self.public_key, "public key"))?;
        Ok(Some(NodeRecord {
            id: self.node_id,
            public_key,
            owner: Address([0; 20]),
            http_address: None,
            quic_address: None,
            canonical: self.canonical,
        }))
    }

    fn absences(&self) -> Result<(OriginatorId, Absences), EvidenceFileError> {
        let absence = |&(from_s, until_s): &(u64, Option<u64>)| Absence { from_s, until_s };
        let absences = Absences::new(self.absences.iter().map(absence).collect());
        let text = format!("{:?}", self.absences);
        let absences = absences.map_err(|_| wrong("absences", &text, "list of absences"))?;
        Ok((self.node_id, absences))
    }
}

fn decoded(field: &'static str, text: &str) -> Result<Bytes, EvidenceFileError> {
    STANDARD.decode(text).map(Bytes::from).map_err(|_| wrong(field, text, "base64"))
}

fn wrong(field: &'static str, text: &str, expected: &'static str) -> EvidenceFileError {
    EvidenceFileError::Field { field, text: beginning(text), expected }
}

/// Returns the beginning of a text, for an error.
pub(crate) fn beginning(text: &str) -> String {
    text.chars().take(60).collect()
}
