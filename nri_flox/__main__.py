"""`python -m nri_flox` is the command `nri-flox`."""

import sys

from nri_flox.cli.main import main

sys.exit(main())
