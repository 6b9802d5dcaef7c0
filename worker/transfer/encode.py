"""An engine's output as files: PNGs that carry their own recipe, and the result that lists them."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from shared.storage import StoredObject
from shared.version import VERSION
from worker.engines.base import Output, Picture

__all__ = ["SOFTWARE", "Artifact", "EncodedOutput", "encode", "png_bytes"]

SOFTWARE = f"dreamqueue {VERSION}"


@dataclass(frozen=True)
class Artifact:
    """One file to store. `entry` is what the result says of it besides where and how large it is."""

    name: str
    body: bytes
    content_type: str
    entry: dict[str, Any]


@dataclass(frozen=True)
class EncodedOutput:
    """All of an output but the storing."""

    pictures: list[Artifact]
    files: list[Artifact]
    data: dict[str, Any]  # of the result: parameters, models, software, and what the engine adds

    @property
    def artifacts(self) -> list[Artifact]:
        """Pictures first."""
        return [*self.pictures, *self.files]

    @property
    def bytes(self) -> int:
        """Of all artifacts."""
        return sum(len(artifact.body) for artifact in self.artifacts)

    def result(self, stored: list[StoredObject]) -> dict[str, Any]:
        """The job's result, once the artifacts are stored; `stored` in the order of `artifacts`."""
        entries = [
            {"name": artifact.name, "key": item.key, "bytes": item.bytes, "sha256": item.sha256, **artifact.entry}
            for artifact, item in zip(self.artifacts, stored, strict=True)
        ]
        count = len(self.pictures)
        return {"images": entries[:count], "files": entries[count:], **self.data}


def encode(output: Output) -> EncodedOutput:
    """Encode the pictures, in the engine's order: best first within each prompt."""
    models = [asdict(model) for model in output.models]
    recipe = {"parameters": json.dumps(output.parameters), "models": json.dumps(models), "software": SOFTWARE}
    pictures = [_picture(f"{number:03d}.png", picture, recipe) for number, picture in enumerate(output.pictures)]
    files = [
        Artifact(name, body, content_type, {"content_type": content_type})
        for name, (body, content_type) in output.files.items()
    ]
    data = {"parameters": output.parameters, "models": models, "software": SOFTWARE, **output.data}
    return EncodedOutput(pictures, files, data)


def _picture(name: str, picture: Picture, recipe: dict[str, str]) -> Artifact:
    score = None if picture.score is None else round(picture.score, 6)
    entry = {
        "prompt": picture.prompt,
        "seed": picture.seed,
        "index": picture.index,
        "score": score,
        "width": picture.image.width,
        "height": picture.image.height,
    }
    described = {name: str(entry[name]) for name in ("prompt", "seed", "index", "score") if entry[name] is not None}
    return Artifact(name, png_bytes(picture.image, {**described, **recipe}), "image/png", entry)


def png_bytes(image: Image, text: dict[str, str] | None = None) -> bytes:
    """PNG with `text` in its text chunks, UTF-8 where Latin-1 does not do."""
    chunks = PngInfo()
    for name, value in (text or {}).items():
        chunks.add_text(name, value)  # Pillow writes iTXt where the value is not Latin-1
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
