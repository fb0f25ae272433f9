"""A second run of a node or of a companion, in another state folder, ends; one after kill -9 goes on at once."""

import signal

from edged.cli.demo.processes import Child
from tests.support.site import Site, own_name, running

EX_TEMPFAIL = 75


async def elsewhere(site: Site, command: str, node: str) -> Child:
    """The same node with another state folder, as on a machine with a copy of this one's disk."""
    folders = {
        "XDG_STATE_HOME": str(site.folder / "copy" / "state"),
        "XDG_CACHE_HOME": str(site.folder / "copy" / "cache"),
    }
    site.more_environment = folders
    try:
        return await site.start(command, node)
    finally:
        site.more_environment = {}


async def test_a_second_run_elsewhere_ends_and_names_the_first_and_a_killed_one_is_followed_at_once(
    apache_kafka, tmp_path
):
    async with running(
        Site(tmp_path, apache_kafka.bootstrap, site=own_name(tmp_path), timing={"presence_s": 1.0})
    ) as site:
        edge, companion = [await site.start(command, "pi-a") for command in ("run", "infer")]
        for child in (edge, companion):
            begun = await child.wait_for("presence.begun")
            assert begun["former"] == ""
        second = [await elsewhere(site, command, "pi-a") for command in ("run", "infer")]
        for child, first in zip(second, (edge, companion), strict=True):
            assert await child.ended() == EX_TEMPFAIL, child.last_words()
            assert not child.seen("presence.begun")
            [refused] = child.seen("life.refused")
            assert f"process {first.pid}" in refused["reason"]
            assert str(site.state("pi-a")) in refused["reason"]
        for command, first in (("run", edge), ("infer", companion)):
            same_folder = await site.start(command, "pi-a")
            assert await same_folder.ended() == EX_TEMPFAIL
            [refused] = same_folder.seen("life.refused")
            assert f"process {first.pid}, state folder {site.state('pi-a')}" in refused["reason"]
            assert " since 20" in refused["reason"]

        for child, command in ((edge, "run"), (companion, "infer")):
            former = child.lines[0]["run_id"]
            child.signal(signal.SIGKILL)
            await child.ended()
            again = await site.start(command, "pi-a")
            begun = await again.wait_for("presence.begun")
            assert (begun["former"], begun["former_is"]) == (former, "dead")
            assert not again.seen("life.refused")
            assert begun["waited_s"] < 4.0, "before the other's beats would have counted as missing"
