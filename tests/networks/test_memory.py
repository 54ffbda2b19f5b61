"""Memory plans: counts, the choice, staging, and what happens when memory runs out."""

import warnings

import numpy as np
import pytest
import torch

from nbutils.networks import memory
from nbutils.networks.batches import run_batches
from nbutils.networks.checkpoints import FULL_NETWORKS
from nbutils.networks.config import NetworksConfig
from nbutils.networks.inventory import NAMES
from nbutils.networks.loading import Networks, load
from nbutils.networks.memory import GIB, PLANS, choose_plan, choose_stay, count_needs, weights_bytes
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.settings import Settings
from nbutils.world import WORLDS

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
MINIATURE = WORLDS["miniature"].networks
IDS = np.array([31, 4, 15])
FAST = Settings.careful(steps=4, guidance_scale=2.0)


def test_weights_are_those_counted_from_the_original_code():
    # Parameters of the original four-flow model and its parts, counted on meta.
    assert weights_bytes(FULL_NETWORKS, ["image_unet"], torch.float16) == 2 * 1_126_760_324
    assert weights_bytes(FULL_NETWORKS, ["text_unet"], torch.float16) == 2 * 1_976_087_808
    both = weights_bytes(FULL_NETWORKS, ["image_unet", "text_unet"], torch.float16)
    assert both == 2 * 2_566_318_852
    clip = weights_bytes(FULL_NETWORKS, ["clip"], torch.float16)
    assert clip == 2 * (123_650_304 + 303_966_208)
    assert weights_bytes(FULL_NETWORKS, ["autokl"], torch.float16) == 2 * 83_653_863
    # VDVAE stays in float32.
    assert weights_bytes(FULL_NETWORKS, ["vdvae"], torch.float16) == 4 * 125_005_860


def test_activations_are_those_traced_at_the_published_size():
    # 141 MiB for a guided pair of 512 px images, 384 MiB to decode one, both in 16 bits.
    pair = memory._guided_pair(FULL_NETWORKS, torch.float16) / 2**20
    decoding = memory._decoding(FULL_NETWORKS, torch.float16) / 2**20
    assert pair == pytest.approx(141, rel=0.01) and decoding == pytest.approx(384, rel=0.01)


@pytest.mark.parametrize(
    ("free", "name"), [(3.6, "4GB"), (7.5, "8GB"), (14.0, "15GB"), (22.0, "more"), (139.0, "more")]
)
def test_the_largest_plan_that_fits_is_chosen(free, name):
    plan = choose_plan("auto", FULL_NETWORKS, torch.float16, CUDA, int(free * GIB))
    assert plan.name == name
    assert f"of {free:.1f} GiB free, by count" in str(plan) and "\n" not in str(plan)


def test_plans_need_more_from_one_to_the_next_and_a_small_gpu_is_enough_for_the_first():
    needs = [count_needs(plan, FULL_NETWORKS, torch.float16, CUDA) / GIB for plan in PLANS]
    assert needs == sorted(needs)
    assert needs[0] < 3.5 and needs[1] < 7.5


def test_the_same_rule_gives_small_networks_the_largest_plan():
    config = NetworksConfig.from_json(MINIATURE / "networks.json")
    for device, dtype in ((CPU, torch.float32), (CUDA, torch.float16)):
        assert choose_plan("auto", config, dtype, device, 2 * GIB).name == "more"


def test_too_little_memory_is_said_in_one_sentence_with_remedies():
    with pytest.raises(MemoryError) as caught:
        choose_plan("auto", FULL_NETWORKS, torch.float16, CUDA, 2 * GIB)
    sentence = str(caught.value)
    assert sentence.startswith("cuda: 2.0 GiB are free and the smallest memory plan, 4GB, needs")
    assert "device='cpu'" in sentence and "\n" not in sentence
    with pytest.raises(MemoryError, match="precision='float16'"):
        choose_plan("auto", FULL_NETWORKS, torch.float32, CPU, 2 * GIB)


def test_a_named_plan_is_taken_as_it_is_and_an_unknown_one_refused():
    assert choose_plan("15GB", FULL_NETWORKS, torch.float16, CUDA, 0) == PLANS[2]
    with pytest.raises(ValueError, match="memory='6GB': choose 'auto' or one of 4GB, 8GB, 15GB"):
        choose_plan("6GB", FULL_NETWORKS, torch.float16, CUDA, 0)


def test_networks_stay_as_long_as_a_group_holds_them():
    assert choose_stay("one", "image_unet", {"clip", "classifier"}) == {"image_unet", "classifier"}
    assert choose_stay("one", "optimus", {"clip", "vdvae"}) == {"optimus", "clip", "vdvae"}
    stay = choose_stay("flow", "autokl", {"clip", "image_unet"})
    assert stay == {"autokl", "clip", "image_unet"}
    assert choose_stay("flow", "text_unet", {"image_unet", "clip"}) == {"text_unet", "clip"}
    assert choose_stay("all", "text_unet", set(NAMES)) == set(NAMES)


def test_every_network_has_a_place_in_every_plan():
    for plan in PLANS:
        assert set().union(*memory.GROUPS[plan.keep], {"classifier"}) == set(NAMES)


@pytest.mark.parametrize(("share", "free"), [(1.0, 11), (0.5, 7)])
def test_free_memory_of_a_gpu_counts_what_this_process_may_still_take(monkeypatch, share, free):
    # 16 GiB, 10 of them free; this process holds 2 and uses 1 of those.
    answers = {
        "current_device": lambda: 0,
        "mem_get_info": lambda device: (10 * GIB, 16 * GIB),
        "memory_reserved": lambda device: 2 * GIB,
        "memory_allocated": lambda device: GIB,
        "get_per_process_memory_fraction": lambda device: share,
    }
    for name, answer in answers.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, answer)
    assert memory.find_free(CUDA) == free * GIB


# --- the plans at work, on the miniature


def predict(networks):
    rng = np.random.default_rng(1)
    config = networks.config.versatile
    shapes = {
        "autokl": config.image_latent_shape,
        "clip_image": networks.clip.image_shape,
        "clip_text": networks.clip.text_shape,
        "optimus": config.text_latent_shape,
        "vdvae": (networks.vdvae.count_features(3),),
    }
    return {
        name: rng.normal(size=(len(IDS), *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def decode(networks):
    predicted = predict(networks)
    found = brain_diffuser.reconstruct(networks, predicted, FAST, IDS, progress=False)["images"]
    said = unibrain.caption(networks, predicted, FAST, IDS, progress=False)
    return found.astype(int), said


@pytest.fixture(scope="module")
def usual():
    """Images and captions of the plan that every machine takes for the miniature."""
    return decode(load(MINIATURE))


@pytest.mark.parametrize("name", ["4GB", "8GB", "15GB"])
def test_every_plan_gives_the_same_images_and_captions(name, usual):
    networks = load(MINIATURE, memory=name)
    images, captions = decode(networks)
    assert abs(images - usual[0]).max() <= 1  # rounding to 8 bits
    assert captions == usual[1]


def test_the_smallest_plan_keeps_one_stage_at_a_time():
    networks = load(MINIATURE, memory="4GB")
    seen = set()
    inner = networks._get
    networks._get = lambda name: (inner(name), seen.add(frozenset(networks._residents.used)))[0]
    decode(networks)
    flows = [used for used in seen if {"image_unet", "text_unet"} & used]
    assert flows == [{"image_unet"}, {"text_unet"}] or flows == [{"text_unet"}, {"image_unet"}]


def fail(networks, monkeypatch, largest, error=torch.OutOfMemoryError):
    """Let the image flow find memory for batches up to a size only."""
    from nbutils.systems import generation

    inner, sizes = generation.image_flow, []

    def flow(unet, x, t, contexts):
        sizes.append(len(x))
        if len(x) > largest:
            raise error("CUDA out of memory: Tried to allocate 2 GiB")
        return inner(unet, x, t, contexts)

    monkeypatch.setattr(generation, "image_flow", flow)
    return sizes


def test_out_of_memory_falls_back_one_plan_says_so_and_gives_the_same_images(monkeypatch, usual):
    networks = load(MINIATURE)
    sizes = fail(networks, monkeypatch, largest=1)
    with pytest.warns(UserWarning) as caught:
        images, _ = decode(networks)
    said = [str(w.message) for w in caught if "out of memory" in str(w.message)]
    assert len(said) == 3 and all("\n" not in line for line in said)
    assert "under memory plan more" in said[0] and "going on with memory plan 15GB" in said[0]
    assert networks.plan.name == "4GB"
    assert sizes[:4] == [6, 6, 6, 1]  # a guided batch of three, thrice; then single halves
    assert abs(images - usual[0]).max() <= 1


def test_a_cpu_without_memory_falls_back_as_well():
    networks, seen = load(MINIATURE, memory="15GB"), []

    def work(plan):
        seen.append(plan.name)
        if plan.name == "15GB":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 GB")
        return "done"

    with pytest.warns(UserWarning, match="going on with memory plan 8GB"):
        assert networks.attempt(work) == "done"
    assert seen == ["15GB", "8GB"]


def test_without_memory_for_the_smallest_plan_one_sentence_says_what_to_do():
    networks = load(MINIATURE, memory="4GB")

    def work(plan):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match="the smallest memory plan, 4GB, needs about"):
        networks.attempt(work)


def test_other_errors_pass_through():
    networks = load(MINIATURE)

    def work(plan):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        networks.attempt(work)
    assert networks.plan.name == "more"


def test_what_failed_is_given_back_before_the_next_attempt():
    networks = load(MINIATURE)
    net, seen = networks.autokl, []

    def work(plan):
        seen.append(net.decoder.conv_in.weight.device.type)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        networks.attempt(work)
    assert seen == ["cpu", "meta"]


def test_batches_are_those_of_the_user_and_no_larger_than_the_plans():
    networks = load(MINIATURE, memory="8GB")
    for wish, sizes in ((100, [8, 8, 4]), (5, [5, 5, 5, 5])):
        found = run_batches(networks, 20, wish, lambda rows, plan: rows.stop - rows.start)
        assert found == sizes
    found = run_batches(networks, 5, 100, lambda rows, plan: rows, limit="decode_batch")
    assert [(rows.start, rows.stop) for rows in found] == [(0, 2), (2, 4), (4, 5)]


def test_autokl_sends_no_more_images_through_its_layers_than_the_plan_says():
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    whole, cut = load(MINIATURE).autokl, load(MINIATURE, memory="8GB").autokl
    sizes = []
    cut.encoder.register_forward_hook(lambda net, args, out: sizes.append(len(args[0])))
    torch.testing.assert_close(cut.encode(images), whole.encode(images), atol=1e-5, rtol=0)
    assert sizes == [2, 2, 1]


def test_captions_move_to_a_twin_on_the_cpu_only_from_another_device(monkeypatch):
    networks = load(MINIATURE, memory="4GB")
    assert networks.captioner is networks
    networks.device = torch.device("cuda")  # nothing is loaded, so nothing goes there
    twin = networks.captioner
    assert isinstance(twin, Networks) and twin is networks.captioner
    assert (twin.device, twin.dtype) == (CPU, torch.float32)
    assert twin.captioner is twin
    other = load(MINIATURE, memory="4GB")
    other.device = torch.device("cuda")
    monkeypatch.setattr("nbutils.networks.loading.weights_bytes", lambda *_: 2**60)
    assert other.captioner.dtype == torch.bfloat16
