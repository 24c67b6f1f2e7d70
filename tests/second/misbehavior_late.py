"""The judgement on evidence about payer reports, written from docs/protocol/misbehavior.md and
docs/protocol/payer-reports.md."""

from checkpoints import SIZE_MAX
from misbehavior import (
    CLIENT, ENVELOPE, FIRST_NODE, MINUTE, PAYER_REPORT, Ruling, broken_rule, is_absent, open_envelopes, require_signed,
    signer,
)
from primitives import keccak256
from protobuf import Refused, decode

NODES_MAX = 255
SMALL_MAX = 2**31 - 1
# An attestation binds its node from so many nanoseconds after the end of the report's last minute on.
OVER = 10 * 10**9
TYPE = (
    b"PayerReport(uint32 originatorNodeId,uint64 startSequenceId,uint64 endSequenceId,"
    b"uint32 endMinuteSinceEpoch,bytes32 payersMerkleRoot,uint32[] nodeIds)"
)
# The fields of a client envelope that hold a report and an attestation.
REPORT_ARM, ATTESTATION_ARM = 6, 7


class Figures:
    """A payer report as its fields state it."""

    def __init__(self, fields):
        numbers = [fields.get(number, 0) for number in (1, 2, 3, 4)]
        self.originator, self.start, self.end, self.minute = numbers
        self.root, self.nodes = fields.get(5, b""), sorted(fields.get(6, []))
        is_sized = len(self.root) == 32 and 0 < len(self.nodes) <= NODES_MAX
        if not is_sized or len(set(self.nodes)) < len(self.nodes):
            raise Refused("report")
        if max(self.originator, self.minute, *self.nodes) > SMALL_MAX or self.originator == 0:
            raise Refused("report")
        if not self.start <= self.end <= SIZE_MAX or self.start == self.end and any(self.root):
            raise Refused("range")


class Report(Figures):
    """A payer report behind the domain separator of its contract."""

    def __init__(self, piece):
        domain = piece[:32]
        if len(domain) < 32 or not any(domain):
            raise Refused("domain separator")
        super().__init__(decode(piece[32:], PAYER_REPORT))
        listed = b"".join(map(word, [32, len(self.nodes), *self.nodes]))
        words = b"".join(map(word, [self.originator, self.start, self.end, self.minute]))
        struct = keccak256(keccak256(TYPE) + words + self.root + keccak256(listed))
        self.id = keccak256(b"\x19\1" + domain + struct)


def word(number):
    return number.to_bytes(32, "big")


def minute_of(ns):
    return max(0, ns // MINUTE)


def judge_late(case, pieces, registry):
    try:
        report = Report(pieces[0])
    except Refused:
        raise Ruling("refuted", "malformed")
    accused = report.originator
    if accused < FIRST_NODE or accused not in registry:
        raise Ruling("refuted", "unknown_node")
    try:
        envelopes = [decode(piece, ENVELOPE) for piece in pieces[1:]]
    except Refused:
        raise Ruling("refuted", "malformed")
    exhibits, worthless = open_envelopes(envelopes, registry)
    if worthless is not None:
        raise worthless
    require_signed(accused, exhibits)
    attested, end, late = exhibits
    if not is_attestation(attested, report):
        raise attested.ruling("refuted", "not_attested")
    if report.start == report.end:
        raise late.ruling("refuted", "empty_report")
    if end.sequence != report.end:
        raise late.ruling("refuted", "other_place")
    last_minute = minute_of(end.ns)
    if late.sequence <= end.sequence or minute_of(late.ns) > last_minute:
        raise late.ruling("refuted", "not_late")
    if not is_charged(case, late):
        raise late.ruling("refuted", "not_charged")
    if minute_of(attested.ns - OVER) <= last_minute:
        raise late.ruling("claim", "attested_early")
    if accused in case.get("left", []) and not case.get("absences", {}).get(str(accused)):
        raise late.ruling("claim", "unknown_absence")
    raise late.ruling("proven", "late_release")


def judge_other(pieces, registry):
    """A report, and that of the reporter."""
    [exhibit], [report] = open_reports(pieces[:1], registry)
    if len(pieces) == 2:
        try:
            own = Figures(decode(pieces[1], PAYER_REPORT))
        except Refused:
            raise Ruling("refuted", "malformed")
        if (own.originator, own.start) != (report.originator, report.start):
            raise exhibit.ruling("refuted", "other_range")
        if (own.end, own.minute, own.root) == (report.end, report.minute, report.root):
            raise exhibit.ruling("refuted", "same_report")
    raise exhibit.ruling("claim", "other_report")


def judge_two(pieces, registry):
    """Two reports of one writer."""
    (_, exhibit), (one, other) = open_reports(pieces, registry)
    if (one.originator, one.start, one.end) != (other.originator, other.start, other.end):
        raise exhibit.ruling("refuted", "other_range")
    is_same = (one.minute, one.root) == (other.minute, other.root)
    raise exhibit.ruling(*(("refuted", "same_report") if is_same else ("claim", "two_reports")))


def open_reports(pieces, registry):
    """Envelopes of one node, and the report that each carries."""
    try:
        envelopes = [decode(piece, ENVELOPE) for piece in pieces]
    except Refused:
        raise Ruling("refuted", "malformed")
    exhibits, worthless = open_envelopes(envelopes, registry)
    if worthless is not None:
        raise worthless
    writer = exhibits[0].node
    if writer < FIRST_NODE:
        raise Ruling("refuted", "unknown_node")
    require_signed(writer, exhibits)
    return exhibits, [report_in(exhibit) for exhibit in exhibits]


def report_in(exhibit):
    """The report that its originator wrote into an envelope, by the rules."""
    try:
        _, client, arm, topic, _ = exhibit.paid_parts()
        if arm != REPORT_ARM or broken_rule(exhibit):
            raise Refused("no report")
        report = Figures(decode(client, CLIENT)[REPORT_ARM])
    except Refused:
        raise exhibit.ruling("refuted", "no_report")
    if topic != b"\4" + report.originator.to_bytes(4, "little"):
        raise exhibit.ruling("refuted", "no_report")
    return report


def is_attestation(exhibit, report):
    """True if the envelope has its originator's attestation of the report."""
    try:
        payload = decode(exhibit.paid_parts()[1], CLIENT).get(ATTESTATION_ARM)
    except Refused:
        return False
    if payload is None:
        return False
    signed = payload.get(2, {})
    is_stated = (payload.get(1, b""), signed.get(1, 0)) == (report.id, report.originator)
    return is_stated and signer(signed.get(2, {}).get(1, b""), report.id) == exhibit.key


def is_charged(case, exhibit):
    """True if a payer owes for the envelope beyond doubt."""
    if is_absent(case, exhibit.node, exhibit.ns) or broken_rule(exhibit):
        return False
    topic = exhibit.paid_parts()[3]
    return topic[0] not in (4, 5)
