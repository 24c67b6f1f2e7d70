//! The folder of a development network: keys, registry, prices, and a folder for each node.
//!
//! ```text
//! admin.sock     where `hawser dev add-node` and others reach the network, while it runs
//! dev.lock       held while `hawser dev` runs here; marks the folder as ours
//! network.json   addresses of all parts; it stays after the network has ended, until the next start
//! registry.json  the node records
//! rates.json     the price list; with chains, that of the settlement chain at the start
//! payer.key      key of the payer: of the gateway's envelopes, and of those published by hand
//! chain.json     addresses of the contracts; it stays, too
//! chain/         app and settlement: both chains; log.txt: their log
//! gateway/       nonces: record of its transactions on the app chain; log.txt: its log
//! node-100/      key: the node's; data: its database; state: this host's records about it; log.txt: its log;
//!                unstarted: there until the node could publish for the first time
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use hawser_node::admin::SOCKET;
use hawser_node::error::RunError;
use hawser_node::files::rates::{RateRecord, RatesFile};
use hawser_node::files::registry::{RegistryFile, RegistryFileEntry};
use hawser_node::files::{self, key};
use hawser_proto::{OriginatorId, SecretKey};
use hawser_storage::{StoreIdentity, has_host_marker};
use serde::Serialize;

use super::ports::DevPorts;
use crate::network_file::{self, NetworkFile};

/// Name of the network, which its databases have.
pub(super) const NETWORK: &str = "hawser-dev";
const LOCK: &str = "dev.lock";
/// The folder that a new file system has, which stays what it is.
const LOST_AND_FOUND: &str = "lost+found";
const NODE_PREFIX: &str = "node-";

/// The folder, locked for this process as long as this value lives.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    _lock: File,
}

/// Paths of one node.
#[derive(Debug, Clone)]
pub(super) struct NodeFolder {
    pub(super) key_file: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) log_file: PathBuf,
    /// A file that says that the node has never been able to publish.
    unstarted: PathBuf,
}

impl Folder {
    /// Creates the folder if it does not exist, and locks it. With `fresh` it deletes an earlier
    /// network in it. A folder of other files never becomes that of a network: the network would use a `payer.key`
    /// there, and a later `fresh` would delete it.
    ///
    /// # Errors
    /// When another process runs a network there, or when the folder has other files and was never that of a network.
    pub(super) fn open(path: &Path, fresh: bool) -> Result<Self, RunError> {
        let fail = |error: io::Error| RunError::failed(format!("{}: {error}", path.display()));
        require_utf8(path)?;
        if path.exists() && !path.is_dir() {
            let text = "it is not a folder: choose another --data-dir";
            return Err(RunError::failed(format!("{}: {text}", path.display())));
        }
        fs::create_dir_all(path).map_err(fail)?;
        let root = path.canonicalize().map_err(fail)?;
        require_utf8(&root)?;
        if !is_empty(&root).map_err(fail)? && !is_of_network(&root) {
            return Err(RunError::refused(format!(
                "{} holds other files than those of `hawser dev` (it has no {LOCK}): a network there could use them, and \
                 --fresh could delete them. Choose another --data-dir, or empty it yourself",
                path.display()
            )));
        }
        let lock = lock(&root, path)?;
        let folder = Self { root, _lock: lock };
        if fresh {
            folder.wipe().map_err(fail)?;
        }
        Ok(folder)
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Deletes everything that the header of this file lists, except the lock.
    fn wipe(&self) -> io::Result<()> {
        let files = [
            self.network(),
            self.registry(),
            self.rates(),
            self.payer_key(),
            self.chain_json(),
            self.root.join(SOCKET),
        ];
        for file in files {
            absent_is_fine(fs::remove_file(file))?;
        }
        for folder in [self.chains(), self.gateway()] {
            absent_is_fine(fs::remove_dir_all(folder))?;
        }
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(NODE_PREFIX));
            if id.is_some_and(|id| id.parse::<u32>().is_ok()) && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// `network.json`.
    pub(super) fn network(&self) -> PathBuf {
        self.root.join(network_file::FILE_NAME)
    }

    /// `registry.json`.
    pub(super) fn registry(&self) -> PathBuf {
        self.root.join("registry.json")
    }

    /// `rates.json`.
    pub(super) fn rates(&self) -> PathBuf {
        self.root.join("rates.json")
    }

    /// `payer.key`.
    pub(super) fn payer_key(&self) -> PathBuf {
        self.root.join("payer.key")
    }

    /// `chain.json`.
    pub(super) fn chain_json(&self) -> PathBuf {
        self.root.join(crate::commands::chain::CHAIN_JSON)
    }

    /// Folder of both chains.
    pub(super) fn chains(&self) -> PathBuf {
        self.root.join("chain")
    }

    /// Folder of the gateway.
    pub(super) fn gateway(&self) -> PathBuf {
        self.root.join("gateway")
    }

    /// The policies of the gateway: no limits.
    pub(super) fn gateway_policies(&self) -> PathBuf {
        self.gateway().join("policies.toml")
    }

    /// Returns the paths of one node.
    pub(super) fn node(&self, node_id: u32) -> NodeFolder {
        let root = self.root.join(format!("{NODE_PREFIX}{node_id}"));
        NodeFolder {
            key_file: root.join("key"),
            data_dir: root.join("data"),
            state_dir: root.join("state"),
            log_file: root.join("log.txt"),
            unstarted: root.join("unstarted"),
        }
    }

    /// Returns true if a node has a key of this folder and no strand: it was never able to publish, and has no record
    /// of a data folder that may sign. A node that has only lost its data takes its strand from the others.
    pub(super) fn is_new(&self, node_id: u32) -> bool {
        let node = self.node(node_id);
        let Ok(key) = key::read(&node.key_file) else { return false };
        let identity = StoreIdentity {
            network: NETWORK.to_owned(),
            node: OriginatorId(node_id),
            public_key: key.public_key(),
        };
        node.unstarted.exists() && matches!(has_host_marker(&node.state_dir, &identity), Ok(false))
    }

    /// Notes that a node can publish, so that its key may have a strand.
    ///
    /// # Errors
    /// When the file that says otherwise cannot be removed.
    pub(super) fn note_started(&self, node_id: u32) -> Result<(), RunError> {
        absent_is_fine(fs::remove_file(self.node(node_id).unstarted)).map_err(RunError::failed)
    }

    /// Returns the records of an earlier run, by id; none in a new folder.
    ///
    /// # Errors
    /// When there is a registry that cannot be read.
    pub(super) fn known_nodes(&self) -> Result<Vec<RegistryFileEntry>, RunError> {
        let path = self.registry();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let parse = |text: &str| serde_json::from_str::<RegistryFile>(text);
        let mut nodes = files::read(&path, parse).map_err(RunError::failed)?.nodes;
        nodes.sort_by_key(|node| node.node_id);
        Ok(nodes)
    }

    /// Creates missing keys, and writes registry and rates. Records of nodes that do not run now stay,
    /// because their strands still have to be checked. Rates that the user has changed stay too, unless
    /// [`Self::write_rates`] replaces them.
    /// Returns the records of the nodes at `ports`.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(super) fn prepare(&self, ports: &[DevPorts]) -> Result<Vec<RegistryFileEntry>, RunError> {
        for folder in [self.chains(), self.gateway()] {
            fs::create_dir_all(folder).map_err(RunError::failed)?;
        }
        if !self.gateway_policies().exists() {
            let text = "# Nothing is limited here. See docs/gateway.md, section Policies.\n";
            fs::write(self.gateway_policies(), text).map_err(RunError::failed)?;
        }
        let known = self.known_nodes()?;
        let mut running = Vec::new();
        for ports in ports {
            let folder = self.node(ports.node_id);
            let parent = folder.key_file.parent().expect("the key lies in the node's folder");
            fs::create_dir_all(parent).map_err(RunError::failed)?;
            if !folder.key_file.exists() {
                // Before the key: an interrupted start leaves no key without it.
                fs::write(&folder.unstarted, "").map_err(RunError::failed)?;
            }
            let key = ensure_key(&folder.key_file)?;
            let earlier = known.iter().find(|node| node.node_id.0 == ports.node_id);
            running.push(record(ports, &key, earlier.is_none_or(|node| node.is_canonical)));
        }
        let others = known.into_iter().filter(|node| {
            running.iter().all(|runs| runs.node_id != node.node_id)
                && self.node(node.node_id.0).key_file.exists()
        });
        let mut nodes: Vec<_> = running.iter().cloned().chain(others).collect();
        nodes.sort_by_key(|node| node.node_id);
        self.write_registry(nodes)?;
        if !self.rates().exists() {
            write(
                &self.rates(),
                &RatesFile { complete_until: None, rates: vec![RateRecord::FIRST] },
            )?;
        }
        Ok(running)
    }

    /// Marks a node as a member of the canonical network, or as none.
    ///
    /// # Errors
    /// When the registry has no such node, or cannot be read or written.
    pub(super) fn set_canonical(&self, node_id: u32, is_canonical: bool) -> Result<(), RunError> {
        let mut nodes = self.known_nodes()?;
        let node = nodes.iter_mut().find(|node| node.node_id.0 == node_id);
        let node = node.ok_or_else(|| unknown(node_id))?;
        node.is_canonical = is_canonical;
        self.write_registry(nodes)
    }

    /// Replaces the node records.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write_registry(&self, nodes: Vec<RegistryFileEntry>) -> Result<(), RunError> {
        write(&self.registry(), &RegistryFile { nodes, source: None })
    }

    /// Replaces the price list by that of the settlement chain.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_rates(&self, rates: Vec<RateRecord>) -> Result<(), RunError> {
        write(&self.rates(), &RatesFile { complete_until: None, rates })
    }

    /// Returns the address of the payer, whose key is created if there is none.
    ///
    /// # Errors
    /// When the key cannot be read or written.
    pub(super) fn payer(&self) -> Result<String, RunError> {
        Ok(ensure_key(&self.payer_key())?.public_key().address().to_string())
    }

    /// Writes the description of the network, when everything is ready: its existence means readiness.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn announce(&self, network: &NetworkFile) -> Result<(), RunError> {
        write(&self.network(), network)
    }

    /// Removes the description that an earlier run wrote.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(super) fn retract(&self) -> Result<(), RunError> {
        let files = [self.network(), self.chain_json()];
        let removed = files.into_iter().try_for_each(|file| absent_is_fine(fs::remove_file(file)));
        removed.map_err(RunError::failed)
    }
}

/// Returns the error for the id of a node that the network does not have.
pub(super) fn unknown(node_id: u32) -> RunError {
    RunError::not_found(format!("the network has no node {node_id}"))
}

/// Treats an absent file as removed.
fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Refuses a path that is not UTF-8: the command lines of the nodes have it, and `network.json`.
fn require_utf8(path: &Path) -> Result<(), RunError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(RunError::usage(format!(
            "{}: the path of the folder is not UTF-8: choose another --data-dir",
            path.display()
        ))),
    }
}

/// Returns true for a folder without entries other than that of a new file system.
fn is_empty(root: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name() != LOST_AND_FOUND || !entry.file_type()?.is_dir() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns true if a network of `hawser dev` has been started in a folder. Its `network.json` alone does not show that:
/// auditors copy the file beside files of their own.
pub(super) fn is_of_network(root: &Path) -> bool {
    root.join(LOCK).is_file()
}

fn lock(root: &Path, shown: &Path) -> Result<File, RunError> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(root.join(LOCK))
        .map_err(|error| RunError::failed(format!("{}: {error}", shown.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::refused(format!(
            "another `hawser dev` runs in {}: stop it first, or choose another --data-dir",
            shown.display()
        ))),
        Err(TryLockError::Error(error)) => Err(RunError::failed(error)),
    }
}

/// Reads the key, or makes it when there is none.
fn ensure_key(path: &Path) -> Result<SecretKey, RunError> {
    let fail =
        |error: &dyn std::fmt::Display| RunError::failed(format!("{}: {error}", path.display()));
    if path.exists() {
        return key::read(path).map_err(|error| fail(&error));
    }
    let secret = key::generate();
    key::write_new(path, &secret).map_err(|error| fail(&error))?;
    Ok(secret)
}

fn record(ports: &DevPorts, key: &SecretKey, is_canonical: bool) -> RegistryFileEntry {
    RegistryFileEntry {
        node_id: OriginatorId(ports.node_id),
        signer: key.public_key().address().to_string(),
        is_canonical,
        signing_public_key: key.public_key().to_string(),
        http_address: format!("http://{}", ports.api()),
        quic_address: Some(ports.api().to_string()),
        absences: Vec::new(),
    }
}

fn write(path: &Path, content: &impl Serialize) -> Result<(), RunError> {
    let mut text = serde_json::to_string_pretty(content).map_err(RunError::failed)?;
    text.push('\n');
    files::write_whole(path, text.as_bytes())
        .map_err(|error| RunError::failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;
    use hawser_node::error::RunErrorKind;
    use hawser_node::files::registry;

    fn ports(nodes: u16, base: u16) -> Vec<DevPorts> {
        DevPorts::of_network(nodes, base).unwrap()
    }

    #[test]
    fn a_folder_goes_on_with_its_keys() {
        let place = tempfile::tempdir().unwrap();
        let first = {
            let folder = Folder::open(place.path(), false).unwrap();
            folder.prepare(&ports(3, 5050)).unwrap()
        };
        let folder = Folder::open(place.path(), false).unwrap();
        let again = folder.prepare(&ports(2, 6050)).unwrap();
        assert_eq!(again.len(), 2);
        assert_eq!(again[0].signing_public_key, first[0].signing_public_key);
        assert_eq!(again[0].http_address, "http://127.0.0.1:6050");
        let known = folder.known_nodes().unwrap();
        assert_eq!(known.len(), 3, "the record of a node that does not run stays");
        assert_eq!(known[2], first[2]);
        let text = fs::read_to_string(folder.registry()).unwrap();
        assert_eq!(registry::parse(&text).unwrap().nodes().count(), 3);
    }

    /// Of a first start that was interrupted nothing is left that could have signed. A node that has lost its data, or
    /// what its host knows of them, may have a strand.
    #[test]
    fn a_node_is_new_until_it_could_publish_whatever_is_deleted_then() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path(), false).unwrap();
        folder.prepare(&ports(1, 5050)).unwrap();
        let node = folder.node(100);
        fs::create_dir_all(&node.data_dir).unwrap();
        folder.prepare(&ports(1, 5050)).unwrap();
        assert!(folder.is_new(100), "interrupted before it could publish");

        let key = key::read(&node.key_file).unwrap().public_key();
        let identity =
            StoreIdentity { network: NETWORK.to_owned(), node: OriginatorId(100), public_key: key };
        let of_host = hawser_storage::host_dir(&node.state_dir, &identity);
        fs::create_dir_all(&of_host).unwrap();
        assert!(folder.is_new(100));
        fs::write(of_host.join("marker"), "").unwrap();
        assert!(!folder.is_new(100), "it could publish before this was noted");

        folder.note_started(100).unwrap();
        folder.note_started(100).unwrap();
        fs::remove_dir_all(&node.data_dir).unwrap();
        fs::remove_dir_all(&node.state_dir).unwrap();
        folder.prepare(&ports(1, 5050)).unwrap();
        assert!(!folder.is_new(100), "its data are lost");
    }

    #[test]
    fn two_at_once_is_one_too_many() {
        let place = tempfile::tempdir().unwrap();
        let _first = Folder::open(place.path(), false).unwrap();
        assert_eq!(Folder::open(place.path(), true).unwrap_err().kind, RunErrorKind::Refused);
    }

    /// Neither the command lines of the nodes nor `network.json` could have it.
    #[test]
    fn a_path_that_is_not_utf_8_is_refused_and_not_made() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(OsStr::from_bytes(b"net-\xff"));
        assert_eq!(Folder::open(&path, false).unwrap_err().kind, RunErrorKind::Usage);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_named_as_one() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("payer.key");
        fs::write(&file, "of the user").unwrap();
        let refused = Folder::open(&file, true).unwrap_err();
        assert!(refused.text.ends_with("it is not a folder: choose another --data-dir"));
        assert_eq!(fs::read(&file).unwrap(), b"of the user");
    }

    #[test]
    fn a_new_file_system_is_an_empty_folder_and_keeps_its_own() {
        let place = tempfile::tempdir().unwrap();
        let lost = place.path().join(LOST_AND_FOUND);
        fs::write(&lost, "a file of that name is of the user").unwrap();
        assert_eq!(Folder::open(place.path(), false).unwrap_err().kind, RunErrorKind::Refused);
        fs::remove_file(&lost).unwrap();
        fs::create_dir(&lost).unwrap();
        fs::write(lost.join("#12"), "found").unwrap();
        Folder::open(place.path(), false).unwrap().prepare(&ports(1, 5050)).unwrap();
        Folder::open(place.path(), true).unwrap();
        assert!(lost.join("#12").exists() && !place.path().join("node-100").exists());
    }

    #[test]
    fn fresh_forgets_a_network_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let first = {
            let folder = Folder::open(place.path(), false).unwrap();
            folder.prepare(&ports(1, 5050)).unwrap()
        };
        let mine = place.path().join("notes.txt");
        fs::write(&mine, "mine").unwrap();
        fs::create_dir(place.path().join("node-x")).unwrap();
        let folder = Folder::open(place.path(), true).unwrap();
        assert!(mine.exists() && place.path().join("node-x").exists());
        assert!(!place.path().join("node-100").exists());
        let second = folder.prepare(&ports(1, 5050)).unwrap();
        assert_ne!(second[0].signing_public_key, first[0].signing_public_key);
    }

    #[test]
    fn a_folder_of_other_files_is_neither_used_nor_emptied() {
        for name in ["payer.key", network_file::FILE_NAME, "notes.txt"] {
            let place = tempfile::tempdir().unwrap();
            let file = place.path().join(name);
            fs::write(&file, "mine").unwrap();
            for fresh in [false, true] {
                let refused = Folder::open(place.path(), fresh).unwrap_err();
                assert_eq!(refused.kind, RunErrorKind::Refused, "{name}, fresh: {fresh}");
                assert!(!place.path().join(LOCK).exists(), "it does not become ours");
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        }
    }

    #[test]
    fn a_node_that_was_removed_stays_in_the_registry_and_out_of_the_network() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path(), false).unwrap();
        let first = folder.prepare(&ports(3, 5050)).unwrap();
        folder.set_canonical(200, false).unwrap();
        let again = folder.prepare(&[ports(3, 5050)[0], ports(3, 5050)[2]]).unwrap();
        assert_eq!(again.iter().map(|node| node.node_id.0).collect::<Vec<_>>(), [100, 300]);
        let known = folder.known_nodes().unwrap();
        assert_eq!(
            known.iter().map(|node| node.is_canonical).collect::<Vec<_>>(),
            [true, false, true]
        );
        assert_eq!(known[1].signing_public_key, first[1].signing_public_key);
        assert_eq!(folder.set_canonical(400, true).unwrap_err().kind, RunErrorKind::NotFound);
    }

    #[test]
    fn prices_that_an_operator_has_changed_stay() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path(), false).unwrap();
        folder.prepare(&ports(1, 5050)).unwrap();
        fs::write(folder.rates(), "changed").unwrap();
        folder.prepare(&ports(1, 5050)).unwrap();
        assert_eq!(fs::read_to_string(folder.rates()).unwrap(), "changed");
    }
}
