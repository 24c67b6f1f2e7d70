//! `hawser registry node` and `hawser registry canonical`.

use hawser_chain::admin::membership::{self, MembershipTime};
use hawser_chain::admin::nodes::{self, NewNode, RegisteredNode};
use hawser_chain::admin::{Contract, Network};
use hawser_chain::watch::{self, check_node_url};
use hawser_node::error::RunError;
use hawser_node::files::registry::{
    AbsenceEntry, RegistryContract, RegistryFile, RegistryFileEntry,
};
use hawser_proto::{OriginatorId, PublicKey};
use hawser_rules::{Absence, Absences, NodeRecord, Registry};

use crate::args::registry::{
    BaseUriArgs, CanonicalArgs, NodeAddArgs, NodeGetArgs, NodeListArgs, NodeTokenArgs,
    UpdateHttpArgs,
};
use crate::commands::onchain::{
    self, ChainsNeeded, OnchainSession, ReachedNetwork, ResultFields, SENDER,
};
use crate::output;

pub(super) async fn add(args: &NodeAddArgs, as_json: bool) -> Result<(), RunError> {
    let new = NewNode {
        owner: args.owner,
        signing_public_key: *public_key(args)?.as_bytes(),
        http_address: http_address(&args.http_address)?,
    };
    if new.owner.is_zero() {
        return Err(RunError::usage("--owner must not be the zero address"));
    }
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = nodes::add(&session.network, &new).await?;
    session.carry_out(plan).await?;
    session
        .finish_with(async |network: &Network| {
            let found = nodes::with_key(network, &new.signing_public_key).await?;
            Ok(found.map(fields))
        })
        .await
}

pub(super) async fn list(args: &NodeListArgs, as_json: bool) -> Result<(), RunError> {
    let reached = onchain::connect_to_all(&args.network, ChainsNeeded::Settlement).await?;
    if args.registry_file {
        let file = registry_file(&reached, !args.no_absences).await?;
        output::line(serde_json::to_string_pretty(&file).map_err(RunError::failed)?);
        return Ok(());
    }
    let records = nodes::list(&reached.network).await?;
    if records.is_empty() && !as_json {
        output::line("no node is registered");
    }
    ResultFields::print_list(records.into_iter().map(fields), as_json);
    Ok(())
}

/// Reads the registry as the content of a file. The block is read first, so the records are at least as new.
async fn registry_file(
    reached: &ReachedNetwork,
    has_absences: bool,
) -> Result<RegistryFile, RunError> {
    let network = &reached.network;
    let chain = &network.settlement;
    let block = chain.newest_block().await.map_err(RunError::failed)?;
    let contract = network.contracts.get(Contract::NodeRegistry).unwrap_or_default();
    let changes = match has_absences {
        true => {
            let read = membership::changes(network, reached.settlement_first_block..=block).await;
            Some(read.map_err(|error| {
                RunError::from(error)
                    .while_doing("the absences of nodes (--no-absences leaves them out)")
            })?)
        }
        false => None,
    };
    let entry = |node: RegisteredNode| -> Result<RegistryFileEntry, RunError> {
        let absences = changes.as_deref().map(|changes| absences_of(&node, changes));
        Ok(RegistryFileEntry {
            node_id: node.node_id,
            signer: node.signer.to_string(),
            is_canonical: node.is_canonical,
            signing_public_key: node.signing_public_key.to_string(),
            http_address: node.http_address,
            quic_address: None,
            absences: absences.transpose()?.unwrap_or_default(),
        })
    };
    let nodes = nodes::list(network).await?;
    if reached.settlement.are_several() {
        require_agreement(reached, &nodes).await?;
    }
    let nodes = nodes.into_iter().map(entry).collect::<Result<_, RunError>>()?;
    let (contract, chain_id) = (contract.to_string(), chain.id());
    let source = Some(RegistryContract { contract, chain_id, block: Some(block) });
    Ok(RegistryFile { nodes, source })
}

/// Requires that the other endpoints show the same nodes, with the same keys, memberships and URLs: everything that a
/// node has signed is judged by such a file, and nodes are called by it.
///
/// # Errors
/// When endpoints contradict each other, or the registry cannot be read.
async fn require_agreement(
    reached: &ReachedNetwork,
    read: &[RegisteredNode],
) -> Result<(), RunError> {
    let address = reached.network.at(Contract::NodeRegistry)?;
    let agreed = watch::registry_now(reached.settlement.endpoints(), address).await;
    match registry_of(read) == agreed.map_err(RunError::failed)? {
        true => Ok(()),
        false => Err(reached.contradicted("nodes")),
    }
}

/// Returns the registry of these records, as nodes read it from the contract.
fn registry_of(read: &[RegisteredNode]) -> Registry {
    let record = |node: &RegisteredNode| {
        let key = PublicKey::from_uncompressed(&node.signing_public_key);
        let has_url = check_node_url(&node.http_address).is_ok();
        Some(NodeRecord {
            id: node.node_id,
            public_key: key.filter(|_| node.node_id.is_assignable())?,
            owner: hawser_proto::Address(node.signer.into_array()),
            http_address: has_url.then(|| node.http_address.clone()),
            quic_address: None,
            canonical: node.is_canonical,
        })
    };
    let usable: Registry = read.iter().filter_map(record).collect();
    usable.with_unusable(read.iter().map(|node| (node.node_id, node.is_canonical)))
}

/// Returns the periods in which a node was not in the network after it had been.
///
/// # Errors
/// When the changes do not end with the state of the record: the endpoint omits events, or has pruned them, or the
/// record has just changed. A file without the absences of a node that came back may prove it guilty.
fn absences_of(
    node: &RegisteredNode,
    changes: &[MembershipTime],
) -> Result<Vec<AbsenceEntry>, RunError> {
    let own = changes.iter().filter(|change| change.node_id == node.node_id);
    let is_member = own.clone().next_back().is_some_and(|last| last.is_member);
    if is_member != node.is_canonical {
        return Err(RunError::failed(format!(
            "the events of the node registry do not explain the state of node {}: try again; if that does not help, \
             the endpoint lacks old events: name another one, or leave the absences out (--no-absences)",
            node.node_id
        )));
    }
    let absences = Absences::of_changes(own.map(|change| (change.time_s, change.is_member)));
    let entry = |absence: Absence| AbsenceEntry { from: absence.from_s, until: absence.until_s };
    Ok(absences.iter().map(entry).collect())
}

pub(super) async fn update_http(args: &UpdateHttpArgs, as_json: bool) -> Result<(), RunError> {
    let address = http_address(&args.http_address)?;
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = nodes::update_http(&session.network, OriginatorId(args.node), &address).await;
    session.carry_out(plan?).await?;
    finish(session, OriginatorId(args.node)).await
}

pub(super) async fn canonical(
    args: &CanonicalArgs,
    belongs: bool,
    as_json: bool,
) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = if belongs {
        nodes::add_canonical(&session.network, OriginatorId(args.node)).await
    } else {
        nodes::remove_canonical(&session.network, OriginatorId(args.node)).await
    };
    session.carry_out(plan?).await?;
    finish(session, OriginatorId(args.node)).await
}

pub(super) async fn get(args: &NodeGetArgs, as_json: bool) -> Result<(), RunError> {
    let network = onchain::connect(&args.network, ChainsNeeded::Settlement).await?;
    let record = with_approved(&network, OriginatorId(args.node)).await?;
    if as_json {
        output::line(record.into_json());
    } else {
        record.print();
    }
    Ok(())
}

pub(super) async fn transfer(args: &NodeTokenArgs, as_json: bool) -> Result<(), RunError> {
    if args.to.is_zero() {
        return Err(RunError::usage("--to must not be the zero address: the node would be lost"));
    }
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = nodes::transfer(&session.network, OriginatorId(args.node), args.to).await?;
    session.carry_out(plan).await?;
    finish(session, OriginatorId(args.node)).await
}

pub(super) async fn approve(args: &NodeTokenArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = nodes::approve(&session.network, OriginatorId(args.node), args.to).await?;
    session.carry_out(plan).await?;
    let node_id = OriginatorId(args.node);
    session
        .finish_with(async |network: &Network| Ok(Some(with_approved(network, node_id).await?)))
        .await
}

pub(super) async fn base_uri(args: &BaseUriArgs, as_json: bool) -> Result<(), RunError> {
    let mut session =
        OnchainSession::open(&args.transactions, ChainsNeeded::Settlement, SENDER, as_json).await?;
    let plan = nodes::set_base_uri(&session.network, &args.base_uri).await?;
    session.carry_out(plan).await?;
    let fields = || ResultFields::default().with("baseUri", args.base_uri.as_str());
    let result = session.sends().then(fields);
    session.finish(result);
    Ok(())
}

async fn with_approved(network: &Network, node_id: OriginatorId) -> Result<ResultFields, RunError> {
    let record = nodes::get(network, node_id).await?;
    let approved = nodes::approved(network, node_id).await?;
    Ok(fields(record).with("approved", approved.to_string()))
}

async fn finish(session: OnchainSession, node_id: OriginatorId) -> Result<(), RunError> {
    session
        .finish_with(async |network: &Network| {
            Ok(Some(fields(nodes::get(network, node_id).await?)))
        })
        .await
}

/// Returns a record with the field names of `registry.json`, and the owner.
fn fields(node: RegisteredNode) -> ResultFields {
    ResultFields::default()
        .with("nodeId", node.node_id.0)
        .with("owner", node.owner.to_string())
        .with("signer", node.signer.to_string())
        .with("isCanonical", node.is_canonical)
        .with("httpAddress", node.http_address)
        .with("signingPublicKey", node.signing_public_key.to_string())
}

fn public_key(args: &NodeAddArgs) -> Result<PublicKey, RunError> {
    if let Some(file) = &args.node_key_file {
        return Ok(onchain::read_key(file)?.public_key());
    }
    let text = args.public_key.as_deref().unwrap_or_default();
    let bytes = hex::decode(text.strip_prefix("0x").unwrap_or(text)).unwrap_or_default();
    PublicKey::from_uncompressed(&bytes).ok_or_else(|| {
        RunError::usage(
            "--public-key must be an uncompressed point of secp256k1: 65 bytes that begin with 04, \
             in hex",
        )
    })
}

/// Parses a URL that peers can dial. The contract would accept any text.
fn http_address(text: &str) -> Result<String, RunError> {
    let ends_there = |url: http::Uri| matches!(url.path(), "" | "/") && url.query().is_none();
    if check_node_url(text).is_ok() && text.parse().is_ok_and(ends_there) {
        Ok(text.to_owned())
    } else {
        Err(RunError::usage(format!(
            "{text:?} is not the address of a node: it must be http://host:port or https://host"
        )))
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};
    use hawser_proto::SecretKey;

    use super::*;

    fn node(id: u32, seed: u8, url: &str) -> RegisteredNode {
        let key = SecretKey::from_bytes(&[seed; 32]).unwrap().public_key();
        RegisteredNode {
            node_id: OriginatorId(id),
            owner: Address::ZERO,
            signer: Address::from(key.address().0),
            is_canonical: true,
            signing_public_key: Bytes::copy_from_slice(key.as_bytes()),
            http_address: url.to_owned(),
        }
    }

    /// The endpoint that answers first may show another URL, at which nodes and gateways with the file would call.
    #[test]
    fn a_registry_with_another_key_membership_or_url_is_another_one() {
        let url = "http://a:1";
        let shown = [node(100, 1, url), node(200, 2, "http://b:1")];
        let registry = registry_of(&shown);
        assert_eq!(registry.nodes().count(), 2);
        let left = RegisteredNode { is_canonical: false, ..shown[0].clone() };
        for first in [node(100, 1, "http://c:1"), node(100, 3, url), node(300, 1, url), left] {
            assert_ne!(registry_of(&[first.clone(), shown[1].clone()]), registry, "{first:?}");
        }
        assert_ne!(registry_of(&shown[..1]), registry);
        // No node is called at a text that is no URL, whatever it says.
        assert_eq!(registry_of(&[node(100, 1, "x")]), registry_of(&[node(100, 1, "y")]));
        // A record without a key counts, and judges nothing.
        let without = |id| RegisteredNode { signing_public_key: Bytes::new(), ..node(id, 1, url) };
        let registry = registry_of(&[without(100), node(200, 2, url)]);
        assert_eq!((registry.nodes().count(), registry.canonical_ids().count()), (1, 2));
    }

    #[test]
    fn only_what_can_be_dialled_is_an_address_of_a_node() {
        for good in ["http://127.0.0.1:5050", "https://node.example", "https://[::1]:443/"] {
            assert_eq!(http_address(good).unwrap(), good);
        }
        for bad in [
            "",
            "node.example",
            "node.example:5050",
            "ftp://node.example",
            "http://",
            "http://:80",
            "http://a/path",
            "http://a?b",
            "http://user:word@a",
            "http://a b",
            "http://a/#b",
            "http://a:0",
        ] {
            assert_eq!(output::exit_code(http_address(bad).unwrap_err().kind), 2, "{bad}");
        }
    }
}
