"""The oldest files go, whoever's they are; and no clock that is far off takes more than a part of them."""

from collections.abc import Sequence

import pytest

from edged.domain.archive.retention import DAY_MS, Choice, Chosen, Kept, Limits, choose

NOW_MS = 1_800_000_000_000
PI_A, PI_B = ("fashion", "pi-a"), ("fashion", "pi-b")
TEN_DAYS = Limits(age_s=10 * 86_400)


def files(*days: float, size: int = 100) -> list[Kept]:
    """Files that are this many days old, each of ten offsets; None: of a time that cannot be."""
    return [Kept(10 * i + 10, 4, size, NOW_MS - int(age * DAY_MS)) for i, age in enumerate(days)]


def floors(choice: Choice) -> dict[str, int]:
    return {source: chosen.first for (_, source), chosen in choice.chosen.items()}


def by_age(of_a: Sequence[Kept], of_b: Sequence[Kept] = (), *, is_certain: bool = False) -> dict[str, int]:
    return floors(choose({PI_A: of_a, PI_B: of_b}, TEN_DAYS, 0, NOW_MS, is_certain=is_certain))


def test_by_age_all_goes_that_is_older_than_the_limit():
    assert by_age(files(12, 11, 10, 9.9, 1), files(9, 8)) == {"pi-a": 30}
    assert by_age(files(12), files(11, 3)) == {"pi-a": 10, "pi-b": 10}


def test_by_size_the_oldest_go_first_whoever_has_them():
    both = {PI_A: files(12, 7, 3), PI_B: files(9, 8, 1)}
    assert [floors(choose(both, Limits(size=size), 800, NOW_MS)) for size in (800, 700, 500, 400)] == [
        {},
        {"pi-a": 10},
        {"pi-a": 10, "pi-b": 20},
        {"pi-a": 20, "pi-b": 20},
    ]


def test_what_stays_beyond_the_limit_is_counted():
    """By then nothing but the newest file of each source, which is not among those that may go, is left."""
    assert choose({PI_A: files(12, 7)}, Limits(size=100), 400, NOW_MS).excess == 100
    assert choose({PI_A: files(12, 7)}, Limits(size=200), 400, NOW_MS).excess == 0


def test_what_goes_is_counted_with_the_reason():
    choice = choose({PI_A: files(12, 11, 3, 2)}, Limits(10 * 86_400, 250), 400, NOW_MS)
    assert choice == Choice({PI_A: Chosen(20, 2, 8, 200, "age")})
    choice = choose({PI_A: files(12, 11, 3, 2)}, Limits(10 * 86_400, 150), 400, NOW_MS)
    assert choice == Choice({PI_A: Chosen(30, 3, 12, 300, "size")})


def test_without_a_limit_nothing_goes():
    assert choose({PI_A: files(1e4)}, Limits(), 1 << 60, NOW_MS) == Choice({})


@pytest.mark.parametrize("days", [-1, 20_000, NOW_MS / DAY_MS], ids=["later", "before 2020", "unknown"])
def test_a_time_that_cannot_be_is_none(days):
    """Such a file goes with those behind it, and not before."""
    assert by_age(files(days, 3)) == {}
    assert by_age(files(12, days, 3)) == {"pi-a": 10}
    assert by_age(files(12, days, 11, 3)) == {"pi-a": 30}


def test_a_file_that_a_slow_clock_dated_is_as_new_as_those_before_it():
    assert by_age(files(5, 15, 15, 4)) == {}


def test_a_clock_far_ahead_takes_nothing_by_age_unless_people_say_so():
    ancient = files(2_000, 1_999, 1_998)
    choice = choose({PI_A: ancient}, TEN_DAYS, 300, NOW_MS)
    assert choice == Choice(
        {},
        "its oldest file is 2,000 days old by this clock, far beyond the limit of 10 d; "
        "if that is right, run `edged archive retain` once",
    )
    assert by_age(ancient, is_certain=True) == {"pi-a": 30}
    assert by_age(files(15, 12)) == {"pi-a": 20}
    assert by_age(files(15.1, 12)) == {}


def test_a_clock_that_is_ahead_takes_no_more_than_half():
    """Whatever it is ahead by, of files that come every day."""
    for ahead in (0, 1, 4, 5, 6, 9, 10, 100):
        days = [age + ahead for age in range(10, 0, -1)]
        assert by_age(files(*days)).get("pi-a", 0) <= 60


def test_a_short_limit_bears_a_node_that_was_away_for_a_day():
    limits = Limits(age_s=60)
    assert floors(choose({PI_A: files(1, 0.5)}, limits, 0, NOW_MS)) == {"pi-a": 20}
    assert floors(choose({PI_A: files(1.1, 0.5)}, limits, 0, NOW_MS)) == {}


def test_size_is_kept_to_whatever_the_clock_says():
    choice = choose({PI_A: files(2_000, 1_999, -5)}, Limits(10 * 86_400, 100), 300, NOW_MS)
    assert (floors(choice), bool(choice.doubt)) == ({"pi-a": 20}, True)
