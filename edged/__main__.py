"""`python -m edged`: the same as the `edged` command."""

import sys

from edged.cli import main

if __name__ == "__main__":
    sys.exit(main())
