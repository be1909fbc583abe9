"""Read JSON that may be missing or damaged: invalid fields get their defaults."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)


def _known(value: float) -> float:
    with suppress(OverflowError):
        if abs(float(value)) < math.inf:
            return value
    raise ValueError("not finite")


Number = Annotated[StrictInt | StrictFloat, AfterValidator(_known)]  # a whole number stays an int
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


def _whole(value: Any) -> Any:
    """Replace lone surrogates, which JSON can hold and no other format accepts, by "?", in all texts of a value."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


Text = Annotated[str, BeforeValidator(_whole), Field(strict=True)]
Fields = Annotated[dict[str, Any], BeforeValidator(_whole)]


def _tables(value: object) -> list[object]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


TABLES = BeforeValidator(_tables)  # for a list of models: skips everything else in the list


class Lenient(BaseModel):
    """A model whose invalid fields get their defaults; every field must have one."""

    model_config = ConfigDict(frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_default(cls, value, handler, info):
        try:
            return handler(value)
        except (ValidationError, RecursionError):
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)

    @classmethod
    def of(cls, fields: object) -> Self:
        """Return the model of a JSON object; all defaults for anything else."""
        if isinstance(fields, cls):
            return fields
        return cls.model_validate(fields) if isinstance(fields, dict) else cls()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the model from a JSON file; a missing or broken file gives all defaults."""
        return cls.of(read_json(path))


_NUMBER = TypeAdapter(Number)


def finite(value: object) -> float | None:
    """Return a finite number as float; None for anything else."""
    try:
        return float(_NUMBER.validate_python(value))
    except ValidationError:
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a run; empty if the file is missing, broken, or a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            value = json.loads(file.read().decode("utf-8", "replace"), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
