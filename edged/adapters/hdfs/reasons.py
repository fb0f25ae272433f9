"""What the errors of hdfs-native mean: they have no errno, and the NameNode's words come as text."""

import re
import socket

from edged.errors import ArchiveFull, ArchiveUnavailable

_RPC_PORT = "8020"
_LOOK_S = 1.0
_MAX_TEXT = 300

_MEANINGS = (
    (
        r"AccessControlException.*?[Pp]ermission denied: user=([^,\s]+), access=(\w+)",
        'the user "{0}" has no right to {1} there: `hdfs dfs -chown` gives it, and HADOOP_USER_NAME says who this is',
    ),
    (r"SIMPLE authentication is not enabled", "the cluster wants Kerberos: give hdfs: {{principal: …, keytab: …}}"),
    (r"(?i)gss|kerberos|sasl", "Kerberos refuses: is the keytab the principal's, and the ticket not expired?"),
    (r"SafeModeException|[Ss]afe mode", "the NameNode is in safe mode: it starts, or its disk is full"),
    (
        r"StandbyException",
        "this NameNode is on standby: name the nameservice, with Hadoop's configuration (hdfs: config)",
    ),
    (
        r"could only be (?:written|replicated) to 0",
        "no DataNode takes a block: are they running, reachable from here, and not full?",
    ),
    (r"No data received for", "a DataNode does not answer: is it overloaded, paused, or cut off?"),
    (r"No NameNode hosts found", "the URL has no port, usually 8020, and Hadoop's configuration no such nameservice"),
    (r"No fs.defaultFS", "the URL has no host, and Hadoop's configuration no fs.defaultFS"),
    (r"UnknownHostException|failed to lookup address", "the host's name is not known here: is it spelt right?"),
    (r"RpcNoSuch|RPC version mismatch|Server IPC version", "another version of Hadoop's protocol answers"),
)
_FULL = re.compile(r"QuotaExceeded|quota .* is exceeded|No space left")


def translated(error: Exception, path: str, address: str) -> ArchiveUnavailable:
    """What happened to `path`, why, and what to do. `address`: the NameNode's, to look what answers there."""
    text = str(error)
    if _FULL.search(text):
        return ArchiveFull(
            f"{path}: a quota or the cluster's room is used up: raise it, or give the archive a `retention`"
        )
    return ArchiveUnavailable(f"{path}: {_reason(error, text, address)}")


def _reason(error: Exception, text: str, address: str) -> str:
    for pattern, meaning in _MEANINGS:
        if match := re.search(pattern, text, re.DOTALL):
            return meaning.format(*match.groups())
    if isinstance(error, FileNotFoundError):
        return "the archive's folder is not there; `edged archive init` makes it"
    if _answers_http(address):
        return f"a web server answers at {address}: hdfs:// takes the NameNode's RPC port, usually {_RPC_PORT}"
    if "refused" in text.lower():
        if _listens(address):
            return "a DataNode refuses connections: is it being restarted, or just lost?"
        return f"nobody listens at {address}: is the NameNode running, and its RPC port that?"
    return f"{type(error).__name__}: {' '.join(text.split())[:_MAX_TEXT]}"


def _listens(address: str) -> bool:
    """Whether anything listens at the address, in a second at most."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_S).close()
    except (OSError, ValueError):
        return False
    return True


def _answers_http(address: str) -> bool:
    """Whether what is at the address speaks HTTP, in two seconds at most. Hadoop's RPC says so itself when asked."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_S) as connection:
            connection.settimeout(_LOOK_S)
            connection.sendall(b"OPTIONS / HTTP/1.1\r\nHost: hdfs\r\nConnection: close\r\n\r\n")
            answer = connection.recv(4096)
    except OSError:
        return False
    return answer.startswith(b"HTTP/") and b"looks like you are making an HTTP request" not in answer
