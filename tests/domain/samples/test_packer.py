"""Which pack a sample goes into, and the cursors after each pack."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.place import Place
from edged.domain.samples.pack import MAX_SAMPLES
from edged.domain.samples.packer import Packer
from edged.domain.samples.sample import MAX_BYTES, Sample


def sample(offset, device="cam", partition=0, num_bytes=4):
    return Sample(device, partition, offset, 0, None, "raw", bytes(num_bytes))


def place(offset):
    return Place(offset, "id-1", "id-1", f"{offset - 1}:ab")


def add(packer, *samples):
    for each in samples:
        packer.add(each, place(each.offset + 1))


def test_a_pack_is_full_with_its_last_sample():
    packer = Packer("s", {})
    for offset in range(MAX_SAMPLES + 1):
        add(packer, sample(offset))
    (full,) = packer.take_full()
    assert len(full.samples) == MAX_SAMPLES
    assert full.cursors == {"cam/0": place(MAX_SAMPLES)}
    (rest,) = packer.take_all()
    assert [each.offset for each in rest.samples] == [MAX_SAMPLES]
    assert rest.cursors == {"cam/0": place(MAX_SAMPLES + 1)}
    assert not packer.pending


def test_a_sample_that_does_not_fit_opens_the_next_pack():
    packer = Packer("s", {})
    add(packer, sample(0, num_bytes=MAX_BYTES - 10))
    add(packer, sample(1, num_bytes=11))
    (full,) = packer.take_full()
    assert full.cursors == {"cam/0": place(1)}
    assert packer.cursors == {"cam/0": place(2)}
    assert packer.num_bytes == 11


def test_a_sample_of_the_maximum_size_is_a_pack_of_its_own():
    packer = Packer("s", {})
    for offset in range(3):
        add(packer, sample(offset, num_bytes=MAX_BYTES))
    assert [len(pack.samples) for pack in packer.take_all()] == [1, 1, 1]


def test_every_pack_carries_the_cursors_of_all_devices():
    packer = Packer("s", {"gone/0": place(9), "cam/1": place(5)})
    packer.seek({"cam/1": place(7)})
    add(packer, sample(3))
    (pack,) = packer.take_all()
    assert pack.cursors == {"gone/0": place(9), "cam/1": place(7), "cam/0": place(4)}


def test_cursors_alone_are_pending_but_make_no_pack():
    packer = Packer("s", {})
    assert not packer.pending
    packer.skip("cam", 0, place(1))
    assert packer.pending
    assert packer.take_all() == []
    assert not packer.pending
    assert packer.cursors == {"cam/0": place(1)}


def test_a_recreated_topic_resets_the_cursor():
    packer = Packer("s", {"cam/0": place(1000)})
    add(packer, sample(0))
    (pack,) = packer.take_all()
    assert pack.cursors == {"cam/0": place(1)}


EVENTS = st.lists(
    st.tuples(st.sampled_from(["a/0", "a/1", "b/0"]), st.sampled_from(["add", "big", "skip", "take_full", "take_all"])),
    max_size=400,
)


@given(EVENTS)
def test_resuming_from_any_packs_cursors_misses_and_repeats_nothing(events):
    """Simulates a restart after each pack: the packs after it hold exactly what its cursors ask for."""
    packer, packs, added = Packer("s", {}), [], {}
    end = dict.fromkeys(["a/0", "a/1", "b/0"], 0)
    for key, what in events:
        if what.startswith("take"):
            packs += getattr(packer, what)()
            continue
        device, partition = key.split("/")
        if what == "skip":
            packer.skip(device, int(partition), place(end[key] + 1))
        else:
            one = sample(end[key], device, int(partition), MAX_BYTES // 3 if what == "big" else 4)
            add(packer, one)
            added[key, end[key]] = one
        end[key] += 1
    packs += packer.take_all()
    for at, pack in enumerate(packs):
        later = [each for after in packs[at + 1 :] for each in after.samples]
        wanted = [each for (key, offset), each in added.items() if offset >= pack.cursors.get(key, Place(0)).offset]
        assert later == wanted
        assert 1 <= len(pack.samples) <= MAX_SAMPLES
        assert pack.num_bytes <= MAX_BYTES
    assert [each for pack in packs for each in pack.samples] == list(added.values())
