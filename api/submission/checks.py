"""What the types of a spec alone cannot say: whether models, pictures, collections and addresses that it names are
there for this caller. Whatever is wrong is named by its field, so that nothing reaches a worker that it cannot run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

from api.http.auth import Principal
from api.http.problems import Rejected
from api.http.services import Services
from shared.addresses import why_not_fetched
from shared.errors import Conflict, Expired, InvalidInput, NotFound
from shared.records.collection import Collection
from shared.specs.clip import GENERATED, ClassifySpec, GroupSpec, IndexSpec, ReembedSpec, SearchSpec
from shared.specs.filters import check_filter
from shared.specs.kinds import kinds
from shared.specs.types import Spec
from shared.storage import image_key, input_key

__all__ = ["SpecChecker"]

HEADS_AT_ONCE = 8  # object store look-ups in flight for one request
MAX_LISTED = 20  # field errors of one kind in a problem


@dataclass(frozen=True)
class SpecChecker:
    """One caller's. `at` goes in front of every field named: `input.` where the spec is the envelope's input."""

    services: Services
    principal: Principal
    at: str = "input."
    archive_ref: str = ""  # an archive that comes with the request, and is not in the object store yet

    def checked(self, spec: Spec) -> str:
        """The pool that the job goes to. Raises InvalidInput (also Rejected), Forbidden, NotFound, Conflict,
        Unavailable."""
        if kinds()[spec.kind].is_for_operators:
            self.principal.require("admin")
        collection = self._collection(spec)
        pool = self.services.settings.pool_of(spec.kind, collection.id if collection else "")
        self._check_models(spec, collection, pool)
        self._check_pictures(spec)
        if isinstance(spec, IndexSpec):
            self._check_sources(spec)
        if isinstance(spec, SearchSpec) and collection:
            self._check_embeddings(spec, collection)
        return pool

    # --- collections ---------------------------------------------------------------------------------------------

    def _collection(self, spec: Spec) -> Collection | None:
        name = getattr(spec, "collection", None)
        if name is None:
            return None
        try:
            found = self.services.collections.get(self.principal.tenant, name)
        except NotFound:
            if isinstance(spec, IndexSpec) and name == GENERATED:
                return None  # the worker makes it
            raise
        check_filter(getattr(spec, "filter", None), found.fields, at=f"{self.at}filter")
        return found

    def _check_embeddings(self, spec: SearchSpec, collection: Collection) -> None:
        for index, term in enumerate(spec.terms):
            if term.embedding is not None and collection.width not in (0, len(term.embedding)):
                raise InvalidInput(
                    f"the embedding has {len(term.embedding)} numbers, those of the collection {collection.width}",
                    field=f"{self.at}terms.{index}.embedding", limit=f"{collection.width} numbers",
                )  # fmt: skip

    # --- models --------------------------------------------------------------------------------------------------

    def _check_models(self, spec: Spec, collection: Collection | None, pool: str) -> None:
        """Refuse a model no live worker of the pool holds. With no worker alive, the job may wait for one."""
        named = _models_named(spec, collection)
        workers = self.services.fleet.pool(pool).workers if named else []
        if not workers:
            return
        served = [model for worker in workers for model in worker.models]
        is_clip = isinstance(spec, ReembedSpec)
        known = sorted({model["id"] for model in served if not is_clip or model.get("family") == "clip"})
        for field, wanted in named.items():
            if wanted not in known:
                raise InvalidInput(
                    f"no worker has the {'CLIP' if is_clip else 'model'} {wanted}",
                    field=f"{self.at}{field}", limit=f"one of {', '.join(known)}",
                )  # fmt: skip

    # --- pictures ------------------------------------------------------------------------------------------------

    def _check_pictures(self, spec: Spec) -> None:
        """Refuse pictures this tenant does not have; another tenant's and an unknown one read the same."""
        fields = {f"{self.at}{field}": ref for field, ref in spec.pictures_named().items()}
        refs = list(dict.fromkeys(fields.values()))
        if len(refs) <= 2:
            exists = {ref: self._exists(ref) for ref in refs}
        else:
            with ThreadPoolExecutor(HEADS_AT_ONCE) as heads:
                exists = dict(zip(refs, heads.map(self._exists, refs), strict=True))
        missing = [field for field, ref in fields.items() if not exists[ref]]
        if missing:
            _refuse_pictures(missing, fields)

    def _exists(self, ref: str) -> bool:
        try:
            if ref.startswith("img_"):
                self.services.objects.head(image_key(self.principal.tenant, ref.removeprefix("img_")))
                return True
            job_id, _, name = ref.partition("/")
            return self.services.store.get(self.principal.tenant, job_id).picture(name) is not None
        except (NotFound, Expired):
            return False

    def _check_sources(self, spec: IndexSpec) -> None:
        """Where an index job takes its pictures from. One that is missing is an error of its own, in the result."""
        hosts = self.services.settings.fetch_hosts
        named = [(index, item.url) for index, item in enumerate(spec.images) if item.url is not None]
        found = [(index, why) for index, url in named if (why := why_not_fetched(url, hosts))]
        if found:
            limit = "http or https, to a public address"
            raise Rejected(
                [{"field": f"{self.at}images.{index}.url", "message": why, "limit": limit}
                 for index, why in found[:MAX_LISTED]]
            )  # fmt: skip
        if spec.job is not None:
            self._check_job(spec.job)
        if spec.archive is not None and spec.archive != self.archive_ref:
            self._check_archive(spec.archive)

    def _check_job(self, job_id: str) -> None:
        try:
            record = self.services.store.get(self.principal.tenant, job_id)
        except (NotFound, Expired):
            raise InvalidInput(f"you have no job {job_id}", field=f"{self.at}job", limit="a job of yours") from None
        if not record.is_final:
            raise Conflict(f"job {job_id} has not ended: it is {record.state}")

    def _check_archive(self, ref: str) -> None:
        try:
            self.services.objects.head(input_key(self.principal.tenant, ref))
        except NotFound:
            raise InvalidInput(
                f"you have no archive {ref}", field=f"{self.at}archive", limit="one that was sent with a job of yours"
            ) from None


def _models_named(spec: Spec, collection: Collection | None) -> dict[str, str]:
    """Field -> model. Pictures and texts that meet a collection are seen by the collection's own model."""
    if isinstance(spec, IndexSpec | SearchSpec | ClassifySpec | GroupSpec) and collection is not None:
        return {"collection": collection.model} if _needs_model(spec) else {}
    return spec.models_named()


def _needs_model(spec: IndexSpec | SearchSpec | ClassifySpec | GroupSpec) -> bool:
    if isinstance(spec, SearchSpec):
        return any(term.text is not None or term.image is not None for term in spec.all_terms)
    return not isinstance(spec, GroupSpec) or bool(spec.labels)


def _refuse_pictures(missing: list[str], fields: dict[str, str]) -> NoReturn:
    raise Rejected(
        [
            {"field": field, "message": f"you have no picture {fields[field]}", "limit": "an uploaded picture's id, or "
             "<job id>/<artifact name>"}
            for field in missing[:MAX_LISTED]
        ]
    )  # fmt: skip
