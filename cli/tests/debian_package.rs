//! The package for Debian that `scripts/debian-package` makes: what is in it, and the program in it.

use std::fs;
use std::io::{Write as _, stderr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::image::succeed;
use crate::support::{run, stdout};

/// Makes a package of the program that is tested.
fn make(out: &Path) {
    let mut script =
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/debian-package"));
    script.args(["--program", env!("CARGO_BIN_EXE_hawser"), "--out"]).arg(out);
    succeed(script.env("SOURCE_DATE_EPOCH", "1750000000"));
}

/// Runs the script that follows an installation where its programs only print their arguments. Systemd need not run: a
/// machine whose image is being made has no other moment at which its users are made.
fn assert_users_are_made(postinst: &Path, place: &Path) {
    let programs = place.join("programs");
    fs::create_dir(&programs).unwrap();
    for program in ["systemd-sysusers", "install", "systemctl"] {
        symlink("/bin/echo", programs.join(program)).unwrap();
    }
    let mut script = Command::new("/bin/sh");
    let printed = succeed(script.arg(postinst).arg("configure").env("PATH", &programs));
    assert!(printed.starts_with("hawser.conf\n"), "{printed}");
}

#[test]
fn a_package_is_reproducible_and_has_all_that_a_service_needs() {
    if !Command::new("dpkg-deb").arg("--version").output().is_ok_and(|it| it.status.success()) {
        let _ = writeln!(stderr(), "NOT TESTED: packages, because this system has no dpkg-deb");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["first.deb", "second.deb"].map(|name| place.path().join(name));
    make(&first);
    make(&second);
    succeed(Command::new("cmp").args([&first, &second]));

    let field = |name: &str| {
        let shown = succeed(Command::new("dpkg-deb").arg("--field").arg(&first).arg(name));
        shown.trim().to_owned()
    };
    assert_eq!(field("Package"), "hawser");
    let version = stdout(&run(&["--version"]));
    assert_eq!(Some(field("Version").as_str()), version.split_whitespace().nth(1));
    let depends = field("Depends");
    for part in ["libc6 (>= 2.", "libstdc++6 (>= ", "ca-certificates"] {
        assert!(depends.contains(part), "{depends}");
    }

    let root = place.path().join("root");
    succeed(Command::new("dpkg-deb").arg("--raw-extract").args([&first, &root]));
    assert_eq!(succeed(Command::new(root.join("usr/bin/hawser")).arg("--version")), version);
    for unit in [
        "hawser",
        "hawser-gateway",
        "hawser-backup",
        "hawser-chain-watcher",
        "hawser-network-watcher",
    ] {
        let text =
            fs::read_to_string(root.join("usr/lib/systemd/system").join(format!("{unit}.service")))
                .unwrap();
        let started: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
        assert!(!started.is_empty(), "{unit}");
        assert!(started.iter().all(|line| line.starts_with("/usr/bin/hawser ")), "{started:?}");
    }
    let users = fs::read_to_string(root.join("usr/lib/sysusers.d/hawser.conf")).unwrap();
    assert!(users.contains("u hawser -") && users.contains("u hawser-gateway -"), "{users}");
    for file in [
        "usr/lib/systemd/system/hawser-backup.timer",
        "usr/share/man/man1/hawser.1.gz",
        "usr/share/man/man1/hawser-node.1.gz",
        "usr/share/bash-completion/completions/hawser",
        "usr/share/zsh/vendor-completions/_hawser",
        "usr/share/fish/vendor_completions.d/hawser.fish",
        "usr/share/doc/hawser/copyright",
        "usr/share/doc/hawser/examples/logrotate",
        "usr/share/doc/hawser/examples/watcher.env.example",
        "usr/share/doc/hawser/libraries.txt.gz",
        "usr/share/doc/hawser/hawser.cdx.json.gz",
    ] {
        assert!(fs::metadata(root.join(file)).is_ok_and(|it| it.len() > 100), "{file}");
    }
    assert!(!root.join("etc").exists() && !root.join("var").exists(), "keys and data are not its");
    assert!(
        !root.join("usr/lib/tmpfiles.d").exists(),
        "folders that an operator gave away stay so"
    );
    succeed(Command::new("sh").arg("-n").arg(root.join("DEBIAN/prerm")));
    assert_users_are_made(&root.join("DEBIAN/postinst"), place.path());
    let check = ["--check", "--quiet", "DEBIAN/md5sums"];
    succeed(Command::new("md5sum").args(check).current_dir(&root));
}
