"""Metric networks against torchvision itself: layers by hooks, preprocessing by its transforms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.transform import resize
from torchvision import models, transforms

from nbutils.metrics import readers
from nbutils.metrics.readers import METRIC_NETWORKS, Readers, TorchvisionReader
from nbutils.metrics.variant_judge import resize_tensor, to_tensor
from nbutils.networks import pictures
from nbutils.networks.loading import load
from nbutils.world import WORLDS

HOOKS = {
    "alexnet": {"features.4", "features.5", "features.11", "features.12", "classifier.5"},
    "inception": {"avgpool"},
    "efficientnet_v1": {"avgpool"},
    "swav": {"avgpool"},
}


@pytest.fixture(scope="module")
def photographs():
    photos = (data.astronaut(), data.coffee())
    return np.stack([np.round(255 * resize(x, (120, 120))).astype(np.uint8) for x in photos])


@pytest.fixture(scope="module")
def networks():
    return load(WORLDS["miniature"].networks)


def read_by_hooks(net, names, pixels):
    """Read the outputs of modules, copied before the next layer may overwrite them."""
    found, handles = {}, []
    for name in names:

        def keep(module, inputs, output, name=name):
            found[name] = output.clone()

        handles.append(net.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        net(pixels)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", HOOKS)
def test_layers_are_those_that_hooks_see(name, photographs):
    net = readers.build_metric_network(name)
    pixels = to_tensor(pictures.resize(photographs, 128, "bilinear"))
    standardise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = read_by_hooks(net, HOOKS[name], standardise(pixels))
    found = TorchvisionReader(net).read(pixels, sorted(HOOKS[name]))
    for layer in HOOKS[name]:
        torch.testing.assert_close(found[layer], expected[layer], rtol=0, atol=1e-5)


def test_inception_flatten_is_its_pooled_layer(photographs):
    net = readers.build_metric_network("inception")
    found = TorchvisionReader(net).read(to_tensor(photographs), ("avgpool", "flatten"))
    torch.testing.assert_close(found["flatten"], found["avgpool"].flatten(1))


def test_inception_rescales_its_input_as_with_published_weights(photographs):
    """Built with weights, torchvision's Inception expects inputs of mean .5, std .5 inside."""
    net = readers.build_metric_network("inception")
    plain = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    plain.load_state_dict(net.state_dict())
    pixels = to_tensor(photographs)
    expected = read_by_hooks(plain, {"avgpool"}, transforms.Normalize([0.5] * 3, [0.5] * 3)(pixels))
    found = TorchvisionReader(net).read(pixels, ("avgpool",))
    torch.testing.assert_close(found["avgpool"], expected["avgpool"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [64, 224])
def test_resizing_is_torchvisions(size, photographs):
    pil = pictures.resize(photographs, size, "bilinear")
    expected = [
        np.asarray(transforms.functional.resize(Image.fromarray(x), (size, size)))
        for x in photographs
    ]
    np.testing.assert_array_equal(pil, expected)
    pixels = torch.stack([transforms.functional.to_tensor(x) for x in photographs])
    torch.testing.assert_close(to_tensor(photographs), pixels)
    old = transforms.Resize(size, antialias=False)(pixels)  # the default before torchvision 0.17
    torch.testing.assert_close(resize_tensor(pixels, size), old)


@pytest.mark.parametrize("zipped", [True, False])
def test_published_files_fill_the_networks(zipped, tmp_path):
    for name in ("efficientnet_v1", "swav"):
        net = models.resnet50() if name == "swav" else models.efficientnet_b1()
        stored = net.state_dict()
        if name == "swav":  # as the hub's file: from distributed training, own heads, no classes
            stored = {f"module.{k}": v for k, v in stored.items() if not k.startswith("fc.")}
            stored["module.prototypes.weight"] = torch.zeros(3, 4)
            stored["module.projection_head.0.weight"] = torch.zeros(4, 2048)
        file = tmp_path / METRIC_NETWORKS[name].file
        torch.save(stored, file, _use_new_zipfile_serialization=zipped)
        found = readers.load_metric_network(name, tmp_path).state_dict()
        assert not any(value.is_meta for value in found.values())
        for key, value in found.items():
            assert torch.equal(value, net.state_dict()[key]), key


def test_old_files_without_counters_fill_batch_normalisation_too(tmp_path):
    stored = readers.build_metric_network("efficientnet_v2").state_dict()
    old = {key: value for key, value in stored.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / METRIC_NETWORKS["efficientnet_v2"].file)
    net = readers.load_metric_network("efficientnet_v2", tmp_path)
    assert not any(value.is_meta for value in net.state_dict().values())


def test_missing_wrong_and_unknown_files_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("NBUTILS_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="alexnet-owt-7be5be79.pth is missing: .* fetch"):
        readers.load_metric_network("alexnet")
    torch.save({"a": torch.zeros(2)}, tmp_path / METRIC_NETWORKS["alexnet"].file)
    with pytest.raises(ValueError, match="does not hold alexnet"):
        readers.load_metric_network("alexnet")
    with pytest.raises(ValueError, match="choose from alexnet"):
        readers.build_metric_network("vgg")


def test_clip_is_read_at_the_embedding_and_between_its_blocks(networks, photographs):
    reader = readers.ClipReader(networks)
    small = pictures.resize(photographs, reader.size)
    found = reader.read(to_tensor(small), ("embedding", "hidden 1/2", "hidden 1/1"))
    expected = networks.clip.image_embedding(small)
    agreement = torch.cosine_similarity(found["embedding"], expected)
    torch.testing.assert_close(agreement, torch.ones(2), rtol=0, atol=1e-5)
    blocks = networks.clip.vision_model.encoder.layers
    name = f"vision_model.encoder.layers.{len(blocks) // 2 - 1}"
    with torch.no_grad():
        seen = []
        handle = networks.clip.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
        networks.clip.image_tokens(small)
        handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    torch.testing.assert_close(found["hidden 1/2"], output, rtol=0, atol=1e-5)


def test_classifier_is_read_as_it_classifies(networks, photographs):
    reader = readers.ClassifierReader(networks)
    small = pictures.resize(photographs, reader.size, "bilinear")
    found = reader.read(to_tensor(small), ("early", "late"))
    expected = networks.classifier.classify(small)
    for layer in ("early", "late"):
        np.testing.assert_allclose(found[layer].flatten(1), expected[layer], atol=1e-5)


def test_what_the_directory_has_decides_about_stand_ins(networks, tmp_path):
    assert Readers(networks).stand_ins
    config = SimpleNamespace(classifier={}, clip=networks.config.clip)
    bare = SimpleNamespace(config=config, clip=networks.clip, device="cpu")
    assert not Readers(bare, tmp_path).stand_ins
    with pytest.raises(FileNotFoundError, match="inception"):
        Readers(bare, tmp_path)["inception"]
    box = Readers(networks)
    assert box["clip"] is box["clip"]


def test_a_rehearsal_with_random_weights_needs_no_file(networks, tmp_path):
    config = SimpleNamespace(classifier={}, clip=networks.config.clip)
    bare = SimpleNamespace(config=config, weights="random", device="cpu")
    first, second = (Readers(bare, tmp_path)["efficientnet_v1"].net for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
