"""The byte-level BPE tokenizers of captions, to padded id rows: CLIP's and DALL-E's common one, and BART's.

Source: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (2016), on bytes.
The file is the `tokenizers` library's `tokenizer.json`; it lower-cases, so its users need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from worker.models.errors import ConfigError, RangeError

PAD, START, END = "<pad>", "<start>", "<end>"
BART_START, BART_END = "<s>", "</s>"


class TokenRows(NamedTuple):
    """Captions as ids."""

    ids: Tensor
    """(B, length) int64, padded with the tokenizer's padding: 0, but 1 of BART's."""
    truncated: list[bool]
    """True where a caption did not fit and was cut."""


class CaptionTokenizer:
    """Reads one `tokenizer.json`; stateless after that, so threads may share it.

    One with BART's names for start and end frames every caption, asked to or not: its models know no other.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = {name: tokenizer.token_to_id(name) for name in (PAD, START, END, BART_START, BART_END)}
        self.is_bart = ids[START] is None and ids[BART_START] is not None
        names = (PAD, BART_START, BART_END) if self.is_bart else (PAD, START, END)
        pad, start, end = (ids[name] for name in names)
        if pad is None or start is None or end is None or (pad != 0 and not self.is_bart):
            raise ConfigError(f"the tokenizer lacks one of {names}, or its {PAD} is not 0: {ids}")
        self.pad, self.start, self.end = pad, start, end
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path) -> CaptionTokenizer:
        """Read the file; a missing or broken one is an OSError or ConfigError."""
        text = path.read_text(encoding="utf-8")
        try:
            return cls(Tokenizer.from_str(text))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path} is no tokenizer: {error}") from error

    @property
    def size(self) -> int:
        """Entries, special ones included."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str], length: int, framed: bool) -> TokenRows:
        """Rows of `length` ids. `framed` puts start and end tokens around the words (CLIP; our DALL-E takes none)."""
        if not texts:
            raise RangeError("no text to encode")
        framed = framed or self.is_bart
        room = length - 2 if framed else length
        words = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        ids = torch.full((len(texts), length), self.pad, dtype=torch.int64)
        for row, tokens in enumerate(words):
            kept = tokens[:room]
            kept = [self.start, *kept, self.end] if framed else kept
            ids[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        return TokenRows(ids, [len(tokens) > room for tokens in words])
