"""Topics and rights: every node can do its work and no more, and Kafka accepts every name."""

from dataclasses import replace

from edged.domain.archive.protocol import MAX_PART_BYTES
from edged.domain.nn.spec import Dense, Flatten
from edged.domain.samples.sample import MAX_BYTES
from edged.domain.topology import MIB, Archive, Device, Edge, Exchange, Kafka, Stream, Topology, Training, topics
from edged.domain.topology.topics import Grant, Topic
from edged.ports import KEPT

SITE = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092",)),
    streams=(Stream("tiles", (4,), "uint8", ("x",)), Stream("climate", (4,), "uint8", ("x",))),
    iot=(Device("cam", "pi-a", "tiles"), Device("mast", "pi-a", "climate"), Device("cam-b", "pi-b", "tiles")),
    edges=(Edge("pi-a"), Edge("pi-b")),
    archive=(Archive("vault", "file:///srv"),),
)


def granted(principal, operation):
    return {grant.topic for grant in topics.grants(SITE) if grant[:2] == (principal, operation)}


def test_every_topic_is_listed_once_and_edges_archive_only_their_devices_streams():
    assert [topic.name for topic in topics.topics(SITE)] == [
        "lab.iot.cam",
        "lab.iot.mast",
        "lab.iot.cam-b",
        "lab.archive.tiles.pi-a",
        "lab.archive.climate.pi-a",
        "lab.archive.tiles.pi-b",
        "lab.predictions.pi-a",
        "lab.predictions.pi-b",
        "lab.dead-letters.pi-a",
        "lab.dead-letters.pi-b",
        "lab.epochs.pi-a",
        "lab.epochs.pi-b",
        "lab.archive.requests",
        "lab.presence.pi-a",
        "lab.presence.pi-b",
        "lab.presence.vault",
    ]


def test_only_epochs_and_requests_have_a_retention_of_an_hour():
    short = {topic.name for topic in topics.topics(SITE) if topic.retention_ms == 3_600_000}

    assert short == {"lab.epochs.pi-a", "lab.epochs.pi-b", "lab.archive.requests"}


def test_packs_are_kept_until_they_are_archived():
    kept = {topic.name for topic in topics.topics(SITE) if topic.retention_ms == KEPT}

    assert kept == {"lab.archive.tiles.pi-a", "lab.archive.climate.pi-a", "lab.archive.tiles.pi-b"}


def test_a_message_of_an_epochs_topic_holds_a_part_and_one_more_sample():
    epochs = [topic.max_message_bytes or 0 for topic in topics.topics(SITE) if ".epochs." in topic.name]

    assert min(epochs) > MAX_PART_BYTES + MAX_BYTES


def test_each_device_writes_its_own_topic_alone():
    assert granted("cam", "Write") == {"lab.iot.cam"}


def test_the_edge_of_an_mqtt_device_writes_for_it_and_the_device_needs_no_right():
    over_mqtt = replace(SITE, iot=(replace(SITE.iot[0], transport="mqtt"), *SITE.iot[1:]))
    added, gone = (set(topics.grants(each)) - set(topics.grants(other)) for each, other in
                   ((over_mqtt, SITE), (SITE, over_mqtt)))  # fmt: skip
    assert added == {Grant("pi-a", "Write", "lab.iot.cam")}
    assert {grant.principal for grant in gone} == {"cam"}
    assert topics.nodes(over_mqtt) == ["mast", "cam-b", "pi-a", "pi-b", "vault"]
    assert topics.topics(over_mqtt) == topics.topics(SITE)


def test_an_edge_reads_its_devices_and_epochs_and_writes_packs_predictions_and_dead_letters():
    assert granted("pi-b", "Write") == {
        "lab.archive.tiles.pi-b",
        "lab.predictions.pi-b",
        "lab.dead-letters.pi-b",
        "lab.archive.requests",
        "lab.presence.pi-b",
    }
    assert granted("pi-b", "Read") - granted("pi-b", "Write") == {"lab.iot.cam-b", "lab.epochs.pi-b"}


def test_the_archive_reads_all_packs_and_requests_and_writes_the_epochs():
    assert granted("vault", "Write") == {"lab.epochs.pi-a", "lab.epochs.pi-b", "lab.presence.vault"}
    assert granted("vault", "Read") - granted("vault", "Write") == {
        "lab.archive.tiles.pi-a",
        "lab.archive.climate.pi-a",
        "lab.archive.tiles.pi-b",
        "lab.archive.requests",
    }


def test_the_archive_may_delete_packs_where_it_trims_them_and_nothing_else():
    trimming = replace(SITE, archive=(replace(SITE.archive[0], trim=True),))
    packs = {"lab.archive.tiles.pi-a", "lab.archive.climate.pi-a", "lab.archive.tiles.pi-b"}

    assert not [grant for grant in topics.grants(SITE) if grant.operation == "Delete"]
    deletes = [grant for grant in topics.grants(trimming) if grant.operation == "Delete"]
    assert {(grant.principal, grant.topic) for grant in deletes} == {("vault", topic) for topic in packs}


def test_a_device_reads_the_predictions_of_its_edge():
    assert granted("cam-b", "Read") == {"lab.iot.cam-b", "lab.predictions.pi-b"}


def test_a_writer_may_read_its_own_topics():
    grants = topics.grants(SITE)

    assert all(
        Grant(principal, "Read", topic) in grants for principal, operation, topic in grants if operation == "Write"
    )


def test_a_node_has_exactly_the_topics_it_has_a_right_to_and_together_they_have_all():
    of_nodes = {node: {topic.name for topic in topics.topics_of(SITE, node)} for node in topics.nodes(SITE)}

    assert of_nodes["pi-b"] == granted("pi-b", "Read")
    assert of_nodes["vault"] == granted("vault", "Read")
    assert set().union(*of_nodes.values()) == {topic.name for topic in topics.topics(SITE)}


def test_edges_and_archive_may_see_the_settings_of_all_their_topics():
    assert granted("pi-a", "DescribeConfigs") == granted("pi-a", "Read")
    assert granted("vault", "DescribeConfigs") == granted("vault", "Read")
    assert granted("cam", "DescribeConfigs") == set()


def test_every_right_is_to_a_listed_topic():
    assert {grant.topic for grant in topics.grants(SITE)} == {topic.name for topic in topics.topics(SITE)}


def test_every_reader_commits_under_a_group_of_its_own_site():
    assert topics.groups(SITE) == [
        ("pi-a", "lab.ingest.pi-a"),
        ("pi-a", "lab.infer.pi-a"),
        ("pi-b", "lab.ingest.pi-b"),
        ("pi-b", "lab.infer.pi-b"),
        ("vault", "lab.archiver.vault"),
        ("vault", "lab.epoch_server.vault"),
    ]


def test_kafka_accepts_the_topics_of_the_longest_names():
    """Kafka takes 249 characters; a name has at most 64, so no rule is needed."""
    longest = "x" * 64
    site = Topology(
        longest,
        Kafka(()),
        (Stream(longest, (1,), "uint8", ("x",)),),
        (Device(longest, longest, longest),),
        (Edge(longest),),
        (Archive(longest, "file:///"),),
    )

    assert max(len(topic.name) for topic in topics.topics(site)) <= 249


def test_each_job_has_a_predictions_topic_and_a_consumer_group_for_its_companion():
    jobs = tuple(Training("tiles", (Flatten(), Dense(1)), name=name) for name in ("tiny", "large"))
    several = replace(SITE, jobs=jobs)
    edge = SITE.edges[0].name
    wanted = [f"{SITE.site}.predictions.{edge}.{name}" for name in ("tiny", "large")]
    assert topics.prediction_topics(several, edge) == wanted
    assert {topic.name for topic in topics.topics(several)} >= set(wanted)
    device = SITE.devices_of(edge)[0].name
    assert {grant.topic for grant in topics.grants(several) if grant.principal == device} >= set(wanted)
    assert {grant.topic for grant in topics.grants(several) if grant[:2] == (edge, "Write")} >= set(wanted)
    assert {f"{SITE.site}.infer.{edge}:{name}" for name in ("tiny", "large")} <= {g for _, g in topics.groups(several)}


def test_an_edge_has_a_consumer_group_for_each_job_whose_predictions_go_to_a_device_by_mqtt():
    jobs = tuple(Training(stream, (Flatten(), Dense(1)), name=stream) for stream in ("tiles", "climate"))
    devices = tuple(replace(each, transport="mqtt") if each.stream == "climate" else each for each in SITE.iot)
    found = [each for each in topics.groups(replace(SITE, jobs=jobs, iot=devices)) if ".deliver." in each[1]]
    assert found == [("pi-a", "lab.deliver.pi-a:climate")]


def group(mode, server=None, name=""):
    job = Training("tiles", (Flatten(), Dense(1)), exchange=Exchange(mode, server=server), name=name)
    return replace(SITE, jobs=(job,))


def granted_in(topology, principal, operation):
    """What the group's nodes may do beyond what they may do without it."""
    more = set(topics.grants(topology)) - set(topics.grants(SITE))
    return {grant.topic for grant in more if grant[:2] == (principal, operation)}


def test_a_group_has_a_log_with_a_days_retention_and_compacted_checkpoints():
    more = [topic for topic in topics.topics(group("all_reduce")) if topic not in topics.topics(SITE)]

    assert more == [
        Topic("lab.train.tiles", 1, 24 * 3_600_000, MIB),
        Topic("lab.checkpoints.tiles", max_message_bytes=MIB, compacted=True),
    ]
    assert topics.topics(group("none")) == topics.topics(SITE)


def test_a_groups_topics_are_named_after_its_job_if_that_has_a_name():
    names = {topic.name for topic in topics.topics(group("parameter_server", name="ripe"))}

    assert {"lab.train.ripe", "lab.gradients.ripe", "lab.checkpoints.ripe"} <= names


def test_only_the_edges_write_the_log_of_all_reduce():
    topology = group("all_reduce")

    for edge in ("pi-a", "pi-b"):
        for operation in ("Read", "Write"):
            assert granted_in(topology, edge, operation) == {"lab.train.tiles", "lab.checkpoints.tiles"}
    assert granted_in(topology, "vault", "Write") == granted_in(topology, "cam", "Read") == set()


def test_only_the_parameter_server_writes_its_log_and_the_edges_write_gradients():
    topology = group("parameter_server")

    assert granted_in(topology, "pi-b", "Write") == {"lab.gradients.tiles", "lab.checkpoints.tiles"}
    assert granted_in(topology, "pi-b", "Read") == {"lab.train.tiles", "lab.gradients.tiles", "lab.checkpoints.tiles"}
    assert granted_in(topology, "vault", "Write") == {"lab.train.tiles", "lab.gradients.tiles"}
    assert granted_in(topology, "vault", "Read") == {"lab.train.tiles", "lab.gradients.tiles", "lab.checkpoints.tiles"}
    assert granted_in(group("parameter_server", "pi-a"), "vault", "Write") == set()
    assert "lab.train.tiles" in granted_in(group("parameter_server", "pi-a"), "pi-a", "Write")


def test_no_right_is_listed_twice_even_if_an_edge_is_the_server():
    grants = topics.grants(group("parameter_server", "pi-a"))

    assert len(grants) == len(set(grants))
    assert {grant.topic for grant in grants} == {t.name for t in topics.topics(group("parameter_server", "pi-a"))}


SEVERAL = replace(SITE, archive=(Archive("north", "s3://b/edged"), Archive("south", "s3://b/edged")))


def test_several_archive_nodes_share_the_requests_by_a_partition_for_each_edge():
    def partitions(site: Topology) -> dict[str, int]:
        return {topic.name: topic.partitions for topic in topics.topics(site)}

    assert set(partitions(SITE).values()) == {1}, "a lone one needs no more"
    assert {name: count for name, count in partitions(SEVERAL).items() if count > 1} == {"lab.archive.requests": 2}
    assert [SEVERAL.requests_partition(edge.name) for edge in SEVERAL.edges] == [0, 1]
    assert [SITE.requests_partition(edge.name) for edge in SITE.edges] == [0, 0]


def test_several_archive_nodes_commit_in_groups_that_they_share_and_join_another():
    """A group with members takes commits of nobody else."""
    shared = ["lab.archive", "lab.archiver", "lab.epoch_server"]

    def of_archive(site: Topology) -> list[tuple[str, str]]:
        names = {each.name for each in site.archive}
        return [each for each in topics.groups(site) if each[0] in names]

    assert of_archive(SEVERAL) == [(node, group) for node in ("north", "south") for group in shared]
    assert of_archive(SITE) == [("vault", "lab.archiver.vault"), ("vault", "lab.epoch_server.vault")]


def test_each_of_several_archive_nodes_has_the_rights_of_a_lone_one():
    lone = [grant for grant in topics.grants(SITE) if grant.principal == "vault"]

    def as_of_vault(node: str) -> list[Grant]:
        names = {f"lab.presence.{node}": "lab.presence.vault"}
        own = [grant for grant in topics.grants(SEVERAL) if grant.principal == node]
        return [Grant("vault", operation, names.get(topic, topic)) for _, operation, topic in own]

    assert as_of_vault("north") == as_of_vault("south") == lone
