"""The published methods, one file per paper. Every file in this folder is found; there is no
registry.

``load("diff+dcmha(rank=4)")`` resolves names, strings and recipe lists; ``names()`` lists all.
``edits("diff", heads=8, head_dim=64)`` builds the edits of one layer, for ``softmap.attention``.
"""

from softmap.variants._edits import Edits, Shapes, edits, sized
from softmap.variants._find import code_of, find, names
from softmap.variants._load import Composition, graft_form, load, outside, renamed
from softmap.variants._parts import About, Builder, Parts, Place, build, variant
from softmap.variants._tokens import by_token, check_tokens
from softmap.variants._trust import Loaded

__all__ = [
    "About",
    "Builder",
    "Composition",
    "Edits",
    "Loaded",
    "Parts",
    "Place",
    "Shapes",
    "build",
    "by_token",
    "check_tokens",
    "code_of",
    "edits",
    "find",
    "graft_form",
    "load",
    "names",
    "outside",
    "renamed",
    "sized",
    "variant",
]
