"""The DDIM loop against the original's trajectories and diffusers' scheduler."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from nbutils.networks.sampling import (
    add_noise,
    build_scheduler,
    ddim,
    noise_for,
    plan_steps,
    split_batch,
    timestep_grid,
)
from nbutils.networks.versatile import build_flows, image_flow, text_flow

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULES = json.loads((GOLDEN / "vd_tiny.json").read_text())["schedules"]
IMAGE_RUNS = {
    "img2img_5steps_s0.75": (5, 0.75),
    "img2img_20steps_s0.25": (20, 0.25),
    "img2img_7steps_s0.75": (7, 0.75),
    "img_from_noise_5steps": (5, 1.0),
}
WEIGHTS = {"image": 0.6, "text": 0.4}


def record():
    """Return a callback and the lists it fills: timesteps, latents, guesses of the clean ones."""
    seen = ([], [], [])

    def callback(step, t, x, pred_x0):
        assert step == len(seen[0])
        for values, value in zip(seen, (t, x, pred_x0), strict=True):
            values.append(value)

    return callback, seen


def tokens(io, prefix):
    return {k: io[f"in/{prefix}_{k}"] for k in WEIGHTS}


def run(vd, flow, start, noise, steps, strength, **kwargs):
    return ddim(
        flow, start, tokens(vd.io, "ctx"), tokens(vd.io, "uctx"), WEIGHTS,
        config=vd.config, noise=noise, steps=steps, strength=strength, **kwargs,
    )  # fmt: skip


def compare(vd, name, final, seen):
    timesteps, latents, guesses = seen
    assert timesteps == vd.io[f"out/{name}.timesteps"].tolist()
    golden = {k: vd.io[f"out/{name}.{k}"] for k in ("traj", "pred_x0", "final")}
    torch.testing.assert_close(torch.stack(latents), golden["traj"], atol=2e-4, rtol=0)
    torch.testing.assert_close(torch.stack(guesses), golden["pred_x0"], atol=2e-4, rtol=0)
    torch.testing.assert_close(final, golden["final"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_image_trajectory_equals_original(vd, name):
    steps, strength = IMAGE_RUNS[name]
    callback, seen = record()
    noise = vd.io["in/noise"] if strength < 1 else vd.io[f"out/{name}.x_start"]
    flow = partial(image_flow, vd.unet)
    final = run(vd, flow, vd.io["in/x0"], noise, steps, strength, callback=callback)
    compare(vd, name, final, seen)


def test_text_trajectory_equals_original(vd):
    callback, seen = record()
    final = run(vd, partial(text_flow, vd.text), None, vd.io["in/zT"], 5, 1.0, callback=callback)
    compare(vd, "txt_5steps", final, seen)


@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_image_trajectory_in_two_halves_equals_original_with_half_the_batch(vd, name):
    steps, strength = IMAGE_RUNS[name]
    (callback, seen), sizes = record(), set()

    def flow(x, t, contexts):
        sizes.update({len(x), *(len(tokens) for tokens, _ in contexts.values())})
        return image_flow(vd.unet, x, t, contexts)

    noise = vd.io["in/noise"] if strength < 1 else vd.io[f"out/{name}.x_start"]
    options = {"callback": callback, "split_guidance": True}
    final = run(vd, flow, vd.io["in/x0"], noise, steps, strength, **options)
    compare(vd, name, final, seen)
    assert sizes == {len(noise)}


@torch.no_grad()
def test_two_halves_are_the_whole_batch(vd):
    contexts = {
        kind: (torch.cat([empty, given]), WEIGHTS[kind])
        for (kind, empty), given in zip(
            tokens(vd.io, "uctx").items(), tokens(vd.io, "ctx").values(), strict=True
        )
    }
    x, flow = torch.cat([vd.io["in/x"]] * 2), partial(image_flow, vd.unet)
    t = torch.full((len(x),), 501)
    halves = split_batch(flow)(x, t, contexts)
    torch.testing.assert_close(halves, flow(x, t, contexts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [k for k, (_, s) in IMAGE_RUNS.items() if s < 1])
def test_noised_start_equals_original(vd, name):
    noise_at, _ = plan_steps(*IMAGE_RUNS[name])
    start = add_noise(vd.io["in/x0"], vd.io["in/noise"], noise_at, vd.config)
    torch.testing.assert_close(start, vd.io[f"out/{name}.x_start"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_plan_equals_original_schedule(name):
    steps, strength = IMAGE_RUNS.get(name, (5, 1.0))
    expected = SCHEDULES[name]
    assert timestep_grid(steps) == expected["ddim_timesteps"]
    assert plan_steps(steps, strength) == (
        expected["noise_added_at"], expected["denoise_timesteps"],
    )  # fmt: skip


def test_brain_diffuser_plan_adds_noise_one_step_above():
    noise_at, timesteps = plan_steps(50, 0.75)
    assert (noise_at, timesteps[0], timesteps[-1], len(timesteps)) == (741, 721, 1, 37)


@pytest.mark.parametrize(("steps", "strength"), [(50, 0.75), (20, 0.5), (10, 0.3)])
def test_same_step_plan_equals_diffusers_img2img(steps, strength):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    expected = scheduler.timesteps[steps - int(strength * steps) :].tolist()
    assert plan_steps(steps, strength, "same_step") == (expected[0], expected)


@pytest.mark.parametrize("steps", [1, 3, 7, 9, 30, 37, 50, 333, 600, 1000])
def test_every_step_count_and_strength_stays_on_the_schedule(steps):
    for strength in {min(1.0, 1.001 / steps), max(0.5, 1 / steps), 1.0}:
        noise_at, timesteps = plan_steps(steps, strength)
        assert 0 <= timesteps[-1] == 1 and timesteps[0] < (noise_at or 1000) <= 1000
        assert noise_at is None or noise_at < 1000


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loop_equals_a_loop_over_diffusers_scheduler(vd, prediction_type):
    config = replace(vd.config, prediction_type=prediction_type)
    flow = partial(image_flow, vd.unet)
    given = {k: (v, WEIGHTS[k]) for k, v in tokens(vd.io, "ctx").items()}
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading",
        prediction_type=prediction_type,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    x = vd.io["in/x"]
    for t in scheduler.timesteps:
        x = scheduler.step(flow(x, t, given), t, x).prev_sample
    ours = ddim(
        flow, None, tokens(vd.io, "ctx"), None, WEIGHTS,
        config=config, noise=vd.io["in/x"], steps=10, guidance_scale=1.0,
    )  # fmt: skip
    torch.testing.assert_close(ours, x, atol=1e-6, rtol=0)


def test_perfect_v_prediction_recovers_the_latents(vd):
    """A flow that knows the clean latents x0 must lead back to them: v = a eps - s x0."""
    config = replace(vd.config, prediction_type="v_prediction")
    x0, abar = vd.io["in/x0"], build_scheduler(vd.config).alphas_cumprod

    def flow(x, t, contexts):
        a, s = abar[t[0]].sqrt(), (1 - abar[t[0]]).sqrt()
        return a * (x - a * x0) / s - s * x0

    callback, (_, _, guesses) = record()
    ddim(
        flow, None, tokens(vd.io, "ctx"), None, WEIGHTS, config=config,
        noise=vd.io["in/noise"], steps=5, guidance_scale=1.0, callback=callback,
    )  # fmt: skip
    torch.testing.assert_close(guesses[-1], x0, atol=1e-5, rtol=0)


def test_batch_equals_one_by_one(vd):
    torch.manual_seed(0)
    unet, _ = build_flows(vd.config)
    flow, shape = partial(image_flow, unet.eval()), vd.config.image_latent_shape
    ids, start = [5, 3, 8], torch.randn(3, *shape)
    cond = {"image": torch.randn(3, 9, 32), "text": torch.randn(3, 5, 32)}
    uncond = {k: torch.randn(1, *v.shape[1:]) for k, v in cond.items()}

    def generate(rows):
        return ddim(
            flow, start[rows], {k: v[rows] for k, v in cond.items()}, uncond, WEIGHTS,
            config=vd.config, noise=noise_for(0, [ids[r] for r in rows], shape), steps=10,
            strength=0.75,
        )  # fmt: skip

    alone = torch.cat([generate([r]) for r in range(3)])
    torch.testing.assert_close(generate([0, 1, 2]), alone, atol=1e-5, rtol=0)


def test_guidance_one_never_calls_the_unconditional_half(vd):
    sizes = []

    def flow(x, t, contexts):
        sizes.append(len(x))
        return torch.zeros_like(x)

    for guidance in (1.0, 7.5):
        run(vd, flow, None, vd.io["in/x"], 2, 1.0, guidance_scale=guidance)
    assert sizes == [2, 2, 4, 4]


def test_noise_belongs_to_the_image_not_to_the_batch():
    whole = noise_for(3, [10, 11, 12], (4, 8, 8))
    assert torch.equal(whole[[2, 0]], noise_for(3, [12, 10], (4, 8, 8)))
    assert not torch.equal(whole[0], noise_for(4, [10], (4, 8, 8))[0])
    assert not torch.equal(noise_for(0, [1], (8,)), noise_for(1, [0], (8,)))
    assert noise_for(3, [], (4,)).shape == (0, 4)


def test_noise_is_standard_normal_and_unrelated_between_images():
    noise = noise_for(0, range(200), (1000,)).numpy()
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    correlation = np.corrcoef(noise) - np.eye(200)
    assert np.abs(correlation).max() < 6 / np.sqrt(1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.0}, "fraction above 0"),
        ({"strength": 1.5}, "fraction above 0"),
        ({"strength": 0.01}, "leaves no denoising step"),
        ({"steps": 0}, "choose 1 to 1000"),
        ({"start": None}, "needs start latents"),
        ({"start_convention": "mine"}, "choose one of"),
        ({"unconditional": None}, "tokens are missing"),
        ({"contexts": {"image": torch.zeros(2, 9, 32)}}, "tokens are missing"),
        ({"weights": {"image": 0.0}}, "must differ from 0"),
        ({"contexts": {k: torch.zeros(3, 5, 32) for k in WEIGHTS}}, "expected \\(2 or 1"),
    ],
)
def test_impossible_requests_say_why(vd, change, message):
    arguments = {
        "start": vd.io["in/x0"], "contexts": tokens(vd.io, "ctx"),
        "unconditional": tokens(vd.io, "uctx"), "weights": WEIGHTS, "config": vd.config,
        "noise": vd.io["in/noise"], "steps": 5, "strength": 0.75,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ddim(partial(image_flow, vd.unet), **(arguments | change))


def test_closed_form_of_the_schedule(vd):
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    expected = np.cumprod(1 - betas)
    np.testing.assert_allclose(build_scheduler(vd.config).alphas_cumprod, expected, rtol=2e-4)
