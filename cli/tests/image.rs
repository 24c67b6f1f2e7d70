//! The container image that `scripts/image` makes: its settings, its contents, and the program in it.

use std::fs;
use std::io::{Write as _, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{run, stdout};

/// Runs a command that succeeds, and returns what it prints.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    stdout(&output)
}

/// Makes an image of the program that is tested.
fn make_image(out: &Path) {
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/image"));
    script.args(["--program", env!("CARGO_BIN_EXE_hawser"), "--out"]).arg(out);
    succeed(script.env("SOURCE_DATE_EPOCH", "1750000000"));
}

/// Unpacks a tar file into a new folder.
fn unpack(archive: &Path, folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut tar = Command::new("tar");
    succeed(tar.arg("-xf").arg(archive).arg("-C").arg(folder).arg("--no-same-owner"));
}

/// An unpacked image.
struct Layout(PathBuf);

impl Layout {
    /// Returns the file that a descriptor names, after a check of its hash.
    fn blob(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        let hash = digest.strip_prefix("sha256:").unwrap();
        let path = self.0.join("blobs/sha256").join(hash);
        let counted = succeed(Command::new("sha256sum").arg(&path));
        assert_eq!(counted.split_whitespace().next(), Some(hash));
        assert_eq!(descriptor["size"], fs::metadata(&path).unwrap().len());
        path
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&fs::read(self.blob(descriptor)).unwrap()).unwrap()
    }
}

#[test]
fn an_image_is_reproducible_and_holds_only_the_program() {
    for part in ["/etc/ssl/certs/ca-certificates.crt", "/usr/share/zoneinfo"] {
        if !Path::new(part).exists() {
            let _ = writeln!(stderr(), "NOT TESTED: images, because this system has no {part}");
            return;
        }
    }
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["first.tar", "second.tar"].map(|name| place.path().join(name));
    make_image(&first);
    make_image(&second);
    succeed(Command::new("cmp").args([&first, &second]));

    let bill = fs::read(place.path().join("first.cdx.json")).unwrap();
    let bill: Value = serde_json::from_slice(&bill).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let libraries = bill["components"].as_array().unwrap();
    let rocksdb = libraries.iter().find(|it| it["name"] == "rocksdb").unwrap();
    assert_eq!(
        rocksdb["purl"],
        format!("pkg:cargo/rocksdb@{}", rocksdb["version"].as_str().unwrap())
    );
    for library in libraries {
        let hash = library["hashes"][0]["content"].as_str().unwrap_or_default();
        assert_eq!(hash.len(), 64, "{library}");
    }

    let layout = Layout(place.path().join("layout"));
    unpack(&first, &layout.0);
    let index: Value =
        serde_json::from_slice(&fs::read(layout.0.join("index.json")).unwrap()).unwrap();
    let manifest = layout.json(&index["manifests"][0]);
    let image = layout.json(&manifest["config"]);
    assert_eq!(image["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    let config = &image["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/usr/local/bin/hawser"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/usr/local/bin/hawser", "health"]));
    assert_eq!(config["ExposedPorts"], json!({ "5050/tcp": {}, "5050/udp": {}, "8008/tcp": {} }));
    assert_eq!(config["Volumes"], json!({ "/data": {}, "/state": {} }));

    let layer = layout.blob(&manifest["layers"][0]);
    let names = succeed(Command::new("tar").arg("-tf").arg(&layer));
    let programs: Vec<_> = names.lines().filter(|name| name.contains("bin/")).collect();
    assert_eq!(programs, ["./usr/local/bin/", "./usr/local/bin/hawser"]);
    let files = place.path().join("files");
    unpack(&layer, &files);
    let licences = fs::read_to_string(files.join("usr/share/doc/hawser/libraries.txt")).unwrap();
    for part in ["\nrocksdb ", "Apache License", "Permission is hereby granted"] {
        assert!(licences.contains(part), "{part} is not in the licences");
    }
    assert!(!licences.contains("/registry/"), "it names no folder of this machine");
    start_in(&files);
}

/// Starts the program with `files` as the root of all files.
fn start_in(files: &Path) {
    let inside = |words: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user"]).arg(format!("--root={}", files.display()));
        unshare.arg("/usr/local/bin/hawser").args(words).env_clear();
        unshare.env("PATH", "/usr/bin:/bin");
        succeed(&mut unshare)
    };
    let probe = Command::new("unshare").args(["--user", "--map-root-user", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        let why = "because this system permits no user namespaces";
        let _ = writeln!(stderr(), "NOT TESTED: the program of an image, {why}");
        return;
    }
    assert_eq!(inside(&["--version"]), stdout(&run(&["--version"])));
    inside(&["keys", "generate", "--out", "/data/node.key"]);
    assert!(files.join("data/node.key").is_file());
}
