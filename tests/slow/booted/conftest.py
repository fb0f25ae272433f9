"""A booted site for each suite of Debian, and for each test all its units at work."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.booted.machine import Machine, need_machine
from tests.support.booted.roots import SYSTEMD
from tests.support.booted.site import BootedSite, installed
from tests.support.brokers import Apache, apache_files


@pytest.fixture(scope="session", params=SYSTEMD, ids=[f"{suite}-{version}" for suite, version in SYSTEMD.items()])
def suite(request) -> str:
    """Of the machine that the test runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def files(need_broker) -> tuple[Path, ...]:
    """Of Apache Kafka, which a machine has to see."""
    need_machine()
    need_broker(Apache)
    return apache_files()


@pytest.fixture(scope="session")
def installed_layer(suite, files) -> Iterator[Path]:
    """What a machine has written that has the whole site, and is off."""
    with tempfile.TemporaryDirectory(prefix="edged-installed-", dir="/var/tmp") as folder:
        yield installed(suite, Path(folder), files)


@pytest.fixture(scope="module")
def booted_site(suite, files, installed_layer) -> Iterator[BootedSite]:
    """A site of the module's own, booted."""
    with (
        tempfile.TemporaryDirectory(prefix="edged-booted-", dir="/var/tmp") as folder,
        Machine(suite, Path(folder) / suite, over=installed_layer, seen=files) as machine,
    ):
        machine.boot()
        yield BootedSite(machine)


@pytest.fixture
def site(booted_site: BootedSite) -> BootedSite:
    """The module's site, with its own topology and all nodes running."""
    booted_site.restore()
    return booted_site
