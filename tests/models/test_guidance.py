"""Crops, distances and clamps of VQGAN+CLIP, and the stepper's resuming."""

from __future__ import annotations

import math

import pytest
import torch

from worker.models.clip.clip import Clip
from worker.models.errors import RangeError
from worker.models.noise import key_of
from worker.models.vqgan.vqgan import VQGAN
from worker.models.vqgan_clip.guidance import (
    CutSettings,
    clamp_with_gradient,
    cut,
    cut_boxes,
    prompt_loss,
    spherical_distance,
)
from worker.models.vqgan_clip.rows import step_alone
from worker.models.vqgan_clip.state import Perceptor, Prompt, VqganClipState, start


def test_crops_lie_inside_the_picture() -> None:
    settings = CutSettings(cuts=64, full=0, rotation=0.0, smallest=0.3)
    boxes = cut_boxes(key_of(0), settings, 64, 96)
    reach = boxes[:, :, 2].abs() + boxes[:, :, :2].abs().sum(2)
    assert float(reach.max()) <= 1.0 + 1e-5


def test_a_whole_view_without_jitter_is_the_picture() -> None:
    picture = torch.rand(1, 3, 16, 16)
    boxes = cut_boxes(key_of(0), CutSettings(cuts=1, full=1, jitter=0.0, rotation=0.0), 16, 16)
    torch.testing.assert_close(cut(picture, boxes, 16), picture, atol=1e-5, rtol=0)


def test_the_gradient_reaches_the_picture_through_every_cut() -> None:
    picture = torch.rand(1, 3, 16, 16, requires_grad=True)
    views = cut(picture, cut_boxes(key_of(1), CutSettings(cuts=8, full=2), 16, 16), 12)
    assert views.shape == (8, 3, 12, 12)
    views.sum().backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().sum()) > 0


def test_spherical_distance_of_right_angles() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert float(spherical_distance(x, y)) == pytest.approx(2 * (math.pi / 4) ** 2, abs=1e-5)


def test_a_negative_weight_pushes_and_a_stop_stops() -> None:
    target = torch.tensor([[1.0, 0.0]])
    view = torch.tensor([[0.6, 0.8]], requires_grad=True)
    grads = []
    for weight, stop in ((1.0, -math.inf), (-1.0, -math.inf), (1.0, 10.0)):
        loss = prompt_loss(view, target, torch.tensor([weight]), torch.tensor([stop]))
        grads.append(torch.autograd.grad(loss, view)[0])
    torch.testing.assert_close(grads[0], -grads[1])
    assert float(grads[2].abs().max()) == 0.0


def test_the_clamp_lets_gradients_lead_back() -> None:
    x = torch.tensor([2.0, 2.0], requires_grad=True)
    (clamp_with_gradient(x, 0.0, 1.0) * torch.tensor([1.0, -1.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0]


def run_of(vqgan: VQGAN, clip: Clip, seed: int = 0) -> VqganClipState:
    prompt = Prompt(clip.encode_text(["a red apple"])[0])
    return start(vqgan, [Perceptor(clip, [prompt])], seed=seed, steps=6, size=(16, 16))


def test_a_run_moves_and_is_the_same_again(vqgan: VQGAN, clip: Clip) -> None:
    state, again, other = run_of(vqgan, clip), run_of(vqgan, clip), run_of(vqgan, clip, seed=1)
    before = state.image()
    while not state.done:
        assert step_alone(state) == step_alone(again)
        step_alone(other)
    assert torch.equal(state.image(), again.image())
    assert not torch.equal(state.image(), other.image())
    assert state.image().shape == before.shape == (1, 3, 16, 16)
    assert not torch.equal(state.latent(state.grids), state.first)


def test_a_snapshot_goes_on_exactly(vqgan: VQGAN, clip: Clip) -> None:
    state = run_of(vqgan, clip)
    step_alone(state)
    saved = state.snapshot()
    wanted = [step_alone(state) for _ in range(3)]
    other = run_of(vqgan, clip)
    other.restore(saved)
    assert [step_alone(other) for _ in range(3)] == wanted
    assert torch.equal(other.image(), state.image())


def test_a_run_without_prompts_is_refused(vqgan: VQGAN, clip: Clip) -> None:
    with pytest.raises(RangeError):
        start(vqgan, [Perceptor(clip, [])], seed=0, steps=1, size=(16, 16))
