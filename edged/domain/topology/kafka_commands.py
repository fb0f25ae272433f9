"""Commands of Kafka's own tools, as an administrator pastes them. Values only: nothing is run."""

from collections.abc import Mapping, Sequence


def create(bootstrap: Sequence[str], topic: str, partitions: int, settings: Mapping[str, str]) -> str:
    """Create the topic unless it exists."""
    options = "".join(f" --config {key}={value}" for key, value in settings.items())
    return (
        f"kafka-topics.sh --bootstrap-server {','.join(bootstrap)} --create --if-not-exists --topic {topic}"
        f" --partitions {partitions}{options}"
    )


def add_partitions(bootstrap: Sequence[str], topic: str, partitions: int) -> str:
    """Give the topic so many partitions."""
    return f"kafka-topics.sh --bootstrap-server {','.join(bootstrap)} --alter --topic {topic} --partitions {partitions}"


def allow(bootstrap: Sequence[str], principal: str, operations: Sequence[str], kind: str, name: str) -> str:
    """Grant the operations on the resource; `kind`: "topic" or "group"."""
    each = "".join(f" --operation {operation}" for operation in operations)
    return (
        f"kafka-acls.sh --bootstrap-server {','.join(bootstrap)} --add --allow-principal User:{principal}{each}"
        f" --{kind} {name}"
    )


def alter(bootstrap: Sequence[str], topic: str, settings: Mapping[str, str]) -> str:
    """Change settings of the topic. Kafka's tool wants values with commas in brackets."""
    pairs = ",".join(f"{key}=[{value}]" if "," in value else f"{key}={value}" for key, value in settings.items())
    return (
        f"kafka-configs.sh --bootstrap-server {','.join(bootstrap)} --alter --entity-type topics --entity-name {topic}"
        f" --add-config {pairs}"
    )
