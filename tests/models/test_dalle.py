"""The transformer and its sampler: the cache agrees with the whole pass, a row never depends on its neighbours."""

from __future__ import annotations

import pytest
import torch

from worker.models.dalle import Dalle
from worker.models.dalle_sampler import DalleSampler, RowSettings, blank_ids, decode_ids
from worker.models.errors import RangeError, ShapeError
from worker.models.vqgan import VQGAN


def rows(count: int, **changes: float) -> list[RowSettings]:
    return [RowSettings(seed=0, image=index, **changes) for index in range(count)]  # type: ignore[arg-type]


def run(sampler: DalleSampler) -> torch.Tensor:
    while not sampler.step():
        pass
    return sampler.tokens


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


def test_the_cache_agrees_with_the_whole_pass(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (2, 16))
    whole = dalle(captions(2), codes)
    cache = dalle.new_cache(2)
    steps = [dalle.prefill(captions(2), cache)]
    steps += [dalle.step(codes[:, position], position, cache) for position in range(15)]
    gap = float((torch.stack(steps, 1) - whole).abs().max())
    assert gap < 1e-4, f"cached and whole logits differ by {gap}"


def test_rows_at_different_places_share_a_batch(dalle: Dalle) -> None:
    codes = torch.randint(0, 32, (2, 16))
    whole = dalle(captions(2), codes)
    cache = dalle.new_cache(2)
    dalle.prefill(captions(2), cache)
    for position in range(4):
        dalle.step(codes[:, position], position, cache)
    ahead = torch.tensor([4, 2])  # the second row goes back and is fed its third code again
    logits = dalle.step(torch.stack([codes[0, 4], codes[1, 2]]), ahead, cache)
    wanted = torch.stack([whole[0, 5], whole[1, 3]])
    gap = float((logits - wanted).abs().max())
    assert gap < 1e-4, f"row-wise logits differ by {gap}"


def test_a_prefix_is_kept_and_continued(dalle: Dalle) -> None:
    whole = run(DalleSampler(dalle, captions(2), rows(2)))
    again = run(DalleSampler(dalle, captions(2), rows(2), prefix=whole[:, :6]))
    assert torch.equal(whole, again)
    with pytest.raises(ShapeError):
        DalleSampler(dalle, captions(2), rows(2), prefix=whole)


def test_the_same_seed_gives_the_same_codes_in_any_batch(dalle: Dalle) -> None:
    text = captions(1).expand(5, -1)
    together = run(DalleSampler(dalle, text, rows(5)))
    assert len({tuple(row.tolist()) for row in together}) == 5
    for index in (0, 3):
        alone = run(DalleSampler(dalle, text[:1], [RowSettings(seed=0, image=index)]))
        assert torch.equal(alone[0], together[index])


def test_without_guidance_the_empty_caption_is_not_run(dalle: Dalle) -> None:
    sampler = DalleSampler(dalle, captions(2), rows(2, guidance=1.0))
    assert sampler.cache.batch == 2
    assert DalleSampler(dalle, captions(2), rows(2)).cache.batch == 4


def test_cold_rows_take_the_likeliest_code(dalle: Dalle) -> None:
    sampler = DalleSampler(dalle, captions(1), rows(1, temperature=0.0, guidance=1.0))
    sampler.step()
    assert int(sampler.tokens[0, 0]) == int(dalle(captions(1), torch.zeros(1, 1, dtype=torch.int64))[0, 0].argmax())


def test_a_preview_shows_what_is_there(dalle: Dalle, vqgan: VQGAN) -> None:
    sampler = DalleSampler(dalle, captions(2), rows(2))
    for _ in range(5):
        sampler.step()
    blank = torch.full((16,), 31)
    ids = sampler.preview_ids(blank).flatten(1)
    assert torch.equal(ids[:, :5], sampler.tokens[:, :5])
    assert (ids[:, 5:] == 31).all()
    assert sampler.fraction == pytest.approx(5 / 16)
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
        dalle.prefill(torch.zeros(1, 5, dtype=torch.int64), dalle.new_cache(1))
    with pytest.raises(RangeError):
        dalle.prefill(torch.full((1, 6), 300), dalle.new_cache(1))
