"""What the answers of an S3 mean, and what to do; without the secrets that some servers say back."""

import os
import re

from edged.domain.topology import S3Access
from edged.errors import ArchiveFull, ArchiveUnavailable

_CODE = re.compile(r"<Code>(\w+)</Code>")
_SAID = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_STATUS = re.compile(r"status code: (\d{3})[^:\n]*")
_CREDENTIALS_OF_MACHINE = re.compile(r"https?://[^/\s]+/latest/(api/token|meta-data/iam/)")
"""Where AWS tells its own machines their credentials; others ask there when they have none."""
_NO_CREDENTIALS = "there are no credentials: give archive: s3: access_key, or AWS_ACCESS_KEY_ID"

_MAX_TEXT = 300
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")

_MEANINGS = {
    "NoSuchBucket": 'there is no bucket "{bucket}": make it, or correct the URL or the endpoint',
    "InvalidAccessKeyId": "the access key is not known there: check archive: s3: access_key, or AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is not that of the access key, or the region is another one",
    "AuthorizationHeaderMalformed": "the region is another one: {said}",
    "PermanentRedirect": "the bucket is in another region or at another endpoint: {said}",
    "ExpiredToken": "the session token has expired: give a new one and restart the node",
    "TokenRefreshRequired": "the session token has expired: give a new one and restart the node",
    "InvalidToken": "the session token is not valid: give a new one",
    "RequestTimeTooSkewed": "this machine's clock is far off: {said}",
    "AccessDenied": "the credentials lack a right: s3:GetObject, PutObject and DeleteObject on the prefix, and"
    " ListBucket of it",
    "SlowDown": "it asks for fewer requests: {said}",
    "AllAccessDisabled": "the account is disabled: {said}",
    "NotImplemented": "it does not know what the archive needs (If-None-Match: *): use an S3 that does: {said}",
    "InvalidObjectState": "objects are in an archive class that cannot be read at once",
}
_FULL = {
    "QuotaExceeded",
    "EntityTooLarge",
    "InsufficientCapacity",
    "XMinioStorageFull",
    "StorageFull",
    "UserQuotaExceeded",
}
_BY_STATUS = {"401": "InvalidAccessKeyId", "403": "AccessDenied", "501": "NotImplemented"}


def translated(error: Exception, where: str, bucket: str, access: S3Access) -> ArchiveUnavailable:
    """What happened there, why, and what to do."""
    text = str(error).partition("\n\nDebug source")[0]
    if _CREDENTIALS_OF_MACHINE.search(text):  # whatever the answer there, it says nothing of the store
        return ArchiveUnavailable(f"{where}: {_NO_CREDENTIALS}")
    status = match[1] if (match := _STATUS.search(text)) else ""
    said = match[1] if (match := _SAID.search(text)) else ""
    code = match[1] if (match := _CODE.search(text)) else _BY_STATUS.get(status, "")
    if code in _FULL or status == "507":
        return ArchiveFull(f"{where}: it has no room, or a quota is used up ({code or status}): make room, or raise it")
    if meaning := _MEANINGS.get(code):
        return ArchiveUnavailable(f"{where}: {meaning.format(bucket=bucket, said=_hidden(said, access))}")
    if status and not code:
        return ArchiveUnavailable(
            f"{where}: a server that is no S3 answers there, with status {status}: check the endpoint"
        )
    told = f"{code}: {said}" if code else f"{type(error).__name__}: {text}"
    return ArchiveUnavailable(f"{where}: {_of_connection(str(error)) or _hidden(told, access)}")


def _of_connection(text: str) -> str:
    """Why the request had no answer; "" when it had one."""
    if "redirect without LOCATION" in text:
        return "the bucket is in another region or at another endpoint"
    if "error sending request" in text or "Connect" in text:
        return f"no connection, or no answer: {_reason(text)}"
    return ""


def _reason(text: str) -> str:
    """The innermost of the reasons that reqwest nests."""
    if "TimedOut" in text or "Timeout" in text:
        return "it takes too long: is the gateway running, and its address right?"
    if "CertificateError" in text or "certificate" in text.lower() or "UnknownIssuer" in text:
        return "its certificate is not trusted here: give archive: s3: ca"
    if match := re.search(r'message: "([^"]+)"', text):
        return f"{match[1]}: is the gateway running, and its address right?"
    if "dns error" in text or "failed to lookup" in text:
        return "the endpoint's name is not known here"
    return "is the gateway running, and its address right?"


def _hidden(text: str, access: S3Access) -> str:
    """The text in one line, without secrets."""
    given = (access.secret_key, access.session_token, access.access_key)
    for secret in (*given, *map(os.environ.get, _SECRET_VARIABLES)):
        if secret:
            text = text.replace(secret, "…")
    return " ".join(text.split())[:_MAX_TEXT]
