"""A device's buffer on a disk: what it promised is there after anything, and it stays within its bounds."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.adapters.disk.buffer_folder import BufferFolder, SegmentFile
from edged.adapters.disk.sample_buffer import SampleBuffer
from edged.domain.device.sample import Buffered, Draft
from edged.domain.device.segments import MIN_BUFFER_BYTES, Bounds
from edged.errors import AlreadyRunning, BufferFull, DiskFull, StateFolderRefused, StorageError
from tests.support.properties import examples
from tests.support.small_disk import fill, mount, mounted

OWNER = {"site": "greenhouse", "device": "cam-01"}
LARGE = bytes(700_000)


class Clock:
    """Both clocks of a machine: `now_ms` may be set, `steady_s` only goes on, from 0 at each start."""

    def __init__(self):
        self.now_ms = 1_700_000_000_000
        self.boot, self.steady_s = "a", 50.0

    def starts_again(self):
        self.boot, self.steady_s = self.boot + "a", 10.0

    def passes(self, seconds):
        self.now_ms += int(seconds * 1000)
        self.steady_s += seconds


def opened(folder, clock=None, owner=OWNER, **bounds):
    clock = clock or Clock()
    clocks = {"now_ms": lambda: clock.now_ms, "steady_s": lambda: clock.steady_s, "boot": lambda: clock.boot}
    return SampleBuffer(folder, owner, Bounds(**bounds), **clocks)


def draft(payload=b"pixels", label=b"boot"):
    return Draft(label, payload, 17)


def drafts(count, size=6):
    return [draft(str(index).encode().rjust(size, b"-")) for index in range(count)]


def read_all(buffer):
    found = []
    while some := buffer.read(100, 1 << 20):
        found += some
    return found


def payloads(found):
    return [each.sample.payload for each in found]


def killed(buffer):
    """As kill -9 leaves it: only the kernel closes what is open."""
    buffer._close_file()
    buffer._folder.close()


def written_at(folder, clock):
    """What a file system with this clock would say."""
    for file in files(folder):
        os.utime(file, (clock.now_ms / 1000, clock.now_ms / 1000))


def files(folder):
    return sorted(folder.glob("*.samples"))


def test_samples_come_out_in_order_with_all_that_they_had(tmp_path):
    buffer = opened(tmp_path)
    ids = buffer.append([draft(b"a"), draft(b"", None)]) + buffer.append([draft(b"c", "Möhre".encode())])
    found = read_all(buffer)
    assert [(each.id, each.sample.label, each.sample.payload, each.sample.sampled_ms) for each in found] == [
        (ids[0], b"boot", b"a", 17),
        (ids[1], None, b"", 17),
        (ids[2], "Möhre".encode(), b"c", 17),
    ]
    assert len(set(ids)) == 3
    assert read_all(buffer) == []


def test_what_has_no_receipt_is_there_after_a_restart(tmp_path):
    buffer = opened(tmp_path)
    ids = buffer.append(drafts(5))
    buffer.received(buffer.read(2, 100)[1].position)
    buffer.close()
    again = opened(tmp_path)
    assert again.num_samples == 3
    assert [each.id for each in read_all(again)] == ids[2:]
    again.close()


def test_numbers_go_on_after_a_clean_end_and_begin_anew_after_a_crash(tmp_path):
    first = opened(tmp_path)
    (one,) = first.append([draft()])
    first.close()
    second = opened(tmp_path)
    (two,) = second.append([draft()])
    killed(second)
    third = opened(tmp_path)
    (three,) = third.append([draft()])
    series, number = one.split(":")
    assert two == f"{series}:{int(number) + 1}"
    assert three.split(":")[0] != series
    assert three.split(":")[1] == "1"
    assert [each.id for each in read_all(third)] == [one, two, three]
    killed(third)


def test_a_card_that_is_put_back_as_it_was_gives_no_sample_the_id_of_another(tmp_path):
    """Its image, or its clone: what it has given ids to since then is not on it, and its edge knows them."""
    clock = Clock()
    buffer = opened(tmp_path / "card", clock)
    buffer.append(drafts(2))
    buffer.close()
    shutil.copytree(tmp_path / "card", tmp_path / "image")
    buffer = opened(tmp_path / "card", clock)
    given = set(buffer.append(drafts(5)))
    buffer.close()
    clock.starts_again()
    buffer = opened(tmp_path / "image", clock)
    assert given.isdisjoint(buffer.append(drafts(5)))
    buffer.close()


def test_a_receipt_moves_the_cursor_on_the_disk_once_a_second_and_at_the_end(tmp_path):
    clock = Clock()
    buffer = opened(tmp_path, clock)
    buffer.append(drafts(4))
    found = read_all(buffer)
    clock.passes(2)
    buffer.received(found[0].position)
    buffer.received(found[1].position)
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path, crashed)
    buffer.received(found[2].position)
    buffer.close()
    assert payloads(read_all(opened(crashed))) == payloads(found[1:])
    assert payloads(read_all(opened(tmp_path))) == payloads(found[3:])


@examples(15)
@given(st.data())
def test_whatever_happens_all_that_was_promised_comes_out_once_a_run_in_order_and_within_bounds(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("buffer")
    buffer = opened(folder, max_bytes=MIN_BUFFER_BYTES)
    unread: list[Buffered] = []
    promised: list[tuple[str, bytes]] = []
    number = 0
    for _ in range(data.draw(st.integers(1, 25))):
        what = data.draw(st.sampled_from(["append", "append", "read", "receive", "crash", "restart"]))
        if what == "append":
            size = data.draw(st.sampled_from([1, 3000, 300_000]))
            new = [draft(b"%d" % (number + index) + bytes(size)) for index in range(data.draw(st.integers(1, 3)))]
            number += len(new)
            try:
                added = list(zip(buffer.append(new), [each.payload for each in new], strict=True))
            except BufferFull:
                assert buffer.num_bytes > MIN_BUFFER_BYTES / 2
            else:
                promised += added
        elif what in {"crash", "restart"}:
            killed(buffer) if what == "crash" else buffer.close()
            buffer, unread = opened(folder, max_bytes=MIN_BUFFER_BYTES), []
        else:
            unread += buffer.read(data.draw(st.integers(1, 4)), 1 << 20)
            if what == "receive" and unread:
                taken = unread[: data.draw(st.integers(1, len(unread)))]
                buffer.received(taken[-1].position)
                unread = unread[len(taken) :]
                gone = {each.id for each in taken}
                promised = [each for each in promised if each[0] not in gone]
        assert sum(each.stat().st_size for each in files(folder)) <= MIN_BUFFER_BYTES
    buffer.close()
    buffer = opened(folder, max_bytes=MIN_BUFFER_BYTES)
    found = [(each.id, each.sample.payload) for each in read_all(buffer)]
    assert [each for each in found if each in promised] == promised
    assert len(set(found)) == len(found)
    assert (buffer.dropped, buffer.damaged) == (0, 0)
    buffer.close()
    shutil.rmtree(folder)


def test_a_tail_that_a_crash_tore_is_cut_and_told_and_all_before_it_is_there(tmp_path, log_lines):
    buffer = opened(tmp_path)
    buffer.append(drafts(3))
    buffer.close()
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    frame = (len(whole) - whole.index(b"\xedsam")) // 3
    for torn in range(1, frame):
        file.write_bytes(whole[:-torn])
        again = opened(tmp_path)
        assert payloads(read_all(again)) == payloads_of(2)
        assert file.stat().st_size == len(whole) - frame
        killed(again)
    assert [line["torn_bytes"] for line in log_lines("buffer.torn")] == [frame - torn for torn in range(1, frame)]


def payloads_of(count):
    return [each.payload for each in drafts(count)]


def test_a_damaged_sample_costs_no_other_and_is_counted(tmp_path, log_lines):
    buffer = opened(tmp_path)
    buffer.append(drafts(5))
    killed(buffer)
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    at = content.index(b"-----2")
    content[at] ^= 1
    file.write_bytes(content)
    again = opened(tmp_path)
    assert payloads(read_all(again)) == [each for each in payloads_of(5) if each != b"-----2"]
    assert again.damaged == 1
    assert [(line["samples"], line["total"]) for line in log_lines("buffer.damaged")] == [(1, 1)]


def test_a_file_that_was_emptied_costs_its_samples_alone_and_they_are_counted(tmp_path):
    buffer = opened(tmp_path, max_bytes=MIN_BUFFER_BYTES)
    for index in range(5):
        buffer.append([draft(b"%d" % index + LARGE)])
    killed(buffer)
    files(tmp_path)[1].write_bytes(b"")
    again = opened(tmp_path)
    assert [each[:1] for each in payloads(read_all(again))] == [b"0", b"2", b"3", b"4"]
    assert again.damaged == 1


def test_a_full_buffer_refuses_what_does_not_fit_and_keeps_the_rest(tmp_path):
    buffer = opened(tmp_path, max_bytes=MIN_BUFFER_BYTES)
    kept = [buffer.append([draft(LARGE)])[0] for _ in range(5)]
    with pytest.raises(BufferFull, match=r'5 samples without a receipt take 35\d* of .* on_full="drop_oldest"'):
        buffer.append([draft(LARGE)])
    found = read_all(buffer)
    assert [each.id for each in found] == kept
    buffer.received(found[0].position)
    assert buffer.append([draft(b"there is room again")])


def test_a_full_buffer_may_drop_the_oldest_which_is_counted_and_told(tmp_path, log_lines):
    buffer = opened(tmp_path, max_bytes=MIN_BUFFER_BYTES, on_full="drop_oldest")
    ids = [buffer.append([draft(LARGE)])[0] for _ in range(12)]
    found = [each.id for each in read_all(buffer)]
    assert found == ids[-len(found) :]
    assert buffer.dropped == 12 - len(found) == 7
    assert sum(each.stat().st_size for each in files(tmp_path)) <= MIN_BUFFER_BYTES
    (line,) = log_lines("buffer.dropped")
    assert (line["samples"], line["reason"]) == (1, "full")


def test_samples_beyond_their_age_are_dropped_and_told(tmp_path, log_lines):
    clock = Clock()
    buffer = opened(tmp_path, clock, max_age_s=60)
    buffer.append([draft(b"old")])
    clock.passes(40)
    buffer.append([draft(b"new")])
    clock.passes(30)
    assert payloads(read_all(buffer)) == [b"new"]
    assert buffer.dropped == 1
    assert [line["reason"] for line in log_lines("buffer.dropped")] == ["age"]
    killed(buffer)
    written_at(tmp_path, clock)
    clock.passes(3600)
    again = opened(tmp_path, clock, max_age_s=60)
    assert read_all(again) == []
    assert files(tmp_path) == []


def test_what_is_too_old_counts_once_and_needs_no_receipt(tmp_path):
    clock = Clock()
    buffer = opened(tmp_path, clock, max_age_s=100)
    buffer.append(drafts(3))
    clock.passes(10)
    buffer.append(drafts(2))
    clock.passes(95)
    found = read_all(buffer)
    assert (len(found), buffer.dropped, buffer.num_samples) == (2, 3, 2)
    clock.passes(50)
    buffer.append(drafts(1))
    assert read_all(buffer)
    assert (buffer.dropped, buffer.num_samples) == (5, 1)
    assert len(files(tmp_path)) == 1


def test_what_cannot_be_read_needs_no_receipt(tmp_path, monkeypatch):
    buffer = opened(tmp_path)
    buffer.append(drafts(3))
    (first,) = buffer.read(1, 1)
    monkeypatch.setattr(BufferFolder, "read", lambda *_: bytes(100))
    assert read_all(buffer) == []
    assert (buffer.damaged, buffer.num_samples) == (2, 1)
    buffer.received(first.position)
    assert buffer.num_samples == 0
    buffer.close()
    assert opened(tmp_path).num_samples == 0


def test_a_clock_that_is_set_while_the_device_runs_makes_no_sample_old(tmp_path):
    clock = Clock()
    buffer = opened(tmp_path, clock, max_age_s=60)
    clock.now_ms = 5_000
    buffer.append([draft(b"before the time was known")])
    written_at(tmp_path, clock)
    clock.now_ms = 1_800_000_000_000
    assert buffer.num_samples == 1
    killed(buffer)
    again = opened(tmp_path, clock, max_age_s=60)
    assert payloads(read_all(again)) == [b"before the time was known"]


def test_a_clock_that_is_set_makes_no_sample_old_for_the_next_process_either(tmp_path):
    """A machine without a battery begins with the time at which it was stopped."""
    clock = Clock()
    buffer = opened(tmp_path, clock, max_age_s=3600)
    buffer.append([draft(b"a minute ago")])
    written_at(tmp_path, clock)
    clock.now_ms += 3 * 86_400_000
    clock.passes(60)
    killed(buffer)
    again = opened(tmp_path, clock, max_age_s=3600)
    again.append([draft(b"now")])
    assert payloads(read_all(again)) == [b"a minute ago", b"now"]
    assert again.dropped == 0


def test_what_an_earlier_process_wrote_is_too_old_by_the_time_that_has_passed(tmp_path):
    clock = Clock()
    buffer = opened(tmp_path, clock, max_age_s=3600)
    buffer.append([draft(b"old")])
    killed(buffer)
    clock.now_ms -= 3 * 86_400_000
    clock.passes(4000)
    again = opened(tmp_path, clock, max_age_s=3600)
    again.append([draft(b"now")])
    assert again.dropped == 1
    assert len(files(tmp_path)) == 1


def test_two_processes_never_have_one_buffer(tmp_path):
    buffer = opened(tmp_path)
    with pytest.raises(AlreadyRunning, match="another process has the buffer"):
        opened(tmp_path)
    buffer.close()
    opened(tmp_path).close()


def test_samples_of_another_device_are_refused(tmp_path):
    buffer = opened(tmp_path)
    buffer.append([draft()])
    buffer.close()
    with pytest.raises(StateFolderRefused, match="device cam-01, site greenhouse, not of device cam-02"):
        opened(tmp_path, owner=OWNER | {"device": "cam-02"})
    opened(tmp_path).close()


def test_samples_of_another_version_are_refused_and_kept(tmp_path):
    buffer = opened(tmp_path)
    buffer.append([draft()])
    buffer.close()
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"device_samples/1", b"device_samples/2"))
    with pytest.raises(StateFolderRefused, match="another version"):
        opened(tmp_path)
    assert file.exists()


def test_what_others_have_put_into_the_folder_is_left_alone(tmp_path, log_lines):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "0000000001-0123456789ab-0000000001.samples").mkdir()
    buffer = opened(tmp_path)
    buffer.append([draft()])
    buffer.received(read_all(buffer)[-1].position)
    buffer.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "0000000001-0123456789ab-0000000001.samples",
        "cursor",
        "notes.txt",
    ]
    assert [line["foreign"] for line in log_lines("buffer.opened")] == [2]


@pytest.mark.parametrize("content", [b"", b"{}", b"junk", b'{"file": -1}', bytes(100_000)])
def test_a_cursor_that_is_lost_has_all_sent_again(tmp_path, content, log_lines):
    buffer = opened(tmp_path)
    buffer.append(drafts(3))
    buffer.received(buffer.read(2, 100)[0].position)
    buffer.close()
    (tmp_path / "cursor").write_bytes(content)
    assert payloads(read_all(opened(tmp_path))) == payloads_of(3)
    assert [line["cursor_lost"] for line in log_lines("buffer.torn")] == [True]


@pytest.mark.parametrize("name", ["file", "number"])
def test_a_cursor_with_another_digit_is_a_lost_one(tmp_path, name, log_lines):
    """A card alters bits: none may have samples taken for received."""
    buffer = opened(tmp_path)
    buffer.append(drafts(3))
    buffer.received(buffer.read(2, 100)[0].position)
    buffer.close()
    cursor = tmp_path / "cursor"
    cursor.write_bytes(re.sub(rb'("%s": )' % name.encode(), rb"\g<1>9", cursor.read_bytes()))
    assert payloads(read_all(opened(tmp_path))) == payloads_of(3)
    assert [line["cursor_lost"] for line in log_lines("buffer.torn")] == [True]


@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to(path.with_name("theirs"))], ids=["FIFO", "link"]
)
def test_what_others_have_put_in_place_of_the_next_cursor_is_neither_waited_for_nor_followed(tmp_path, put):
    (tmp_path / "theirs").write_bytes(b"theirs")
    put(tmp_path / "cursor.tmp")
    opened(tmp_path).close()
    assert opened(tmp_path).num_samples == 0
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_a_full_disk_refuses_and_what_was_kept_is_delivered(tmp_path, process):
    with mounted(tmp_path, "size=2m") as folder:
        buffer = opened(folder / "buffer")
        ids = buffer.append(drafts(3))
        filler = fill(folder)
        with pytest.raises(DiskFull, match="No space left"):
            buffer.append([draft(LARGE)])
        assert [each.id for each in read_all(buffer)] == ids
        filler.unlink()
        more = buffer.append([draft(b"room")])
        assert [each.id for each in read_all(buffer)] == more
        killed(buffer)
        again = opened(folder / "buffer")
        assert [each.id for each in read_all(again)] == ids + more
        again.close()


def test_on_a_full_disk_too_the_oldest_may_make_room(tmp_path, process):
    with mounted(tmp_path, "size=3m") as folder:
        buffer = opened(folder, on_full="drop_oldest", max_bytes=16 << 20)
        ids = [buffer.append([draft(LARGE)])[0] for _ in range(8)]
        found = [each.id for each in read_all(buffer)]
        assert found == ids[-len(found) :]
        assert buffer.dropped == 8 - len(found) > 0
        buffer.close()


def test_a_read_only_disk_is_refused_with_its_reason(tmp_path, process):
    with mounted(tmp_path, "size=2m") as folder:
        opened(folder).close()
        mount(folder, "remount,ro")
        with pytest.raises(StateFolderRefused, match="Read-only file system"):
            opened(folder)


def test_a_disk_that_fails_a_write_takes_back_what_it_promised_of_no_other(tmp_path, monkeypatch):
    buffer = opened(tmp_path)
    (before,) = buffer.append([draft(b"before")])
    append = SegmentFile.append

    def fails(self, data):
        append(self, data[: len(data) // 2])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SegmentFile, "append", fails)
    with pytest.raises(StorageError, match="Input/output error"):
        buffer.append([draft(b"in doubt")])
    monkeypatch.undo()
    (after,) = buffer.append([draft(b"after")])
    assert payloads(read_all(buffer)) == [b"before", b"after"]
    assert after.split(":")[0] != before.split(":")[0]
    killed(buffer)
    assert payloads(read_all(opened(tmp_path))) == [b"before", b"after"]


def test_a_piece_that_cannot_be_read_is_tried_again_before_it_is_given_up(tmp_path, monkeypatch):
    buffer = opened(tmp_path)
    buffer.append(drafts(2))
    read = BufferFolder.read

    def fails(self, name, at, num_bytes):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(BufferFolder, "read", fails)
    with pytest.raises(StorageError, match="cannot be read"):
        buffer.read(1, 1)
    monkeypatch.setattr(BufferFolder, "read", read)
    assert payloads(buffer.read(1, 1)) == payloads_of(1)
    monkeypatch.setattr(BufferFolder, "read", fails)
    for _ in range(2):
        with pytest.raises(StorageError):
            buffer.read(1, 1)
    assert buffer.read(1, 1) == []
    assert buffer.damaged == 1


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    folder = tmp_path / "buffer"
    folder.mkdir()
    Path(folder / "0000000001-0123456789ab-0000000001.samples").symlink_to(target)
    buffer = opened(folder)
    buffer.append([draft()])
    buffer.received(read_all(buffer)[0].position)
    buffer.close()
    assert target.read_bytes() == b"theirs"


@pytest.mark.parametrize(
    "bounds", [{"max_bytes": 1000}, {"max_age_s": 0}, {"max_age_s": float("nan")}, {"on_full": "forget"}]
)
def test_bounds_that_make_no_buffer_are_refused(bounds):
    with pytest.raises(ValueError):
        Bounds(**bounds)
