"""The encoder-decoder transformer, code by code, against the same mathematics written plainly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.plain_dalle_bart import plain_decode, plain_encode, random_weights
from worker.checkpoints.min_dalle import join
from worker.models.dalle.code_model import CodeModel, SequenceCache
from worker.models.dalle.dalle_bart import PRESETS, DalleBart, DalleBartConfig
from worker.models.dalle.normformer import Shift
from worker.models.dalle.rows import RowSettings
from worker.models.dalle.sampler import sample
from worker.models.errors import ConfigError, RangeError, ShapeError

TINY = DalleBartConfig(
    text_vocab=40, text_length=20, image_vocab=30, code_rows=33, grid=5, width=24, hidden=37, heads=3,
    encoder_layers=2, decoder_layers=3, start_code=30,
)  # fmt: skip
SHORT, LONG = [0, 7, 2], [0, *range(5, 22), 2]  # of one block and of two
CLOSE = 2e-4  # logits are of the order of 1 to 10, in float32


def caption(words: list[int]) -> list[int]:
    return words + [TINY.text_pad] * (TINY.text_length - len(words))


@pytest.fixture
def model() -> DalleBart:
    return build(TINY)


def build(config: DalleBartConfig) -> DalleBart:
    model = DalleBart(config)
    model.load_state_dict(join(*random_weights(config), config))
    return model.eval().requires_grad_(False)


def plain(words: list[int], codes: Tensor) -> Tensor:
    """Logits (N + 1, V)."""
    encoder, decoder = random_weights(TINY)
    ids = caption(words)
    return plain_decode(decoder, TINY, plain_encode(encoder, TINY, ids), ids, codes.tolist())


def begin(model: CodeModel, captions: list[list[int]], rows: list[int], spare: int = 0) -> SequenceCache:
    """A cache whose row i draws captions[rows[i]]."""
    cache = model.new_cache(len(rows) + spare)
    prefill = model.prefill(torch.tensor([caption(words) for words in captions]))
    model.place(cache, torch.arange(len(rows)), prefill, torch.tensor(rows))
    return cache


def feed(model: CodeModel, cache: SequenceCache, codes: Tensor, position: list[int]) -> Tensor:
    """One step of codes (S, N) with row i at position[i]."""
    at = torch.tensor(position)
    last = codes[torch.arange(len(at)), (at - 1).clamp_min(0)]
    return model.step(last, at, cache, int(at.max()) + 1)


def run(model: CodeModel, cache: SequenceCache, codes: Tensor) -> Tensor:
    """Logits (S, N, V) of rows in step."""
    return torch.stack([feed(model, cache, codes, [at] * len(codes)) for at in range(codes.shape[1])], 1)


def assert_close(found: Tensor, wanted: Tensor, what: str) -> None:
    gap = float((found - wanted).abs().max())
    assert gap < CLOSE, f"{what}: logits differ by {gap}, of at most {float(wanted.abs().max())}"


@pytest.mark.parametrize("is_packed", [False, True])
def test_code_by_code_agrees_with_the_plain_form(model: DalleBart, is_packed: bool) -> None:
    if is_packed:
        model.pack()
    codes = torch.randint(0, 30, (3, 25))
    found = run(model, begin(model, [SHORT, LONG], [1, 0, 1]), codes)
    for row, words in enumerate((LONG, SHORT, LONG)):
        assert_close(found[row], plain(words, codes[row, :-1]), f"row {row}")


def test_rows_stand_at_their_own_places(model: DalleBart) -> None:
    codes = torch.randint(0, 30, (2, 25))
    wanted = [plain(LONG, codes[0, :-1]), plain(SHORT, codes[1, :-1])]
    cache = begin(model, [LONG, SHORT], [0, 1])
    for at in range(6):  # the second row has not begun: it is fed its start again and again
        found = feed(model, cache, codes, [at, 0])
    assert_close(found[1], wanted[1][0], "the row that waits")
    for at in range(6, 25):
        found = feed(model, cache, codes, [at, at - 6])
        assert_close(found[0], wanted[0][at], f"code {at} of the row ahead")
        assert_close(found[1], wanted[1][at - 6], f"code {at - 6} of the row behind")


def test_a_slot_is_handed_on_clean(model: DalleBart) -> None:
    codes = torch.randint(0, 30, (2, 25))
    cache = begin(model, [LONG], [0, 0])
    run(model, cache, codes)
    cache.keys[:, 1] = float("nan")
    assert cache.cross_values is not None
    cache.cross_values[:, 1] = float("nan")
    prefill = model.prefill(torch.tensor([caption(SHORT)]))
    model.place(cache, torch.tensor([1]), prefill, torch.tensor([0]))
    found = feed(model, cache, codes, [25 - 1, 0])
    assert_close(found[1], plain(SHORT, codes[1, :0])[0], "the new sequence")


def test_rows_move_with_all_they_have(model: DalleBart) -> None:
    codes = torch.randint(0, 30, (3, 25))
    cache = begin(model, [SHORT, LONG], [0, 0, 1], spare=1)
    run(model, cache, codes[:, :7])
    model.move(cache, torch.tensor([2, 0]), torch.tensor([0, 2]))
    swapped = codes[[2, 1, 0]]
    found = feed(model, cache, swapped, [7, 7, 7])
    for row, words in enumerate((LONG, SHORT, SHORT)):
        assert_close(found[row], plain(words, swapped[row, :7])[7], f"row {row}")
    assert cache.text_live == [len(LONG), len(SHORT), len(SHORT), 0]


def test_known_codes_are_read_in_one_pass(model: DalleBart) -> None:
    codes = torch.randint(0, 30, (3, 25))
    cache = begin(model, [SHORT, LONG], [1, 0, 1])
    model.fill(codes[[0, 2], :9], cache, torch.tensor([0, 2]))
    found = feed(model, cache, codes, [9, 0, 9])
    for row, words, at in ((0, LONG, 9), (1, SHORT, 0), (2, LONG, 9)):
        assert_close(found[row], plain(words, codes[row, :at])[at], f"row {row}")


def test_the_empty_caption_is_a_start_and_an_end(model: DalleBart) -> None:
    assert model.blank.tolist() == [0, 2] + [1] * 18
    codes = torch.randint(0, 30, (1, 4))
    cache = model.new_cache(2)
    prefill = model.prefill(torch.stack([torch.tensor(caption(LONG)), model.blank]))
    model.place(cache, torch.tensor([0, 1]), prefill, torch.tensor([0, 1]))
    found = run(model, cache, codes.expand(2, -1))
    assert_close(found[0], plain(LONG, codes[0, :-1]), "with the caption")
    assert_close(found[1], plain([0, 2], codes[0, :-1]), "without")
    assert not torch.allclose(found[0], found[1])


def test_a_row_is_the_same_to_the_bit_beside_any_others() -> None:
    model = build(DalleBartConfig(
        text_vocab=40, text_length=32, image_vocab=30, code_rows=33, grid=6, width=64, hidden=107, heads=2,
        encoder_layers=1, decoder_layers=2, start_code=30,
    ))  # fmt: skip
    model.pack()
    codes = torch.randint(0, 30, (16, 36))
    long = [*LONG, *[1] * 13]
    texts = torch.tensor([SHORT + [1] * 29, long])
    prefill = [model.prefill(text[None]) for text in texts]
    seen: dict[int, Tensor] = {}
    for rows in (16, 7, 2, 1):
        cache = model.new_cache(16)
        for row in range(rows):
            model.place(cache, torch.tensor([row]), prefill[row > 1], torch.tensor([0]))
        for at in range(24):
            ahead = torch.tensor([at, at, *[min(at * 2, 35)] * 14][:rows])
            last = codes[torch.arange(rows), (ahead - 1).clamp_min(0)]
            found = model.step(last, ahead, cache, int(ahead.max()) + 1)[:2]
            gap = float((found - seen.setdefault(at, found)[:rows]).abs().max())
            assert gap == 0.0, f"code {at} among {rows} rows: logits differ by {gap} from those among 16"


def test_pictures_do_not_depend_on_their_company(model: DalleBart) -> None:
    model.pack()
    ids = torch.tensor([caption(LONG), caption(SHORT), caption(LONG)])
    rows = [RowSettings(seed=3, image=image, guidance=scale) for image, scale in enumerate((16.0, 1.0, 4.0))]
    together = sample(model, ids, rows)
    assert together.shape == (3, 25)
    assert int(together.max()) < TINY.image_vocab
    for index, row in enumerate(rows):
        assert torch.equal(sample(model, ids[index, None], [row])[0], together[index])
        assert torch.equal(sample(model, ids, rows, sequences=3)[index], together[index])


def test_a_cache_of_one_row_tells_what_each_takes(model: DalleBart) -> None:
    one, many = model.new_cache(1), model.new_cache(9)
    assert one.bytes_per_sequence == many.bytes_per_sequence
    assert one.bytes_per_sequence == 2 * 3 * 24 * (32 + 32) * 4 + 32  # keys and values, layers, width, slots; marks
    assert model.new_cache(1, torch.bfloat16).bytes_per_sequence == 2 * 3 * 24 * (32 + 32) * 2 + 32


def test_half_the_bytes_give_nearly_the_same(model: DalleBart) -> None:
    codes = torch.randint(0, 30, (1, 12))
    prefill = model.prefill(torch.tensor([caption(LONG)]))
    cache = model.new_cache(1, torch.bfloat16)
    model.place(cache, torch.tensor([0]), prefill, torch.tensor([0]))
    wanted = plain(LONG, codes[0, :-1])
    gap = float((run(model, cache, codes)[0] - wanted).abs().max() / wanted.abs().max())
    assert gap < 0.05, f"with a bfloat16 cache logits differ by {gap} of the largest"


@pytest.mark.parametrize(("name", "published"), [("mini", 437_962_720), ("mega", 2_587_967_488)])
def test_a_preset_has_the_published_size(name: str, published: int) -> None:
    """Counted in min-dalle 0.4.11, which gives the norms that only shift a scale of ones, and samples from all rows."""
    config = PRESETS[name]
    with torch.device("meta"):
        model = DalleBart(config)
    size = sum(parameter.numel() for parameter in model.parameters())
    scales = sum(module.bias.numel() for module in model.modules() if isinstance(module, Shift))
    assert size + scales + (config.code_rows - config.image_vocab) * config.width == published


@pytest.mark.parametrize(
    "bad", [{"heads": 5}, {"code_rows": 29}, {"start_code": 33}, {"text_pad": 40}, {"text_length": 1}]
)
def test_settings_that_cannot_be_built_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        DalleBartConfig.from_dict(TINY.to_dict() | bad)


def test_another_form_or_setting_is_refused() -> None:
    assert DalleBartConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(ConfigError, match="colour"):
        DalleBartConfig.from_dict({"colour": 1})
    with pytest.raises(ConfigError, match="other"):
        DalleBartConfig.from_dict({"form": "other"})


def test_text_that_is_none_is_refused(model: DalleBart) -> None:
    with pytest.raises(ShapeError):
        model.prefill(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(RangeError):
        model.prefill(torch.full((1, 20), 40))
    with pytest.raises(RangeError):
        model.prefill(torch.full((1, 20), TINY.text_pad))
