"""The files of a Debian system, none of whose services run, to install packages in: for this processor, or emulated.

An emulated one is in a user namespace of its own, where alone the kernel takes qemu for its programs (Linux 6.7).
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.requirements import require

PI = "cortex-a53"
"""A Pi 3's or Zero 2's: of those that edged is for, the one with the fewest instructions."""

_FOR_DPKG = "base-files base-passwd bash coreutils dash debianutils diffutils dpkg findutils grep"
ARM_PACKAGES = (*_FOR_DPKG.split(), "libc-bin", "libstdc++6", "python3", "sed", "systemd", "tar", "zlib1g")
"""What dpkg runs, and the package's dependencies."""

_QEMU = "/usr/bin/qemu-aarch64-static"
_FORMAT = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:" + _QEMU + ":OCPF"
)
_CPUINFO = """\
processor\t: {}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""
"""Of each core of a Raspberry Pi 3. Runtimes read it: LiteRT crashes by that of another architecture."""

_EMULATE = """\
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' "$FORMAT" > /proc/sys/fs/binfmt_misc/register
"""
_ENTER = """\
mount -t overlay overlay -o "userxattr,lowerdir=$LOWER,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
mount -t proc proc "$FOLDER/root/proc"
mount --rbind /dev "$FOLDER/root/dev"
mount --rbind /sys "$FOLDER/root/sys"
if [ -e "$FOLDER/cpuinfo" ]; then mount --bind "$FOLDER/cpuinfo" "$FOLDER/root/proc/cpuinfo"; fi
exec chroot "$FOLDER/root" "$@"
"""
_NAMESPACE = (
    'echo; read -r mapped; exec unshare --mount --pid --fork --kill-child --mount-proc sh -ec "$SCRIPT" sh "$@"'
)
_EVERYBODY = "0 0 4294967295"


class DebianRoot:
    """Such a system. `lower`: its files, which stay as they are. `cpu`: of qemu's, for a system of 64-bit ARM."""

    def __init__(self, lower: Path, folder: Path, cpu: str | None = None) -> None:
        if os.geteuid() != 0:
            require("only root installs packages")
        if cpu is not None and not Path(_QEMU).exists():
            require(f"no {_QEMU}: apt install qemu-user-static")
        self._lower, self._folder, self._cpu = lower, folder, cpu
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        (folder / "upper").chmod(0o755)
        if cpu is not None:
            (folder / "cpuinfo").write_text("".join(map(_CPUINFO.format, range(4))))

    def file(self, path: str) -> Path:
        """Of what has been written there."""
        return self._folder / "upper" / path.lstrip("/")

    def run(self, script: str, *, expect: int = 0) -> str:
        """What a shell script prints. Fails unless it exits with `expect`."""
        emulate = _EMULATE if self._cpu else ""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
            "LOWER": str(self._lower),
            "FOLDER": str(self._folder),
            "FORMAT": _FORMAT,
            "SCRIPT": emulate + _ENTER,
        }
        if self._cpu:
            environment["QEMU_CPU"] = self._cpu
        with subprocess.Popen(
            ["unshare", "--user", "sh", "-c", _NAMESPACE, "sh", "sh", "-ec", script],
            env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process.pid}/{name}").write_text(_EVERYBODY)
            printed, _ = process.communicate("\n")
        assert process.returncode == expect, f"{script}: {process.returncode}\n{printed}"
        return printed


def arm_files(suite: str, folder: Path, packages: Sequence[str], mirror: str) -> Path:
    """A system of 64-bit ARM whose packages are unpacked and not configured, which emulated takes many minutes."""
    if shutil.which("mmdebstrap") is None:
        require("no mmdebstrap: apt install mmdebstrap")
    options = ["--arch=arm64", "--variant=extract", f"--include={','.join(packages)}"]
    done = subprocess.run(["mmdebstrap", *options, suite, folder, mirror], capture_output=True, text=True, check=False)
    if done.returncode:
        require(f"no {suite} for arm64: {done.stderr.strip()[-500:]}")
    (folder / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    return folder
