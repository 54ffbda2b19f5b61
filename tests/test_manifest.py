"""The list of notebooks is the one that README, runner and folder agree on."""

from pathlib import Path

import pytest

from nbutils import manifest

ROOT = Path(__file__).resolve().parent.parent


def test_manifest_lists_exactly_the_notebooks_in_the_folder():
    on_disk = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sorted(notebook.name for notebook in manifest.notebooks()) == on_disk


def test_every_input_is_made_by_an_earlier_notebook():
    made = set()
    for notebook in manifest.notebooks():
        assert set(notebook.inputs) <= made, notebook.name
        assert not made & set(notebook.outputs), f"{notebook.name} makes what another one made"
        made |= set(notebook.outputs)
    assert set(manifest.highlights().values()) <= made


def test_readme_table_is_the_manifests():
    assert manifest.format_table() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["3", "03", "03_fit_ridge", "03_fit_ridge.ipynb"])
def test_notebook_is_found_by_number_or_name(word):
    assert manifest.find(word).name == "03_fit_ridge"


def test_unknown_notebook_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="notebook '42': there are 00, 01"):
        manifest.find("42")


def test_tutorial_fits_its_budget():
    listed = {notebook.number: notebook for notebook in manifest.notebooks()}
    assert sum(notebook.minutes for notebook in listed.values()) <= 25
    assert max(notebook.memory for notebook in listed.values()) <= 6
    assert listed["00"].minutes <= 1
