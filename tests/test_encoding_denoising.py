"""What is kept of a denoising loop: the right latents, the right activations, resumably."""

import numpy as np
import pytest
import torch

from nbutils.decoding.store import Features
from nbutils.encoding import denoising
from nbutils.encoding.denoising import (
    Painter,
    Plan,
    denoise,
    find_stages,
    record,
    record_levels,
)
from nbutils.networks.config import StableConfig
from nbutils.networks.sampling import add_noise, ddim, noise_for
from nbutils.networks.stable import build_stable_unet, stable_flow

IDS = np.array([11, 4, 29])


@pytest.fixture(scope="module")
def painter():
    config = StableConfig(
        latent_channels=2, latent_size=8, channels=(8, 16), layers_per_block=1,
        attention=(False, True), heads=2, context_dim=6, norm_groups=4,
    )  # fmt: skip
    torch.manual_seed(0)
    unet = build_stable_unet(config).eval().requires_grad_(False)
    return Painter(lambda: unet, stable_flow, torch.randn(1, 5, 6), config)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((3, 2, 8, 8)).astype(np.float16)
    c = rng.standard_normal((3, 5, 6)).astype(np.float16)
    return Features(z, IDS), Features(c, IDS)


def test_latents_are_those_of_the_loop_after_the_stated_share_of_steps(painter, given):
    plan = Plan(0.8, steps=10, guidance_scale=3.0, seed=5, latents=(0, 44, 100))
    kept = denoise(painter, given[0].take(IDS), given[1].take(IDS), IDS, plan)
    z, c = (torch.from_numpy(part.take(IDS)) for part in given)
    noise, path = noise_for(5, IDS, (2, 8, 8)), []
    end = ddim(
        painter.bind(), z, {"text": c}, {"text": painter.unconditional}, {"text": 1.0},
        config=painter.config, noise=noise, steps=10, strength=0.8, guidance_scale=3.0,
        callback=lambda i, t, x, clean: path.append(x),
    )  # fmt: skip
    assert plan.n_steps == 8 and plan.latent_steps() == {0: 0, 44: 4, 100: 8}
    np.testing.assert_array_equal(kept["latent 100"], end.reshape(3, -1))
    np.testing.assert_array_equal(kept["latent 44"], path[3].reshape(3, -1))
    # At strength 0.8 of 10 steps noise is added at the ninth timestep of 1, 101, ...
    noisy = add_noise(z, noise, 801, painter.config)
    np.testing.assert_array_equal(kept["latent 0"], noisy.reshape(3, -1))


@pytest.mark.parametrize("split", [False, True])
def test_stages_are_the_blocks_under_the_captions_when_progress_is_reached(painter, given, split):
    painter = Painter(painter.unet, stable_flow, painter.unconditional, painter.config,
                      split_guidance=split)  # fmt: skip
    plan = Plan(0.5, steps=10, guidance_scale=3.0, latents=(), stages=(20, 66, 100))
    assert plan.stage_steps() == {20: 1, 66: 4, 100: 5}
    z, c = (part.take(IDS) for part in given)
    kept = denoise(painter, z, c, IDS, plan)
    assert len(kept) == 15
    inputs = []
    unet = painter.unet()
    handle = unet.register_forward_pre_hook(lambda module, args: inputs.append(args))
    denoise(painter, z, c, IDS, plan)
    handle.remove()
    # The same network asked once more, with what it was given in the fourth step.
    x, t = inputs[7 if split else 3][:2]
    found = {}
    for name, stage in find_stages(unet).items():
        hook = stage.register_forward_hook(
            lambda module, args, out, name=name: found.update(
                {name: out[0] if isinstance(out, tuple) else out}
            )
        )
        unet(x[-3:], t[-3:], torch.from_numpy(c))
        hook.remove()
    for name, values in found.items():
        side = min(4, values.shape[-1])
        blocks = values.reshape(3, values.shape[1], side, values.shape[2] // side, side, -1)
        expected = blocks.mean(dim=(3, 5)).reshape(3, -1)
        np.testing.assert_allclose(kept[f"{name} 66"], expected, atol=2e-5)


def test_projection_keeps_distances_and_is_the_same_every_time(monkeypatch):
    values = torch.randn(20, 200, 4, 4, generator=torch.Generator().manual_seed(0))
    found = denoising.reduce_map(values, "bottleneck")
    assert found.shape == (20, denoising.WIDTH)
    flat = values.reshape(20, -1).numpy()
    ratio = np.linalg.norm(found[0] - found[1:], axis=1) / np.linalg.norm(
        flat[0] - flat[1:], axis=1
    )
    # Johnson and Lindenstrauss: the spread of a squared ratio is sqrt(2 / 1024), of a ratio half.
    np.testing.assert_allclose(ratio, 1, atol=4 * 0.5 * np.sqrt(2 / 1024))
    np.testing.assert_array_equal(found, denoising.reduce_map(values, "bottleneck"))


def test_recording_is_resumed_after_a_kill_and_gives_the_same_rows(painter, given, tmp_path):
    plan = Plan(0.5, steps=4, latents=(0, 100), stages=(100,))
    options = {"batch_size": 1, "progress": False}
    whole = record(painter, *given, IDS, plan, tmp_path / "whole.npy", **options)
    assert whole["latent 100"].array.shape == (3, 128)
    assert list(whole.parts)[:2] == ["latent 0", "latent 100"] and len(whole.parts) == 7
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) > 3:  # in the second image
            raise KeyboardInterrupt
        return stable_flow(*args)

    broken = Painter(painter.unet, fail, painter.unconditional, painter.config)
    with pytest.raises(KeyboardInterrupt):
        record(broken, *given, IDS, plan, tmp_path / "part.npy", **options)
    assert not (tmp_path / "part.npy").exists()
    again = record(painter, *given, IDS, plan, tmp_path / "part.npy", **options)
    np.testing.assert_array_equal(again.rows.array, whole.rows.array)
    # A finished file is read; another plan is refused until it may be replaced.
    known = record(painter, *given, IDS, plan, tmp_path / "part.npy", **options)
    assert known.parts == whole.parts
    other = Plan(0.5, steps=4, seed=1, latents=(0, 100), stages=(100,))
    with pytest.raises(ValueError, match="holds other features"):
        record(painter, *given, IDS, other, tmp_path / "part.npy", **options)
    record(painter, *given, IDS, other, tmp_path / "part.npy", replace=True, **options)


def test_nothing_is_left_of_an_image_at_full_strength(painter, given, tmp_path):
    with pytest.raises(ValueError, match="below 1"):
        record(painter, *given, IDS, Plan(1.0), tmp_path / "a.npy")
    kept = record(painter, *given, IDS, Plan(0.5, steps=2), tmp_path / "b.npy", progress=False)
    with pytest.raises(KeyError, match="latent 100"):
        kept["bottleneck 66"]


def test_more_noise_leaves_less_of_the_image_and_stages_are_kept_at_the_highest(
    painter, given, tmp_path
):
    found = record_levels(painter, *given, IDS, tmp_path, steps=4, progress=False)
    assert [*found] == ["low", "middle", "high"]
    assert [*found["low"].parts] == ["latent 100"]
    assert [*found["high"].parts][:4] == ["latent 0", "latent 44", "latent 86", "latent 100"]
    assert len(found["high"].parts) == 4 + 3 * 5
    z = given[0].array.reshape(3, -1)
    moved = [np.abs(one["latent 100"].array - z).mean() for one in found.values()]
    assert moved[0] < moved[1] < moved[2]


def test_the_shipped_stable_diffusion_gives_a_painter():
    from nbutils.networks.loading import load
    from nbutils.world import find_world

    networks = load(find_world("miniature").networks)
    painter = denoising.stable_painter(networks)
    config = networks.config.stable_unet
    latents = np.zeros((1, *config.image_latent_shape), np.float32)
    kept = denoise(painter, latents, painter.unconditional, IDS[:1], Plan(0.5, steps=2))
    assert kept["latent 100"].shape == (1, latents.size)
    assert np.isfinite(kept["latent 100"]).all() and len(painter.weights) == 64
