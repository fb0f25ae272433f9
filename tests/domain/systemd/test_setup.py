"""What a node needs of its machine, by the topology."""

from dataclasses import replace

import pytest

from edged.domain.systemd.setup import Folder, node_of, possible_units, setup_of, unfit
from edged.domain.topology import Archive, Mqtt
from tests.support.valid_topology import VALID, with_device


def with_archive(url):
    return replace(VALID, archive=(Archive("vault", url),))


def settings(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_an_edge_has_a_daemon_and_a_companion_with_the_nodes_name_and_credentials():
    setup = setup_of(VALID, "pi-a", {"kafka-password": "kafka.security", "key": "kafka.security"})
    assert setup.units == ("edged@pi-a.service", "edged-infer@pi-a.service")
    for text in setup.drop_ins.values():
        assert settings(text) == [
            "[Service]",
            "Environment=NODE=%i",
            "LoadCredential=kafka-password:/etc/edged/credentials/pi-a/kafka-password",
            "LoadCredential=key:/etc/edged/credentials/pi-a/key",
        ]


@pytest.mark.parametrize(("node", "secrets"), [("pi-a", {"kafka", "mqtt"}), ("pi-b", {"kafka"}), ("vault", {"kafka"})])
def test_who_does_not_speak_mqtt_needs_none_of_its_secrets(node, secrets):
    topology = replace(with_device(transport="mqtt"), mqtt=Mqtt("broker"))
    credentials = {"kafka": "kafka.security.password", "mqtt": "mqtt.password"}
    assert setup_of(topology, node, credentials).secrets.keys() == secrets


@pytest.mark.parametrize(("node", "secrets"), [("pi-a", set()), ("vault", {"s3-secret"})])
def test_only_the_archive_needs_the_secrets_of_its_store(node, secrets):
    credentials = {"s3-secret": "archive[0].s3.secret_key"}
    assert setup_of(VALID, node, credentials).secrets.keys() == secrets


def test_a_remote_archive_needs_no_folder_of_the_machine():
    remote = replace(VALID, archive=(replace(VALID.archive[0], url="hdfs://namenode:8020/edged"),))
    assert unfit(remote, "vault") is None
    assert "ReadWritePaths" not in setup_of(remote, "vault", {}).drop_ins["edged@vault.service"]


def test_where_nothing_is_trained_there_is_no_companion():
    assert setup_of(replace(VALID, jobs=()), "pi-a", {}).units == ("edged@pi-a.service",)


def test_the_archive_may_write_its_folder_and_waits_for_it_to_be_mounted():
    setup = setup_of(VALID, "vault", {})
    assert setup.units == ("edged@vault.service",)
    assert settings(setup.drop_ins["edged@vault.service"]) == [
        "[Unit]",
        "RequiresMountsFor=/srv/edged",
        "[Service]",
        "Environment=NODE=%i",
        "ReadWritePaths=/srv/edged",
    ]


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("/srv/my archive", '"/srv/my archive"'),
        ("/srv/100%", '"/srv/100%%"'),
        ('/srv/"x"\\y', '"/srv/\\"x\\"\\\\y"'),
        ("/srv//edged/", "/srv/edged"),
        ("/srv/my%20archive", '"/srv/my%%20archive"'),
        ("/srv/größe", '"/srv/größe"'),
    ],
)
def test_the_archives_folder_is_one_word_to_systemd(folder, written):
    drop_in = setup_of(with_archive(f"file://{folder}"), "vault", {}).drop_ins["edged@vault.service"]
    assert f"ReadWritePaths={written}\n" in drop_in
    assert f"RequiresMountsFor={written}\n" in drop_in


def test_secrets_are_roots_alone_and_each_nodes_own():
    setup = setup_of(VALID, "pi-a", {"key": "kafka.security"})
    assert setup.secrets == {"key": "/etc/edged/credentials/pi-a/key"}
    assert [each for each in setup.folders if each.owner == "root"] == [
        Folder("/etc/edged/credentials", 0o700, "root"),
        Folder("/etc/edged/credentials/pi-a", 0o700, "root"),
    ]


def test_a_node_without_credentials_has_no_folder_for_them():
    assert [each.path for each in setup_of(VALID, "pi-a", {}).folders] == ["/var/lib/edged", "/var/cache/edged"]


def test_the_archives_folder_is_data():
    assert Folder("/srv/edged", 0o750, "edged", is_data=True) in setup_of(VALID, "vault", {}).folders


@pytest.mark.parametrize("name", ["pi-a", "a.mount", "pi.service", "Pi_1--", "x" * 64])
def test_a_units_name_is_whole_and_leads_back_to_the_node(name):
    """As "edged@a.mount" would be a mount."""
    for unit in possible_units(name):
        assert unit.endswith(f"@{name}.service")
        assert node_of(unit) == name


def test_a_device_is_no_unit():
    problem = unfit(VALID, "cam")
    assert problem is not None
    assert '"cam" is a device' in problem.message


@pytest.mark.parametrize("folder", ["/home/pi/edged", "/root", "/run/user/1000/x", "/srv/../home/x", "//home/x"])
def test_an_archive_in_a_folder_that_units_do_not_see_is_refused(folder):
    problem = unfit(with_archive(f"file://{folder}"), "vault")
    assert problem is not None
    assert "units do not see what is below" in problem.message


@pytest.mark.parametrize("folder", ["/var/lib/edged", "//var/lib/edged/a", "/var/cache/edged/x", "/etc/edged/x"])
def test_an_archive_among_the_files_that_a_purge_takes_is_refused(folder):
    problem = unfit(with_archive(f"file://{folder}"), "vault")
    assert problem is not None
    assert "when the package is purged" in problem.message


@pytest.mark.parametrize(
    "folder", ["/", "/etc", "/etc/systemd/system/ssh.service.d", "/srv/../usr/lib", "/run/archive"]
)
def test_an_archive_among_the_systems_own_files_is_refused(folder):
    """The folder would be made, and be the node's: whoever may write among units is root at the next boot."""
    problem = unfit(with_archive(f"file://{folder}"), "vault")
    assert problem is not None
    assert "is the system's own, which a node never may write" in problem.message


@pytest.mark.parametrize("folder", ["/var", "/var/lib", "/var/cache/"])
def test_an_archive_around_the_nodes_own_files_is_refused(folder):
    problem = unfit(with_archive(f"file://{folder}"), "vault")
    assert problem is not None
    assert "is no part of an archive" in problem.message


@pytest.mark.parametrize(
    "folder", ["/srv", "/srv/etc", "/mnt/nas/edged", "/media/usb/edged", "/var/libedged", "/etcetera"]
)
def test_an_archive_beside_them_is_fit(folder):
    assert unfit(with_archive(f"file://{folder}"), "vault") is None


def test_an_archive_whose_url_has_a_variable_that_is_missing_is_refused():
    problem = unfit(with_archive("${ARCHIVE}"), "vault")
    assert problem is not None
    assert "${ARCHIVE}" in problem.message
    assert "systemctl edit edged@vault.service" in problem.suggestion


@pytest.mark.parametrize(("topology", "node"), [(VALID, "vault"), (VALID, "pi-a"), (with_archive("${X}"), "pi-a")])
def test_an_edge_and_an_archive_in_srv_are_fit(topology, node):
    assert unfit(topology, node) is None


@pytest.mark.parametrize("folder", ["/homes/edged", "/var/lib/edged-archive"])
def test_a_folder_beside_one_that_is_refused_is_fit(folder):
    assert unfit(with_archive(f"file://{folder}"), "vault") is None
