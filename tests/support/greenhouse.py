"""A small topology for tests: one edge with raw, JPEG and foreign devices, training on their stream."""

from edged.domain.nn.spec import Dense, Flatten
from edged.domain.topology import Archive, Codec, Device, Edge, Kafka, Stream, Topology, Training

LABELS = ("low", "high")
SHAPE = (2, 3, 1)


def topology(codec: Codec = "raw", training: bool = True) -> Topology:  # noqa: FBT001, FBT002 - reads well at the call
    """Device "cam" sends `codec`, "cam-2" raw; "meter" samples another stream, and "other" belongs to another edge."""
    return Topology(
        site="greenhouse",
        kafka=Kafka(("localhost:1",)),
        streams=(Stream("tiles", SHAPE, "uint8", LABELS), Stream("climate", (4,), "float32", ())),
        iot=(
            Device("cam", "pi", "tiles", codec),
            Device("cam-2", "pi", "tiles"),
            Device("meter", "pi", "climate"),
            Device("other", "pi-b", "tiles"),
        ),
        edges=(Edge("pi"), Edge("pi-b")),
        archive=(Archive("vault", "file:///nowhere"),),
        jobs=(Training("tiles", (Flatten(), Dense(2))),) if training else (),
    )
