#!/usr/bin/env python3
"""A second implementation of the judgement on reports in docs/protocol/misbehavior.md, written from that page.

Reads cases as misbehavior_golden.py makes them, one JSON object a line, and prints its judgement of each. It needs
nothing but Python 3.8. It does not parse key packages, so it judges only uploads that are empty.
"""

import json
import math
import sys

sys.dont_write_bytecode = True

from checkpoints import unhex
from mls_messages import is_application
from primitives import N, keccak256, recover
from protobuf import BOOL, BYTES, I64, U32, U64, Refused, contents, decode, each_field

MINUTE = 60 * 10**9
CLOCKS = 5 * MINUTE
FIRST_NODE = 100
CHAINS = 0, 1
LIVENESS, SAFETY = (1, 2, 3), (4, 5, 6, 7, 8)
DUPLICATE, ORDER, CAUSAL, PAYLOAD, CHAIN = 5, 4, 6, 7, 8
BYTES_MAX, ENVELOPES_MAX, WINDOW_MAX, REQUEST_MAX = 8 << 20, 64, 1000, 65 << 10
STRUCTURED_MAX = 256 << 10
KINDS = {2: 0, 3: 1, 4: 3, 5: 2, 6: 4, 7: 5}


class Ruling(Exception):
    """The end of a judgement."""

    def __init__(self, verdict, fact, place=0, rule=0, severity=None, missing=()):
        super().__init__(fact)
        self.found = {
            "verdict": verdict,
            "fact": fact,
            "place": place,
            "rule": rule,
            "severity": severity,
            "missing": list(missing),
        }


# Envelopes -----------------------------------------------------------------------------------------

SIGNATURE = {1: BYTES}
CURSOR = {1: [{1: U32, 2: U64}]}
QUERY = {1: [BYTES], 2: [U32], 3: CURSOR}
PAYER_REPORT = {1: U32, 2: U64, 3: U64, 4: U32, 5: BYTES, 6: [U32]}
ATTESTATION = {1: BYTES, 2: {1: U32, 2: SIGNATURE}}
MESSAGE = {1: {1: BYTES, 2: BYTES, 3: BOOL}}
PAYLOADS = {2: MESSAGE, 3: {}, 4: {}, 5: {}, 6: PAYER_REPORT, 7: ATTESTATION}
CLIENT = {1: {2: BYTES, 3: CURSOR}, **PAYLOADS, "one of": tuple(PAYLOADS)}
PAYER = {1: BYTES, 2: SIGNATURE, 3: U32, 4: U32}
STATEMENT = {1: U32, 2: U64, 3: I64, 4: BYTES, 5: U64, 6: U64, 7: U64}
ENVELOPE = {1: BYTES, 2: SIGNATURE, 3: {1: BYTES}, "one of": (2, 3)}
REQUESTS = {1: U32, 2: {1: QUERY}, 3: {1: QUERY, 2: U32}, 4: {1: [PAYER]}, "one of": (2, 3, 4)}
REPORT = {1: U64, 2: U32, 3: U32, 4: REQUESTS, 5: {1: [ENVELOPE]}, 6: BOOL, "one of": (4, 5)}


def canonical(signature):
    """An originator's signature with v of 0 or 1 and low s; None if it has no such form."""
    if len(signature) != 65:
        return None
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    v -= 27 if v in (27, 28) else 0
    if r >= N or s >= N or v > 1:
        return None
    if s > N // 2:
        s, v = N - s, v ^ 1
    return signature[:32] + s.to_bytes(32, "big") + bytes([v])


def signer(signature, digest):
    """The key of a payer's or an attestation's signature, which may have a high s; None for other bytes."""
    signature = canonical(signature) if len(signature) == 65 and signature[64] <= 1 else None
    return signature and recover(signature, digest)


class Exhibit:
    """An envelope of a report, signed by its originator or naming a transaction of a chain."""

    def __init__(self, envelope, registry):
        self.statement = envelope.get(1, b"")
        try:
            self.fields = decode(self.statement, STATEMENT)
        except Refused:
            raise Ruling("refuted", "malformed")
        self.node, self.sequence = self.fields.get(1, 0), self.fields.get(2, 0)
        self.ns, self.paid = self.fields.get(3, 0), self.fields.get(4, b"")
        self.transaction = None
        if 3 in envelope:
            self.transaction = envelope[3].get(1, b"")
            if len(self.transaction) != 32:
                raise self.ruling("refuted", "malformed")
            return
        if 2 not in envelope:
            raise self.ruling("refuted", "unsigned")
        if self.node not in registry:
            raise self.ruling("refuted", "unknown_originator")
        self.key, signature = registry[self.node], canonical(envelope[2].get(1, b""))
        if signature is None:
            raise self.ruling("refuted", "bad_signature")
        if recover(signature, keccak256(b"originator|" + self.statement)) != self.key:
            raise self.ruling("refuted", "forged")

    def ruling(self, verdict, fact, **more):
        return Ruling(verdict, fact, self.sequence, **more)

    def is_by(self, node):
        return self.node == node and self.transaction is None

    def paid_parts(self):
        """Payer envelope, client envelope, topic and dependencies; raises Refused for what breaks rule 1."""
        payer = decode(self.paid, PAYER)
        client_bytes = payer.get(1, b"")
        if sum(len(it) for arm in (5, 6, 7) for it in contents(client_bytes, arm)) > STRUCTURED_MAX:
            raise Refused("payload")
        client = decode(client_bytes, CLIENT)
        arms = [arm for arm in CLIENT["one of"] if arm in client]
        topic = client.get(1, {}).get(2, b"")
        if 1 not in client or not arms or len(topic) < 2 or topic[0] > 5:
            raise Refused("client")
        needed = {it.get(1, 0): it.get(2, 0) for it in client[1].get(3, {}).get(1, [])}
        return payer, client_bytes, arms[0], topic, needed

    def message(self):
        """The bytes of a group message; None for another payload, and for a message without any."""
        return decode(self.paid_parts()[1], CLIENT).get(2, {}).get(1, {}).get(1)

    def is_free(self):
        """None if the payer layers do not decode."""
        try:
            return self.paid_parts()[3][0] in (4, 5)
        except Refused:
            return None

    def is_read_elsewhere(self):
        """Tells whether software may have accepted the payer layers that passes over odd fields or knows newer ones."""
        client, signature, target, days, topic, arm, has_newer = b"", None, 0, 0, None, None, False
        try:
            for number, wire, value in each_field(self.paid):
                if (number, wire) == (1, 2):
                    client = value
                elif (number, wire) == (2, 2):
                    inner = [it for number, wire, it in each_field(value) if (number, wire) == (1, 2)]
                    signature = ([signature or b""] + inner)[-1]
                elif (number, wire) == (3, 0):
                    target = value & 0xFFFFFFFF
                elif (number, wire) == (4, 0):
                    days = value & 0xFFFFFFFF
            for number, wire, value in each_field(client):
                if (number, wire) == (1, 2):
                    inner = [it for number, wire, it in each_field(value) if (number, wire) == (2, 2)]
                    topic = ([topic] + inner)[-1]
                elif wire == 2 and number in KINDS:
                    arm = number
                has_newer = has_newer or wire == 2 and number not in (1, *KINDS)
        except Refused:
            return False
        if topic is None or len(topic) < 2:
            return False
        is_known = arm is not None and topic[0] < 6
        is_whole = arm in (2, 3, 4) and topic[0] == KINDS[arm] if is_known else arm is not None or has_newer
        is_for_it = target == self.node and is_retention(days) and signature is not None
        return is_whole and is_for_it and signer(signature, payer_digest(target, client)) is not None

    def is_taken_elsewhere(self):
        """Tells whether software may have accepted the envelope that checks less than the rules."""
        payer, client, _, _, _ = self.paid_parts()
        signature, message = payer.get(2, {}).get(1, b""), self.message()
        if len(signature) == 65 and 4 <= signature[64] <= 7:
            signature = signature[:64] + bytes([signature[64] - 4])
        has_payer = signer(signature, payer_digest(self.node, client)) is not None
        is_odd = message is not None and is_application(message, False)
        rule = broken_rule(self, has_payer, is_odd)
        return has_payer and (rule == 0 or rule == 9 and seconds_late(self) > 0)


# Rates ---------------------------------------------------------------------------------------------


def is_on(target):
    """Tells whether a target, read as a signed 32-bit number, leaves congestion on."""
    return 0 < target & 0xFFFFFFFF <= 0x7FFFFFFF


def units(counts, target):
    if not is_on(target):
        return 0
    target &= 0xFFFFFFFF
    m0, m1, m2, m3, m4 = counts
    busiest = max(m0, m1, (4 * m1 + 3 * m2 + 2 * m3 + m4) // 10)
    if busiest <= target:
        return 0
    ratio = busiest / target
    if ratio >= 1.5:
        return 100
    return min(100, int(100 * (math.exp(4 * (ratio - 1)) - 1) / (math.exp(2) - 1)))


class Rates:
    """The history of rates: start, message fee, storage fee, congestion fee, target."""

    def __init__(self, case):
        self.rates, self.until = case.get("rates") or [], case.get("rates_complete_until_ns")

    def has(self, ns):
        return bool(self.rates) and self.rates[0][0] * 10**9 <= ns

    def is_complete(self, ns):
        return self.until is None or ns <= self.until

    def during(self, since, until):
        started = [rate for rate in self.rates if rate[0] * 10**9 <= until]
        before = [rate[0] for rate in self.rates if rate[0] * 10**9 <= since]
        return [rate for rate in started if not before or rate[0] >= before[-1]]

    def near(self, ns):
        return self.during(ns - 65 * MINUTE, ns + CLOCKS)

    def begun(self, ns):
        return self.during(-(2**63), ns + CLOCKS)

    @staticmethod
    def wrong_fee(rates, size, days, base, congestion):
        """The number of the rule that the fees break under all of these rates; 0 if none."""
        if not rates:
            return 0
        if not any(message + storage * size * days == base for _, message, storage, _, _ in rates):
            return 10
        for _, _, _, step, target in rates:
            if congestion == 0 or is_on(target) and step and congestion % step == 0 and congestion // step <= 100:
                return 0
        return 11


# Kinds ---------------------------------------------------------------------------------------------


def judge_statements(case, accused, exhibits):
    if len(exhibits) != 2:
        raise Ruling("refuted", "malformed")
    require_signed(accused, exhibits)
    one, other = exhibits
    if one.sequence != other.sequence:
        raise one.ruling("refuted", "two_places")
    if one.statement == other.statement:
        raise one.ruling("refuted", "one_statement")
    severity = "encoding"
    if any(one.fields.get(number, 0) != other.fields.get(number, 0) for number in (5, 6, 7)):
        severity = "metadata"
    if (one.ns, one.paid) != (other.ns, other.paid):
        severity = "content"
    raise one.ruling("proven", "two_statements", severity=severity)


def require_signed(accused, exhibits):
    for exhibit in exhibits:
        if not exhibit.is_by(accused):
            raise exhibit.ruling("refuted", "not_of_accused")


def judge_order(case, accused, exhibits):
    require_signed(accused, exhibits)
    if len(exhibits) > 2:
        raise Ruling("refuted", "malformed")
    if len(exhibits) == 1:
        raise future(case, exhibits[0])
    earlier, later = sorted(exhibits, key=lambda it: it.sequence)
    if earlier.sequence == later.sequence:
        raise later.ruling("refuted", "one_place")
    if earlier.ns - later.ns > 10**9:
        raise later.ruling("proven", "time_back")
    ahead = future(case, later)
    if ahead.found["verdict"] != "refuted":
        raise ahead
    is_next = later.sequence == earlier.sequence + 1
    raise later.ruling(*(("refuted", "in_order") if is_next else ("claim", "gap")))


def future(case, exhibit):
    for node, sequence, block_ns in case.get("anchors", []):
        if (node, sequence) == (exhibit.node, exhibit.sequence) and exhibit.ns > block_ns + CLOCKS:
            return exhibit.ruling("proven", "time_ahead_of_chain")
    clock = min(case["reporter_time_ns"], 2**63 - 1)
    clock = max(clock, case.get("held_at_ns", clock))
    is_ahead = exhibit.ns > clock + CLOCKS
    return exhibit.ruling(*(("claim", "time_ahead") if is_ahead else ("refuted", "not_ahead")))


def judge_causal(case, accused, exhibits, worthless):
    for exhibit in exhibits:
        if exhibit.transaction is not None and worthless is None:
            worthless = exhibit.ruling("refuted", "not_of_accused")
    own = [exhibit for exhibit in exhibits if exhibit.is_by(accused)]
    if not own:
        raise worthless or Ruling("refuted", "not_of_accused")
    claimed = unknown = None
    for exhibit in own:
        for node, sequence in sorted(dependencies(exhibit).items()):
            if node >= FIRST_NODE:
                raise exhibit.ruling("proven", "depends_on_node")
            fact = dependency(case, exhibit, node, sequence)
            if fact in ("dependency_later", "dependency_absent"):
                claimed = claimed or exhibit.ruling("claim", fact)
            elif fact and unknown is None:
                unknown = exhibit.ruling("inconclusive", fact, missing=["chain"])
    raise claimed or unknown or worthless or own[0].ruling("refuted", "dependencies_hold")


def dependencies(exhibit):
    try:
        return exhibit.paid_parts()[4]
    except Refused:
        return {}


def dependency(case, exhibit, node, sequence):
    """The name of the finding on a dependency; None if the chain had it."""
    if sequence == 0:
        return None
    for place in case.get("places", []):
        if (place["originator"], place["sequence"]) == (node, sequence):
            if "block_ns" in place:
                return "dependency_later" if place["block_ns"] > exhibit.ns + CLOCKS else None
            if place["final_ns"] > exhibit.ns + CLOCKS:
                return "dependency_absent"
    return "dependency_unknown"


def judge_payload(case, accused, exhibits, worthless):
    rates = Rates(case)
    for exhibit in exhibits:
        if exhibit.transaction is not None and worthless is None:
            worthless = exhibit.ruling("refuted", "chain_proof")
    for exhibit in exhibits:
        if not exhibit.is_by(accused) and worthless is None:
            worthless = exhibit.ruling("refuted", "not_of_accused")
    own = [exhibit for exhibit in exhibits if exhibit.is_by(accused)]
    claimed, undecided, missing = None, None, []
    for exhibit in own:
        verdict, fact, rule, lacks = judge_envelope(case, rates, exhibit)
        if verdict == "proven":
            raise exhibit.ruling(verdict, fact, rule=rule)
        missing += [lacks] if lacks else []
        if verdict == "claim":
            claimed = claimed or exhibit.ruling(verdict, fact, rule=rule)
        elif verdict == "inconclusive":
            undecided = undecided or exhibit.ruling(verdict, fact, missing=[lacks])
    window = judge_window(rates, own) if own else worthless
    if window.found["verdict"] == "proven":
        raise window
    missing += window.found["missing"]
    if claimed is not None:
        order = ("rates", "rate_block", "chain", "window", "tree")
        claimed.found["missing"] = sorted(set(missing), key=order.index)
        raise claimed
    raise undecided or (worthless if worthless and window.found["verdict"] == "refuted" else window)


def judge_envelope(case, rates, exhibit):
    """Verdict, fact, rule and missing data about one envelope."""
    rule = broken_rule(exhibit)
    is_late = rule == 9 and seconds_late(exhibit) > 0
    odd = rule if rule in (2, 6) and exhibit.is_taken_elsewhere() else 0
    if rule == 1 and exhibit.is_read_elsewhere():
        return "claim", "odd_encoding", rule, None
    if rule and not is_late and not odd:
        return "proven", "rule_broken", rule, None
    payer, _, _, topic, _ = exhibit.paid_parts()
    base, congestion = exhibit.fields.get(5, 0), exhibit.fields.get(6, 0)
    verdict = ("nothing", None, 0, None)
    if topic[0] in (4, 5):
        if base or congestion:
            return "proven", "rule_broken", 10 if base else 11, None
    elif not rates.has(exhibit.ns):
        verdict = "inconclusive", "rates_unknown", 0, "rates"
    else:
        charged = len(exhibit.paid), payer.get(4, 0), base, congestion
        if rates.wrong_fee(rates.near(exhibit.ns), *charged):
            rule = rates.wrong_fee(rates.begun(exhibit.ns), *charged)
            if not rates.is_complete(exhibit.ns):
                verdict = "inconclusive", "rates_unknown", 0, "rates"
            elif rule:
                return "proven", "rule_broken", rule, None
            else:
                verdict = "inconclusive", "former_rate", 0, "rate_block"
    if odd:
        return "claim", "odd_encoding", odd, verdict[3]
    if is_absent(case, exhibit.node, exhibit.ns - 60 * MINUTE) and is_absent(case, exhibit.node, exhibit.ns):
        return "claim", "absent", 17, verdict[3]
    if is_late:
        return "claim", "late_expiry", 9, verdict[3]
    return verdict


def is_absent(case, node, ns):
    spans = case.get("absences", {}).get(str(node), [])
    return any((start + 1) * 10**9 <= ns and (end is None or ns < end * 10**9) for start, end in spans)


def is_retention(days):
    return 2 <= days <= 365 or days == 2**32 - 1


def payer_digest(target, client):
    return keccak256(b"target|" + target.to_bytes(4, "big") + b"payer|" + client)


def broken_rule(exhibit, has_payer=False, has_message=False):
    """The first rule that an envelope breaks by itself; 0 if none. Rule 16 needs 25 MiB, more than a report has."""
    try:
        payer, client, arm, topic, needed = exhibit.paid_parts()
    except Refused:
        return 1
    days, target = payer.get(4, 0), payer.get(3, 0)
    if target != exhibit.node:
        return 3
    paying = signer(payer.get(2, {}).get(1, b""), payer_digest(target, client))
    if paying is None and not has_payer:
        return 2
    if topic[0] != KINDS[arm] or len(topic) > 128:
        return 4
    if any(node >= FIRST_NODE for node in needed):
        return 7
    if not is_retention(days):
        return 8
    if arm in (6, 7):
        if paying != exhibit.key:
            return 5
    elif arm == 2:
        if not has_message and not is_application(exhibit.message() or b"", True, topic):
            return 6
    elif arm != 3:
        # An identity update, or an upload that is empty; others need a parser of key packages.
        return 14 if arm == 4 else 6
    return 0 if -600 <= seconds_late(exhibit) <= 86400 else 9


def seconds_late(exhibit):
    """Seconds by which the expiry is later than time and retention give; 0 if there is no end, negative if earlier."""
    days = exhibit.paid_parts()[0].get(4, 0)
    expiry = max(0, exhibit.ns) // 10**9 + days * 86400
    return 0 if days == 2**32 - 1 else exhibit.fields.get(7, 0) - expiry


def judge_window(rates, exhibits):
    strand = sorted(exhibits, key=lambda it: it.sequence)
    last, first, before = strand[-1], strand[0], strand[:-1]
    if len(exhibits) == 1:
        return last.ruling("refuted", "no_rule_broken")
    if last.is_free():
        return last.ruling("refuted", "no_rule_broken", rule=12)
    for one, after in zip(strand, strand[1:]):
        if after.sequence != one.sequence + 1:
            return after.ruling("inconclusive", "window_gap", missing=["window"])
    begins = (last.ns // MINUTE - 4) * MINUTE
    if first.sequence > 1 and first.ns + 10**9 >= begins:
        return last.ruling("inconclusive", "window_start", missing=["window"])
    if not rates.has(last.ns):
        return last.ruling("inconclusive", "rates_unknown", missing=["rates"])
    fewest, most = [0] * 5, [0] * 5
    for one in before:
        # A later time than that of the last one counts in its minute.
        age = max(0, last.ns // MINUTE - one.ns // MINUTE)
        if age < 5 and one.is_free() is not True:
            most[age] += 1
            fewest[age] += one.is_free() is False and one.ns <= last.ns
    most[0] += 1
    stated = last.fields.get(6, 0)

    def is_due(rate):
        target, step = rate[4], rate[3]
        return any(step * it == stated for it in range(units(fewest, target), units(most, target) + 1))

    if any(map(is_due, rates.near(last.ns))):
        return last.ruling("refuted", "no_rule_broken", rule=12)
    if not rates.is_complete(last.ns):
        return last.ruling("inconclusive", "rates_unknown", missing=["rates"])
    if any(map(is_due, rates.begun(last.ns))):
        return last.ruling("inconclusive", "former_rate", rule=12, missing=["rate_block"])
    if any(stated <= rate[3] * units(most, rate[4]) or stated == 0 for rate in rates.begun(last.ns)):
        return last.ruling("claim", "congestion_too_low", rule=12)
    return last.ruling("proven", "rule_broken", rule=12)


def judge_chain(case, accused, exhibits, worthless):
    unknown = None
    for exhibit in exhibits:
        if exhibit.transaction is None or exhibit.node not in CHAINS:
            is_unsigned = exhibit.transaction is not None and exhibit.node >= FIRST_NODE
            fact = "chain_proof" if is_unsigned else "not_of_chain"
            worthless = worthless or exhibit.ruling("refuted", fact)
            continue
        place = exhibit.node, exhibit.sequence, exhibit.transaction.hex()
        events = [it for it in case.get("events", []) if place == (it["originator"], it["sequence"], it["transaction"])]
        if not events:
            unknown = unknown or exhibit.ruling("inconclusive", "chain_unknown", missing=["chain"])
        elif "client" not in events[0] or not is_of_event(exhibit, events[0]):
            raise exhibit.ruling("claim", "false_chain_envelope")
    raise unknown or worthless or exhibits[0].ruling("refuted", "as_on_chain")


def is_of_event(exhibit, event):
    try:
        _, client, _, topic, _ = exhibit.paid_parts()
    except Refused:
        return False
    return (client.hex(), topic[1:].hex()) == (event["client"], event["identifier"])


# Reports -------------------------------------------------------------------------------------------


def judge(case):
    """Returns the judgement of a report: verdict, deciding fact, place, rule, severity, missing data, and its host."""
    data = unhex(case["report"])
    registry = {int(node): unhex(key) for node, key in case["registry"].items()}
    try:
        judge_report(case, data, registry)
    except Ruling as ruling:
        return {**ruling.found, "host": host_of(case, data, registry)}
    raise AssertionError("each judgement ends")


def host_of(case, data, registry):
    """The node that signed the report as its host; None if no node of the registry did."""
    signature = canonical(unhex(case.get("host_signature", "")))
    key = signature and recover(signature, keccak256(b"misbehavior|" + data))
    return next((node for node in sorted(registry) if key and registry[node] == key), None)


def read_report(data):
    if len(data) > BYTES_MAX:
        raise Ruling("refuted", "too_large")
    try:
        count = sum(len(contents(failure, 1)) for failure in contents(data, 5))
        if count > WINDOW_MAX or sum(map(len, contents(data, 4))) > REQUEST_MAX:
            raise Ruling("refuted", "too_large")
        report = decode(data, REPORT)
    except Refused:
        raise Ruling("refuted", "malformed")
    kind, envelopes = report.get(3, 0), report.get(5, {}).get(1, [])
    is_liveness = kind in LIVENESS and any(arm in report.get(4, {}) for arm in (2, 3, 4))
    if not is_liveness and not (kind in SAFETY and envelopes):
        raise Ruling("refuted", "malformed")
    if kind != PAYLOAD and len(envelopes) > ENVELOPES_MAX:
        raise Ruling("refuted", "too_large")
    return report, kind, is_liveness, envelopes


def judge_report(case, data, registry):
    report, kind, is_liveness, envelopes = read_report(data)
    accused = report.get(2, 0)
    if accused < FIRST_NODE or accused not in registry:
        raise Ruling("refuted", "unknown_node")
    if is_liveness:
        is_fast = kind == 2 and report[4].get(1, 0) < 2 * 10**9
        raise Ruling(*(("refuted", "not_slow") if is_fast else ("claim", "reporters_word")))
    exhibits, worthless = open_envelopes(envelopes, registry)
    case = {**case, "reporter_time_ns": report.get(1, 0)}
    if kind in (DUPLICATE, ORDER):
        if worthless is not None:
            raise worthless
        (judge_statements if kind == DUPLICATE else judge_order)(case, accused, exhibits)
    # One envelope shows the faults of the other kinds, so one that is no evidence refutes its own part only.
    {CAUSAL: judge_causal, PAYLOAD: judge_payload, CHAIN: judge_chain}[kind](case, accused, exhibits, worthless)


def open_envelopes(envelopes, registry):
    """The envelopes that are evidence, and the ruling on the first one that is none."""
    exhibits, worthless = [], None
    for envelope in envelopes:
        try:
            exhibits.append(Exhibit(envelope, registry))
        except Ruling as ruling:
            worthless = first_defect(worthless, ruling)
    return exhibits, worthless


def first_defect(first, other):
    """Forms are looked at before signatures, which are checked all at once."""
    is_later = first is None or first.found["fact"] == "forged" and other.found["fact"] != "forged"
    return other if is_later else first


def main():
    from misbehavior_trees import judge_trees

    for line in sys.stdin:
        case = json.loads(line)
        found = judge_trees(case) if "fault" in case else judge(case)
        print(json.dumps(found, separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main()
