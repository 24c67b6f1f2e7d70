//! The units of systemd in `deploy/systemd` are understood by systemd, and confine the programs.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{assert_none, files, root};

/// The program that the units start, at the place where `docs/operating.md` installs it.
const PROGRAM: &str = "/usr/local/bin/hawser";
/// The exposure that `systemd-analyze security` may find, in tenths. Specified: below 2.0.
const EXPOSURE_MAX: &str = "19";

/// Copies the units into `folder` with a program that this machine has, because systemd looks for it.
fn installed(folder: &Path) -> Vec<PathBuf> {
    let mut units = Vec::new();
    files(&root().join("deploy/systemd"), &mut units);
    units.retain(|unit| unit.extension().is_some_and(|it| it == "service" || it == "timer"));
    let copy = |unit: PathBuf| {
        let text = fs::read_to_string(&unit).unwrap().replace(PROGRAM, "/bin/true");
        let copy = folder.join(unit.file_name().unwrap());
        fs::write(&copy, text).unwrap();
        copy
    };
    units.into_iter().map(copy).collect()
}

/// Runs `systemd-analyze`; returns `None` on a system without it.
fn systemd_analyze(words: &[&str], units: &[PathBuf]) -> Option<Output> {
    match Command::new("systemd-analyze").args(words).args(units).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = "because this system has no systemd-analyze";
            let _ = writeln!(io::stderr(), "NOT TESTED: units of systemd, {why}");
            None
        }
        ran => Some(ran.unwrap()),
    }
}

#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let units = installed(folder.path());
    assert!(units.len() >= 4, "{units:?}");
    let Some(output) = systemd_analyze(&["verify", "--man=no"], &units) else { return };
    // An unknown key is only a line on standard error.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
}

#[test]
fn the_services_may_do_only_what_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let mut units = installed(folder.path());
    units.retain(|unit| unit.extension().is_some_and(|it| it == "service"));
    assert!(units.len() >= 5, "{units:?}");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let mut exposed = Vec::new();
    for unit in units {
        let words = ["security", "--offline=true", "--no-pager", &threshold];
        let Some(output) = systemd_analyze(&words, std::slice::from_ref(&unit)) else { return };
        if !output.status.success() {
            exposed.push(format!(
                "{}: {}",
                unit.display(),
                String::from_utf8_lossy(&output.stdout)
            ));
        }
    }
    assert_none(&exposed, "systemd-analyze security rates a service below 2.0");
}

/// A start fails while the settlement chain does not answer, which may last for hours. A limit of starts would keep the
/// process down after the chain has come back.
#[test]
fn nodes_and_gateways_are_started_until_their_chain_answers() {
    for unit in ["hawser.service", "hawser-gateway.service"] {
        let text = fs::read_to_string(root().join("deploy/systemd").join(unit)).unwrap();
        let has = |line: &str| text.lines().any(|it| it == line);
        assert!(has("Restart=on-failure") && has("StartLimitIntervalSec=0"), "{unit}: {text}");
    }
}
