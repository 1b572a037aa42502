"""Where the replica lies, how fast it follows, and when the watch steps in."""

from __future__ import annotations

from dataclasses import dataclass, field

# Litestream fills its configuration by text substitution before it parses the YAML.
UNQUOTABLE = ('"', "\\", "\n", "\r", "$")


@dataclass(frozen=True)
class ReplicaSettings:
    """One replica in S3. Raises ValueError at once for what could only fail later."""

    url: str
    endpoint: str | None
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    sync_interval_ms: int = 50
    monitor_interval_ms: int = 50
    drill_interval_s: float = 86_400.0
    # A healthy shadow directory holds minutes of changes; more means that uploads or retention
    # stand still (litestream#784, #927, #994).
    shadow_bytes_max: int = 2 * 1024**3
    # Idle, Litestream uses about 0.01 of a core; a whole core for minutes is litestream#955.
    cpu_fraction_max: float = 0.9
    cpu_window_s: float = 300.0
    # Commits that stay out of S3 this long while Litestream reports success (litestream#1083).
    silent_after_s: float = 60.0
    watch_interval_s: float = 5.0
    stop_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.url.startswith("s3://") or not self.bucket:
            raise ValueError(f"the replica's URL is {self.url!r}; write it as s3://bucket/prefix")
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"the S3 endpoint is {self.endpoint!r}; write it with http:// or https://"
            )
        if not self.access_key_id or not self.secret_access_key:
            raise ValueError(
                "a replica is configured without credentials; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        texts = {
            "URL": self.url,
            "endpoint": self.endpoint or "",
            "region": self.region,
            "access key id": self.access_key_id,
            "secret access key": self.secret_access_key,
        }
        for name, value in texts.items():
            if any(bad in value for bad in UNQUOTABLE):
                raise ValueError(f"the replica's {name} holds a quote, backslash, $ or line break")
        if min(self.sync_interval_ms, self.monitor_interval_ms) < 10:
            raise ValueError(
                "the replica's intervals are under 10 ms; S3 can't be asked that often"
            )

    @property
    def bucket(self) -> str:
        return self.url.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """The key prefix inside the bucket, with no slash at either end; may be empty."""
        return self.url.removeprefix("s3://").partition("/")[2].strip("/")

    def generation_url(self, generation: str) -> str:
        """Where one generation's files lie."""
        return "/".join(part for part in (f"s3://{self.bucket}", self.prefix, generation) if part)

    def redact(self, text: str) -> str:
        """The text without this replica's credentials."""
        return text.replace(self.secret_access_key, "[redacted]").replace(
            self.access_key_id, "[key id]"
        )
