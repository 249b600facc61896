"""One interface for every tokenizer: a BPE trained here, plain bytes, or any of Hugging Face's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError, reason

PIECE = 1 << 20  # characters; the backend needs ~100 bytes of memory for each


class Tokenizer:
    """A Hugging Face tokenizer that only ever sees plain text.

    Special tokens are never added, and one that is spelled out in the text is encoded as its
    characters, so that ``decode(encode(text)) == text`` for the tokenizers made here.

    Attributes:
        hf: the ``PreTrainedTokenizerBase`` behind it.
        eod: id of the end-of-document token, which follows each document in the shards.
        vocab_size: one more than the largest id.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        self.vocab_size: int = max(hf.get_vocab().values()) + 1
        self.eod: int = _end_id(hf)
        self._backend = hf.backend_tokenizer if hf.is_fast else None
        self._bytes: dict[str, int] = {}
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = True
            if type(self._backend.decoder).__name__ == "ByteLevel":
                self._bytes = {char: byte for byte, char in enumerate(byte_chars())}

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text. Texts over 1 Mi characters are cut at line breaks
        first.
        """
        cut = [list(_pieces(text)) for text in texts]
        ids = iter(self._encode([piece for pieces in cut for piece in pieces]))
        return [[id_ for _ in pieces for id_ in next(ids)] for pieces in cut]

    def _encode(self, pieces: list[str]) -> list[list[int]]:
        if self._backend is not None:
            encodings = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        return [self.hf.encode(p, add_special_tokens=False, verbose=False) for p in pieces]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids; the end-of-document token is left out by default."""
        ids = [int(id_) for id_ in ids]
        return self.hf.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    def token_str(self, id_: int) -> str:
        """Returns one token in readable form, ``<0xE2><0x80>`` where it is part of a character.

        Raises:
            SoftmapError: there is no such id.
        """
        token = self.hf.convert_ids_to_tokens(int(id_)) if 0 <= id_ < self.vocab_size else None
        if token is None:
            raise SoftmapError(f"token id must be in 0..{self.vocab_size - 1}, found {id_}")
        if not all(char in self._bytes for char in token) or id_ in self.hf.all_special_ids:
            return token.replace("▁", " ")
        data = bytes(self._bytes[char] for char in token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    def save(self, folder: str | Path) -> None:
        """Write the files that ``AutoTokenizer.from_pretrained(folder)`` reads, each atomically.

        Raises:
            SoftmapError: the folder cannot be written; its earlier contents are still intact.
        """
        target, temporary = Path(folder), None
        try:
            target.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".tokenizer-", dir=target))
            self.hf.save_pretrained(temporary)
            for path in temporary.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(path, target / path.name)
        except Exception as error:  # tokenizers reports a full disk as a bare Exception
            raise SoftmapError(f"tokenizer: cannot write {target} ({reason(error)})") from None
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    @property
    def digest(self) -> str:
        """A hash of what the tokenizer does, equal for equal files in whatever folder."""
        if self._backend is not None:
            content = self._backend.to_str()
        else:
            content = json.dumps([type(self.hf).__name__, sorted(self.hf.get_vocab().items())])
        return blake2b(content.encode(), digest_size=16).hexdigest()


def byte_chars() -> list[str]:
    """Returns the printable character that byte-level BPE (GPT-2) writes for each of the 256
    bytes.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE:
        end = text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _end_id(hf: Any) -> int:
    for id_ in (hf.eos_token_id, hf.sep_token_id, hf.bos_token_id):
        if id_ is not None:
            return id_
    raise SoftmapError(f"tokenizer {hf.name_or_path!r} has no eos, sep or bos token")
