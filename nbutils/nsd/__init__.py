"""The Natural Scenes Dataset, read from its own on-disk layout.

``layout`` knows the paths; ``trials``, ``rois``, ``betas``, ``noise``, ``stimuli``, ``captions``
and ``volumes`` read what is there. A simulated brain written in the same layout is read by the
same functions.
"""

from nbutils.nsd.betas import Responses, average_repeats, load_responses, noise_free
from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import ROI_SETS, mask, roi
from nbutils.nsd.stimuli import Stimuli

__all__ = [
    "ROI_SETS",
    "Layout",
    "Responses",
    "Stimuli",
    "average_repeats",
    "load_responses",
    "mask",
    "noise_free",
    "roi",
]
