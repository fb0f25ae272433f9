"""The connection to Kafka."""

from dataclasses import replace

import pytest

from edged.domain.topology import Kafka
from tests.support.valid_topology import REMOTE, VALID, problems, warnings, with_security


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_security(mechanism=None), "kafka.security", "SASL_SSL needs mechanism"),
        (with_security(username=None, password=None), "kafka.security", "SASL_SSL needs username and password"),
        (with_security(protocol="SSL"), "kafka.security.mechanism", "SSL does not use it"),
        (with_security(protocol="SASL_PLAINTEXT", ca=None), "kafka.security.mechanism",
         "PLAIN would send the password unencrypted over the network"),
        (with_security(protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-512"), "kafka.security.ca",
         "SASL_PLAINTEXT does not use it"),
        (with_security(certificate="/c"), "kafka.security.certificate", "it is used only with its key"),
        (with_security(key="/k"), "kafka.security.key", "it is used only with its certificate"),
        (with_security(key_password="k"), "kafka.security.key_password", "it is used only with its key"),  # noqa: S106
    ],
)  # fmt: skip
def test_security_settings_that_contradict_each_other_are_refused(topology, path, message):
    assert (path, message) in problems(topology)


@pytest.mark.parametrize(
    "topology",
    [
        with_security(),
        with_security(certificate="/c", key="/k"),
        with_security(protocol="SSL", mechanism=None, username=None, password=None, certificate="/c", key="/k"),
        with_security(protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-256", ca=None),
        with_security(bootstrap=("localhost:9092",), protocol="SASL_PLAINTEXT", ca=None),
    ],
)
def test_consistent_security_settings_are_accepted(topology):
    assert problems(topology) == []


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (replace(VALID, kafka=Kafka(REMOTE)), "kafka.bootstrap", "samples and models go over the network unencrypted"),
    ],
)  # fmt: skip
def test_what_works_but_is_probably_not_intended_is_a_warning(topology, path, message):
    assert problems(topology) == []
    assert warnings(topology) == [(path, message)]
