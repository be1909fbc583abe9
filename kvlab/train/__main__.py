"""Run one training run in this process: ``python -P -m kvlab.train FOLDER``. Exit codes as in ``perform``."""

import sys
from pathlib import Path

from kvlab.host import privacy
from kvlab.train.process import REFUSED, perform

if __name__ == "__main__":
    privacy.keep()
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("usage: python -m kvlab.train FOLDER (of a run, with its config.yaml)", file=sys.stderr)
        sys.exit(REFUSED)
    sys.exit(perform(Path(sys.argv[1]).absolute()))
