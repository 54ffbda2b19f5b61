"""Optimus against the original implementation's numbers, and its handling of text."""

import json

import pytest
import torch
from golden_parts import (
    GOLDEN,
    byte_tokenizer,
    golden_network,
    optimus_config,
    read_golden,
    wordpiece_tokenizer,
)
from scipy.stats import chisquare

from nbutils.networks.optimus import (
    Optimus,
    choose_token,
    close_spaces,
    remove_repeated_phrases,
)
from nbutils.networks.randomness import draw_uniform

CALL = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def net() -> Optimus:
    return golden_network("optimus")


@pytest.fixture(scope="module")
def golden():
    return read_golden("optimus_tiny")


@pytest.fixture(scope="module")
def case() -> dict:
    return json.loads((GOLDEN / "optimus_tokenizer_cases.json").read_text())


@pytest.fixture(scope="module")
def talker(case) -> Optimus:
    """A tiny Optimus that can number the words of one real caption as the original did."""
    words = "[CLS] a man riding a wave on top of a surf ##board . [SEP]".split()
    bert = wordpiece_tokenizer(dict(zip(words, case["bert_ids"], strict=True)))
    pieces = ["Ġ" + w for w in "a man riding a wave on top of a surf".split()] + ["board", "Ġ."]
    gpt2 = byte_tokenizer(dict(zip(pieces, case["gpt2_ids"], strict=True)))
    config = optimus_config()
    config["bert"] = {**config["bert"], "vocab_size": 28996, "max_position_embeddings": 100}
    config["gpt2"] = {**config["gpt2"], "vocab_size": 50260}
    config |= {"pad": 50257, "bos": 50258, "eos": 50259}
    torch.manual_seed(0)
    return Optimus(config, {"bert": bert, "gpt2": gpt2}).eval()


def test_encoder_equals_the_original(net, golden):
    mu, logvar = net.encode_ids(golden.inputs["bert_ids"])
    torch.testing.assert_close(mu, golden.outputs["enc_mu"], **CALL)
    torch.testing.assert_close(logvar, golden.outputs["enc_logvar"], **CALL)


def test_padding_does_not_change_the_latent(net, golden):
    ids = golden.inputs["bert_ids"][:1]
    ids = ids[:, ids[0].gt(0)]
    padded = torch.nn.functional.pad(ids, (0, 5))
    torch.testing.assert_close(net.encode_ids(padded)[0], net.encode_ids(ids)[0], **CALL)


def test_teacher_forced_logits_equal_the_original(net, golden):
    logits = net.decoder_logits(golden.inputs["gpt2_ids"], golden.inputs["z"])
    torch.testing.assert_close(logits, golden.outputs["dec_logits"], **CALL)


def test_greedy_tokens_equal_the_original(net, golden):
    ids = net.decode_ids(golden.inputs["z"])
    assert torch.equal(ids, golden.outputs["greedy_tokens"])


def test_sampled_tokens_equal_the_original(net, golden):
    ids = net.decode_ids(golden.inputs["z"], 0.7, golden.inputs["uniforms"])
    assert torch.equal(ids, golden.outputs["sampled_T0.7_tokens"])


def test_decoding_stops_at_the_end_token(net, golden):
    stopping = Optimus({**optimus_config(), "eos": 39}).eval()
    stopping.load_state_dict(net.state_dict())
    ids = stopping.decode_ids(golden.inputs["z"], 0.7, golden.inputs["uniforms"])
    expected = golden.outputs["sampled_T0.7_row0_stop_at_39"]
    assert torch.equal(ids[0, : len(expected)], expected)
    assert ids[0, len(expected) :].eq(-1).all()


def test_keep_last_word_keeps_the_token_that_a_longer_caption_has_there(net, golden):
    longer = net.decode_ids(golden.inputs["z"], 0.7, golden.inputs["uniforms"])
    short = {"max_length": 12, "uniforms": golden.inputs["uniforms"], "temperature": 0.7}
    kept = net.decode_ids(golden.inputs["z"], keep_last_word=True, **short)
    lost = net.decode_ids(golden.inputs["z"], keep_last_word=False, **short)
    assert torch.equal(kept, longer[:, :12])
    assert torch.equal(lost[:, :11], kept[:, :11])
    assert lost[:, 11].eq(net.config["eos"]).all()


def test_tokens_are_drawn_with_the_probabilities_of_the_logits():
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    drawn = choose_token(logits.expand(20_000, 4), 0.8, uniforms).bincount(minlength=4)
    expected = torch.softmax(logits / 0.8, 0).double()
    assert chisquare(drawn.numpy(), (expected / expected.sum() * 20_000).numpy()).pvalue > 0.01


def test_gradient_reaches_every_weight_in_bf16(golden):
    training = Optimus(optimus_config()).train()
    ids = golden.inputs["gpt2_ids"]
    with torch.autocast("cpu", torch.bfloat16):
        mu, logvar = training.encode_ids(golden.inputs["bert_ids"])
        logits = training.decoder_logits(ids, mu + 0 * logvar)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    still = {name for name, p in training.named_parameters() if p.grad is None}
    assert not still and torch.isfinite(loss)


def test_captions_are_numbered_as_by_the_original_tokenizers(talker, case):
    ids, mask = talker.encoder_ids([case["caption"].upper(), "a man"])
    assert ids[0].tolist() == case["bert_ids"]
    assert ids[1].tolist() == [101, 170, 1299, 102] + [0] * (len(case["bert_ids"]) - 4)
    assert mask.sum(1).tolist() == [len(case["bert_ids"]), 4]
    ids, mask = talker.decoder_ids([case["gpt2_text"], "a man"])
    assert ids[0].tolist() == [50258, *case["gpt2_ids"], 50259]
    assert ids[1, :5].tolist() == [50258, 257, 582, 50259, 50257] and mask[1].sum() == 4


def test_long_captions_are_cut_at_77_word_pieces_and_at_max_length(talker):
    ids, _ = talker.encoder_ids(["man " * 200])
    assert ids.shape == (1, 79) and ids[0, -1] == 102
    ids, _ = talker.decoder_ids(["man " * 200])
    assert ids.shape == (1, 30) and ids[0, -1] == 50259


def test_ids_are_read_as_the_original_reads_them(talker, case):
    ids = [50258, *case["gpt2_ids"], 50259, -1, -1]
    assert f" <BOS> {talker.read_ids(ids)} <EOS>" == case["decoded_with_bos_eos"]


def test_captions_do_not_depend_on_their_batch(net, talker, golden):
    def seeds(*numbers: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(n) for n in numbers]

    z = golden.inputs["z"]
    together = net.decode_ids(z, 1.0, draw_uniform((3, 30), seeds(0, 1, 2)))
    alone = net.decode_ids(z[2:], 1.0, draw_uniform((1, 30), seeds(2)))
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])
    assert talker.decode(z, 1.0, seeds(0, 1, 2))[2:] == talker.decode(z[2:], 1.0, seeds(2))


def test_encode_returns_the_posterior_mean(talker, case):
    captions = [case["caption"], "a man"]
    expected = talker.encode_ids(*talker.encoder_ids(captions))[0]
    assert torch.equal(talker.encode(captions), expected)
    assert expected.shape == (2, talker.latent_size)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.decode(torch.zeros(1, 24), 1.0), "seeded generator"),
        (lambda net: net.decode(torch.zeros(2, 24), 1.0, [torch.Generator()]), "one generator per"),
        (lambda net: net.decode(torch.zeros(1, 24), -1.0), "temperature=-1.0"),
        (lambda net: net.decode(torch.zeros(1, 24), max_length=40), "39 positions"),
        (lambda net: net.encode("a man"), "pass a list"),
        (lambda net: net.encode([]), "at least one caption"),
    ],
)
def test_wrong_requests_are_explained(talker, call, message):
    with pytest.raises(ValueError, match=message):
        call(talker)


def test_missing_tokenizer_and_missing_position_are_explained(net):
    with pytest.raises(ValueError, match="without the bert tokenizer"):
        net.encode(["a man"])
    with pytest.raises(ValueError, match="at least 41"):
        Optimus({**optimus_config(), "max_length": 40})


def test_repeated_phrases_are_said_once():
    assert remove_repeated_phrases("a man a man riding a wave") == "a man riding a wave"
    assert remove_repeated_phrases("the the the Cat cat sat") == "the Cat sat"
    assert remove_repeated_phrases("a dog and a dog") == "a dog and a dog"
    assert remove_repeated_phrases("") == ""


def test_punctuation_is_closed_up():
    assert close_spaces("a man 's board , yes .") == "a man's board, yes."
