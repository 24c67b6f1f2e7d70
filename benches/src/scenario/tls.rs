//! Publishing over TLS and without, in turns, to two nodes that are otherwise equal.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child;
use crate::error::BenchError;
use crate::network::{Network, Node};
use crate::rpc;
use crate::scenario::publish;
use crate::stats::{self, verdict};

/// Promised share of the rate without TLS.
const SHARE_MIN: f64 = 0.85;

/// The figures of one way.
#[derive(Default)]
struct TlsFigures {
    per_second: Vec<f64>,
    /// CPU time of an envelope in the node, microseconds.
    node_cpu_us: Vec<f64>,
    generator_cpu_us: Vec<f64>,
}

/// Prints a line for each way, and the verdict. The ways change places from round to round, since a machine may become
/// slower meanwhile.
pub(crate) async fn run(
    plan: &publish::Plan,
    rounds: u32,
    hawser: &Path,
    data_dir: &Path,
) -> Result<(), BenchError> {
    let (plain, encrypted) =
        (Network::new(hawser, data_dir, 1)?, Network::new(hawser, data_dir, 1)?);
    let (certificate, key) = make_certificate(encrypted.folder())?;
    let pem = std::fs::read(&certificate)?;
    let flags =
        [format!("--tls-cert={}", certificate.display()), format!("--tls-key={}", key.display())];
    let nodes = [plain.start(0).await?, encrypted.start_flagged(0, &flags).await?];
    let mut ways = [TlsFigures::default(), TlsFigures::default()];
    for round in 0..rounds {
        let first = usize::from(!round.is_multiple_of(2));
        for at in [first, 1 - first] {
            let is_encrypted = at == 1;
            rpc::speak_tls(is_encrypted.then_some(&pem[..]));
            let published = publish::run(plan, &nodes[at], &[]).await?;
            let way = &mut ways[at];
            way.per_second.push(published.envelopes_per_second);
            way.node_cpu_us.push(published.node_cpu_us.unwrap_or(f64::NAN));
            way.generator_cpu_us.push(published.generator_cpu_us);
        }
    }
    let [without, over] = ways.map(|way| {
        [way.per_second, way.node_cpu_us, way.generator_cpu_us].map(|it| stats::median(&it))
    });
    for (name, [per_second, node, generator]) in [("without TLS", without), ("over TLS", over)] {
        println!(
            "{name}: {per_second:.0} envelopes/s, CPU us an envelope: node {node:.1}, generator {generator:.1} \
             (medians of {rounds} rounds)"
        );
    }
    let share = over[0] / without[0];
    let (promised, kept) = (100.0 * SHARE_MIN, verdict(share >= SHARE_MIN));
    println!("promised: {promised:.0} % of the rate without: {kept}, {:.0} %", 100.0 * share);
    nodes.into_iter().for_each(Node::stop);
    Ok(())
}

/// Makes a certificate for localhost. Returns it and its key.
fn make_certificate(folder: &Path) -> Result<(PathBuf, PathBuf), BenchError> {
    let (certificate, key) = (folder.join("tls.pem"), folder.join("tls.key"));
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    command.args([
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key);
    child::to_its_end(command.arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}
