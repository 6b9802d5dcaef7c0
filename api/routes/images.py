"""/v1/images: pictures come in here, named by their content."""

from __future__ import annotations

import hashlib
import json
import re

from flask import Response, request
from werkzeug.exceptions import UnsupportedMediaType

from api.http.offload import offloaded
from api.http.requests import body_bytes
from api.http.routing import Call, Routes, problems
from api.routes.artifacts import BYTES, REDIRECT, inline_response, redirect_response
from api.schemas.jobs import ArtifactQuery, Image
from api.uploads.pictures import inspected
from shared.errors import InvalidInput, NotFound
from shared.storage import image_key

__all__ = ["routes"]

IMAGE_ID = re.compile(r"^img_[0-9a-f]{64}$")
RAW_TYPES = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
FORM_OVERHEAD = 64 * 1024  # bytes a multipart body may add to the picture
BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "properties": {"image": BINARY}, "required": ["image"]}},
        **{kind: {"schema": BINARY} for kind in RAW_TYPES},
    },
}

routes = Routes("images", "Pictures you bring")


@routes.add(
    "POST", "/v1/images", scope="jobs:write", responses={201: Image, **problems(400, 413, 415)},
    openapi={"requestBody": REQUEST_BODY},
)  # fmt: skip
def upload_image(call: Call) -> Response:
    """Upload a PNG, JPEG or WebP picture, raw or as the form field `image`.

    Its id is its content's SHA-256, so the same picture again is the same id. It is decoded once to make sure that
    a worker can; what is truncated, too large or not a picture is refused.
    """
    body = _body(call.services.settings.image_max_bytes)
    picture = offloaded(inspected, body, call.services.settings.image_max_pixels)
    sha256 = hashlib.sha256(body).hexdigest()
    call.services.objects.put(image_key(call.tenant, sha256), body, picture.content_type)
    url = f"/v1/images/img_{sha256}"
    document = {
        "id": f"img_{sha256}",
        "sha256": sha256,
        "bytes": len(body),
        "width": picture.width,
        "height": picture.height,
        "content_type": picture.content_type,
        "url": url,
    }
    return Response(json.dumps(document), 201, {"Location": url}, mimetype="application/json")


@routes.add(
    "GET", "/v1/images/<image_id>", scope="jobs:read", query=ArtifactQuery,
    responses={302: REDIRECT, 200: BYTES, **problems(404)},
)  # fmt: skip
def get_image(call: Call, image_id: str) -> Response:
    """Fetch a picture of yours: a redirect to a signed URL, or with `inline=1` the bytes."""
    if not IMAGE_ID.fullmatch(image_id):
        raise NotFound(f"no picture {image_id[:80]}")
    key = image_key(call.tenant, image_id.removeprefix("img_"))
    try:
        if call.query.inline == "1":
            return inline_response(call, key, image_id)
        stored = call.services.objects.head(key)
    except NotFound:
        raise NotFound(f"no picture {image_id}") from None
    return redirect_response(call, key, image_id, stored.content_type)


def _body(max_bytes: int) -> bytes:
    """The picture's bytes, from the form or raw. Flask raises 413 beyond the limit, chunked bodies included."""
    is_form = request.mimetype == "multipart/form-data"
    if not is_form and request.mimetype not in RAW_TYPES:
        raise UnsupportedMediaType(f"send multipart/form-data or one of {', '.join(RAW_TYPES)}")
    request.max_content_length = max_bytes + (FORM_OVERHEAD if is_form else 0)
    if is_form:
        sent = request.files.get("image") or request.files.get("file")
        body = sent.read() if sent else b""
    else:
        body = body_bytes()
    if not body:
        raise InvalidInput("no picture was sent", field="image")
    if len(body) > max_bytes:
        raise InvalidInput("the picture has too many bytes", field="image", limit=f"{max_bytes} bytes")
    return body
