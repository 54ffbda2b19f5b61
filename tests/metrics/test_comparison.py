"""Systems side by side, on a judge whose values are known."""

from dataclasses import replace

import numpy as np
import pytest

from nbutils import Study
from nbutils.metrics import comparison
from nbutils.metrics.bootstrap import interval
from nbutils.metrics.comparison import CEILING, OWN, SYSTEMS, ablation_rows
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.generation import ablations


class Brightness:
    """Measures the mean of pictures, and takes 10 for chance."""

    def measure(self, images):
        return {"mean": images.mean(axis=(1, 2, 3)), "spread": images.std(axis=(1, 2, 3))}

    def measure_chance(self, images):
        return {name: np.full(len(images), 10.0) for name in ("mean", "spread")}


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return {
        "A": {
            OWN: rng.integers(100, 255, (20, 4, 4, 3), dtype=np.uint8),
            "shuffled responses": rng.integers(0, 100, (20, 4, 4, 3), dtype=np.uint8),
            CEILING: np.full((20, 4, 4, 3), 250, np.uint8),
        },
        "B": {OWN: rng.integers(0, 255, (20, 4, 4, 3), dtype=np.uint8)},
    }


def test_every_value_stands_beside_interval_chance_controls_and_ceiling(pictures):
    table = comparison.compare(Brightness(), pictures)
    assert list(table) == [
        *("system", "measure", "value", "low", "high", "chance", "ceiling", "n"),
        "shuffled responses",
    ]
    row = table.set_index(["system", "measure"]).loc[("A", "mean")]
    own = pictures["A"][OWN].mean(axis=(1, 2, 3))
    assert row["value"] == pytest.approx(own.mean())
    assert (row["low"], row["high"]) == pytest.approx(interval(own))
    assert row["chance"] == 10 and row["ceiling"] == 250 and row["n"] == 20
    shuffled = pictures["A"]["shuffled responses"].mean()
    assert row["shuffled responses"] == pytest.approx(shuffled)
    b = table[table["system"] == "B"]
    assert b[["ceiling", "shuffled responses"]].isna().all(axis=None)


def test_without_controls_there_is_still_a_ceiling_column(pictures):
    table = comparison.compare(Brightness(), {"B": pictures["B"]})
    assert table["ceiling"].isna().all()
    with pytest.raises(ValueError, match="A: give its pictures under 'own responses'"):
        comparison.compare(Brightness(), {"A": {CEILING: pictures["A"][CEILING]}})


def test_laid_out_for_reading_in_the_order_given(pictures):
    table = comparison.compare(Brightness(), pictures)
    laid = comparison.side_by_side(table, digits=1)
    assert list(laid.index) == ["A", "B"] and list(laid) == ["mean", "spread"]
    row = table.iloc[0]
    assert laid.loc["A", "mean"] == f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


@pytest.fixture
def study(tmp_path):
    study = Study(results=tmp_path, device="cpu")
    ids = {"brain_diffuser": [5, 3, 9, 7], "unibrain": [3, 5, 7, 8], "takagi": [7, 5, 3]}
    for name, rows in ids.items():
        shape = (len(rows), 2, 2, 2, 3) if name == "takagi" else (len(rows), 2, 2, 3)
        images = np.broadcast_to(np.reshape(rows, (-1,) + (1,) * (len(shape) - 1)), shape)
        study.save("images", SYSTEMS[name].images, images.astype(np.uint8), nsd_id=rows)
    shuffled = np.zeros((4, 2, 2, 3), np.uint8)
    study.save("images", "unibrain_shuffled.npy", shuffled, nsd_id=ids["unibrain"])
    none = np.zeros((0, 2, 2, 3), np.uint8)
    study.save("images", "unibrain_other_subject.npy", none, nsd_id=[])
    return study


def test_systems_on_disk_are_found_and_the_others_named(study):
    present, absent = comparison.find_systems(study)
    assert present == ["brain_diffuser", "unibrain", "takagi"]
    assert absent == ["neural_recon", "minddiffuser"]
    assert comparison.find_systems(study, ["takagi"]) == (["takagi"], [])
    with pytest.raises(ValueError, match="systems='dream': choose from brain_diffuser"):
        comparison.find_systems(study, ["dream"])
    with pytest.raises(ValueError, match="No system of minddiffuser has left pictures"):
        comparison.find_systems(study, ["minddiffuser"])


def test_only_images_that_all_systems_decoded_are_compared_row_by_row(study):
    ids = comparison.common_ids(study, ["brain_diffuser", "unibrain", "takagi"])
    np.testing.assert_array_equal(ids, [5, 3, 7])
    for name in ("brain_diffuser", "unibrain", "takagi"):
        rows = comparison.first_sample(comparison.load_images(study, name, ids)[OWN])
        np.testing.assert_array_equal(rows[:, 0, 0, 0], ids)
    study.save("images", "minddiffuser.npy", np.zeros((2, 2, 2, 3), np.uint8), nsd_id=[1, 2])
    with pytest.raises(ValueError, match="have 0 decoded images in common"):
        comparison.common_ids(study, ["takagi", "minddiffuser"])


def test_controls_lie_beside_the_pictures_and_empty_ones_do_not_count(study):
    found = comparison.load_images(study, "unibrain", np.array([8, 3]))
    assert list(found) == [OWN, "shuffled responses"]
    assert found["shuffled responses"].shape == (2, 2, 2, 3)


def test_sentences_are_loaded_with_their_controls_and_silent_systems_have_none(study):
    study.save("captions", "unibrain.json", ["a", "b", "c"], nsd_id=[3, 5, 8])
    study.save("captions", "unibrain_ground_truth.json", ["x", "y"], nsd_id=[8, 3])
    found = comparison.load_captions(study, "unibrain", np.array([8, 3]))
    assert found == {OWN: ["c", "a"], CEILING: ["x", "y"]}
    assert comparison.load_captions(study, "takagi", np.array([8, 3])) == {}


def test_only_images_that_all_speakers_spoke_about_are_compared(study, monkeypatch):
    speaking = {name: replace(SYSTEMS[name], captions=f"{name}.json")
                for name in ("takagi", "minddiffuser")}  # fmt: skip
    monkeypatch.setattr(comparison, "SYSTEMS", SYSTEMS | speaking)
    study.save("captions", "takagi.json", ["seven", "three", "nine"], nsd_id=[7, 3, 9])
    study.save("captions", "unibrain.json", ["three", "five", "seven"], nsd_id=[3, 5, 7])
    speakers = comparison.find_speakers(study, {"takagi", "unibrain", "minddiffuser"})
    assert speakers == ["unibrain", "takagi"]  # nothing of MindDiffuser is on disk
    ids = comparison.common_ids(study, speakers, "captions")
    np.testing.assert_array_equal(ids, [3, 7])
    for name in speakers:
        assert comparison.load_captions(study, name, ids)[OWN] == ["three", "seven"]
    study.save("captions", "minddiffuser.json", ["three"], nsd_id=[3])
    with pytest.raises(ValueError, match="have 1 decoded captions in common"):
        comparison.common_ids(study, ["unibrain", "minddiffuser"], "captions")


@pytest.mark.parametrize(
    "system",
    [unibrain.IMAGE_INPUTS, unibrain.CAPTION_INPUTS, brain_diffuser.INPUTS],
)
def test_ablation_by_symbols_is_that_by_inputs(system):
    """One list of rows for both flows and both systems; the published rows under their names."""
    z, image, text = system
    rows = ablation_rows(system, ["only Z", "only C_I", "without Z", "without C_T", "without C"])
    by_inputs = ablations(system)
    assert list(rows)[0] == "full"
    assert rows["full"] == by_inputs["full"]
    assert rows["only Z"] == rows["without C"] == by_inputs[f"only {z}"]
    assert rows["only C_I"] == by_inputs[f"only {image}"]
    assert rows["without Z"] == by_inputs[f"without {z}"]
    assert rows["without C_T"] == by_inputs[f"without {text}"]


@pytest.mark.parametrize("row", ["without", "just Z", "only X", "Z"])
def test_rows_that_mean_nothing_are_refused(row):
    with pytest.raises(ValueError, match="say 'only' or 'without'"):
        ablation_rows(unibrain.IMAGE_INPUTS, [row])


def test_ablation_is_split_into_layout_and_meaning():
    rng = np.random.default_rng(1)
    values = {
        row: {"PixCorr": rng.normal(size=9), "category hit": rng.random(9)}
        for row in ("full", "without autokl")
    }
    chance = {"PixCorr": np.zeros(9), "category hit": np.full(9, 0.2)}
    low, meaning = comparison.split_ablation(values, "PixCorr", "category hit", chance)
    assert list(low) == list(meaning) == ["full", "without autokl"]
    assert low["full"].value == pytest.approx(values["full"]["PixCorr"].mean())
    assert meaning["full"].chance == pytest.approx(0.2)
