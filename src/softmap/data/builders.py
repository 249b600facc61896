"""Tokenizers from a specification: trained here, plain bytes, or loaded from a folder or the
Hub.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmap.data.tokenizer import Tokenizer, byte_chars
from softmap.errors import SoftmapError, reason
from softmap.extras import need

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

END = "<|endoftext|>"


def _wrap(backend: Backend) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **names
    )
    return Tokenizer(hf)


def _byte_level(model: Any) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, pre_tokenizers

    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return backend


def bytes_tokenizer() -> Tokenizer:
    """Returns the tokenizer whose ids 0..255 are the bytes of utf-8, and 256 ends a document."""
    from tokenizers import AddedToken, models

    vocab = {char: byte for byte, char in enumerate(byte_chars())}
    backend = _byte_level(models.BPE(vocab=vocab, merges=[]))
    backend.add_special_tokens([AddedToken(END, special=True)])
    return _wrap(backend)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Returns a byte-level BPE over GPT-2's pre-tokenizer; it encodes and decodes every text
    exactly.

    ``vocab_size`` counts the 256 bytes and the end-of-document token (id 0). The vocabulary is
    smaller where a short text has fewer pairs that occur twice.
    Source: Sennrich et al. 2016 (arXiv 1508.07909); Radford et al. 2019 for the bytes.
    """
    from tokenizers import models, pre_tokenizers, trainers

    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _wrap(backend)


def load_tokenizer(name: str) -> Tokenizer:
    """Returns a tokenizer by Hub name or local folder; no remote code is ever run.

    Raises:
        SoftmapError: it cannot be found, reached or read, in one line.
    """
    need("a tokenizer", "transformers", extra="lab")
    from transformers import AutoTokenizer

    try:
        return Tokenizer(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
    except SoftmapError:
        raise
    except Exception as error:  # the Hub's, the network's, JSON's and tokenizers' own
        raise SoftmapError(f"tokenizer {name!r} cannot be loaded ({reason(error)})") from None


def load_tokenizer_dir(folder: str | Path) -> Tokenizer:
    """Returns the tokenizer that ``save`` wrote; never looks at the Hub.

    Raises:
        SoftmapError: the folder is missing, or holds no tokenizer that loads.
    """
    if not Path(folder).is_dir():
        raise SoftmapError(f"tokenizer folder {str(folder)!r} does not exist")
    return load_tokenizer(str(Path(folder).resolve()))
