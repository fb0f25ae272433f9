"""What an outsider, or a member that breaks the rules, may write to a group's log: none of it may count."""

import numpy as np

from edged.domain import tensors
from edged.domain.group import compression
from edged.domain.group import records as exchange_records
from edged.domain.group.records import Begin, Close, Contribution, Join, Leave, Part, Record, Tested, Update
from tests.support.real_group import History


def hostile(history: History, step: int) -> list[bytes]:
    """What anyone with write access to the topic could write: garbage, and records in pi-b's name."""
    n = history.rules.num_parameters
    header = tensors.encode({}, {"edged": "exchange/1"})
    blobs = [
        b"",
        b"garbage",
        bytes(900_000),
        b"\xff" * 1000,
        header,
        (1 << 62).to_bytes(8, "little") + header[8:],
        tensors.encode({"chunk": np.zeros(10, np.uint8)}, {"edged": "exchange/1", "record": "[" * 100_000}),
        tensors.encode({}, {"edged": "exchange/1", "record": '{"kind": "close", "step": 1e999, "edge": "pi-b"}'}),
        tensors.encode({}, {"edged": "exchange/1", "record": '{"kind": "join", "edge": "../pi-b", "job_digest": ""}'}),
    ]
    payloads = [
        tensors.encode({"float32": np.full(n, np.nan, np.float32)}),
        tensors.encode({"float32": np.full(n, np.inf, np.float32)}),
        tensors.encode({"float32": np.full(n, 1e30, np.float32)}),
        tensors.encode({"float32": np.zeros(n - 1, np.float32)}),
        tensors.encode({"float32": np.zeros((n, 1), np.float32)}),
        tensors.encode({"float64": np.zeros(n // 2, np.float64)}),
        tensors.encode({"int8": np.zeros(n, np.int8), "scale": np.zeros(1, np.float32)}),
        tensors.encode({"values": np.ones(2, np.float16), "deltas": np.array([0, n], np.uint32)}),
        b"garbage",
        huge(n),
    ]
    records: list[Record] = [
        *(part for attempt, payload in enumerate(payloads) for part in parts(step, f"{attempt:08x}", payload)),
        Part("pi-z", step, "0123abcd", 0, 1, 64, 1.0, 1, 1.0, b"garbage"),
        Join("pi-b", "0" * 64, step, "0" * 64),
        Join("pi-z", history.job, step, "0" * 64),
        Leave("pi-z"),
        Close(step, "pi-z"),
        Close(step + 1, "pi-b"),
        Tested("pi-z", 0, 0, 0, 0.0, "0" * 64),
        Tested("pi-b", 0, 10, 10, 1.0, "0" * 64)
        if history.state.is_open and not history.epochs[-1].epoch
        else Close(1 << 39, "pi-b"),
        Begin(history.epochs[-1].epoch + 1, {"pi-b": 1.0}, {"_train.fashion": 1}, 1, "0" * 64, "pi-b"),
        Begin(history.epochs[-1].epoch + 7, {"pi-z": 1.0}, {"_train.fashion": 1}, 1, "0" * 64, "pi-z"),
        Update(step, 0, 1, (Contribution("pi-b", 0, 0.0, 0),), 0, "{}", b""),
    ]
    return [*blobs, *map(exchange_records.encode, records)]


def parts(step: int, attempt: str, payload: bytes) -> list[Part]:
    """A gradient in pi-b's name with this payload."""
    chunks = compression.split(payload)
    return [Part("pi-b", step, attempt, i, len(chunks), 64, 1.0, 1, 1.0, chunk) for i, chunk in enumerate(chunks)]


def huge(n: int) -> bytes:
    """A payload whose header claims far more bytes than it has."""
    blob = tensors.encode({"float32": np.zeros(n, np.float32)})
    return blob.replace(f"[{n}]".encode(), f"[{10 ** len(str(n)) - 1}]".encode())
