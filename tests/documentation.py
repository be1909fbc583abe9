"""Write the pages of docs/ that follow from the code: the schema of a certificate, and the API.

python -m tests.documentation
"""

import inspect
import json
import re
from collections.abc import Iterator

import kvlab
from kvlab import PROJECT, api
from kvlab.inject import handoff, map_file, stream
from kvlab.results.certificate import data

DOCS = PROJECT / "docs"
OBJECTS = {  # page heading -> what stands under it
    "Functions": [getattr(api, name) for name in kvlab.__all__],
    "Results": [api.Analysis, api.FunctionalTest, api.Certified, api.TrainingRun],
    "Maps and caches": [map_file.MapFile, handoff.handoff, handoff.Handover, stream.Stream],
    "Certificates": [data.Certificate, data.Acceptance],
}


def written() -> dict[str, str]:
    """Return the text of every page, by its name in docs/."""
    schema = json.dumps(data.schema(), indent=1, ensure_ascii=False) + "\n"
    return {"certificate.schema.json": schema, "api.md": "\n".join(_api()).rstrip() + "\n"}


def _api() -> Iterator[str]:
    yield "# kvlab for programs\n"
    yield "Made from the docstrings by `python -m tests.documentation`. A notebook from two models to a decision:"
    yield "[decision.ipynb](decision.ipynb).\n"
    yield f"```text\n{inspect.getdoc(api)}\n```\n"
    for heading, objects in OBJECTS.items():
        yield f"## {heading}\n"
        for thing in objects:
            yield from _described(thing, f"### {thing.__name__}")


def _described(thing: object, heading: str) -> Iterator[str]:
    yield f"{heading}\n"
    yield f"```python\n{_signature(thing)}\n```\n"
    yield f"{inspect.getdoc(thing)}\n"
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            if name.startswith("_") or name == "model_config" or not inspect.getdoc(member):
                continue
            if isinstance(member, property):
                yield f"- `.{name}`: {inspect.getdoc(member)}\n"
            elif inspect.isfunction(member):
                yield from _described(member, f"#### {thing.__name__}.{name}")


def _signature(thing: object) -> str:
    keyword = "class" if inspect.isclass(thing) else "def"
    if inspect.isclass(thing) and issubclass(thing, data.Part):
        return f"{keyword} {thing.__name__}"
    words = f"{keyword} {thing.__name__}{inspect.signature(thing)}".replace("'", "")
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", words)


if __name__ == "__main__":
    for name, text in written().items():
        (DOCS / name).write_text(text, encoding="utf-8")
