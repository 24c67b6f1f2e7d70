//! The figures of `docs/performance.md`, made from the files that runs have left.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hawser_proto::date::date_text;

use crate::error::BenchError;
use crate::limits::Limits;
use crate::results::Run;
use crate::scenario::catch_up::CaughtUp;
use crate::scenario::publish::Published;
use crate::scenario::query::Queried;
use crate::scenario::size_table;
use crate::stats::{self, Quantiles, grouped};
use crate::verdict::{PromiseOutcome, verdicts};

const BEGIN: &str = "<!-- figures: made by hawser-bench report, not by hand -->";
const END: &str = "<!-- end of figures -->";

/// Replaces the text between the two marks of `document` by the figures of these runs.
pub(crate) fn write(document: &Path, runs: &[Run]) -> Result<(), BenchError> {
    let text = fs::read_to_string(document)?;
    fs::write(document, replaced(&text, &figures(runs)?)?)?;
    Ok(())
}

/// The figures of some runs as Markdown.
pub(crate) fn figures(runs: &[Run]) -> Result<String, BenchError> {
    let mut out = String::new();
    for run in runs {
        section(&mut out, run)?;
    }
    Ok(out)
}

fn replaced(text: &str, figures: &str) -> Result<String, BenchError> {
    let (head, rest) = text.split_once(BEGIN).ok_or("the document has no place for figures")?;
    let (_, tail) = rest.split_once(END).ok_or("the document's place for figures has no end")?;
    Ok(format!("{head}{BEGIN}\n\n{figures}{END}{tail}"))
}

fn section(out: &mut String, run: &Run) -> Result<(), BenchError> {
    let machine = &run.machine;
    writeln!(out, "### {} cores of {}, commit `{}`\n", machine.cores, machine.cpu, run.commit)?;
    writeln!(
        out,
        "{}, {} MiB of memory, Linux {}, data on {}. Command: `{}`\n",
        date_text((run.unix_s / 86_400).cast_signed()),
        grouped(stats::float(machine.memory_mib)),
        machine.kernel,
        machine.filesystem,
        run.command
    )?;
    if let Some(limits) = &run.limits {
        of_limits(out, limits)?;
    }
    of_verdicts(out, &verdicts(run))?;
    of_publishing(out, run)?;
    of_the_rest(out, run)?;
    if !run.sizes.is_empty() {
        writeln!(out, "{}", size_table::table(&run.sizes)?)?;
    }
    Ok(())
}

fn of_limits(out: &mut String, limits: &Limits) -> Result<(), BenchError> {
    let crypto = &limits.crypto;
    let per_core = |us: f64| grouped(1e6 / us);
    writeln!(out, "Limits of the machine, measured in the same run:\n")?;
    writeln!(out, "| limit | value | per second and core |\n|---|--:|--:|")?;
    for (name, us) in [
        ("recover a payer, libsecp256k1", crypto.recover_libsecp256k1_us),
        ("recover a payer, k256", crypto.recover_k256_us),
        ("sign, k256", crypto.sign_k256_us),
        ("sign, libsecp256k1", crypto.sign_libsecp256k1_us),
        ("of which blinding the context anew", crypto.rerandomize_libsecp256k1_us),
        ("sign, as the node does", crypto.sign_node_us),
        ("**t_verify**: fastest recovery", crypto.t_verify_us()),
        ("**t_sign**: fastest signature, without the blinding", crypto.t_sign_us()),
    ] {
        writeln!(out, "| {name} | {us:.1} µs | {} |", per_core(us))?;
    }
    for rpc in &limits.rpc {
        let name = format!("**t_rpc**: idle call of {} envelopes, both sides", rpc.per_request);
        writeln!(out, "| {name} | {:.1} µs | {} |", rpc.cpu_us, per_core(rpc.cpu_us))?;
    }
    let disk = limits.fdatasync;
    writeln!(
        out,
        "| fdatasync of 4 KiB appended, p50 / p99 | {:.0} / {:.0} µs | |\n",
        disk.p50_us, disk.p99_us
    )?;
    Ok(())
}

fn of_verdicts(out: &mut String, verdicts: &[PromiseOutcome]) -> Result<(), BenchError> {
    if verdicts.is_empty() {
        return Ok(());
    }
    writeln!(out, "| promise | measured | required | |\n|---|--:|--:|---|")?;
    for verdict in verdicts {
        let result = if verdict.is_kept() {
            "reached".to_owned()
        } else {
            format!("**missed by {:.0} %**", (1.0 - verdict.ratio) * 100.0)
        };
        let PromiseOutcome { promise, measured, required, .. } = verdict;
        writeln!(out, "| {promise} | {measured} | {required} | {result} |")?;
    }
    writeln!(out)?;
    Ok(())
}

fn of_publishing(out: &mut String, run: &Run) -> Result<(), BenchError> {
    if run.publish.is_empty() && run.latency.is_none() {
        return Ok(());
    }
    writeln!(
        out,
        "Publishing (latency of a request; CPU time of each envelope in generator / node / \
         followers):\n"
    )?;
    writeln!(
        out,
        "| in flight | per request | followers | envelopes/s | of the limit | p50 | p99 | p99.9 \
         | CPU µs | followers behind |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for published in run.publish.iter().chain(&run.latency) {
        of_published(out, run, published)?;
    }
    writeln!(out)?;
    Ok(())
}

fn of_published(out: &mut String, run: &Run, published: &Published) -> Result<(), BenchError> {
    let plan = &published.plan;
    let limit = run.limits.as_ref();
    let limit = limit.and_then(|limits| limits.publish(plan.per_request, plan.shape.in_flight));
    let share = limit.map_or_else(String::new, |limit| {
        let share = published.envelopes_per_second / limit.envelopes_per_second();
        format!("{:.0} %", share * 100.0)
    });
    let cpu = |us: Option<f64>| us.map_or_else(|| "–".to_owned(), |us| format!("{us:.0}"));
    let behind = published.followers_behind_s;
    writeln!(
        out,
        "| {} | {} | {} | {} | {share} | {} | {:.0} / {} / {} | {} |",
        plan.shape.in_flight,
        plan.per_request,
        published.followers,
        grouped(published.envelopes_per_second),
        of_quantiles(&published.latency),
        published.generator_cpu_us,
        cpu(published.node_cpu_us),
        cpu(published.followers_cpu_us),
        behind.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.2} s")),
    )?;
    Ok(())
}

fn of_quantiles(quantiles: &Quantiles) -> String {
    let ms = |us: f64| format!("{:.2} ms", us / 1e3);
    [quantiles.p50_us, quantiles.p99_us, quantiles.p999_us].map(ms).join(" | ")
}

fn of_many_clients(out: &mut String, query: &Queried) -> Result<(), BenchError> {
    let Some(at_once) = &query.at_once else { return Ok(()) };
    writeln!(
        out,
        "\n{} clients at once got {} pages/s; CPU time of each page: server {:.0} µs, generator {:.0} µs.",
        at_once.clients,
        grouped(at_once.pages_per_second),
        at_once.server_cpu_us.unwrap_or(f64::NAN),
        at_once.generator_cpu_us,
    )?;
    Ok(())
}

fn of_catch_up(
    out: &mut String,
    name: &str,
    caught_up: Option<&CaughtUp>,
) -> Result<(), BenchError> {
    let Some(caught_up) = caught_up else { return Ok(()) };
    let mib = |kib: u64| kib / 1024;
    writeln!(
        out,
        "{name}: {} envelopes readable in {:.1} s and verified in {:.1} s; CPU time of each envelope {:.0} µs at the leader, \
         {:.0} µs at the follower. Most that was resident, by tenth of the way:\n",
        grouped(stats::float(caught_up.envelopes)),
        caught_up.elapsed_s,
        caught_up.verified_s,
        caught_up.leader_cpu_us,
        caught_up.follower_cpu_us
    )?;
    writeln!(out, "| held | leader | follower |\n|--:|--:|--:|")?;
    for at in &caught_up.memory {
        let (leader, follower) = (at.leader.resident_kib, at.follower.resident_kib);
        let held = grouped(stats::float(at.held));
        writeln!(out, "| {held} | {} MiB | {} MiB |", mib(leader), mib(follower))?;
    }
    writeln!(out)?;
    Ok(())
}

fn of_growth(out: &mut String, run: &Run) -> Result<(), BenchError> {
    let Some(grown) = run.grown.as_ref().filter(|grown| grown.added > 0) else { return Ok(()) };
    writeln!(
        out,
        "Stored {} envelopes, {:.1} µs of CPU time each: {:.2} bytes written to disk for each byte stored, {} MiB \
         in the folder.\n",
        grouped(stats::float(grown.added)),
        grown.node_cpu_us,
        grown.write_amplification(),
        grown.disk_bytes >> 20,
    )?;
    Ok(())
}

fn of_the_rest(out: &mut String, run: &Run) -> Result<(), BenchError> {
    let mib = |kib: u64| kib / 1024;
    if run.delivery.is_some() || run.query.is_some() {
        writeln!(out, "| latency | count | p50 | p99 | p99.9 |\n|---|--:|--:|--:|--:|")?;
        let mut row = |name: &str, quantiles: &Quantiles| {
            writeln!(out, "| {name} | {} | {} |", quantiles.count, of_quantiles(quantiles))
        };
        if let Some(delivered) = &run.delivery {
            row("published at one node → delivered at another", &delivered.delivery)?;
            row("published → answered meanwhile", &delivered.acknowledgement)?;
        }
        if let Some(query) = &run.query {
            row("query, seen by the client", &query.client)?;
            let mean = query.server_mean_us.map_or_else(String::new, |us| {
                format!("; its own metric gives a mean handling time of {us:.0} µs")
            });
            if let Some(at_once) = &query.at_once {
                let name = format!("query, {} clients at once", at_once.clients);
                row(&name, &at_once.client)?;
            }
            let cpu = query.server_cpu_us;
            writeln!(out, "\nThe server spent {cpu:.0} µs of CPU time on each query{mean}.")?;
            of_many_clients(out, query)?;
        }
        writeln!(out)?;
    }
    of_growth(out, run)?;
    of_catch_up(out, "Catch-up", run.catch_up.as_ref())?;
    of_catch_up(out, "Catch-up, shown first", run.catch_up_shown.as_ref())?;
    if let Some(memory) = &run.memory {
        writeln!(
            out,
            "Resident with {} envelopes of {} bytes: {} MiB, and {} MiB with {} subscriptions that \
             had brought {} envelopes ({} MiB of it anonymous).\n",
            grouped(stats::float(memory.stored)),
            memory.payload_len,
            mib(memory.before.resident_kib),
            mib(memory.after.resident_kib),
            memory.subscriptions,
            memory.delivered,
            mib(memory.after.anonymous_kib)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_between_the_marks_and_nowhere_else() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replaced(&text, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert!(replaced("no marks", "new").is_err());
    }
}
