"""The topology as frozen values: nodes, training jobs, topic names, and a job's digest.

Holds what the file states and what follows from that alone. See also: `topology_file`, which reads the file, and
`domain.validation`, which checks that it makes sense.
"""

from typing import TYPE_CHECKING

from edged.faces import face

if TYPE_CHECKING:  # what `face` resolves
    from edged.domain.topology.devices import (
        MIB,
        NAME_PATTERN,
        Codec,
        Device,
        Dtype,
        IdKind,
        Kafka,
        Mechanism,
        Mqtt,
        Protocol,
        Security,
        Stream,
        Tls,
        Transport,
    )
    from edged.domain.topology.job import Job
    from edged.domain.topology.nodes import (
        Archive,
        Cache,
        Edge,
        HdfsAccess,
        LogLevel,
        LogSettings,
        Retention,
        Role,
        S3Access,
        StreamRetention,
        WhenFull,
    )
    from edged.domain.topology.topology import Topology
    from edged.domain.topology.training import (
        MAX_JOBS,
        MAX_MEMBERS,
        Adam,
        Augment,
        Backbone,
        BackboneFile,
        Compression,
        Constant,
        Cosine,
        Deploy,
        DeployFormat,
        Exchange,
        ExchangeMode,
        Flip,
        Kernels,
        Lars,
        Optimizer,
        Outer,
        Sampling,
        SamplingMode,
        Schedule,
        Sgd,
        Source,
        Step,
        Training,
    )

__all__ = [
    "MAX_JOBS",
    "MAX_MEMBERS",
    "MIB",
    "NAME_PATTERN",
    "Adam",
    "Archive",
    "Augment",
    "Backbone",
    "BackboneFile",
    "Cache",
    "Codec",
    "Compression",
    "Constant",
    "Cosine",
    "Deploy",
    "DeployFormat",
    "Device",
    "Dtype",
    "Edge",
    "Exchange",
    "ExchangeMode",
    "Flip",
    "HdfsAccess",
    "IdKind",
    "Job",
    "Kafka",
    "Kernels",
    "Lars",
    "LogLevel",
    "LogSettings",
    "Mechanism",
    "Mqtt",
    "Optimizer",
    "Outer",
    "Protocol",
    "Retention",
    "Role",
    "S3Access",
    "Sampling",
    "SamplingMode",
    "Schedule",
    "Security",
    "Sgd",
    "Source",
    "Step",
    "Stream",
    "StreamRetention",
    "Tls",
    "Topology",
    "Training",
    "Transport",
    "WhenFull",
]

_LIGHTEST_FIRST = ("devices", "nodes", "training", "job", "topology")

if not TYPE_CHECKING:  # with it, a type checker would take any name
    __getattr__ = face(__name__, _LIGHTEST_FIRST, __all__)
