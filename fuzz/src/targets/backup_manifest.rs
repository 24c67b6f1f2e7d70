//! Fuzz target: manifests of backups.

use hawser_proto::merkle::TreeHash;
use hawser_proto::{OriginatorId, SecretKey, SequenceId};
use hawser_storage::{
    BackupFile, BackupManifest, BackupStrand, FileHash, ReadManifest, StoreIdentity,
};

use super::Target;

pub(super) const TARGET: Target = Target { name: "backup-manifest", run, seeds, memory_factor: 64 };

/// Manifests without their last line, which is a hash that no mutation would meet.
fn seeds() -> Vec<Vec<u8>> {
    let key = SecretKey::from_bytes(&[7; 32]).expect("a scalar");
    let strand = |originator, tree| BackupStrand {
        originator: OriginatorId(originator),
        head: SequenceId(u64::from(originator)),
        tree,
    };
    let file = |name: &str, len_bytes| BackupFile {
        name: name.to_owned(),
        len_bytes,
        hash: FileHash([len_bytes.to_be_bytes()[7]; 32]),
    };
    let manifest = BackupManifest {
        identity: StoreIdentity {
            network: "testnet".to_owned(),
            node: OriginatorId(100),
            public_key: key.public_key(),
        },
        incarnation: [3; 16],
        made_unix_s: 1_750_000_000,
        strands: vec![strand(0, None), strand(100, Some((9, TreeHash([1; 32]))))],
        files: vec![
            file("000012.sst", 4096),
            file("000013.blob", 1 << 30),
            file("CURRENT", 16),
            file("MANIFEST-000005", 99),
        ],
    };
    let database = || vec![file("CURRENT", 16), file("MANIFEST-000005", 99)];
    let bare = BackupManifest { strands: Vec::new(), files: database(), ..manifest.clone() };
    let many = BackupManifest {
        strands: (0..40).map(|number| strand(number * 100, None)).collect(),
        files: (0..40)
            .map(|number| file(&format!("{number:06}.sst"), number))
            .chain(database())
            .collect(),
        ..manifest.clone()
    };
    let manifests = [&manifest, &bare, &many];
    manifests
        .into_iter()
        .flat_map(|manifest| [(manifest, None), (manifest, Some(&key))])
        .map(|(manifest, key)| {
            let mut bytes = manifest.encode(key).expect("it is within all bounds");
            let end = bytes.len() - 1;
            let line = bytes[..end].iter().rposition(|byte| *byte == b'\n');
            bytes.truncate(line.map_or(0, |at| at + 1));
            bytes
        })
        .collect()
}

/// A manifest that is read is written again as the same, and names no file outside of its folder.
fn run(input: &[u8]) {
    assert!(ReadManifest::decode(input).is_err(), "the hash at the end is not looked at");
    let Ok(read) = ReadManifest::decode(&ReadManifest::ended(input)) else { return };
    for file in &read.manifest.files {
        let name = file.name.as_bytes();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
        assert!(name.iter().all(is_plain) && !file.name.starts_with('.'), "{:?}", file.name);
        assert!(file.len_bytes <= 1 << 40, "{}", file.len_bytes);
    }
    let again = read.manifest.encode(None).expect("what was read can be written");
    let again = ReadManifest::decode(&again).expect("what was written can be read");
    assert_eq!(again.manifest, read.manifest);
    assert!(!again.is_signed);
}
