"""Which offered state all go on from, and when a member offers its own."""

import random
from collections.abc import Callable, Sequence

import pytest

from edged.domain.group.records import Begin, Close, Join, Leave, Part, Record
from edged.domain.group.recovery import Candidate, LogPrefix, RecoveryOffer, accepted

A, B = RecoveryOffer("pi-a", 0, 10), RecoveryOffer("pi-b", 0, 12)
JOB = "0" * 64


def join(edge: str, step: int | None = None) -> Join:
    """Without a step, as who offered A or B founds."""
    return Join(edge, JOB, {"pi-a": 10, "pi-b": 12}.get(edge, 0) if step is None else step, "0" * 64)


def part(edge: str) -> Part:
    return Part(edge, 10, "00" * 4, 0, 1, 1, 0.5, 1, 0.0, b"x")


def begin() -> Begin:
    return Begin(0, {"pi-c": 1.0}, {"pi-a": 8}, 2, "0" * 64, "pi-c")


def opening(*records: Record, at: int = 0) -> LogPrefix:
    found = LogPrefix(at)
    for i, record in enumerate(records):
        found.take(record, at + i)
    return found


def test_an_offer_is_taken_when_its_founder_joins():
    assert accepted({A: opening(join("pi-b"))}) is None
    assert accepted({A: opening(join("pi-b"), join("pi-a"))}) == A


@pytest.mark.parametrize("record", [part("pi-c"), begin()], ids=["gradient", "begin"])
def test_it_is_void_once_an_epoch_goes_on_without_it(record):
    assert accepted({A: opening(join("pi-c"), record, join("pi-a"))}) is None
    assert accepted({A: opening(join("pi-a"), record)}) == A


def test_gradients_of_members_that_have_not_found_out_that_the_log_is_another_are_no_epoch():
    stray: list[Record] = [part("pi-c"), Close(10, "pi-c"), part("pi-b"), Leave("pi-b")]
    assert accepted({A: opening(*stray, join("pi-a"))}) == A
    assert opening(part("pi-c"), at=5).is_over  # there the log was cut, and who wrote it had joined before


def test_of_several_that_is_taken_whose_founder_joins_first():
    assert accepted({A: opening(join("pi-b"), join("pi-a")), B: opening(join("pi-b"), join("pi-a"))}) == B
    assert accepted({A: opening(join("pi-a")), B: opening(join("pi-a"))}) == A


def test_a_join_that_is_on_its_way_takes_an_offer_as_one_that_is_there():
    both = {A: opening(), B: opening()}
    assert accepted(both, [join("pi-c")]) is None
    assert accepted(both, [join("pi-c"), join("pi-b"), join("pi-a")]) == B
    assert accepted({A: opening(join("pi-a")), B: opening(join("pi-a"))}, [join("pi-b")]) == A
    assert accepted({A: opening(join("pi-c"), begin())}, [join("pi-a")]) is None


def test_a_founder_that_comes_without_what_it_offered_takes_nothing():
    assert accepted({A: opening(join("pi-a", 0)), B: opening(join("pi-a", 0), join("pi-b"))}) == B
    assert accepted({A: opening(join("pi-a", 0), join("pi-a"))}) == A
    assert accepted({A: opening()}, [join("pi-a", 0)]) is None


def candidacy(edge: str = "pi-a", *, since: float = 0, turn_s: float = 0) -> Candidate:
    return Candidate(edge, since=since, offer_s=15, join_s=30, turn_s=turn_s)


def test_a_member_offers_its_state_after_a_while_and_joins_by_it_after_another():
    mine = candidacy()
    assert [mine.decide(10, [], now) for now in (0, 14, 15)] == ["wait", "wait", "offer"]
    mine.offered(16)
    assert [mine.decide(10, [A], now) for now in (17, 45, 46, 47)] == ["wait", "wait", "join", "wait"]


def test_it_waits_for_one_that_offers_what_is_newer_or_as_new():
    for step in (11, 12):
        assert candidacy().decide(step, [B], 100) == "wait"
    mine = candidacy()
    mine.offered(16)
    assert mine.decide(10, [A, B], 100) == "wait"
    assert mine.decide(12, [A, B], 101) == "wait"  # what is offered can be had, too


def test_it_offers_what_is_newer_than_another_offers_in_its_turn():
    mine = candidacy("pi-b", turn_s=5)
    assert [mine.decide(12, [A], now) for now in (1, 5, 6)] == ["wait", "wait", "offer"]


def test_one_whose_offer_was_written_over_begins_its_wait_again():
    mine = candidacy()
    mine.offered(16)
    assert [mine.decide(10, [], now) for now in (20, 34, 35)] == ["wait", "wait", "offer"]


def test_one_that_died_behind_its_offer_is_not_waited_for_for_ever():
    mine = candidacy()
    decisions = [mine.decide(10, [B], now) for now in range(0, 200, 5)]
    assert decisions[:18] == ["wait"] * 18
    assert decisions[18:] == ["offer"] * 22


def test_what_one_offered_that_died_is_offered_by_another():
    mine = candidacy()
    mine.offered(16)
    decisions = [mine.decide(12, [A, B], now) for now in range(20, 200, 5)]
    assert decisions.index("offer") == 18
    assert "join" not in decisions


def test_an_offer_that_it_made_in_an_earlier_life_is_made_again():
    assert candidacy().decide(10, [A], 0) == "offer"


class Log:
    """A group's log, who offers what, and which of it is whole."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.offered: dict[str, RecoveryOffer] = {}
        self.slots: dict[int, RecoveryOffer] = {}

    def openings(self) -> dict[RecoveryOffer, LogPrefix]:
        return {offer: opening(*self.records[offer.position :], at=offer.position) for offer in self.offered.values()}

    def accepted(self) -> RecoveryOffer | None:
        return accepted(self.openings())

    def is_whole(self, offer: RecoveryOffer) -> bool:
        return self.slots.get(offer.step % 2) == offer

    def offers(self) -> Sequence[RecoveryOffer]:
        return [offer for offer, each in self.openings().items() if not each.is_over and self.is_whole(offer)]

    def offer(self, offer: RecoveryOffer) -> None:
        self.offered[offer.proposer] = self.slots[offer.step % 2] = offer


class Waiter:
    """A member that waits. It looks at one moment and acts by what it saw at another."""

    def __init__(self, edge: str, step: int, turn: int, since: float = 0.0) -> None:
        self.edge, self.step, self.turn = edge, step, turn
        self.candidacy = candidacy(edge, since=since, turn_s=5 * turn)
        self.goes_on_from: RecoveryOffer | None = None
        self.will: Callable[[float], None] | None = None

    def look(self, log: Log, now: float) -> None:
        found = log.accepted()
        if found is not None and log.is_whole(found):
            self.goes_on_from = found
            self.will = lambda _: log.records.extend([join(self.edge, found.step), part(self.edge)])
        elif found is not None:
            if (found.proposer, found.step) == (self.edge, self.step):
                self.will = lambda _: log.offer(found)
        else:
            decision = self.candidacy.decide(self.step, log.offers(), now)
            place = None if opening(*log.records).is_over else len(log.records)
            if decision == "offer" and place is not None:

                def offer(then: float) -> None:
                    log.offer(RecoveryOffer(self.edge, place, self.step))
                    self.candidacy.offered(then)

                self.will = offer
            elif decision == "join":
                self.will = lambda _: log.records.append(join(self.edge, self.step))

    def act(self, log: Log, now: float) -> None:
        will, self.will = self.will, None
        if will is not None:
            will(now)
        elif self.goes_on_from is None:
            self.look(log, now)


@pytest.mark.parametrize("seed", range(300))
def test_however_late_each_acts_all_go_on_from_one_state(seed):
    """Any may stand still between a look and what it does then, or die in between and start again."""
    chance = random.Random(seed)  # noqa: S311
    log, now = Log(), 0.0
    waiters = [Waiter(edge, chance.randrange(10, 14), i) for i, edge in enumerate(("pi-a", "pi-b", "pi-c"))]
    while not any(each.goes_on_from for each in waiters) or any(each.will for each in waiters):
        now += chance.choice([0.1, 1, 5, 20])
        one = chance.choice(waiters)
        if one.goes_on_from is None and chance.random() < 0.02:
            waiters[waiters.index(one)] = Waiter(one.edge, one.step, one.turn, since=now)
        else:
            one.act(log, now)
        assert now < 100_000
    for each in waiters:
        each.act(log, now)
    assert len({each.goes_on_from for each in waiters if each.goes_on_from is not None}) == 1
    assert log.accepted() in {each.goes_on_from for each in waiters}
