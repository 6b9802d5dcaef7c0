"""The small parts of a worker, each alone."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from PIL import Image
from structlog.testing import capture_logs

from shared.errors import Cancelled, Draining, LeaseLost, ObjectStoreUnavailable, StoreUnavailable, UnreadableImage
from shared.records.job import JobState
from tests.support.polling import PATIENCE_S, eventually
from tests.unit.worker.test_run_context import Made
from worker.engines.base import Model, Output, Picture
from worker.executor.finish import finish
from worker.executor.outcome import Committed
from worker.executor.runner import KEPT_THROUGH
from worker.run.hooks import Ended, Hook, Hooks, RunLog
from worker.run.retry import backoff_s, retry_while_away
from worker.threads import PeriodicThread
from worker.transfer.encode import encode, png_bytes
from worker.transfer.inputs import decode_picture


class TestEncode:
    def test_the_result_lists_what_was_made(self) -> None:
        pictures = [Picture(Image.new("RGB", (4, 3)), f"p{n}", 7, n, 0.25) for n in range(2)]
        output = Output(
            pictures=pictures,
            files={"video.webp": (b"abc", "image/webp")},
            data={"order": ["x"]},
            parameters={"seed": 7},
            models=[Model("m", "clip", "0" * 64)],
        )
        output_files = encode(output)
        assert [artifact.name for artifact in output_files.artifacts] == ["000.png", "001.png", "video.webp"]
        assert output_files.data["models"] == [{"id": "m", "family": "clip", "sha256": "0" * 64}]
        assert output_files.data["order"] == ["x"]
        assert output_files.pictures[1].entry == {
            "prompt": "p1", "seed": 7, "index": 1, "score": 0.25, "width": 4, "height": 3,
        }  # fmt: skip

    def test_any_text_survives_in_a_png(self) -> None:
        text = {"prompt": "naïve ☃ 猫", "plain": "tree"}
        with Image.open(io.BytesIO(png_bytes(Image.new("RGB", (2, 2)), text))) as image:
            image.load()
            assert {name: image.info[name] for name in text} == text


class TestDecode:
    @staticmethod
    def encoded(image: Image.Image, form: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    def test_transparency_lies_on_white(self) -> None:
        image = decode_picture(self.encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG"), "r", 100)
        assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))

    def test_pictures_are_turned_upright(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        image = decode_picture(self.encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif), "r", 100)
        assert image.size == (2, 4)

    def test_palettes_and_grey_become_rgb(self) -> None:
        for mode, form in (("P", "GIF"), ("L", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG")):
            assert decode_picture(self.encoded(Image.new(mode, (3, 3)), form), "r", 100).mode == "RGB"

    def test_the_size_is_checked_before_the_pixels_are_read(self) -> None:
        body = self.encoded(Image.new("RGB", (50, 50)), "PNG")
        with pytest.raises(UnreadableImage, match="2500 pixels"):
            decode_picture(body[:60], "r", 100)  # cut: reading the pixels would fail otherwise

    @pytest.mark.parametrize("body", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
    def test_what_is_no_picture_has_a_name(self, body: bytes) -> None:
        with pytest.raises(UnreadableImage, match="img_x"):
            decode_picture(body, "img_x", 100)

    def test_other_formats_are_not_even_tried(self) -> None:
        with pytest.raises(UnreadableImage):
            decode_picture(self.encoded(Image.new("RGB", (2, 2)), "TIFF"), "r", 100)


class TestPatience:
    def test_jitter_stays_under_its_cap(self) -> None:
        assert all(0 <= backoff_s(tries, 0.5, 10.0) <= min(10.0, 0.5 * 2**tries) for tries in range(40))

    @staticmethod
    def failing(times: int) -> Callable[[], str]:
        left = [times]

        def call() -> str:
            if left[0]:
                left[0] -= 1
                raise ObjectStoreUnavailable("away")
            return "done"

        return call

    @pytest.fixture(autouse=True)
    def _fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0

        def waited(_tries: int) -> float:
            self.now += 1.0  # each wait is a second of this clock, and none of ours
            return 0.0

        monkeypatch.setattr("worker.run.retry.backoff_s", waited)
        monkeypatch.setattr("worker.run.retry.time.monotonic", lambda: self.now)

    def test_it_tries_again(self) -> None:
        retries: list[int] = []
        assert retry_while_away(self.failing(3), Made().context, 4, on_retry=lambda: retries.append(1)) == "done"
        assert len(retries) == 3

    def test_it_ends(self) -> None:
        with pytest.raises(ObjectStoreUnavailable):
            retry_while_away(self.failing(6), Made().context, 4)

    def test_a_cancel_does_not_end_it_but_a_lost_lease_does(self) -> None:
        context = Made().context
        context.stop(Cancelled("x"))
        assert retry_while_away(self.failing(1), context, 4) == "done"
        context.stop(LeaseLost("x"))
        with pytest.raises(LeaseLost):
            retry_while_away(self.failing(1), context, 4)

    def test_a_drain_leaves_it_a_few_seconds(self) -> None:
        """What is made goes on under Draining, not for all of its patience."""
        made = Made()
        made.context.stop(Draining("x"))
        assert retry_while_away(self.failing(3), made.context, 300, keep_through=KEPT_THROUGH) == "done"
        with pytest.raises(ObjectStoreUnavailable):
            retry_while_away(self.failing(6), made.context, 300, keep_through=KEPT_THROUGH)


class FlakyStore:
    """A store whose first commits go unanswered; `landed` of them arrived all the same."""

    def __init__(self, unanswered: int, landed: bool = False) -> None:
        self.unanswered = unanswered
        self.is_settled = False
        self._landed = landed

    def commit(self, *_args: object, **_kwargs: object) -> JobState:
        if self.is_settled:
            raise LeaseLost("another attempt owns this job")
        if self.unanswered:
            self.unanswered -= 1
            self.is_settled = self._landed
            raise StoreUnavailable("away")
        self.is_settled = True
        return JobState.SUCCEEDED

    def get(self, _tenant: str, _job_id: str) -> object:
        class Last:
            outcome = "succeeded"

        class Record:
            attempt = 1
            state = JobState.SUCCEEDED
            attempts = (Last(),)

        return Record()


class TestFinish:
    def finish(self, store: FlakyStore, made: Made | None = None) -> str:
        return finish(store, (made or Made()).context, Committed(JobState.SUCCEEDED, {}, None))  # type: ignore[arg-type]

    def test_an_outage_is_waited_out(self) -> None:
        store = FlakyStore(unanswered=2)
        assert self.finish(store) == "succeeded"
        assert store.is_settled

    def test_a_commit_that_landed_unanswered_is_known_again(self) -> None:
        assert self.finish(FlakyStore(unanswered=1, landed=True)) == "succeeded"

    def test_a_lost_lease_is_final(self) -> None:
        store = FlakyStore(unanswered=0)
        store.is_settled = True
        assert self.finish(store) == "lost"

    def test_a_drain_does_not_wait_for_the_store(self) -> None:
        made = Made()
        made.context.stop(Draining("x"))
        assert self.finish(FlakyStore(unanswered=1000), made) == "unsettled"


EVENTS: dict[str, tuple[object, ...]] = {
    "before_run": (),
    "progressed": (),
    "preview_made": (Image.new("RGB", (1, 1)), 1),
    "snapshot_offered": (),
    "before_store": (),
    "after_store": (),
    "before_release": (Draining("the worker stops"),),
    "after_run": (Ended("succeeded", {}),),
}


class TestHooks:
    def test_a_hook_that_fails_fails_nothing(self) -> None:
        seen: list[str] = []

        class Broken(Hook):
            def _break(self, *_: object) -> None:
                raise RuntimeError("broken")

        class Sound(Hook):
            def __init__(self, name: str) -> None:
                self._name = name

        for event in EVENTS:
            setattr(Broken, event, Broken._break)
            setattr(Sound, event, lambda self, *_, event=event: seen.append(f"{self._name} {event}"))
        hooks = Hooks([Broken(), Sound("one")])
        hooks.add(Sound("two"))
        for event, arguments in EVENTS.items():
            getattr(hooks, event)(Made().context, *arguments)
        for event in set(EVENTS) - {"after_run"}:
            assert [line for line in seen if event in line] == [f"one {event}", f"two {event}"]
        assert seen[-2:] == ["two after_run", "one after_run"]  # who begins first ends last

    def test_every_event_is_tried(self) -> None:
        assert set(EVENTS) == {name for name in vars(Hook) if not name.startswith("_")}

    def test_the_log_names_a_job_at_its_claim_and_at_its_end(self) -> None:
        log = RunLog()
        with capture_logs() as lines:
            log.before_run(Made().context)
            log.after_run(Made().context, Ended("failed", {"run_s": 2.0}, "non_finite"))
        assert [(line["event"], line["log_level"]) for line in lines] == [
            ("job claimed", "info"),
            ("run ended", "warning"),
        ]
        assert lines[0]["queue_s"] == 1.0
        assert (lines[1]["outcome"], lines[1]["code"], lines[1]["run_s"]) == ("failed", "non_finite", 2.0)


class TestPeriodicThread:
    def test_it_outlives_what_its_action_raises(self) -> None:
        calls: list[int] = []
        failures: list[Exception] = [StoreUnavailable("away"), RuntimeError("odd")]

        def action() -> None:
            calls.append(1)
            if failures:
                raise failures.pop()

        thread = PeriodicThread("test", 0.001, action)
        thread.start()
        eventually(lambda: len(calls) > 4)
        thread.stop()
        thread.join(PATIENCE_S)
        assert "test" not in {thread.name for thread in threading.enumerate()}
