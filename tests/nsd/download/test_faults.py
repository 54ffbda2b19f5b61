"""Servers and connections that misbehave: what arrives is right, or there is a clear error."""

import gzip

import numpy as np
import pytest

from nbutils.nsd.download import FetchError, Retry
from nbutils.nsd.layout import Layout


@pytest.fixture
def same(site, undisturbed):
    """Say whether session 1 below a folder is what an undisturbed fetch gives."""

    def compare(root):
        found, reference = (one.betas(1, 1, "masked") for one in (Layout(root), undisturbed))
        return found.read_bytes() == reference.read_bytes()

    return compare


def ranges(site, key):
    """Return where each request for a key began."""
    asked = site.objects.asked(key, "GET")
    return [int(one[2].removeprefix("bytes=").split("-")[0]) if one[2] else 0 for one in asked]


def unfinished(root):
    return [path for path in root.rglob("*") if path.name.endswith(".part")]


def test_a_cut_stream_goes_on_at_the_byte(site, tmp_path, fault, same):
    key = site.betas(1)
    site.objects.fail(key, fault(cut=400_000), fault(cut=300_000), fault(cut=1))
    site.fetch(tmp_path)
    first, second, third, *_ = starts = ranges(site, key)
    assert first == 0 and 250_000 < second <= 400_000 and second < third <= 700_000
    assert len(starts) == 4 and same(tmp_path)
    sent = sum(1 for one in site.objects.asked(key, "GET") if one[2] is None)
    assert sent <= 1  # never from the front again


def test_a_cut_file_goes_on_at_the_byte(site, tmp_path, fault):
    key = site.betas(1)
    site.objects.fail(key, fault(cut=400_000))
    site.fetch(tmp_path, keep_raw=True)
    first, second = ranges(site, key)
    assert first == 0 and second > 250_000
    assert Layout(tmp_path).betas(1, 1).read_bytes() == site.objects.content[key]


def test_a_busy_server_is_asked_again(site, tmp_path, fault, same):
    site.objects.fail(site.betas(1), fault(status=503), fault(status=503))
    site.objects.fail(site.key(site.world.ncsnr(1)), fault(status=500), fault(cut=0))
    site.fetch(tmp_path)
    assert same(tmp_path) and len(site.objects.asked(site.betas(1), "GET")) == 3


def test_a_server_that_stays_busy_ends_in_one_sentence(site, tmp_path, fault):
    site.objects.always[site.betas(1)] = fault(status=503)
    with pytest.raises(FetchError, match="503.*3 attempts without a byte.*run the same") as caught:
        site.fetch(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert len(site.objects.asked(site.betas(1), "GET")) == 3
    with pytest.raises(FileNotFoundError):
        Layout(tmp_path).sessions(1)


def test_attempts_are_counted_without_progress_only(site, tmp_path, fault, same):
    """A connection cut every 200 kB needs more requests than there are attempts."""
    size = len(site.objects.content[site.betas(1)])
    site.objects.always[site.betas(1)] = fault(cut=200_000)
    site.fetch(tmp_path)
    assert same(tmp_path) and len(ranges(site, site.betas(1))) >= size // 200_000


def test_a_server_that_hides_is_said(tmp_path, site):
    servers = site.servers(endpoint="http://127.0.0.1:9", retry=Retry(2, 1, 0.01, 0.01, 2))
    with pytest.raises(FetchError, match="127.0.0.1:9.*check the connection"):
        site.fetch(tmp_path, servers=servers)


@pytest.mark.parametrize("how", [{"longer": 1000}, {"shorter": 1000}])
def test_a_wrong_length_is_noticed(site, tmp_path, fault, same, how):
    site.objects.fail(site.betas(1), fault(**how))
    site.objects.fail(site.key(site.world.ncsnr(1)), fault(**how))
    site.fetch(tmp_path)
    assert same(tmp_path)
    assert Layout(tmp_path).ncsnr(1).read_bytes() == site.world.ncsnr(1).read_bytes()


def test_a_server_that_ignores_ranges_is_no_danger(site, tmp_path, fault):
    key = site.betas(1)
    site.objects.fail(key, fault(cut=400_000), *[fault(no_range=True)] * 3)
    with pytest.raises(FetchError, match="betas_session01"):
        site.fetch(tmp_path)
    assert not Layout(tmp_path).betas(1, 1, "masked").exists()


@pytest.mark.parametrize("multipart", [False, True])
def test_a_flipped_byte_heals(site, tmp_path, fault, same, multipart):
    keys = [site.betas(1), site.key(site.world.ncsnr(1)), site.key(site.world.behaviour(1))]
    if multipart:  # no MD5 then, but gzip has checksums of its own
        site.objects.multipart.update(keys)
        keys.pop()
    for key in keys:
        site.objects.fail(key, fault(flip=len(site.objects.content[key]) // 2))
    site.fetch(tmp_path)
    assert same(tmp_path)
    for key in keys:
        assert len(site.objects.asked(key, "GET")) == 2
    assert Layout(tmp_path).ncsnr(1).read_bytes() == site.world.ncsnr(1).read_bytes()


@pytest.mark.parametrize("of", ["betas", "behaviour", "zip"])
def test_a_byte_that_is_always_flipped_is_an_error(site, tmp_path, fault, of):
    key = {
        "betas": site.betas(1),
        "behaviour": site.key(site.world.behaviour(1)),
        "zip": "coco/annotations/annotations_trainval2017.zip",
    }[of]
    site.objects.always[key] = fault(flip=len(site.objects.content[key]) // 2)
    with pytest.raises(FetchError, match=r"after 3 attempts\): the file on"):
        site.fetch(tmp_path)
    assert len(site.objects.asked(key, "GET")) == 3
    assert not Layout(tmp_path).betas(1, 1, "masked").exists() or of == "zip"
    assert not Layout(tmp_path).behaviour(1).exists() or of != "behaviour"
    assert not Layout(tmp_path).captions("val2017").exists() or of != "zip"
    assert not [part for part in unfinished(tmp_path) if part.stat().st_size]


def test_the_zip_must_have_the_published_checksum(site, tmp_path):
    with pytest.raises(FetchError, match="SHA-1 .* not the published 8551ee4b"):
        site.fetch(tmp_path, servers=site.servers(annotations_sha1="8551ee4b"))
    assert not (tmp_path / "annotations").exists()


def test_gzip_cut_off_at_the_source_is_an_error(site, tmp_path):
    key = site.betas(1)
    site.objects.content[key] = site.objects.content[key][:-1000]
    with pytest.raises(
        FetchError, match="(?:damaged at trial|ends after).*so it is on http.*MD5 agrees"
    ):
        site.fetch(tmp_path)
    assert len(site.objects.asked(key, "GET")) == 1
    assert not Layout(tmp_path).betas(1, 1, "masked").exists()


def test_a_mask_cut_off_at_the_source_is_an_error(site, tmp_path):
    key = site.key(site.world.ncsnr(1))
    site.objects.content[key] = site.objects.content[key][:-20]
    with pytest.raises(FetchError, match="ncsnr.nii.gz cannot be read to its end"):
        site.fetch(tmp_path)
    assert not Layout(tmp_path).ncsnr(1).exists()


def test_a_session_of_another_grid_is_an_error(site, tmp_path):
    site.objects.content[site.betas(1)] = gzip.compress(b"\0" * 5000)
    with pytest.raises(FetchError, match="no readable NIfTI"):
        site.fetch(tmp_path)


@pytest.mark.parametrize("keep_raw", [False, True])
def test_a_file_replaced_in_the_middle_is_started_again(site, tmp_path, fault, keep_raw):
    """The second half of the new file behind the first half of the old one would be nonsense."""
    key = site.betas(1)
    other = site.objects.content[site.betas(2)]
    site.objects.fail(key, fault(cut=400_000), fault(swap=other))
    site.fetch(tmp_path, (1, 2), keep_raw=keep_raw)
    first, second = (np.load(Layout(tmp_path).betas(1, n, "masked")) for n in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert 0 in ranges(site, key)[1:]


def test_a_stalled_connection_counts_as_cut(site, tmp_path, fault, same):
    site.objects.fail(site.betas(1), fault(rate=1000))
    retry = Retry(attempts=3, restarts=1, first_wait=0.01, longest_wait=0.01, stall=1)
    # 20 bytes every 20 ms are slow but no stall; the server is told to stop halfway instead.
    site.objects.once[site.betas(1)][0] = fault(longer=10**6)
    site.fetch(tmp_path, servers=site.servers(retry=retry))
    assert same(tmp_path)


def test_a_slow_server_is_waited_for(site, tmp_path, fault, same):
    site.objects.always[site.betas(1)] = fault(rate=2_000_000)
    site.fetch(tmp_path)
    assert same(tmp_path) and len(site.objects.asked(site.betas(1), "GET")) == 1


def test_an_unfinished_part_is_gone_on_with(site, tmp_path, fault):
    """Fail for good after 400 kB, then start again: only the rest is asked for."""
    key = site.betas(1)
    site.objects.fail(key, fault(cut=400_000), *[fault(status=503)] * 2)
    with pytest.raises(FetchError):
        site.fetch(tmp_path, keep_raw=True)
    [part] = unfinished(tmp_path)
    had = part.stat().st_size
    assert had > 250_000 and not Layout(tmp_path).betas(1, 1).exists()
    site.objects.log.clear()
    site.fetch(tmp_path, keep_raw=True)
    assert ranges(site, key) == [had] and not unfinished(tmp_path)
    assert Layout(tmp_path).betas(1, 1).read_bytes() == site.objects.content[key]


def test_rubbish_in_an_unfinished_part_is_found_out(site, tmp_path, fault):
    key = site.betas(1)
    site.objects.fail(key, fault(cut=400_000), *[fault(status=503)] * 2)
    with pytest.raises(FetchError):
        site.fetch(tmp_path, keep_raw=True)
    [part] = unfinished(tmp_path)
    part.write_bytes(b"\0" * part.stat().st_size)
    site.fetch(tmp_path, keep_raw=True)
    assert Layout(tmp_path).betas(1, 1).read_bytes() == site.objects.content[key]


def test_the_part_of_an_older_file_is_not_gone_on_with(site, tmp_path, fault):
    key = site.betas(1)
    site.objects.fail(key, fault(cut=400_000), *[fault(status=503)] * 2)
    with pytest.raises(FetchError):
        site.fetch(tmp_path, keep_raw=True)
    site.objects.content[key] = site.objects.content[site.betas(2)]
    site.objects.log.clear()
    site.fetch(tmp_path, keep_raw=True)
    assert ranges(site, key) == [0] and not unfinished(tmp_path)
    assert Layout(tmp_path).betas(1, 1).read_bytes() == site.objects.content[key]


def test_an_empty_image_is_not_saved(site, tmp_path):
    key = site.key(site.world.stimuli())
    content = site.objects.content[key]
    site.objects.content[key] = content[:8192] + b"\0" * (len(content) - 8192)
    with pytest.raises(FetchError, match="empty in .*nsd_stimuli.hdf5: the server holds a partial"):
        site.fetch(tmp_path, images="stimuli")
    assert not (Layout(tmp_path).image(0, "stimuli").parents[1]).exists()


def test_one_failure_stops_all_work(site, tmp_path, fault):
    site.objects.always[site.betas(1)] = fault(status=503)
    site.objects.always[site.betas(2)] = fault(rate=150_000)  # would take ten seconds
    with pytest.raises(FetchError, match="session01"):
        site.fetch(tmp_path, (1, 2))
    assert not Layout(tmp_path).betas(1, 2, "masked").exists()
