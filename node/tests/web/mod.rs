//! Tests of snapshots from a web server: an honest one, and one that lies in every way.

mod server;

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use hawser_engine::price::price;
use hawser_node::web::WebObjects;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_storage::{
    BootstrapManifest, Bootstraps, Change, Durability, FolderObjects, FoundObject, InvalidRule,
    LogEntry, Objects, Store, StoreIdentity, StoreSettings,
};
use server::{Lie, Server};
use tempfile::TempDir;

const OWN: OriginatorId = OriginatorId(100);
const NETWORK: &str = "testnet";

/// A location with two snapshots, behind a server.
struct Place {
    folder: TempDir,
    store: Store,
    server: Server,
    /// The names, that of the older one first.
    names: [String; 2],
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let identity =
            StoreIdentity { network: NETWORK.to_owned(), node: OWN, public_key: key.public_key() };
        let store = Store::open(&StoreSettings {
            path: folder.path().join("data"),
            identity,
            durability: Durability::Os,
            price,
            host: None,
            open_files_max: 64,
            cache_bytes: 8 << 20,
        })
        .unwrap();
        let snapshots = folder.path().join("snapshots");
        let names = [1, 2].map(|made_unix_s| {
            let id = EnvelopeId::new(OWN, SequenceId(made_unix_s));
            let bytes = Bytes::from(vec![9; 1000]);
            store.commit(&[Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))]).unwrap();
            let objects = Arc::new(FolderObjects::new(&snapshots));
            store.create_bootstrap(objects, made_unix_s, &mut go_on).unwrap().name
        });
        let server = Server::start(&snapshots);
        Self { folder, store, server, names }
    }

    fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(WebObjects::new(&self.server.url(), false, Arc::new(|| false)).unwrap())
    }

    fn copies(&self) -> Bootstraps {
        Bootstraps::new(self.objects())
    }

    /// Reads the whole newest snapshot, or returns the error.
    fn read(&self) -> Result<(), String> {
        let manifest = self.copies().manifest(&self.names[1]).map_err(|it| it.to_string())?;
        self.read_chunks(&manifest)
    }

    fn read_chunks(&self, manifest: &BootstrapManifest) -> Result<(), String> {
        for strand in &manifest.strands {
            for chunk in &strand.chunks {
                let read = self.copies().chunk(strand.originator, chunk);
                read.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Returns the errors of reading the manifest and the chunks while the server lies.
    fn faults(&self, lie: Lie) -> [String; 2] {
        self.server.lie(None);
        let manifest = self.copies().manifest(&self.names[1]).unwrap();
        self.server.lie(Some(lie));
        let of_manifest = self.copies().manifest(&self.names[1]).unwrap_err().to_string();
        [of_manifest, self.read_chunks(&manifest).unwrap_err()]
    }
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn assert_told(faults: [String; 2], wanted: [&str; 2]) {
    for (fault, wanted) in faults.iter().zip(wanted) {
        assert!(fault.contains(wanted), "{fault}");
    }
}

#[test]
fn a_web_server_that_gives_out_the_folder_is_enough() {
    let place = Place::new();
    let (name, manifest) = place.copies().newest(NETWORK, 10).unwrap();
    assert_eq!(name, place.names[1]);
    assert_eq!(manifest.strands[0].head, SequenceId(2));
    place.read_chunks(&manifest).unwrap();
    assert_eq!(place.copies().names().unwrap(), place.names);
    assert_eq!(place.objects().find("chunks/no").unwrap(), FoundObject::Absent);
    assert!(place.copies().manifest("000000000009-0123456789abcdef").is_err());
    // A URL may end with a slash.
    let url = format!("{}/", place.server.url());
    let objects = WebObjects::new(&url, false, Arc::new(|| false)).unwrap();
    assert_eq!(Bootstraps::new(Arc::new(objects)).newest(NETWORK, 10).unwrap().0, name);
}

#[test]
fn other_lengths_than_stated_are_noticed_before_they_are_read() {
    let place = Place::new();
    assert_told(place.faults(Lie::Terabyte), ["it is longer than", "is damaged"]);
    assert!(place.server.requests().iter().all(|it| it.starts_with("HEAD ")), "nothing was read");
    assert_told(place.faults(Lie::Endless), ["it has more than", "it has more than"]);
    assert_told(place.faults(Lie::NoLength), ["states no length", "states no length"]);
    place.server.lie(None);
    let manifest = place.copies().manifest(&place.names[1]).unwrap();
    place.server.lie(Some(Lie::Longer));
    assert!(place.read_chunks(&manifest).unwrap_err().contains("is damaged"));
}

#[test]
fn other_bytes_and_missing_ones_are_told_by_name() {
    let place = Place::new();
    assert_told(place.faults(Lie::Flipped), ["hash at its end does not match", "is damaged"]);
    place.server.lie(Some(Lie::NoChunks));
    assert!(place.read().unwrap_err().contains("the chunk from 1 is missing"));
    let elsewhere = Server::start(place.folder.path());
    let to = Lie::Redirect(elsewhere.url());
    assert_told(place.faults(to), ["redirects are not followed", "redirects are not followed"]);
    assert!(elsewhere.requests().is_empty());
    place.server.lie(None);
    place.read().unwrap();
}

#[test]
fn a_server_that_fails_in_passing_is_asked_again_and_not_for_ever() {
    let place = Place::new();
    for lie in [Lie::Cut(2), Lie::Busy(2)] {
        place.server.lie(Some(lie));
        place.read().unwrap();
    }
    place.server.lie(None);
    let manifest = place.copies().manifest(&place.names[1]).unwrap();
    place.server.lie(Some(Lie::Cut(usize::MAX)));
    place.read_chunks(&manifest).unwrap_err();
    let gets = place.server.requests().iter().filter(|it| it.starts_with("GET ")).count();
    assert_eq!(gets, 5);
    // A stop ends the attempts.
    let stopped = WebObjects::new(&place.server.url(), false, Arc::new(|| true)).unwrap();
    let error = stopped.find("snapshots/names").unwrap_err().to_string();
    assert!(error.contains("stopped"), "{error}");
}

#[test]
fn a_list_that_lies_is_refused_and_without_one_a_snapshot_can_be_named() {
    let place = Place::new();
    let names = place.folder.path().join("snapshots/snapshots/names");
    for (content, wanted) in [
        ("snapshots/../../data/x.snapshot\n".to_owned(), "another folder"),
        ("chunks/x\n".to_owned(), "another folder"),
        ("snapshots/\u{1b}[2J\n".to_owned(), "another folder"),
        ("snapshots/x\n".repeat(1 << 17), "it has more than"),
    ] {
        fs::write(&names, content).unwrap();
        let error = place.copies().newest(NETWORK, 10).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    // A name without an object must not hide other ones.
    let lines = format!(
        "snapshots/{}.snapshot\nsnapshots/000000000009-0123456789abcdef.snapshot\n",
        place.names[0]
    );
    fs::write(&names, lines).unwrap();
    assert_eq!(place.copies().newest(NETWORK, 10).unwrap().0, place.names[0]);
    fs::remove_file(&names).unwrap();
    let error = place.copies().newest(NETWORK, 10).unwrap_err().to_string();
    assert!(error.contains("--snapshot"), "{error}");
    place.read().unwrap();
}

#[test]
fn nothing_is_written_to_a_web_server() {
    let place = Place::new();
    let before = place.server.requests().len();
    assert!(place.store.create_bootstrap(place.objects(), 3, &mut go_on).is_err());
    assert!(place.objects().remove("snapshots/names").is_err());
    assert_eq!(place.server.requests().len(), before);
}
