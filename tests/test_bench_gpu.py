"""`bench gpu` on a CPU with tiny sizes, and its tables on made-up figures; no clock is asserted."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from nbutils import __main__ as command
from nbutils.benchmarks import isolated, limits, ridge, run, unet
from nbutils.benchmarks.bench import Bench
from nbutils.benchmarks.counting import Counts, count_ridge
from nbutils.benchmarks.isolated import run_job
from nbutils.benchmarks.loop import _compare, _Turns
from nbutils.benchmarks.report import number, tabulate_stage, write_json, write_markdown
from nbutils.benchmarks.results import (
    FAILED,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    STOPPED,
    Row,
    gemm_rates,
    judge,
    share,
)
from nbutils.benchmarks.sizes import SIZES, Sizes
from nbutils.benchmarks.timing import Clock, measure
from nbutils.networks.checkpoints import FULL_NETWORKS
from nbutils.networks.loading import Networks
from nbutils.world import find_root, find_world

CPU = torch.device("cpu")
GPU_RUN = {"gpu": True, "published": True}
TINY = Sizes(
    world="miniature", gemm=(64,), batches=(1, 2), images=4, image_batch=2, steps=4, strength=0.75,
    captions=2, encoder_batch=2, decode_batch=1, ridge=(40, 6, 60), targets=50, block=16,
    repeats=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    folder = find_root() / find_world("miniature").networks
    return Networks(folder, "cpu", memory="more", weights="random")


@pytest.fixture(scope="module")
def elsewhere(networks):
    """What the systems under the smallest plan will have done in a process of their own."""
    job = {"networks": limits.describe_networks(networks), "world": "miniature", "steps": 2}
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run_job, "limited", job | {"memory": "4GB"}, seconds=600)


@pytest.fixture(scope="module")
def result(networks, elsewhere):
    # After the other process began, which imports libraries meanwhile: no clock is asserted.
    return run.run(networks, TINY, minutes=5, published=False)


def bench_of(networks, seconds=60.0):
    return Bench(networks, TINY, Clock(seconds))


# --- a whole run


def test_every_stage_fills_its_rows(result):
    stages = [*run.STAGES, "images"]
    assert {row.stage for row in result.rows} == set(stages)
    for row in result.rows:
        if row.stage == "limits":
            assert row.note == "not measured (no CUDA)" and row.seconds is None
        else:
            assert row.seconds > 0 and row.flop > 0 and row.memory > 10**8, row


def test_whole_images_and_loops_are_counted(result, networks):
    counts = Counts(networks.config, find_world("miniature").vdvae_layers)
    painted, looped = ([r for r in result.rows if r.stage == s] for s in ("images", "loop"))
    assert [(row.batch, row.figures["images"]) for row in painted] == [(1, 3), (2, 4)]
    assert [row.name for row in looped] == ["3 steps", "3 steps"]
    loop = 2 * 3 * counts.image_flow()  # guidance, steps
    assert [row.flop for row in looped] == [loop, 2 * loop]
    whole = loop + counts.autokl_encode() + counts.autokl_decode()
    assert [row.flop for row in painted] == [3 * whole, 4 * whole]


def test_goals_of_a_gpu_stay_open_on_a_cpu(result):
    verdicts = {goal.text: goal.verdict for goal in result.goals}
    assert verdicts.pop("the loop, times its bare U-Net calls") != "not measured"
    assert verdicts.pop("ridge, rms difference to float64 / std") == "met"
    assert set(verdicts.values()) == {"not measured"}


def test_json_holds_every_row_and_what_follows_from_it(result, tmp_path):
    written = json.loads(write_json(result, tmp_path / "new" / "bench.json").read_text())
    assert set(written) == {"machine", "seconds", "rows", "goals"}
    assert len(written["rows"]) == len(result.rows) and len(written["goals"]) == len(result.goals)
    assert {"name", "torch", "precision", "weights", "gpu", "published"} <= set(written["machine"])
    for row in written["rows"]:
        assert set(row) == {
            "stage", "name", "batch", "dtype", "seconds", "repeats", "median", "flop", "memory",
            "figures", "note", "flop_per_s", "share_of_gemm",
        }  # fmt: skip
        assert (row["seconds"] is None) == (row["flop_per_s"] is None)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "bench.json"]


def test_report_has_a_table_for_each_stage_and_names_the_machine(result):
    text = "\n".join(write_markdown(result))
    assert f"torch {torch.__version__}" in text and "random weights" in text
    assert text.count("| --- |") == len({row.stage for row in result.rows}) + 1


def test_without_time_every_stage_says_so(networks):
    late = run.run(networks, TINY, minutes=1e-9, published=True)
    assert [row.stage for row in late.rows] == list(run.STAGES)
    assert {row.note for row in late.rows} == {OUT_OF_TIME}
    assert "| all of it | not measured (out of time) |" in write_markdown(late)


def test_stopping_keeps_what_was_measured(networks, monkeypatch):
    def stop(bench):
        raise KeyboardInterrupt

    monkeypatch.setitem(run.STAGES, "unet", (stop, 1.0))
    rows = run.run(networks, TINY, stages=("gemm", "unet", "ridge")).rows
    assert [(row.stage, row.note) for row in rows] == [
        ("gemm", ""), ("unet", STOPPED), ("ridge", STOPPED),
    ]  # fmt: skip


def test_a_stage_that_fails_does_not_lose_the_others(networks, monkeypatch):
    def fail(bench):
        raise KeyError("no such thing")

    monkeypatch.setitem(run.STAGES, "unet", (fail, 1.0))
    said = []
    rows = run.run(networks, TINY, stages=("unet", "ridge"), say=said.append).rows
    assert rows[0].note.startswith(FAILED) and rows[1].seconds > 0
    assert any("Traceback" in line for line in said)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stages": ("speed",)}, "choose from gemm"), ({"minutes": 0}, "minutes")],
)
def test_impossible_runs_are_refused(networks, options, words):
    with pytest.raises(ValueError, match=words):
        run.run(networks, TINY, **options)


# --- rows without figures


def test_out_of_memory_is_a_row_and_the_next_one_runs(networks):
    bench = bench_of(networks)

    def overflow():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 17 GiB")

    bench.time(Row("unet", "plain attention", batch=32), lambda: overflow)
    bench.time(Row("unet", "fused attention", batch=32), lambda: lambda: None)
    assert [row.note for row in bench.rows] == [OUT_OF_MEMORY, ""]
    assert bench.rows[0].seconds is None and bench.rows[1].seconds is not None


def test_another_error_is_a_row_that_says_which(networks):
    bench = bench_of(networks)

    def fail():
        raise RuntimeError("cuDNN error\nand much more")

    row = bench.time(Row("unet", "fused attention"), lambda: fail)
    assert row.note == "failed: RuntimeError: cuDNN error"


def test_what_cannot_end_in_time_is_not_begun(networks):
    bench = bench_of(networks, seconds=10)
    bench.rows.append(Row("gemm", "8 x 8", dtype="float32", seconds=1.0, flop=1e9))
    row = bench.time(Row("unet", "fused attention", flop=1e12), lambda: pytest.fail("was begun"))
    assert row.note == OUT_OF_TIME
    assert bench.time(Row("unet", "fused attention", flop=1e6), lambda: list).seconds is not None


def test_time_is_shared_out_and_never_less_than_none():
    now = [100.0]
    clock = Clock(60, lambda: now[0])
    now[0] = 130.0
    assert (clock.spent, clock.left, clock.part(0.25).left, clock.part(0.9).left) == (
        30,
        30,
        15,
        30,
    )
    now[0] = 200.0
    assert clock.left == 0 and clock.part(0.5).left == 0


def test_warm_up_does_not_count_unless_there_is_no_time_for_more():
    runs = []
    timing = measure(lambda: runs.append(1), CPU, Clock(60), repeats=4)
    assert len(runs) == 5 and len(timing.seconds) == 4 and timing.warm
    timing = measure(lambda: runs.append(1), CPU, Clock(0))
    assert len(runs) == 6 and len(timing.seconds) == 1 and not timing.warm


# --- counts: published figures of 512-pixel images (an independent count of the original code)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("image_flow", 1.203), ("autokl_encode", 1.117), ("autokl_decode", 2.51),
        ("clip_image", 0.162), ("clip_text", 0.0133), ("vdvae_encode", 0.0778),
        ("text_flow", 0.0394 / 2),
    ],
)  # fmt: skip
def test_operations_of_the_published_networks(name, tera):
    counted = getattr(Counts(FULL_NETWORKS, 31), name)()
    assert counted / 1e12 == pytest.approx(tera, rel=0.01)


def test_operations_with_one_context_are_stable_diffusions():
    assert Counts(FULL_NETWORKS, 31).image_flow(("text",)) / 1e12 == pytest.approx(0.803, rel=0.01)


def test_operations_of_ridge():
    assert count_ridge(8859, 982, 15_724, 347_680) == pytest.approx(7.94e12, rel=0.005)
    assert count_ridge(8859, 982, 15_724, 364_832) == pytest.approx(8.24e12, rel=0.005)


def test_full_sizes_are_the_published_ones():
    full = SIZES["full"]
    assert full.targets == 257 * 768 + 77 * 768 + 91_168 + 4 * 64 * 64 + 768
    assert (full.ridge, full.steps * full.strength // 1) == ((8859, 982, 15_724), 37)
    assert set(full.batches) == {1, 4, 16, 32} and full.images == 32


# --- what is measured is what it is called


def test_variants_differ_in_layout_and_attention(networks):
    bench = bench_of(networks)
    for variant, (attention, layout) in unet.VARIANTS.items():
        unet._prepare(bench, variant, 1)
        net = networks.image_unet
        assert net.conv_in.weight.is_contiguous(memory_format=layout), variant
        kinds = {type(p).__name__ for p in net.attn_processors.values()}
        assert kinds == ({"AttnProcessor"} if attention == "plain" else {"AttnProcessor2_0"})
    unet.run(replace(bench, sizes=replace(TINY, batches=())))
    assert networks.image_unet.conv_in.weight.is_contiguous()
    assert {type(p).__name__ for p in networks.image_unet.attn_processors.values()} == {
        "AttnProcessor2_0"
    }


def test_loop_is_held_against_as_many_calls_as_it_has_steps():
    turns = _Turns([9.0, 8.0], [6.0, 4.4], [1.2, 1.0], calls=10)
    row = _compare(turns, 40, 7, "", Row("loop", "40 steps", batch=1))
    assert row.figures == {"of calls": pytest.approx(4.4 / 4.0), "calls timed": 10}
    assert (row.seconds, row.memory) == (4.4, 7)
    assert _compare(_Turns(), 40, None, OUT_OF_MEMORY, Row("loop", "")).note == OUT_OF_MEMORY


def test_check_of_ridge_finds_scikit_learn_exact_and_an_error_where_there_is_one():
    train, new, causes = ridge.make_responses(50, 7, 80)
    targets = ridge.make_targets(causes, 5)
    fitted = Ridge(30.0).fit(train.astype(np.float64), targets.astype(np.float64))
    exact = fitted.predict(new.astype(np.float64))
    given = (train, new, targets, 30.0, CPU)
    assert ridge.compare(exact, *given) < 1e-10
    off = ridge.compare(exact + 0.01 * exact.std(), *given)
    assert off == pytest.approx(0.01 * exact.std() / (exact - targets.mean(0)).std(), rel=0.05)


def test_systems_run_under_the_smallest_plan_in_a_process_of_their_own(elsewhere):
    rows = elsewhere.result()
    assert [row.name for row in rows] == ["no limit, images", "no limit, caption"]
    for row in rows:
        assert row.figures == {"completed": 1} and "memory plan 4GB" in row.note and row.seconds > 0


def test_processes_that_fail_or_take_too_long_are_reasons():
    assert run_job("limited", {}, seconds=0.01) == OUT_OF_TIME
    assert "unknown" not in isolated._jobs()


# --- goals and tables on made-up figures


def made_up():
    """Rows of an imagined GPU whose matrix product makes 100 TFLOP/s."""
    half = {"dtype": "float16"}
    return [
        Row("gemm", "4 x 4", **half, seconds=1.0, flop=90e12),
        Row("gemm", "8 x 8", **half, seconds=1.0, flop=100e12),
        Row("unet", "plain attention", 1, **half, seconds=0.5, flop=10e12),
        Row("unet", "plain attention", 16, **half, note=OUT_OF_MEMORY),
        Row("unet", "fused attention", 16, **half, seconds=2.0, flop=160e12, memory=5 * 10**9),
        Row("images", "all", 1, **half, seconds=9.0, memory=int(3.5e9)),
        Row("images", "all", 16, **half, seconds=9.0, memory=int(12.5e9)),
        Row("loop", "37 steps", 1, **half, seconds=9.0, figures={"of calls": 1.02}),
        Row("loop", "37 steps", 16, **half, seconds=9.0, figures={"of calls": 1.06}),
        Row("limits", "4 GB, images", figures={"completed": 1}),
        Row("limits", "4 GB, caption", figures={"completed": 1}),
        Row("limits", "8 GB, images", figures={"completed": 0}),
    ]


def test_goals_are_judged_by_the_worst_loop_and_the_best_variant():
    goals = {goal.text: goal for goal in judge(made_up(), GPU_RUN, 420)}
    found = [(goal.found, goal.verdict) for goal in goals.values()]
    assert found == [
        (1.06, "missed"),
        (0.8, "met"),
        (4.0, "met"),  # 16 images in 2 s against 1 in 0.5 s
        (3.5, "met"),
        (12.5, "missed"),
        (1, "met"),
        (None, "not measured"),
        (7.0, "met"),
    ]


def test_a_limit_is_kept_only_if_images_and_caption_came_out():
    goal = "a process limited to 4 GB completes (1 = yes)"
    for figures, verdict in (({"completed": 0}, "missed"), ({}, "not measured")):
        rows = [r for r in made_up() if r.name != "4 GB, caption"]
        rows.append(Row("limits", "4 GB, caption", figures=figures))
        judged = {g.text: g.verdict for g in judge(rows, GPU_RUN, 1)}
        assert judged[goal] == verdict


def test_a_run_that_left_something_out_is_not_timed():
    judged = {g.text: g.verdict for g in judge(made_up(), GPU_RUN, None)}
    assert judged["the whole run, minutes"] == "not measured"


def test_a_limited_process_that_fails_is_a_miss(networks, monkeypatch):
    monkeypatch.setattr(limits, "_find_obstacle", lambda bench, limit: "")
    monkeypatch.setattr(limits, "run_job", lambda *given: f"{FAILED}: CUDA error")
    rows = limits._run_limited(bench_of(networks), 4)
    assert [(row.name, row.figures) for row in rows] == [
        ("4 GB, images", {"completed": 0}), ("4 GB, caption", {"completed": 0}),
    ]  # fmt: skip


def test_shares_are_of_the_fastest_product_in_the_same_precision():
    rates = gemm_rates(made_up())
    assert rates == {"float16": 100e12}
    assert share(Row("x", "y", dtype="float16", seconds=2.0, flop=100e12), rates) == 0.5
    assert share(Row("x", "y", dtype="float32", seconds=2.0, flop=100e12), rates) is None


def test_table_of_made_up_figures():
    rows = [row for row in made_up() if row.stage == "unet"]
    assert tabulate_stage("unet", rows, {"float16": 100e12}) == [
        "| image U-Net, one call with guidance and both contexts | batch | precision | s | TFLOP/s "
        "| of GEMM | peak GB | note |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        "| plain attention | 1 | float16 | 0.5 | 20 | 0.2 |  |  |",
        "| plain attention | 16 | float16 |  |  |  |  | out of memory |",
        "| fused attention | 16 | float16 | 2 | 80 | 0.8 | 5 |  |",
        "",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (37, "37"), (364_832, "364,832"), (0.12345, "0.123"), (1234.5, "1,234")],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


# --- the command


def test_command_prints_tables_and_writes_json(tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["--device", "cpu", "--size", "miniature", "--only", "gemm", "--out", str(out)]
    assert command.main(["bench", "gpu", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "| matrix product |" in printed and "| goal | asked | found |" in printed
    assert len(json.loads(out.read_text())["rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say --device cpu --size miniature"),
        (["--device", "cpu", "--size", "miniature", "--only", "speed"], "choose from gemm"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["bench", "gpu", *arguments]) == 1
    heard = capsys.readouterr().err
    assert words in heard and heard.count("\n") == 1
