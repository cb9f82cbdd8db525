"""Time as manifests keep it."""

from datetime import UTC, datetime


def utc_now() -> str:
    """ISO 8601 in UTC, with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
