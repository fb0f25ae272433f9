"""The archive: its URL, and the keys by which its store is reached."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from edged.domain.suggest import did_you_mean
from edged.domain.topology import Archive, Topology
from edged.domain.validation.finding import Finding

_SCHEMES = ("file", "hdfs", "s3")
_WEB_PORTS = {9870, 9871, 50070, 50470}
"""The NameNode's for people, by default, of Hadoop 3 and 2."""


def problems(topology: Topology) -> Iterator[Finding]:
    """See `rules.problems`."""
    if not topology.archive:
        yield Finding("archive", "there is no archive node", "one, or several that share the work on one archive")
    yield from _one_archive(topology)
    for i, archive in enumerate(topology.archive):
        at = f"archive[{i}]"
        yield from _retention(f"{at}.retention", archive, topology)
        found = list(_url(f"{at}.url", archive.url))
        yield from found
        if not found:
            yield from _access(at, archive)


def warnings(topology: Topology) -> Iterator[Finding]:
    """See `rules.warnings`."""
    live = dict.fromkeys(job.stream for job in topology.jobs if job.source != "archive")
    yield from _several_nodes(topology)
    for i, archive in enumerate(topology.archive):
        for stream in live if archive.trim else ():
            yield Finding(
                f"archive[{i}].trim",
                f'the stream "{stream}" is trained on live: an edge that lags, or was away, misses what has been'
                " deleted meanwhile",
                "",
                ("training",),
            )
        endpoint = archive.s3.endpoint or ""
        if endpoint.startswith("http://") and not _is_loopback(endpoint):
            yield Finding(
                f"archive[{i}].s3.endpoint", "samples go over the network unencrypted", "https:// encrypts", ()
            )


def _one_archive(topology: Topology) -> Iterator[Finding]:
    """All archive nodes share the work on one archive, so that each can take over from the others."""
    for i, archive in enumerate(topology.archive[1:], 1):
        first = topology.archive[0]
        at = f"archive[{i}]"
        if archive.url != first.url:
            yield Finding(
                f"{at}.url",
                f'not that of "{first.name}": the archive nodes of a site share the work on one archive',
                f"url: {first.url}",
                ("archive[].url",),
            )
        elif archive.s3.endpoint != first.s3.endpoint:
            yield Finding(
                f"{at}.s3.endpoint",
                f'not that of "{first.name}": the archive nodes of a site share the work on one archive',
                needs=("archive[].url", "archive[].s3.endpoint"),
            )
        elif archive.retention != first.retention:
            yield Finding(
                f"{at}.retention",
                f'not that of "{first.name}": what is forgotten would depend on which node has a source',
                needs=("archive[].url", "archive[].retention"),
            )


def _several_nodes(topology: Topology) -> Iterator[Finding]:
    """What is right for some nodes of several, and for others not."""
    first = topology.archive[0]
    if topology.has_several_archive_nodes and first.url.startswith("file:"):
        yield Finding(
            "archive[1].url",
            "each archive node must see the same files there: fine on one machine, and where all mount one file system",
        )
    for i, archive in enumerate(topology.archive[1:], 1):
        if archive.trim != first.trim:
            yield Finding(
                f"archive[{i}].trim",
                f'not as that of "{first.name}": what is deleted from Kafka depends on which node has a source',
                needs=("archive[].trim",),
            )


def _url(path: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        has_user, port = "@" in parts.netloc, parts.port
    except ValueError:
        yield Finding(path, "it is not a URL", "such as file:///srv/edged")
        return
    if parts.scheme not in _SCHEMES:
        yield Finding(path, "the archive's URL begins with file://, hdfs:// or s3://", "such as file:///srv/edged")
    elif has_user:
        yield Finding(path, "a URL holds no user name or password here")
    elif parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/") or "\0" in url):
        yield Finding(path, "file:// takes an absolute path", "such as file:///srv/edged, with three slashes")
    elif parts.query or parts.fragment:
        yield Finding(path, "the archive's URL has no '?' and no '#'")
    elif parts.scheme == "s3" and (not parts.netloc or port is not None):
        yield Finding(path, "s3:// takes a bucket", "s3://bucket/folder; the gateway's address is s3: {endpoint: …}")
    elif parts.scheme == "hdfs" and port in _WEB_PORTS:
        yield Finding(path, f"{port} is the NameNode's web port", "hdfs:// takes its RPC port, usually 8020")


def _retention(at: str, archive: Archive, topology: Topology) -> Iterator[Finding]:
    names = [stream.name for stream in topology.streams]
    for each in archive.retention.streams:
        if each.name not in names:
            yield Finding(
                f"{at}.streams.{each.name}",
                f'there is no stream "{each.name}"',
                did_you_mean(each.name, names) or f"there are {', '.join(names)}",
                ("streams",),
            )
    if archive.when_full != "reject" and not archive.url.startswith("file:"):
        path = at.removesuffix(".retention")
        yield Finding(
            f"{path}.when_full", "only file:// uses it", "retention: {size: …} keeps a store small", (f"{path}.url",)
        )


def _access(at: str, archive: Archive) -> Iterator[Finding]:
    scheme, default = archive.url.partition("://")[0], Archive("", "")
    for kind in ("s3", "hdfs"):
        if getattr(archive, kind) != getattr(default, kind) and scheme != kind:
            yield Finding(f"{at}.{kind}", f"only {kind}:// uses it", "leave it out", (f"{at}.url",))
    s3, hdfs = archive.s3, archive.hdfs
    yield from _together(f"{at}.s3", {"access_key": s3.access_key, "secret_key": s3.secret_key})
    if s3.session_token is not None and s3.access_key is None:
        path = f"{at}.s3.access_key"
        yield Finding(f"{at}.s3.session_token", "it is used only with its access_key", "add access_key", (path,))
    yield from _together(f"{at}.hdfs", {"principal": hdfs.principal, "keytab": hdfs.keytab})


def _together(at: str, values: dict[str, str | None]) -> Iterator[Finding]:
    """Two keys of which neither is of use without the other."""
    for key, other in (tuple(values), tuple(values)[::-1]):
        if values[key] is not None and values[other] is None:
            yield Finding(f"{at}.{key}", f"it is used only with its {other}", f"add {other}", (f"{at}.{other}",))


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")
