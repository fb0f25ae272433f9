"""Pins again what the packages are made of: `python -m systemd.package.lock` in a checkout writes `wheels/<suite>.txt`.

Each line has a version and the digests of its wheels for every architecture. `wheels/build.txt` is for edged's own.
"""

import tempfile
import tomllib
from pathlib import Path
from typing import Any

from edged.adapters.kernels.build import ZIGLANG
from systemd.package.suites import MACHINES, SUITES, Suite
from systemd.package.wheels import PINS, ROOT, target, uv

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def resolve(requirements: list[str], suite: Suite) -> dict[str, str]:
    """Of each `name==version`, its line."""
    digests: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        asked, answer = Path(name) / "asked.in", Path(name) / "pylock.toml"
        asked.write_text("\n".join(requirements))
        for machine in MACHINES.values():
            uv("pip", "compile", "--upgrade", *target(suite, machine), asked, "-o", answer)
            for package in tomllib.loads(answer.read_text())["packages"]:
                of_this = digests.setdefault(f"{package['name']}=={package['version']}", set())
                of_this |= {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
    return {
        pin: pin + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(of_this)) + "\n"
        for pin, of_this in sorted(digests.items())
    }


def main() -> None:
    """The command."""
    extras = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"] + extras["mqtt"]  # a Pi that is a bridge has no other package
    for suite in SUITES.values():
        of_edged, of_both = resolve(needed, suite), resolve(needed + extras["archive"], suite)
        assert of_edged.keys() <= of_both.keys(), "the archive wants other versions than an edge"
        of_archive = [line for pin, line in of_both.items() if pin not in of_edged]
        (PINS / f"{suite.name}.txt").write_text("".join([*of_edged.values(), "# edged-archive\n", *of_archive]))
    tools = resolve([*PROJECT["build-system"]["requires"], f"ziglang=={ZIGLANG}"], SUITES["bookworm"])
    (PINS / "build.txt").write_text("".join(tools.values()))


if __name__ == "__main__":
    main()
