"""WordNet, whose synonyms METEOR needs: a download of its own, made only with consent."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nltk.data
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.data import FileSystemPathPointer, ZipFilePathPointer
from nltk.downloader import Downloader

from nbutils.world import find_root

LICENCE = "https://wordnet.princeton.edu/license-and-commercial-use"
ARCHIVE = "corpora/wordnet.zip"
FILES = ("data.noun", "data.verb", "data.adj", "data.adv", "index.sense", "lexnames")


def wordnet_folder() -> Path:
    """Return where WordNet is put: `$NLTK_DATA`, or the project's `data/nltk`."""
    return Path(os.environ.get("NLTK_DATA") or find_root() / "data" / "nltk")


def has_wordnet(folder: str | Path | None = None) -> bool:
    """Say whether WordNet lies in a folder, by default `wordnet_folder`."""
    folder = Path(folder or wordnet_folder())
    return _is_unpacked(folder) or (folder / ARCHIVE).is_file()


def fetch_wordnet(
    folder: str | Path | None = None, *, accept: bool = False, index: str | None = None
) -> Path:
    """Download WordNet 3.0 (11 MB) by nltk's own downloader, unless it is there.

    Parameters
    ----------
    folder : where to; by default `wordnet_folder`
    accept : True says that you read and accept Princeton's licence, see `LICENCE`
    index : address of nltk's list of packages, with sizes and checksums; by default nltk's

    Returns
    -------
    folder : that holds it

    Raises
    ------
    PermissionError
        If the licence is not accepted.
    ConnectionError
        If the download fails or its checksum is wrong.
    """
    folder = Path(folder or wordnet_folder())
    if has_wordnet(folder):
        return folder
    if not accept:
        raise PermissionError(
            f"WordNet is Princeton's, under {LICENCE}; read that, then call "
            "fetch_wordnet(accept=True), which downloads 11 MB."
        )
    (folder / "corpora").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="partial-") as partial:
        _download(Downloader(index) if index else Downloader(), Path(partial))
        os.replace(Path(partial) / ARCHIVE, folder / ARCHIVE)
    return folder


def _download(downloader: Downloader, folder: Path) -> None:
    try:
        arrived = downloader.download(
            "wordnet", str(folder), quiet=True, raise_on_error=True, print_error_to=io.StringIO()
        )
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"WordNet could not be downloaded ({error}); try again, or put nltk's wordnet.zip "
            f"into {wordnet_folder() / 'corpora'}."
        ) from None
    if not arrived or not (folder / ARCHIVE).is_file():
        raise ConnectionError("WordNet did not arrive whole; try again.")


def open_wordnet(folder: str | Path | None = None) -> Any:
    """Open WordNet as nltk does.

    Parameters
    ----------
    folder : that holds it; by default `wordnet_folder`

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    folder = Path(folder or wordnet_folder())
    if not has_wordnet(folder):
        raise FileNotFoundError(
            f"{folder}: no WordNet here, which METEOR's synonyms need; "
            "`python -m nbutils weights fetch wordnet` downloads it under Princeton's licence, and "
            "'METEOR (exact, stem)' does without."
        )
    if str(folder) not in nltk.data.path:  # nltk reads from known places only
        nltk.data.path.append(str(folder))
    with warnings.catch_warnings():  # nltk says that other languages are missing
        warnings.simplefilter("ignore")
        return WordNetCorpusReader(_find(folder), None)


def _find(folder: Path) -> Any:
    """Return nltk's pointer to WordNet, unpacked or in its archive."""
    if _is_unpacked(folder):
        return FileSystemPathPointer(str(folder / "corpora" / "wordnet"))
    return ZipFilePathPointer(str(folder / ARCHIVE), "wordnet/")


def _is_unpacked(folder: Path) -> bool:
    return all((folder / "corpora" / "wordnet" / name).is_file() for name in FILES)
