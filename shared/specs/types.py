"""What specs are made of: the base they share, and the texts, references and names that several kinds take."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

__all__ = ["IMAGE_REF", "MAX_PROMPT_CHARS", "Frozen", "ImageRef", "ModelId", "Spec", "Text"]

MAX_PROMPT_CHARS = 1_000  # far above any text tower's context; a longer one is a mistake or an attack
COMPOSED_FROM = 4  # characters that NFC may make one of: an e and its accents, the parts of a Hangul syllable
MAX_MARKS = 30  # in a row, as Unicode's Stream-Safe Text Format has it (UAX 15, section 13)
IMAGE_REF = re.compile(r"^(img_[0-9a-f]{64}|[0-9a-f-]{36}/[a-z0-9][a-z0-9_.-]{0,63})$")


def _clean_text(value: Any) -> Any:
    """NFC; control, surrogate and bidirectional-override characters are refused, not stripped. What normalising costs
    is bounded first: it is quadratic in runs of combining marks, and holds the interpreter."""
    if not isinstance(value, str):
        return value
    if len(value) > COMPOSED_FROM * MAX_PROMPT_CHARS:
        raise PydanticKnownError("string_too_long", {"max_length": MAX_PROMPT_CHARS})
    if _longest_run_of_marks(value) > MAX_MARKS:
        raise ValueError(f"has more than {MAX_MARKS} combining marks on one character")
    text = unicodedata.normalize("NFC", value).strip()
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs"} or "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069":
            raise ValueError(f"contains the forbidden character U+{ord(char):04X}")
    return text


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for char in text:
        run = run + 1 if unicodedata.combining(char) else 0
        longest = max(longest, run)
    return longest


Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS), BeforeValidator(_clean_text)]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
ImageRef = Annotated[
    str,
    Field(
        pattern=IMAGE_REF.pattern,
        description="`img_<sha256>` of an uploaded picture, or `<job id>/<artifact name>` of a finished job",
    ),
]


class Frozen(BaseModel):
    """Base of all specs: immutable, no unknown fields, no silent coercion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Spec(Frozen):
    """Base of what each kind asks for. A kind narrows `kind` to the literal of its name, which is also its default."""

    kind: str

    def pictures_named(self) -> dict[str, str]:
        """Field path -> picture, of all that must be there and readable before the job can start."""
        return {}

    def models_named(self) -> dict[str, str]:
        """Field path -> model, of all that a worker must hold to run the job."""
        model = getattr(self, "model", None)
        return {} if model is None else {"model": str(model)}
