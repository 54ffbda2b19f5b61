"""Index bookkeeping: everything NSD counts from 1 comes out counted from 0."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from nbutils.miniature import experiment, scenes
from nbutils.nsd.captions import stim_info
from nbutils.nsd.layout import Layout
from nbutils.nsd.noise import noise_ceiling
from nbutils.nsd.stimuli import Stimuli
from nbutils.nsd.trials import behaviour, recorded, split, trials
from nbutils.world import WORLDS


def write(root, order, images, shared, pattern, dtype=np.float64) -> Layout:
    """Write a design file from 0-based arrays."""
    layout = Layout(root)
    layout.expdesign().parent.mkdir(parents=True, exist_ok=True)
    savemat(
        layout.expdesign(),
        {
            "masterordering": (np.asarray(order)[None] + 1).astype(dtype),
            "subjectim": (np.asarray(images) + 1).astype(dtype),
            "sharedix": (np.asarray(shared)[None] + 1).astype(dtype),
            "stimpattern": np.asarray(pattern, np.float64),
        },
    )
    return layout


def pattern(runs: list[list[int]], slots: int = 5) -> np.ndarray:
    """Mark the first n slots of every run of every session."""
    return np.array([[[slot < n for slot in range(slots)] for n in session] for session in runs])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_trials_follow_the_design_file_whatever_it_holds(tmp_path, data):
    runs = data.draw(
        st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=2), min_size=1, max_size=4)
    )
    n_trials, n_images = sum(map(sum, runs)), data.draw(st.integers(3, 12))
    order = data.draw(st.lists(st.integers(0, n_images - 1), min_size=n_trials, max_size=n_trials))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    images = np.stack([rng.permutation(70_000)[:n_images] for _ in range(2)])
    images[1, :2] = images[0, :2]
    layout = write(tmp_path, order, images, images[0, :2], pattern(runs))
    subject = data.draw(st.integers(1, 2))
    table = trials(layout, subject, sessions=range(1, len(runs) + 1))
    place = [
        (s + 1, r + 1)
        for s, session in enumerate(runs)
        for r, n in enumerate(session)
        for _ in range(n)
    ]
    seen: dict[int, int] = {}
    for t, row in enumerate(table.itertuples()):
        image = int(images[subject - 1][order[t]])
        assert (row.trial, row.session, row.run) == (t, *place[t])
        assert row.nsd_id == image
        assert row.repeat == seen.get(image, 0)
        assert row.shared == (order[t] < 2)
        seen[image] = seen.get(image, 0) + 1


def test_small_unsigned_numbers_from_matlab_do_not_wrap(tmp_path):
    # An index of 0 after subtracting 1 from unsigned 1 is fine, differences below 0 were not.
    layout = write(tmp_path, [0, 1, 0], [[5, 3]], [5], pattern([[3]]), dtype=np.uint16)
    table = trials(layout, 1, [1])
    assert table["nsd_id"].dtype == np.int64
    assert np.diff(table["nsd_id"]).tolist() == [-2, 2]


def test_sessions_that_never_took_place_are_not_listed(small):
    layout = small
    assert layout.sessions(1) == [1, 2]
    only = trials(layout, 1, [2])
    assert only["session"].unique().tolist() == [2]
    assert only["trial"].iloc[0] == 750
    # Repeats are counted over the whole experiment, not over the sessions loaded.
    assert only["repeat"].max() == 2 and (only["repeat"] == 0).mean() < 0.6


def test_design_behaviour_and_stimulus_table_tell_the_same_story(small):
    table, pressed = trials(small, 1), behaviour(small, 1)
    assert (table["nsd_id"].to_numpy() == pressed["nsd_id"].to_numpy()).all()
    assert (table["run"].to_numpy() == pressed["RUN"].to_numpy()).all()
    assert (pressed["73KID"] - 1 == pressed["nsd_id"]).all()
    info = stim_info(small)
    for repeat in range(3):
        shown = table[table["repeat"] == repeat]
        # NSD's rep columns hold trial numbers counted from 1.
        assert (
            info.loc[shown["nsd_id"], f"subject1_rep{repeat}"].to_numpy()
            == shown["trial"].to_numpy() + 1
        ).all()
    assert set(info.index[info["shared1000"]]) == set(table["nsd_id"][table["shared"]])


def test_the_image_of_a_trial_is_the_scene_of_that_number(small):
    """The classic mistake, 1-based against 0-based, would give another plausible picture."""
    nsd_id = trials(small, 1)["nsd_id"].to_numpy()[[0, 700, 1499]]
    shown = Stimuli(small)[nsd_id]
    expected = np.stack([scenes.draw(scenes.scene(int(i))) for i in nsd_id])
    np.testing.assert_array_equal(shown, expected)


def shift_some_to_the_end(rng: np.random.Generator, early: int = 27_750) -> np.ndarray:
    """Order 10,000 images of three showings so that 37 sessions miss what subject 1's missed.

    NSD's counts: 839, 110, 33 and 18 of the 1,000 shared images had 3, 2, 1 and 0 showings, and
    141 of the 9,000 private ones had none.
    """
    late = np.zeros(10_000, np.int64)
    late[rng.permutation(1000)[:161]] = np.repeat([3, 2, 1], [18, 33, 110])
    private = 1000 + rng.permutation(9000)
    late[private[:141]] = 3
    late[private[141:][: 30_000 - early - late.sum()]] = 1
    images = np.arange(10_000)
    return np.concatenate(
        [rng.permutation(np.repeat(images, 3 - late)), rng.permutation(np.repeat(images, late))]
    )


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> Layout:
    """A design of NSD's size: 40 sessions, 10,000 images, of which 1,000 are shared."""
    rng = np.random.default_rng(7)
    ids = rng.permutation(73_000)
    shared = np.sort(ids[:1000])
    images = np.stack([np.concatenate([shared, ids[1000 + 9000 * s :][:9000]]) for s in range(8)])
    runs = pattern([[63 - run % 2 for run in range(12)]] * 40, slots=75)
    root = tmp_path_factory.mktemp("full")
    return write(root, shift_some_to_the_end(rng), images, shared, runs)


def test_named_splits_of_nsds_size(full_size):
    """37 sessions: 8,859 training and 982 test images; 40 sessions: 9,000 and 1,000."""
    found = {}
    for name in ("classic", "full"):
        table = trials(full_size, 1, WORLDS["nsd"].session_numbers(1, name))
        found[name] = [part["nsd_id"].nunique() for part in split(table)]
        assert (table.groupby("session").size() == 750).all()
    assert found == {"classic": [8859, 982], "full": [9000, 1000]}
    _, test = split(trials(full_size, 1, range(1, 38)))
    repeats = test.groupby("nsd_id").size()
    assert repeats.value_counts().to_dict() == {3: 839, 2: 110, 1: 33}
    assert noise_ceiling(0.361, repeats)[()] == pytest.approx(25.8, abs=0.1)
    assert noise_ceiling(0.361, 3)[()] == pytest.approx(28.1, abs=0.1)


def test_any_range_of_sessions_keeps_the_order_and_the_trial_numbers(full_size):
    every = trials(full_size, 5, range(1, 41))
    some = trials(full_size, 5, [20, 5, 6])
    np.testing.assert_array_equal(some, every[every["session"].isin([5, 6, 20])])
    assert some["trial"].iloc[[0, -1]].tolist() == [3000, 14_999]


@pytest.mark.parametrize(("subject", "last"), [(1, 40), (3, 32), (4, 30), (8, 30)])
def test_subjects_have_their_own_number_of_sessions(full_size, subject, last):
    """The design plans 40 for all; the behaviour table ends with the last that took place."""
    path = full_size.behaviour(subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    sessions = np.repeat(np.arange(1, last + 1), 2)
    pd.DataFrame({"SUBJECT": subject, "SESSION": sessions, "73KID": 1}).to_csv(
        path, sep="\t", index=False
    )
    assert recorded(full_size, subject) == last == WORLDS["nsd"].sessions_of(subject)
    assert len(trials(full_size, subject, range(1, last + 1))) == 750 * last
    with pytest.raises(ValueError, match=f"subject {subject} has sessions 1 to {last}"):
        trials(full_size, subject, [last + 1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no readable table"),
        (b"SUBJECT\tSESSION\t73KID\n", "no rows"),
        (b"SUBJECT\tSESSION\n1\t1\n", "73KID"),
        (b"\xff\xfe\x00a\tb\n1\t2\n", "responses.tsv"),
    ],
)
def test_a_damaged_behaviour_table_is_named(tmp_path, content, words):
    layout = Layout(tmp_path)
    layout.behaviour(1).parent.mkdir(parents=True)
    layout.behaviour(1).write_bytes(content)
    with pytest.raises(ValueError, match=words) as told:
        behaviour(layout, 1)
    assert "responses.tsv" in str(told.value) and "\n" not in str(told.value)


def test_split_is_by_image(small):
    train, test = split(trials(small, 1))
    assert not set(train["nsd_id"]) & set(test["nsd_id"])
    assert len(train) + len(test) == 1500
    assert test["nsd_id"].nunique() == 60


@settings(max_examples=20, deadline=None)
@given(
    n_shared=st.integers(2, 300),
    n_private=st.integers(2, 700),
    repeats=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_the_plan_shows_every_image_often_enough_in_whole_sessions(
    n_shared, n_private, repeats, seed
):
    plan = experiment.plan(n_shared, n_private, repeats, seed)
    shows = np.bincount(plan.order, minlength=n_shared + n_private)
    assert len(plan.order) % 750 == 0
    assert (shows[:n_shared] == repeats).all() and (shows >= repeats).all()
    assert len(plan.order) - (n_shared + n_private) * repeats < 750
    assert len(np.unique(plan.images)) == n_shared + 4 * n_private == plan.n_scenes
    assert (plan.images[:, :n_shared] == plan.shared).all()
    assert plan.images.min() == 0 and plan.images.max() == plan.n_scenes - 1


def test_about_a_third_of_the_images_repeat_within_their_first_session():
    """NSD: 34.9 percent, so a split by trial would leak."""
    plan = experiment.plan()
    table = pd.DataFrame({"image": plan.order, "session": np.arange(12000) // 750})
    first = table.groupby("image")["session"].transform("min")
    assert (table[table["session"] == first].groupby("image").size() > 1).mean() == pytest.approx(
        0.35, abs=0.04
    )


@pytest.mark.parametrize(
    ("subject", "sessions", "words"),
    [
        (5, [1], "subjects 1 to 4"),
        (9, [1], "NSD has subjects 1 to 8"),
        (1, [3], "sessions 1 to 2"),
        (1, [], "sessions is empty"),
        (1, [1, 1], "named twice"),
        (1, [0], "sessions 1 to 2"),
    ],
)
def test_impossible_subjects_and_sessions_are_refused(small, subject, sessions, words):
    with pytest.raises(ValueError, match=words):
        trials(small, subject, sessions)


def test_a_damaged_design_file_is_named(tmp_path):
    layout = Layout(tmp_path)
    with pytest.raises(FileNotFoundError, match="nsd_expdesign.mat"):
        trials(layout, 1, [1])
    layout.expdesign().parent.mkdir(parents=True)
    layout.expdesign().write_bytes(b"not a matlab file" * 40)
    with pytest.raises(ValueError, match="no readable MATLAB file"):
        trials(layout, 1, [1])


def test_a_design_whose_parts_disagree_is_refused(tmp_path):
    layout = write(tmp_path, [0, 1, 7], [[5, 3]], [5], pattern([[3]]))
    with pytest.raises(ValueError, match="do not fit together"):
        trials(layout, 1, [1])
