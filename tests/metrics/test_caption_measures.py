"""Caption measures against nltk, rouge-score, and sentences worked out by hand."""

import numpy as np
import pytest
import torch
from rouge_score import rouge_scorer

from nbutils.metrics import captions as measures

CAPTIONS = ["A red dog running on the beach", "two cats", "a bus in the city"]
REFERENCES = [
    ["the red dogs run on a beach.", "a photo of an animal"],
    ["two cats on a table", "There are two kittens!"],
    ["a tree in a meadow", "a large plant"],
]


def test_meteor_by_hand_with_an_exact_and_a_stemmed_match():
    # "two cats sleep" / "two cat sleep now": two, sleep exact, cats by stem, one chunk.
    precision, recall = 3 / 3, 3 / 4
    fmean = precision * recall / (0.9 * precision + 0.1 * recall)
    expected = (1 - 0.5 * (1 / 3) ** 3) * fmean
    found = measures.meteor_exact_stem(["Two cats sleep"], [["two cat sleep now"]])
    assert found[0] == pytest.approx(expected, abs=1e-12)


def test_meteor_takes_the_best_reference_and_knows_no_synonym():
    found = measures.meteor_exact_stem(CAPTIONS, REFERENCES)
    alone = [
        max(measures.meteor_exact_stem([caption], [[text]])[0] for text in texts)
        for caption, texts in zip(CAPTIONS, REFERENCES, strict=True)
    ]
    np.testing.assert_allclose(found, alone)
    assert measures.meteor_exact_stem(["kitten"], [["cat"]])[0] == 0


@pytest.mark.parametrize("kind", ["rouge1", "rougeL"])
def test_rouge_equals_rouge_score(kind):
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=False)
    expected = [
        max(scorer.score(text, caption)[kind].fmeasure for text in texts)
        for caption, texts in zip(CAPTIONS, REFERENCES, strict=True)
    ]
    np.testing.assert_allclose(measures.rouge(CAPTIONS, REFERENCES, kind), expected)


def test_rouge_by_hand():
    # The longest common subsequence is "a in": 2 of 5 words on either side.
    found = measures.rouge(["a bus in the city"], [["a tree in a meadow"]], "rougeL")
    assert found[0] == pytest.approx(2 * (2 / 5) * (2 / 5) / (4 / 5))


def test_content_f1_counts_stems_of_content_words_against_the_best_reference():
    found = measures.content_f1(CAPTIONS, REFERENCES)
    # {red, dog, run, beach} twice; {cat} against {cat, tabl}; nothing in common
    np.testing.assert_allclose(found, [1, 2 / 3, 0])
    assert measures.content_words("A picture of the dogs, running!") == {"dog", "run"}


def test_category_named_looks_for_any_true_category():
    words = {"animal": {"dog", "cat", "kitten"}, "vehicle": {"bus"}, "plant": {"tree"}}
    categories = [["animal", "plant"], ["vehicle"], ["plant", "vehicle"]]
    found = measures.category_named(CAPTIONS, categories, words)
    np.testing.assert_array_equal(found, [1, 0, 1])
    with pytest.raises(ValueError, match="'food' has no words"):
        measures.category_named(CAPTIONS, [["food"], [], []], words)


class FakeClip:
    """Embeds a caption as the counts of a few words."""

    def text_embedding(self, captions):
        words = ["dog", "cats", "bus", "tree"]
        return torch.tensor([[text.split().count(w) for w in words] for text in captions]).float()


def test_caption_identification_compares_with_the_mean_reference():
    clip = FakeClip()
    references = [["dog", "dog dog"], ["cats"], ["tree", "tree bus"]]
    right = measures.identify_captions(clip, ["a dog", "two cats", "a tree"], references)
    np.testing.assert_array_equal(right, [1, 1, 1])
    wrong = measures.identify_captions(clip, ["two cats", "a dog", "a tree"], references)
    np.testing.assert_array_equal(wrong, [0.5, 0.5, 1])


def test_judge_measures_everything_and_its_chance():
    words = {"animal": {"dog", "cats"}, "vehicle": {"bus"}, "plant": {"tree"}}
    judge = measures.CaptionJudge(
        REFERENCES, clip=FakeClip(), categories=[["animal"], ["animal"], ["plant"]], words=words
    )
    values, chance = judge.measure(CAPTIONS), judge.measure_chance(CAPTIONS)
    assert set(values) == set(chance)
    np.testing.assert_array_equal(values["category named"], [1, 1, 0])
    assert (chance["two-way CLIP text"] == 0.5).all()
    np.testing.assert_allclose(chance["content F1"], 0)  # no caption shares a word with another's


def test_bad_captions_are_refused():
    with pytest.raises(ValueError, match="2 captions for 3 images"):
        measures.content_f1(CAPTIONS[:2], REFERENCES)
    with pytest.raises(ValueError, match="at least one caption"):
        measures.rouge(CAPTIONS, ["a dog", "b", "c"])
    with pytest.raises(ValueError, match="choose rouge1 or rougeL"):
        measures.rouge(CAPTIONS, REFERENCES, "rouge2")
    with pytest.raises(ValueError, match="without the words"):
        measures.CaptionJudge(REFERENCES, categories=[[], [], []])
