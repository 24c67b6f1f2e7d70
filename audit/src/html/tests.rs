//! The page names the findings of a replay, and no text of a log becomes markup.

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::retention::RETENTION_INFINITE;
use hawser_rules::{PicoDollarPrice, Registry};

use super::markup::{Markup, bytes, dollars, duration, number};
use super::*;
use crate::replay::dependency_tests::depending_on;
use crate::replay::planted::PLANTED;
use crate::replay::testing::{MemoryLog, settings};
use crate::replay::tests::replay;
use crate::replay::{DayFigures, FaultKind, Gap, GapReason, PayerFigures, Replay, ReplaySettings};

const FACTS: PageFacts<'_> = PageFacts { keys: "of a file", tool: "hawser", now_ns: 0 };

/// The elements that pages have.
const KNOWN: [&str; 27] = [
    "b",
    "body",
    "div",
    "figcaption",
    "figure",
    "footer",
    "h1",
    "h2",
    "h3",
    "head",
    "html",
    "li",
    "main",
    "p",
    "rect",
    "section",
    "span",
    "svg",
    "table",
    "td",
    "th",
    "title",
    "tr",
    "ul",
    "meta",
    "style",
    "code",
];

/// Asserts that each tag is well-formed and known, and that nothing runs or loads.
fn assert_sound(page: &str) {
    let (_, body) = page.split_once("</style>").unwrap();
    let mut open: Vec<String> = vec!["html".to_owned(), "head".to_owned()];
    for tag in body.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("each tag ends");
        assert!(!text.contains('>'), "{text}");
        let name: String =
            tag.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '/').collect();
        match (name.strip_prefix('/'), tag.ends_with('/')) {
            (Some(name), _) => assert_eq!(open.pop().as_deref(), Some(name)),
            (None, true) => {}
            (None, false) => open.push(name.clone()),
        }
        // Names of attributes: the text outside of quotes.
        let names: String = tag.split('"').step_by(2).collect();
        let is_active = names.contains(" on") || names.contains("href") || names.contains("src");
        assert!(!is_active && !names.contains('\''), "{tag}");
        assert!(KNOWN.contains(&name.trim_matches('/')), "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn each_planted_fault_is_on_the_page() {
    let honest = MemoryLog::honest(500);
    let clean = page(&replay(&honest, &settings()), FACTS);
    assert!(clean.contains("verdict clean\">clean<"));
    assert_sound(&clean);
    let assert_named = |log: &MemoryLog, settings: &ReplaySettings, kind: FaultKind| {
        let page = page(&replay(log, settings), FACTS);
        let verdict = match kind.is_claim() {
            true => "verdict incomplete\">claim<",
            false => "verdict faulty\">faulty<",
        };
        assert!(page.contains(verdict), "{kind:?}");
        let cell = format!("<td class=\"mono\">{}</td>", kind.name());
        assert!(page.contains(&cell) && !clean.contains(&cell), "{kind:?}");
        assert_sound(&page);
    };
    for (_, plant, faults) in PLANTED {
        let mut log = honest.clone();
        plant(&mut log);
        faults.iter().for_each(|(kind, ..)| assert_named(&log, &settings(), *kind));
    }
    // Those that need another registry, the record of a pruned place, or a damaged folder.
    let unknown = ReplaySettings { registry: Registry::default(), ..settings() };
    assert_named(&honest, &unknown, FaultKind::UnknownOriginator);
    let mut pruned = honest.clone();
    pruned.prune(7).charge.as_mut().unwrap().retention_days = RETENTION_INFINITE;
    assert_named(&pruned, &settings(), FaultKind::NotExpired);
    let damaged = MemoryLog { unreadable_from: Some(300), ..honest.clone() };
    assert_named(&damaged, &settings(), FaultKind::Unreadable);
}

#[test]
fn a_dependency_on_a_later_place_of_a_chain_is_on_the_page() {
    let (log, settings) = (depending_on(OriginatorId::GROUP_MESSAGES.0, 3), settings());
    let mut replay = Replay::new(&log, &settings, None).unwrap();
    let page = page(&replay.run(|_, _| true).unwrap().unwrap(), FACTS);
    assert!(page.contains("<td class=\"mono\">100:12</td><td class=\"mono\">dependency</td>"));
    assert_sound(&page);
}

#[test]
fn a_picture_without_values_says_so() {
    let mut log = MemoryLog::honest(50);
    let is_said = |log: &MemoryLog| {
        let page = page(&replay(log, &settings()), FACTS);
        assert_sound(&page);
        let (_, lags) = page.split_once("From an envelope to its checkpoint").unwrap();
        let (lags, _) = lags.split_once("</section>").unwrap();
        assert_ne!(lags.contains("There are none."), lags.contains("<svg"), "{lags}");
        lags.contains("There are none.")
    };
    assert!(!is_said(&log));
    log.checkpoints.clear();
    assert!(is_said(&log));
}

#[test]
fn what_a_log_says_is_never_markup() {
    let attack = "</title></style><script>alert(1)</script>\"' onload=x\u{202e}<img src=x>&\u{0}";
    let mut report = replay(&MemoryLog::honest(50), &settings());
    report.network = attack.to_owned();
    report.unchecked = vec![attack.to_owned()];
    report.incomplete = vec![attack.to_owned(), "x".repeat(10_000)];
    let strand = &mut report.strands[0];
    strand.root = attack.to_owned();
    let picodollars = PicoDollarPrice(u64::MAX);
    let fees = PayerFigures { messages: 1, picodollars, ..PayerFigures::default() };
    for at in 0..100 {
        strand.figures.payers.insert(format!("{attack}{at}"), fees);
    }
    let fault = crate::replay::Fault::of_log(crate::replay::FaultKind::Forged, attack);
    strand.faults.add(fault);
    strand.figures.other_payers = fees;
    let page = page(&report, PageFacts { keys: attack, tool: attack, now_ns: i64::MIN });
    assert_sound(&page);
    for part in ["<script", "<img", "\u{202e}", "\u{0}", &"x".repeat(500)] {
        assert!(!page.contains(part), "{part:?}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn a_page_stays_small_whatever_a_log_states() {
    let mut report = replay(&MemoryLog::honest(50), &settings());
    let figures = &mut report.strands[0].figures;
    for day in (-100_000..100_000).step_by(20) {
        let of = DayFigures { envelopes: u64::MAX, bytes: u64::MAX, lag_ns_max: i64::MIN };
        figures.days.insert(day, of);
    }
    let reasons = [
        GapReason::Missing,
        GapReason::Expired,
        GapReason::Void,
        GapReason::Pruned,
        GapReason::NotShown,
    ];
    for at in 1..=1_000_u64 {
        let from = SequenceId(u64::MAX - 10 * at);
        let reason = reasons[usize::try_from(at % 5).unwrap()];
        figures.gaps.push(Gap { from, through: SequenceId(u64::MAX), reason });
    }
    for node in (0..1_000).map(OriginatorId) {
        figures.cosigners.insert(node, u64::MAX);
        figures.checkpoints.insert(node, u64::MAX);
    }
    let mut strand = report.strands[0].clone();
    strand.figures.payers.clear();
    report.strands = (0..500)
        .map(OriginatorId)
        .map(|originator_id| crate::replay::ReplayedStrand { originator_id, ..strand.clone() })
        .collect();
    report.strands[0].figures.payers =
        (0..50_000_u64).map(|at| (format!("{at:040x}"), PayerFigures::default())).collect();
    let page = page(&report, FACTS);
    assert!(page.len() < 4_000_000, "{}", page.len());
    assert_sound(&page);
}

/// A node dates a few envelopes centuries back or ahead, so that all pictures have one bar.
#[test]
fn envelopes_of_far_days_squeeze_no_picture() {
    let mut report = replay(&MemoryLog::honest(50), &settings());
    let of = |envelopes| DayFigures { envelopes, bytes: 1, lag_ns_max: 1 };
    let mut drawn = |days: &[(i64, u64)]| {
        report.strands[0].figures.days =
            days.iter().map(|(day, envelopes)| (*day, of(*envelopes))).collect();
        let page = page(&report, FACTS);
        assert_sound(&page);
        (page.contains("at most 100 a day"), page.contains("dated outside of these days"))
    };
    let month: Vec<(i64, u64)> = (20_000..20_030).map(|day| (day, 100)).collect();
    assert_eq!(drawn(&month), (true, false));
    let far = |envelopes| [&[(0, envelopes)][..], &month[..], &[(93_000, envelopes)][..]].concat();
    assert_eq!(drawn(&far(1)), (true, true));
    assert_eq!(drawn(&far(50)), (false, false), "too many to be left out");
    let years: Vec<(i64, u64)> = (20_000..21_000).step_by(2).map(|day| (day, 100)).collect();
    assert_eq!(drawn(&years), (false, false), "all days of a long log are drawn");
}

#[test]
fn an_empty_log_has_a_page() {
    let mut log = MemoryLog::honest(1);
    (log.head, log.last_held) = (0, 0);
    let page = page(&replay(&log, &settings()), FACTS);
    assert!(page.contains("verdict incomplete\">incomplete<"));
    assert_sound(&page);
}

#[test]
fn numbers_are_as_people_read_them() {
    assert_eq!(number(0), "0");
    assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
    assert_eq!(dollars(PicoDollarPrice(0)), "$0");
    assert_eq!(dollars(PicoDollarPrice(1_500_000_000_000)), "$1.5");
    assert_eq!(dollars(PicoDollarPrice(1)), "$0.000000000001");
    assert_eq!(bytes(1_023), "1023 B");
    assert_eq!(bytes(1_536), "1.5 KiB");
    assert_eq!(duration(1_500_000_000), "1.5 s");
    assert_eq!(duration(2_000_000), "2 ms");
    let mut markup = Markup::default();
    markup.text("<&>\"'");
    assert_eq!(markup.into_string(), "&lt;&amp;&gt;&quot;&#39;");
}
