"""The published methods: one file, one paper. A file that is here is found; there is no registry.

``load("diff+dcmha(rank=4)")`` resolves names, strings and recipe lists; ``names()`` lists all.
"""

from softmap.variants._load import Composition, find, load, names
from softmap.variants._parts import About, Builder, Parts, Place, build, variant

__all__ = [
    "About",
    "Builder",
    "Composition",
    "Parts",
    "Place",
    "build",
    "find",
    "load",
    "names",
    "variant",
]
