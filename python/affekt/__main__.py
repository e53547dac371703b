"""``python -m affekt``: the command line."""

import sys

from affekt.cli import main

if __name__ == "__main__":
    sys.exit(main())
