"""A topology file, and the command called as a user calls it."""

import pytest

from edged.cli import main

VALID = """\
schema: 1
site: lab
kafka:
  bootstrap: [localhost:9092]
streams:
  digits: {sample: {shape: [8, 8, 1], dtype: uint8}, labels: [0, 1, 2]}
iot:
  - {name: cam-01, edge: pi-a, stream: digits}
  - {name: cam-02, edge: pi-b, stream: digits}
edges:
  - {name: pi-a, memory_limit: 200MiB}
  - {name: pi-b}
archive:
  - {name: vault, url: file:///srv/edged}
training:
  stream: digits
  model: [flatten, {dense: 3}]
"""


@pytest.fixture
def topology_file(tmp_path, monkeypatch):
    """Writes VALID, or a text like it, as topology.yaml in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(text=VALID):
        (tmp_path / "topology.yaml").write_text(text)
        return "topology.yaml"

    return write


@pytest.fixture
def edged(capsys):
    """Runs the command; gives its exit code and what it wrote to stdout and stderr."""

    def run(*words):
        code = main(words)
        return (code, *capsys.readouterr())

    return run
