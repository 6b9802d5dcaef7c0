"""The toy's engine. Only workers that serve the kind import it."""

from __future__ import annotations

from PIL import Image

from shared.errors import InvalidInput
from toy_kind import ToySpec
from worker.engines.base import Model, Output, Picture, RunContext, Task
from worker.engines.options import EngineParts

__all__ = ["ToyEngine", "build"]


class ToyEngine:
    """Needs no model and no device."""

    resumes = False

    def load(self) -> list[Model]:
        """Nothing to load."""
        return []

    def run(self, task: Task, context: RunContext) -> Output:
        """Raises InvalidInput where a word is no colour."""
        spec = task.spec
        assert isinstance(spec, ToySpec)
        pictures = []
        for number, prompt in enumerate(spec.prompts):
            context.progress("paint", number, len(spec.prompts))
            try:
                image = Image.new("RGB", (spec.size, spec.size), prompt)
            except ValueError:
                raise InvalidInput(f"{prompt} is no colour", field=f"prompts.{number}") from None
            pictures.append(Picture(image, prompt, seed=spec.seed or 0, index=number))
        return Output(pictures, parameters=spec.model_dump(exclude={"kind"}))


def build(_parts: EngineParts) -> ToyEngine:
    """The engine, as the declaration names it."""
    return ToyEngine()
