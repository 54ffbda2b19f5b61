"""METEOR's synonyms, with a WordNet of one synset, fetched from a list of packages on disk."""

import hashlib
import io
import zipfile

import nltk
import numpy as np
import pytest
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.meteor_score import meteor_score

from nbutils.metrics import captions, wordnet
from nbutils.metrics.words import split_words

LICENCE = "  1 WordNet 3.0 Copyright 2006\n"
OFFSET = f"{len(LICENCE):08d}"
NOUN = f"{OFFSET} 05 n 02 cat 0 kitten 0 000 | a small animal  \n"
CONTENT = {
    "data.noun": LICENCE + NOUN,
    "index.noun": "".join(
        f"{LICENCE if word == 'cat' else ''}{word} n 1 0 1 0 {OFFSET}  \n"
        for word in ("cat", "kitten")
    ),
    "index.sense": f"cat%1:05:00:: {OFFSET} 1 0\nkitten%1:05:00:: {OFFSET} 1 0\n",
    "lexnames": "".join(f"{k:02d}\tnoun.name{k}\t1\n" for k in range(6)),
    "cntlist.rev": "",
    **{f"{kind}.{part}": LICENCE for kind in ("data", "index") for part in ("verb", "adj", "adv")},
    **{f"{part}.exc": "" for part in ("noun", "verb", "adj", "adv")},
}


@pytest.fixture(scope="module")
def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in CONTENT.items():
            file.writestr(f"wordnet/{name}", text)
    return buffer.getvalue()


@pytest.fixture
def index(archive, tmp_path, monkeypatch):
    """A list of packages as nltk's server gives it; nltk reads from places that it knows."""
    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path, str(tmp_path)])
    package = tmp_path / "wordnet.zip"
    package.write_bytes(archive)
    listing = tmp_path / "index.xml"
    digest = hashlib.sha256(archive).hexdigest(), hashlib.md5(archive).hexdigest()
    listing.write_text(
        '<?xml version="1.0"?><nltk_data><packages><package id="wordnet" name="WordNet" '
        f'subdir="corpora" size="{len(archive)}" unzip="0" '
        f'unzipped_size="{sum(map(len, CONTENT.values()))}" '
        f'sha256_checksum="{digest[0]}" checksum="{digest[1]}" '
        f'url="{package.as_uri()}"/></packages><collections/></nltk_data>'
    )
    return listing.as_uri()


@pytest.fixture
def folder(archive, tmp_path):
    path = tmp_path / "nltk"
    (path / "corpora").mkdir(parents=True)
    (path / "corpora" / "wordnet.zip").write_bytes(archive)
    return path


def test_synonyms_match_with_wordnet_only(folder):
    net = wordnet.open_wordnet(folder)
    pair = ["a kitten on a table"], [["a cat on a table"]]
    with_synonyms = captions.meteor(*pair, net)[0]
    same_words = captions.meteor(["a cat on a table"], pair[1], net)[0]
    assert with_synonyms == pytest.approx(same_words, abs=1e-12)
    assert captions.meteor_exact_stem(*pair)[0] < with_synonyms


def test_words_are_nltks_punctuation_included(folder):
    net = wordnet.open_wordnet(folder)
    split = NLTKWordTokenizer().tokenize
    text, reference = "A cat, sleeping.", "the cats sleep."
    expected = meteor_score([split(reference)], split(text), wordnet=net)
    assert captions.meteor([text], [[reference]], net)[0] == pytest.approx(expected)
    assert expected != meteor_score([split_words(reference)], split_words(text), wordnet=net)


def test_judge_adds_meteor_where_wordnet_is(folder):
    references = [["a cat"], ["two dogs"], ["a bus"]]
    net = wordnet.open_wordnet(folder)
    judge = captions.CaptionJudge(references, wordnet=net)
    found = judge.measure(["a kitten", "a dog", "trees"])
    assert found["METEOR"][0] > found["METEOR (exact, stem)"][0]
    assert "METEOR" not in captions.CaptionJudge(references).measure(["a", "b", "c"])
    np.testing.assert_array_equal(list(judge.measure_chance(["a", "b", "c"])), list(found))


def test_nothing_is_fetched_without_consent(index, tmp_path):
    target = tmp_path / "new"
    with pytest.raises(PermissionError, match="wordnet.princeton.edu/license.*accept=True"):
        wordnet.fetch_wordnet(target, index=index)
    assert not target.exists()
    with pytest.raises(FileNotFoundError, match="no WordNet here.*weights fetch wordnet"):
        wordnet.open_wordnet(target)


def test_fetched_with_consent_once(index, tmp_path):
    target = tmp_path / "new"
    assert wordnet.fetch_wordnet(target, accept=True, index=index) == target
    assert wordnet.has_wordnet(target)
    assert sorted(p.name for p in target.rglob("*")) == ["corpora", "wordnet.zip"]
    assert wordnet.open_wordnet(target).synsets("kitten")
    wordnet.fetch_wordnet(target, index="file:///nowhere")  # is there: asks nobody


def test_failed_and_damaged_downloads_leave_nothing(index, archive, tmp_path):
    target = tmp_path / "new"
    with pytest.raises(ConnectionError, match="WordNet"):
        wordnet.fetch_wordnet(target, accept=True, index="file:///nowhere/index.xml")
    (tmp_path / "wordnet.zip").write_bytes(archive[:-40] + bytes(40))
    with pytest.raises(ConnectionError, match="WordNet"):
        wordnet.fetch_wordnet(target, accept=True, index=index)
    assert not wordnet.has_wordnet(target)
    assert [p for p in target.rglob("*") if p.is_file()] == []
