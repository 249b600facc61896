"""``python -m softmap.ops.native``: build the kernels now, before anything waits for them."""

import sys

from softmap.ops.native import build

if __name__ == "__main__":
    sys.exit(build.missing())
