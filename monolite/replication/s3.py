"""The four S3 calls that generations need, signed with Signature Version 4.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
Litestream moves the data; this client lists, and reads and writes objects of a few hundred bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from monolite.replication.errors import ReplicaUnreachable
from monolite.replication.settings import ReplicaSettings

TIMEOUT_S = 15.0
ATTEMPTS = 3
ANSWER_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True)
class Listing:
    """One level of keys under a prefix: objects as (key, size in bytes), and folder prefixes."""

    objects: tuple[tuple[str, int], ...]
    folders: tuple[str, ...]


class S3Error(ReplicaUnreachable):
    """S3 answered with a refusal; `code` is its own word for it."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class S3Client:
    """Signed requests to one bucket. Every method raises ReplicaUnreachable."""

    def __init__(
        self, settings: ReplicaSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings
        self._now = now
        if settings.endpoint:
            base = settings.endpoint.rstrip("/")
            self._root = f"/{settings.bucket}"
        else:
            base = f"https://{settings.bucket}.s3.{settings.region}.amazonaws.com"
            self._root = ""
        self._base = base
        self._host = urllib.parse.urlsplit(base).netloc

    def list(self, prefix: str, *, delimiter: str = "/", keys_max: int | None = None) -> Listing:
        """Keys that begin with `prefix`; all pages, or the first `keys_max` keys."""
        objects: list[tuple[str, int]] = []
        folders: list[str] = []
        query = {"list-type": "2", "prefix": prefix, "delimiter": delimiter}
        if keys_max is not None:
            query["max-keys"] = str(keys_max)
        while True:
            page = _tree(self._call("GET", "/", query))
            for entry in page.findall("Contents"):
                key = entry.findtext("Key") or ""
                objects.append((key, int(entry.findtext("Size") or 0)))
            folders += [p.text or "" for p in page.findall("CommonPrefixes/Prefix")]
            token = page.findtext("NextContinuationToken")
            if page.findtext("IsTruncated") != "true" or keys_max is not None or not token:
                return Listing(tuple(objects), tuple(folders))
            query["continuation-token"] = token

    def get(self, key: str) -> bytes | None:
        """An object's bytes; None when there is no such object."""
        try:
            return self._call("GET", f"/{key}", {})
        except S3Error as error:
            if error.code == "NoSuchKey" or (error.status == 404 and not error.code):
                return None
            raise

    def put(self, key: str, body: bytes) -> None:
        self._call("PUT", f"/{key}", {}, body)

    def delete(self, key: str) -> None:
        self._call("DELETE", f"/{key}", {})

    def make_bucket(self) -> None:
        """Makes the bucket; it may be there already."""
        try:
            self._call("PUT", "/", {})
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _call(self, method: str, path: str, query: dict[str, str], body: bytes = b"") -> bytes:
        for attempt in range(ATTEMPTS):
            try:
                return self._once(method, path, query, body)
            except S3Error as error:
                if error.status < 500 or attempt == ATTEMPTS - 1:
                    raise
            except ReplicaUnreachable:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        target = urllib.parse.quote(f"{self._root}{path}" if path != "/" else f"{self._root}/")
        encoded = urllib.parse.urlencode(
            sorted(query.items()), quote_via=urllib.parse.quote, safe=""
        )
        request = urllib.request.Request(  # noqa: S310  # settings allow http and https alone
            f"{self._base}{target}" + (f"?{encoded}" if encoded else ""),
            data=body if method == "PUT" else None,
            method=method,
            headers=self._signed(method, target, encoded, body),
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                content: bytes = answer.read(ANSWER_BYTES_MAX)
                return content
        except urllib.error.HTTPError as error:
            with error:
                code, text = _refusal(error.read(ANSWER_BYTES_MAX))
            raise S3Error(
                f"{self._host} refused {method} {target}: {error.code} {code} {text}".strip()
                + _advice(code, self._settings.bucket),
                error.code,
                code,
            ) from None
        except OSError as error:
            raise ReplicaUnreachable(
                f"can't reach S3 at {self._host}: {getattr(error, 'reason', error)}. "
                "Check the endpoint, the network and the host's clock"
            ) from error

    def _signed(self, method: str, target: str, query: str, body: bytes) -> dict[str, str]:
        stamp = self._now().strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = f"{method}\n{target}\n{query}\n{lines}\n{names}\n{digest}"
        steps = (stamp[:8], self._settings.region, "s3", "aws4_request")
        scope = "/".join(steps)
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + self._settings.secret_access_key.encode()
        for step in steps:
            key = hmac.digest(key, step.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._settings.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers


def _tree(body: bytes) -> ET.Element:
    try:
        root = ET.fromstring(body)  # noqa: S314  # the operator's own endpoint, bounded in size
    except ET.ParseError as error:
        raise ReplicaUnreachable(
            "the endpoint answered with something that is not S3's XML; check its address"
        ) from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ListBucketResult":
        raise ReplicaUnreachable(
            f"the endpoint answered a listing with <{root.tag}>; check its address"
        )
    return root


def _refusal(body: bytes) -> tuple[str, str]:
    try:
        root = ET.fromstring(body)  # noqa: S314  # the operator's own endpoint, bounded in size
    except ET.ParseError:
        return "", ""
    found = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
    return found.get("Code", ""), found.get("Message", "")


def _advice(code: str, bucket: str) -> str:
    advice = {
        "NoSuchBucket": f". Make the bucket {bucket}, or mend MONOLITE_REPLICA_URL",
        "AccessDenied": ". The key needs s3:ListBucket, GetObject, PutObject and DeleteObject",
        "InvalidAccessKeyId": ". Check AWS_ACCESS_KEY_ID",
        "SignatureDoesNotMatch": ". Check AWS_SECRET_ACCESS_KEY",
        "RequestTimeTooSkewed": ". Set this machine's clock",
    }
    return advice.get(code, "")
