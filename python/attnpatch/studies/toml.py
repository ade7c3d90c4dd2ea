# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""TOML in and out: texts, numbers, booleans, lists and tables."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["read_toml", "to_toml"]


def read_toml(text: str, what: str) -> dict[str, Any]:
    """Read TOML; errors name `what` it is of."""
    # Python 3.10 has none of its own: the extra `sweep` brings it.
    try:
        module = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise ImportError(
            'tomli: not installed; pip install "attnpatch[sweep]" brings it'
        ) from error
    try:
        return module.loads(text)
    except module.TOMLDecodeError as error:
        raise ValueError(f"{what}: {error}") from None


def to_toml(values: Mapping[str, Any]) -> str:
    """Write a table as TOML; None stands for what is left out."""
    return "\n".join(_table(values, ())).strip() + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...], *, listed: bool = False) -> list[str]:
    """Write a table's lines; one that is listed keeps the order of its names, all in lines."""
    lines, tables = [], []
    for name, value in values.items():
        several = isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value)
        if isinstance(value, Mapping) and len(path) < 2 and not listed:
            tables += _headed(f"[{_path(path, name)}]", value, (*path, name))
        elif several and len(path) < 1:
            for one in value:
                tables += _headed(f"[[{_path(path, name)}]]", one, (*path, name))
        elif value is not None:
            lines.append(f"{_key(name)} = {_value(value)}")
    return lines + tables


def _headed(head: str, values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    body = _table(values, path, listed=head.startswith("[["))
    # A table of tables alone needs no head of its own; one of an array has no tables.
    of_tables = body[:1] == [""]
    return body if of_tables else ["", head, *body]


def _path(path: tuple[str, ...], name: str) -> str:
    return ".".join(_key(part) for part in (*path, name))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped, and surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    return "[" + ", ".join(_value(item) for item in value) + "]"
