"""`python -m testhosts`."""

import sys

from .cli import main

sys.exit(main())
