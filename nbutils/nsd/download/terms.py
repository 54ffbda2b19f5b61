"""NSD's terms: shown before anything is sent, accepted explicitly, remembered in a small file.

The bucket answers anonymous requests, but its data are lent under an agreement.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from nbutils.artifacts import write_json

AGREEMENT = "https://cvnlab.slite.page/p/IB6BSeW_7o/Terms-and-Conditions"
"""The terms themselves, which are what counts."""
FORM = (
    "https://docs.google.com/forms/d/e/"
    "1FAIpQLSduTPeZo54uEMKD-ihXmRhx0hBDdLHNsVyeo_kCb8qbyAkXuQ/viewform"
)
"""The form that NSD's authors ask every user to send."""
PHRASE = "I agree"
"""What a person types to accept."""

TERMS = f"""\
The Natural Scenes Dataset (NSD): terms in short

Read the terms themselves before you accept; this is only a summary of them:
  {AGREEMENT}
and send the NSD Data Access Agreement, which the authors ask of every user:
  {FORM}

By downloading or processing NSD data you agree to this:
 1. The Center for Magnetic Resonance Research (CMRR) lets you download and process the data free
    of charge; the right is not exclusive.
 2. You use them for research and education only.
 3. You pass neither the dataset nor parts of it on to any other person or institution.
 4. Everyone on your team who uses the data keeps to the same agreement.
 5. You do not sell the data or parts of them, or make money with them.
 6. You follow the rules of your institution and of its review board.
 7. The data come from human subjects and are de-identified. You do not try to find out health
    information about them, and if you come upon some, you tell the principal investigator at once.
 8. Every talk and publication that uses the data cites
      Allen, St-Yves, Wu, Breedlove, Prince, Dowdle, Nau, Caron, Pestilli, Charest, Hutchinson,
      Naselaris & Kay. A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial
      intelligence. Nature Neuroscience 25, 116-126 (2022).
    and acknowledges: "Collection of the NSD dataset was supported by NSF IIS-1822683 and NSF
    IIS-1822929."
 9. The data come as they are: no warranty, no duty to maintain or to support them.
10. CMRR is not liable for damage of any kind that follows from using the data.
11. You also obey the laws and the institutional policies that apply to you.

The images are crops of photographs from COCO, whose terms of use (https://cocodataset.org) and
whose photographers' Flickr licences apply to them and to their captions.
"""
"""Our own summary of NSD's terms, with where to find them and the access form."""

_REFUSAL = (
    "the Natural Scenes Dataset is lent under terms that nobody has accepted for {root}: read them "
    "with `python -m nbutils nsd terms`, then pass --accept-terms (in Python accept_terms=True)"
)


class TermsError(RuntimeError):
    """Nobody accepted the terms; nothing was sent."""


def marker_path(root: Path) -> Path:
    """Return where the acceptance for one copy of the data is kept."""
    return Path(root) / ".nsd_terms_accepted.json"


def terms_version() -> str:
    """Return a short hash of `TERMS`; when the text changes, it has to be accepted again."""
    return hashlib.sha256(TERMS.encode()).hexdigest()[:16]


def accepted(root: Path) -> bool:
    """Return whether the present terms were accepted for this copy of the data."""
    try:
        there = json.loads(marker_path(root).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(there, dict) and there.get("version") == terms_version()


def accept(root: Path) -> Path:
    """Write down that the user read and accepted the terms; return the marker file."""
    if not accepted(root):
        when = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            marker_path(root),
            {"accepted": when, "version": terms_version(), "agreement": AGREEMENT, "form": FORM},
        )
    return marker_path(root)


def require_terms(root: Path, accept_terms: bool) -> None:
    """Let pass who accepts the terms now or did so before.

    Raises
    ------
    TermsError
        If neither.
    """
    if accept_terms:
        accept(root)
    elif not accepted(root):
        raise TermsError(_REFUSAL.format(root=root))
