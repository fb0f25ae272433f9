"""One edge's broken packs, and samples that somebody takes out, on a site of real processes over Apache Kafka."""

from dataclasses import replace
from typing import Any

import numpy as np

from edged.adapters.kafka import KafkaLog
from edged.adapters.memory.health import RecordingHealth
from edged.domain.samples import pack as packs
from edged.domain.samples.pack import Pack
from edged.domain.samples.sample import Sample
from edged.ports import Message
from tests.support.archive_samples import open_archive
from tests.support.site import Site, following, own_name, running, stopped

EDGES = ("pi-a", "pi-b")
TOPOLOGY = """\
schema: 1
site: {site}
kafka: {kafka}
streams:
  climate: {{sample: {{shape: [4], dtype: float32}}, labels: [low, high]}}
iot:
  - {{name: meter-a, edge: pi-a, stream: climate}}
  - {{name: meter-c, edge: pi-c, stream: climate}}
edges:
  - {{name: pi-a, prefetch: 4MiB, memory_limit: 400MiB}}
  - {{name: pi-b, prefetch: 4MiB, memory_limit: 400MiB}}
  - {{name: pi-c, prefetch: 4MiB, memory_limit: 400MiB}}
archive:
  - {{name: vault, url: "{archive}", flush: 1s}}
training:
  stream: climate
  model: [dense: 8, relu, dense: 2]
  source: archive
  epochs: {epochs}
  global_batch: 32
  micro_batch: 8
  test_fraction: 0
  optimizer: {{sgd: {{learning_rate: 0.05}}}}
  exchange: {{mode: all_reduce}}
"""


class ClimateSite(Site):
    """Three edges that train together, one of which is no edge but somebody who writes its packs."""

    def configure(self, **settings: Any) -> None:
        self._settings |= settings
        values = {"archive": self.archive_folder.as_uri(), "kafka": self._kafka, **self._settings}
        self.topology.write_text(TOPOLOGY.format(**values))


def sample(offset: int, device: str = "meter-c", spoilt: float | None = None) -> Sample:
    label = offset % 2
    numbers = np.random.default_rng(offset).normal(label, 0.2, 4).astype("<f4")
    if spoilt is not None:
        numbers[2] = spoilt
    return Sample(device, 0, offset, -1, ("low", "high")[label], "raw", numbers.tobytes())


def pack_of(device: str, first: int, num_samples: int = 40) -> Pack:
    return Pack("climate", tuple(sample(first + i, device) for i in range(num_samples)))


def hostile_packs() -> list[Pack]:
    """Ten of NaN around one good sample each; one whose offset would end the archive; one of another edge's device."""
    spoilt = [
        Pack("climate", (*(sample(100 * n + i, spoilt=np.nan) for i in range(20)), sample(100 * n + 20)))
        for n in range(10)
    ]
    last = replace(sample(1), offset=(1 << 63) - 1)
    return [*spoilt, Pack("climate", (last, sample(5000))), pack_of("meter-a", 9000, 5)]


async def test_one_edges_broken_packs_end_nobodys_training_and_samples_are_taken_out_and_back(apache_kafka, tmp_path):
    site = ClimateSite(tmp_path, apache_kafka.bootstrap, site=own_name(tmp_path), epochs=2)
    store = open_archive(site.archive_folder)
    store.append("climate", "_train.good", [(n, pack_of("meter-a", 40 * n)) for n in range(6)])
    before_the_rule = Pack("climate", (sample(1, spoilt=np.inf), sample(2)))
    store.append("climate", "_train.older", [(0, before_the_rule)])
    topology = site.loaded()
    async with running(site):
        vault = await site.start("run", "vault")
        await vault.wait_for("life.ready")
        async with KafkaLog(topology.kafka, RecordingHealth()) as log:
            topic = topology.archive_topic("climate", "pi-c")
            await log.append([Message(topic, packs.encode(pack)) for pack in hostile_packs()])
        await vault.until(
            lambda lines: sum(line["samples"] for line in lines if line["event"] == "archive.flushed") >= 11,
            "what was good of them was archived",
        )
        edges = [await site.start("run", edge) for edge in EDGES]
        for edge in edges:
            await edge.wait_for("train.finished")
            assert edge.seen("train.diverged") == edge.seen("exchange.withheld") == []
            assert sum(line["samples"] for line in edge.seen("epoch.missing")) <= 2, "the older one, once an epoch"
            await stopped(edge)

        refused = vault.seen("archive.refused")
        assert refused[0]["address"] == "climate/pi-c/0/0"
        assert refused[0]["device"] == "climate/@meter-c/0/0"
        assert refused[0]["reasons"] == {"not_finite": 20}
        assert "climate/_train.older/0/0" in {line["address"] for line in refused}
        line = await following(vault, "res.sample")
        assert line["refused_samples"] >= 200 + 1 + 1
        assert any(
            line["part"] == "archive/climate/pi-c" and "foreign_device, meter-a is a device of pi-a" in line["reason"]
            for line in vault.seen("health.degraded")
        ), "what another edge's device has not sent is not archived, and alone its sender waits"
        findings = await site.edged("archive", "verify", str(site.topology), expect=1)
        assert findings.splitlines()[-1].startswith("1 finding: ")
        assert "climate/_train.older/0/0: not_finite" in findings
        archived = store.snapshot("climate")
        assert archived.num_samples == 6 * 40 + 2 + 11

        site.configure(epochs=1_000_000)
        edge = await site.start("run", "pi-a")
        assert (await edge.wait_for("epoch.drawn"))["quarantined"] == 0
        out = ["climate/_train.good/3", "climate/_train.good/5/7", "climate/@meter-c/0/320"]
        said = await site.edged("archive", "quarantine", str(site.topology), *out)
        assert said.splitlines() == [
            "climate/_train.good/3: 40 samples out of training from the next epoch on",
            "climate/_train.good/5/7: 1 sample out of training from the next epoch on",
            "climate/pi-c/3/0: 1 sample out of training from the next epoch on",
        ]
        drawn = await edge.wait_for("epoch.drawn", quarantined=42)
        assert drawn["samples"] == archived.num_samples - 42
        assert "in quarantine: climate/_train.good/3 (40 samples), by " in await site.edged(
            "archive", "ls", str(site.topology)
        )
        await site.edged("archive", "release", str(site.topology), *out)
        await edge.until(
            lambda lines: any(
                line["event"] == "epoch.drawn" and line["quarantined"] == 0 and line["epoch"] > drawn["epoch"]
                for line in lines
            ),
            "they were drawn again",
        )
        await stopped(edge)
