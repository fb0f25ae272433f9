"""A demo on a Pi's processor, emulated: all three tiers, with the broker's, TFLite's and edged's libraries."""

import json
import shutil

from systemd.package import wheels
from systemd.package.suites import MACHINES, SUITES
from tests.support.booted import roots
from tests.support.debian_root import ARM_PACKAGES, PI, DebianRoot, arm_files
from tests.support.demo import a_few_articles, assert_whole

_DEMO = """
cd /tmp
export PYTHONPATH=/opt/edged HOME=/root
exec python3 -P -m edged demo --data /articles --epochs 1 --live 10 --rate 2 --json
"""


def test_a_pi_runs_the_demo(tmp_path):
    wheel = wheels.own("arm64", tmp_path / "wheel")
    root = DebianRoot(arm_files("bookworm", tmp_path / "arm64", ARM_PACKAGES, roots.MIRROR), tmp_path / "root", PI)
    site, fitting = root.file("/opt/edged"), wheels.target(SUITES["bookworm"], MACHINES["arm64"])
    wheels.uv("pip", "install", "--target", site, *fitting, f"edged[demo] @ {wheel.as_uri()}")
    shutil.copytree(a_few_articles(tmp_path / "articles"), root.file("/articles"))

    summary = json.loads(root.run(_DEMO).splitlines()[-1])

    assert_whole(summary, published=20)
    assert summary["backend"].startswith("compiled/")
    assert summary["test_accuracy"] > 0.2
