"""The encoder-decoder form of a picture transformer: dalle-mini and dalle-mega ("DalleBart").

Source: Dayma et al., dalle-mini (2021-22), src/dalle_mini/model/modeling.py with `ln_positions=normformer`: an encoder
of captions and a decoder of codes with learnt positions, each with its own embeddings. The caption runs through the
encoder once; its keys and values for every decoder layer are made there and then, not at every code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.dalle.code_model import ConfiguredSizes, Prefill, SequenceCache, in_blocks
from worker.models.dalle.normformer import EPS, GLU, CrossAttention, SelfAttention, Shift, hidden
from worker.models.dense import Dense, pack
from worker.models.errors import ConfigError, RangeError, ShapeError, check_ids, check_shape

FORM = "encoder-decoder"  # in a config file: tells this form of family dalle from the decoder-only one


@dataclass(frozen=True, slots=True)
class DalleBartConfig:
    """One transformer; the defaults are dalle-mini's."""

    text_vocab: int = 50264  # rows of the caption's embedding
    text_length: int = 64  # caption positions
    image_vocab: int = 16384  # codes of the VQGAN: what may be sampled
    code_rows: int = 16385  # rows of the codes' embedding: the codes, the start token, filling
    grid: int = 16  # codes along one side; the picture is grid * grid codes in raster order
    width: int = 1024
    hidden: int = 2730  # inner width of the GLU
    heads: int = 16
    encoder_layers: int = 12
    decoder_layers: int = 12
    start_code: int = 16384  # fed before the first code. min-dalle 0.4.11 feeds 16383, an ordinary code
    text_start: int = 0  # <s>
    text_pad: int = 1  # never attended
    text_end: int = 2  # </s>
    guidance: float = 16.0  # scale that sampling uses where the job names none

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is no multiple of {self.heads} heads")
        if not self.image_vocab <= self.code_rows or not 0 <= self.start_code < self.code_rows:
            raise ConfigError(
                f"{self.code_rows} rows hold no {self.image_vocab} codes and start code {self.start_code}"
            )
        if max(self.text_start, self.text_pad, self.text_end) >= self.text_vocab or self.text_length < 2:
            raise ConfigError("the text's own tokens are outside its vocabulary, or leave no room")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DalleBartConfig:
        """Build from JSON; an unknown key, or another form, is an error."""
        unknown = set(values) - {field.name for field in fields(cls)} - {"form"}
        if unknown or values.get("form", FORM) != FORM:
            raise ConfigError(f"unknown DalleBart settings: {sorted(unknown)}, form {values.get('form')!r}")
        return cls(**{name: value for name, value in values.items() if name != "form"})

    def to_dict(self) -> dict[str, Any]:
        """The form that `from_dict` reads, ready for JSON."""
        return {"form": FORM} | asdict(self)


PRESETS: Mapping[str, DalleBartConfig] = {
    "mini": DalleBartConfig(),
    "mega": DalleBartConfig(
        text_vocab=50272, code_rows=16416, width=2048, hidden=4096, heads=32, encoder_layers=24, decoder_layers=24
    ),
}


class EncoderLayer(nn.Module):
    """Self-attention, then the GLU."""

    def __init__(self, config: DalleBartConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.glu = GLU(config.width, config.hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(P, T, W) to the same."""
        x = x + self.attention(x, mask)
        return x + self.glu(x)


class DecoderLayer(nn.Module):
    """Self-attention over the codes so far, cross-attention to the caption, then the GLU."""

    def __init__(self, config: DalleBartConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.cross = CrossAttention(config.width, config.heads)
        self.glu = GLU(config.width, config.hidden)


class DalleBart(ConfiguredSizes, nn.Module):
    """Captions framed by <s> and </s> (P, T), and codes, to the codes' logits. See code_model.CodeModel."""

    def __init__(self, config: DalleBartConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_embedding = nn.Embedding(config.text_vocab, width)
        self.text_positions = nn.Embedding(config.text_length, width)
        self.text_norm = nn.LayerNorm(width, EPS)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.text_out = Shift(width)
        self.code_embedding = nn.Embedding(config.code_rows, width)
        self.code_positions = nn.Embedding(self.image_length, width)
        self.code_norm = nn.LayerNorm(width, EPS)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.code_out = Shift(width)
        self.head = Dense(width, config.image_vocab, bias=False)  # rows beyond the codes are never sampled: left out

    @property
    def blank(self) -> Tensor:
        """<s></s>, then padding; see CodeModel."""
        ids = torch.full((self.text_length,), self.config.text_pad, device=self.code_embedding.weight.device)
        ids[0], ids[1] = self.config.text_start, self.config.text_end
        return ids

    def pack(self) -> None:
        """Make the weights ready for this CPU, once they are loaded and frozen; does nothing elsewhere."""
        pack(self)

    def new_cache(self, sequences: int, dtype: torch.dtype | None = None) -> SequenceCache:
        """Keys and values of the codes, and of the captions for cross-attention."""
        config, like = self.config, self.code_embedding.weight

        def zeros(length: int) -> Tensor:
            shape = (config.decoder_layers, sequences, config.heads, length, config.width // config.heads)
            return torch.zeros(shape, dtype=dtype or like.dtype, device=like.device)

        codes, text = in_blocks(self.image_length), in_blocks(self.text_length)
        seen = torch.zeros(sequences, text, dtype=torch.bool, device=like.device)
        return SequenceCache(zeros(codes), zeros(codes), zeros(text), zeros(text), seen, text_live=[0] * sequences)

    def prefill(self, text_ids: Tensor) -> Prefill:
        """Run distinct captions through the encoder. Positions after the last block that holds a word are not run:
        nothing attends to them."""
        check_shape("text_ids", text_ids, (None, self.text_length))
        check_ids("text_ids", text_ids, self.config.text_vocab)
        words = (text_ids != self.config.text_pad).any(0).nonzero()
        if not len(words):
            raise RangeError("a caption is padding alone; the empty one is its start and end")
        text_ids = text_ids[:, : in_blocks(int(words.amax()) + 1)]
        seen = text_ids != self.config.text_pad  # (P, T)
        x = self.text_norm(self.text_embedding(text_ids) + self.text_positions.weight[: text_ids.shape[1]])
        mask = hidden(seen, x.dtype)[:, None, None]
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.text_out(x)  # (P, T, W)
        pairs = [layer.cross.keys_values(x) for layer in self.decoder]
        return Prefill(torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs]), seen)

    def place(self, cache: SequenceCache, slots: Tensor, prefill: Prefill, which: Tensor) -> None:
        """Begin sequences: copy a caption's keys and values into each, and erase what was there. Reads the device."""
        cross_keys, cross_values, cross_seen = _cross(cache)
        for whole in (cache.keys, cache.values, cross_keys, cross_values):
            whole.index_fill_(1, slots, 0)
        length = prefill.seen.shape[1]
        cross_keys[:, slots, :, :length] = prefill.keys[:, which].to(cross_keys.dtype)
        cross_values[:, slots, :, :length] = prefill.values[:, which].to(cross_values.dtype)
        cross_seen[slots] = F.pad(prefill.seen[which], (0, cross_seen.shape[1] - length))
        last = prefill.seen * torch.arange(1, length + 1, device=prefill.seen.device)
        for slot, count in zip(slots.tolist(), last.amax(1)[which].tolist(), strict=True):
            cache.text_live[slot] = count

    def fill(self, codes: Tensor, cache: SequenceCache, slots: Tensor) -> None:
        """Read codes that are known already, all but the last of them: the next step feeds that."""
        check_ids("codes", codes, self.config.image_vocab)
        cross_keys, cross_values, cross_seen = _cross(cache)
        fed = F.pad(codes[:, :-1], (1, 0), value=self.config.start_code)  # the last one is fed by the next step
        count = fed.shape[1]
        x = self.code_norm(self.code_embedding(fed) + self.code_positions.weight[:count])  # (n, N, W)
        mask = hidden(torch.ones(count, count, dtype=torch.bool, device=x.device).tril(), x.dtype)
        text_mask = hidden(cross_seen[slots], x.dtype)[:, None, None]
        for index, layer in enumerate(self.decoder):
            attended, keys, values = layer.attention.read(x, mask)
            cache.keys[index, slots, :, :count] = keys.to(cache.keys.dtype)
            cache.values[index, slots, :, :count] = values.to(cache.values.dtype)
            x = x + attended
            x = x + layer.cross(
                x, cross_keys[index, slots].to(x.dtype), cross_values[index, slots].to(x.dtype), text_mask
            )
            x = x + layer.glu(x)

    def step(self, codes: Tensor, position: Tensor, cache: SequenceCache, seen: int) -> Tensor:
        """Logits of one code more of each row."""
        cross_keys, cross_values, cross_seen = _cross(cache)
        count = codes.shape[0]
        fed = torch.where(position == 0, self.config.start_code, codes)
        x = self.code_norm(self.code_embedding(fed) + self.code_positions(position))  # (S, W)
        slots = torch.arange(in_blocks(seen), device=x.device)
        mask = hidden(slots <= position[:, None], x.dtype)
        text_mask = hidden(cross_seen[:count, : cache.text_read(count)], x.dtype)
        place = (torch.arange(count, device=x.device), position)
        for index, layer in enumerate(self.decoder):
            x = x + layer.attention.step(x, cache.keys[index], cache.values[index], place, mask)
            x = x + layer.cross.step(x, cross_keys[index], cross_values[index], text_mask)
            x = x + layer.glu(x)
        return self.head(self.code_out(x))

    def move(self, cache: SequenceCache, source: Tensor, target: Tensor) -> None:
        """Copy whole rows. Reads the device."""
        cross_keys, cross_values, cross_seen = _cross(cache)
        for whole in (cache.keys, cache.values, cross_keys, cross_values):
            whole[:, target] = whole[:, source]
        cross_seen[target] = cross_seen[source]
        live = [cache.text_live[row] for row in source.tolist()]
        for row, count in zip(target.tolist(), live, strict=True):
            cache.text_live[row] = count


def _cross(cache: SequenceCache) -> tuple[Tensor, Tensor, Tensor]:
    if cache.cross_keys is None or cache.cross_values is None or cache.cross_seen is None:
        raise ShapeError("this cache was made by a model without cross-attention")
    return cache.cross_keys, cache.cross_values, cache.cross_seen
