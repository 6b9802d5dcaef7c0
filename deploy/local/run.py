"""`dreamqueue run`: one spec in this process, its files into a folder. Settings are a worker's."""

from __future__ import annotations

import hashlib
import secrets
import sys
from pathlib import Path
from typing import Any

import click
from PIL.Image import Image
from pydantic import ValidationError

from api.client.commands.connection import output_option
from api.client.commands.job_input import input_options, job_input
from api.client.terminal.show import show_json
from shared.errors import DreamqueueError, InvalidInput
from shared.logs import configure_logs
from shared.settings import Settings
from shared.specs.kinds import image_refs, kinds, parse_spec
from shared.specs.types import Spec
from worker.engines.registry import UnknownKind
from worker.executor.local_run import LocalContext, LocalRun, run_here
from worker.transfer.encode import png_bytes
from worker.transfer.inputs import decode_picture

__all__ = ["run"]

DRAWN_SEEDS = 2**53  # as the API draws them
PICTURE_FIELDS = ("image", "init_image", "images")  # where a spec names pictures, at any depth


class LocalPictures:
    """Files named in an input, under references as uploaded pictures have them."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    def add(self, path: Path) -> str:
        """Remember the file; its reference."""
        ref = f"img_{hashlib.sha256(path.read_bytes()).hexdigest()}"
        self._files[ref] = path
        return ref

    def replaced(self, value: Any, field: str = "") -> Any:
        """`value` with references in place of files wherever it names pictures."""
        if isinstance(value, dict):
            return {name: self.replaced(member, name) for name, member in value.items()}
        if isinstance(value, list):
            return [self.replaced(item, field) for item in value]
        is_file = field in PICTURE_FIELDS and isinstance(value, str) and Path(value).is_file()
        return self.add(Path(value)) if is_file else value

    def load(self, spec: Spec, max_pixels: int) -> dict[str, Image]:
        """Every picture the spec names, decoded. Raises InvalidInput, UnreadableImage."""
        refs = image_refs(spec)
        if unknown := [ref for ref in refs if ref not in self._files]:
            raise InvalidInput(f"{unknown[0]} is no file here; a run without servers reads files only", field="image")
        return {ref: decode_picture(self._files[ref].read_bytes(), ref, max_pixels) for ref in refs}


@click.command()
@click.argument("kind")
@click.argument("prompts", nargs=-1)
@input_options
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/run"), show_default=True,
    help="Folder for the files it makes.",
)  # fmt: skip
@click.option("--previews/--no-previews", default=False, help="Save previews, too.")
@output_option
def run(kind: str, prompts: tuple[str, ...], out: Path, previews: bool, output: str, **options: Any) -> None:
    """Run one spec in this process: no server, no queue; breakpoints work, and the files go into a folder.

    The same spec, seed and settings (DREAMQUEUE_DEVICE, DREAMQUEUE_WEIGHTS_DIR, ...) give the same pictures as a queued
    job. Pictures are named by file. Kinds that work on a collection need servers: `dreamqueue up`.

    \b
    dreamqueue run dalle "a red apple" --n 4 --seed 7 --out apples
    dreamqueue run classify --image cat.png --label cat --label dog
    python -m pdb .venv/bin/dreamqueue run dalle "a red apple" --seed 7
    """
    settings = Settings.from_env()
    configure_logs(settings.model_copy(update={"log_format": "console", "log_level": "warning"}))
    pictures = LocalPictures()
    try:
        spec = _spec(kind, pictures.replaced(job_input(kind, prompts, options, pictures.add)))
        images = pictures.load(spec, settings.image_max_pixels)
        made = run_here(spec, images, settings, _reporting(out if previews else None))
    except InvalidInput as error:
        raise click.UsageError(error.message) from None
    except DreamqueueError as error:
        raise click.ClickException(f"{error.code}: {error.message}") from error
    except UnknownKind as error:  # of another package, whose engine is broken
        raise click.ClickException(str(error)) from None
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{kind} needs {error.name}: pip install 'dreamqueue[worker]'") from error
    _show(made, _saved(made, out), output)


def _spec(kind: str, input_: dict[str, Any]) -> Spec:
    """Validated as at the door, the seed drawn where none is given. Raises InvalidInput."""
    if kind not in kinds():
        raise InvalidInput(f"there is no kind {kind}; there are {', '.join(kinds())}")
    try:
        spec = parse_spec(kind, input_)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        told = [f"{'.'.join(map(str, item['loc'][1:])) or kind}: {item['msg']}" for item in found]
        raise InvalidInput("; ".join(told)) from None
    if getattr(spec, "collection", None) is not None:
        raise InvalidInput(f"{kind} works on a collection, which needs servers: `dreamqueue up`, `dreamqueue submit`")
    if getattr(spec, "seed", 0) is None:
        return spec.model_copy(update={"seed": secrets.randbelow(DRAWN_SEEDS)})
    return spec


def _reporting(previews: Path | None) -> LocalContext:
    """Progress to a terminal's stderr, previews into their folder."""

    def show(stage: str, step: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{stage} {step}/{total}\x1b[K", nl=step == total, err=True)

    def keep(image: Image, step: int) -> None:
        if previews is not None:
            previews.mkdir(parents=True, exist_ok=True)
            (previews / f"preview-{step:06d}.png").write_bytes(png_bytes(image))

    return LocalContext(show, keep)


def _saved(made: LocalRun, out: Path) -> list[Path]:
    paths = []
    for artifact in made.encoded.artifacts:
        out.mkdir(parents=True, exist_ok=True)
        paths.append(out / artifact.name)
        paths[-1].write_bytes(artifact.body)
    return paths


def _show(made: LocalRun, paths: list[Path], output: str) -> None:
    files = [{"file": str(path), **item.entry} for path, item in zip(paths, made.encoded.artifacts, strict=True)]
    if output == "json":
        show_json({"files": files, **made.encoded.data, "timings": made.timings})
        return
    for file in files:
        about = (f"{name} {file[name]}" for name in ("score", "seed", "index") if file.get(name) is not None)
        click.echo("  ".join([file["file"], *about]))
    told = {"parameters", "models", "software"}
    if data := {name: value for name, value in made.encoded.data.items() if name not in told}:
        show_json(data)
    click.echo("  ".join(f"{name.removesuffix('_s')} {seconds:.3f} s" for name, seconds in made.timings.items()))
