"""What may be wrong with a remote archive, one thing after the other under one running archive node.

Each is told within 10 s with the place and the reason, and is over without a restart; no sample is lost or there twice.
A node tells six beginnings of a trouble a minute: so there are no more in a test.
"""

import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest

from edged.cli.demo.processes import Child, LogLine
from tests.support.clock import Clock
from tests.support.s3 import ACCESS_KEY, REGION, SECRET_KEY, Versitygw, need_versitygw, versitygw_program
from tests.support.shared_brokers import SharedBroker
from tests.support.site import Site, following, own_name, running, stopped

BUCKET = "vaults"
FOLDER = f"{BUCKET}/edged"
PLACE = f"s3://{FOLDER}"
USER, SECRET = "arc-1-key", "x" * 20
TOLD_S = 10.0
RATE = 20.0


class Told:
    """Holds a node to what it promises of its archive's place."""

    def __init__(self, vault: Child, place: str) -> None:
        self._vault = vault
        self._place = re.escape(place)

    @asynccontextmanager
    async def wrong(self, reason: str) -> AsyncIterator[None]:
        """Inside, something is about to be wrong; on leaving it, that has been told in time."""
        seen = len(self._degradations())
        yield
        since_s = time.monotonic()
        told = f"{self._place}.*{reason}"

        def is_told(_lines: object) -> bool:
            return any(re.search(told, line["reason"], re.DOTALL) for line in self._degradations()[seen:])

        await self._vault.until(is_told, f"it told {reason!r}")
        took_s = time.monotonic() - since_s
        assert took_s < TOLD_S, (reason, took_s)

    async def recovered(self) -> None:
        """Wait until nothing is wrong any more, and files are written."""
        num_degraded = len(self._degradations())
        await self._vault.until(_is_well, "it recovered")
        await following(self._vault, "archive.flushed")
        assert len(self._degradations()) == num_degraded, self._degradations()[-1]

    def _degradations(self) -> list[LogLine]:
        return self._vault.seen("health.degraded", part="archive")


def _is_well(lines: Any) -> bool:
    states = [line["event"] for line in lines if line.get("part") == "archive"]
    return bool(states) and states[-1] == "health.recovered"


class Gateway(Versitygw):
    """With a bucket, and a user that has the rights that an archive in it needs."""

    def wait_until_up(self) -> None:
        super().wait_until_up()
        self._s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def make_user(self) -> None:
        self._admin("create-user", "-a", USER, "-s", SECRET, "-r", "user")

    def remove_user(self) -> None:
        self._admin("delete-user", "-a", USER)

    def let_user_in(self) -> None:
        allowed = {"Effect": "Allow", "Principal": {"AWS": [USER]}}
        rights = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        statements = [
            {**allowed, "Action": rights, "Resource": [f"arn:aws:s3:::{BUCKET}/edged/*"]},
            {**allowed, "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{BUCKET}"]},
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self._s3.put_bucket_policy(Bucket=BUCKET, Policy=policy)

    def shut_user_out(self) -> None:
        self._s3.delete_bucket_policy(Bucket=BUCKET)

    def hide(self, name: str) -> None:
        (self.folder / "data" / name).rename(self.folder / "hidden")

    def show(self, name: str) -> None:
        (self.folder / "hidden").rename(self.folder / "data" / name)

    def _admin(self, *words: str) -> None:
        admin = [str(versitygw_program()), "admin", "-a", ACCESS_KEY, "-s", SECRET_KEY, "-r", REGION]
        subprocess.run([*admin, "-er", f"http://127.0.0.1:{self.port}", *words], check=True, capture_output=True)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    need_versitygw()
    with Gateway() as gateway:
        gateway.make_user()
        gateway.make_bucket(BUCKET)
        gateway.let_user_in()
        yield gateway


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """Of the archive node."""
    return Clock(tmp_path / "clock")


@pytest.fixture
async def site(embedded_broker: SharedBroker, gateway: Gateway, clock: Clock, tmp_path: Path) -> AsyncIterator[Site]:
    """With devices that publish, and an archive in the bucket."""
    keys = f'endpoint: "http://127.0.0.1:{gateway.port}", region: {REGION}, access_key: {USER}, secret_key: {SECRET}'
    settings = {"site": own_name(tmp_path), "flush": "500ms", "archive": f"url: {PLACE}, s3: {{{keys}}}"}
    async with running(Site(tmp_path / "site", embedded_broker.bootstrap, **settings)) as site:
        await site.start("run", "pi-a")
        await site.start_sensors(RATE)
        site.more_environment = clock.environment
        yield site


async def assert_all_is_archived(site: Site, vault: Child) -> None:
    for sensor in [child for child in site.children if child.name.startswith("sensor")]:
        await stopped(sensor)
    await site.assert_each_archived_once(vault)


async def test_a_gateway_bucket_or_folder_that_is_away_is_told_in_time_and_over_without_a_restart(site, gateway):
    gateway.stop()
    vault = await site.start("run", "vault")
    told = Told(vault, PLACE)
    async with told.wrong("no connection, or no answer: Connection refused"):
        await vault.wait_for("life.started")
    gateway.start()
    await told.recovered()

    for reason, bring_about, mend in (
        ("no answer", gateway.pause, gateway.resume),
        ("no connection", gateway.kill, gateway.start),
        (f'there is no bucket "{BUCKET}"', partial(gateway.hide, BUCKET), partial(gateway.show, BUCKET)),
        ("has no edged-archive.json", partial(gateway.hide, FOLDER), partial(gateway.show, FOLDER)),
    ):
        async with told.wrong(reason):
            bring_about()
        mend()
        await told.recovered()
    await assert_all_is_archived(site, vault)


async def test_credentials_that_are_no_longer_good_are_told_in_time_and_over_without_a_restart(site, gateway, clock):
    vault = await site.start("run", "vault")
    told = Told(vault, PLACE)
    await following(vault, "archive.flushed")

    for reason, bring_about, mend in (
        ("the credentials lack a right", gateway.shut_user_out, gateway.let_user_in),
        ("the access key is not known there", gateway.remove_user, gateway.make_user),
        ("this machine's clock is far off", partial(clock.set, 3600.0), partial(clock.set, 0.0)),
    ):
        async with told.wrong(reason):
            bring_about()
        mend()
        await told.recovered()
    await assert_all_is_archived(site, vault)
