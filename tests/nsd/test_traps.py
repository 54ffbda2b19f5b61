"""The traps of the Natural Scenes Dataset, one test each, on files in its own layout.

Numbers are those of our notes on NSD: what has gone wrong with real files, in published code or
in tools around it.
"""

import ast
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat

import nbutils
from nbutils.miniature import scenes
from nbutils.miniature.recording import write_nifti
from nbutils.miniature.write import make
from nbutils.nsd.betas import load_responses
from nbutils.nsd.captions import read_crop, stim_info
from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import read_masked, write_masked
from nbutils.nsd.noise import noise_ceiling, read_ncsnr
from nbutils.nsd.rois import atlases, eccentricity, mask, roi
from nbutils.nsd.session_files import read_session, stream_nifti
from nbutils.nsd.stimuli import Stimuli
from nbutils.nsd.trials import behaviour, design, recorded, split, trials
from nbutils.nsd.volumes import grid, read_volume, to_image, to_volume
from nbutils.world import WORLDS


@pytest.fixture
def own(small, tmp_path) -> Layout:
    """A copy of the small world to damage."""
    for name in ("nsddata", "nsddata_betas"):
        shutil.copytree(small.root / name, tmp_path / "own" / name)
    return Layout(tmp_path / "own")


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Layout:
    """Subject 1 came once, though two sessions were planned."""
    return make(
        tmp_path_factory.mktemp("short") / "world",
        n_shared=100,
        n_private=400,
        voxel_scale=0.03,
        recorded=1,
        progress=False,
        workers=1,
    )


def labels(layout: Layout, atlas: str, hemisphere: str | None = None) -> np.ndarray:
    """Read a label volume with nibabel alone."""
    return np.asanyarray(nibabel.load(layout.roi(1, atlas, hemisphere)).dataobj)


def stored(layout: Layout, session: int) -> np.ndarray:
    """Read a session with nibabel alone, (x, y, z, trials) int16."""
    return np.asanyarray(nibabel.load(layout.betas(1, session)).dataobj)


def modules(folder: str = "") -> list[tuple[Path, ast.Module]]:
    """Parse every module of the package."""
    files = (Path(nbutils.__file__).parent / folder).rglob("*.py")
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def test_trap_01_three_index_bases(small):
    """MATLAB, behaviour and trial numbers count from 1; images in the stimulus file from 0."""
    table, fields = trials(small, 1), loadmat(small.expdesign())
    position = fields["masterordering"][0].astype(int) - 1
    expected = fields["subjectim"][0].astype(int)[position] - 1
    np.testing.assert_array_equal(table["nsd_id"], expected)
    np.testing.assert_array_equal(behaviour(small, 1)["73KID"] - 1, expected)
    first = table[table["repeat"] == 0]
    np.testing.assert_array_equal(
        stim_info(small).loc[first["nsd_id"], "subject1_rep0"] - 1, first["trial"]
    )
    shown = Stimuli(small)[first["nsd_id"].to_numpy()[:20]]
    drawn = [scenes.draw(scenes.scene(int(i))) for i in first["nsd_id"][:20]]
    np.testing.assert_array_equal(shown, drawn)


def test_trap_02_minus_one_outside_cortex_is_no_region(small):
    volume = labels(small, "nsdgeneral")
    assert mask(small, 1).tolist() == np.flatnonzero(volume == 1).tolist()
    assert len(mask(small, 1)) < np.count_nonzero(volume) - 300
    everywhere = np.arange(volume.size)
    faces = roi(small, 1, "floc-faces", voxels=everywhere)
    assert faces.sum() == (labels(small, "floc-faces") > 0).sum() < (volume == -1).sum()


def test_trap_03_voxel_order_does_not_depend_on_the_file_type(small, own):
    inside, shape = labels(small, "nsdgeneral") == 1, grid(small, 1)[0]
    voxels = mask(small, 1)
    from_nifti = stored(small, 1)[inside].T
    with h5py.File(small.betas(1, 1, "hdf5")) as file:
        naive = file["betas"][:][:, inside.T]
    assert not np.array_equal(naive, from_nifti)
    order = np.argsort(np.ravel_multi_index(np.nonzero(inside), shape, order="F"))
    np.testing.assert_array_equal(naive, from_nifti[:, order])
    write_masked(own, 1, 1, from_nifti, voxels, shape)
    for suffix in ("nii.gz", "hdf5", "masked"):
        got = read_session(own.betas(1, 1, suffix), voxels, shape)
        np.testing.assert_array_equal(got, from_nifti)


def test_trap_04_hdf5_axes_are_reversed(small):
    """A landmark besides the shape: NSD's own mean map, which another code path wrote."""
    shape = grid(small, 1)[0]
    everything = np.arange(np.prod(shape))
    blocks = [read_session(small.betas(1, s, "hdf5"), everything, shape) for s in (1, 2)]
    mean = to_volume(np.concatenate(blocks).mean(axis=0) / 300, everything, shape)
    expected = nibabel.load(small.betas_folder(1) / "meanbeta.nii.gz").get_fdata()
    np.testing.assert_allclose(mean, expected, atol=1e-4)
    with pytest.raises(ValueError, match="another subject or another space"):
        read_session(small.betas(1, 1, "hdf5"), everything, shape[::-1])


def test_trap_05_stored_integers_are_300_times_percent(small):
    got = load_responses(small, 1)
    raw = np.concatenate([stored(small, s)[labels(small, "nsdgeneral") == 1].T for s in (1, 2)])
    training = ~trials(small, 1)["shared"].to_numpy()
    frame = pd.DataFrame(raw[training]).groupby(trials(small, 1)["nsd_id"][training].to_numpy())
    np.testing.assert_allclose(got.std * 300, frame.mean().std(ddof=1), rtol=1e-4)
    assert 0.2 < np.median(got.std) < 5


def test_trap_06_a_session_is_not_read_as_float64(tmp_path):
    """get_fdata of this file takes 154 MB; one of subject 1 takes 4.2 GB."""
    shape, path = (40, 40, 40), tmp_path / "betas_session01.nii.gz"
    write_nifti(path, np.arange(300, dtype=np.int16)[:, None, None, None] + np.zeros(shape, "i2"))
    tracemalloc.start()
    got = read_session(path, np.arange(0, 64000, 640), shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.dtype == np.int16 and (got == np.arange(300)[:, None]).all()
    assert peak < 8e6


def test_trap_07_a_compressed_session_is_read_once_from_front_to_back(small):
    """A connection cannot be rewound, so whoever reads from one reads once."""
    content, asked = small.betas(1, 1).read_bytes(), []

    def once():
        for start in range(0, len(content), 5000):
            asked.append(start)
            yield content[start : start + 5000]

    voxels, shape = mask(small, 1), grid(small, 1)[0]
    got = stream_nifti(once(), voxels, shape, "betas_session01.nii.gz")
    np.testing.assert_array_equal(got, stored(small, 1).reshape(-1, 750)[voxels].T)
    assert asked == sorted(set(asked)) and len(asked) == -(-len(content) // 5000)


def test_trap_08_hdf5_is_read_by_voxel_and_never_by_trial(small, monkeypatch):
    """Every voxel's trials are one chunk: slicing by trial touches all chunks of the file."""

    def forbidden(*_):
        raise AssertionError("the data set was sliced")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", forbidden)
    voxels, shape = mask(small, 1), grid(small, 1)[0]
    got = read_session(small.betas(1, 1, "hdf5"), voxels, shape)
    np.testing.assert_array_equal(got, read_session(small.betas(1, 1), voxels, shape))


def test_trap_09_missing_data_are_zeros_in_betas_and_nan_in_maps(small):
    brain = read_volume(small.volume(1, "brainmask")) > 0
    lost = [brain & (read_volume(small.volume(1, f"valid_session{s:02d}")) == 0) for s in (1, 2)]
    assert sum(map(np.count_nonzero, lost)) == 6
    assert all(not stored(small, s + 1)[gone].any() for s, gone in enumerate(lost))
    voxels = np.flatnonzero(lost[0] | lost[1])
    for zscore in ("published", "session"):
        got = load_responses(small, 1, voxels=voxels, zscore=zscore)
        assert np.isfinite(got.train).all() and np.isfinite(got.test).all()
    outside = np.flatnonzero(~brain)
    assert np.isnan(noise_ceiling(read_ncsnr(small, 1, outside), 3)).all()
    assert not eccentricity(small, 1, 0, 1001, voxels=outside).any()


@pytest.mark.parametrize("zscore", ["session", "published"])
def test_trap_10_zscore_by_session_removes_what_changes_between_sessions(own, zscore):
    """A session whose gain is doubled and whose baseline is moved, in every voxel of the mask."""
    before = load_responses(own, 1, zscore=zscore)
    with h5py.File(own.betas(1, 2, "hdf5"), "r+") as file:
        betas = file["betas"][:]
        file["betas"][:] = 2 * betas + 40 * (betas != 0).any(axis=0)
    after = load_responses(own, 1, zscore=zscore)
    close = np.allclose(before.train, after.train, atol=2e-3)
    assert close == (zscore == "session")


def test_trap_11_not_every_planned_session_took_place(short):
    plan = stim_info(short).loc[:, "subject1_rep0":"subject1_rep2"].to_numpy()
    # The tables go on where the recording ended.
    assert plan.max() == 1500 == len(design(short).order) and recorded(short, 1) == 1
    table = trials(short, 1)
    assert len(table) == 750 == len(behaviour(short, 1)) and table["session"].max() == 1
    # Of the planned showings, those up to trial 750 (counted from 1) are the ones that happened.
    happened = np.bincount(table["nsd_id"], minlength=len(plan))
    np.testing.assert_array_equal(((plan > 0) & (plan <= 750)).sum(axis=1), happened)
    with pytest.raises(ValueError, match="subject 1 has sessions 1 to 1"):
        trials(short, 1, [1, 2])
    got = load_responses(short, 1)
    assert set(got.n_repeats_test) == {1, 2, 3} and len(got.test_id) < 100
    assert WORLDS["nsd"].sessions == (40, 40, 32, 30, 40, 32, 40, 30)


def test_trap_12_the_test_set_follows_from_the_sessions(small):
    """982 images are what 37 sessions happened to show of 1,000."""
    few, every = load_responses(small, 1, [1]), load_responses(small, 1, [1, 2])
    assert set(few.test_id) < set(every.test_id) == set(design(small).shared)
    assert len(few.test_id) < len(every.test_id) == 60
    nsd = WORLDS["nsd"]
    counts = {
        name: [len(nsd.session_numbers(subject, name)) for subject in nsd.subjects]
        for name in ("classic", "full")
    }
    assert counts["classic"] == [37, 37, 29, 27, 37, 29, 37, 27]
    assert counts["full"] == list(nsd.sessions)


def test_trap_13_test_images_come_by_first_appearance_and_carry_their_ids(small):
    got = load_responses(small, 1)
    shared = trials(small, 1).query("shared")["nsd_id"]
    assert got.test_id.tolist() == shared.drop_duplicates().tolist() != sorted(got.test_id)
    # Brought into another paper's order by id, they are the same responses.
    inside, table = labels(small, "nsdgeneral") == 1, trials(small, 1)
    ascending = got.test[np.argsort(got.test_id)]
    raw = np.concatenate([stored(small, s)[inside].T for s in (1, 2)]) / 300
    smallest = raw[(table["nsd_id"] == got.test_id.min()).to_numpy()].mean(axis=0)
    np.testing.assert_allclose(ascending[0], got.standardise(smallest), atol=2e-3)


def test_trap_14_repeats_within_a_session_would_leak_through_a_split_by_trial(small):
    table = trials(small, 1, [1])
    again = table["nsd_id"].duplicated(keep=False).mean()
    assert again > 0.3
    odd, even = table[::2], table[1::2]
    assert set(odd["nsd_id"]) & set(even["nsd_id"])
    train, test = split(table)
    assert not set(train["nsd_id"]) & set(test["nsd_id"])
    assert len(train) + len(test) == 750


def test_trap_15_shared_images_are_in_nobodys_training_set(small):
    parts = {subject: split(trials(small, subject, [1, 2])) for subject in (1, 2, 3, 4)}
    tested = {image for _, test in parts.values() for image in test["nsd_id"]}
    trained = {image for train, _ in parts.values() for image in train["nsd_id"]}
    assert tested == set(design(small).shared) and not tested & trained
    assert all(set(test["nsd_id"]) == tested for _, test in parts.values())


class Bomb:
    """A pickle that, when loaded, leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_trap_16_no_pickle_is_opened(own, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    own.stim_info().with_suffix(".pkl").write_bytes(bomb)
    assert len(stim_info(own)) == 60 + 4 * 440
    voxels, shape = mask(own, 1), grid(own, 1)[0]
    path = write_masked(own, 1, 1, np.zeros((750, len(voxels)), np.int16), voxels, shape)
    np.save(own.masked_voxels(1), np.array([Bomb(tmp_path / "exploded")]), allow_pickle=True)
    with pytest.raises(ValueError, match="voxels.npy"):
        read_masked(path, voxels, shape)
    with pytest.raises(ValueError, match="cropBox"):
        read_crop("__import__('os').mkdir('exploded')")
    assert not (tmp_path / "exploded").exists() and not Path("exploded").exists()
    for path, tree in modules("nsd"):
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "read_pickle" not in names, path
        assert not imported(tree) & {"pickle", "dill", "joblib", "torch"}, path


def imported(tree: ast.Module) -> set[str]:
    """Return the top names of what a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_trap_17_nothing_heavy_or_expired_is_used(tmp_path):
    heavy = ("torch", "matplotlib", "IPython", "pycocotools", "nsd_access")
    code = (
        "import importlib, pkgutil, sys, nbutils.nsd as nsd\n"
        "for one in pkgutil.walk_packages(nsd.__path__, 'nbutils.nsd.'):\n"
        "    importlib.import_module(one.name)\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    root = Path(nbutils.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == "[]"
    for path, tree in modules():
        calls = [
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        assert "get_data" not in calls, f"{path} calls nibabel's expired get_data()"


def test_trap_18_loading_the_design_warns_of_nothing(own):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(design(own).order) == 1500


def test_trap_19_a_mask_that_did_not_arrive_is_named(own):
    own.roi(1, "floc-faces", "rh").unlink()
    assert roi(own, 1, "floc-faces").any()
    assert roi(own, 1, "floc-faces", hemisphere="lh").any()
    with pytest.raises(FileNotFoundError, match=r"rh\.floc-faces\.nii\.gz"):
        roi(own, 1, "floc-faces", hemisphere="rh")
    own.roi(1, "streams").unlink()
    assert "streams" not in atlases(own, 1)
    with pytest.raises(FileNotFoundError, match="atlas 'streams'.*nsdgeneral"):
        roi(own, 1, "streams")


def test_trap_20_x_runs_from_left_to_right(small):
    voxels = mask(small, 1)
    left = roi(small, 1, "nsdgeneral", hemisphere="lh")
    image = to_image(small, 1, np.where(left, -1.0, 1.0), voxels, fill=0)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.linalg.det(image.affine[:3, :3]) > 0
    values = image.get_fdata()
    x = [
        nibabel.affines.apply_affine(image.affine, np.argwhere(values == side))[:, 0]
        for side in (-1, 1)
    ]
    assert x[0].max() < 0 < x[1].min()
    reference = nibabel.load(small.volume(1, "T1_to_func1pt8mm"))
    np.testing.assert_array_equal(image.affine, reference.affine)
    np.testing.assert_array_equal(values == -1, labels(small, "nsdgeneral", "lh") == 1)


@pytest.mark.parametrize("name", ["roi/nsdgeneral", "prf_eccentricity"])
def test_trap_21_a_volume_of_another_space_is_refused(own, name):
    shape = tuple(round(1.8 * n) for n in grid(own, 1)[0])
    path = own.volume(1, name)
    write_nifti(path, np.ones(shape[::-1], np.int16))
    with pytest.raises(ValueError, match="another subject or another space"):
        eccentricity(own, 1, 0, 4)
    write_nifti(own.betas(1, 1), np.zeros((750, *shape[::-1]), np.int16))
    with pytest.raises(ValueError, match="another subject or another space"):
        read_session(own.betas(1, 1), np.arange(3), grid(own, 1)[0])


def test_trap_22_trial_numbers_that_restart_are_not_taken_for_the_trial(small):
    table, pressed = trials(small, 1), behaviour(small, 1)
    # In the behaviour table numbers restart; ours run on over the sessions.
    assert pressed["TRIAL"].max() == 63 and pressed["TRIAL"].duplicated().any()
    assert table["trial"].tolist() == list(range(1500))
    np.testing.assert_array_equal(table["session"], table["trial"] // 750 + 1)
    for name in ("session", "run"):
        np.testing.assert_array_equal(table[name], pressed[name.upper()])
    later = trials(small, 1, [2])
    assert later["trial"].tolist() == list(range(750, 1500))
    # The k-th row of a session's betas is the k-th trial of that session.
    got = load_responses(small, 1, [2])
    shared = later[later["shared"]]
    np.testing.assert_array_equal(got.test_trial_id, shared["nsd_id"])
    betas = stored(small, 2)[labels(small, "nsdgeneral") == 1].T / 300
    expected = got.standardise(betas[shared["trial"].to_numpy() - 750])
    np.testing.assert_allclose(got.test_trials, expected, atol=2e-3)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.9999])
def test_trap_23_a_partial_download_opens_fine_and_is_refused(own, keep):
    path = own.betas(1, 1)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert nibabel.load(path).shape[3] == 750
    with pytest.raises(ValueError, match=r"betas_session01\.nii\.gz .*half downloaded"):
        read_session(path, mask(own, 1), grid(own, 1)[0])
    path.rename(path.with_name(path.name + ".part"))
    assert own.sessions(1, "nii.gz") == [2]


@pytest.mark.parametrize("n_volumes", [749, 751])
@pytest.mark.parametrize("file_format", ["nii.gz", "hdf5", "masked"])
def test_trap_24_one_volume_more_than_trials_is_refused(own, n_volumes, file_format):
    betas = np.resize(np.moveaxis(stored(own, 1), 3, 0), (n_volumes, *grid(own, 1)[0]))
    path = own.betas(1, 1, file_format)
    if file_format == "hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "betas", data=betas.transpose(0, 3, 2, 1), chunks=(n_volumes, 1, 1, 1)
            )
    elif file_format == "nii.gz":
        write_nifti(path, betas.transpose(0, 3, 2, 1))
    else:
        voxels = mask(own, 1)
        kept = betas.reshape(n_volumes, -1)[:, voxels]
        write_masked(own, 1, 1, kept, voxels, grid(own, 1)[0])
    with pytest.raises(ValueError, match=f"{n_volumes} .*750"):
        load_responses(own, 1, [1], file_format=file_format)
