"""softmap: Transformers that edit the attention map, behind one protocol.

``attention``  causal attention with any chain of edits, exact and linear in memory
``maps.Edit``  what an edit declares: subclass it to add your own
``variants``   the published methods, one file a paper
``nn``         layers and models (torch only); ``hf`` the transformers model class
"""

from softmap.errors import SoftmapError
from softmap.maps import Band, Edit
from softmap.ops import attention

__version__ = "0.1.0"
__all__ = ["Band", "Edit", "SoftmapError", "attention"]
