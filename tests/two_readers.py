"""``torchrun -m tests.two_readers COUNTS align ...``: the command, and how many batches each process read."""

import sys
from pathlib import Path

from kvlab.align import pipeline
from kvlab.cli import main
from kvlab.host import launched

if __name__ == "__main__":
    read, batches = pipeline.read, []

    def counting(*args, **kwargs):
        batches.append(1)
        return read(*args, **kwargs)

    pipeline.read = counting
    code = main.main(sys.argv[2:])
    (Path(sys.argv[1]) / str(launched.rank())).write_text(str(len(batches)))
    sys.exit(code)
