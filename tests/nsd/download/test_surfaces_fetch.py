"""The cortex as a surface: fetched with the rest, left out when asked, added to an older copy."""

import json

import numpy as np
import pytest

from nbutils.nsd import surfaces
from nbutils.nsd.download import TermsError, check, estimate
from nbutils.nsd.layout import Layout


def keys(site):
    """Return the keys on the server of all that a surface map reads."""
    files = surfaces.surface_files(site.world, 1).values()
    return {site.key(path) for paths in files for path in paths}


def asked(site):
    return {one[1] for one in site.objects.asked(method="GET")}


def listed(site):
    return {one[1].rstrip("/") for one in site.objects.log if one[0] == "LIST"}


FOLDERS = {"nsddata/freesurfer/subj01/surf", "nsddata/ppdata/subj01/transforms"}


def test_all_that_a_surface_map_reads_comes_and_is_read(site, world, undisturbed):
    assert surfaces.missing_files(undisturbed, 1) == []
    for side in ("lh", "rh"):
        fetched, source = (surfaces.read_surface(one, 1, side) for one in (undisturbed, world))
        np.testing.assert_array_equal(fetched.coordinates, source.coordinates)
        np.testing.assert_array_equal(fetched.positions, source.positions)
    for key in keys(site):
        path = undisturbed.root / key.partition("/")[2]
        assert path.read_bytes() == site.objects.content[key]


def test_files_beside_them_stay_on_the_server(site, tmp_path):
    other = [f"{next(iter(keys(site))).rpartition('/')[0]}/{name}" for name in ("lh.pial", "x")]
    site.objects.content |= dict.fromkeys(other, b"not asked for")
    site.fetch(tmp_path)
    assert keys(site) <= asked(site) and not set(other) & asked(site)


def test_without_them_nothing_of_them_is_asked_or_listed(site, tmp_path):
    done = site.fetch(tmp_path, surfaces=False)
    assert not keys(site) & asked(site) and not FOLDERS & listed(site)
    assert not [key for key in done.missing if "surf" in key or "transforms" in key]
    assert check(tmp_path, 1, progress=False).whole
    assert len(surfaces.missing_files(Layout(tmp_path), 1)) == 10


def test_they_can_be_added_later_and_nothing_else_is_fetched(site, tmp_path):
    site.fetch(tmp_path, (1, 2), surfaces=False)
    site.objects.log.clear()
    site.fetch(tmp_path, (1, 2))  # as the fetch before
    assert site.objects.log == []
    wanted = {"surfaces": True, "images": "none", "servers": site.servers()}
    cost = estimate(tmp_path, 1, (1,), **wanted)
    sizes = sum(len(site.objects.content[key]) for key in keys(site))
    assert (cost.n_files, cost.network, cost.disk, cost.exact) == (10, sizes, sizes, True)
    assert asked(site) == set()
    assert site.fetch(tmp_path, (1,), surfaces=True).n_bytes == sizes
    assert asked(site) == keys(site)
    site.objects.log.clear()
    for given in ({}, {"surfaces": False}, {"surfaces": True}):  # both sessions are still known
        site.fetch(tmp_path, (1, 2), **given)
    assert site.objects.log == []


def test_a_copy_that_is_older_than_the_choice_asks_nobody(site, tmp_path):
    site.fetch(tmp_path, surfaces=False)
    record = tmp_path / ".fetch/subj01.json"
    before = json.loads(record.read_text())
    del before["surfaces"]
    record.write_text(json.dumps(before))
    site.objects.log.clear()
    site.fetch(tmp_path)
    assert site.objects.log == []


def test_a_cut_mesh_goes_on_at_the_byte_and_a_damaged_one_comes_again(site, tmp_path, fault):
    mesh, curvature, positions, *_ = surfaces.surface_files(site.world, 1)["lh"]
    # As long as a real one, so that some of it is on disk when the connection ends.
    site.objects.content[site.key(mesh)] = np.random.default_rng(0).bytes(600_000)
    site.objects.fail(site.key(mesh), fault(cut=400_000))
    site.objects.fail(site.key(curvature), fault(flip=40))
    site.objects.multipart.add(site.key(positions))  # no MD5: the checksum inside gzip tells
    site.objects.fail(site.key(positions), fault(flip=40))
    site.fetch(tmp_path)
    first, second = site.objects.asked(site.key(mesh), "GET")
    assert first[2] == "bytes=0-599999" and second[2] != first[2]
    for path in (mesh, curvature, positions):
        fetched = (tmp_path / site.world.key(path)).read_bytes()
        assert fetched == site.objects.content[site.key(path)]


def test_what_check_finds_damaged_is_fetched_again(site, tmp_path):
    site.fetch(tmp_path)
    path = surfaces.surface_files(Layout(tmp_path), 1)["rh"][2]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert check(tmp_path, 1, progress=False).damaged == (Layout(tmp_path).key(path),)
    site.objects.log.clear()
    site.fetch(tmp_path)
    assert path.read_bytes() == content and len(asked(site)) == 1


def test_a_server_without_them_is_reported_and_the_rest_comes(site, tmp_path):
    for key in keys(site):
        del site.objects.content[key]
    done = site.fetch(tmp_path)
    assert set(surfaces.missing_files(Layout(tmp_path), 1)) <= set(done.missing)
    assert Layout(tmp_path).sessions(1) == [1]


@pytest.mark.parametrize("lacking", [1, 10])
def test_what_a_mirror_lacked_is_asked_for_again(site, tmp_path, lacking):
    kept = {key: site.objects.content.pop(key) for key in sorted(keys(site))[:lacking]}
    site.fetch(tmp_path)
    site.objects.log.clear()
    site.fetch(tmp_path)  # as the fetch before: nobody is asked
    assert site.objects.log == []
    site.objects.content |= kept
    site.fetch(tmp_path, surfaces=True)
    assert asked(site) == set(kept)
    assert surfaces.missing_files(Layout(tmp_path), 1) == []


def test_nothing_of_them_is_asked_before_the_terms(site, tmp_path):
    with pytest.raises(TermsError):
        site.fetch(tmp_path, accept_terms=False, surfaces=True)
    assert site.objects.log == []
