//! `hawser truncate-strand`: cuts the end off a chain strand of a stopped node, after a reorganisation of the chain
//! below the stored envelopes, so that it is read again. See `docs/protocol/chain-strands.md`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use hawser_chain::admin::{AdminError, Contract};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::lookup::{AgreementError, Broadcasts};
use hawser_chain::index::walk::BlockHeader;
use hawser_chain::index::{EventSource, lookup};
use hawser_node::error::RunError;
use hawser_node::files::deployment::KnownDeployment;
use hawser_node::service::projections;
use hawser_node::settings::NodeServiceSettings;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{ChainPosition, LogItem, ReadError, Snapshot, Validity};
use serde_json::json;

use super::rebuild;
use crate::args::{ChainStrand, TruncateStrandArgs};
use crate::clock::now_unix_s;
use crate::{output, output_file};

/// Runs the command.
///
/// # Errors
/// When the settings are those of another network, when the chain and the log do not agree before the block, when a
/// node holds the database, or when the operator does not confirm. Nothing has been changed then.
pub(super) fn run(args: TruncateStrandArgs, as_json: bool) -> Result<(), RunError> {
    let TruncateStrandArgs { strand, from_block, yes, node } = args;
    let config = NodeServiceSettings::read(&node.sources()).map_err(RunError::usage)?;
    let data_dir = &config.store.data_dir;
    let (store, identity) = projections::open_existing(data_dir).map_err(rebuild::refusal)?;
    let (found, wanted) = (&identity.network, &config.store.network);
    if found != wanted {
        // The chain of the other network has none of these transactions, so newer envelopes would all seem removed.
        return Err(RunError::refused(format!(
            "{} belongs to network {found:?}, and the settings are those of network {wanted:?}: nothing was changed. \
             Give the settings that the node is started with",
            data_dir.display()
        )));
    }
    let snapshot = store.snapshot();
    let cut = super::blocking(find(&snapshot, &config, strand, from_block))?;
    let evidence = evidence_path(data_dir, cut.from);
    if !as_json {
        output::line(format_args!("node {} of network {:?}", identity.node, identity.network));
    }
    if cut.envelopes == 0 {
        let strand = strand.name();
        return Err(RunError::refused(format!(
            "nothing of block {from_block} or a later one is in the strand {strand}: nothing was changed"
        )));
    }
    if !yes {
        confirm(&cut, &evidence)?;
    }
    save_evidence(&snapshot, &cut, &evidence).map_err(|error| {
        let file = evidence.display();
        error.while_doing(format_args!("saving the envelopes that are cut off in {file}"))
    })?;
    drop(snapshot);
    store
        .truncate_strand(cut.from, cut.position)
        .map_err(|error| RunError::failed(format!("the strand cannot be cut: {error}")))?;
    rebuild::rebuild(&store).map_err(|error| {
        RunError::failed(format!(
            "the strand was cut, and the projections cannot be rebuilt: {error}; the next \
            start of the node tries again"
        ))
    })?;
    store
        .flush()
        .map_err(|error| RunError::failed(format!("the rows cannot be written: {error}")))?;
    report(&cut, &evidence, as_json);
    Ok(())
}

/// The part of the strand to cut off.
struct Truncation {
    /// Its first envelope.
    from: EnvelopeId,
    /// Its last envelope.
    through: EnvelopeId,
    /// Number of its envelopes.
    envelopes: u64,
    /// Position of the chain's reader afterwards.
    position: Option<ChainPosition>,
}

/// The chain of the strand, and the contract whose events it holds.
struct ChainContract {
    endpoints: Endpoints,
    subject: EventSource,
    contract: alloy::primitives::Address,
}

/// Searches backwards from the strand's end for the last envelope whose transaction the chain has in a
/// block before `from_block`. The chain decides, because block numbers are not stored.
async fn find(
    snapshot: &Snapshot<'_>,
    config: &NodeServiceSettings,
    strand: ChainStrand,
    from_block: u64,
) -> Result<Truncation, RunError> {
    let source = ChainContract::of(config, strand).await?;
    let before = match from_block.checked_sub(1) {
        None => None,
        Some(before) => Some(source.block(before).await?),
    };
    let originator = strand.originator();
    let head = snapshot.head(originator).map_err(unreadable)?;
    let (mut kept, mut through, mut envelopes) = (SequenceId(0), head, 0);
    // From one envelope to the one before it: the contract may leave out any number of ids between them.
    while let Some((at, bytes)) =
        snapshot.last_held_through(EnvelopeId::new(originator, through)).map_err(unreadable)?
    {
        if source.keeps(at, bytes, from_block, before).await? {
            kept = at.sequence;
            break;
        }
        envelopes += 1;
        through = at.sequence.previous();
    }
    Ok(Truncation {
        from: EnvelopeId::new(originator, kept.next()),
        through: EnvelopeId::new(originator, head),
        envelopes,
        position: before
            .map(|header| ChainPosition { block: header.block.number, hash: header.block.hash.0 }),
    })
}

impl ChainContract {
    async fn of(config: &NodeServiceSettings, strand: ChainStrand) -> Result<Self, RunError> {
        let contracts = &config.chains.contracts;
        if contracts.app.urls.is_empty() {
            let text = "the command compares the strand with the app chain: give --contracts.app-chain.rpc-url";
            return Err(RunError::usage(text));
        }
        let (subject, contract) = match strand {
            ChainStrand::GroupMessages => {
                (EventSource::GroupMessages, Contract::GroupMessageBroadcaster)
            }
            ChainStrand::IdentityUpdates => {
                (EventSource::IdentityUpdates, Contract::IdentityUpdateBroadcaster)
            }
        };
        let deployment = KnownDeployment::of(contracts, &[contract]).await?;
        let contract = deployment.contracts.get(contract).ok_or(AdminError::NoAddress(contract))?;
        let endpoints = Endpoints::new("app", &contracts.app.urls, deployment.app_id)
            .map_err(RunError::usage)?;
        Ok(Self { endpoints, subject, contract })
    }

    async fn block(&self, number: u64) -> Result<BlockHeader, RunError> {
        let found = lookup::agreed_block(&self.endpoints, number).await.map_err(not_agreed)?;
        found.ok_or_else(|| RunError::refused(format!("the chain has no block {number} yet")))
    }

    /// Returns true if the chain has this envelope in a block before `from_block`; `before` is the last
    /// of these blocks.
    async fn keeps(
        &self,
        at: EnvelopeId,
        bytes: hawser_proto::Bytes,
        from_block: u64,
        before: Option<BlockHeader>,
    ) -> Result<bool, RunError> {
        let envelope = OriginatorEnvelope::parse(bytes).map_err(|error| {
            RunError::failed(format!("envelope {at} of the log does not decode: {error}"))
        })?;
        let Proof::Transaction(hash) = envelope.proof() else {
            return Err(RunError::failed(format!("envelope {at} does not come from a chain")));
        };
        let found = lookup::agreed_broadcasts(
            &self.endpoints,
            self.subject,
            self.contract,
            B256::from(hash),
            1,
        );
        let found = found.await.map_err(not_agreed)?.map(|(found, _)| found);
        let is_kept = |found: &Broadcasts| found.block < from_block;
        let Some(found) = found.as_ref().filter(|found| is_kept(found)) else {
            // A removed envelope was in one of the blocks from there on, and has the time of that block. So it is not
            // older than the last block before them, whatever block an endpoint names for its transaction.
            let time_s = envelope.unsigned().originator_ns() / 1_000_000_000;
            let is_later =
                |before: BlockHeader| i64::try_from(before.time_s).is_ok_and(|it| it <= time_s);
            if before.is_none_or(is_later) {
                return Ok(false);
            }
            return Err(RunError::refused(match &found {
                None => format!(
                    "envelope {at} is older than block {from_block}, and the endpoints do not know its transaction: \
                     either they do not keep old transactions, or the chain was replaced from an earlier block on"
                ),
                Some(found) => format!(
                    "envelope {at} is older than block {from_block}, and the endpoints have its transaction in block {}: \
                     either they are wrong, or the chain was replaced from an earlier block on",
                    found.block
                ),
            }));
        };
        let client = envelope.unsigned().payer().client().as_bytes();
        let is_there = |(place, payload): &(SequenceId, alloy::primitives::Bytes)| {
            *place == at.sequence && payload.0 == *client
        };
        if found.payloads.iter().any(is_there) {
            return Ok(true);
        }
        Err(RunError::refused(format!(
            "envelope {at} differs from what the chain has in block {}: cut from that block or an earlier one",
            found.block
        )))
    }
}

/// Returns the error for endpoints that do not answer or contradict each other. The command removes envelopes from the
/// log, so all endpoints that answer have to agree.
fn not_agreed(error: AgreementError) -> RunError {
    match error {
        AgreementError::Disputed { .. } => RunError::refused(format!(
            "the endpoints of the app chain do not agree: {error}. Nothing was changed: give those that are right \
             (--contracts.app-chain.rpc-url)"
        )),
        AgreementError::Rpc(_) | AgreementError::TooFew { .. } => {
            RunError::failed(format!("the app chain cannot be read: {error}"))
        }
    }
}

fn unreadable(error: ReadError) -> RunError {
    RunError::failed(format!("the log cannot be read: {error}"))
}

fn evidence_path(data_dir: &Path, from: EnvelopeId) -> PathBuf {
    let name = format!("recut-{}-{}-{}.jsonl", from.originator, from.sequence, now_unix_s());
    data_dir.join("evidence").join(name)
}

fn confirm(cut: &Truncation, evidence: &Path) -> Result<(), RunError> {
    let Truncation { from, through, envelopes, .. } = cut;
    let (cut_off, evidence) = (output::count(*envelopes, "envelope"), evidence.display());
    let question = format!("Cut off {cut_off}, {from} to {through}, and keep them in {evidence}?");
    output::confirm(question, "nothing was changed")
}

/// Writes the envelopes to a file, synced before they leave the log. A file that cannot be written as a whole does not
/// stay: it would look like all that was cut off.
fn save_evidence(snapshot: &Snapshot<'_>, cut: &Truncation, path: &Path) -> Result<(), RunError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(RunError::failed)?;
    // The folder may be new: its own name has to be durable as well.
    sync(folder.parent().unwrap_or(folder))?;
    output_file::create(path, |file| write_cut(snapshot, cut, file))?;
    sync(folder)
}

/// Writes the envelopes, one a line.
fn write_cut(snapshot: &Snapshot<'_>, cut: &Truncation, file: &mut File) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    let before = EnvelopeId { sequence: cut.from.sequence.previous(), ..cut.from };
    for item in snapshot.log(before, cut.through.sequence) {
        let item = item.map_err(|error| io::Error::other(unreadable(error)))?;
        let LogItem::Envelope { id, bytes, validity } = item else { continue };
        let line = json!({
            "originator": id.originator.0,
            "sequence_id": id.sequence.0,
            "standing": match validity {
                Validity::Valid => "valid",
                Validity::Invalid(_) => "invalid",
                Validity::Waiting => "waiting",
            },
            "hex": hex::encode(&bytes),
        });
        writeln!(file, "{line}")?;
    }
    file.flush()
}

fn sync(folder: &Path) -> Result<(), RunError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(RunError::failed)
}

fn report(cut: &Truncation, evidence: &Path, as_json: bool) {
    let Truncation { from, through, envelopes, position } = cut;
    let next_block = position.map_or(0, |position| position.block + 1);
    if as_json {
        return output::line(json!({
            "originator": from.originator.0,
            "from_sequence_id": from.sequence.0,
            "through_sequence_id": through.sequence.0,
            "envelopes": envelopes,
            "next_block": next_block,
            "kept_in": evidence,
        }));
    }
    let cut_off = output::count(*envelopes, "envelope");
    output::line(format_args!("cut off {cut_off}, {from} to {through}"));
    output::line(format_args!("they are kept in {}", evidence.display()));
    output::line(format_args!("the node goes on with block {next_block} when it is started"));
}

impl ChainStrand {
    fn name(self) -> &'static str {
        match self {
            Self::GroupMessages => "group-messages",
            Self::IdentityUpdates => "identity-updates",
        }
    }

    fn originator(self) -> OriginatorId {
        match self {
            Self::GroupMessages => OriginatorId::GROUP_MESSAGES,
            Self::IdentityUpdates => OriginatorId::IDENTITY_UPDATES,
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_rules::PicoDollarPrice;
    use hawser_storage::{Family, Store, StoreIdentity};

    use super::*;

    /// Played by a row that cannot be read. A full disk ends the file in the same way.
    #[test]
    fn a_part_of_the_evidence_does_not_stay() {
        let public_key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        let node = OriginatorId(100);
        let identity = StoreIdentity { network: "test".into(), node, public_key };
        let store = Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap();
        let strand = OriginatorId::GROUP_MESSAGES;
        let key = [&strand.0.to_be_bytes()[..], &1_u64.to_be_bytes(), &[0_u8]].concat();
        store.put_raw_row(Family::Log, &key, b"damaged");
        let [from, through] = [1, 2].map(|place| EnvelopeId::new(strand, SequenceId(place)));
        let cut = Truncation { from, through, envelopes: 2, position: None };
        let data_dir = tempfile::tempdir().unwrap();
        let path = evidence_path(data_dir.path(), from);
        let refused = save_evidence(&store.snapshot(), &cut, &path).unwrap_err();
        assert!(refused.text.contains("the log cannot be read"), "{refused:?}");
        let folder = path.parent().unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "no part of the file is there");
    }
}
