"""`python -m twinhull.cli` is `twinhull`."""

import sys

from twinhull.cli.main import main

sys.exit(main())
