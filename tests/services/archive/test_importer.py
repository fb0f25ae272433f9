"""The same data set, seed and limit always give the same blocks, however often an import is interrupted."""

from dataclasses import replace
from itertools import chain

import pytest

from edged.adapters.memory.archive import MemoryArchive
from edged.domain.samples.pack import MAX_SAMPLES
from edged.domain.topology import Dtype, Stream
from edged.errors import FormatError, RejectedRecord, StorageError
from edged.ports import Item, LeftOut, Omissions
from edged.services.archive import importer
from edged.services.archive.importer import check, import_portion, portions

STREAM = Stream("bytes", (1, 2, 1), "uint8", ("even", "odd"))


class Numbers:
    """Item i is i in two bytes, labelled by its parity."""

    name = "numbers"
    labels = ("even", "odd")
    shape = (1, 2, 1)
    dtype: Dtype = "uint8"
    left_out = ()
    label_place = "the numbers"

    def __init__(self, **counts):
        self._counts = counts
        self.splits = tuple(counts)
        self.read = 0

    def count(self, split):
        return self._counts[split]

    def sample(self, split, index):
        self.read += 1
        return Item(self.label(split, index), "raw", index.to_bytes(2, "big"))

    def label(self, split, index):
        return self.labels[index % 2]

    def item_name(self, split, index):
        return f"{split}/{index}"


def test_without_a_test_split_all_is_divided_by_the_fraction():
    train, test = portions(Numbers(all=10), "mine", "all", 0.2, seed=1, limit=None)
    assert (train.source, len(train.order)) == ("_train.mine", 8)
    assert (test.source, len(test.order)) == ("_test.mine", 2)
    assert sorted(chain(train.order, test.order)) == list(range(10))


def test_splits_keep_their_side_and_a_limit_holds_for_each_source():
    found = portions(Numbers(train=10, test=4), "mine", "all", 0.2, seed=1, limit=3)
    assert [(each.splits, each.source, len(each.order)) for each in found] == [
        (("train",), "_train.mine", 3),
        (("test",), "_test.mine", 3),
    ]


@pytest.mark.parametrize("held_out", [("val",), ("test", "val")])
def test_val_is_held_out_beside_test_or_in_its_place(held_out):
    dataset = Numbers(train=10, **dict.fromkeys(held_out, 4))
    train, test = portions(dataset, "mine", "all", 0.2, seed=1, limit=None)
    assert (train.splits, sorted(train.order)) == (("train",), list(range(10)))
    assert (test.splits, test.source, sorted(test.order)) == (held_out, "_test.mine", list(range(4 * len(held_out))))
    assert test.place(dataset, 3) == (held_out[0], 3)
    store = MemoryArchive()
    import_portion(store, STREAM, dataset, test, lambda _: None)
    (block,) = store.blocks("bytes", "_test.mine").values()
    assert sorted(sample.payload[1] for sample in block.samples) == sorted([*range(4)] * len(held_out))
    assert portions(dataset, "mine", "val", 0.2, seed=1, limit=None)[0].source == "_test.mine"


def test_the_order_depends_on_the_seed():
    orders = [portions(Numbers(train=50), "mine", "train", 0, seed, None)[0].order for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_a_split_that_does_not_exist_is_refused():
    with pytest.raises(FormatError, match="no split 'valid', only train"):
        portions(Numbers(train=1), "mine", "valid", 0, 1, None)


def test_a_data_set_that_does_not_fit_the_stream_is_refused():
    check(Numbers(train=1), STREAM)
    with pytest.raises(FormatError, match="numbers holds uint8"):
        check(Numbers(train=1), Stream("bytes", (2, 2, 1), "uint8", ("even", "odd")))


def test_an_interrupted_import_resumes_with_the_same_blocks(monkeypatch):
    monkeypatch.setattr(importer, "FILE_BYTES", 1)  # a file for each pack
    (portion,) = portions(Numbers(train=1000), "mine", "train", 0, 1, None)
    whole, interrupted = MemoryArchive(), MemoryArchive()
    assert import_portion(whole, STREAM, Numbers(train=1000), portion, lambda _: None).new == 1000

    def stop_at_two_blocks(_num_samples):
        if len(interrupted.blocks("bytes", "_train.mine")) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_portion(interrupted, STREAM, Numbers(train=1000), portion, stop_at_two_blocks)
    dataset, progress = Numbers(train=1000), list[int]()
    assert import_portion(interrupted, STREAM, dataset, portion, progress.append).new == 1000 - 2 * MAX_SAMPLES
    assert interrupted.blocks("bytes", "_train.mine") == whole.blocks("bytes", "_train.mine")
    assert dataset.read == 1000 - 2 * MAX_SAMPLES
    assert (progress[0], sum(progress)) == (2 * MAX_SAMPLES, 1000)


def test_an_import_that_is_complete_imports_nothing_and_another_one_is_refused():
    store = MemoryArchive()
    first, another = (portions(Numbers(train=20), "mine", "train", 0, seed, None)[0] for seed in (1, 2))
    import_portion(store, STREAM, Numbers(train=20), first, lambda _: None)
    assert import_portion(store, STREAM, Numbers(train=20), first, lambda _: None) == (
        "_train.mine",
        0,
        20,
        {"train": 20},
    )
    with pytest.raises(FormatError, match="another import"):
        import_portion(store, STREAM, Numbers(train=20), another, lambda _: None)


class Faulty(Numbers):
    """Every item whose number ends with 7 is too short, and every one that ends with 8 cannot be read."""

    def sample(self, split, index):
        item = super().sample(split, index)
        if index % 10 == 8:
            raise StorageError("Input/output error")
        return replace(item, payload=b"x") if index % 10 == 7 else item


def test_what_is_no_sample_of_the_stream_is_left_out_and_counted_by_name():
    store, omissions, progress = MemoryArchive(), Omissions(), list[int]()
    dataset = Faulty(train=60, test=1)
    portion, _ = portions(dataset, "mine", "all", 0, seed=1, limit=None)
    imported = import_portion(store, STREAM, dataset, portion, progress.append, omissions=omissions)
    assert (imported.new, imported.samples, sum(progress)) == (48, 48, 60)
    assert {each.reason: each.count for each in omissions.listed()} == {"unreadable": 6, "wrong_length": 6}
    assert all(len(each.first) == 5 for each in omissions.listed())
    assert {name for each in omissions.listed() for name in each.first} < {f"train/{i}" for i in range(60)}


def test_an_import_with_left_out_items_resumes_with_the_same_blocks(monkeypatch):
    monkeypatch.setattr(importer, "FILE_BYTES", 1)
    dataset = Faulty(train=1000)
    (portion,) = portions(dataset, "mine", "train", 0, 1, None)
    whole, interrupted, complete = MemoryArchive(), MemoryArchive(), Omissions()
    import_portion(whole, STREAM, dataset, portion, lambda _: None)
    for offset in range(2):
        interrupted.append("bytes", "_train.mine", [(offset, whole.blocks("bytes", "_train.mine")[offset])])

    imported = import_portion(interrupted, STREAM, dataset, portion, lambda _: None, omissions=complete)
    assert imported == ("_train.mine", 800 - 2 * MAX_SAMPLES, 800, {"train": 800})
    assert interrupted.blocks("bytes", "_train.mine") == whole.blocks("bytes", "_train.mine")
    assert len(complete) == 200

    assert import_portion(interrupted, STREAM, dataset, portion, lambda _: None).new == 0
    (another,) = portions(dataset, "mine", "train", 0, 2, None)
    with pytest.raises(FormatError, match="another import"):
        import_portion(interrupted, STREAM, dataset, another, lambda _: None)


def test_an_item_is_archived_in_the_form_that_it_is_given():
    def form(item):
        if item.payload == b"\0\x03":
            raise RejectedRecord("truncated")
        return replace(item, payload=b"ab")

    store, omissions = MemoryArchive(), Omissions()
    (portion,) = portions(Numbers(train=9), "mine", "train", 0, 1, None)
    import_portion(store, STREAM, Numbers(train=9), portion, lambda _: None, form=form, omissions=omissions)
    (block,) = store.blocks("bytes", "_train.mine").values()
    assert [sample.payload for sample in block.samples] == [b"ab"] * 8
    assert omissions.listed() == (LeftOut("truncated", 1, ("train/3",)),)
