"""softmap: Transformers that edit the attention map, behind one protocol.

``attention``  causal attention with any chain of edits, exact and linear in memory
``edits``      the edits of a published method, for ``attention``
``maps.Edit``  what an edit declares: subclass it to add your own
``variants``   the published methods, one file a paper
``nn``         layers and models (torch only); ``hf`` the transformers model class
``testing``    the suite that every variant passes, for one of your own
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmap.errors import SoftmapError
from softmap.lazy import lazily

if TYPE_CHECKING:
    from softmap.maps import Band, Edit
    from softmap.ops import attention
    from softmap.variants import edits

__version__ = "0.1.0"
__all__ = ["Band", "Edit", "SoftmapError", "attention", "edits"]

# On first use: importing torch takes a second, which `softmap --help` need not wait for.
_ROOMS = ("hf", "interop", "maps", "nn", "ops", "testing", "train", "variants")
__getattr__, __dir__ = lazily(
    __name__,
    {
        "Band": "softmap.maps",
        "Edit": "softmap.maps",
        "attention": "softmap.ops",
        "edits": "softmap.variants",
    }
    | {room: f"softmap.{room}" for room in _ROOMS},
    optional={"hf": "transformers", "interop": "transformers"},
)
