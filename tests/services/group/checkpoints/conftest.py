"""The log that the tests of checkpoints share."""

import pytest

from edged.adapters.memory.log import MemoryLog
from edged.ports import Message
from tests.support.group_checkpoints import TRAIN


@pytest.fixture
async def log(log_lines) -> MemoryLog:
    log = MemoryLog()
    await log.append([Message(TRAIN, b"x")] * 5)
    return log
