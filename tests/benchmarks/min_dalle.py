"""dalle-mini's codes a second on this CPU, beside PyPI's min-dalle with the same weights in the same run.

Nine pictures with guidance 16, as min-dalle draws a 3x3 grid; sizes are dalle-mini's, weights are random. Both sides
sample six codes at the picture's begin, middle and end: ours has more to read at every code, theirs always reads all.
Running the caption is in neither. Theirs is fetched once (no weights) into .bench/; no network, no measure.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.report import Report
from worker.checkpoints.min_dalle import decoder_manifest, encoder_manifest, join
from worker.models.dalle.dalle_bart import PRESETS, DalleBart, DalleBartConfig
from worker.models.dalle.rows import DalleRow, RowSettings
from worker.models.dalle.sampler import DalleSampler

__all__ = ["run_min_dalle"]

NAME = "dalle_mini_vs_min_dalle"
AT_LEAST = 6.0
PACKAGES = ("min-dalle==0.4.11", "emoji==2.14.0", "requests")  # what it imports and the worker does not have
FOLDER = Path(".bench/min-dalle-0.4.11")
PICTURES, GUIDANCE, TOP_K = 9, 16.0, 256
CODES = 6  # sampled at each of the places
PLACES = (0, 124, 248)  # their mean is the picture's
CLOSE = 1e-3  # logits of both sides, in float32 sums of a thousand terms


@dataclass
class _Peer:
    """min-dalle's modules with the caption that both sides draw."""

    encoder: Any
    decoder: Any
    text_ids: Tensor  # (2, 64): the empty caption, then the caption


def run_min_dalle(report: Report) -> None:
    """Measure, or say why not."""
    threads = torch.get_num_threads()
    try:
        models = _fetch()
        torch.set_num_threads(os.cpu_count() or 1)  # as min-dalle does
        with torch.inference_mode():
            _compare(report, models, PRESETS["mini"])
    except (subprocess.SubprocessError, ImportError, OSError) as error:
        report.miss(NAME, "x", f"cannot install {PACKAGES[0]}: {_last_line(error)}", at_least=AT_LEAST)
    finally:
        torch.set_num_threads(threads)


def _compare(report: Report, models: Any, config: DalleBartConfig) -> None:
    peer = _peer(models, config)
    ours = _ours(peer, config)
    report.add("dalle_mini_logit_gap", _gap(peer, ours), "logits", at_most=CLOSE, peer=PACKAGES[0])
    seconds = {"ours": 0.0, "peer": 0.0}
    for place in PLACES:
        for name, begin in (("peer", _peer_sampling), ("ours", _our_sampling)):
            seconds[name] += _timed(begin(ours if name == "ours" else peer, place))
    codes = PICTURES * len(PLACES)
    report.add("dalle_mini_codes_per_s", codes / seconds["ours"], "codes/s")
    report.add("min_dalle_codes_per_s", codes / seconds["peer"], "codes/s", peer=PACKAGES[0])
    report.add(NAME, seconds["peer"] / seconds["ours"], "x", at_least=AT_LEAST, peer=PACKAGES[0])


def _timed(step: Callable[[int], None]) -> float:
    """Seconds of a step: the median of CODES, after one to warm up."""
    step(0)
    times = []
    for number in range(CODES):
        start = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# --- ours ------------------------------------------------------------------------------------------------------------


def _ours(peer: _Peer, config: DalleBartConfig) -> DalleBart:
    with torch.device("meta"):
        model = DalleBart(config)
    encoder, decoder = peer.encoder.state_dict(), peer.decoder.state_dict()
    weights = join(
        {name: encoder[name] for name in encoder_manifest(config)},
        {name: decoder[name] for name in decoder_manifest(config)},
        config,
    )
    model.load_state_dict(weights, assign=True)
    model.eval().requires_grad_(False)
    model.pack()
    return model


def _our_sampling(model: DalleBart, place: int) -> Callable[[int], None]:
    """Nine rows that know `place` codes already."""
    sampler = DalleSampler(model, 2 * PICTURES)
    ids = _caption(model.config)[1]
    rows = [
        DalleRow(
            RowSettings(0, image, top_k=TOP_K, guidance=GUIDANCE), ids, model.image_length, _codes(place)[image]
        )
        for image in range(PICTURES)
    ]  # fmt: skip
    sampler.admit(rows)
    return lambda _: sampler.step()


# --- theirs ----------------------------------------------------------------------------------------------------------


def _fetch() -> Any:
    """min-dalle's models, from FOLDER, into which it is installed when it is not there."""
    if not FOLDER.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        part = FOLDER.with_suffix(".part")
        subprocess.run([*command, str(part), *PACKAGES], check=True, capture_output=True, text=True, timeout=90)
        part.rename(FOLDER)
    sys.path.append(str(FOLDER))
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # importing it switches gradients off
            return importlib.import_module("min_dalle.models")
    finally:
        sys.path.remove(str(FOLDER))


def _peer(models: Any, config: DalleBartConfig) -> _Peer:
    """Random weights, the norms' own among them; `device` is an argument of theirs without default."""
    sizes = {"embed_count": config.width, "attention_head_count": config.heads, "glu_embed_count": config.hidden}
    text = {"text_vocab_count": config.text_vocab, "text_token_count": config.text_length}
    encoder = models.DalleBartEncoder(layer_count=config.encoder_layers, device="cpu", **sizes, **text)
    decoder = models.DalleBartDecoder(
        layer_count=config.decoder_layers, image_vocab_count=config.code_rows - 1, device="cpu", **sizes
    )
    torch.manual_seed(0)
    for module, manifest in ((encoder, encoder_manifest(config)), (decoder, decoder_manifest(config))):
        weights = module.state_dict()
        for name in manifest:
            if weights[name].ndim == 1:
                weights[name].add_(torch.randn_like(weights[name]), alpha=0.1)
    return _Peer(encoder.eval(), decoder.eval(), _caption(config))


def _peer_state(peer: _Peer, images: int) -> dict[str, Tensor]:
    """What its sampling loop hands to the decoder, as in MinDalle.generate_raw_image_stream."""
    rows = [0] * images + [1] * images
    shape = (peer.decoder.layer_count, 4 * images, 256, peer.decoder.embed_count)
    return {
        "attention_mask": peer.text_ids[rows].not_equal(1)[:, None, None, :],
        "encoder_state": peer.encoder.forward(peer.text_ids)[rows],
        "attention_state": torch.zeros(shape),
    }


def _peer_sampling(peer: _Peer, place: int) -> Callable[[int], None]:
    """The loop of MinDalle.generate_raw_image_stream from code `place` on; what the cache holds costs nothing."""
    state = _peer_state(peer, PICTURES)
    settings = torch.tensor([1.0, TOP_K, GUIDANCE])
    last = torch.full((PICTURES, 1), 2**14 - 1)

    def step(number: int) -> None:
        codes, state["attention_state"] = peer.decoder.sample_tokens(
            settings=settings, prev_tokens=last, token_index=torch.tensor([place + number]), **state
        )
        last.copy_(codes[:, None])

    return step


# --- both ------------------------------------------------------------------------------------------------------------


def _gap(peer: _Peer, ours: DalleBart) -> float:
    """The largest difference of logits over the first codes of a picture, with and without its caption.

    The start code is an argument of theirs: what min-dalle itself feeds first is an ordinary code.
    """
    codes = _codes(4)[:1]
    state = _peer_state(peer, 1)
    cache = ours.new_cache(2)
    ours.place(cache, torch.arange(2), ours.prefill(peer.text_ids), torch.arange(2))
    gap = 0.0
    for at in range(codes.shape[1] + 1):
        last = codes[:, at - 1] if at else torch.tensor([ours.config.start_code])
        theirs, state["attention_state"] = peer.decoder.forward(
            prev_tokens=last[:, None], token_index=torch.tensor([at]), **state
        )
        found = ours.step(last.expand(2), torch.full((2,), at), cache, at + 1)
        gap = max(gap, float((found - theirs[:, -1, : ours.image_vocab]).abs().max()))
    return gap


def _caption(config: DalleBartConfig) -> Tensor:
    """(2, T): the empty caption and one of ten words."""
    ids = torch.full((2, config.text_length), config.text_pad)
    ids[0, :2] = torch.tensor([config.text_start, config.text_end])
    ids[1, :12] = torch.tensor([config.text_start, *range(1000, 11000, 1000), config.text_end])
    return ids


def _codes(count: int) -> Tensor:
    """(PICTURES, count) that are known before any is sampled."""
    return torch.randint(0, 2**14, (PICTURES, count), generator=torch.Generator().manual_seed(1))


def _last_line(error: Exception) -> str:
    words = (getattr(error, "stderr", None) or str(error)).strip()
    return str(words.splitlines()[-1]) if words else type(error).__name__
