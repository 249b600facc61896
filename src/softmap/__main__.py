"""``python -m softmap``: the command line."""

import sys

from softmap.cli import main

if __name__ == "__main__":
    sys.exit(main())
