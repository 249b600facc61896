"""softmap: Transformers that edit the attention map, behind one protocol.

``attention``  causal attention with any chain of edits, exact and linear in memory
``maps.Edit``  what an edit declares: subclass it to add your own
``variants``   the published methods, one file a paper
``nn``         layers and models (torch only); ``hf`` the transformers model class
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from softmap.errors import SoftmapError

if TYPE_CHECKING:
    from softmap.maps import Band, Edit
    from softmap.ops import attention

__version__ = "0.1.0"
__all__ = ["Band", "Edit", "SoftmapError", "attention"]

# On first use: importing torch takes a second, which `softmap --help` need not wait for.
_WHERE = {"Band": "softmap.maps", "Edit": "softmap.maps", "attention": "softmap.ops"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'softmap' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
