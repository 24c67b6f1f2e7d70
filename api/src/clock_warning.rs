//! The warning of a machine's clock that differs from other clocks.

use hawser_engine::own_clock::ClockLead;

/// Returns true if one of these leads is too large, and logs the first of them when that begins: if `was_off` is false.
pub(crate) fn check_and_warn(leads: &[ClockLead], was_off: bool) -> bool {
    let off = leads.iter().find(|lead| lead.is_off());
    if let Some(lead) = off
        && !was_off
    {
        tracing::warn!(
            code = "clock_differs",
            source = lead.source.name(),
            lead_ms = lead.lead_ns / 1_000_000,
            "this machine's clock differs from others by more than two seconds"
        );
    }
    off.is_some()
}

#[cfg(test)]
mod tests {
    use hawser_engine::own_clock::ClockSource;

    use super::*;
    use crate::log_lines::LogLines;

    #[test]
    fn a_clock_that_is_two_seconds_off_is_logged_once_until_it_is_right() {
        let log = LogLines::default();
        let lead = |source, lead_ms: i64| ClockLead { source, lead_ns: lead_ms * 1_000_000 };
        let chain = ClockSource::Chain("app");
        tracing::subscriber::with_default(log.clone(), || {
            assert!(!check_and_warn(&[], false));
            assert!(!check_and_warn(
                &[lead(chain, -2_000), lead(ClockSource::Peers, 2_000)],
                false
            ));
            assert_eq!(log.lines(), [""; 0]);
            assert!(check_and_warn(&[lead(chain, 9_000), lead(ClockSource::Peers, 2_001)], false));
            assert!(check_and_warn(&[lead(chain, -3_000)], true), "it is still off");
            assert_eq!(log.lines().len(), 1, "it is logged when it begins");
            assert!(!check_and_warn(&[lead(chain, 0)], true));
            assert!(check_and_warn(&[lead(chain, -3_000)], false));
        });
        let lines = log.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, source, lead) in [(&lines[0], "peers", "2001"), (&lines[1], "app", "-3000")] {
            assert!(line.starts_with("WARN "), "{line}");
            for part in [
                "code=\"clock_differs\"".to_owned(),
                format!("source=\"{source}\""),
                format!("lead_ms={lead}"),
            ] {
                assert!(line.contains(&part), "{part} in {line}");
            }
        }
    }
}
