"""Where sampling starts, how many steps it takes, and what "no condition" is, each by its name."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from golden_parts import golden_network, read_golden, word_tokenizer
from test_sampling import compare, record, run
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as CLIPVision

from nbutils.networks.clip import ClipEncoder
from nbutils.networks.sampling import add_noise, plan_steps, timestep_grid
from nbutils.networks.versatile import image_flow

SCHEDULER = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading",
)  # fmt: skip
# Share of the clean latent in a start: square roots of abar, counted in the original code.
STARTS = {"published": (741, 0.2457), "same_step": (721, 0.2655)}


@pytest.mark.parametrize("convention", STARTS)
def test_start_of_50_steps_at_strength_three_quarters(vd, convention):
    noise_at, timesteps = plan_steps(50, 0.75, convention)
    assert (noise_at, timesteps) == (STARTS[convention][0], list(range(721, 0, -20)))
    one, zero = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    share = add_noise(one, zero, noise_at, vd.config)
    torch.testing.assert_close(share, STARTS[convention][1] * one, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["5 steps", "7 steps"])
def test_start_at_t741_is_the_one_the_original_code_makes(vd, name):
    """The default's noise lies one grid step above: 601 above 401, and 711 above 569."""
    steps, golden = int(name[0]), f"out/img2img_{name[0]}steps_s0.75.x_start"
    noise_at, timesteps = plan_steps(steps, 0.75)
    assert (noise_at, timesteps[0]) == {5: (601, 401), 7: (711, 569)}[steps]
    start = add_noise(vd.io["in/x0"], vd.io["in/noise"], noise_at, vd.config)
    torch.testing.assert_close(start, vd.io[golden], atol=1e-5, rtol=0)


def test_start_at_t721_is_the_one_diffusers_makes(vd):
    noise_at, _ = plan_steps(50, 0.75, "same_step")
    start = add_noise(vd.io["in/x0"], vd.io["in/noise"], noise_at, vd.config)
    SCHEDULER.set_timesteps(50)
    first = SCHEDULER.timesteps[50 - 37].repeat(2)
    theirs = SCHEDULER.add_noise(vd.io["in/x0"], vd.io["in/noise"], first)
    torch.testing.assert_close(start, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("convention", STARTS)
def test_strength_one_is_the_original_run_from_noise_whatever_the_start(vd, convention):
    name, (callback, seen) = "img_from_noise_5steps", record()

    def flow(x, t, contexts):
        return image_flow(vd.unet, x, t, contexts)

    noise = vd.io[f"out/{name}.x_start"]
    options = {"start_convention": convention, "callback": callback}
    final = run(vd, flow, 100 * vd.io["in/x0"], noise, 5, 1.0, **options)
    compare(vd, name, final, seen)


@pytest.mark.parametrize(("steps", "length", "largest"), [(30, 31, 991), (7, 8, 995)])
def test_steps_that_do_not_divide_1000_give_one_more_as_in_the_original(steps, length, largest):
    grid = timestep_grid(steps)
    assert grid == list(range(1, 1001, 1000 // steps)) and len(grid) == length
    assert plan_steps(steps)[1][0] == largest


@pytest.mark.parametrize("steps", [10, 20, 25, 50])
def test_steps_that_divide_1000_are_those_of_diffusers(steps):
    SCHEDULER.set_timesteps(steps)
    assert plan_steps(steps)[1] == SCHEDULER.timesteps.tolist()


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    """The golden CLIP, able to number a few words."""
    ids = {"[UNK]": 0, "<start>": 97, "<end>": 98}
    words = word_tokenizer("a dog", "<start>", "<end>", ids)
    encoder = ClipEncoder(read_golden("clip_tiny").json, words)
    encoder.load_state_dict(golden_network("clip").state_dict())
    return encoder.eval()


@torch.no_grad()
def image_tokens_of(level: int) -> torch.Tensor:
    """Tokens of an image of one grey level, by transformers' own CLIP."""
    golden = read_golden("clip_tiny")
    theirs = CLIPVision(CLIPVisionConfig(**golden.json["vision_config"])).eval()
    missing = theirs.load_state_dict(golden.state, strict=False).missing_keys
    assert not [key for key in missing if "position_ids" not in key]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((level / 255 - mean) / std)[None, :, None, None].expand(1, 3, 28, 28)
    found = theirs(pixel_values=pixels)
    hidden = theirs.vision_model.post_layernorm(found.last_hidden_state)
    return theirs.visual_projection(hidden) / found.image_embeds.norm(dim=-1)[:, None, None]


@pytest.mark.parametrize(("kind", "level"), [("grey", 127), ("black", 0)])
def test_unconditional_image_is_the_encoded_grey_or_black_image(clip, kind, level):
    found = clip.unconditional(kind)["image"]
    torch.testing.assert_close(found, image_tokens_of(level), atol=1e-5, rtol=0)


def test_unconditional_image_of_the_demo_is_zeros(clip):
    found = clip.unconditional("zeros")["image"]
    assert torch.equal(found, torch.zeros(1, 17, 24))


def test_the_three_unconditional_images_differ(clip):
    kinds = [clip.unconditional(kind)["image"] for kind in ("grey", "black", "zeros")]
    for i in range(3):
        assert (kinds[i] - kinds[i - 1]).norm() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["grey", "black", "zeros"])
def test_unconditional_text_is_the_empty_caption(clip, kind):
    golden = read_golden("clip_tiny")
    theirs = CLIPTextModelWithProjection(CLIPTextConfig(**golden.json["text_config"])).eval()
    theirs.load_state_dict(golden.state, strict=False)
    ids = torch.from_numpy(np.array([[97] + [98] * 15]))
    found = theirs(input_ids=ids)
    tokens = theirs.text_projection(found.last_hidden_state)
    expected = tokens / found.text_embeds.norm(dim=-1)[:, None, None]
    torch.testing.assert_close(clip.unconditional(kind)["text"], expected, atol=1e-5, rtol=0)
