"""YAML files that a person writes for an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from softprompt.errors import ConfigError


class Readable(Protocol):
    """A file, or a resource inside the package."""

    def read_text(self, encoding: str | None = None) -> str:
        """Return what it holds."""
        ...


def read_mapping(file: Readable, kind: str) -> Mapping[str, Any]:
    """Return what a YAML file maps names to.

    Args:
        file: what to read.
        kind: what it is, for the message: `search space`.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the {kind} in `{file}`: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ConfigError(f"`{file}` holds no {kind}; write `name: value`, one a line")
    return data
