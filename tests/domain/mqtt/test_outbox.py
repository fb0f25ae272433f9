"""What a device lacks, as a value: nothing lost, in order, and little kept, whatever becomes of what is sent."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt.outbox import MAX_BYTES, MAX_RECORDS, WINDOW, OutboxState
from edged.domain.mqtt.way_back import LIFETIME_S

NOW_MS = 1_700_000_000_000


class Prediction(NamedTuple):
    offset: int
    value: bytes = b"x"
    timestamp_ms: int = NOW_MS


class World:
    """Kafka, one device's outbox, and the broker's verdicts in any order; what was sent and delivered, by offset.

    `never`: offsets that the broker refuses.
    """

    def __init__(self, sizes=(1,), never=()):
        self.sizes = sizes
        self.never = set(never)
        self.given_up: list[int] = []
        self.log: list[Prediction] = []
        self.now_ms = NOW_MS
        self.state: OutboxState[Prediction] = OutboxState()
        self.flying: list[Prediction] = []
        self.sent: list[int] = []
        self.delivered: list[int] = []
        self.again_at: int | None = None

    @property
    def end(self):
        return len(self.log)

    @property
    def place(self):
        return self.state.place(self.end)

    def offer(self):
        size = self.sizes[self.end % len(self.sizes)]
        self.log.append(Prediction(self.end, bytes(size), self.now_ms))
        self.state = self.state.offered(self.log[-1])

    def send(self):
        if self.state.is_stuck and self.flying:
            return
        due = (self.state.retry if self.state.is_stuck else self.state.due)(self.now_ms)
        self.state = due.state
        self.flying += due.records
        self.sent += [each.offset for each in due.records]

    def answer(self, which, *, is_delivered):
        if self.flying:
            record = self.flying.pop(which % len(self.flying))
            if record.offset in self.never:
                self.state, is_given_up = self.state.refused(record)
                self.given_up += [record.offset] * is_given_up
            elif is_delivered:
                self.delivered.append(record.offset)
                self.state = self.state.delivered(record)
            else:
                self.state = self.state.undelivered(record)

    def cut(self):
        while self.flying:
            self.answer(0, is_delivered=False)

    def read_again(self, count):
        """A pass over what was left in Kafka, or the next part of one."""
        if self.again_at is None:
            if not self.state.is_to_catch_up:
                return
            self.again_at, self.state = self.state.left_from, self.state.catching_up()
        for _ in range(count):
            if not self.state.is_catching_up or self.again_at is None:
                self.again_at = None
                return
            if self.again_at == self.end:
                self.state, _expired = self.state.caught_up()
                self.again_at = None
                return
            at = self.again_at
            state = self.state.offered_again(self.log[at])
            if state is None:
                return
            self.state, self.again_at = state, at + 1

    def restart(self):
        """Killed, and started where the place was committed."""
        place, self.flying, self.again_at = self.place, [], None
        self.state = OutboxState(left_from=place) if place < self.end else OutboxState()

    def drain(self):
        """All goes well from now on, but what the broker never takes; until nothing else is left."""
        for _ in range(20 * (self.end + 1)):
            passed = {*self.delivered, *(each for each in self.never if each >= self.state.sent_to)}
            if set(range(self.place, self.end)) <= passed:
                return
            self.send()
            self.answer(0, is_delivered=True)
            self.read_again(self.end + 1)
        raise AssertionError(f"stays at {self.place} of {self.end}: {self.state}")

    def check(self):
        held = (*self.state.sending, *self.state.waiting)
        assert len(self.flying) <= WINDOW
        assert len(held) <= MAX_RECORDS
        is_small = sum(len(each.value) for each in held[: -1 if self.state.refused_at else None]) <= MAX_BYTES
        assert is_small or len(held) <= 1 + bool(self.state.refused_at)
        assert self.fresh(self.log[: self.place]) <= {*self.delivered, *self.given_up}

    def fresh(self, records):
        """Of these, what is not too old."""
        return {each.offset for each in records if self.now_ms - each.timestamp_ms < LIFETIME_S * 1000}


STEPS = st.one_of(
    st.tuples(st.just("offer"), st.integers(1, 100)),
    st.tuples(st.just("send")),
    st.tuples(st.just("delivered"), st.integers(0, WINDOW)),
    st.tuples(st.just("undelivered"), st.integers(0, WINDOW)),
    st.tuples(st.just("unanswered")),
    st.tuples(st.just("cut")),
    st.tuples(st.just("read_again"), st.integers(1, 100)),
)
NEVER = st.one_of(st.sets(st.integers(0, 100), max_size=WINDOW - 1), st.just(set(range(10_000))))
LATER = st.tuples(st.just("later"), st.integers(10, 70))


def run(world, steps):
    for name, *arguments in steps:
        if name == "offer":
            for _ in range(*arguments):
                world.offer()
        elif name == "delivered":
            world.answer(*arguments, is_delivered=True)
        elif name == "undelivered":
            world.answer(*arguments, is_delivered=False)
        elif name == "unanswered":
            world.state = world.state.unanswered()
        elif name == "later":
            world.now_ms += 60_000 * arguments[0]
        else:
            getattr(world, name)(*arguments)
        world.check()


@given(st.lists(STEPS, max_size=60), st.lists(st.integers(0, MAX_BYTES), min_size=1, max_size=4))
def test_whatever_the_verdicts_and_their_order_each_is_delivered_once_and_the_place_passes_no_other(steps, sizes):
    world = World(sizes)
    run(world, steps)
    world.drain()
    assert sorted(world.delivered) == list(range(world.end))


@given(st.lists(st.one_of(STEPS, st.tuples(st.just("restart"))), max_size=60))
def test_however_often_it_is_killed_none_is_lost(steps):
    world = World()
    for step in steps:
        before = world.place, len(set(world.delivered))
        run(world, [step])
        if step[0] == "restart":
            assert (world.place, len(set(world.delivered))) == before
    world.drain()
    assert set(world.delivered) == set(range(world.end))


@given(st.lists(STEPS.filter(lambda step: step[0] not in {"delivered", "undelivered"}), max_size=60), st.data())
def test_of_a_broker_that_answers_in_order_each_comes_first_in_order(steps, data):
    world = World()
    for step in steps:
        run(world, [step])
        for _ in range(data.draw(st.integers(0, 4))):
            world.answer(0, is_delivered=True)
    world.drain()
    assert world.delivered == list(range(world.end))


@given(st.lists(st.one_of(STEPS, LATER), max_size=60), NEVER)
def test_whatever_becomes_too_old_the_others_are_delivered_and_none_twice(steps, never):
    world = World(never=never)
    run(world, steps)
    world.drain()
    assert len(world.delivered) == len(set(world.delivered))
    assert world.fresh(world.log) - never <= set(world.delivered)


@given(st.lists(STEPS, max_size=60), st.lists(st.integers(0, MAX_BYTES), min_size=1, max_size=4), NEVER)
def test_whatever_the_broker_never_takes_holds_up_no_other_and_is_given_up_for_those_behind_it_alone(
    steps, sizes, never
):
    world = World(sizes if len(never) <= 1 else (1,), never)  # of several large ones not all are kept
    run(world, steps)
    world.drain()
    assert sorted(world.delivered) == sorted(set(range(world.end)) - never)
    assert sorted({*world.given_up}) == sorted(world.given_up)
    assert set(world.given_up) <= never
    assert all(each < max(world.delivered) for each in world.given_up)


def test_of_two_refused_neither_is_given_up_and_both_are_sent_once_the_broker_takes_them():
    world = World(never={0, 1})
    world.offer()
    world.offer()
    for _ in range(5):
        world.send()
        world.answer(0, is_delivered=True)
        world.answer(0, is_delivered=True)
    assert (world.sent.count(1), world.delivered, world.given_up, world.place) == (4, [], [], 0)
    world.never.clear()
    world.drain()
    assert world.delivered == [0, 1]


def test_the_newest_that_is_refused_out_of_turn_waits_for_its_turn():
    world = World(never={1})
    world.offer()
    world.send()
    world.cut()
    world.now_ms += LIFETIME_S * 1000
    world.offer()
    world.offer()
    world.never = {2}
    world.drain()
    world.offer()
    world.drain()
    assert (world.delivered, world.given_up, world.place) == ([1, 3], [2], 4)


def test_until_one_is_delivered_one_is_tried_and_then_a_window():
    world = World()
    for _ in range(3 * WINDOW):
        world.offer()
    world.send()
    assert world.sent == [0]
    world.answer(0, is_delivered=True)
    world.send()
    assert world.sent == list(range(WINDOW + 1))


def test_without_a_subscriber_one_is_kept_and_the_newest():
    world = World()
    for _ in range(1000):
        world.offer()
    world.send()
    world.answer(0, is_delivered=False)
    world.offer()
    assert [each.offset for each in world.state.waiting] == [0]
    assert (world.state.newest, world.state.left_from) == (world.log[-1], 1)


def test_what_the_broker_does_not_answer_is_not_sent_again_and_the_others_are_left_in_kafka():
    world = World()
    for _ in range(WINDOW + 10):
        world.offer()
    world.send()
    world.answer(0, is_delivered=True)
    world.send()
    world.state = world.state.unanswered()
    world.send()
    assert world.sent == list(range(WINDOW + 1))
    assert world.state.left_from == WINDOW + 2
    world.drain()
    assert world.delivered == list(range(WINDOW + 10))


def test_one_delivered_behind_one_that_was_not_is_not_sent_again():
    world = World()
    world.state = OutboxState(window=WINDOW)
    for _ in range(5):
        world.offer()
    world.send()
    for which, is_delivered in ((0, False), (0, False), (0, True), (0, False), (0, False)):
        world.answer(which, is_delivered=is_delivered)
    world.drain()
    assert world.delivered == [2, 0, 1, 3, 4]


@pytest.mark.parametrize("num_newer", [0, 1, 100])
def test_where_the_first_is_too_old_the_newest_is_tried_and_the_others_follow(num_newer):
    world = World()
    world.offer()
    world.send()
    world.answer(0, is_delivered=False)
    world.now_ms += LIFETIME_S * 1000
    for _ in range(num_newer):
        world.offer()
    world.drain()
    assert world.delivered == [*[num_newer][:num_newer], *range(1, num_newer)]


def test_of_two_tried_out_of_turn_neither_is_sent_again():
    world = World()
    minutes = {0: 0, 1: 30, 2: 55}
    for minute in range(62):
        world.now_ms = NOW_MS + 60_000 * minute
        if minute in minutes.values():
            world.offer()
        if minute == 0:
            world.send()
            world.answer(0, is_delivered=False)
    world.send()
    world.answer(0, is_delivered=True)
    assert world.delivered == [2]
    world.read_again(1)
    world.send()
    world.answer(0, is_delivered=False)
    world.offer()
    world.now_ms += 60_000 * 30
    world.drain()
    assert world.delivered == [2, 3]


def test_verdicts_on_another_log_change_nothing():
    world = World()
    world.offer()
    world.send()
    (old,) = world.flying
    world.state = OutboxState()
    world.state = world.state.offered(Prediction(0, b"another"))
    state = world.state.due(world.now_ms).state
    assert state.delivered(old) is state
    assert state.undelivered(old) is state
