"""The file of soft labels: what is written is read, and damage is noticed."""

from dataclasses import fields, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax
from tests.helpers import three_soft_labels

from comity.data.soft_labels import SoftLabels, read_soft_labels, soft_values, write_soft_labels
from comity.errors import ComityError
from comity.targets import Target

LABELS = three_soft_labels()


@pytest.mark.parametrize(
    "labels", [LABELS, replace(LABELS, classes=(), values=np.ones(3), logits=None)]
)
def test_what_is_written_is_read(tmp_path, labels):
    write_soft_labels(tmp_path / "new" / "mood.safetensors", labels)
    found = read_soft_labels(tmp_path / "new" / "mood.safetensors")
    for field in fields(SoftLabels):
        one, other = getattr(labels, field.name), getattr(found, field.name)
        assert type(one) is type(other), field.name
        np.testing.assert_equal(one, other)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mood.safetensors"]


def test_damage_is_one_sentence(tmp_path):
    path = tmp_path / "mood.safetensors"
    with pytest.raises(ComityError, match="there is no such file"):
        read_soft_labels(path)
    write_soft_labels(path, LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ComityError, match="does not hold soft labels, or is damaged"):
        read_soft_labels(path)
    path.write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(ComityError, match="has changed since it was written"):
        read_soft_labels(path)
    path.write_bytes(whole.replace(b'\\"seed\\": 3', b'\\"seed\\": 4'))
    with pytest.raises(ComityError, match="has changed since it was written"):
        read_soft_labels(path)
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    with pytest.raises(ComityError, match="another version of comity"):
        read_soft_labels(path)
    save_file(load_file(path), path)  # a file of another program
    with pytest.raises(ComityError, match="does not hold soft labels"):
        read_soft_labels(path)


def test_probabilities_are_those_of_the_logits():
    outputs = np.array([[1.5, -0.5, 3.0], [0.0, 0.0, -2.0]])
    three = Target("classification", "linear", classes=("a", "b", "c"))
    values, logits = soft_values(three, outputs)
    np.testing.assert_allclose(values, softmax(outputs, axis=1))
    np.testing.assert_array_equal(logits, outputs)
    two = Target("classification", "linear", classes=("no", "yes"))
    values, logits = soft_values(two, outputs[:, :1])
    np.testing.assert_allclose(values[:, 1], expit(outputs[:, 0]))
    np.testing.assert_allclose(softmax(logits, axis=1), values)
    several = Target("multi-label", "linear", classes=("a", "b", "c"))
    values, logits = soft_values(several, outputs)
    np.testing.assert_allclose(values, expit(outputs))
    np.testing.assert_array_equal(logits, outputs)


def test_scores_are_shares_of_the_scale_and_numbers_have_their_unit():
    bins = Target("similarity", "bins", scale=(1.0, 3.0))
    values, logits = soft_values(bins, np.log([[0.25, 0.25, 0.5]]))
    np.testing.assert_allclose(values, [(0.25 * 0 + 0.25 * 0.5 + 0.5 * 1)])
    assert logits is None
    direct = Target("similarity", "regression", scale=(1.0, 5.0))
    np.testing.assert_allclose(soft_values(direct, np.array([[0.3], [1.2]]))[0], [0.3, 1.0])
    number = Target("regression", "linear", mean=10.0, deviation=4.0)
    number = replace(number, head="regression")
    np.testing.assert_allclose(soft_values(number, np.array([[0.5]]))[0], [12.0])
