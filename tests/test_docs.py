"""The pages are true: links lead somewhere, names exist, tables and commands are the program's.

What has to be run for it, with a broker or processes, is in `tests/integration/test_docs_commands.py`.
"""

import argparse
import importlib
import os
import re
import shlex
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from edged import topology_file
from edged.cli import BROKEN_PIPE, COMMANDS, INTERRUPTED, main
from edged.cli.parser import Parser
from edged.domain.topology.topics import UNTIL_ARCHIVED_MS, topics
from edged.events import EVENTS
from tests.support.pages import ROOT, commands, pages

PAGES = pages()
README, CONFIG, SYSTEMD = PAGES["README.md"], PAGES["config/README.md"], PAGES["systemd/README.md"]
CODE = PAGES["edged/README.md"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

PENDING = {"tests/README.md"} - PAGES.keys()
"""Pages that are linked to and not written yet."""

MAX_README_BYTES = 9_000

USERS_FILES = {"topology.yaml", "50-node.conf", "orchard.yaml", "photo.jpg", "model.tflite", "features.tflite"}
"""Files that pages name and users have."""

TOP = {"edged", "tests", "config", "systemd", ".ci", ".github"}
SUBFOLDERS = {path.name for path in (ROOT / "edged").iterdir() if path.is_dir()}

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def test_readme_is_short():
    assert len(README.text.encode()) <= MAX_README_BYTES


# links and names


@each_page
def test_every_link_leads_somewhere(page):
    """To a file of the repository, and to a heading of a page."""
    for link in page.links:
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (ROOT / page.path).parent / path if path else ROOT / page.path
        name = target.resolve().relative_to(ROOT).as_posix()
        if name in PENDING:
            continue
        assert target.exists(), link
        assert not anchor or anchor in PAGES[name].anchors, link


def test_every_page_is_reached_from_readme():
    reached, new = set(), {"README.md"}
    while new:
        reached |= new
        links = {
            ((ROOT / path).parent / link.partition("#")[0]).resolve()
            for path in new
            for link in PAGES[path].links
            if ".md" in link and "://" not in link
        }
        new = {link.relative_to(ROOT).as_posix() for link in links if link.exists()} - reached
    assert reached == PAGES.keys()


def exists(dotted: str) -> bool:
    """Whether this is a module, or a name in one."""
    for stop in range(len(parts := dotted.split(".")), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        for name in parts[stop:]:
            found = getattr(found, name, None)
        return found is not None
    return False


@each_page
def test_every_module_named_exists(page):
    named = [span for span in page.spans if re.fullmatch(r"(edged|tests)(\.\w+)+", span)]
    named += [span for span in page.spans if re.fullmatch(r"(domain|services|adapters|ports|app|cli)(\.\w+)+", span)]
    wrong = [name for name in named if not exists(name) and not exists(f"edged.{name}")]
    assert wrong == []


@each_page
def test_every_file_named_exists(page):
    """Paths in backticks, and bare names of files."""
    missing = []
    for span in page.spans:
        first = span.split("/")[0]
        if re.fullmatch(r"[\w.@*-]+(/[\w.@*-]*)+", span) and first in TOP | SUBFOLDERS:
            places = [ROOT, ROOT / "edged", (ROOT / page.path).parent]
            found = any(list(place.glob(span.strip("/"))) for place in places)
        elif re.fullmatch(r"[\w@-]+\.(py|md|yaml|toml|service|conf|sysusers|tflite|jpg|svg)", span):
            found = span in USERS_FILES or any(
                file for folder in TOP for file in (ROOT / folder).rglob(span)
            ) or (ROOT / span).exists()  # fmt: skip
        else:
            continue
        if not found:
            missing.append(span)
    assert missing == []


@each_page
def test_every_event_named_exists(page):
    families = {name.partition(".")[0] for name in EVENTS}
    named = {span for span in page.spans if re.fullmatch(r"[a-z]+\.[a-z_]+", span)}
    assert {name for name in named if name.partition(".")[0] in families} <= EVENTS.keys()


def test_no_page_repeats_anothers_table():
    rows: dict[str, str] = {}
    for page in PAGES.values():
        for row in re.findall(r"^\|.*[a-z]{3}.*\|$", page.text, re.MULTILINE):
            assert rows.setdefault(row, page.path) == page.path, row


# commands


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Each command's own parser."""
    made: dict[str, argparse.ArgumentParser] = {}
    for name in COMMANDS:
        made[name] = Parser(prog=f"edged {name}", allow_abbrev=False)
        importlib.import_module(f"edged.cli.{name}").configure(made[name])
    return made


def of_edged(command: str) -> list[str] | None:
    """The arguments of `edged` in a command line, whoever runs it; None if it is another program's."""
    found = re.search(r"(?:^|&& |-- |/)edged ([a-z].*?)(?: &&|$)", command)
    return shlex.split(found[1]) if found else None


@each_page
def test_every_command_of_edged_is_understood(page, parsers):
    """With all its options; those for root too, which no test runs."""
    for command in page.commands():
        words = of_edged(command)
        if words is not None:
            parsers[words[0]].parse_args(words[1:])


@each_page
def test_every_command_named_in_passing_exists(page, capsys):
    """And the options beside its name."""
    for span in page.spans:
        if named := re.match(r"(?:edged|.*/edged) ([a-z]+)\b(.*)", span):
            assert main([named[1], "--help"]) == 0, span
            shown = capsys.readouterr().out
            assert [option for option in re.findall(r"--[a-z-]+", named[2]) if option not in shown] == []


def test_the_options_of_the_demo_are_the_demos(capsys):
    (sentence,) = re.findall(r"Options of `edged demo`: (.*?)\)\.\s", README.text, re.DOTALL)
    named = re.findall(r"`(--[a-z]+)", sentence)
    main(["demo", "--help"])
    shown = capsys.readouterr().out
    assert len(named) >= 7
    assert [option for option in named if option not in shown] == []


def test_what_root_installs_and_starts_is_shipped():
    """Sources of files, units, and the user: by reading, where nothing can be installed."""
    units = {path.name for path in (ROOT / "systemd").iterdir()}
    lines = [command for _, command in commands()]
    for line in lines:
        for unit in re.findall(r"\b(edged(?:-\w+)?@)[\w-]+\b(?!\.service)", line):
            assert f"{unit}.service" in units, line
        for source in re.findall(r"(?<= )systemd/\S+", line):
            assert list(ROOT.glob(source)), line
        for user in re.findall(r"runuser -u (\S+)", line):
            users = [file.read_text() for file in (ROOT / "systemd").rglob("*.sysusers")]
            assert any(f"u {user} " in each for each in users), line
    program = "/opt/edged/bin/edged"
    assert any(line.startswith(f"ln -sf {program} ") for line in lines)
    assert all(f"ExecStart={program} " in unit.read_text() for unit in (ROOT / "systemd").glob("*.service"))


def test_every_command_for_pytest_selects_a_registered_mark():
    registered = {mark.partition(":")[0] for mark in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    for page, command in commands():
        for mark in re.findall(r"pytest .*-m (?:'not )?(\w+)", command):
            assert mark in registered, f"{page.path}: {command}"


def benches() -> list[str]:
    """Every command of a bench in any page."""
    spans = [span for page in PAGES.values() for span in page.spans]
    return sorted({span for span in spans if span.startswith("python -m tests.bench.")})


@pytest.mark.parametrize("command", benches())
def test_a_benchs_command_is_understood(command, monkeypatch, capsys):
    """They themselves take minutes and a quiet machine."""
    _, _, bench, *words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [bench, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(bench).main()
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {"--quick", "--json"} <= known
    assert {word for word in words if word.startswith("--")} <= known


# tables and examples


def schema() -> Any:
    return topology_file.json_schema()


def of_job() -> dict[str, Any]:
    """The properties of one training job."""
    properties: dict[str, Any] = schema()["properties"]["training"]["anyOf"][0]["properties"]
    return properties


def assert_within(shown: Any, whole: Any, place: str = "") -> None:
    """Mappings may leave keys out, lists nothing."""
    if isinstance(shown, dict):
        assert shown.keys() <= whole.keys(), place
        for key in shown:
            assert_within(shown[key], whole[key], f"{place}.{key}")
    elif isinstance(shown, list):
        assert len(shown) == len(whole), place
        for number, (each, other) in enumerate(zip(shown, whole, strict=True)):
            assert_within(each, other, f"{place}[{number}]")
    else:
        assert shown == whole, place


def test_the_topology_shown_is_the_greenhouses(tmp_path):
    """It is a valid file by itself, and all that it shows stands in config/02-greenhouse.yaml."""
    (text,) = README.blocks("yaml")
    assert len(text.splitlines()) <= 30
    (tmp_path / "topology.yaml").write_text(text)
    topology_file.load(tmp_path / "topology.yaml")

    assert_within(yaml.safe_load(text), yaml.safe_load((ROOT / "config" / "02-greenhouse.yaml").read_text()))


def test_a_mistake_is_reported_as_shown(tmp_path, monkeypatch, capsys):
    """In README's topology, with its line and column."""
    monkeypatch.chdir(tmp_path)
    (text,) = README.blocks("yaml")
    Path("topology.yaml").write_text(text.replace("edge: pi-a", "edge: pi-x", 1))
    (shown,) = [span for span in CONFIG.spans if span.startswith("topology.yaml:")]

    assert main(["check", "topology.yaml"]) == os.EX_CONFIG
    assert shown in capsys.readouterr().err.splitlines()


def test_the_groups_settings_shown_are_those_of_the_four_edges():
    """As they stand there, comments and all."""
    (shown,) = CONFIG.blocks("yaml")
    lines = (ROOT / "config" / "06-four-edges.yaml").read_text().splitlines()
    assert [line for line in shown.splitlines() if line not in lines] == []


def test_every_example_is_described():
    described = {re.sub(r"\[(.*)\].*", r"\1", first) for first, *_ in CONFIG.table("example")}
    assert described == {file.name for file in (ROOT / "config").glob("*.yaml")}


def keys_of(node: Any) -> set[str]:
    """Every key that the schema knows, at any depth."""
    if isinstance(node, dict):
        return set(node.get("properties", {})).union(*(keys_of(value) for value in node.values()))
    return set().union(*(keys_of(each) for each in node)) if isinstance(node, list) else set()


def test_every_key_of_the_topology_is_named():
    named = {word for span in CONFIG.spans for word in re.findall(r"\w+", span)}
    assert keys_of(schema()) - named == set()


def test_the_sections_of_the_site_are_those_of_the_file():
    assert CONFIG.table("key")[0][0] == "`schema`"
    first = {re.findall(r"`(\w+)`", row[0])[0] for row in CONFIG.table("key")}
    assert first == schema()["properties"].keys()


def test_the_keys_of_a_remote_archive_are_those_of_the_file():
    archive = schema()["properties"]["archive"]["items"]["properties"]
    keys = {f"{kind}.{key}" for kind in ("s3", "hdfs") for key in archive[kind]["properties"]}
    assert {key for row in CONFIG.table("key of `archive`") for key in re.findall(r"`([\w.]+)`", row[0])} == keys


def test_the_layers_and_settings_of_training_are_those_of_the_file():
    training = of_job()
    words, *mappings = training["model"]["items"]["anyOf"]
    assert CONFIG.first_column("layer") == {*words["enum"], *(name for each in mappings for name in each["properties"])}
    settings = CONFIG.first_column("key of `training`") | CONFIG.first_column("key of the data") | {"model"}
    assert settings == training.keys()


def size_or_text(text: str) -> Any:
    """A value as the file has it: a number, a size in bytes, a duration in seconds, or a word."""
    units = {"MiB": 2**20, "GiB": 2**30, "s": 1, "min": 60}
    if found := re.fullmatch(rf"(\d+)({'|'.join(units)})", text):
        return int(found[1]) * units[found[2]]
    return yaml.safe_load(text)


def values_of(node: Any) -> dict[str, set[Any]]:
    """For each key at any depth of the schema, its defaults and the words that it takes."""
    values: dict[str, set[Any]] = {}
    if isinstance(node, dict):
        for key, value in node.get("properties", {}).items():
            words = [each.get("enum", []) for each in (value, *value.get("anyOf", []))]
            values.setdefault(key, set()).update([value.get("default"), *(word for each in words for word in each)])
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        for key, more in values_of(each).items():
            values.setdefault(key, set()).update(more)
    return values


def test_the_values_shown_with_a_key_are_its_defaults_or_words():
    """Such as `prefetch: 16MiB`, wherever it stands."""
    values = values_of(schema())
    shown = {span for span in CONFIG.spans if re.fullmatch(r"\w+: [\w.]+", span)}
    wrong = []
    for span in shown - {"transport: mqtt"}:  # refused, as is said beside it
        key, _, text = span.partition(": ")
        if size_or_text(text) not in values.get(key, set()):
            wrong.append(span)
    assert len(shown) > 20
    assert wrong == []


@pytest.mark.parametrize("header", ["key of the data", "key of `exchange`"])
def test_the_defaults_listed_are_the_files(header):
    properties = of_job() if header == "key of the data" else of_job()["exchange"]["properties"]
    for first, default, _ in CONFIG.table(header):
        if re.fullmatch(r"`[\w.]+`", default):
            assert size_or_text(default.strip("`")) == properties[first.strip("`")]["default"], first


def test_the_settings_of_a_group_are_those_of_the_file():
    assert CONFIG.first_column("key of `exchange`") == of_job()["exchange"]["properties"].keys()


def test_the_modes_of_sampling_are_those_of_the_file():
    modes = set(of_job()["sampling"]["properties"]["mode"]["anyOf"][0]["enum"])
    listed = {word for row in CONFIG.table("mode") for cell in row for word in re.findall(r"`(\w+)`", cell)}
    assert modes <= listed
    assert CONFIG.first_column("mode") == {mode for mode in modes if not mode.endswith("_published")}


def test_the_events_to_know_are_described():
    assert len({name for row in SYSTEMD.table("event") for name in re.findall(r"`([a-z]+\.[a-z_]+)`", row[0])}) >= 9


def test_the_series_has_the_quantities_that_are_described():
    """Each quantity of the row of `res.sample` is a field of it."""
    (row,) = (row for row in SYSTEMD.table("event") if row[0] == "`res.sample`")
    fields = {
        "CPU": "cpu_percent",
        "memory": "memory_used_bytes",
        "disk": "disk_written_bytes_per_s",
        "network": "net_received_bytes_per_s",
        "samples/s": "trained_samples_per_s",
        "the share of time the trainer waited for data": "wait_fraction",
        "the share its lanes were blocked": "blocked_fraction",
        "lag": "lag_records",
        "queue bytes": "queue_bytes",
        "archived bytes in Kafka": "kept_bytes",
    }
    quantities = re.sub(r"\(.*?\)", "", row[1].partition(":")[2])
    assert [each.strip(" |") for each in re.split("[,;]", quantities)] == list(fields)
    assert EVENTS["res.sample"].fields.keys() >= set(fields.values())


def test_the_stages_described_are_those_of_the_gate():
    """The usual ones in the table, the slow ones named below it."""
    gate, page = (ROOT / ".ci" / "run").read_text(), PAGES[".github/CONTRIBUTING.md"]
    usual, slow = (set(re.findall(rf"^{name}=\((.*)\)$", gate, re.MULTILINE)[0].split()) for name in ("usual", "slow"))
    assert page.first_column("stage") == usual
    assert slow <= set(page.spans)


def test_the_topics_described_are_those_that_are_made(tmp_path):
    """All of them, by their patterns, and how long each is kept."""
    text = (ROOT / "config" / "06-four-edges.yaml").read_text().replace("mode: all_reduce", "mode: parameter_server")
    (tmp_path / "topology.yaml").write_text(text)
    topology = topology_file.load(tmp_path / "topology.yaml")
    words = {topology.site: "<site>"} | {device.name: "<device>" for device in topology.iot}
    words |= {edge.name: "<edge>" for edge in topology.edges} | {archive.name: "<node>" for archive in topology.archive}
    streams = {stream.name for stream in topology.streams}
    kept: dict[str, str] = {}
    for topic in topics(topology):
        site, kind, *rest = topic.name.split(".")
        of_stream = "<stream>" if kind == "archive" else "<job>"
        named = [words.get(part, of_stream if part in streams else part) for part in rest]
        hours = f"{topic.retention_ms // 3_600_000} h" if topic.retention_ms else ""
        hours = "until archived" if topic.retention_ms == UNTIL_ARCHIVED_MS else hours
        named = ["<node>"] if kind == "presence" else named
        kept[".".join([words[site], kind, *named])] = "compacted" if topic.compacted else hours
    described: dict[str, str] = {}
    for names, _, retention in CODE.table("topic"):
        patterns = re.findall(r"`([^`]+)`", names)
        each = retention.split(", ") if len(patterns) > 1 else [retention]
        described |= dict(zip(patterns, each, strict=True))
    ours = {name: "" if kind == "yours" else kind for name, kind in described.items()}
    assert ours == kept


def test_every_folder_is_on_the_map():
    (text,) = re.findall(r"^## Map\n(.*?)^## ", CODE.text, re.DOTALL | re.MULTILINE)
    layers = [path for path in (ROOT / "edged").iterdir() if path.is_dir() and path.name[0].isalpha()]
    folders = {layer.name for layer in layers} | {
        path.name for layer in layers if layer.name in {"domain", "services", "adapters"}
        for path in layer.iterdir() if path.is_dir() and path.name[0].isalpha()
    }  # fmt: skip
    assert [name for name in folders if f"`{name}`" not in text and f"`{name}/`" not in text] == []


def test_the_figures_in_readme_are_measured_ones():
    """Each number stands in the page of measurements, too."""
    (table,) = re.findall(r"^## Measured\n.*?((?:^\|[^\n]*\n)+)", README.text, re.DOTALL | re.MULTILINE)
    numbers = re.findall(r"\d[\d,.]*\d", " ".join(row.split(" | ")[1] for row in table.splitlines()[2:]))
    measured = set(re.findall(r"\d[\d,.]*\d", PAGES["tests/bench/README.md"].text))
    assert len(numbers) >= 8
    assert set(numbers) <= measured


def test_decisions_are_numbered_and_short():
    """For ever: none is missing. Each says in what case, what, and at which price."""
    decisions = re.findall(r"^### (\d+)\. .+\n((?:.+\n)+)", PAGES["edged/DECISIONS.md"].text, re.MULTILINE)
    assert [int(number) for number, _ in decisions] == list(range(1, len(decisions) + 1))
    for number, text in decisions:
        words = re.findall(r"\b(Context|Decision|Consequences):\s", text)
        assert words == ["Context", "Decision", "Consequences"], number
        assert len(text.splitlines()) <= 6, number


@each_page
def test_every_class_and_function_named_exists(page):
    """Here or in the tests; those of libraries are listed."""
    foreign = {"AIOKafkaProducer", "DistributedDataParallel"}
    code = "\n".join(file.read_text() for folder in ("edged", "tests") for file in (ROOT / folder).rglob("*.py"))
    classes = [span for span in page.spans if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w+", span)]
    functions = [found[1] for span in page.spans if (found := re.fullmatch(r"(?:\w+\.)*(\w+)\([^()]*\)", span))]
    functions += [span for span in page.spans if re.fullmatch(r"test_\w+_\w+", span)]
    missing = [name for name in set(classes) - foreign if not re.search(rf"^ *class {name}\b", code, re.MULTILINE)]
    missing += [name for name in functions if not re.search(rf"^ *(async )?def {name}\b", code, re.MULTILINE)]
    assert missing == []


# the package


def test_the_pages_do_not_travel_in_the_wheel():
    """Every page in the package is excluded (a built wheel shows it: `.ci/run users`)."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["edged"]
    assert "edged/**/*.md" in wheel["exclude"]


def test_the_package_is_typed_and_says_so():
    assert (ROOT / "edged" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]


def test_the_projects_addresses_are_one():
    """To be changed in one place; until then no page links to it."""
    urls: dict[str, str] = PROJECT["project"]["urls"]
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert not any(urls["Repository"] in page.text for page in PAGES.values())


def test_what_is_run_on_each_commit_is_the_gates_style():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = [Path(hook["entry"].split()[0]).name for hook in hooks]
    assert tools == ["ruff", "ruff", "mypy", "lint-imports"]
    gate = (ROOT / ".ci" / "run").read_text()
    assert [tool for tool in tools if tool not in gate] == []


def test_the_table_of_exit_codes_has_those_of_the_program_and_no_other():
    sources = "".join(path.read_text() for path in (ROOT / "edged").rglob("*.py"))
    named = {getattr(os, name) for name in re.findall(r"\bos\.(EX_[A-Z]+)", sources)}
    of_signals = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    table = SYSTEMD.text.partition("## Exit codes")[2].partition("\n## ")[0]
    told = [int(code) for codes in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for code in codes.split(",")]

    assert sorted(told) == sorted({0, 1, INTERRUPTED, BROKEN_PIPE} | named | of_signals)
