"""Training VQGAN: reconstruction, perceptual and codebook loss first, the patch discriminator in the second half.

Source: Esser, Rombach, Ommer (2021), section 3.1 and equation 7 for the adaptive weight. The first steps go without the
codebook, which then starts from encoded pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.checkpoints.loading import save_model
from worker.models.clip.clip import Clip
from worker.models.vqgan.vqgan import VQGAN, VQGANConfig
from worker.training.data.augment import Augmentation, augment
from worker.training.data.pictures import Pictures
from worker.training.evaluation.measure import vqgan_figures
from worker.training.loop import Average, Plan, Run, adam, decayed_groups, mixed, set_rate
from worker.training.recipes.adversary import CodebookStatistics, Discriminator, Perceptual, hinge

EMOJI = VQGANConfig(
    channels=8,
    multipliers=(1, 4, 8, 14),
    encoder_blocks=1,
    decoder_blocks=1,
    attention_at=(),
    resolution=64,
    z_channels=64,
    code_width=16,
    codes=1024,
    groups=4,
)


@dataclass(frozen=True, slots=True)
class VQGANRecipe:
    """The embedded model's."""

    config: VQGANConfig = EMOJI
    batch: int = 128
    rate: float = 8e-4
    weight_decay: float = 1e-4
    perceptual: float = 0.5
    codebook: float = 1.0
    squared: float = 2.0  # weight of the squared error beside the absolute one
    adversarial: float = 0.1  # times the adaptive weight
    adversarial_from: float = 0.55  # share of the run
    plain_steps: int = 300  # without the codebook at first
    average: float = 0.999
    changed: float = 0.5  # share of a batch that is augmented
    seed: int = 3
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(
            turn=0.2,
            zoom=(0.75, 1.2),
            crop=0.15,
            hue=0.6,
            grey=0.05,
            outline=0.3,
            ground=0.1,
            blur=0.0,
            noise=0.0,
            erase=0.05,
        )
    )


class VQGANTrainer:
    """Model, discriminator, data on the device, optimisers."""

    def __init__(self, recipe: VQGANRecipe, pictures: Pictures, clip: Clip | None, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(recipe.seed)  # initial weights; a stage is a process of its own
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.vqgan = VQGAN(recipe.config).to(device).to(memory_format=torch.channels_last)
        self.average = Average(self.vqgan, VQGAN(recipe.config).to(device), recipe.average)
        self.codebook = CodebookStatistics(self.vqgan.quantize)
        self.critic = Discriminator().to(device).to(memory_format=torch.channels_last)
        self.perceptual = Perceptual(clip.to(device)) if clip is not None else None
        self.optimizer = adam(decayed_groups(self.vqgan, recipe.weight_decay), recipe.rate, (0.9, 0.99), device)
        self.critic_optimizer = adam(decayed_groups(self.critic, 0.0), recipe.rate, (0.5, 0.9), device)
        self.images = pictures.images.to(device)
        self.taken = 0

    def batch(self) -> Tensor:
        """Pictures (B, 3, 64, 64) in [-1, 1], a share of them augmented."""
        count = self.recipe.batch
        picks = torch.randint(0, len(self.images), (count,), device=self.device, generator=self.generator)
        images = self.images[picks].float() / 255.0
        changed = int(count * self.recipe.changed)
        free = torch.zeros(changed, dtype=torch.bool, device=self.device)
        with torch.no_grad():
            if changed:
                images[:changed] = augment(images[:changed], free, self.recipe.augmentation, self.generator)
        return (images * 2 - 1).contiguous(memory_format=torch.channels_last)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and the codebook's loss; moves the codebook."""
        latent = self.vqgan.encode(images).float()
        if self.taken < self.recipe.plain_steps:
            return self.vqgan.decode(latent), 1e-3 * latent.square().mean()
        if self.taken == self.recipe.plain_steps:
            self.codebook.seed(latent, self.generator)
        quantized = self.vqgan.quantize(latent)
        self.codebook.update(latent.detach(), quantized.indices, self.generator)
        return self.vqgan.decode(quantized.latent), quantized.loss

    def step(self, rate: float, progress: float) -> dict[str, Tensor]:
        """One update of both networks; the losses."""
        recipe, images = self.recipe, self.batch()
        with mixed(self.device):
            decoded, codebook = self.reconstruct(images)
            decoded = decoded.float()
            error = (images - decoded).abs().mean() + recipe.squared * (images - decoded).square().mean()
            felt = self.perceptual(images, decoded) if self.perceptual else error.new_zeros(())
            likeness = error + recipe.perceptual * felt
            loss = likeness + recipe.codebook * codebook
            fooling = error.new_zeros(())
            if progress > recipe.adversarial_from:
                self.critic.requires_grad_(False)
                fooling = -self.critic(decoded).float().mean()
                self.critic.requires_grad_(True)
                ramp = min(1.0, (progress - recipe.adversarial_from) / 0.05)
                loss = loss + ramp * recipe.adversarial * self.adaptive(likeness, fooling) * fooling
        self._update(self.optimizer, loss, self.vqgan, rate)
        out = {"l1": (images - decoded).abs().mean(), "codebook": codebook, "felt": felt}
        if progress > recipe.adversarial_from - 0.05:
            with mixed(self.device):
                judged = hinge(self.critic(images).float(), self.critic(decoded.detach()).float())
            self._update(self.critic_optimizer, judged, self.critic, 0.5 * rate)
            out["critic"] = judged
        self.average.update()
        self.taken += 1
        return {name: value.detach() for name, value in out.items()}

    def adaptive(self, likeness: Tensor, fooling: Tensor) -> Tensor:
        """Equation 7: the ratio of both gradients at the last layer, at most 10^4."""
        last = self.vqgan.decoder.conv_out.weight
        (one,) = torch.autograd.grad(likeness, last, retain_graph=True)
        (other,) = torch.autograd.grad(fooling, last, retain_graph=True)
        return (one.norm() / (other.norm() + 1e-4)).clamp(0, 1e4).detach()

    def _update(self, optimizer: Any, loss: Tensor, module: torch.nn.Module, rate: float) -> None:
        set_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "vqgan": self.vqgan.state_dict(),
            "average": self.average.target.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizers": [self.optimizer.state_dict(), self.critic_optimizer.state_dict()],
            "codebook": [self.codebook.counts, self.codebook.sums],
            "taken": self.taken,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.vqgan.load_state_dict(state["vqgan"])
        self.average.target.load_state_dict(state["average"])
        self.average.count = 10**6
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizers"][0])
        self.critic_optimizer.load_state_dict(state["optimizers"][1])
        self.codebook.counts, self.codebook.sums = (part.to(self.device) for part in state["codebook"])
        self.taken = state["taken"]


def train_vqgan(plan: Plan, clip: Clip | None, recipe: VQGANRecipe) -> VQGAN:
    """The whole stage; the averaged model is saved in `plan.out` every few minutes and at the end."""
    trainer = VQGANTrainer(recipe, Pictures.training(plan.data), clip, plan.device)
    held_out = Pictures.held_out(plan.data)  # measured, never trained on
    run = Run(plan.out, plan.budget)
    state = run.resume() if plan.resume else None
    if state:
        trainer.load(state)
    model = trainer.average.target
    for step in run.steps():
        losses = trainer.step(run.rate(recipe.rate), run.progress)
        if step % 100 == 0:
            run.log(**{name: float(value) for name, value in losses.items()})
        if run.due():
            run.save(trainer.state())
            save_model(model, plan.out)
            run.log(**vqgan_figures(model, held_out))
    save_model(model, plan.out)
    run.save(trainer.state())
    run.log(**vqgan_figures(model, held_out))
    return model
