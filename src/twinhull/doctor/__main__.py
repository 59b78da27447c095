"""`python -m twinhull.doctor`, for `make setup`."""

import sys

from twinhull.doctor import main

sys.exit(main())
