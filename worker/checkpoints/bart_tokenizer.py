"""BART's byte-level BPE as dalle-mini uses it, from the two files that it is published in.

Source: dalle-mini, src/dalle_mini/model/{tokenizer,text}.py. Of its text normaliser this has the parts that change
every caption: a space in front, no accents, lower case. Not here: emoji by name, hashtags cut into words (by a list of
34 MB), punctuation to commas. min-dalle cuts at spaces only, and so differs from training at punctuation.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from worker.checkpoints.errors import BadRegistry, KeyMismatch
from worker.models.dalle.dalle_bart import DalleBartConfig
from worker.models.text import BART_END, BART_START, PAD

__all__ = ["bart_tokenizer"]

UNKNOWN = "<unk>"


def bart_tokenizer(vocab: Path, merges: Path, config: DalleBartConfig) -> Tokenizer:
    """From vocab.json and merges.txt; KeyMismatch where its own tokens are not those that the model knows."""
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges), unk_token=UNKNOWN))
    except Exception as error:  # the library raises bare Exception
        raise BadRegistry(f"cannot read the tokenizer {vocab}, {merges}: {error}") from error
    wanted = {BART_START: config.text_start, PAD: config.text_pad, BART_END: config.text_end}
    found = {name: tokenizer.token_to_id(name) for name in wanted}
    size = tokenizer.get_vocab_size()
    if found != wanted or size > config.text_vocab:
        raise KeyMismatch(f"{vocab}: {size} tokens, {found}; the model has {config.text_vocab}, {wanted}")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
