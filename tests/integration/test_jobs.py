"""Two training jobs on one edge, as real processes: each to its end, through one cache, each with a companion."""

from edged.ports import TopicPartition
from edged.topology_file import load
from tests.support.site import SMALL_MODEL, Site, at_work, eventually, own_name, running, stopped

SAMPLES = 1500


def with_two_jobs(site: Site) -> None:
    """Turn the topology's job into a list of two, on the same stream."""
    head, section, job = site.topology.read_text().partition("training:\n")
    body = "".join(f"    {line.strip()}\n" for line in job.splitlines() if line.strip())
    jobs = f"  - name: tiny\n{body}  - name: large\n{body}".replace("epochs: 2", "epochs: 2\n    seed: 5", 1)
    site.topology.write_text(head + section + jobs)
    assert [job.name for job in load(site.topology).jobs] == ["tiny", "large"]


async def test_both_jobs_finish_and_each_has_checkpoints_models_and_predictions(embedded_broker, tmp_path):
    site = Site(tmp_path, embedded_broker.bootstrap, site=own_name(tmp_path), epochs=2, model=SMALL_MODEL)
    async with running(site):
        await site.import_fashion(SAMPLES)
        with_two_jobs(site)
        await site.start("run", "vault")
        edge = await site.start("run", "pi-a")
        first = await site.start("infer", "pi-a")
        second = await site.start("infer", "pi-a", "--job", "large")
        for name in ("tiny", "large"):
            await edge.wait_for("train.finished", job=name)
            assert list((site.state("pi-a") / "jobs" / name).glob("checkpoint-*.safetensors"))
            assert {line["epoch"] for line in edge.seen("cache.epoch", job=name)} == {0, 1}
        fetched = sum(line["fetched_samples"] for line in edge.seen("cache.epoch"))
        assert fetched <= 1.1 * SAMPLES  # of both jobs and both epochs

        for companion in (first, second):
            await companion.wait_for("infer.model_loaded")
        await site.start_sensors(20)
        for companion in (first, second):
            await at_work(companion, "predicted_samples_per_s")
        for name in ("tiny", "large"):
            topic = TopicPartition(site.loaded().predictions_topic("pi-a", name))

            async def is_there(topic: TopicPartition = topic) -> bool:
                return (await site._watermarks([topic]))[topic].high > 0

            await eventually(is_there, edge)
        for companion in (first, second):
            await stopped(companion)
