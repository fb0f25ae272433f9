"""A Mosquitto set up by the commands that `edged topics` prints, beside Debian's own settings."""

import re
import subprocess
from pathlib import Path

from edged.domain.mqtt import mosquitto
from edged.domain.topology import Topology
from tests.support.mosquitto import Mosquitto, program

DEBIAN = Path(mosquitto.FOLDER) / "mosquitto.conf"


class PrintedMosquitto(Mosquitto):
    """At `topology.mqtt`'s port. Each user's password is its name. A start runs the
    commands of `topology`, which may be another one then. Nothing differs but folders and their owner."""

    def __init__(self, topology: Topology) -> None:
        assert topology.mqtt is not None
        super().__init__((), port=topology.mqtt.port)
        self.topology = topology
        self._etc = self.folder / "etc"

    @property
    def passwords(self) -> dict[str, str]:
        """Each user's, as Mosquitto keeps it: another one each time that it is given, even the same."""
        lines = (self._etc / "edged.passwd").read_text().splitlines()
        return dict(line.split(":", 1) for line in lines)

    def _command(self) -> list[str]:
        (self._etc / "conf.d").mkdir(parents=True, exist_ok=True)
        subprocess.run(["bash", "-euc", self._script()], check=True)
        main = self._etc / "mosquitto.conf"
        text = self._moved(DEBIAN.read_text())
        main.write_text(re.sub(r"(?m)^(pid_file|log_dest) .*$", "", text) + "\nuser root\nlog_type all\n")
        return [program("mosquitto") or "mosquitto", "-c", str(main)]

    def _script(self) -> str:
        """The printed one, but for systemd, and for who is asked for a password."""
        text = self._moved("\n".join(mosquitto.commands(self.topology))).replace(" -o mosquitto -g mosquitto", "")
        text = text.replace("systemctl restart mosquitto", "true")
        return re.sub(r'mosquitto_passwd (\S+) "\$user"', r'mosquitto_passwd -b \1 "$user" "$user"', text)

    def _moved(self, text: str) -> str:
        return text.replace(mosquitto.FOLDER, str(self._etc)).replace("/var/lib/mosquitto", str(self.folder))
