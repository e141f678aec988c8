"""Branches as values."""

import copy
import pickle

import pytest

from calotype.graph.branches import Branch, Branches, Tag
from calotype.graph.node import BY_BRANCH, project


def test_values_by_name():
    both = Branches(positive=1, negative=2)
    assert (both.positive, both["negative"], list(both), len(both)) == (1, 2, ["positive", "negative"], 2)
    assert both.map(lambda v: v + 1) == Branches(positive=2, negative=3)
    assert both != Branches(positive=1) and hash(both) == hash(Branches(positive=1, negative=2))
    assert repr(both) == "Branches(positive=1, negative=2)"


def test_a_positive_value_is_needed():
    with pytest.raises(TypeError, match=r"Branches need a value named 'positive', got \['negative'\]"):
        Branches(negative=1)


def test_cannot_be_changed():
    with pytest.raises(AttributeError, match=r"make new ones with \.map"):
        Branches(positive=1).positive = 2


def test_copies_and_pickles():
    both = Branches(positive=[1], negative=[2])
    assert pickle.loads(pickle.dumps(both)) == both
    deep = copy.deepcopy(both)
    assert deep == both and deep.positive is not both.positive


def test_a_variant_of_the_predictor_on_the_same_inputs_is_positive():
    class Weaker(Tag):
        pass

    negated = frozenset({"prompt"})
    positive = [Branch("positive"), Branch("weak", tag=Weaker()), Branch("plain", adapters=("style",))]
    other = [Branch("negative", negated), Branch("weak", negated, tag=Weaker()), Branch("another_prompt")]
    assert all(b.is_positive for b in positive) and not any(b.is_positive for b in other)


def test_branches_share_what_they_do_not_differ_in():
    whole, text = Branch("negative", frozenset({"prompt", "picture"})), Branch("text", frozenset({"prompt"}))
    assert project(frozenset({"prompt"}), whole) == project(frozenset({"prompt"}), text)
    assert project(frozenset({"picture"}), whole) != project(frozenset({"picture"}), text)
    assert project(frozenset(), whole) == project(frozenset(), text)
    assert project(BY_BRANCH, whole) != project(BY_BRANCH, text)
    assert project(BY_BRANCH | {"prompt"}, text) == "text"
