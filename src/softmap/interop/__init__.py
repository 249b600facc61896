"""Weights from elsewhere: the methods' authors, transformers' DiffLlama, published folders."""

from softmap.extras import need

__needs__ = need(__name__, "transformers", "safetensors", "huggingface_hub")

from softmap.interop.diffllama import from_diffllama
from softmap.interop.folder import import_folder
from softmap.interop.official import from_official

__all__ = ["from_diffllama", "from_official", "import_folder"]
