"""Seeds, one for each run of a variant: how lists of them are written, joined and extended."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count, islice

import yaml

from softmap.errors import SoftmapError, shown
from softmap.lab import nodes

MOST_SEEDS = 1000  #: the most seeds of a variant


def listed(node: yaml.Node, key: str) -> yaml.Node:
    """Returns the node of a list of seeds, in which a number N stands for 0 to N - 1."""
    if not isinstance(node, yaml.ScalarNode) or nodes.tag_of(node) != "int":
        return node
    number = nodes.construct(node)
    if not 1 <= number <= MOST_SEEDS:
        raise nodes.fail(
            node, f"{key}: expected a number from 1 to {MOST_SEEDS}, or a list, found {number}"
        )
    mark = node.start_mark
    items = [yaml.ScalarNode(node.tag, str(seed), mark) for seed in range(number)]
    return yaml.SequenceNode("tag:yaml.org,2002:seq", items, mark)


def check_seeds(key: str, seeds: list[int], least: int = 0) -> None:
    """Raise ``SoftmapError`` unless the seeds differ and their number is from ``least`` to the
    most.
    """
    if len(set(seeds)) < len(seeds) or not least <= len(seeds) <= MOST_SEEDS:
        raise SoftmapError(
            f"{key}: expected {least} to {MOST_SEEDS} different numbers, found {shown(seeds)}"
        )


def joined(*lists: Iterable[int]) -> list[int]:
    """Returns the seeds of all lists once, in the order in which they come."""
    return list(dict.fromkeys(seed for seeds in lists for seed in seeds))


def further(taken: Collection[int], number: int) -> list[int]:
    """Returns the ``number`` smallest seeds that are not taken."""
    return list(islice((seed for seed in count() if seed not in taken), number))
