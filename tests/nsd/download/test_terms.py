"""Nothing is sent before the terms are accepted."""

import json

import pytest

from nbutils.nsd.download import TERMS, TermsError, accept, accepted, estimate, terms
from nbutils.nsd.layout import Layout


def test_without_the_terms_no_request_is_sent(site, tmp_path):
    for call in (
        lambda: site.fetch(tmp_path / "nsd", accept_terms=False),
        lambda: estimate(tmp_path / "nsd", 1, [1], servers=site.servers()),
    ):
        with pytest.raises(TermsError, match="nsd terms.*--accept-terms") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert site.objects.log == [] and not (tmp_path / "nsd").exists()


def test_acceptance_is_remembered_with_time_and_version(site, tmp_path):
    site.fetch(tmp_path, accept_terms=True)
    marker = json.loads((tmp_path / ".nsd_terms_accepted.json").read_text())
    assert marker["accepted"].endswith("+00:00") and len(marker["version"]) == 16
    site.fetch(tmp_path, (2,), accept_terms=False)
    assert Layout(tmp_path).sessions(1) == [1, 2]


def test_other_terms_must_be_accepted_again(tmp_path, monkeypatch):
    accept(tmp_path)
    assert accepted(tmp_path)
    monkeypatch.setattr(terms, "TERMS", TERMS + "12. Something new.\n")
    assert not accepted(tmp_path)


def test_a_damaged_marker_is_no_acceptance(tmp_path):
    accept(tmp_path).write_text("yes")
    assert not accepted(tmp_path)


def test_the_terms_say_where_they_are_and_what_they_ask():
    for words in (
        "cvnlab.slite.page/p/IB6BSeW_7o",
        "docs.google.com/forms",
        "research and education only",
        "pass neither the dataset nor parts of it on",
        "IIS-1822683",
        "IIS-1822929",
        "do not sell",
        "COCO",
    ):
        assert words in TERMS


@pytest.mark.parametrize("marker", [".miniature", "STANDIN.json"])
def test_simulated_data_are_not_mixed_with_real_ones(site, tmp_path, marker):
    (tmp_path / marker).touch()
    with pytest.raises(ValueError, match="another folder"):
        site.fetch(tmp_path)
    assert site.objects.log == []
