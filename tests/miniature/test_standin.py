"""The stand-in has NSD's sizes, NSD's experiment and NSD's files, and its numbers fit together."""

import gzip
import json
import os
import shutil
import sys
import zipfile

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import whosmat
from scipy.ndimage import label

from nbutils.miniature import scenes
from nbutils.miniature.standin import Size, Stage, coco, design, files, stimuli, synthesize, write
from nbutils.miniature.standin.brain import grow
from nbutils.miniature.standin.labels import HCP_NAMES, IT_PARCELS, TABLES
from nbutils.miniature.standin.size import NCSNR, NSDGENERAL, SUBJECTS, V1_V2_HV4
from nbutils.miniature.standin.voxels import plant
from nbutils.nsd.betas import load_responses
from nbutils.nsd.captions import captions, stim_info, things
from nbutils.nsd.layout import Layout
from nbutils.nsd.noise import estimate_ncsnr, noise_ceiling, read_ncsnr
from nbutils.nsd.rois import atlases, label_table, mask, roi
from nbutils.nsd.session_files import read_session
from nbutils.nsd.stimuli import Stimuli
from nbutils.nsd.trials import behaviour, split, trials
from nbutils.nsd.volumes import grid, read_volume

SMALL = Size(scale=0.03, image_side=85, stages=(Stage(1, (25, 0, 0), (225, 0, 0)),))
TINY = Size(
    scale=0.01,
    image_side=16,
    stages=(Stage(1, (20, 10, 5), (130, 100, 75)), Stage(2, (50, 0, 0), (450, 0, 0))),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The one session of subject 1 in both formats, with images."""
    root = tmp_path_factory.mktemp("standin") / "bucket"
    return synthesize(root, formats=("nii.gz", "hdf5"), progress=False, size=SMALL)


@pytest.fixture(scope="module")
def brain():
    """Subject 1's brain of real size."""
    return grow("subj01", Size())


def make_tiny(root, **options):
    return synthesize(root, **({"images": False, "progress": False, "size": TINY} | options))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One session without images, made in one go."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "bucket")


@pytest.fixture
def tiny(original, tmp_path):
    """A copy of it to play with."""
    return Layout(shutil.copytree(original.root, tmp_path / "bucket"))


def counts_of(volume):
    values, counts = np.unique(volume, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


# --- the published sizes -------------------------------------------------------------------------


def test_subject_1_has_the_published_voxel_counts(brain):
    """Printed from the real files: nsdgeneral, prf-visualrois, streams and localizer areas."""
    assert brain.shape == (81, 104, 83) and brain.inside.mean() == pytest.approx(0.47, abs=1e-4)
    assert counts_of(brain.atlases["prf-visualrois"]) == {
        **{-1: 592_088, 0: 102_447},
        **{1: 594, 2: 756, 3: 834, 4: 599, 5: 646, 6: 541, 7: 687},
    }
    assert counts_of(brain.atlases["nsdgeneral"]) == {-1: 592_088, 0: 107_104 - 15_724, 1: 15_724}
    streams = [5917, 986, 834, 950, 7604, 7799, 3548]
    assert [counts_of(brain.atlases["streams"])[k] for k in range(1, 8)] == streams
    categories = {"floc-faces": [355, 484, 310], "floc-places": [1611, 1033, 566]}
    for atlas, numbers in categories.items():
        assert [counts_of(brain.atlases[atlas])[k] for k in (1, 2, 3)] == numbers
    bodies, words = counts_of(brain.atlases["floc-bodies"]), counts_of(brain.atlases["floc-words"])
    assert (bodies[1], bodies[3]) == (2971, 430) and 2 not in bodies  # no FBA-1, which is normal
    assert [words[k] for k in (1, 2, 3, 4)] == [464, 773, 505, 165]


@pytest.mark.parametrize("like", SUBJECTS)
def test_every_subject_has_its_own_published_counts(like):
    size = Size()
    areas = size.counts(like, "prf-visualrois")
    v1, v2 = (areas[f"{name}v"] + areas[f"{name}d"] for name in ("V1", "V2"))
    assert (v1, v2, areas["hV4"]) == V1_V2_HV4[like]
    assert size.nsdgeneral(like) == NSDGENERAL[like]
    streams = size.counts(like, "streams")
    early = sum(n for name, n in areas.items() if name != "hV4")
    assert streams["early"] >= early and streams["midventral"] >= areas["hV4"]


def test_another_subject_is_grown_to_its_counts():
    other = grow("subj08", Size())
    assert other.shape == (80, 103, 78)
    assert np.count_nonzero(other.atlases["nsdgeneral"] == 1) == 14_386
    assert len(other.where("prf-visualrois", "V1v", "V1d")) == 1074


@pytest.mark.parametrize(
    ("atlas", "name", "least"),
    [("nsdgeneral", "nsdgeneral", 0.99), ("streams", "ventral", 0.95)]
    + [("prf-visualrois", name, 0.8) for name in TABLES["prf-visualrois"]]
    + [("floc-faces", "FFA-1", 0.9), ("floc-bodies", "EBA", 0.9), ("floc-places", "PPA", 0.9)],
)
def test_areas_are_one_piece_in_each_hemisphere(brain, atlas, name, least):
    """Pieces counted by scipy, voxels that touch at a corner included."""
    everywhere = brain.atlases[atlas] == TABLES[atlas].index(name) + 1
    for half in (brain.right, ~brain.right):
        pieces = np.bincount(label(everywhere & half, np.ones((3, 3, 3)))[0].ravel())[1:]
        assert pieces.max() >= least * pieces.sum()


def test_visual_cortex_is_at_the_back_and_streams_reach_beyond_nsdgeneral(brain):
    general = np.flatnonzero(brain.atlases["nsdgeneral"] > 0)
    streams = np.flatnonzero(brain.atlases["streams"] > 0)
    assert brain.position[general, 1].max() < 0 and np.isin(general, streams).all()
    assert len(streams) == 27_638
    assert len(HCP_NAMES) == len(set(HCP_NAMES)) == 180
    assert HCP_NAMES.index("FFC") == 17 and HCP_NAMES.index("VVC") == 162


def test_noise_ceilings_have_the_published_medians(brain):
    planted = plant(brain, scale=0.1)
    general = planted.ncsnr[brain.atlases["nsdgeneral"] > 0]
    assert np.median(general) == pytest.approx(NCSNR["subj01"], abs=0.002)
    assert np.mean(general) == pytest.approx(0.387, abs=0.01)
    assert 0 < np.count_nonzero(general == 0) < 50
    np.testing.assert_array_equal(np.isnan(planted.ncsnr), ~brain.inside)
    flat = planted.ncsnr.reshape(-1)
    wanted = {("V1v", "V1d"): 48.0, ("V2v", "V2d"): 40.2, ("hV4",): 27.4}
    for names, ceiling in wanted.items():
        found = np.median(noise_ceiling(flat[brain.where("prf-visualrois", *names)], 3))
        assert found == pytest.approx(ceiling, abs=0.3)
    it = np.median(noise_ceiling(flat[brain.where("HCP_MMP1", *IT_PARCELS)], 3))
    assert it == pytest.approx(10.6, abs=0.3)


# --- the experiment ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    """NSD's experiment at full size."""
    return design.plan(Size())


@pytest.mark.parametrize(
    ("sessions", "shared", "seen", "private"),
    [
        (30, (515, 251, 141, 93), 9_209, 8_302),
        (32, (614, 213, 103, 70), 9_411, 8_481),
        (37, (839, 110, 33, 18), 9_841, 8_859),
        (40, (1000, 0, 0, 0), 10_000, 9_000),
    ],
)
def test_after_as_many_sessions_as_many_images_were_seen_as_in_nsd(
    plan, sessions, shared, seen, private
):
    showings = np.bincount(plan.order[: 750 * sessions], minlength=10_000)
    assert tuple(np.bincount(showings[:1000], minlength=4)[::-1]) == shared
    assert np.count_nonzero(showings) == seen
    assert np.count_nonzero(showings[1000:]) == private


def test_private_images_belong_to_one_subject(plan):
    assert plan.images.shape == (8, 10_000) and len(plan.order) == 30_000
    assert plan.n_scenes == 73_000 and plan.n_sessions == 40
    np.testing.assert_array_equal(np.unique(plan.images), np.arange(73_000))
    assert len(np.unique(plan.images[:, 1000:])) == 72_000
    assert (np.diff(plan.shared) > 0).all() and (plan.images[:, :1000] == plan.shared).all()
    assert not (np.diff(plan.images[:, 1000:]) > 0).all()


def test_a_third_of_the_images_repeats_within_its_first_session(plan):
    """NSD: 34.9 %, half of all next showings within 1,364 trials."""
    trial = pd.Series(np.arange(30_000))
    by_image = trial.groupby(plan.order)
    first, second = by_image.nth(0).to_numpy(), by_image.nth(1).to_numpy()
    order = [np.argsort(plan.order[rows]) for rows in (first, second)]
    first, second = first[order[0]], second[order[1]]
    assert np.mean(first // 750 == second // 750) == pytest.approx(0.349, abs=0.02)
    assert 900 < np.median(second - first) < 1_900


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": (Stage(1, (30, 0, 0), (221, 0, 0)),)}, "753 showings do not fill 1 sessions"),
        ({"stages": (Stage(1, (30, 0, 0), (219, 1, 1)),)}, "every image three times"),
        ({"scale": 0.0}, "a scale above 0"),
    ],
)
def test_impossible_sizes_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Size(**options)


# --- the files -----------------------------------------------------------------------------------


def test_the_design_reads_back_with_the_planned_numbers(original):
    described = {name: (shape, kind) for name, shape, kind in whosmat(original.expdesign())}
    assert described["masterordering"] == ((1, 1500), "double")
    assert described["subjectim"] == ((8, 500), "double")
    assert described["stimpattern"] == ((2, 12, 75), "double")
    table = trials(original, 1, [1, 2])
    train, test = split(table)
    assert (table["nsd_id"].nunique(), len(table)) == (500, 1500)
    assert (train["nsd_id"].nunique(), test["nsd_id"].nunique()) == (450, 50)
    early = split(trials(original, 1, [1]))
    assert [part["nsd_id"].nunique() for part in early] == [305, 35]
    np.testing.assert_array_equal(behaviour(original, 1)["nsd_id"], table["nsd_id"])
    assert trials(original, 8, [1]).shape == (750, 6)


def test_the_stimulus_table_has_nsds_columns_and_counts_trials_from_one(small):
    raw = pd.read_csv(small.stim_info())
    assert raw.shape == (25 + 8 * 225, 41) and raw.columns[0] == "Unnamed: 0"
    assert raw.columns[-1] == "subject8_rep2"
    table, info = trials(small, 1), stim_info(small)
    for repeat in range(3):
        rows = table[table["repeat"] == repeat]
        np.testing.assert_array_equal(
            info.loc[rows["nsd_id"], f"subject1_rep{repeat}"], rows["trial"] + 1
        )
    assert info["subject1"].sum() == 250 and info["shared1000"].sum() == 25


def test_both_formats_hold_what_nibabel_reads(small):
    shape, voxels = grid(small, 1)[0], mask(small, 1)
    image = nibabel.load(small.betas(1, 1))
    expected = np.asanyarray(image.dataobj).reshape(-1, 750)[voxels].T
    with gzip.open(small.betas(1, 1)) as file:
        head = nibabel.Nifti1Header(file.read(348), check=False)
    assert head["pixdim"][0] == 0 and head["qform_code"] == 0 and head["sform_code"] == 1
    for file_format in ("nii.gz", "hdf5"):
        found = read_session(small.betas(1, 1, file_format), voxels, shape)
        np.testing.assert_array_equal(found, expected)
    with h5py.File(small.betas(1, 1, "hdf5")) as file:
        assert file["betas"].chunks == (750, 1, 1, 1) and file["betas"].compression is None


def test_thirteen_atlases_with_their_halves_and_tables(small):
    assert sorted(atlases(small, 1)) == sorted(TABLES) and len(TABLES) == 13
    cortex = read_volume(small.roi(1, "nsdgeneral")) >= 0
    for atlas, names in TABLES.items():
        both, left, right = (read_volume(small.roi(1, atlas, half)) for half in (None, "lh", "rh"))
        np.testing.assert_array_equal(np.maximum(left, right), both)
        assert np.argwhere(left > 0)[:, 0].max() < np.argwhere(right > 0)[:, 0].min()
        assert (both[~cortex] == -1).all() or atlas in ("MTL", "thalamus")
        assert label_table(small, 1, atlas) == {name: k for k, name in enumerate(names, start=1)}
    assert small.labels(1, "floc-faces").read_text().splitlines()[1] == "1 OFA\t    "
    v1 = roi(small, 1, "prf-visualrois", "V1")
    assert v1.sum() == round(594 * 0.03) + round(756 * 0.03)


def test_betas_have_nsds_scale(small):
    """V1 of subject 1 in session 1: mean 2.22, sd over trials and voxels 3.29 percent."""
    shape, volume = grid(small, 1)[0], read_volume(small.roi(1, "prf-visualrois"))
    v1 = np.flatnonzero((volume == 1) | (volume == 2))
    betas = read_session(small.betas(1, 1), v1, shape) / 300
    assert betas.mean() == pytest.approx(2.22, abs=0.6)
    assert betas.std() == pytest.approx(3.29, rel=0.12)
    rest = np.flatnonzero(volume == 0)
    assert (read_session(small.betas(1, 1), rest, shape) / 300).std() == pytest.approx(
        2.28, rel=0.08
    )


def test_repeats_agree_as_the_noise_ceiling_file_says(small):
    """Estimated from the trials by NSD's formula, against what was planted."""
    shape, voxels = grid(small, 1)[0], mask(small, 1)
    betas = read_session(small.betas(1, 1), voxels, shape)
    table, planted = trials(small, 1), read_ncsnr(small, 1, voxels)
    found = estimate_ncsnr(betas, table["nsd_id"].to_numpy(), table["session"].to_numpy())
    assert np.corrcoef(found, planted)[0, 1] > 0.85
    assert np.median(found) == pytest.approx(np.median(planted), abs=0.06)


def test_voxels_outside_the_brain_are_zero_and_lost_ones_for_one_session(original):
    betas = np.asanyarray(nibabel.load(original.betas(1, 1)).dataobj)
    inside, *valid = (
        read_volume(original.volume(1, name)) > 0
        for name in ("brainmask", "valid_session01", "valid_session02")
    )
    np.testing.assert_array_equal(betas.any(axis=3), valid[0])
    np.testing.assert_array_equal(valid[0] | valid[1], inside)
    lost = [np.count_nonzero(inside & ~one) for one in valid]
    assert min(lost) > 0 and sum(lost) == 40


def test_the_right_hemisphere_sees_the_left_half(small):
    angle = read_volume(small.volume(1, "prf_angle"))
    v1 = np.isin(read_volume(small.roi(1, "prf-visualrois", "rh")), (1, 2))
    x = np.cos(np.radians(angle[v1]))
    assert np.mean(x < 0) > 0.95
    inside = read_volume(small.volume(1, "brainmask")) > 0
    eccentricity = read_volume(small.volume(1, "prf_eccentricity"))
    assert np.isnan(eccentricity[~inside]).all() and np.nanmax(eccentricity) <= 1000
    assert np.isnan(angle[inside & (eccentricity == 0)]).all()


def test_responses_predict_what_was_in_the_scene(small):
    """Ridge by scikit-learn from 225 images: far above chance (one in eight)."""
    from sklearn.linear_model import Ridge

    got = load_responses(small, 1)

    def categories(ids):
        return np.array([scenes.label_vector(scenes.scene(int(i)))[:8] for i in ids])

    model = Ridge(3000.0).fit(got.train, categories(got.train_id))
    best = model.predict(got.test).argmax(axis=1)
    right = categories(got.test_id)[np.arange(len(best)), best].mean()
    assert right > 0.5


# --- images --------------------------------------------------------------------------------------


def test_the_stimulus_file_is_39_gigabytes_that_take_no_room(tmp_path):
    path = tmp_path / "nsd_stimuli.hdf5"
    stimuli.create_brick(path, 73_000, 425)
    state = os.stat(path)
    assert state.st_size >= 39_556_875_000 and state.st_blocks * 512 < 1 << 20
    with h5py.File(path) as file:
        brick = file["imgBrick"]
        assert brick.shape == (73_000, 425, 425, 3) and brick.dtype == np.uint8
        assert brick.chunks is None and brick.id.get_offset() + brick.nbytes <= state.st_size
        assert not brick[72_999].any()


def test_images_are_those_of_the_scenes(small):
    ids = trials(small, 1)["nsd_id"].to_numpy()[:20]
    for picture, nsd_id in zip(Stimuli(small)[ids], ids, strict=True):
        drawn = scenes.draw(scenes.scene(int(nsd_id)))
        again = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX))
        assert np.abs(again.astype(int) - drawn).mean() < 8
    shared = sorted((small.stimuli().parent / "shared1000").glob("*.png"))
    numbers = np.array([int(path.stem.split("_nsd")[1]) for path in shared])
    np.testing.assert_array_equal(numbers - 1, np.unique(split(trials(small, 1))[1]["nsd_id"]))
    assert shared[6].name.startswith("shared0007_")
    np.testing.assert_array_equal(
        np.asarray(Image.open(shared[6])), Stimuli(small)[int(numbers[6]) - 1]
    )


def test_cropping_a_photograph_as_the_table_says_gives_nearly_the_image(small):
    info, ids = stim_info(small), np.unique(trials(small, 1)["nsd_id"])[:30]
    kinds = set()
    for nsd_id in ids:
        row = info.loc[nsd_id]
        photo = Image.open(small.root / f"coco/{row['cocoSplit']}/{row['cocoId']:012d}.jpg")
        top, bottom, left, right = json.loads(row["cropBox"].replace("(", "[").replace(")", "]"))
        assert min(top, left) >= 0 and (top + bottom == 0 or left + right == 0)
        kinds.add((top + bottom > 0, left + right > 0))
        box = (left * photo.width, top * photo.height)
        box += ((1 - right) * photo.width, (1 - bottom) * photo.height)
        cut = photo.crop([round(v) for v in box])
        assert cut.size == (426, 426)
        near = np.asarray(cut.resize((85, 85), Image.Resampling.BICUBIC)).astype(int)
        assert 0 < np.abs(near - Stimuli(small)[int(nsd_id)]).mean() < 6
    assert len(kinds) >= 2  # upright and wide photographs


def test_captions_and_boxes_are_those_of_the_scenes(small):
    ids = np.unique(trials(small, 1)["nsd_id"])
    assert all(len(five) == 5 for five in captions(small, ids))
    for nsd_id, found in zip(ids[:50], things(small, ids[:50]), strict=True):
        drawn = scenes.scene(int(nsd_id)).things
        assert sorted(one.name for one in found) == sorted(one.kind for one in drawn)
        by_name = {one.name: one.box for one in found}
        for one in drawn:
            x, _, width, _ = by_name[one.kind]
            assert x == pytest.approx(max(one.x - one.size, 0), abs=0.01)
            assert x + width == pytest.approx(min(one.x + one.size, 1), abs=0.01)


def test_the_zip_unpacks_to_the_annotation_files(small):
    with zipfile.ZipFile(small.root / "coco/annotations/annotations_trainval2017.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 4
        for name in archive.namelist():
            assert archive.read(name) == (small.root / name).read_bytes()


def test_photographs_of_nsds_first_row_have_its_crop_text():
    """NSD's first image: 640 x 426, 107 pixels cut off on both sides."""
    one = coco.Photographs(*(np.array([v]) for v in (532_481, "val2017", 640, 426, 107, 0)))
    assert one.crop_text() == ["(0, 0, 0.1671875, 0.1671875)"]
    assert coco.file_name(one, 0) == "val2017/000000532481.jpg"


# --- making it -----------------------------------------------------------------------------------


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_killed_session_leaves_nothing_and_is_made_again_to_the_byte(
    original, tmp_path, monkeypatch
):
    def die(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    root = tmp_path / "bucket"
    with monkeypatch.context() as patch:
        patch.setattr(write, "record", lambda *_, **__: None)
        patch.setitem(write.WRITERS, "nii.gz", die)
        with pytest.raises(KeyboardInterrupt):
            make_tiny(root)
    assert not list(root.rglob("betas_session*")) and not list(root.rglob("*.part"))
    layout = make_tiny(root)
    assert contents(layout.root) == contents(original.root)


def test_without_isal_the_content_is_the_same(tmp_path, monkeypatch):
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    files.write_volume(tmp_path / "fast.nii.gz", volume)
    monkeypatch.setitem(sys.modules, "isal.igzip", None)
    files.write_volume(tmp_path / "plain.nii.gz", volume)
    one, two = (gzip.open(tmp_path / f"{name}.nii.gz").read() for name in ("fast", "plain"))
    assert one == two
    np.testing.assert_array_equal(read_volume(tmp_path / "plain.nii.gz"), volume)


def test_another_seed_is_another_experiment_and_another_brain():
    assert (design.plan(TINY, 0).order != design.plan(TINY, 1).order).mean() > 0.9
    assert (design.plan(TINY, 0).shared != design.plan(TINY, 1).shared).any()
    assert (grow("subj01", TINY, 0).cortex != grow("subj01", TINY, 1).cortex).any()


def test_a_second_call_adds_what_is_missing_and_keeps_the_rest(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.root.rglob("*") if path.is_file()}
    make_tiny(tiny.root, sessions=2)
    assert tiny.sessions(1) == [1, 2]
    make_tiny(tiny.root, like="subj05", formats="hdf5")
    assert tiny.sessions(5, "hdf5") == [1]
    kept = [path for path in before if "annotations" not in path.parts and path.name != "lock"]
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)
    # Captions of both subjects' images, five each and once.
    for subject in (1, 5):
        assert {len(five) for five in captions(tiny, trials(tiny, subject)["nsd_id"])} == {5}


def test_other_data_are_never_written_over(tiny, tmp_path):
    real = tmp_path / "nsd"
    (real / "nsddata").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds files and no STANDIN.json"):
        make_tiny(real)
    assert [path.name for path in real.rglob("*")] == ["nsddata"]
    assert "stand-in" in json.loads((tiny.root / "STANDIN.json").read_text())["what"]
    with pytest.raises(ValueError, match="made with seed=0, not 1"):
        make_tiny(tiny.root, seed=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"like": "subj09"}, "choose one of subj01"),
        ({"sessions": 3}, "subj01 has 1 to 2 sessions"),
        ({"formats": ("mat",)}, "choose among nii.gz and hdf5"),
        ({"formats": ()}, "choose among nii.gz and hdf5"),
    ],
)
def test_impossible_arguments_write_nothing(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        make_tiny(tmp_path / "bucket", **options)
    assert not (tmp_path / "bucket").exists()
