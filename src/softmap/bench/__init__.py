"""Speed and memory beside peers: ``softmap bench op | step | decode``.

Everything that is timed first has to agree with the float64 reference; what does not agree gets no
speed. Candidates (our backends and peers) are in ``candidates/``, one small class each.
"""

from softmap.extras import LABORATORY, need

__needs__ = need(__name__, "tyro", *LABORATORY, extra="lab")
