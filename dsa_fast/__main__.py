"""`python -m dsa_fast` runs the `dsa-fast` command."""

import sys

from dsa_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
