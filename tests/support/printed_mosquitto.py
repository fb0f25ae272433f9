"""A Mosquitto set up by the commands that `edged topics` prints, beside Debian's own settings."""

import re
import subprocess
from pathlib import Path

from edged.domain.mqtt import mosquitto
from edged.domain.topology import Topology
from tests.support.mosquitto import Mosquitto, program

DEBIAN = Path(mosquitto.FOLDER) / "mosquitto.conf"


class PrintedMosquitto(Mosquitto):
    """At `topology.mqtt`'s port. Each user's password is its name. Nothing differs but folders and their owner."""

    def __init__(self, topology: Topology) -> None:
        assert topology.mqtt is not None
        super().__init__((), port=topology.mqtt.port)
        self._topology = topology
        self._etc = self.folder / "etc"

    def _command(self) -> list[str]:
        (self._etc / "conf.d").mkdir(parents=True, exist_ok=True)
        subprocess.run(["bash", "-euc", self._script()], check=True)
        main = self._etc / "mosquitto.conf"
        text = self._moved(DEBIAN.read_text())
        main.write_text(re.sub(r"(?m)^(pid_file|log_dest) .*$", "", text) + "\nuser root\nlog_type all\n")
        return [program("mosquitto") or "mosquitto", "-c", str(main)]

    def _script(self) -> str:
        """The printed one, but for systemd, and for who is asked for a password."""
        lines = [self._moved(line) for line in mosquitto.commands(self._topology) if not line.startswith("systemctl")]
        text = "\n".join(lines).replace(" -o mosquitto -g mosquitto", "")
        return re.sub(r"(?m)^mosquitto_passwd (\S+) (\S+)$", r"mosquitto_passwd -b \1 \2 \2", text)

    def _moved(self, text: str) -> str:
        return text.replace(mosquitto.FOLDER, str(self._etc)).replace("/var/lib/mosquitto", str(self.folder))
