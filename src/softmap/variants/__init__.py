"""The published methods: one file, one paper. A file that is here is found; there is no registry.

``load("diff+dcmha(rank=4)")`` resolves names, strings and recipe lists; ``names()`` lists all.
``softmap.nn.own`` uses ``Loaded``, ``outside``, ``renamed`` and ``code_of`` for models that carry a
file of the user's own.
"""

from softmap.variants._load import Composition, code_of, find, load, names, outside, renamed
from softmap.variants._parts import About, Builder, Parts, Place, build, variant
from softmap.variants._trust import Loaded

__all__ = [
    "About",
    "Builder",
    "Composition",
    "Loaded",
    "Parts",
    "Place",
    "build",
    "code_of",
    "find",
    "load",
    "names",
    "outside",
    "renamed",
    "variant",
]
