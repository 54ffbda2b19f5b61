"""The Natural Scenes Dataset, read from its own on-disk layout.

``layout`` knows the paths; ``trials``, ``rois``, ``betas``, ``noise``, ``stimuli``, ``captions``
and ``volumes`` read what is there. ``session_files`` reads one session in any format, ``masked``
keeps the voxels of a mask, and ``download`` fetches. A simulated brain written in the same layout
is read by the same functions.
"""

from nbutils.nsd.betas import Responses, average_repeats, load_responses, noise_free
from nbutils.nsd.layout import Layout
from nbutils.nsd.noise import repeat_reliability
from nbutils.nsd.rois import ROI_SETS, eccentricity, mask, roi, union
from nbutils.nsd.stimuli import Stimuli

__all__ = [
    "ROI_SETS",
    "Layout",
    "Responses",
    "Stimuli",
    "average_repeats",
    "eccentricity",
    "load_responses",
    "mask",
    "noise_free",
    "repeat_reliability",
    "roi",
    "union",
]
