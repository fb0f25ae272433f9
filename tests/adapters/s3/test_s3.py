"""S3: what each answer means, what a server must honour, and what else may be in a bucket."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import boto3
import obstore
import pytest
from botocore.config import Config

from edged.adapters.s3 import s3_store
from edged.adapters.s3.reasons import translated
from edged.domain.topology import S3Access
from edged.errors import ArchiveFull, ArchiveUnavailable
from tests.support.s3 import (
    ACCESS_KEY,
    BUCKET,
    REGION,
    SECRET_KEY,
    Answer,
    AnsweringS3,
    Moto,
    Versitygw,
    refusal,
    versitygw_program,
)
from tests.support.shared_brokers import SharedBroker

PATIENT_S = 600.0
NAME = "fashion/pi-a/0/a.parquet"


def access_to(server: SharedBroker | Moto | Versitygw) -> S3Access:
    return S3Access(f"http://127.0.0.1:{server.port}", REGION, ACCESS_KEY, SECRET_KEY)


def administrator(server: SharedBroker | Moto | Versitygw) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}),
    )


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("InvalidAccessKeyId", 403, "the access key is not known there: check archive: s3: access_key"),
        ("SignatureDoesNotMatch", 403, "the secret key is not that of the access key"),
        ("ExpiredToken", 400, "the session token has expired"),
        ("AccessDenied", 403, "the credentials lack a right: s3:GetObject, PutObject"),
        ("RequestTimeTooSkewed", 403, "this machine's clock is far off"),
        ("NoSuchBucket", 404, 'there is no bucket "greenhouse"'),
        ("NotImplemented", 501, "If-None-Match"),
        ("PermanentRedirect", 301, "in another region or at another endpoint"),
        ("SomethingElse", 400, "SomethingElse: said so"),
    ],
)
def test_a_refusal_is_told_with_its_place_its_reason_and_what_to_do(code, status, expected):
    with AnsweringS3(refusal(code, "said so", status)) as server:
        store = s3_store(f"s3://{BUCKET}/edged", server.access, "arc-1")

        for call in (
            lambda: store.publish(NAME, [b"x"]),
            lambda: store.read(NAME, 0, 1),
            lambda: store.size(NAME),
            lambda: list(store.list("fashion")),
            store.folders,
            store.probe,
        ):
            with pytest.raises(ArchiveUnavailable) as raised:
                call()
            assert str(raised.value).startswith(f"s3://{BUCKET}/edged at {server.access.endpoint}")
        assert expected in str(raised.value)


@pytest.mark.parametrize(("code", "status"), [("QuotaExceeded", 403), ("", 507), ("XMinioStorageFull", 507)])
def test_where_there_is_no_room_it_is_told_as_that(code, status):
    with AnsweringS3(
        lambda method, _: refusal(code, "", status)("", "") if method == "PUT" else (200, EMPTY)
    ) as server:
        store = s3_store(f"s3://{BUCKET}/edged", server.access, "arc-1")

        with pytest.raises(ArchiveFull, match="it has no room, or a quota is used up"):
            store.publish(NAME, [b"x"])


EMPTY = b"""<?xml version="1.0"?><ListBucketResult><Name>b</Name><Prefix></Prefix><KeyCount>0</KeyCount>
<MaxKeys>1</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"""
PAGE = b"<html><title>Welcome to nginx!</title></html>"


@pytest.mark.parametrize("status", [404, 403, 200])
def test_a_web_server_that_is_no_s3_is_refused_by_the_probe(status):
    with AnsweringS3(lambda _method, _path: (status, PAGE)) as server, pytest.raises(ArchiveUnavailable):
        s3_store(f"s3://{BUCKET}/edged", server.access, "arc-1").probe()


def test_what_a_server_that_is_no_s3_does_not_find_is_not_absent():
    with AnsweringS3(lambda _method, _path: (404, PAGE)) as server:
        store = s3_store(f"s3://{BUCKET}/edged", server.access, "arc-1")
        for call in (lambda: store.read(NAME, 0, 1), lambda: store.size(NAME), lambda: list(store.list("fashion"))):
            with pytest.raises(ArchiveUnavailable, match="no S3 answers there, with status 404"):
                call()


@pytest.mark.parametrize("refuses", ["nothing", "the header"])
def test_a_server_that_ignores_if_none_match_is_refused_by_the_probe(refuses):
    """Two archive nodes would overwrite each other's files, and nobody would notice."""
    objects: dict[str, bytes] = {}

    def answer(method: str, path: str) -> Answer:
        if method == "PUT" and refuses == "the header":
            return refusal("NotImplemented", "A header you provided implies functionality", 501)("", "")
        if method == "PUT":
            objects[path] = b""
            return 200, b""
        return (200, EMPTY) if method == "GET" else (204, b"")

    with (
        AnsweringS3(answer) as server,
        pytest.raises(ArchiveUnavailable, match="If-None-Match") as raised,
    ):
        s3_store(f"s3://{BUCKET}/edged", server.access, "arc-1").probe()
    assert str(server.access.endpoint) in str(raised.value)
    assert server.requests[-1][2].get("if-none-match", server.requests[-1][2].get("If-None-Match", "*")) == "*"


def test_no_secret_is_in_what_is_told():
    token = "a-session-token-of-the-node"  # noqa: S105 - guards nothing
    told = f"key {ACCESS_KEY}, signed with {SECRET_KEY} and {token}"
    with AnsweringS3(refusal("SomethingElse", told, 400)) as server:
        store = s3_store(f"s3://{BUCKET}/edged", replace(server.access, session_token=token), "arc-1")

        with pytest.raises(ArchiveUnavailable) as raised:
            store.folders()

    assert "key …, signed with … and …" in str(raised.value)


def test_no_secret_of_the_environment_is_in_what_is_told(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)

    told = translated(ValueError(f"what is {SECRET_KEY}?"), "s3://b", "b", S3Access())

    assert str(told) == "s3://b: ValueError: what is …?"


def test_credentials_come_from_the_usual_environment_where_the_topology_has_none(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "eu-west-7")
    with AnsweringS3(lambda _method, _path: (200, EMPTY)) as server:
        s3_store(f"s3://{BUCKET}/edged", S3Access(server.access.endpoint), "arc-1").folders()

    [(_, _, headers)] = server.requests[:1]
    signed = {name.lower(): value for name, value in headers.items()}["authorization"]
    assert "Credential=of-the-environment/" in signed
    assert "/eu-west-7/s3/" in signed


@pytest.mark.parametrize("status", [None, 403, 404, 500], ids=["nobody there", "403", "404", "500"])
def test_without_any_credentials_it_is_told_what_to_give(monkeypatch, status):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with (
        AnsweringS3(lambda _method, _path: (200, EMPTY)) as server,
        AnsweringS3(lambda _method, _path: (status, b"no")) as machine,
    ):
        where = machine.access.endpoint if status else "http://127.0.0.1:1"
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", where)  # a proxy or a firewall may answer in its place
        store = s3_store(f"s3://{BUCKET}/edged", S3Access(server.access.endpoint, REGION), "arc-1")

        with pytest.raises(ArchiveUnavailable, match="there are no credentials: give archive: s3: access_key"):
            store.probe()


def test_an_endpoint_where_nobody_listens_is_told():
    store = s3_store(f"s3://{BUCKET}/edged", S3Access("http://127.0.0.1:1", REGION, "a", "b"), "arc-1")

    with pytest.raises(
        ArchiveUnavailable, match=r"at http://127\.0\.0\.1:1: no connection, or no answer: Connection refused"
    ):
        store.folders()


def test_an_endpoint_with_a_name_that_nobody_knows_is_told():
    store = s3_store(f"s3://{BUCKET}/edged", S3Access("http://s3.invalid", REGION, "a", "b"), "arc-1")

    with pytest.raises(ArchiveUnavailable, match=r"s3\.invalid: no connection"):
        store.folders()


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def test_more_objects_than_a_page_of_s3_are_listed(versitygw, prefix):
    names = [f"{number:05d}" for number in range(1_005)]
    access = access_to(versitygw)
    raw = obstore.store.S3Store(
        BUCKET,
        prefix=f"{prefix}/f",
        endpoint=access.endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
    )
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: obstore.put(raw, name, b"x"), names))
    store = s3_store(f"s3://{BUCKET}/{prefix}", access, "arc-1", PATIENT_S)

    assert [each.name for each in store.list("f")] == names
    assert [each.name for each in store.list("f", names[1_001])] == names[1_002:]


@pytest.mark.parametrize("kind", ["moto", "versitygw"])
def test_an_unfinished_upload_in_parts_is_no_object_and_takes_no_name(request, kind, prefix):
    server = request.getfixturevalue(kind)
    begun = administrator(server).create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{NAME}")
    administrator(server).upload_part(
        Bucket=BUCKET, Key=f"{prefix}/{NAME}", UploadId=begun["UploadId"], PartNumber=1, Body=b"half"
    )
    store = s3_store(f"s3://{BUCKET}/{prefix}", access_to(server), "arc-1", PATIENT_S)

    assert store.size(NAME) is None
    assert list(store.list(NAME.rpartition("/")[0])) == []
    assert store.publish(NAME, [b"whole"])
    assert store.read(NAME, 0, 100) == b"whole"


def test_a_bucket_that_keeps_versions_is_told_and_serves(moto, prefix):
    name = f"versions-{prefix}"
    administrator(moto).create_bucket(Bucket=name)
    administrator(moto).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    store = s3_store(f"s3://{name}/edged", access_to(moto), "arc-1", PATIENT_S)

    (note,) = store.probe()

    assert note.startswith("the bucket keeps object versions")
    assert store.publish(NAME, [b"x"])
    assert not store.publish(NAME, [b"y"])
    store.delete(NAME)
    assert store.size(NAME) is None
    assert store.publish(NAME, [b"y"])
    assert store.read(NAME, 0, 1) == b"y"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"secret_key": "another"}, "the secret key is not that of the access key"),
        ({"access_key": "nobody"}, "the access key is not known there"),
    ],
    ids=["secret", "key"],
)
def test_wrong_credentials_are_told_by_a_real_gateway(versitygw, prefix, given, expected):
    store = s3_store(f"s3://{BUCKET}/{prefix}", replace(access_to(versitygw), **given), "arc-1", PATIENT_S)

    for call in (store.probe, lambda: store.publish(NAME, [b"x"]), lambda: store.size(NAME)):
        with pytest.raises(ArchiveUnavailable, match=expected):
            call()


USER = "arc-1-key"


@pytest.fixture
def of_the_prefix(versitygw, prefix) -> Iterator[S3Access]:
    """Credentials that have the rights that the archive needs, on this prefix alone."""
    admin = [str(versitygw_program()), "admin", "-a", ACCESS_KEY, "-s", SECRET_KEY, "-r", REGION]
    admin += ["-er", f"http://127.0.0.1:{versitygw.port}"]
    made = [*admin, "create-user", "-a", USER, "-s", "x" * 20, "-r", "user"]
    subprocess.run(made, check=False, capture_output=True)
    resources = [f"arn:aws:s3:::{BUCKET}/{prefix}/*"]
    rights = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    statements = [
        {"Effect": "Allow", "Principal": {"AWS": [USER]}, "Action": rights, "Resource": resources},
        {
            "Effect": "Allow",
            "Principal": {"AWS": [USER]},
            "Action": ["s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{BUCKET}"],
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    administrator(versitygw).put_bucket_policy(Bucket=BUCKET, Policy=policy)
    yield replace(access_to(versitygw), access_key=USER, secret_key="x" * 20)
    administrator(versitygw).delete_bucket_policy(Bucket=BUCKET)


def test_rights_for_the_prefix_alone_are_enough_and_others_are_told(of_the_prefix, prefix):
    store = s3_store(f"s3://{BUCKET}/{prefix}", of_the_prefix, "arc-1", PATIENT_S)
    assert list(store.probe()) == []
    assert store.replace("fashion/index", b"one", 0)
    assert list(store.folders()) == ["fashion"]

    elsewhere = s3_store(f"s3://{BUCKET}/{prefix}-2", of_the_prefix, "arc-1", PATIENT_S)
    with pytest.raises(ArchiveUnavailable, match="the credentials lack a right"):
        elsewhere.probe()
