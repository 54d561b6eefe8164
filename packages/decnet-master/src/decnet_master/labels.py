"""Labels: what an operator says of a worker, `key=value`, so that a command can mean all workers with some of them.

They mean nothing to DECNET itself. A key and a value are words of letters, digits, dots, hyphens and underscores, so
that neither needs quoting in a shell, in TOML or in a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from decnet_core.errors import ConfigError, Conflict

MAX_LABELS = 16
"""Of one worker."""

LabelKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,31}$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)]

_LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(Labels)


def parse_labels(words: Iterable[str]) -> dict[str, str]:
    """Read `key=value` words.

    Raises:
        ConfigError: one is none, a key occurs twice, or there are too many.
    """
    labels: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in labels:
            what = "is no key=value" if not equals else "says the same key again"
            raise ConfigError(f"{word[:100]!r} {what}", "Write for example site=hq.")
        labels[key] = value
    try:
        return _LABELS.validate_python(labels)
    except ValidationError:
        raise ConfigError(
            f"{label_words(labels)[:200]!r} cannot be labels",
            f"At most {MAX_LABELS}; a key begins with a lower-case letter, a value with a letter or digit; letters, "
            "digits, dots, hyphens and underscores follow.",
        ) from None


def changed(name: str, labels: Mapping[str, str], given: Mapping[str, str], without: Collection[str]) -> dict[str, str]:
    """Give a worker labels and take others away; those not named stay as they are.

    Raises:
        Conflict: it would have too many.
    """
    now = {key: value for key, value in {**labels, **given}.items() if key not in without}
    if len(now) > MAX_LABELS:
        raise Conflict(f"{name} would have {len(now)} labels", f"Keep {MAX_LABELS} at most.")
    return now


def label_words(labels: Mapping[str, str]) -> str:
    """Write labels as an operator does."""
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
