"""A whole fetch: what arrives is what the server has, masked as nibabel would mask it."""

import hashlib
import json
import os
import zipfile

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from nbutils.nsd import Stimuli, load_responses
from nbutils.nsd.captions import captions
from nbutils.nsd.download import FetchError, check, estimate
from nbutils.nsd.layout import Layout
from nbutils.nsd.rois import mask
from nbutils.nsd.session_files import read_session
from nbutils.nsd.trials import design, trials
from nbutils.nsd.volumes import grid


def expected_voxels(world, *atlases):
    masks = [nibabel.load(world.roi(1, atlas)).get_fdata() > 0 for atlas in atlases]
    return np.flatnonzero(np.any(masks, axis=0))


def test_masked_betas_are_what_nibabel_reads_from_the_source(world, undisturbed):
    voxels = expected_voxels(world, "nsdgeneral", "streams")
    np.testing.assert_array_equal(np.load(undisturbed.masked_voxels(1)), voxels)
    for session in (1, 2):
        volume = np.asanyarray(nibabel.load(world.betas(1, session)).dataobj)
        betas = np.load(undisturbed.betas(1, session, "masked"))
        assert betas.dtype == np.int16
        np.testing.assert_array_equal(betas, volume.reshape(-1, 750)[voxels].T)


def test_no_betas_are_stored_whole(undisturbed):
    assert not list(undisturbed.betas_folder(1).glob("*.nii.gz.*part"))
    assert undisturbed.sessions(1) == [1, 2]
    with pytest.raises(FileNotFoundError):
        undisturbed.sessions(1, "nii.gz")


def test_small_files_come_byte_for_byte(world, undisturbed):
    paths = [world.expdesign(), world.stim_info(), world.behaviour(1), world.ncsnr(1)]
    paths += [world.volume(1, name) for name in ("brainmask", "mean", "T1_to_func1pt8mm")]
    paths += sorted((world.ppdata(1) / "roi").iterdir())
    paths += sorted(world.labels(1, "streams").parent.glob("*.ctab"))
    assert len(paths) > 20
    for path in paths:
        assert (undisturbed.root / world.key(path)).read_bytes() == path.read_bytes()


def test_the_reader_takes_the_fetched_folder_as_it_is(world, undisturbed):
    voxels = mask(undisturbed, 1)
    fetched = load_responses(undisturbed, 1, voxels=voxels)
    source = load_responses(world, 1, voxels=voxels)
    np.testing.assert_array_equal(fetched.train, source.train)
    np.testing.assert_array_equal(fetched.test_id, source.test_id)
    ids = fetched.test_id[:5]
    assert captions(undisturbed, ids) == captions(world, ids)


def test_images_are_the_pixels_of_the_stimulus_file(undisturbed, brick):
    shown = np.unique(trials(undisturbed, 1, [1, 2])["nsd_id"])
    np.testing.assert_array_equal(Stimuli(undisturbed)[shown], brick[shown])
    shared = design(undisturbed).shared
    assert all(undisturbed.image(int(i), "shared").is_file() for i in shared)
    own = [undisturbed.image(int(i), "stimuli").is_file() for i in np.setdiff1d(shown, shared)]
    assert all(own)


def test_shared_images_are_the_servers_own_bytes(site, undisturbed):
    for number, nsd_id in enumerate(design(undisturbed).shared.tolist(), start=1):
        [key] = [k for k in site.objects.content if f"shared{number:04d}_nsd{nsd_id + 1:05d}" in k]
        path = undisturbed.image(nsd_id, "shared")
        assert path.read_bytes() == site.objects.content[key]


def test_images_in_chunks_are_read_through_hdf5(site, tmp_path, brick, undisturbed, contents):
    path = tmp_path / "chunked.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=brick, chunks=(1, 64, 64, 3), compression="gzip")
    site.objects.content[site.key(site.world.stimuli())] = path.read_bytes()
    site.fetch(tmp_path / "nsd", (1, 2), images="stimuli")
    assert contents(tmp_path / "nsd") == contents(undisturbed.root)


def test_a_stimulus_file_costs_its_images_and_little_more(site, tmp_path, brick):
    site.fetch(tmp_path / "nsd", (1,), images="stimuli")
    key = site.key(site.world.stimuli())
    ranges = [one[2].removeprefix("bytes=").split("-") for one in site.objects.asked(key, "GET")]
    fetched = sum(int(last) + 1 - int(first) for first, last in ranges)
    table = trials(Layout(tmp_path / "nsd"), 1, [1])
    own = np.unique(table["nsd_id"][~table["shared"]])
    assert fetched <= len(own) * brick[0].nbytes + 2 * 2**18 < brick.nbytes


def test_a_stimulus_file_of_another_shape_is_refused(site, tmp_path):
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=np.ones((5, 8, 8), np.uint8))
    site.objects.content[site.key(site.world.stimuli())] = path.read_bytes()
    with pytest.raises(FetchError, match="not NSD's stimulus file"):
        site.fetch(tmp_path / "nsd", images="stimuli")


def test_photographs_cropped_again_are_near(site, tmp_path, brick):
    site.fetch(tmp_path / "nsd", (1,), images="coco")
    layout = Layout(tmp_path / "nsd")
    table = trials(layout, 1, [1])
    own = np.unique(table["nsd_id"][~table["shared"]]).tolist()
    differences = [
        np.abs(np.asarray(Image.open(layout.image(i, "coco"))).astype(int) - brick[i]).mean()
        for i in own
    ]
    assert np.median(differences) < 8  # JPEG, and a pixel at the crop's edge
    assert not layout.stimuli().exists() and not site.objects.asked("nsd_stimuli.hdf5")
    assert not layout.image(own[0], "stimuli").exists()


def test_only_the_wanted_annotations_leave_the_zip(world, undisturbed):
    folder = undisturbed.root / "annotations"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("captions_train2017.json", "captions_val2017.json"),
        *("instances_train2017.json", "instances_val2017.json"),
    ]
    for path in folder.iterdir():
        assert path.read_bytes() == (world.root / "annotations" / path.name).read_bytes()
    assert not list((undisturbed.root / ".fetch").glob("*.zip"))


def test_names_in_the_zip_never_become_places(site, tmp_path):
    key = "coco/annotations/annotations_trainval2017.zip"
    archive = tmp_path / "evil.zip"
    archive.write_bytes(site.objects.content[key])
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../escaped.json", "{}")
        file.writestr("/annotations/escaped.json", "{}")
    site.objects.content[key] = archive.read_bytes()
    site.fetch(tmp_path / "a" / "b" / "nsd", servers=site.servers(annotations_sha1=None))
    assert not list(tmp_path.rglob("escaped.json"))


def test_names_in_a_listing_never_become_places(site, tmp_path):
    roi_folder = site.key(site.world.ppdata(1) / "roi")
    bad = ["..nii.gz", "x..nii.gz", "-rf.nii.gz", "a b.nii.gz", "sub/deep.nii.gz", "x.exe"]
    for name in bad:
        site.objects.content[f"{roi_folder}/{name}"] = b"bad"
    site.fetch(tmp_path / "nsd")
    names = {path.name for path in (Layout(tmp_path / "nsd").ppdata(1) / "roi").rglob("*")}
    assert not names & {name.split("/")[-1] for name in bad}


def test_keep_raw_keeps_the_servers_bytes(site, tmp_path, undisturbed):
    site.fetch(tmp_path / "nsd", keep_raw=True)
    layout = Layout(tmp_path / "nsd")
    assert layout.betas(1, 1).read_bytes() == site.objects.content[site.betas(1)]
    masked, reference = (one.betas(1, 1, "masked") for one in (layout, undisturbed))
    assert masked.read_bytes() == reference.read_bytes()
    assert len(site.objects.asked(site.betas(1), "GET")) == 1


def test_raw_betas_already_on_disk_are_masked_without_fetching(site, tmp_path, undisturbed):
    layout = Layout(tmp_path / "nsd")
    layout.betas(1, 1).parent.mkdir(parents=True)
    layout.betas(1, 1).write_bytes(site.objects.content[site.betas(1)])
    site.fetch(tmp_path / "nsd")
    assert not site.objects.asked(site.betas(1))
    masked, reference = (one.betas(1, 1, "masked") for one in (layout, undisturbed))
    assert masked.read_bytes() == reference.read_bytes()


def test_a_damaged_raw_file_on_disk_is_not_believed(site, tmp_path, undisturbed):
    layout = Layout(tmp_path / "nsd")
    layout.betas(1, 1).parent.mkdir(parents=True)
    content = bytearray(site.objects.content[site.betas(1)])
    content[len(content) // 2] ^= 0xFF
    layout.betas(1, 1).write_bytes(content)
    site.fetch(tmp_path / "nsd")
    masked, reference = (one.betas(1, 1, "masked") for one in (layout, undisturbed))
    assert masked.read_bytes() == reference.read_bytes()


def test_nothing_whole_is_fetched_again(site, tmp_path):
    site.fetch(tmp_path / "nsd", (1, 2), images="stimuli")
    site.objects.log.clear()
    done = site.fetch(tmp_path / "nsd", (1, 2), images="stimuli")
    assert site.objects.log == [] and done.n_bytes == 0


def test_another_session_later_fetches_only_that(site, tmp_path, contents):
    site.fetch(tmp_path / "nsd", (1,), images="stimuli")
    before = contents(tmp_path / "nsd")
    site.objects.log.clear()
    site.fetch(tmp_path / "nsd", (2,), images="stimuli")
    got = {one[1] for one in site.objects.asked(method="GET")}
    assert site.betas(2) in got and site.betas(1) not in got
    assert not [key for key in got if "/roi/" in key or "shared1000" in key or "coco" in key]
    assert before.items() <= contents(tmp_path / "nsd").items()
    site.objects.log.clear()
    site.fetch(tmp_path / "nsd", (1, 2), images="stimuli")
    assert site.objects.log == []


def test_a_file_new_on_the_server_is_fetched_again(site, tmp_path):
    site.fetch(tmp_path / "nsd", (1,))
    key = site.key(site.world.behaviour(1))
    site.objects.content[key] += b"\n"
    site.fetch(tmp_path / "nsd", (1, 2))
    path = Layout(tmp_path / "nsd").behaviour(1)
    assert path.read_bytes() == site.objects.content[key]


def test_a_truncated_file_on_disk_is_fetched_again(site, tmp_path, contents):
    site.fetch(tmp_path / "nsd", (1,))
    before = contents(tmp_path / "nsd")
    layout = Layout(tmp_path / "nsd")
    for path in (layout.ncsnr(1), layout.betas(1, 1, "masked"), layout.captions("val2017")):
        path.write_bytes(path.read_bytes()[:-5])
    site.fetch(tmp_path / "nsd", (1,))
    assert contents(tmp_path / "nsd") == before


def test_other_atlases_later_are_an_error_unless_replaced(site, tmp_path):
    site.fetch(tmp_path / "nsd", (1,), atlases=("nsdgeneral",))
    with pytest.raises(ValueError, match="--replace"):
        site.fetch(tmp_path / "nsd", (1,), atlases=("prf-visualrois",))
    layout = Layout(tmp_path / "nsd")
    voxels = np.load(layout.masked_voxels(1))
    np.testing.assert_array_equal(voxels, expected_voxels(site.world, "nsdgeneral"))
    site.fetch(tmp_path / "nsd", (1,), atlases=("prf-visualrois",), replace=True)
    voxels = np.load(layout.masked_voxels(1))
    np.testing.assert_array_equal(voxels, expected_voxels(site.world, "prf-visualrois"))
    source = read_session(site.world.betas(1, 1), voxels, grid(site.world, 1)[0])
    np.testing.assert_array_equal(np.load(layout.betas(1, 1, "masked")), source)


def test_missing_files_that_one_can_do_without_are_reported(site, tmp_path):
    key = site.key(site.world.volume(1, "valid_session01"))
    site.objects.content.pop(key, None)
    done = site.fetch(tmp_path / "nsd")
    assert site.world.key(site.world.volume(1, "valid_session01")) in done.missing


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (lambda world: world.ncsnr(1), "ncsnr.nii.gz"),
        (lambda world: world.betas(1, 1), "betas_session01.nii.gz: fetch other sessions"),
        (lambda world: world.expdesign(), "nsd_expdesign.mat"),
        (lambda world: world.roi(1, "streams"), "choose atlases among .*nsdgeneral"),
    ],
)
def test_missing_files_that_are_needed_are_named(site, tmp_path, of, words):
    del site.objects.content[site.key(of(site.world))]
    with pytest.raises(FetchError, match=words):
        site.fetch(tmp_path / "nsd")


def test_a_listing_without_regions_is_an_error(site, tmp_path):
    for key in [key for key in site.objects.content if "/roi/" in key]:
        del site.objects.content[key]
    with pytest.raises(FetchError, match="no region of interest"):
        site.fetch(tmp_path / "nsd")


def test_the_estimate_is_what_comes(site, tmp_path):
    """Exact to the byte once masks and design are there, but for the look into the HDF5 file."""
    site.fetch(tmp_path / "nsd", (1,))
    options = {"images": "none", "servers": site.servers()}
    cost = estimate(tmp_path / "nsd", 1, (1, 2), **options)
    assert cost.exact and site.betas(2) not in {one[1] for one in site.objects.log}
    done = site.fetch(tmp_path / "nsd", (1, 2))
    assert done.n_bytes == cost.network
    assert f"{cost.n_files} files" in str(cost)


def test_too_small_a_disk_is_said_before_anything_is_fetched(site, tmp_path, monkeypatch):
    import nbutils.nsd.download.budget as budget

    monkeypatch.setattr(budget, "free_bytes", lambda folder: 1000)
    with pytest.raises(FetchError, match="1e.03 B free|1 kB free"):
        site.fetch(tmp_path / "nsd")
    assert not site.objects.asked(method="GET")


def test_check_finds_a_flipped_byte_and_a_lost_file(site, tmp_path):
    site.fetch(tmp_path / "nsd", (1,), images="stimuli")
    assert check(tmp_path / "nsd", 1, progress=False).whole
    layout = Layout(tmp_path / "nsd")
    for path in (layout.betas(1, 1, "masked"), layout.roi(1, "streams")):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        stamp = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    layout.image(int(design(layout).shared[0]), "shared").unlink()
    found = check(tmp_path / "nsd", 1, progress=False)
    assert found.damaged == tuple(
        sorted(layout.key(p) for p in (layout.betas(1, 1, "masked"), layout.roi(1, "streams")))
    )
    assert found.missing == (layout.key(layout.image(int(design(layout).shared[0]), "shared")),)


def test_every_finished_file_has_its_sha256_on_record(undisturbed, contents):
    lines = (undisturbed.root / ".fetch/files.jsonl").read_text().splitlines()
    recorded = {json.loads(line)["path"]: json.loads(line) for line in lines}
    for name, content in contents(undisturbed.root).items():
        if "/masked/" in name and not name.endswith("01.npy"):
            continue
        assert recorded[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert recorded[name]["bytes"] == len(content)
