"""Check the settings of a form, a file or a command line against their model. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from kvlab.errors import AlignError, KvlabError, RunError, system_reason
from kvlab.language import Message, phrase

CONFIG = "config.yaml"  # in a run folder

# pydantic's message for each type of problem; its context fills the fields. Other types keep pydantic's own words.
PROBLEMS = {
    "missing": phrase("Field required"),
    "extra_forbidden": phrase("Extra inputs are not permitted"),
    "invalid_key": phrase("Keys should be strings"),
    "greater_than": phrase("Input should be greater than {gt}"),
    "greater_than_equal": phrase("Input should be greater than or equal to {ge}"),
    "less_than": phrase("Input should be less than {lt}"),
    "less_than_equal": phrase("Input should be less than or equal to {le}"),
    "int_type": phrase("Input should be a valid integer"),
    "int_parsing": phrase("Input should be a valid integer, unable to parse string as an integer"),
    "int_from_float": phrase("Input should be a valid integer, got a number with a fractional part"),
    "float_type": phrase("Input should be a valid number"),
    "float_parsing": phrase("Input should be a valid number, unable to parse string as a number"),
    "bool_type": phrase("Input should be a valid boolean"),
    "bool_parsing": phrase("Input should be a valid boolean, unable to interpret input"),
    "string_type": phrase("Input should be a valid string"),
    "string_pattern_mismatch": phrase("String should match pattern '{pattern}'"),
    "string_too_long": phrase("String should have at most {max_length} characters"),
    "tuple_type": phrase("Input should be a valid tuple"),
    "model_type": phrase("Input should be a valid dictionary or instance of {class_name}"),
}
EMPTY = ("too_short", "string_too_short")  # every shortest length is 1


class Request(BaseModel):
    """The settings of one command; ``config.yaml`` of a run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: ClassVar[str]
    refusal: ClassVar[type[KvlabError]] = AlignError
    refusal_kind: ClassVar[str] = "request-invalid"


AnyRequest = TypeVar("AnyRequest", bound=Request)


def setting(default: Any, description: str, **rules: Any) -> Any:
    """Declare a setting of a model. Its flag and its field on the pages show the description as help."""
    return Field(default, description=description, **rules)


def checked(model: type[AnyRequest], fields: Any) -> AnyRequest:
    """Return ``fields`` as a ``model``. Raises the model's own refusal, which names the first invalid setting."""
    if not isinstance(fields, Mapping):
        raise model.refusal(
            model.refusal_kind,
            expected=Message("a table of settings"),
            found=repr(fields)[:200],
            remedy=Message("start from the config.yaml of a run"),
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        raise model.refusal(
            model.refusal_kind,
            expected=_expected(problem),
            found=repr(problem.get("input"))[:200],
            remedy=Message(
                "correct this setting; `python -m kvlab {command} --help` lists them", command=model.command
            ),
        ) from error


def read(model: type[AnyRequest], folder: Path) -> AnyRequest:
    """Read the settings of a run folder. Raises RunError ``config-unreadable``, and as ``checked``."""
    try:
        fields = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(
            "config-unreadable",
            expected=Message("a readable {file} in {folder}", file=CONFIG, folder=folder.name),
            found=unreadable(error),
            remedy=Message("launch the run again from its page or command"),
        ) from error
    return checked(model, fields)


def unreadable(error: Exception) -> Message:
    """Return why a file of settings cannot be read: the reason of the operating system, of YAML or of our own check."""
    if isinstance(error, OSError):
        return system_reason(error)
    if error.args and isinstance(error.args[0], Message):
        return error.args[0]
    return Message("{kind}: {reason}", kind=type(error).__name__, reason=str(error).splitlines()[0])


def _expected(problem: ErrorDetails) -> Message:
    where = ".".join(map(str, problem["loc"]))
    return Message("{where}: {problem}", where=where, problem=_words(problem)) if where else _words(problem)


def _words(problem: ErrorDetails) -> Message:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in PROBLEMS:
        return Message(PROBLEMS[kind], **context)
    if kind in EMPTY:
        return Message("Input should not be empty")
    if kind == "literal_error":
        *others, last = str(context["expected"]).replace(" or ", ", ").split(", ")
        return Message("Input should be {choices} or {last}", choices=others, last=last)
    if kind == "value_error":  # our own validators raise it with a Message
        return Message.read(context["error"].args[0])
    return Message.read(problem["msg"])
