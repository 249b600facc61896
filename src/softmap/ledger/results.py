"""A claim's result at one scale, as a file that holds all that the ledger's page shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from softmap.claims._claim import SCALES, Claim
from softmap.claims._rules import NOT_TESTED
from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.files.sealed import read_object

FORMAT = 1

Key = tuple[str, str]  # claim, scale


class _Measure(TypedDict):
    title: str
    unit: str


class _Row(TypedDict):
    arm: str
    against: str
    expects: str
    mean: float | None
    low: float | None
    high: float | None
    runs: list[int]
    margin: float
    zero: float
    lost: str
    what: str
    verdict: str


class _Point(TypedDict):
    variant: str
    x: float
    value: float


class _Curve(TypedDict):
    x: str
    y: str
    log: bool
    points: list[_Point]


class _Part(TypedDict):
    what: str
    values: dict[str, dict[str, float]]
    rows: list[_Row]
    diverged: dict[str, int]
    curve: _Curve | None
    notes: list[str]


class _Study(TypedDict):
    kind: str
    control: str
    measure: _Measure
    parts: list[_Part]


class _Stage(TypedDict):
    base: str
    says: str
    verdict: str
    said: str
    studies: list[_Study]


class _Device(TypedDict):
    name: str


class _Result(TypedDict):
    claim: str
    scale: str
    verdict: str
    said: str
    stages: list[_Stage]
    runs: int
    seconds: float
    created: str
    command: str
    commit: str | None
    device: _Device
    softmap: str
    of: str


def file(folder: Path, claim: str, scale: str) -> Path:
    """Returns the file of a claim at a scale."""
    return folder / f"{claim}.{scale}.json"


def read(path: Path) -> dict[str, Any]:
    """Returns a result; raises ``SoftmapError`` for a damaged one, and for one of another
    format.
    """
    found = read_object(path)
    if found.get("format") != FORMAT or "claim" not in found:
        raise SoftmapError(
            f"{path}: expected a result of softmap claims, format {FORMAT}, found "
            f"{'format ' + str(found['format']) if 'format' in found else 'another file'}"
        )
    check(str(path), found, _Result)
    return found


def latest(folders: Iterable[Path]) -> dict[Key, dict[str, Any]]:
    """Returns the newest result of every claim and scale in these folders."""
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    found: dict[Key, dict[str, Any]] = {}
    for result in sorted(map(read, paths), key=lambda one: str(one["created"])):
        found[result["claim"], result["scale"]] = result
    return found


def required(folders: Sequence[Path]) -> dict[Key, dict[str, Any]]:
    """Returns the newest results; raises ``SoftmapError`` where there are none."""
    found = latest(folders)
    if not found:
        raise SoftmapError(
            f"{', '.join(map(str, folders))}: expected results of claims, found none; "
            "softmap claims run ID --scale cpu makes them"
        )
    return found


def standing(claim: Claim, found: dict[Key, dict[str, Any]]) -> dict[str, str]:
    """Returns the latest verdict at each scale; ``-`` where the claim has not been tested yet."""
    words = {}
    for scale in SCALES:
        tested = not isinstance(claim.scales.get(scale, ""), str)
        result = found.get((claim.id, scale))
        words[scale] = result["verdict"] if result else "-" if tested else NOT_TESTED
    return words
