"""The machine's name."""

import os

import pytest

from edged.adapters.host.name import host_name


@pytest.mark.parametrize(
    ("name", "told"), [("pi-a", "pi-a"), ("küche", "küche"), (os.fsdecode(b"k\xfcche"), "k\ufffdche")],
    ids=["plain", "beyond ASCII", "no text"],
)  # fmt: skip
def test_the_machines_name_is_text_that_can_be_sent_whatever_linux_was_given(monkeypatch, name, told):
    monkeypatch.setattr("socket.gethostname", lambda: name)
    assert host_name() == told
    host_name().encode()
