"""What a node may do to Kafka's topics, as a value. See also: `topics`, which knows what each needs."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

Operation = Literal["Read", "Write", "Delete", "DescribeConfigs"]


class Rights(NamedTuple):
    """What the node may do to each topic."""

    node: str = ""
    topics: Mapping[str, Sequence[Operation]] = MappingProxyType({})
