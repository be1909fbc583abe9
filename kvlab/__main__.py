"""`python -m kvlab`."""

import sys

from kvlab.cli.main import main

sys.exit(main())
