"""A sample's times: what a header says, and which latencies are none."""

import pytest

from edged.domain.samples.times import DAY_MS, latency_ms, sampled_header, sampled_ms

NOW_MS = 1_700_000_000_000.0
NOW = int(NOW_MS)


@pytest.mark.parametrize("time_ms", [0, 1, NOW, NOW + 10 * 365 * DAY_MS])
def test_the_header_gives_back_the_time(time_ms):
    assert sampled_ms([("other", b"7"), sampled_header(time_ms)]) == time_ms


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1e3", b"0x10", b"1 ", b"\xff", b"1" * 19])
def test_what_is_no_whole_number_is_no_time(value):
    assert sampled_ms([("edged-sampled-ms", value)]) is None
    assert sampled_ms([]) is None


@pytest.mark.parametrize(
    ("arrived_ms", "sampled", "latency"),
    [
        (NOW - 5, None, 5.0),
        (NOW - 5, NOW - DAY_MS, 5.0),  # a device's clock is not asked where the arrival is known
        (NOW, 0, 0.0),
        (NOW - DAY_MS, None, DAY_MS),
        (NOW - DAY_MS - 1, None, None),
        (NOW + 1, NOW - 1, None),
        (0, None, None),
        (-1, NOW - 7, 7.0),
        (-1, NOW + 7, None),
        (-1, None, None),
        (-(1 << 62), None, None),
    ],
)
def test_a_latency_starts_at_the_arrival_and_is_none_where_clocks_make_it_absurd(arrived_ms, sampled, latency):
    assert latency_ms(arrived_ms, sampled, NOW_MS) == latency
