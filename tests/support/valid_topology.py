"""A valid topology, and how to change one of its parts."""

from dataclasses import replace

from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import Archive, Device, Edge, Kafka, Security, Stream, Topology, Training
from edged.domain.validation import rules

VALID = Topology(
    site="lab",
    kafka=Kafka(("localhost:9092", "127.0.0.1:9093", "[::1]:9094")),
    streams=(Stream("tiles", (8, 8, 1), "uint8", ("low", "high")), Stream("climate", (6,), "float32", ("calm",))),
    iot=(Device("cam", "pi-a", "tiles", "jpeg"), Device("mast", "pi-b", "climate")),
    edges=(Edge("pi-a"), Edge("pi-b")),
    archive=(Archive("vault", "file:///srv/edged"),),
    jobs=(Training("tiles", (Flatten(), Dense(2))),),
)
WITHOUT_KAFKA = """\
schema: 1
site: lab
kafka: {bootstrap: ["127.0.0.1:1"]}
streams: {tiles: {sample: {shape: [8, 8, 1], dtype: uint8}, labels: [low, high]}}
iot: [{name: cam, edge: pi-a, stream: tiles}]
edges: [{name: pi-a}]
archive: [{name: vault, url: "file:///srv/edged"}]
"""
"""The file of a site whose Kafka does not answer."""

SECURE = Security("SASL_SSL", "PLAIN", "u", "p", "/ca.pem")
REMOTE = ("broker.lan:9092",)


def with_training(**changes):
    return replace(VALID, jobs=(replace(VALID.jobs[0], **changes),))


def with_device(**changes):
    return replace(VALID, iot=(replace(VALID.iot[0], **changes), VALID.iot[1]))


def with_stream(**changes):
    return replace(VALID, streams=(replace(VALID.streams[0], **changes), VALID.streams[1]))


def with_edge(**changes):
    return replace(VALID, edges=(replace(VALID.edges[0], **changes), VALID.edges[1]))


def with_security(bootstrap=REMOTE, **changes):
    return replace(VALID, kafka=Kafka(bootstrap, replace(SECURE, **changes)))


def problems(topology):
    return [(finding.path, finding.message) for finding in rules.problems(topology)]


def warnings(topology):
    return [(finding.path, finding.message) for finding in rules.warnings(topology)]
