"""A stand-in of NSD at its real size: simulated data in the public bucket's own layout.

The miniature world is small so that everything runs in minutes; this is for the other question,
whether fetching, reading, masking and ridge hold up at full size, on a computer without NSD.
``synthesize(root, like="subj01", sessions=3)`` writes it.
"""

from nbutils.miniature.standin.size import Size, Stage
from nbutils.miniature.standin.write import synthesize

__all__ = ["Size", "Stage", "synthesize"]
