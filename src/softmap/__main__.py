"""``softmap`` and ``python -m softmap``: the command line, or what is missing for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import softmap
from softmap.extras import told


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, as [`softmap.cli.main`][] does; returns the exit status.

    Without a package of the extras: one line that says how to install it, and 2. ``--version``
    needs none.
    """
    if (sys.argv[1:] if argv is None else list(argv)) == ["--version"]:
        print(f"softmap {softmap.__version__}")
        return 0
    try:
        from softmap.cli import main as run

        return run(argv)
    except ModuleNotFoundError as error:
        text = told(error)
        if text is None or os.environ.get("SOFTMAP_TRACEBACK") == "1":
            raise
        print(f"softmap: error: {text}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
