"""Actions read as what an administrator would type."""

from edged.domain.systemd.actions import MakeFolder, RemoveFile, RemoveFolder, Systemctl, WriteFile
from edged.domain.systemd.setup import Folder


def test_each_action_is_a_command_or_a_file_with_its_content():
    assert [
        str(each)
        for each in (
            MakeFolder(Folder("/srv/my archive", 0o750, "edged")),
            WriteFile("/etc/x.conf", "# why\n\n[Service]\n"),
            RemoveFile("/etc/x.conf"),
            RemoveFolder("/etc/x"),
            Systemctl(("start", "edged@pi-a.service")),
        )
    ] == [
        "install -d -m 750 -o edged -g edged '/srv/my archive'",
        "write /etc/x.conf\n    # why\n\n    [Service]",
        "rm /etc/x.conf",
        "rmdir /etc/x",
        "systemctl start edged@pi-a.service",
    ]
