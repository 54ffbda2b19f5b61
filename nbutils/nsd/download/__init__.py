"""Fetch the Natural Scenes Dataset from its public bucket, and COCO's captions from COCO's server.

``fetch`` brings one subject, ``estimate`` says before what it costs, ``check`` hashes everything
again. Nothing is sent before NSD's terms (``TERMS``) are accepted.
"""

from nbutils.nsd.download.budget import Estimate
from nbutils.nsd.download.catalogue import IMAGES
from nbutils.nsd.download.checking import Checked, check
from nbutils.nsd.download.fetching import ATLASES, Fetched, check_root, estimate, fetch
from nbutils.nsd.download.servers import Servers
from nbutils.nsd.download.terms import (
    PHRASE,
    TERMS,
    TermsError,
    accept,
    accepted,
    require_terms,
)
from nbutils.transfer.transport import FetchError, Retry

__all__ = [
    "ATLASES",
    "IMAGES",
    "PHRASE",
    "TERMS",
    "Checked",
    "Estimate",
    "FetchError",
    "Fetched",
    "Retry",
    "Servers",
    "TermsError",
    "accept",
    "accepted",
    "check",
    "check_root",
    "estimate",
    "fetch",
    "require_terms",
]
