"""The brain the other way round: from features of an image to the responses of voxels.

The encoding analyses of Takagi & Nishimoto (2023), section 4.3, for which no code is public. What
their text leaves open is our choice and named so where it is made.
"""

from nbutils.encoding.models import ALPHAS, Encoding, correlate, explain, fit
from nbutils.encoding.partition import Partition, partition
from nbutils.encoding.significance import (
    choose_best,
    null_p,
    significant,
    smallest_significant,
)
from nbutils.encoding.spaces import Space, join, standardise

__all__ = [
    "ALPHAS",
    "Encoding",
    "Partition",
    "Space",
    "choose_best",
    "correlate",
    "explain",
    "fit",
    "join",
    "null_p",
    "partition",
    "significant",
    "smallest_significant",
    "standardise",
]
