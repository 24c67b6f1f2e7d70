//! Proposals and commits, parsed only to find their end (RFC 9420 §12).

use super::MlsParseError;
use super::decodable::{ExtensionPlace, check_cipher_suite, check_extensions};
use super::key_package::key_package;
use super::leaf::{LeafSource, extensions, leaf_node};
use super::reader::Reader;

/// Reads a `Proposal`.
///
/// Types 8 to 10 come from the MLS extensions draft. Published clients differ in the end of the first two: some know
/// them, and others read one vector as of an unknown type. MLS defines no length for an unknown proposal;
/// implementations write it as one vector, so it is read as one.
pub(super) fn proposal(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    match reader.u16()? {
        value @ (0 | 8 | 9) => Err(MlsParseError::Selector { field: "proposal_type", value }),
        1 => new_member(reader),
        2 => member_leaf(reader, LeafSource::Update),
        3 => reader.u32().map(drop),
        4 => pre_shared_key_id(reader),
        5 => re_init(reader),
        7 => group_context_extensions(reader),
        10 => Ok(()), // self_remove
        // External init is one vector too: kem_output.
        _ => reader.vector().map(drop),
    }
}

/// Reads a `Commit`: proposals or references to them, and mostly a new path.
pub(super) fn commit(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    reader.each(|proposals| match proposals.u8()? {
        1 => proposal(proposals),
        2 => proposals.vector().map(drop), // ProposalRef
        other => Err(MlsParseError::Selector { field: "ProposalOrRefType", value: other.into() }),
    })?;
    match reader.u8()? {
        0 => Ok(()),
        1 => update_path(reader),
        other => Err(MlsParseError::Selector { field: "optional", value: other.into() }),
    }
}

/// Reads an `UpdatePath` (RFC 9420 §7.6).
fn update_path(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    member_leaf(reader, LeafSource::Commit)?;
    reader.each(|nodes| {
        nodes.vector()?; // encryption_key
        nodes.each(hpke_ciphertext).map(drop)
    })?;
    Ok(())
}

fn hpke_ciphertext(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    reader.vector()?; // kem_output
    reader.vector().map(drop)
}

/// Reads a `PreSharedKeyID` (RFC 9420 §8.4).
fn pre_shared_key_id(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    match reader.u8()? {
        1 => {
            reader.vector()?; // psk_id
        }
        2 => {
            match reader.u8()? {
                1..=3 => {}
                other => {
                    return Err(MlsParseError::Selector { field: "usage", value: other.into() });
                }
            }
            reader.vector()?; // psk_group_id
            reader.u64()?; // psk_epoch
        }
        other => return Err(MlsParseError::Selector { field: "psktype", value: other.into() }),
    }
    reader.vector().map(drop) // psk_nonce
}

fn re_init(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    reader.vector()?; // group_id
    reader.u16()?; // version
    check_cipher_suite(reader.u16()?)?;
    group_context_extensions(reader)
}

/// Reads the key package of a member that is to be added.
fn new_member(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    let package = key_package(reader)?;
    check_cipher_suite(package.cipher_suite)?;
    check_extensions(package.leaf_extensions, ExtensionPlace::LeafNode)?;
    check_extensions(package.extensions, ExtensionPlace::KeyPackage)
}

/// Reads the new leaf node of a member.
fn member_leaf(reader: &mut Reader<'_>, source: LeafSource) -> Result<(), MlsParseError> {
    let leaf = leaf_node(reader, source)?;
    check_extensions(leaf.extensions, ExtensionPlace::LeafNode)
}

fn group_context_extensions(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    check_extensions(extensions(reader)?, ExtensionPlace::GroupContext)
}
