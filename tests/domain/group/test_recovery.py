"""Which offered state all members resume from, and when a member offers its own."""

import random
from collections.abc import Callable, Sequence

import pytest

from edged.domain.group.records import Begin, Close, Join, Leave, Part, Record
from edged.domain.group.recovery import Candidate, LogPrefix, RecoveryOffer, accepted

A, B = RecoveryOffer("pi-a", 0, 10), RecoveryOffer("pi-b", 0, 12)
JOB = "0" * 64


def join(edge: str, step: int | None = None) -> Join:
    """Without a step: the Join of the proposer of A or B."""
    return Join(edge, JOB, {"pi-a": 10, "pi-b": 12}.get(edge, 0) if step is None else step, "0" * 64)


def part(edge: str) -> Part:
    return Part(edge, 10, "00" * 4, 0, 1, 1, 0.5, 1, 0.0, b"x")


def begin() -> Begin:
    return Begin(0, {"pi-c": 1.0}, {"pi-a": 8}, 2, "0" * 64, "pi-c")


def prefix(*records: Record, position: int = 0) -> LogPrefix:
    log = LogPrefix(position)
    for i, record in enumerate(records):
        log.take(record, position + i)
    return log


def test_an_offer_is_accepted_when_its_proposer_joins():
    assert accepted({A: prefix(join("pi-b"))}) is None
    assert accepted({A: prefix(join("pi-b"), join("pi-a"))}) == A


@pytest.mark.parametrize("record", [part("pi-c"), begin()], ids=["gradient", "begin"])
def test_an_offer_is_void_after_a_record_of_an_epoch(record):
    assert accepted({A: prefix(join("pi-c"), record, join("pi-a"))}) is None
    assert accepted({A: prefix(join("pi-a"), record)}) == A


def test_gradients_of_members_that_have_not_noticed_a_new_log_are_no_epoch():
    stray: list[Record] = [part("pi-c"), Close(10, "pi-c"), part("pi-b"), Leave("pi-b")]
    assert accepted({A: prefix(*stray, join("pi-a"))}) == A
    assert prefix(part("pi-c"), position=5).is_over  # the log was truncated there; the author had joined before


def test_the_first_proposer_to_join_wins():
    assert accepted({A: prefix(join("pi-b"), join("pi-a")), B: prefix(join("pi-b"), join("pi-a"))}) == B
    assert accepted({A: prefix(join("pi-a")), B: prefix(join("pi-a"))}) == A


def test_a_join_in_flight_accepts_an_offer_like_one_in_the_log():
    both = {A: prefix(), B: prefix()}
    assert accepted(both, [join("pi-c")]) is None
    assert accepted(both, [join("pi-c"), join("pi-b"), join("pi-a")]) == B
    assert accepted({A: prefix(join("pi-a")), B: prefix(join("pi-a"))}, [join("pi-b")]) == A
    assert accepted({A: prefix(join("pi-c"), begin())}, [join("pi-a")]) is None


def test_a_proposer_that_joins_with_another_step_accepts_nothing():
    assert accepted({A: prefix(join("pi-a", 0)), B: prefix(join("pi-a", 0), join("pi-b"))}) == B
    assert accepted({A: prefix(join("pi-a", 0), join("pi-a"))}) == A
    assert accepted({A: prefix()}, [join("pi-a", 0)]) is None


def candidate(edge: str = "pi-a", *, since: float = 0, turn_s: float = 0) -> Candidate:
    return Candidate(edge, since=since, offer_s=15, join_s=30, turn_s=turn_s)


def test_a_member_offers_its_state_after_a_delay_and_joins_with_it_after_another():
    mine = candidate()
    assert [mine.decide(10, [], now) for now in (0, 14, 15)] == ["wait", "wait", "offer"]
    mine.offered(16)
    assert [mine.decide(10, [A], now) for now in (17, 45, 46, 47)] == ["wait", "wait", "join", "wait"]


def test_a_member_waits_while_another_offers_a_state_at_least_as_new():
    for step in (11, 12):
        assert candidate().decide(step, [B], 100) == "wait"
    mine = candidate()
    mine.offered(16)
    assert mine.decide(10, [A, B], 100) == "wait"
    assert mine.decide(12, [A, B], 101) == "wait"  # it can use what is offered, too


def test_a_member_with_a_newer_state_than_another_offers_it_in_its_turn():
    mine = candidate("pi-b", turn_s=5)
    assert [mine.decide(12, [A], now) for now in (1, 5, 6)] == ["wait", "wait", "offer"]


def test_a_member_whose_offer_was_overwritten_starts_waiting_again():
    mine = candidate()
    mine.offered(16)
    assert [mine.decide(10, [], now) for now in (20, 34, 35)] == ["wait", "wait", "offer"]


def test_a_proposer_that_died_after_its_offer_is_ignored_in_the_end():
    mine = candidate()
    decisions = [mine.decide(10, [B], now) for now in range(0, 200, 5)]
    assert decisions[:18] == ["wait"] * 18
    assert decisions[18:] == ["offer"] * 22


def test_another_member_offers_the_state_of_a_proposer_that_died():
    mine = candidate()
    mine.offered(16)
    decisions = [mine.decide(12, [A, B], now) for now in range(20, 200, 5)]
    assert decisions.index("offer") == 18
    assert "join" not in decisions


def test_an_offer_of_an_earlier_process_is_repeated():
    assert candidate().decide(10, [A], 0) == "offer"


class Log:
    """A group's log, the offers, and which of them are complete."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.offered: dict[str, RecoveryOffer] = {}
        self.slots: dict[int, RecoveryOffer] = {}

    def prefixes(self) -> dict[RecoveryOffer, LogPrefix]:
        return {
            offer: prefix(*self.records[offer.position :], position=offer.position) for offer in self.offered.values()
        }

    def accepted(self) -> RecoveryOffer | None:
        return accepted(self.prefixes())

    def is_complete(self, offer: RecoveryOffer) -> bool:
        return self.slots.get(offer.step % 2) == offer

    def offers(self) -> Sequence[RecoveryOffer]:
        return [offer for offer, each in self.prefixes().items() if not each.is_over and self.is_complete(offer)]

    def offer(self, offer: RecoveryOffer) -> None:
        self.offered[offer.proposer] = self.slots[offer.step % 2] = offer


class Member:
    """A member in recovery. It looks at one moment, and acts on what it saw at another."""

    def __init__(self, edge: str, step: int, turn: int, since: float = 0.0) -> None:
        self.edge, self.step, self.turn = edge, step, turn
        self.candidate = candidate(edge, since=since, turn_s=5 * turn)
        self.resumes_from: RecoveryOffer | None = None
        self.pending: Callable[[float], None] | None = None

    def look(self, log: Log, now: float) -> None:
        found = log.accepted()
        if found is not None and log.is_complete(found):
            self.resumes_from = found
            self.pending = lambda _: log.records.extend([join(self.edge, found.step), part(self.edge)])
        elif found is not None:
            if (found.proposer, found.step) == (self.edge, self.step):
                self.pending = lambda _: log.offer(found)
        else:
            decision = self.candidate.decide(self.step, log.offers(), now)
            position = None if prefix(*log.records).is_over else len(log.records)
            if decision == "offer" and position is not None:

                def offer(then: float) -> None:
                    log.offer(RecoveryOffer(self.edge, position, self.step))
                    self.candidate.offered(then)

                self.pending = offer
            elif decision == "join":
                self.pending = lambda _: log.records.append(join(self.edge, self.step))

    def act(self, log: Log, now: float) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            pending(now)
        elif self.resumes_from is None:
            self.look(log, now)


@pytest.mark.parametrize("seed", range(300))
def test_all_members_resume_from_one_state_however_late_each_acts(seed):
    """Any may pause between looking and acting, or die in between and restart."""
    chance = random.Random(seed)  # noqa: S311
    log, now = Log(), 0.0
    members = [Member(edge, chance.randrange(10, 14), i) for i, edge in enumerate(("pi-a", "pi-b", "pi-c"))]
    while not any(each.resumes_from for each in members) or any(each.pending for each in members):
        now += chance.choice([0.1, 1, 5, 20])
        one = chance.choice(members)
        if one.resumes_from is None and chance.random() < 0.02:
            members[members.index(one)] = Member(one.edge, one.step, one.turn, since=now)
        else:
            one.act(log, now)
        assert now < 100_000
    for each in members:
        each.act(log, now)
    assert len({each.resumes_from for each in members if each.resumes_from is not None}) == 1
    assert log.accepted() in {each.resumes_from for each in members}
