"""Settings that this version does not support yet."""

from dataclasses import replace

import pytest

from edged.domain.topology import Archive
from tests.support.valid_topology import VALID, problems


@pytest.mark.parametrize(
    ("topology", "path"),
    [
        (replace(VALID, archive=(Archive("vault", "hdfs://namenode:8020/edged"),)), "archive[0].url"),
        (replace(VALID, archive=(Archive("vault", "s3://bucket/edged"),)), "archive[0].url"),
    ],
)
def test_what_this_version_does_not_support_is_refused(topology, path):
    ((where, message),) = problems(topology)

    assert where == path
    assert message.startswith("this version ")
