"""`python -m kvlab`."""

import sys

from kvlab.cli.main import main
from kvlab.host import privacy

privacy.keep()
sys.exit(main())
