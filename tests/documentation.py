"""Write the pages of docs/ that follow from the code: the schema of a certificate.

python -m tests.documentation
"""

import json

from kvlab import PROJECT
from kvlab.results.certificate import data

DOCS = PROJECT / "docs"


def written() -> dict[str, str]:
    """Return the text of every page, by its name in docs/."""
    return {"certificate.schema.json": json.dumps(data.schema(), indent=1, ensure_ascii=False) + "\n"}


if __name__ == "__main__":
    for name, text in written().items():
        (DOCS / name).write_text(text, encoding="utf-8")
