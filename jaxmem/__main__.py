"""``python -m jaxmem``: the command line."""

import sys

from jaxmem.cli import main

sys.exit(main())
