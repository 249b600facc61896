"""Files of questions: JSON lines, each checked; an error names the first broken line's number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError, reason
from softmap.fields import check


def read(path: Path, kind: Any) -> list[dict[str, Any]]:
    """Returns the objects of a file, each as the ``TypedDict`` ``kind`` declares it; empty lines
    are skipped.

    Raises ``SoftmapError`` for the first line that is not such an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SoftmapError(f"{path}: expected JSON lines in UTF-8: {reason(error)}") from None
    found = [
        _line(f"{path} line {number}", line, kind)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    if not found:
        raise SoftmapError(f"{path}: expected JSON lines, found none")
    return found


def _line(where: str, line: str, kind: Any) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SoftmapError(f"{where}: expected JSON: {reason(error)}") from None
    check(where, value, kind)
    return value
