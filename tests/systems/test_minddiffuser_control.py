"""Stage 2: gradients run through the denoising, the loss is the published one, images are apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbutils.networks.autokl import AutoKL
from nbutils.networks.config import StableConfig
from nbutils.networks.control import EMBEDDING, ControlEncoder
from nbutils.networks.sampling import add_noise, noise_for
from nbutils.networks.stable import build_stable_unet, stable_flow
from nbutils.systems.minddiffuser_control import Steered, Target, steer
from nbutils.systems.minddiffuser_painting import Painter, paint
from nbutils.systems.minddiffuser_readings import Entries
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings

CONFIG = StableConfig(
    latent_channels=4, latent_size=8, channels=(8, 16), layers_per_block=1,
    attention=(False, True), heads=2, context_dim=12, norm_groups=4,
)  # fmt: skip
AUTOKL = {
    "sample_size": 16, "latent_channels": 4, "block_out_channels": (8, 8), "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "scaling_factor": 0.5,
}  # fmt: skip
CONTROL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8, "projection_dim": 6,
}  # fmt: skip
IDS = np.array([31, 4, 15])


def make_painter(dtype=torch.float32):
    """Tiny networks of the published classes with random weights, in one precision."""
    torch.manual_seed(0)
    unet, autokl, control = build_stable_unet(CONFIG), AutoKL(AUTOKL), ControlEncoder(CONTROL)
    for net in (unet, autokl, control):
        net.eval().requires_grad_(False).to(dtype)
    return Painter(
        lambda x, t, contexts: stable_flow(unet, x, t, contexts), CONFIG, autokl.decode_float,
        control.layers, torch.randn(1, 5, 12, dtype=dtype), torch.device("cpu"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def painter():
    return make_painter()


@pytest.fixture(scope="module")
def start():
    """z, c and decoded control features of three images."""
    draw = torch.Generator().manual_seed(1)
    shapes = {"z": (3, 4, 8, 8), "c": (3, 5, 12), "lower": (3, 2, 5, 16), "embedding": (3, 6)}
    values = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    kept = torch.rand(2, 5, 16, generator=draw) < 0.5
    return SimpleNamespace(**values, kept=kept)


def settings(**changes):
    usual = {"steps": 4, "guidance_scale": 2.0, "iterations": 3, "patience": 100}
    return MindDiffuserSettings.careful(**{**usual, **changes})


def read_entries(kept):
    """Reading of single numbers, for pictures only: nothing is decoded here."""
    return Entries(kept.numpy(), ridge=None, control=None, settings=None)


def aim(start, chosen, dtype=torch.float32):
    lower, embedding = start.lower.to(dtype), start.embedding.to(dtype)
    return make_target(lower, embedding, start.kept, chosen)


def make_target(lower, embedding, kept, chosen):
    """Target at the kept numbers of some layers."""
    device = torch.device("cpu")
    return Target.of(read_entries(kept), lower[:, kept], embedding, chosen, device)


def run(painter, start, rows=slice(None), **changes):
    chosen = settings(**changes)
    target = aim(start, chosen)[torch.arange(3)[rows]]
    return steer(
        painter, start.z[rows], start.c[rows], target, chosen, IDS[rows],
        frame_every=1, progress=False,
    )  # fmt: skip


def find_loss(painter, start, chosen, z, c, noise):
    pixels = paint(painter, z, c, noise, chosen)
    return aim(start, chosen, z.dtype).compare(painter.look(pixels))[0].sum()


@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_through_three_denoising_steps_is_the_finite_difference(start, recompute):
    painter, chosen = make_painter(torch.float64), settings(recompute=recompute)
    noise = noise_for(0, IDS, (4, 8, 8)).double()
    z, c = (v.double().requires_grad_() for v in (start.z, start.c))
    gradients = torch.autograd.grad(find_loss(painter, start, chosen, z, c, noise), (z, c))
    for value, gradient in zip((z, c), gradients, strict=True):
        assert (gradient.flatten(1).norm(dim=1) > 0).all()  # reaches every image
        direction = torch.randn(value.shape, dtype=torch.float64, generator=torch.manual_seed(5))
        with torch.no_grad():
            ends = [
                find_loss(painter, start, chosen, *(
                    v + sign * 1e-5 * direction if v is value else v for v in (z, c)
                ), noise)
                for sign in (1, -1)
            ]  # fmt: skip
        expected = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-3, atol=1e-12)


def test_checkpointing_keeps_the_gradients_and_less_memory(painter, start):
    noise, found, kept = noise_for(0, IDS, (4, 8, 8)), {}, {}
    for recompute in (False, True):
        chosen, saved = settings(recompute=recompute, steps=20), {}
        z, c = (v.clone().requires_grad_() for v in (start.z, start.c))

        def note(tensor, saved=saved):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = find_loss(painter, start, chosen, z, c, noise)
        found[recompute] = torch.autograd.grad(loss, (z, c))
        kept[recompute] = sum(saved.values())
    for one, other in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    assert kept[True] < kept[False] / 4  # fifteen steps, of which one is kept at a time


def test_loss_is_the_published_formula(start):
    found = {"Linear-2": start.z[:, 0, :5, :].repeat(1, 1, 2), "Linear-4": start.lower[:, 0] ** 2}
    found[EMBEDDING] = start.c[:, 0, :6]
    chosen = settings(held_out=0.0, stopping="none", embedding_weight=0.3)
    loss, held = aim(start, chosen).compare(found)
    mask = start.kept.numpy().astype(float)
    for i in range(3):
        target = [start.lower[i, k].numpy() * mask[k] for k in range(2)]
        inverse = np.array([1 / np.linalg.norm(t) for t in target])
        weights = inverse / inverse.sum() * np.array([1.5, 1.2])
        seen = [found[name][i].numpy() * m for name, m in zip(found, mask, strict=False)]
        mse = [np.mean((t - s) ** 2) for t, s in zip(target, seen, strict=True)]
        a, b = start.embedding[i].numpy(), found[EMBEDDING][i].numpy()
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        expected = np.sum(weights * mse) * (1 - 0.3) + 0.1 * 0.3 * (1 - cosine)
        np.testing.assert_allclose(loss[i], expected, rtol=1e-5)
    assert held.isnan().all()


def test_held_out_numbers_are_kept_ones_that_do_not_move_the_loss(start):
    target = aim(start, settings(held_out=0.3))
    assert target.held.shape == target.pulled.shape == (int(start.kept.sum()),)
    assert (target.pulled ^ target.held).all()
    assert 0.1 < float(target.held.double().mean()) < 0.5
    found = {"Linear-2": start.lower[:, 0].clone(), "Linear-4": start.lower[:, 1].clone()}
    found[EMBEDDING] = start.embedding
    loss, held = target.compare(found)
    places = torch.zeros(start.kept.shape, dtype=torch.bool)
    places[start.kept] = target.held
    found["Linear-2"][:, places[0]] += 1
    moved, apart = target.compare(found)
    torch.testing.assert_close(moved, loss)
    assert (apart > held).all()


def test_losses_are_those_of_the_published_loop(painter, start):
    chosen = settings(
        stopping="none", held_out=0.0, learning_rate=0.02, text_rate=0.5, decay=0.9, steps=8
    )
    target, noise = aim(start, chosen), noise_for(0, IDS, (4, 8, 8))
    z, c = (v.clone().requires_grad_() for v in (start.z, start.c))
    optimizer = torch.optim.Adam([{"params": [z]}, {"params": [c]}], lr=0.02)
    expected = []
    for iteration in range(4):
        pixels = paint(painter, z, c, noise, chosen)
        loss = target.compare(painter.look(pixels))[0]
        expected.append(loss.detach().numpy())
        for group, rate in zip(optimizer.param_groups, (0.02, 0.01), strict=True):
            group["lr"] = rate * 0.9**iteration
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    found = steer(painter, start.z, start.c, target, chosen, IDS, frame_every=2, progress=False)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
    assert (found.losses[3] < found.losses[0]).all()
    np.testing.assert_array_equal(found.at, [0, 2, 3])
    last = pixels.detach()
    levels = (last * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.abs(found.images.astype(int) - levels).max() <= 1
    np.testing.assert_array_equal(found.images, found.frames[-1])


@pytest.mark.parametrize("what", ["latent", "text"])
def test_only_what_is_named_changes(painter, start, what, monkeypatch):
    changed = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda groups: changed.append(groups) or adam(groups))
    found = run(painter, start, optimise=(what,), stopping="none", held_out=0.0)
    [[group]] = changed
    [value] = group["params"]
    assert value.shape == (start.z if what == "latent" else start.c).shape
    assert (found.losses[-1] < found.losses[0]).all()


def test_images_do_not_influence_each_other(painter, start):
    together = run(painter, start)
    for i in range(3):
        alone = run(painter, start, slice(i, i + 1))
        np.testing.assert_allclose(together.losses[:, i], alone.losses[:, 0], rtol=1e-3)
        assert np.abs(together.images[i].astype(int) - alone.images[0]).max() <= 1


def test_an_image_stops_when_the_held_out_numbers_get_no_closer(painter, start):
    found = run(painter, start, iterations=9, patience=2, learning_rate=1e-30)
    assert np.isfinite(found.losses[:3]).all() and np.isnan(found.losses[3:]).all()
    np.testing.assert_array_equal(found.chosen, 0)
    np.testing.assert_array_equal(found.images, found.frames[0])


def test_the_chosen_iteration_is_the_best_on_held_out_numbers(painter, start):
    found = run(painter, start, iterations=6, learning_rate=0.5)
    np.testing.assert_array_equal(found.chosen, np.nanargmin(found.held_out, axis=0))
    for i, iteration in enumerate(found.chosen):
        np.testing.assert_array_equal(found.images[i], found.frames[iteration, i])


def test_control_finds_the_picture_it_is_told_about_and_no_other(painter, start):
    noise = noise_for(0, IDS, (4, 8, 8))
    chosen = settings(
        iterations=15, learning_rate=0.08, stopping="none", held_out=0.0, optimise=("latent",)
    )
    with torch.no_grad():
        truth = paint(painter, start.z, start.c, noise, chosen)
        seen = painter.look(truth)
    lower = torch.stack([seen[name] for name in ("Linear-2", "Linear-4")], dim=1)
    everything, errors = torch.ones(2, 5, 16, dtype=torch.bool), {}
    begin = start.z + 0.7 * torch.randn(start.z.shape, generator=torch.manual_seed(2))
    for name, rows in (("own", [0, 1, 2]), ("other", [1, 2, 0])):
        target = make_target(lower[rows], seen[EMBEDDING][rows], everything, chosen)
        found = steer(painter, begin, start.c, target, chosen, IDS, frame_every=15, progress=False)
        pictures = truth.permute(0, 2, 3, 1).numpy() * 255
        errors[name] = ((found.frames - pictures) ** 2).mean(axis=(1, 2, 3, 4))
        assert (found.losses[-1] < found.losses[0]).all()
    assert errors["own"][1] < 0.7 * errors["own"][0]
    assert errors["other"][1] > errors["own"][1] * 1.3


def test_steps_and_noise_follow_the_preset(painter, start):
    asked = []
    spy = Painter(
        lambda x, t, contexts: asked.append((int(t[0]), x)) or painter.flow(x, t, contexts),
        CONFIG, painter.decode, painter.look, painter.nothing, painter.device,
    )  # fmt: skip
    noise = noise_for(0, IDS, (4, 8, 8))
    for chosen, times, noised in (
        (MindDiffuserSettings.published(), [681, 1], 741),
        (MindDiffuserSettings.careful(), [721, 1], 721),
    ):
        asked.clear()
        with torch.no_grad():
            paint(spy, start.z, start.c, noise, chosen)
        assert [asked[0][0], asked[-1][0]] == times
        assert len(asked) == (35 if chosen.skipped_steps else 37)
        torch.testing.assert_close(asked[0][1][:3], add_noise(start.z, noise, noised, CONFIG))


def test_fresh_noise_moves_the_target_and_fixed_noise_does_not(painter, start):
    frozen = {"learning_rate": 1e-30, "stopping": "none", "held_out": 0.0}
    fixed = run(painter, start, **frozen)
    fresh = run(painter, start, fresh_noise=True, **frozen)
    np.testing.assert_allclose(fixed.losses[1:], fixed.losses[:1].repeat(3, axis=0), rtol=1e-5)
    np.testing.assert_allclose(fresh.losses[0], fixed.losses[0], rtol=1e-5)
    assert (np.abs(fresh.losses[1] - fresh.losses[0]) > 1e-6).all()


def test_batches_are_joined_whatever_iteration_they_stopped_at():
    def part(n, count, value):
        return Steered(
            np.full((n, 2, 2, 3), value, np.uint8), np.ones((6, n)), np.ones((6, n)),
            np.zeros(n, int), np.arange(count).repeat(n * 12).reshape(count, n, 2, 2, 3)
            .astype(np.uint8), np.arange(count) * 2,
        )  # fmt: skip

    joined = Steered.join([part(2, 2, 7), part(1, 3, 9)])
    np.testing.assert_array_equal(joined.at, [0, 2, 4])
    np.testing.assert_array_equal(joined.frames[:, :, 0, 0, 0], [[0, 0, 0], [1, 1, 1], [1, 1, 2]])
    assert joined.images.shape == (3, 2, 2, 3) and joined.losses.shape == (6, 3)


def test_too_few_steps_are_refused(painter, start):
    with pytest.raises(ValueError, match="skipped_steps=3 leaves no denoising step"):
        run(painter, start, skipped_steps=3)
