"""The settings in force: one frozen value, and the only reader of the environment.

Flags win over `MONOLITE_*` variables, those over `MONOLITE_*_FILE` (a file whose content is the
value, for secrets), those over the TOML file in the data directory, those over the defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from monolite.replication.settings import ReplicaSettings

REDACTED = "(set, redacted)"


class BadSetting(Exception):
    """A setting that can't be read; the message names it, its source and what it takes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of Settings is found. `read` turns its text into the value."""

    env: str
    read: Callable[[str], Any]
    doc: str
    secret: bool = False


def _text(value: str) -> str:
    return value


def _listen(value: str) -> tuple[str, int]:
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ValueError("takes HOST:PORT, for example 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  # the user left the host out


def _synchronous(value: str) -> str:
    if value not in ("normal", "full"):
        raise ValueError("takes normal or full")
    return value


def _quota(value: str) -> int | None:
    if value == "off":
        return None
    if not value.isdigit() or int(value) < 1:
        raise ValueError("takes off, or requests per minute per key")
    return int(value)


def _positive(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise ValueError("takes a whole number from 1")
    return int(value)


def _count(value: str) -> int:
    if not value.isdigit():
        raise ValueError("takes a whole number from 0")
    return int(value)


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not number > 0:
        raise ValueError("takes a number above 0")
    return number


def _switch(value: str) -> bool:
    if value.lower() in ("1", "true", "on", "yes"):
        return True
    if value.lower() in ("0", "false", "off", "no", ""):
        return False
    raise ValueError("takes on or off")


def _kernels(value: str) -> str:
    from monolite.kernels import CHOICES

    if value not in CHOICES:
        raise ValueError(f"takes one of {', '.join(CHOICES)}")
    return value


def _kv_cache(value: str) -> str:
    if value not in ("f32", "int8", "int4"):
        raise ValueError("takes f32, int8 or int4")
    return value


def _provider(value: str) -> str:
    if value not in ("anthropic", "openai"):
        raise ValueError("takes anthropic or openai")
    return value


def _tier(value: str) -> str:
    if value not in ("basic", "standard", "advanced"):
        raise ValueError("takes basic, standard or advanced")
    return value


def _https(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s?#]+", value):
        raise ValueError("takes https://host/path, without a query")
    return value.rstrip("/")


def _amount(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise ValueError("takes a number from 0")
    return number


def _replica(value: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._/-]*)?", value):
        raise ValueError("takes s3://bucket/prefix")
    return value.rstrip("/")


def _database(value: str) -> str:
    if not re.match(r"postgres(ql)?://[^\s]+\Z", value):
        raise ValueError("takes postgresql://user:password@host:5432/database")
    return value


def _streams(value: str) -> str:
    if not re.match(r"(rediss?|unix)://[^\s]+\Z", value):
        raise ValueError("takes redis://user:password@host:6379/0, rediss:// or unix://")
    return value


def _of(
    env: str, read: Callable[[str], Any], doc: str, default: Any, *, secret: bool = False
) -> Any:
    return field(
        default=default,
        repr=not secret,
        metadata={"setting": Setting(env, read, doc, secret)},
    )


# ruff: noqa: RUF009  # `_of` makes dataclass fields, which the rule can't see


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, typed. Times carry their unit in their name."""

    data: Path = _of("MONOLITE_DATA", Path, "the data directory", Path("data"))
    listen: tuple[str, int] = _of(
        "MONOLITE_LISTEN", _listen, "the address to serve on", ("127.0.0.1", 8080)
    )
    synchronous: Literal["normal", "full"] = _of(
        "MONOLITE_SYNCHRONOUS",
        _synchronous,
        "normal: a killed process loses nothing, a power cut may lose what was not yet synced; "
        "full: loses nothing",
        "normal",
    )
    rate_limit: int | None = _of(
        "MONOLITE_RATE_LIMIT",
        _quota,
        "requests per minute per key, or off",
        6_000_000,
    )
    models: Path | None = _of(
        "MONOLITE_MODELS", Path, "the directory of added models; else DATA/models", None
    )
    context_tokens: int = _of(
        "MONOLITE_CONTEXT_TOKENS",
        _positive,
        "the longest conversation with the language model, in tokens",
        4096,
    )
    kv_bytes_max: int = _of(
        "MONOLITE_KV_BYTES_MAX",
        _positive,
        "keys and values of all conversations with one open model",
        256 << 20,
    )
    kv_spill_bytes_max: int = _of(
        "MONOLITE_KV_SPILL_BYTES_MAX",
        _count,
        "keys and values of idle conversations on disk, a model; 0 for none",
        512 << 20,
    )
    kv_cache: str = _of(
        "MONOLITE_KV_CACHE", _kv_cache, "how keys are kept: f32, int8, int4", "int8"
    )
    kernels: str = _of(
        "MONOLITE_KERNELS",
        _kernels,
        "which kernels compute: auto, avx512, avx512vnni, avxvnni, avx2, neon, portable, numpy",
        "auto",
    )
    root_secret: str | None = _of(
        "MONOLITE_ROOT_SECRET",
        _text,
        "the root secret, for a machine that was restored; else DATA/root.secret",
        None,
        secret=True,
    )
    database_url: str | None = _of(
        "MONOLITE_DATABASE_URL",
        _database,
        "PostgreSQL 16 or later in place of the embedded database: postgresql://...",
        None,
        secret=True,
    )
    database_connection_count_max: int = _of(
        "MONOLITE_DATABASE_CONNECTIONS",
        _positive,
        "connections to PostgreSQL that this server opens at most",
        16,
    )
    database_worker_connection_count_max: int = _of(
        "MONOLITE_DATABASE_WORKER_CONNECTIONS",
        _positive,
        "more of them, for what workers claim and report alone",
        4,
    )
    streams_url: str | None = _of(
        "MONOLITE_STREAMS_URL",
        _streams,
        "Redis 7 or Valkey for event streams, in place of the embedded database: redis://...",
        None,
        secret=True,
    )
    replica_url: str | None = _of(
        "MONOLITE_REPLICA_URL", _replica, "where Litestream replicates to: s3://bucket/prefix", None
    )
    s3_endpoint: str | None = _of(
        "MONOLITE_S3_ENDPOINT", _text, "the S3 server, where it is not AWS", None
    )
    s3_region: str = _of("AWS_REGION", _text, "the bucket's region", "us-east-1")
    s3_access_key_id: str | None = _of("AWS_ACCESS_KEY_ID", _text, "the replica's access key", None)
    s3_secret_access_key: str | None = _of(
        "AWS_SECRET_ACCESS_KEY", _text, "the replica's secret key", None, secret=True
    )
    replica_sync_ms: int = _of(
        "MONOLITE_REPLICA_SYNC_MS",
        _positive,
        "how often Litestream looks for commits and sends them",
        50,
    )
    drill_interval_s: int = _of(
        "MONOLITE_DRILL_INTERVAL_S", _positive, "how often a restore is drilled", 86_400
    )
    trigger_writes_per_second: float | None = _of(
        "MONOLITE_TRIGGER_WRITES_PER_SECOND",
        _number,
        "sustained writes per second that advise to move; else 60 % of what doctor measured",
        None,
    )
    write_queue_count_max: int = _of(
        "MONOLITE_WRITE_QUEUE", _positive, "writes that may wait before 503", 4096
    )
    document_bytes_max: int = _of(
        "MONOLITE_DOCUMENT_BYTES_MAX", _positive, "the largest document", 1 << 20
    )
    import_bytes_max: int = _of(
        "MONOLITE_IMPORT_BYTES_MAX", _positive, "the largest NDJSON import, in bytes", 16 << 30
    )
    query_deadline_s: float = _of(
        "MONOLITE_QUERY_DEADLINE_S", _number, "how long a query on documents may read", 5.0
    )
    changes_retention_s: float = _of(
        "MONOLITE_CHANGES_RETENTION_S",
        _number,
        "how long replaced versions stay in feeds",
        604_800.0,
    )
    sync_blob_bytes_max: int = _of(
        "MONOLITE_SYNC_BLOB_BYTES_MAX",
        _positive,
        "the largest state, update or snapshot of the relay",
        8 << 20,
    )
    sync_entry_count_max: int = _of(
        "MONOLITE_SYNC_ENTRIES_MAX",
        _positive,
        "live entries of one relay document; compaction is advised from half of it",
        10_000,
    )
    sync_document_count_max: int = _of(
        "MONOLITE_SYNC_DOCUMENTS_MAX",
        _positive,
        "relay documents of one tenant",
        1_000_000,
    )
    sync_listener_count_max: int = _of(
        "MONOLITE_SYNC_LISTENERS_MAX",
        _positive,
        "open relay streams, sockets and long polls of one tenant on this server",
        5000,
    )
    sync_ephemeral_bytes_max: int = _of(
        "MONOLITE_SYNC_EPHEMERAL_BYTES_MAX",
        _positive,
        "the largest presence message",
        16_384,
    )
    sync_grace_s: float = _of(
        "MONOLITE_SYNC_GRACE_S",
        _number,
        "how long superseded relay entries can be restored",
        604_800.0,
    )
    adapter_bytes_max: int = _of(
        "MONOLITE_ADAPTER_BYTES_MAX", _positive, "the largest LoRA adapter", 64 << 20
    )
    event_bytes_max: int = _of(
        "MONOLITE_EVENT_BYTES_MAX", _positive, "the largest event's data", 1 << 20
    )
    append_bytes_max: int = _of(
        "MONOLITE_APPEND_BYTES_MAX", _positive, "the largest append, of many events", 8 << 20
    )
    allow_private_webhooks: str = _of(
        "MONOLITE_ALLOW_PRIVATE_WEBHOOKS",
        _text,
        "hosts and networks that webhooks may call though they are private: localhost,10.0.0.0/8",
        "",
    )
    cloud_provider: str | None = _of(
        "MONOLITE_CLOUD_PROVIDER",
        _provider,
        "whose model a public request may go to: anthropic, or openai and what is compatible",
        None,
    )
    cloud_url: str | None = _of(
        "MONOLITE_CLOUD_URL", _https, "the provider's address; else its public one", None
    )
    cloud_model: str | None = _of(
        "MONOLITE_CLOUD_MODEL", _text, "the provider's model, by its name there", None
    )
    cloud_key: str | None = _of(
        "MONOLITE_CLOUD_KEY", _text, "the provider's API key", None, secret=True
    )
    allow_private_cloud: str = _of(
        "MONOLITE_ALLOW_PRIVATE_CLOUD",
        _text,
        "hosts and networks that may be a provider though they are private or without TLS",
        "",
    )
    cloud_tier: str = _of(
        "MONOLITE_CLOUD_TIER", _tier, "what the cloud's model is good for", "advanced"
    )
    cloud_context_tokens: int = _of(
        "MONOLITE_CLOUD_CONTEXT_TOKENS", _positive, "the cloud's longest request", 200_000
    )
    cloud_price_input: float = _of(
        "MONOLITE_CLOUD_PRICE_INPUT",
        _amount,
        "US dollars for a million tokens of prompts",
        0.0,
    )
    cloud_price_output: float = _of(
        "MONOLITE_CLOUD_PRICE_OUTPUT",
        _amount,
        "US dollars for a million tokens of answers",
        0.0,
    )
    cloud_tenant_daily_tokens: int = _of(
        "MONOLITE_CLOUD_TENANT_DAILY_TOKENS",
        _positive,
        "cloud tokens of one tenant in a day",
        100_000,
    )
    cloud_daily_tokens: int = _of(
        "MONOLITE_CLOUD_DAILY_TOKENS",
        _positive,
        "cloud tokens of all tenants in a day, which is UTC's",
        1_000_000,
    )
    cloud_tenant_daily_usd: float | None = _of(
        "MONOLITE_CLOUD_TENANT_DAILY_USD",
        _number,
        "US dollars of one tenant in a day, where the prices are set",
        None,
    )
    cloud_daily_usd: float | None = _of(
        "MONOLITE_CLOUD_DAILY_USD",
        _number,
        "US dollars of all tenants in a day, where the prices are set",
        None,
    )
    cloud_first_token_s: float = _of(
        "MONOLITE_CLOUD_FIRST_TOKEN_S",
        _number,
        "how long the provider's first token is waited for",
        15.0,
    )
    cloud_between_tokens_s: float = _of(
        "MONOLITE_CLOUD_BETWEEN_TOKENS_S",
        _number,
        "how long each one after it is waited for",
        15.0,
    )
    cloud_audit_retention_s: float = _of(
        "MONOLITE_CLOUD_AUDIT_RETENTION_S",
        _number,
        "how long the record of a call to the provider is kept",
        7_776_000.0,
    )
    job_bytes_max: int = _of(
        "MONOLITE_JOB_BYTES_MAX", _positive, "the largest payload or result of a job", 1 << 20
    )
    job_retention_s: int = _of(
        "MONOLITE_JOB_RETENTION_S",
        _positive,
        "how long finished jobs are kept, where their queue says nothing",
        86_400,
    )
    lock_wait_alert_s: float = _of(
        "MONOLITE_LOCK_WAIT_ALERT_S",
        _number,
        "how long a lock may be waited for before that is logged and counted",
        5.0,
    )
    disk_bytes_min: int = _of(
        "MONOLITE_DISK_BYTES_MIN", _positive, "free bytes under which /readyz is 503", 64 << 20
    )
    drain_s: float = _of(
        "MONOLITE_DRAIN_S", _number, "how long a stop waits for requests in flight", 20.0
    )
    log_requests: bool = _of(
        "MONOLITE_LOG_REQUESTS", _switch, "log every request, not only slow and failed ones", False
    )

    def replica(self) -> ReplicaSettings:
        """What replication needs of these; only where `replica_url` is set.

        Raises:
            BadSetting: the credentials are missing, or a value can't be used.
        """
        from monolite.replication.settings import ReplicaSettings

        assert self.replica_url is not None  # callers look first
        try:
            return ReplicaSettings(
                url=self.replica_url,
                endpoint=self.s3_endpoint,
                access_key_id=self.s3_access_key_id or "",
                secret_access_key=self.s3_secret_access_key or "",
                region=self.s3_region,
                sync_interval_ms=self.replica_sync_ms,
                monitor_interval_ms=self.replica_sync_ms,
                drill_interval_s=float(self.drill_interval_s),
            )
        except ValueError as error:
            raise BadSetting(str(error)) from None

    def described(self) -> list[tuple[str, str, str]]:
        """(variable, value in force, meaning) of each; secrets redacted."""
        rows = []
        for one in fields(self):
            setting: Setting = one.metadata["setting"]
            value = getattr(self, one.name)
            if value is not None and setting.secret:
                shown = REDACTED
            elif one.name == "listen":
                shown = f"{value[0]}:{value[1]}"
            elif one.name == "rate_limit" and value is None:
                shown = "off"
            else:
                shown = "(not set)" if value is None else str(value)
            rows.append((setting.env, shown, setting.doc))
        return rows


def load(flags: Mapping[str, str | None], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from `flags` (by field name), the environment, and DATA/monolite.toml.

    Raises:
        BadSetting: one of them can't be read.
    """
    found: dict[str, Any] = {}
    data = _find("data", flags, environment, {})
    found["data"] = data if data is not _UNSET else Path("data")
    config = found["data"] / "monolite.toml"
    table = _toml(config)
    known = {one.name for one in fields(Settings)}
    for name in table:
        if name not in known or name == "data":
            raise BadSetting(f"{config}: no setting named {name!r}; `config check` lists them all")
    for one in fields(Settings):
        if one.name == "data":
            continue
        value = _find(one.name, flags, environment, table)
        if value is not _UNSET:
            found[one.name] = value
    settings = Settings(**found)
    if settings.database_url is not None and settings.replica_url is not None:
        raise BadSetting(
            "MONOLITE_DATABASE_URL and MONOLITE_REPLICA_URL are both set. Litestream replicates "
            "the SQLite file alone, and PostgreSQL has its own backups: unset one of the two"
        )
    if settings.cloud_provider is not None:
        _require_cloud(settings)
    return settings


def _require_cloud(settings: Settings) -> None:
    missing = [
        variable
        for variable, value in (
            ("MONOLITE_CLOUD_MODEL", settings.cloud_model),
            ("MONOLITE_CLOUD_KEY (or MONOLITE_CLOUD_KEY_FILE)", settings.cloud_key),
        )
        if not value
    ]
    if missing:
        raise BadSetting(
            f"MONOLITE_CLOUD_PROVIDER is set, and {' and '.join(missing)} is not: set it, or unset"
            " the provider"
        )


_UNSET: Any = object()


def _find(
    name: str,
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    table: Mapping[str, Any],
) -> Any:
    setting: Setting = next(f for f in fields(Settings) if f.name == name).metadata["setting"]
    text, source = _source(name, setting, flags, environment, table)
    if text is None:
        return _UNSET
    try:
        return setting.read(text)
    except ValueError as error:
        shown = "" if setting.secret else f" {text!r}"
        raise BadSetting(f"{source}{shown}: {error}") from None


def _source(
    name: str,
    setting: Setting,
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    table: Mapping[str, Any],
) -> tuple[str | None, str]:
    given = flags.get(name)
    if given is not None:
        return given, f"--{name.replace('_', '-')}"
    if environment.get(setting.env):
        return environment[setting.env], setting.env
    file_variable = f"{setting.env}_FILE"
    if environment.get(file_variable):
        path = Path(environment[file_variable])
        try:
            return path.read_text().strip(), file_variable
        except OSError as error:
            raise BadSetting(f"{file_variable}: can't read {path}: {error.strerror}") from None
    if name in table:
        value = table[name]
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        return text, f"monolite.toml: {name}"
    return None, ""


def _toml(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path}: {error}") from None
