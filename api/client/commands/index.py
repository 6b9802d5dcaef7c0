"""index: a folder, an archive or an address becomes a collection that can be searched."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import click

from api.client.client import DreamqueueClient
from api.client.commands.connection import connected, json_option
from api.client.errors import Missing
from api.client.files.packing import MAX_PICTURE_BYTES, Tally, packs_of, pictures_in
from api.client.files.tables import TableError, read_table
from api.client.terminal.show import show_json
from api.client.terminal.upload_bar import UploadBar

__all__ = ["index", "valid_name"]

OPENMOJI = "openmoji"
ARCHIVES = frozenset({".zip", ".tar"})
SHOWN_ERRORS = 20
URLS = ("http://", "https://")


@click.command()
@click.argument("source", required=False)
@click.option("--collection", "-c", help="Where to; default: the folder's or archive's name.")
@click.option("--model", help="The CLIP that sees the pictures, for a collection that is new.")
@click.option(
    "--metadata",
    "table",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A .csv with a column `file`, .json or .jsonl: what is known of a folder's pictures.",
)
@click.option("--openmoji", is_flag=True, help="The 1,652 pictures that come with dreamqueue, in place of SOURCE.")
@json_option
@connected
def index(
    client: DreamqueueClient,
    source: str | None,
    collection: str | None,
    model: str | None,
    table: Path | None,
    openmoji: bool,
    as_json: bool,
) -> None:
    """Put pictures into a collection, so that they can be searched; again, only what is new is looked at.

    SOURCE is a folder of PNG, JPEG and WebP files, a .zip or .tar of them, or a picture's address.

    \b
    dreamqueue index --openmoji
    dreamqueue index ~/Pictures --collection photos --metadata photos.csv
    """
    if openmoji == (source is not None):
        raise click.UsageError("give SOURCE or --openmoji")
    address = source or ""
    with ExitStack() as stack:
        path = stack.enter_context(_openmoji()) if openmoji else Path(address)
        kind = _kind_of(address, path)
        if table and kind != "folder":
            raise click.BadParameter("is for a folder; an archive has its table within", param_hint="--metadata")
        name = collection or _default_name(kind, OPENMOJI if openmoji else path.resolve().name)
        upload = _Upload(client, name, model, stack.enter_context(UploadBar()), Tally())
        if kind == "folder":
            upload.send_folder(path, table)
        else:
            upload.send_one(path if kind == "archive" else address)
    _show(name, upload.tally, client.collection(name)["rows"], as_json)


@dataclass(frozen=True)
class _Upload:
    """Pictures on their way into a collection, which is made once there is something to put into it."""

    client: DreamqueueClient
    collection: str
    model: str | None
    bar: UploadBar
    tally: Tally

    def send_folder(self, folder: Path, table: Path | None) -> None:
        """All pictures of a folder, an archive at a time."""
        names = _small_enough(folder, pictures_in(folder), self.tally)
        if not names and not self.tally.failed:
            raise click.BadParameter("no PNG, JPEG or WebP file in it", param_hint="SOURCE")
        known = _rows_of(table, set(names))
        _create(self.client, self.collection, self.model)
        self.bar.expect(len(names))
        with tempfile.TemporaryDirectory(prefix="dreamqueue-") as work:
            for pack in packs_of(folder, names, known, Path(work)):
                self.bar.say(f"sending {pack.pictures:,}")
                job = self.client.add_archive(self.collection, pack.path)
                self.tally.add(self.bar.follow(self.client, job, pack.pictures))

    def send_one(self, source: Path | str) -> None:
        """An archive, or the picture at an address."""
        _create(self.client, self.collection, self.model)
        self.bar.say("sending")
        if isinstance(source, Path):
            job = self.client.add_archive(self.collection, source)
        else:
            job = self.client.add_images(self.collection, [source])
        self.tally.add(self.bar.follow(self.client, job, None))


def valid_name(text: str) -> str:
    """A collection's name like `text`; empty where nothing of it can stay."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]


def _kind_of(source: str, path: Path) -> str:
    if source.startswith(URLS):
        return "url"
    if path.is_dir():
        return "folder"
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        return "archive"
    raise click.BadParameter(f"{source}: a folder, a .zip or .tar, or an address", param_hint="SOURCE")


def _default_name(kind: str, name: str) -> str:
    valid = "" if kind == "url" else valid_name(Path(name).stem if kind == "archive" else name)
    if not valid:
        raise click.BadParameter("say which", param_hint="--collection")
    return valid


@contextmanager
def _openmoji() -> Iterator[Path]:
    """The shipped archive, as a file. deploy is not imported: only the files beside it are looked for."""
    try:
        shipped = resources.files("deploy") / "pictures" / "openmoji.zip"
        there = shipped.is_file()
    except ModuleNotFoundError:
        there = False
    if not there:
        raise click.ClickException(
            "the OpenMoji pictures come with the whole of dreamqueue; here is the client alone. From a checkout: "
            "dreamqueue index deploy/pictures/openmoji.zip"
        )
    with resources.as_file(shipped) as path:
        yield path


def _small_enough(folder: Path, names: list[str], tally: Tally) -> list[str]:
    """The server refuses an archive as a whole for one picture that is too large."""
    kept = []
    for name in names:
        size = (folder / name).stat().st_size
        if size > MAX_PICTURE_BYTES:
            tally.refuse(name, "too_large", f"{size:,} bytes; {MAX_PICTURE_BYTES:,} at most")
        else:
            kept.append(name)
    return kept


def _rows_of(table: Path | None, names: set[str]) -> dict[str, dict[str, object]]:
    if table is None:
        return {}
    try:
        rows = read_table(table)
    except TableError as error:
        raise click.BadParameter(str(error), param_hint="--metadata") from None
    if strangers := sorted(set(rows) - names):
        click.echo(f"{len(strangers)} rows of {table} are of no picture in the folder, {strangers[0]} first", err=True)
    return rows


def _create(client: DreamqueueClient, name: str, model: str | None) -> None:
    """As it is, where it is there: its model is its own unless another one is asked for."""
    if model is None:
        try:
            client.collection(name)
        except Missing:
            client.create_collection(name)
    else:
        client.create_collection(name, model=model)


def _show(name: str, tally: Tally, rows: int, as_json: bool) -> None:
    """What came of it; the exit code says so where nothing but failures did."""
    if as_json:
        show_json({"collection": name, "rows": rows, **asdict(tally)})
    else:
        _tell(name, tally, rows)
    if tally.seen and tally.failed == tally.seen:
        click.get_current_context().exit(1)


def _tell(name: str, tally: Tally, rows: int) -> None:
    click.echo(
        f"{name}: {tally.added:,} added, {tally.updated:,} updated, {tally.unchanged:,} unchanged, "
        f"{tally.failed:,} failed; {rows:,} in all"
    )
    errors = tally.errors or []
    for error in errors[:SHOWN_ERRORS]:
        click.echo(f"  {error.get('item') or error.get('image')}: {error['message']} ({error['code']})", err=True)
    if tally.failed > SHOWN_ERRORS:
        click.echo(
            f"  and {tally.failed - min(SHOWN_ERRORS, len(errors)):,} more; --json lists what is known", err=True
        )
    if rows:
        words = '"a red heart"' if name == OPENMOJI else "WORDS"
        click.echo(f"next: dreamqueue search {words} --collection {name}")
