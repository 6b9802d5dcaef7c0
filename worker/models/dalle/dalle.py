"""A decoder-only transformer over one sequence: caption tokens, then the picture's VQGAN codes.

Source: Ramesh et al., "Zero-Shot Text-to-Image Generation" (2021), section 2.2: one stream, a learnt padding vector per
text position, learnt row and column positions for the picture. The first code is read off the last text position, so
there is no start token. A caption of padding alone is the empty caption of classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.models.attention import attend_rows
from worker.models.dalle.code_model import ConfiguredSizes, Prefill, SequenceCache
from worker.models.dense import Dense
from worker.models.errors import ConfigError, ShapeError, check_ids, check_shape

PAD = 0  # text id that stands for "no word here"; the tokenizer keeps it free


@dataclass(frozen=True, slots=True)
class DalleConfig:
    """One transformer; the defaults are the embedded emoji model's."""

    text_vocab: int = 4096  # tokenizer entries, padding included
    text_length: int = 24  # caption positions
    image_vocab: int = 1024  # codes of the VQGAN
    grid: int = 16  # codes along one side; the picture is grid * grid codes in raster order
    width: int = 256
    layers: int = 6
    heads: int = 4
    text_width: int = 128  # width of the caption embedding before it is projected to `width`
    dropout: float = 0.0  # on embeddings and residual branches, in training only
    guidance: float = 3.0  # scale that sampling uses where the job names none

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is no multiple of {self.heads} heads")

    @property
    def image_length(self) -> int:
        """Codes per picture."""
        return self.grid * self.grid

    @property
    def length(self) -> int:
        """Positions of the whole sequence; the last code is never fed, so its slot stays free."""
        return self.text_length + self.image_length

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DalleConfig:
        """Build from JSON; an unknown key is an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"unknown DALL-E settings: {sorted(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The form that `from_dict` reads, ready for JSON."""
        return asdict(self)


class Block(nn.Module):
    """Pre-norm causal self-attention and a GELU MLP of four times the width."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.width)
        self.qkv = Dense(config.width, 3 * config.width)
        self.proj = Dense(config.width, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.fc1 = Dense(config.width, 4 * config.width)
        self.fc2 = Dense(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (B, heads, S, d), of the normed input (B, S, W)."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, S, d)
        return q, k, v

    def close(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output (B, heads, S, d) and the MLP's to x (B, S, W)."""
        x = x + self.dropout(self.proj(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Whole sequences (B, S, W)."""
        return self.read(x)[0]

    def read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole sequences (B, S, W), and their keys and values, each (B, heads, S, d)."""
        q, k, v = self.split(x)
        return self.close(x, F.scaled_dot_product_attention(q, k, v, is_causal=True)), k, v

    def step(self, x: Tensor, keys: Tensor, values: Tensor, slots: Tensor, hidden: Tensor) -> Tensor:
        """One position (S, 1, W), every row at its own slot of the cache (B, heads, length, d); see attend_rows."""
        q, k, v = self.split(x)
        rows = torch.arange(x.shape[0], device=x.device)
        keys[rows, :, slots] = k[:, :, 0].to(keys.dtype)
        values[rows, :, slots] = v[:, :, 0].to(values.dtype)
        return self.close(x, attend_rows(q, keys, values, hidden))

    def fill(self, x: Tensor, keys: Tensor, values: Tensor, rows: Tensor, first: int) -> Tensor:
        """Several positions (n, N, W) from slot `first` on, of the cache's rows `rows` (n,); each sees those before."""
        q, k, v = self.split(x)
        last = first + x.shape[1]
        keys[rows, :, first:last] = k.to(keys.dtype)
        values[rows, :, first:last] = v.to(values.dtype)
        place = torch.arange(last, device=x.device)
        seen = place[None] <= place[first:, None]  # (N, last)
        past = keys[rows, :, :last].to(q.dtype), values[rows, :, :last].to(q.dtype)
        return self.close(x, F.scaled_dot_product_attention(q, *past, attn_mask=seen))


class Dalle(ConfiguredSizes, nn.Module):
    """Text ids (B, T) and code ids (B, N) to the codes' logits."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = config
        self.text_embedding = nn.Embedding(config.text_vocab, config.text_width)
        self.text_projection = nn.Linear(config.text_width, config.width, bias=False)
        self.text_positions = nn.Parameter(torch.zeros(config.text_length, config.width))
        self.padding = nn.Parameter(torch.zeros(config.text_length, config.width))
        self.image_embedding = nn.Embedding(config.image_vocab, config.width)
        self.rows = nn.Parameter(torch.zeros(config.grid, config.width))
        self.columns = nn.Parameter(torch.zeros(config.grid, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.image_vocab, bias=False)
        self.head.weight = self.image_embedding.weight
        self.reset()

    def reset(self) -> None:
        """GPT-2's initial values: N(0, 0.02), residual outputs scaled down by the depth."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for layer in (block.proj, block.fc2):
                nn.init.normal_(layer.weight, std=0.02 / (2 * self.config.layers) ** 0.5)  # type: ignore[arg-type]
        nn.init.normal_(self.text_embedding.weight, std=0.2)  # the projection's gain is small
        for table in (self.text_positions, self.padding, self.rows, self.columns):
            nn.init.normal_(table, std=0.02)

    def embed_text(self, text_ids: Tensor) -> Tensor:
        """(B, T, W) of `text_ids` (B, T); padding has its own vector at every position."""
        words = self.text_projection(self.text_embedding(text_ids)) + self.text_positions
        return torch.where((text_ids == PAD).unsqueeze(-1), self.padding.to(words.dtype), words)

    def embed_image(self, image_ids: Tensor) -> Tensor:
        """(B, N, W) of the first N codes (B, N) in raster order."""
        return self.image_embedding(image_ids) + self.positions()[: image_ids.shape[1]]

    def positions(self) -> Tensor:
        """(grid * grid, W): every cell's row plus column vector."""
        return (self.rows[:, None] + self.columns[None]).flatten(0, 1)

    def check_text(self, text_ids: Tensor) -> None:
        """Refuse text ids of another length, dtype or range."""
        check_shape("text_ids", text_ids, (None, self.config.text_length))
        check_ids("text_ids", text_ids, self.config.text_vocab)

    def forward(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        """Logits (B, N, V) of codes 0..N-1, each from the caption and the codes before it; N up to the picture's."""
        check_shape("image_ids", image_ids, (text_ids.shape[0], None))
        if not 1 <= image_ids.shape[1] <= self.config.image_length:
            raise ShapeError(f"image_ids has {image_ids.shape[1]} codes, wanted 1 to {self.config.image_length}")
        x = torch.cat([self.embed_text(text_ids), self.embed_image(image_ids[:, :-1])], dim=1)
        x = self.dropout(x)  # (B, T + N - 1, W)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, self.config.text_length - 1 :]))

    # --- CodeModel: one code at a time, many rows at once ---------------------------------------------------------

    @property
    def blank(self) -> Tensor:
        """Padding alone."""
        return torch.full((self.config.text_length,), PAD, device=self.padding.device)

    def new_cache(self, sequences: int, dtype: torch.dtype | None = None) -> SequenceCache:
        """Keys and values of text and codes in one, and what position 0 is fed."""
        config, like = self.config, self.padding
        shape = (config.layers, sequences, config.heads, config.length, config.width // config.heads)
        keys = torch.zeros(shape, device=like.device, dtype=dtype or like.dtype)
        start = torch.zeros(sequences, config.width, device=like.device, dtype=like.dtype)
        return SequenceCache(keys, torch.zeros_like(keys), start=start)

    def prefill(self, text_ids: Tensor) -> Prefill:
        """Run distinct captions. The last text position is what a row is fed at position 0."""
        self.check_text(text_ids)
        x = self.embed_text(text_ids)
        start, keys, values = x[:, -1], [], []
        for block in self.blocks:
            x, k, v = block.read(x)
            keys.append(k)
            values.append(v)
        return Prefill(torch.stack(keys), torch.stack(values), torch.ones_like(text_ids, dtype=torch.bool), start)

    def place(self, cache: SequenceCache, slots: Tensor, prefill: Prefill, which: Tensor) -> None:
        """Begin sequences: copy a caption's keys, values and start into each."""
        assert cache.start is not None
        assert prefill.start is not None
        cache.keys[:, slots, :, : self.text_length] = prefill.keys[:, which].to(cache.keys.dtype)
        cache.values[:, slots, :, : self.text_length] = prefill.values[:, which].to(cache.values.dtype)
        cache.start[slots] = prefill.start[which]

    def fill(self, codes: Tensor, cache: SequenceCache, slots: Tensor) -> None:
        """Read codes that are known already, all but the last of them: the next step feeds that."""
        check_ids("codes", codes, self.config.image_vocab)
        x = self.embed_image(codes[:, :-1])  # the last one is fed by the next step
        if not x.shape[1]:
            return
        for index, block in enumerate(self.blocks):
            x = block.fill(x, cache.keys[index], cache.values[index], slots, self.text_length)

    def step(self, codes: Tensor, position: Tensor, cache: SequenceCache, seen: int) -> Tensor:
        """Logits of one code more of each row, which attends to its caption and its codes so far."""
        assert cache.start is not None
        place = self.positions()[(position - 1).clamp_min(0)]
        words = self.image_embedding(codes) + place
        x = torch.where((position == 0)[:, None], cache.start[: len(codes)], words).unsqueeze(1)  # (S, 1, W)
        slots = position + (self.text_length - 1)
        live = torch.arange(self.text_length - 1 + seen, device=x.device)
        hidden = torch.zeros(len(codes), len(live), device=x.device, dtype=x.dtype)
        hidden.masked_fill_(live > slots[:, None], float("-inf"))
        for index, block in enumerate(self.blocks):
            x = block.step(x, cache.keys[index], cache.values[index], slots, hidden)
        return self.head(self.norm(x[:, 0]))

    def move(self, cache: SequenceCache, source: Tensor, target: Tensor) -> None:
        """Copy whole rows."""
        assert cache.start is not None
        cache.keys[:, target] = cache.keys[:, source]
        cache.values[:, target] = cache.values[:, source]
        cache.start[target] = cache.start[source]
