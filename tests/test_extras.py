"""What edged may have been installed without."""

import asyncio
import subprocess
import sys

import pytest

from edged import extras


async def fails(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


async def test_a_missing_package_is_found_in_a_group_of_tasks_too():
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails("paho.mqtt"))
    assert extras.missing(raised.value).startswith("paho.mqtt is not installed: ")
    assert "'.[mqtt]'" in extras.missing(raised.value)


@pytest.mark.parametrize(
    "error", [ValueError("paho"), ModuleNotFoundError("x"), ModuleNotFoundError("x", name="edged.x")]
)
def test_what_no_extra_brings_is_another_failure(error):
    assert extras.missing(error) == ""
    assert extras.missing(ExceptionGroup("of a group", [error])) == ""


def test_a_devices_program_without_paho_is_told_what_to_install():
    program = """
import sys
sys.modules["paho"] = None
try:
    from edged.adapters.mqtt import PahoBroker
except ModuleNotFoundError as error:
    print(error.name, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("paho")
    assert "install '.[mqtt]'" in done.stdout
