"""Pictures sampled code by code, many at once, each at its own place and by its own settings.

Rows come in and leave between two steps. A row's codes do not depend on its neighbours, nor on when it came: its noise
is a function of (seed, image, place), its caption is run once for all rows that draw it. With any guidance other than 1
a row takes two sequences of the cache, one of them with the empty caption.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.dalle.code_graphs import CodeGraphs, Record, bucket_of, record_on_cuda
from worker.models.dalle.code_model import CodeModel, Prefill, SequenceCache
from worker.models.dalle.sampling import Choice, check_settings, guide, sample_tokens
from worker.models.errors import ShapeError, check_ids, check_shape
from worker.models.noise import check_seed, fold
from worker.models.vqgan.vqgan import VQGAN

REMEMBERED = 64  # captions whose prefill is kept while the cache lives


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How one picture is drawn."""

    seed: int
    image: int  # which of the job's pictures this is; with the seed it fixes the noise
    temperature: float = 1.0  # 0 takes the likeliest code at every place
    top_k: int = 256  # 0 keeps all codes
    top_p: float = 1.0
    guidance: float = 3.0  # 1 leaves the conditional logits as they are

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_settings(self.temperature, self.top_k, self.top_p, self.guidance)


class DalleRow:
    """One picture under way. `tokens` (L,) int64, on the CPU, holds its codes; the first `known` of them are there."""

    def __init__(self, settings: RowSettings, text_ids: Tensor, length: int, prefix: Tensor | None = None) -> None:
        """text_ids (T,), prefix (N,) int64 with N below `length`."""
        self.settings = settings
        self.text_ids = text_ids.cpu()
        self.tokens = torch.zeros(length, dtype=torch.int64)
        self.known = 0
        self.at = 0  # where its sequences stand in the sampler; behind `known` only while they are taken again
        self.is_finite = True
        if prefix is not None:
            check_shape("prefix", prefix, (None,))
            if len(prefix) >= length:
                raise ShapeError(f"prefix of {len(prefix)} codes leaves nothing to sample of {length}")
            self.tokens[: len(prefix)] = prefix
            self.known = len(prefix)

    @property
    def done(self) -> bool:
        """True once every code is there."""
        return self.known >= len(self.tokens)

    @property
    def sequences(self) -> int:
        """How many of the cache it takes."""
        return 1 if self.settings.guidance == 1.0 else 2


class DalleSampler:
    """`rows` in the order in which they came. Not safe for two threads at once.

    Pinned, each step computes all `sequences`, empty ones too, over the whole length, and codes that are known already
    are taken again one by one: so a row's numbers are the same to the last bit whatever is co-batched.
    """

    def __init__(
        self, model: CodeModel, sequences: int, *, is_deterministic: bool = False, record: Record | None = None
    ) -> None:
        """record: how steps are recorded and replayed; on a GPU as CUDA graphs, elsewhere not at all unless given."""
        self.model = model
        self.sequences = sequences
        self.rows: list[DalleRow] = []
        self.captions_run = 0
        self.captions_saved = 0  # those that were there already
        self._is_deterministic = is_deterministic
        self._device = model.blank.device
        self._prefilled: OrderedDict[tuple[int, ...], Prefill] = OrderedDict()
        self._owners: list[tuple[DalleRow, bool]] = []  # of the cache's rows; whether it is the one without a caption
        self._cache: SequenceCache | None = None
        self._record = record_on_cuda if record is None and self._device.type == "cuda" else record
        self.graphs: CodeGraphs | None = None

    @property
    def taken(self) -> int:
        """Sequences in use."""
        return len(self._owners)

    @property
    def cache_bytes(self) -> int:
        """Memory that the cache takes now."""
        return 0 if self._cache is None else self._cache.batch * self._cache.bytes_per_sequence

    # --- rows come and go ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def admit(self, rows: Sequence[DalleRow]) -> None:
        """Take rows in; such as have codes already go on from there. Where it raises, none is in."""
        for row in rows:
            check_shape("text_ids", row.text_ids, (self.model.text_length,))
            check_ids("prefix", row.tokens[: row.known], self.model.image_vocab)
        coming = [(row, is_silent) for row in rows for is_silent in (False, True)[: row.sequences]]
        if self.taken + len(coming) > self.sequences:
            raise ShapeError(f"{self.taken + len(coming)} sequences do not fit in {self.sequences}")
        if self._cache is None:
            self._cache = self.model.new_cache(self.sequences)
            self.graphs = CodeGraphs(self.model, self._cache, self._record) if self._record else None
        self._place(coming)
        self.sync()
        for row in rows:
            row.at = 0 if self._is_deterministic else row.known
        self._owners += coming
        self.rows += rows
        self._arrange()

    @torch.inference_mode()
    def leave(self, rows: Sequence[DalleRow]) -> None:
        """Let rows go; their codes are with them. What stays moves together."""
        self.sync()
        gone = {id(row) for row in rows}
        self._erase([slot for slot, (row, _) in enumerate(self._owners) if id(row) in gone and not row.is_finite])
        self.rows = [row for row in self.rows if id(row) not in gone]
        staying = [slot for slot, (row, _) in enumerate(self._owners) if id(row) not in gone]
        holes = sorted(set(range(len(staying))) - set(staying))
        movers = staying[len(staying) - len(holes) :]
        if movers:
            assert self._cache is not None
            self.model.move(self._cache, self._index(movers), self._index(holes))
        for source, target in zip(movers, holes, strict=True):
            self._owners[target] = self._owners[source]
        self._owners = self._owners[: len(staying)]
        self._arrange()

    def sync(self) -> None:
        """Write what was sampled to the rows that are inside."""
        if not self.rows:
            return
        for row, codes in zip(self.rows, self._tokens.cpu(), strict=True):
            row.tokens.copy_(codes)

    def resize(self, sequences: int) -> None:
        """Another number of sequences from here on; the memory changes when the sampler is empty."""
        self.sequences = sequences
        if not self.rows and self._cache is not None and self._cache.batch != sequences:
            self.clear()

    def clear(self) -> None:
        """Give the memory of the cache back; only while no row is inside."""
        self._cache = self.graphs = None
        self._prefilled.clear()

    def _erase(self, slots: Sequence[int]) -> None:
        """What a row hides from its successor still enters its sums, times zero: it must be numbers."""
        if slots and self._cache is not None:
            self._cache.keys[:, slots] = 0
            self._cache.values[:, slots] = 0

    def _place(self, coming: Sequence[tuple[DalleRow, bool]]) -> None:
        """Give sequences their captions, and the codes they know."""
        assert self._cache is not None
        captions = [self.model.blank.cpu() if is_silent else row.text_ids for row, is_silent in coming]
        self._run(captions)
        slots: dict[tuple[int, ...], list[int]] = {}
        for slot, caption in enumerate(captions, self.taken):
            slots.setdefault(tuple(caption.tolist()), []).append(slot)
        for key, places in slots.items():
            self.model.place(self._cache, self._index(places), self._prefilled[key], self._index([0] * len(places)))
        if not self._is_deterministic:
            self._fill([row for row, _ in coming])

    def _fill(self, coming: Sequence[DalleRow]) -> None:
        """Read the codes that are known, in one pass for all that know equally many."""
        assert self._cache is not None
        for known in {row.known for row in coming} - {0}:
            alike = [slot for slot, row in enumerate(coming) if row.known == known]
            codes = torch.stack([coming[slot].tokens[:known] for slot in alike]).to(self._device)
            self.model.fill(codes, self._cache, self._index([self.taken + slot for slot in alike]))

    def _run(self, captions: Sequence[Tensor]) -> None:
        """Prefill those that are not remembered; where deterministic, each alone."""
        wanted = {tuple(ids.tolist()): ids for ids in captions}
        missing = [key for key in wanted if key not in self._prefilled]
        self.captions_run += len(missing)
        self.captions_saved += len(captions) - len(missing)
        size = 1 if self._is_deterministic else max(1, len(missing))
        for begin in range(0, len(missing), size):
            part = missing[begin : begin + size]
            ids = torch.stack([wanted[key] for key in part]).to(self._device)
            self._prefilled.update(zip(part, self.model.prefill(ids).split(), strict=True))
        for key in wanted:
            self._prefilled.move_to_end(key)
        while len(self._prefilled) > max(REMEMBERED, len(wanted)):
            self._prefilled.popitem(last=False)

    def _arrange(self) -> None:
        """After a change: what a step needs of every row and every sequence, on the device."""
        rows = self.rows
        if not rows:
            return
        self._tokens = torch.stack([row.tokens for row in rows]).to(self._device)
        self._at = self._index([row.at for row in rows])
        self._known = self._index([row.known for row in rows])
        self._choice = Choice.of([row.settings for row in rows], self._device)
        self._guidance = torch.tensor([row.settings.guidance for row in rows], device=self._device)
        seeds, images = ([row.settings.seed for row in rows], [row.settings.image for row in rows])
        self._keys = fold(self._index(seeds), self._index(images))
        place = {id(row): number for number, row in enumerate(rows)}
        owners = [place[id(row)] for row, _ in self._owners]
        self._owner = self._index(owners + [0] * (self._computed() - len(owners)))
        loud = {id(row): slot for slot, (row, is_silent) in enumerate(self._owners) if not is_silent}
        silent = {id(row): slot for slot, (row, is_silent) in enumerate(self._owners) if is_silent}
        self._loud = self._index([loud[id(row)] for row in rows])
        self._silent = self._index([silent.get(id(row), loud[id(row)]) for row in rows])

    def _computed(self) -> int:
        """How many sequences a step computes; the last ones may be nobody's."""
        if self._is_deterministic:
            return self.sequences
        return self.taken if self.graphs is None else bucket_of(self.taken, self.sequences)

    def _index(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.int64, device=self._device)

    # --- one step ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> None:
        """One code more of every row that is not done. Nothing has changed where it raises."""
        if not self.rows:
            return
        assert self._cache is not None
        last = self._tokens.gather(1, (self._at - 1).clamp_min(0)[:, None])[:, 0]
        codes, position = last[self._owner], self._at[self._owner]
        if self.graphs is not None:
            logits = self.graphs.step(codes, position).float()
        else:
            seen = self.model.image_length if self._is_deterministic else max(row.at for row in self.rows) + 1
            logits = self.model.step(codes, position, self._cache, seen).float()
        logits = guide(logits[self._loud], logits[self._silent], self._guidance)
        sampled = sample_tokens(logits, self._choice, fold(self._keys, self._at))
        here = self._at[:, None]
        known = self._tokens.gather(1, here)
        self._tokens.scatter_(1, here, torch.where(here < self._known[:, None], known, sampled[:, None]))
        self._at += 1
        finite = logits.isfinite().all(1).tolist()
        for row, is_finite in zip(self.rows, finite, strict=True):
            row.at += 1
            row.known = max(row.known, row.at)
            row.is_finite &= is_finite


def preview_ids(codes: Tensor, blank: Tensor) -> Tensor:
    """(grid, grid): the codes (N,) that are there, and for the rest those of `blank` (grid, grid)."""
    return torch.cat([codes, blank.flatten()[len(codes) :].to(codes.device)]).view(blank.shape)


def sample(model: CodeModel, text_ids: Tensor, rows: Sequence[RowSettings], sequences: int = 256) -> Tensor:
    """Codes (B, L), on the CPU, of captions (B, T): all of them, as many at once as `sequences` allow."""
    sampler = DalleSampler(model, sequences)
    waiting = [DalleRow(row, ids, model.image_length) for row, ids in zip(rows, text_ids, strict=True)]
    every = list(waiting)
    while waiting or sampler.rows:
        done = [row for row in sampler.rows if row.done]
        if done:
            sampler.leave(done)
        coming: list[DalleRow] = []
        while waiting and sampler.taken + sum(row.sequences for row in [*coming, waiting[0]]) <= sequences:
            coming.append(waiting.pop(0))
        if coming:
            sampler.admit(coming)
        sampler.step()
    return torch.stack([row.tokens for row in every])


@torch.inference_mode()
def blank_ids(vqgan: VQGAN, level: float = 1.0) -> Tensor:
    """Codes (grid, grid) of a plain picture of one grey `level` in [-1, 1]: what previews show of unsampled places.

    A VQGAN that cannot read pictures gives its last code everywhere, as min-dalle does.
    """
    grid, side = vqgan.config.grid, vqgan.config.resolution
    if not vqgan.config.encodes:
        last = vqgan.config.codes - 1
        return torch.full((grid, grid), last, device=vqgan.quantize.embedding.weight.device)
    weight = vqgan.quantize.embedding.weight
    plain = torch.full((1, 3, side, side), level, device=weight.device, dtype=weight.dtype)
    return vqgan.quantize.nearest(vqgan.encode(plain))[0]


@torch.inference_mode()
def decode_ids(vqgan: VQGAN, ids: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), float32 in [0, 1], of code ids (B, grid * grid) or (B, grid, grid)."""
    side = vqgan.config.grid
    images = vqgan.decode_indices(ids.reshape(-1, side, side))
    return images.float().add(1.0).div(2.0).clamp(0.0, 1.0)
