"""The judgement on late releases, written from docs/protocol/misbehavior.md and docs/protocol/payer-reports.md."""

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
# The field of a client envelope that holds an attestation.
ATTESTATION_ARM = 7


class Report:
    """A payer report behind the domain separator of its contract."""

    def __init__(self, piece):
        domain = piece[:32]
        if len(domain) < 32 or not any(domain):
            raise Refused("domain separator")
        fields = decode(piece[32:], PAYER_REPORT)
        numbers = [fields.get(number, 0) for number in (1, 2, 3, 4)]
        self.originator, self.start, self.end, minute = numbers
        root, nodes = fields.get(5, b""), sorted(fields.get(6, []))
        is_sized = len(root) == 32 and 0 < len(nodes) <= NODES_MAX and len(set(nodes)) == len(nodes)
        if not is_sized or max(self.originator, minute, *nodes) > SMALL_MAX or self.originator == 0:
            raise Refused("report")
        if not self.start <= self.end <= SIZE_MAX or self.start == self.end and any(root):
            raise Refused("range")
        listed = b"".join(map(word, [32, len(nodes), *nodes]))
        words = b"".join(map(word, [self.originator, self.start, self.end, minute]))
        self.id = keccak256(b"\x19\1" + domain + keccak256(keccak256(TYPE) + words + root + keccak256(listed)))


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
