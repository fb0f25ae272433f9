"""The nodes of the three tiers, their streams, and how Kafka is reached."""

from typing import NamedTuple, get_args

from edged.domain.topology import (
    MIB,
    Archive,
    Cache,
    Codec,
    Device,
    Dtype,
    Edge,
    HdfsAccess,
    IdKind,
    Kafka,
    LogLevel,
    LogSettings,
    Mechanism,
    Mqtt,
    Protocol,
    Retention,
    S3Access,
    Security,
    Stream,
    StreamRetention,
    Tls,
    Transport,
    WhenFull,
)
from edged.topology_file.kinds.lists import Listing
from edged.topology_file.kinds.scalars import (
    ADDRESS,
    ENDPOINT,
    FILE_PATH,
    MQTT_ADDRESS,
    NAME,
    Choice,
    Switch,
    Text,
    Whole,
    duration,
    size,
)
from edged.topology_file.kinds.sections import Key, Named, Section, section

_TIB = MIB << 20


class _Sample(NamedTuple):
    shape: tuple[int, ...]
    dtype: Dtype


def _stream(*, name: str, sample: _Sample, labels: tuple[str, ...]) -> Stream:
    return Stream(name, sample.shape, sample.dtype, labels)


_SECURITY = section(
    Security,
    "How to reach Kafka. Each node may use other credentials: they come from its own environment.",
    protocol=Key(Choice(get_args(Protocol)), "PLAINTEXT only on a network without anybody else"),
    mechanism=Key(Choice(get_args(Mechanism)), "how the password is authenticated"),
    username=Key(Text(), "the node's Kafka user"),
    password=Key(Text(is_secret=True), 'the user\'s password, as "${cred:NAME}" or "${VARIABLE}"'),
    ca=Key(FILE_PATH, "certificates of the authority that signed the brokers', PEM"),
    certificate=Key(FILE_PATH, "the node's own certificate, PEM"),
    key=Key(FILE_PATH, "the key of the node's certificate, PEM"),
    key_password=Key(Text(is_secret=True, max_bytes=1023), 'the key\'s password if it is encrypted, as "${cred:NAME}"'),
)

KAFKA = section(
    Kafka,
    "Where Apache Kafka is.",
    bootstrap=Key(Listing(ADDRESS, 1, 64, is_distinct=True), "some of the brokers, host:port"),
    security=Key(_SECURITY, "encryption and authentication"),
)

MQTT = section(
    Mqtt,
    "Where the MQTT broker is, and what a packet may be.",
    broker=Key(MQTT_ADDRESS, "the broker, host or host:port; the port is 1883, or 8883 with tls, if it is not given"),
    tls=Key(
        section(
            Tls,
            "Encryption; {} where the system's authorities signed the broker's certificate.",
            ca=Key(FILE_PATH, "certificates of the authority that signed the broker's, PEM"),
            certificate=Key(FILE_PATH, "the node's own certificate, PEM"),
            key=Key(FILE_PATH, "the key of the node's certificate, PEM"),
            key_password=Key(
                Text(is_secret=True, max_bytes=1023), 'the key\'s password if it is encrypted, as "${cred:NAME}"'
            ),
        ),
        "encryption; left out only on a network without anybody else",
    ),
    username=Key(Text(), "the node's user at the broker"),
    password=Key(Text(is_secret=True), 'the user\'s password, as "${cred:NAME}" or "${VARIABLE}"'),
    packet_bytes=Key(size(1024, 2_000_000), "of the largest packet; the broker refuses larger ones"),
    window=Key(Whole(1, 1024), "packets of a device that may wait for their acknowledgement"),
)

LOG = section(
    LogSettings,
    "What the nodes log.",
    level=Key(Choice(get_args(LogLevel)), "the least that is logged; --log-level of a command comes first"),
    resources=Key(duration(0.1, 3600), "time between two res.sample lines; 1min under systemd, else 1s"),
)

STREAM = Section(
    _stream,
    "A stream: the form of its samples and their classes.",
    {
        "sample": Key(
            Section(
                _Sample,
                "One sample.",
                {
                    "shape": Key(
                        Listing(Whole(1, 4096), 1, 4),
                        "[height, width, channels], [length, channels], or any 1 to 4 axes",
                    ),
                    "dtype": Key(Choice(get_args(Dtype)), "the type of its numbers"),
                },
            ),
            "shape and type of one sample",
        ),
        "labels": Key(
            Listing(Text("a label", max_bytes=256, allows_integers=True, is_normal=True), 1, 65_536, is_distinct=True),
            "the classes, in the order of the model's outputs; left out if samples have none",
        ),
    },
    {"labels": ()},
)

DEVICE = section(
    Device,
    "An IoT device. It belongs to exactly one edge.",
    name=Key(NAME, "the device's name, unique among all nodes"),
    edge=Key(NAME, "the edge that takes its samples"),
    stream=Key(NAME, "the stream that it publishes"),
    codec=Key(Choice(get_args(Codec)), "how its payloads are written"),
    transport=Key(Choice(get_args(Transport)), "how its payloads reach Kafka; mqtt: the edge takes them there"),
    id=Key(Choice(get_args(IdKind)), "with mqtt, how it numbers its samples, so that each is kept once"),
    receipts=Key(Switch(), "with mqtt, whether the edge tells it by its ids which samples Kafka holds"),
)

EDGE = section(
    Edge,
    "An edge device: it trains, archives and infers.",
    name=Key(NAME, "the edge's name, unique among all nodes"),
    cache=Key(
        section(
            Cache,
            "Bytes for samples kept at the edge.",
            memory=Key(size(MIB, _TIB, zero=True), "the part in memory"),
            disk=Key(size(MIB, 1024 * _TIB, zero=True), "the part on disk"),
            disk_writes_per_day=Key(
                size(MIB, 1024 * _TIB, zero=True), "maximum of bytes written for it in 24 h: SD cards wear out"
            ),
        ),
        "how much of the data set the edge keeps",
    ),
    prefetch=Key(size(MIB, _TIB), "epoch data held ahead of the trainer"),
    memory_limit=Key(size(64 * MIB, _TIB), "maximum memory of the whole daemon"),
)

_S3 = section(
    S3Access,
    "How to reach a bucket; what is left out comes from the environment, by the names that AWS gave it.",
    endpoint=Key(ENDPOINT, "the gateway's URL, such as https://s3.site.lan:9000; AWS's own if it is not given"),
    region=Key(Text("a region such as eu-central-1", r"[A-Za-z0-9-]{1,64}"), "the bucket's region"),
    access_key=Key(Text(is_secret=True, max_bytes=256), 'the id of the access key, as "${cred:NAME}"'),
    secret_key=Key(Text(is_secret=True, max_bytes=1024), 'the secret key, as "${cred:NAME}"'),
    session_token=Key(Text(is_secret=True), 'the token of a session, which expires, as "${cred:NAME}"'),
    ca=Key(FILE_PATH, "certificates of the authority that signed the gateway's, PEM"),
)

_HDFS = section(
    HdfsAccess,
    "How to reach HDFS; without Kerberos this is HADOOP_USER_NAME, or the process's user.",
    config=Key(FILE_PATH, "the folder of core-site.xml and hdfs-site.xml; HADOOP_CONF_DIR if it is not given"),
    principal=Key(Text("a Kerberos principal"), "the node's principal"),
    keytab=Key(FILE_PATH, "the keytab with its key"),
)

_LIMITS = {
    "age": Key(duration(60, 100 * 365 * 86_400), "files older than this are forgotten"),
    "size": Key(size(MIB, _TIB << 10), "of the files of a stream together; the oldest beyond it are forgotten"),
}


def _stream_retention(*, name: str, age: float | None, size: int | None) -> StreamRetention:
    return StreamRetention(name, age, size)


_RETENTION = section(
    Retention,
    "What the archive keeps of each stream; without limits all.",
    **_LIMITS,
    streams=Key(
        Named(
            Section(_stream_retention, "What it keeps of this stream.", _LIMITS, dict.fromkeys(_LIMITS)),
            "stream",
        ),
        "streams with limits of their own instead, by name; {} keeps all",
    ),
)

ARCHIVE = section(
    Archive,
    "The archive: it keeps all samples and streams epochs of them back.",
    name=Key(NAME, "the archive's name, unique among all nodes"),
    url=Key(Text("a URL such as file:///srv/edged", is_path=True), "the folder on the distributed file system"),
    flush=Key(
        duration(0.1, 3600), "a file is written once its first sample is this old; 10s in a local folder, else 1min"
    ),
    flush_bytes=Key(size(64 * 1024, 1024 * MIB), "or once its samples fill this much"),
    trim=Key(Switch(), "delete from Kafka what is archived; needs the right to"),
    retention=Key(_RETENTION, "how much it keeps of each stream"),
    when_full=Key(
        Choice(get_args(WhenFull)), "with file:// on a full disk: archive nothing, or delete the oldest at once"
    ),
    s3=Key(_S3, "with an s3:// URL, how to reach the bucket"),
    hdfs=Key(_HDFS, "with an hdfs:// URL, how to reach HDFS"),
)
