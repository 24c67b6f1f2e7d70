//! The parts of public messages that libraries of published clients refuse, although their framing is whole.
//!
//! A client decodes each message of a page of its group. If it cannot decode one, it reads nothing more of that group,
//! and any account may have the chain order a message. So a message is refused here if one of these libraries would not
//! decode it. They decode the content of the extensions that they know, and take each of these only in the structure
//! that it was made for (RFC 9420 §17.3).

use super::MlsParseError;
use super::leaf::{APPLICATION_ID, Extension, Extensions, LAST_RESORT, credential};
use super::reader::Reader;

/// Extension types of RFC 9420 §17.3.
const RATCHET_TREE: u16 = 2;
const REQUIRED_CAPABILITIES: u16 = 3;
const EXTERNAL_PUB: u16 = 4;
const EXTERNAL_SENDERS: u16 = 5;
/// Extension type `app_data_dictionary` (draft-ietf-mls-extensions): data by component.
const APP_DATA_DICTIONARY: u16 = 6;
/// Extension type of the metadata of XMTP's groups, which its branch of OpenMLS decodes: one vector.
const IMMUTABLE_METADATA: u16 = 0xf000;

/// Largest number of extensions in a list. A guess: clients use up to four. It bounds the search for repeated types.
const EXTENSIONS_MAX: usize = 32;
/// The length of an extension's content, in bytes, for which the clients' branch of OpenMLS takes the list to be two
/// bytes shorter than it is.
const MISCOUNTED_LEN_BYTES: usize = 0x3fff;

/// The structure that has a list of extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtensionPlace {
    LeafNode,
    KeyPackage,
    GroupContext,
}

impl ExtensionPlace {
    /// Returns true if all libraries take an extension of this type here.
    fn allows(self, extension_type: u16) -> bool {
        match extension_type {
            APPLICATION_ID => self == Self::LeafNode,
            RATCHET_TREE | EXTERNAL_PUB => false, // of a group info alone
            REQUIRED_CAPABILITIES | EXTERNAL_SENDERS | IMMUTABLE_METADATA => {
                self == Self::GroupContext
            }
            APP_DATA_DICTIONARY => self != Self::KeyPackage,
            LAST_RESORT => self == Self::KeyPackage,
            other => self != Self::GroupContext || !is_grease(other),
        }
    }
}

/// Checks that all libraries decode a list of extensions.
///
/// # Errors
/// [`MlsParseError::Extension`] with the first one that some library refuses.
pub(super) fn check_extensions(
    list: Extensions<'_>,
    place: ExtensionPlace,
) -> Result<(), MlsParseError> {
    let mut types = [0; EXTENSIONS_MAX];
    for (count, extension) in list.iter().enumerate() {
        let extension_type = extension.extension_type;
        let refused = |fault| Err(MlsParseError::Extension { extension_type, fault });
        if count == EXTENSIONS_MAX {
            return refused("is one too many");
        }
        if types[..count].contains(&extension_type) {
            return refused("is there twice");
        }
        types[count] = extension_type;
        if !place.allows(extension_type) {
            return refused("does not belong there");
        }
        if !decodes(&extension) {
            return refused("does not decode");
        }
    }
    Ok(())
}

/// Checks that all libraries know a cipher suite: those of RFC 9420 §17.1.
///
/// # Errors
/// [`MlsParseError::Selector`].
pub(super) fn check_cipher_suite(value: u16) -> Result<(), MlsParseError> {
    match value {
        1..=7 => Ok(()),
        _ => Err(MlsParseError::Selector { field: "cipher_suite", value }),
    }
}

/// Returns true if the content of an extension is exactly what its type demands.
fn decodes(extension: &Extension<'_>) -> bool {
    if extension.data.len() == MISCOUNTED_LEN_BYTES {
        return false;
    }
    let mut content = Reader::new(extension.data);
    let read = match extension.extension_type {
        APPLICATION_ID | IMMUTABLE_METADATA => content.vector().map(drop),
        REQUIRED_CAPABILITIES => required_capabilities(&mut content),
        EXTERNAL_SENDERS => content.each(external_sender).map(drop),
        APP_DATA_DICTIONARY => app_data_dictionary(&mut content),
        LAST_RESORT => Ok(()),
        _ => return true,
    };
    read.is_ok() && content.is_empty()
}

/// Reads three lists of 16-bit values: extensions, proposals, credentials (RFC 9420 §11.1).
fn required_capabilities(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    for _ in 0..3 {
        reader.each(|values| values.u16().map(drop))?;
    }
    Ok(())
}

/// Reads an `ExternalSender` (RFC 9420 §12.1.8.1).
fn external_sender(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    reader.vector()?; // signature_key
    credential(reader).map(drop)
}

/// Reads the list of components with their data. Libraries take it only if the components ascend.
fn app_data_dictionary(reader: &mut Reader<'_>) -> Result<(), MlsParseError> {
    let mut last = None;
    reader.each(|entries| {
        let value = entries.u16()?;
        if last.replace(value).is_some_and(|last| last >= value) {
            return Err(MlsParseError::Selector { field: "component_id", value });
        }
        entries.vector().map(drop)
    })?;
    Ok(())
}

/// Returns true for the values that mean nothing, and show that readers pass over unknown ones (RFC 9420 §13.5).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && high & 0x0f == 0x0a && value != 0xfafa
}
