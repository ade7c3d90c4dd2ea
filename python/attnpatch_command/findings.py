# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds: one fact each, in sections."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "problem"]

_MARKS: dict[State, str] = {"ok": " ", "note": "-", "problem": "!"}
_WIDTH = 24


@dataclass(frozen=True)
class Finding:
    """One fact."""

    section: str
    name: str
    value: str
    state: State = "ok"
    """Of a note something optional is missing or worth knowing; of a problem what was asked for
    cannot work."""
    remedy: str = ""
    """What mends it: a command, or a sentence."""


def as_text(findings: list[Finding]) -> str:
    """Return a page for people."""
    lines: list[str] = []
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines += ["", section] if lines else [section]
        first, *more = finding.value.splitlines() or [""]
        lines.append(f"{_MARKS[finding.state]} {finding.name:<{_WIDTH}} {first}".rstrip())
        lines += [f"  {'':<{_WIDTH}} {line}" for line in more]
        if finding.remedy:
            lines.append(f"  {'':<{_WIDTH}} → {finding.remedy}")
    problems = [finding.name for finding in findings if finding.state == "problem"]
    lines += ["", f"Cannot work: {', '.join(problems)}" if problems else "No problem found."]
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "ok": all(finding.state != "problem" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
