"""Pictures sampled code by code, many at once, each at its own place and by its own settings.

Rows come in and leave between two steps. A row's codes do not depend on its neighbours, nor on when it came: its noise
is a function of (seed, image, place), its caption is run once for all rows that draw it. With any guidance other than 1
a row takes two sequences of the cache, one of them with the empty caption.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.models.dalle.captions import CaptionCache, key_of
from worker.models.dalle.code_graphs import CodeGraphs, Record, bucket_of, record_on_cuda
from worker.models.dalle.code_model import CodeModel, SequenceCache
from worker.models.dalle.rows import DalleRow, RowSettings
from worker.models.dalle.sampling import guide, sample_tokens
from worker.models.dalle.step_inputs import OwnedSequence, StepInputs, sequences_of
from worker.models.errors import ShapeError, check_ids, check_shape
from worker.models.noise import fold


class DalleSampler:
    """`rows` in the order in which they came. Not safe for two threads at once.

    Deterministic, each step computes all `sequences`, empty ones too, over the whole length, and codes that are known
    already are taken again one by one: so a row's numbers are the same to the last bit whatever is co-batched.
    """

    def __init__(
        self, model: CodeModel, sequences: int, *, is_deterministic: bool = False, record: Record | None = None
    ) -> None:
        """record: how steps are recorded and replayed; on a GPU as CUDA graphs, elsewhere not at all unless given."""
        self.model = model
        self.sequences = sequences
        self.rows: list[DalleRow] = []
        self.captions = CaptionCache(model, is_deterministic=is_deterministic)
        self.cache: SequenceCache | None = None
        self.graphs: CodeGraphs | None = None
        self._is_deterministic = is_deterministic
        self._device = model.blank.device
        self._owned: list[OwnedSequence] = []  # the cache's first ones; the rest is free
        self._inputs: StepInputs | None = None  # None while no row is inside
        self._record = record_on_cuda if record is None and self._device.type == "cuda" else record

    @property
    def taken(self) -> int:
        """Sequences in use."""
        return len(self._owned)

    @property
    def cache_bytes(self) -> int:
        """Memory that the cache takes now."""
        return 0 if self.cache is None else self.cache.batch * self.cache.bytes_per_sequence

    # --- rows come and go ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def admit(self, rows: Sequence[DalleRow]) -> None:
        """Take rows in; such as have codes already go on from there. Where it raises, none is in."""
        for row in rows:
            check_shape("text_ids", row.text_ids, (self.model.text_length,))
            check_ids("prefix", row.tokens[: row.known], self.model.image_vocab)
        coming = sequences_of(rows)
        if self.taken + len(coming) > self.sequences:
            raise ShapeError(f"{self.taken + len(coming)} sequences do not fit in {self.sequences}")
        cache = self._made_cache()
        self._place(cache, coming)
        if not self._is_deterministic:
            self._fill(cache, coming)
        self.sync()
        for row in rows:
            row.at = 0 if self._is_deterministic else row.known
        self._owned += coming
        self.rows += rows
        self._arrange()

    @torch.inference_mode()
    def leave(self, rows: Sequence[DalleRow]) -> None:
        """Let rows go; their codes are with them. What stays moves together."""
        self.sync()
        gone = {id(row) for row in rows}
        staying = [place for place, owned in enumerate(self._owned) if id(owned.row) not in gone]
        leaving = [place for place, owned in enumerate(self._owned) if id(owned.row) in gone]
        self._erase([place for place in leaving if not self._owned[place].row.is_finite])
        self._close_up(staying)
        self.rows = [row for row in self.rows if id(row) not in gone]
        self._arrange()

    def sync(self) -> None:
        """Write what was sampled to the rows that are inside."""
        if self._inputs is None:
            return
        for row, codes in zip(self.rows, self._inputs.tokens.cpu(), strict=True):
            row.tokens.copy_(codes)

    def resize(self, sequences: int) -> None:
        """Another number of sequences from here on; the memory changes when the sampler is empty."""
        self.sequences = sequences
        if not self.rows and self.cache is not None and self.cache.batch != sequences:
            self.clear()

    def clear(self) -> None:
        """Give the memory of the cache back; only while no row is inside."""
        self.cache = self.graphs = None
        self.captions.clear()

    def _made_cache(self) -> SequenceCache:
        if self.cache is None:
            self.cache = self.model.new_cache(self.sequences)
            self.graphs = CodeGraphs(self.model, self.cache, self._record) if self._record else None
        return self.cache

    def _erase(self, places: Sequence[int]) -> None:
        """Attention adds what a masked place holds, times zero: NaN left there would enter the next row's sums."""
        if places and self.cache is not None:
            self.cache.keys[:, places] = 0
            self.cache.values[:, places] = 0

    def _close_up(self, staying: Sequence[int]) -> None:
        """Move the last sequences that stay into the holes before them."""
        holes = sorted(set(range(len(staying))) - set(staying))
        movers = staying[len(staying) - len(holes) :]
        if movers and self.cache is not None:
            self.model.move(self.cache, self._index(movers), self._index(holes))
        for source, target in zip(movers, holes, strict=True):
            self._owned[target] = self._owned[source]
        self._owned = self._owned[: len(staying)]

    def _place(self, cache: SequenceCache, coming: Sequence[OwnedSequence]) -> None:
        """Give sequences their captions."""
        blank = self.model.blank.cpu()
        captions = [blank if owned.is_unconditional else owned.row.text_ids for owned in coming]
        places: dict[tuple[int, ...], list[int]] = {}
        for place, caption in enumerate(captions, self.taken):
            places.setdefault(key_of(caption), []).append(place)
        for key, prefill in self.captions.get(captions).items():
            self.model.place(cache, self._index(places[key]), prefill, self._index([0] * len(places[key])))

    def _fill(self, cache: SequenceCache, coming: Sequence[OwnedSequence]) -> None:
        """Read the codes that are known, in one pass for all that know equally many."""
        for known in {owned.row.known for owned in coming} - {0}:
            alike = [place for place, owned in enumerate(coming) if owned.row.known == known]
            codes = torch.stack([coming[place].row.tokens[:known] for place in alike]).to(self._device)
            self.model.fill(codes, cache, self._index([self.taken + place for place in alike]))

    def _arrange(self) -> None:
        """After a change of rows."""
        self._inputs = StepInputs.of(self.rows, self._owned, self._computed(), self._device) if self.rows else None

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
        inputs = self._inputs
        if inputs is None:
            return
        logits = self._logits(inputs)
        logits = guide(logits[inputs.conditional], logits[inputs.unconditional], inputs.guidance)
        sampled = sample_tokens(logits, inputs.choice, fold(inputs.keys, inputs.at))
        here = inputs.at[:, None]
        given = inputs.tokens.gather(1, here)
        inputs.tokens.scatter_(1, here, torch.where(here < inputs.known[:, None], given, sampled[:, None]))
        inputs.at += 1
        finite = logits.isfinite().all(1).tolist()
        for row, is_finite in zip(self.rows, finite, strict=True):
            row.at += 1
            row.known = max(row.known, row.at)
            row.is_finite &= is_finite

    def _logits(self, inputs: StepInputs) -> Tensor:
        """(S, V) of what comes after every sequence's last code."""
        assert self.cache is not None
        last = inputs.tokens.gather(1, (inputs.at - 1).clamp_min(0)[:, None])[:, 0]
        codes, position = last[inputs.row_of], inputs.at[inputs.row_of]
        if self.graphs is not None:
            return self.graphs.step(codes, position).float()
        seen = self.model.image_length if self._is_deterministic else max(row.at for row in self.rows) + 1
        return self.model.step(codes, position, self.cache, seen).float()


def sample(model: CodeModel, text_ids: Tensor, rows: Sequence[RowSettings], sequences: int = 256) -> Tensor:
    """Codes (B, L), on the CPU, of captions (B, T): all of them, as many at once as `sequences` allow."""
    sampler = DalleSampler(model, sequences)
    drawn = [DalleRow(row, ids, model.image_length) for row, ids in zip(rows, text_ids, strict=True)]
    waiting = drawn[::-1]
    while waiting or sampler.rows:
        if done := [row for row in sampler.rows if row.done]:
            sampler.leave(done)
        if coming := _that_fit(waiting, sequences - sampler.taken):
            sampler.admit(coming)
        sampler.step()
    return torch.stack([row.tokens for row in drawn])


def _that_fit(waiting: list[DalleRow], free: int) -> list[DalleRow]:
    """Taken from the end of `waiting`: as many as `free` sequences hold."""
    fitting: list[DalleRow] = []
    while waiting and waiting[-1].sequences <= free:
        fitting.append(waiting.pop())
        free -= fitting[-1].sequences
    return fitting
