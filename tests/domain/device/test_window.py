"""Which samples in flight are sent again: each until its receipt, and none for longer."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.device.sample import Buffered, Kept, Position
from edged.domain.device.window import Window


def sample(number, payload=b"x"):
    return Buffered(Position(1, number), f"s:{number}", Kept(number, 0, 0, 0, None, payload))


def filled(count, **limits):
    window = Window(**{"max_samples": 100, "max_bytes": 10_000} | limits)
    for number in range(1, count + 1):
        window.add(sample(number))
    return window


def sent(window):
    numbers = []
    while (each := window.send()) is not None:
        numbers.append(each.sample.number)
    return numbers


def test_samples_are_sent_once_and_in_order():
    window = filled(3)
    assert sent(window) == [1, 2, 3]
    assert sent(window) == []


def test_a_window_takes_no_more_than_its_samples_and_bytes():
    assert not filled(3, max_samples=3).has_room
    assert not filled(3, max_bytes=3).has_room
    assert filled(2, max_samples=3, max_bytes=3).has_room


def test_what_did_not_reach_the_broker_is_sent_again_first():
    window = filled(3)
    sent(window)
    window.failed("s:2")
    window.add(sample(4))
    assert sent(window) == [2, 4]


def test_a_receipt_for_a_later_sample_has_those_sent_before_it_sent_again():
    window = filled(4)
    sent(window)
    for number in (1, 2, 3, 4):
        window.taken(f"s:{number}")
    window.settle("s:3")
    assert sent(window) == [1, 2]
    window.settle("s:1")
    assert sent(window) == []


def test_one_that_is_not_sent_any_more_says_nothing_of_the_others():
    window = filled(3)
    sent(window)
    window.taken("s:1")
    window.drop("s:2")
    assert sent(window) == []
    assert window.passed() is None
    window.settle("s:1")
    assert window.passed() == Position(1, 2)


def test_what_was_sent_again_is_not_lost_because_an_older_receipt_comes():
    window = filled(2)
    sent(window)
    window.taken("s:1")
    window.taken("s:2")
    window.settle("s:2")
    assert sent(window) == [1]
    window.taken("s:1")
    assert window.settle("s:2") is None
    assert sent(window) == []


def test_a_lost_connection_has_all_sent_again_that_has_no_receipt():
    window = filled(3)
    sent(window)
    for number in (1, 2, 3):
        window.taken(f"s:{number}")
    window.settle("s:1")
    window.lost()
    assert sent(window) == [2, 3]


def test_without_any_word_the_first_is_sent_again():
    window = filled(3)
    assert not window.probe()
    sent(window)
    window.taken("s:1")
    window.taken("s:2")
    assert window.probe()
    assert sent(window) == [1]


def test_what_is_refused_is_given_up_once_it_alone_keeps_others_out():
    window = filled(3, max_samples=3)
    sent(window)
    assert not window.refused("s:1")
    window.failed("s:1")
    window.settle("s:2")
    assert sent(window) == [1]
    assert window.refused("s:1")
    assert not window.refused("s:3")


def test_what_is_refused_is_kept_while_there_is_room_or_none_behind_it_has_a_receipt():
    window = filled(3, max_samples=4)
    sent(window)
    for _ in range(2):
        assert not window.refused("s:2")
    window.settle("s:1")
    window.add(sample(4))
    assert not window.refused("s:2")
    window = filled(3, max_samples=4)
    sent(window)
    assert not window.refused("s:2")
    window.settle("s:3")
    assert not window.refused("s:2")


def test_the_place_moves_behind_receipts_alone():
    window = filled(3)
    sent(window)
    assert window.passed() is None
    window.settle("s:2")
    assert window.passed() is None
    window.settle("s:1")
    assert window.passed() == Position(1, 2)
    assert len(window) == 1


def test_a_receipt_counts_once_and_only_for_what_was_sent():
    window = filled(1)
    sent(window)
    assert window.settle("s:9") is None
    assert window.settle("s:1") == sample(1)
    assert window.settle("s:1") is None
    assert window.num_settled == 1


@given(st.data())
def test_over_a_broker_that_forgets_and_doubles_all_arrive_and_the_place_reaches_the_end(data):
    """Kafka in order of arrival, receipts that may be lost, a broker that may forget what it has taken."""
    count = data.draw(st.integers(1, 8))
    window = filled(count)
    queue: list[str] = []
    arrived: list[str] = []
    receipts: list[str] = []
    place = None
    for step in range(1000):
        kind = data.draw(st.sampled_from("sfkbrl")) if step < 60 else "skr"[step % 3]
        if step >= 60 and not queue and not receipts:
            window.probe()
        if kind in "sf" and (each := window.send()) is not None:
            if kind == "s":
                queue.append(each.id)
                window.taken(each.id)
            else:
                window.failed(each.id)
        elif kind == "k" and queue:
            arrived.append(queue.pop(0))
            receipts.append(arrived[-1])
        elif kind == "b":
            queue.clear()
            window.lost()
        elif kind == "r" and receipts:
            window.settle(receipts.pop(0))
            place = window.passed() or place
        elif kind == "l" and receipts:
            receipts.pop(0)
        assert place is None or {f"s:{number}" for number in range(1, place.number + 1)} <= set(arrived)
        if place == Position(1, count):
            return
    raise AssertionError
