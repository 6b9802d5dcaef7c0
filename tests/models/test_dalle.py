"""The transformer and its sampler: the cache agrees with the whole pass, a row never depends on its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from worker.engines.library import dtype_on
from worker.models.dalle import sampler as dalle_sampler
from worker.models.dalle.code_graphs import bucket_of
from worker.models.dalle.code_model import SequenceCache
from worker.models.dalle.dalle import Dalle
from worker.models.dalle.pictures import blank_ids, decode_ids, preview_ids
from worker.models.dalle.rows import DalleRow, RowSettings
from worker.models.dalle.sampler import DalleSampler, sample
from worker.models.errors import RangeError, ShapeError
from worker.models.vqgan.vqgan import VQGAN


def rows(count: int, **changes: float) -> list[RowSettings]:
    return [RowSettings(seed=0, image=index, **changes) for index in range(count)]  # type: ignore[arg-type]


def draw(dalle: Dalle, text: torch.Tensor, settings: list[RowSettings], **changes: bool) -> torch.Tensor:
    """Codes of rows that are all in at once."""
    sampler = DalleSampler(dalle, 2 * len(settings), **changes)
    drawn = [DalleRow(one, ids, dalle.image_length) for one, ids in zip(settings, text, strict=True)]
    sampler.admit(drawn)
    return finish(sampler, drawn)


def finish(sampler: DalleSampler, drawn: list[DalleRow]) -> torch.Tensor:
    """Step until all of them are done; their codes."""
    while not all(row.done for row in drawn):
        sampler.step()
        sampler.leave([row for row in sampler.rows if row.done])
    return torch.stack([row.tokens for row in drawn])


def captions(count: int) -> torch.Tensor:
    return torch.tensor([[5, 7, 9 + index, 0, 0, 0] for index in range(count)])


def test_logits_have_a_row_per_code(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (3, 16))
    assert dalle(captions(3), codes).shape == (3, 16, 32)
    assert dalle(captions(3), codes[:, :5]).shape == (3, 5, 32)


def test_no_code_sees_the_future(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (1, 16))
    other = codes.clone()
    other[:, 7] = (other[:, 7] + 1) % 32
    gap = (dalle(captions(1), codes) - dalle(captions(1), other)).abs().amax(2)[0]
    assert float(gap[:8].max()) == 0.0
    assert float(gap[8:].min()) > 0.0


def placed(dalle: Dalle, text: torch.Tensor) -> SequenceCache:
    """A cache whose rows draw these captions."""
    cache = dalle.new_cache(len(text))
    every = torch.arange(len(text))
    dalle.place(cache, every, dalle.prefill(text), every)
    return cache


def test_the_cache_agrees_with_the_whole_pass(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (2, 16))
    whole = dalle(captions(2), codes)
    cache = placed(dalle, captions(2))
    before = torch.cat([torch.zeros(2, 1, dtype=torch.int64), codes], 1)
    steps = [dalle.step(before[:, at], torch.full((2,), at), cache, at + 1) for at in range(16)]
    gap = float((torch.stack(steps, 1) - whole).abs().max())
    assert gap < 1e-4, f"cached and whole logits differ by {gap}"


def test_rows_at_different_places_share_a_step(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (2, 16))
    whole = dalle(captions(2), codes)
    cache = placed(dalle, captions(2))
    dalle.fill(codes[:1, :5], cache, torch.tensor([0]))
    dalle.fill(codes[1:, :2], cache, torch.tensor([1]))
    logits = dalle.step(torch.stack([codes[0, 4], codes[1, 1]]), torch.tensor([5, 2]), cache, 6)
    wanted = torch.stack([whole[0, 5], whole[1, 2]])
    gap = float((logits - wanted).abs().max())
    assert gap < 1e-4, f"row-wise logits differ by {gap}"


def test_a_moved_row_goes_on(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (2, 16))
    whole = dalle(captions(2), codes)
    cache = placed(dalle, captions(2))
    dalle.fill(codes[:, :5], cache, torch.arange(2))
    dalle.move(cache, torch.tensor([1]), torch.tensor([0]))
    logits = dalle.step(codes[1:, 4], torch.tensor([5]), cache, 6)
    gap = float((logits[0] - whole[1, 5]).abs().max())
    assert gap < 1e-4, f"a moved row's logits differ by {gap}"


def test_a_prefix_is_kept_and_continued(dalle: Dalle) -> None:
    whole = draw(dalle, captions(2), rows(2))
    again = [DalleRow(one, ids, 16, codes[:6]) for one, ids, codes in zip(rows(2), captions(2), whole, strict=True)]
    sampler = DalleSampler(dalle, 4)
    sampler.admit(again)
    assert torch.equal(whole, finish(sampler, again))
    with pytest.raises(ShapeError):
        DalleRow(rows(1)[0], captions(1)[0], 16, whole[0])


class CoBatched:
    """Pictures in every company: alone, with others, coming late, leaving and coming back, resumed."""

    OTHERS = (
        RowSettings(seed=9, image=0, temperature=0.3, top_k=3),
        RowSettings(seed=8, image=3, guidance=1.0, top_k=0),
        RowSettings(seed=7, image=1, top_p=0.7, guidance=7.0),
    )

    def __init__(self, dalle: Dalle, *, is_deterministic: bool) -> None:
        self.dalle = dalle
        self.sampler = DalleSampler(dalle, 34, is_deterministic=is_deterministic)

    def row(self, known: torch.Tensor | None = None) -> DalleRow:
        """The one that is looked at."""
        row = DalleRow(RowSettings(seed=0, image=2, top_p=0.95), captions(3)[2], 16)
        if known is not None:
            row.tokens[: len(known)], row.known = known, len(known)
        return row

    def others(self, count: int) -> list[DalleRow]:
        """Its neighbours."""
        text = captions(5)
        return [DalleRow(self.OTHERS[number % 3], text[number % 5], 16) for number in range(count)]

    def codes(self, row: DalleRow) -> torch.Tensor:
        """To the end."""
        return finish(self.sampler, [row])[0]


@pytest.mark.parametrize("is_deterministic", [False, True])
class TestCompany:
    @pytest.fixture
    def co_batched(self, dalle: Dalle, is_deterministic: bool) -> CoBatched:
        return CoBatched(dalle, is_deterministic=is_deterministic)

    @pytest.fixture
    def alone(self, dalle: Dalle, is_deterministic: bool) -> torch.Tensor:
        co_batched = CoBatched(dalle, is_deterministic=is_deterministic)
        row = co_batched.row()
        co_batched.sampler.admit([row])
        return co_batched.codes(row)

    @pytest.mark.parametrize("size", [2, 7, 16])
    def test_a_batch_changes_nothing(self, co_batched: CoBatched, alone: torch.Tensor, size: int) -> None:
        others, row = co_batched.others(size - 1), co_batched.row()
        co_batched.sampler.admit([*others[: size // 2], row, *others[size // 2 :]])
        assert torch.equal(co_batched.codes(row), alone)

    def test_coming_late_changes_nothing(self, co_batched: CoBatched, alone: torch.Tensor) -> None:
        co_batched.sampler.admit(co_batched.others(5))
        for _ in range(4):
            co_batched.sampler.step()
        row = co_batched.row()
        co_batched.sampler.admit([row])
        assert torch.equal(co_batched.codes(row), alone)

    def test_leaving_and_coming_back_changes_nothing(self, co_batched: CoBatched, alone: torch.Tensor) -> None:
        others, row = co_batched.others(4), co_batched.row()
        co_batched.sampler.admit([others[0], row, *others[1:]])
        for _ in range(6):
            co_batched.sampler.step()
        co_batched.sampler.leave([others[0], row])
        assert torch.equal(row.tokens[:6], alone[:6])
        co_batched.sampler.step()
        co_batched.sampler.admit([row])
        assert torch.equal(co_batched.codes(row), alone)

    def test_resuming_changes_nothing(self, co_batched: CoBatched, alone: torch.Tensor) -> None:
        row = co_batched.row(alone[:9])
        co_batched.sampler.admit([*co_batched.others(3), row])
        assert torch.equal(co_batched.codes(row), alone)


def logits_of(co_batched: CoBatched, row: DalleRow, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The guided logits (L, V) that a row's codes were drawn from."""
    seen: list[torch.Tensor] = []
    choose = dalle_sampler.sample_tokens

    def watch(logits: torch.Tensor, *others: Any) -> torch.Tensor:
        if row in co_batched.sampler.rows:
            seen.append(logits[co_batched.sampler.rows.index(row)].clone())
        return choose(logits, *others)

    with monkeypatch.context() as patch:
        patch.setattr(dalle_sampler, "sample_tokens", watch)
        co_batched.codes(row)
    return torch.stack(seen)


@pytest.mark.parametrize(("is_deterministic", "bound"), [(True, 0.0), (False, 1e-5)])
def test_logits_are_equal_to_the_bit_where_shapes_are_deterministic(
    dalle: Dalle, is_deterministic: bool, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for size in (1, 2, 7, 16):
        co_batched = CoBatched(dalle, is_deterministic=is_deterministic)
        row = co_batched.row()
        others = co_batched.others(size - 1)
        co_batched.sampler.admit([*others[: size // 2], row, *others[size // 2 :]])
        drawn.append(logits_of(co_batched, row, monkeypatch))
    gap = max(float((one - drawn[0]).abs().max()) for one in drawn)
    assert gap <= bound, f"logits differ by {gap}"


class Recorder:
    """In a CUDA graph's place: what it computed once it computes again, into the same tensor, from the same ones."""

    def __init__(self) -> None:
        self.made: list[torch.Tensor] = []

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        result = run()
        self.made.append(result)

        def replay() -> None:
            result.copy_(run())

        return result, replay


def test_recorded_steps_draw_the_same(dalle: Dalle) -> None:
    co_batched, record = CoBatched(dalle, is_deterministic=False), Recorder()
    plain, others = co_batched.row(), co_batched.others(6)
    co_batched.sampler.admit([plain, *others])
    wanted = co_batched.codes(plain)
    co_batched.sampler = DalleSampler(dalle, 34, record=record)
    row, early = co_batched.row(), co_batched.others(2)
    co_batched.sampler.admit(early)
    for _ in range(3):
        co_batched.sampler.step()
    co_batched.sampler.admit([*co_batched.others(6), row])
    assert torch.equal(co_batched.codes(row), wanted)
    assert co_batched.sampler.graphs is not None
    assert [len(made) for made in record.made] == [8, 16]  # buckets
    assert co_batched.sampler.graphs.replays > 15


@pytest.mark.parametrize(("rows", "bucket"), [(1, 8), (8, 8), (9, 16), (33, 64), (100, 100), (101, 128)])
def test_buckets(rows: int, bucket: int) -> None:
    assert bucket_of(rows, 100 if rows == 100 else 200) == bucket


def test_the_same_seed_gives_the_same_codes_in_any_batch(dalle: Dalle) -> None:
    text = captions(1).expand(5, -1)
    together = draw(dalle, text, rows(5))
    assert len({tuple(row.tolist()) for row in together}) == 5
    for index in (0, 3):
        alone = draw(dalle, text[:1], [RowSettings(seed=0, image=index)])
        assert torch.equal(alone[0], together[index])
    assert torch.equal(sample(dalle, text, rows(5), sequences=4), together)


def test_a_caption_is_run_once_for_all_its_rows(dalle: Dalle) -> None:
    sampler = DalleSampler(dalle, 12)
    sampler.admit([DalleRow(one, captions(1)[0], 16) for one in rows(5)])
    assert sampler.captions.misses == 2  # the caption and the empty one
    sampler.admit([DalleRow(RowSettings(seed=1, image=0), captions(1)[0], 16)])
    assert sampler.captions.misses == 2
    assert sampler.captions.hits == 10


def test_without_guidance_the_empty_caption_is_not_run(dalle: Dalle) -> None:
    sampler = DalleSampler(dalle, 4)
    sampler.admit([DalleRow(one, captions(1)[0], 16) for one in rows(2, guidance=1.0)])
    assert sampler.taken == 2
    sampler.admit([DalleRow(rows(1)[0], captions(1)[0], 16)])
    assert sampler.taken == 4
    with pytest.raises(ShapeError, match="do not fit"):
        sampler.admit([DalleRow(rows(1)[0], captions(1)[0], 16)])


def test_cold_rows_take_the_likeliest_code(dalle: Dalle) -> None:
    codes = draw(dalle, captions(1), rows(1, temperature=0.0, guidance=1.0))
    assert int(codes[0, 0]) == int(dalle(captions(1), torch.zeros(1, 1, dtype=torch.int64))[0, 0].argmax())


def test_a_row_of_no_numbers_is_marked_and_its_neighbour_is_not(dalle: Dalle) -> None:
    sampler = DalleSampler(dalle, 4)
    bad, good = (DalleRow(one, ids, 16) for one, ids in zip(rows(2), captions(2), strict=True))
    sampler.admit([bad, good])
    assert sampler.cache is not None
    assert sampler.cache.start is not None
    with torch.inference_mode():
        sampler.cache.start[0] = float("nan")
    sampler.step()
    assert not bad.is_finite
    assert good.is_finite
    sampler.leave([bad])
    sampler.admit([again := DalleRow(rows(1)[0], captions(1)[0], 16)])  # where the bad one's numbers were
    alone = draw(dalle, captions(2), rows(2))
    assert torch.equal(finish(sampler, [again, good]), alone)


def test_a_preview_shows_what_is_there(vqgan: VQGAN) -> None:
    ids = preview_ids(torch.arange(5), torch.full((4, 4), 31)).flatten()
    assert ids[:5].tolist() == [0, 1, 2, 3, 4]
    assert (ids[5:] == 31).all()
    assert blank_ids(vqgan).shape == (8, 8)
    images = decode_ids(vqgan, torch.zeros(2, 64, dtype=torch.int64))
    assert images.shape == (2, 3, 16, 16)
    assert float(images.min()) >= 0.0
    assert float(images.max()) <= 1.0


def test_an_empty_caption_differs_from_a_caption(dalle: Dalle) -> None:
    codes = torch.zeros(1, 2, dtype=torch.int64)
    assert not torch.allclose(dalle(captions(1), codes), dalle(torch.zeros(1, 6, dtype=torch.int64), codes))


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"guidance": -2.0}])
def test_settings_that_mean_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(RangeError):
        RowSettings(seed=0, image=0, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**63, True, 1.5])
def test_only_seeds_are_seeds(seed: object) -> None:
    with pytest.raises(RangeError):
        RowSettings(seed=seed, image=0)  # type: ignore[arg-type]


def test_text_of_another_length_is_refused(dalle: Dalle) -> None:
    with pytest.raises(ShapeError):
        dalle.prefill(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(RangeError):
        dalle.prefill(torch.full((1, 6), 300))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_draw_as_well(dalle: Dalle, dtype: torch.dtype) -> None:
    """As on a GPU: keys and values are of the weights' type, choices are made in float32."""
    whole = draw(dalle, captions(2), rows(2))
    dalle = dalle.to(dtype)
    assert dalle.new_cache(1).keys.dtype is dtype
    agree = (draw(dalle, captions(2), rows(2)) == whole).float().mean()
    assert float(agree) > 0.8, f"{float(agree):.0%} of the codes are those of float32"


def test_only_dalle_on_a_gpu_computes_in_halves() -> None:
    assert dtype_on(torch.device("cuda"), "dalle") is torch.float16
    assert dtype_on(torch.device("cuda"), "vqgan") is torch.float32
    assert dtype_on(torch.device("cpu"), "dalle") is torch.float32
