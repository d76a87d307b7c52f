"""Scores that need no training: of a constant, and of an encoder before any training."""

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_two_tasks

from comity.evaluation.floors import majority_floor, untouched_cosine, untouched_floor
from comity.training.setup import prepare


def test_the_cosine_of_an_untouched_encoder_equals_transformers(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    prepared = prepare(two_tasks(tiny_checkpoint), tmp_path)
    data = prepared.tasks["alike"]
    found = untouched_cosine(prepared.loaded, data.dev, data.max_length)

    rows = alike_rows(1000, 10)
    bert = transformers.BertModel.from_pretrained(tiny_checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_checkpoint)
    means = []
    for texts in ([row[0] for row in rows], [row[1] for row in rows]):
        given = tokenizer(texts, return_tensors="pt", padding=True)
        mask = given["attention_mask"][..., None]
        with torch.no_grad():
            hidden = bert(**given).last_hidden_state
        means.append((hidden * mask).sum(1) / mask.sum(1))
    cosines = torch.cosine_similarity(*means).numpy()
    gold = [row[2] for row in rows]
    assert found["pearson"].value == pytest.approx(pearsonr(gold, cosines)[0], abs=1e-5)
    assert found["spearman"].value == pytest.approx(spearmanr(gold, cosines)[0], abs=1e-5)


# --- what else needs no training ------------------------------------------------------------------


SEVERAL = {"tasks__mood__kind": "multi-label", "tasks__mood__separator": "|"}


def mean_vectors(checkpoint, texts: list[str]) -> np.ndarray:
    """The mean of the last states of each text, by transformers."""
    bert = transformers.BertModel.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    given = tokenizer(texts, return_tensors="pt", padding=True)
    mask = given["attention_mask"][..., None]
    with torch.no_grad():
        hidden = bert(**given).last_hidden_state
    return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


def task(folder, checkpoint, name="mood", **changes):
    """One task of the two, and the encoder."""
    prepared = prepare(two_tasks(checkpoint, **changes), folder)
    return prepared.loaded, prepared.tasks[name]


def test_the_best_constant_is_the_most_frequent_class_or_set_of_labels(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    rows = [("a", "up"), ("b", "up"), ("c", "down")]
    write_csv(tmp_path / "mood.csv", ["text", "mood"], rows)
    rows = [("d", "down"), ("e", "up"), ("f", "down"), ("g", "down")]
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], rows)
    found = majority_floor(task(tmp_path, tiny_checkpoint)[1])
    assert (found.score.value, found.model) == (0.25, "always up")

    labels = [("a", "x|y"), ("b", "y|x"), ("c", "x"), ("d", "")]
    write_csv(tmp_path / "mood.csv", ["text", "mood"], labels)
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], [("e", "x"), ("f", "")])
    several = task(tmp_path, tiny_checkpoint, **SEVERAL)[1]
    found = majority_floor(several)  # 1 right of 4 predicted and 1 true label: F1 = 2 / 5
    assert (found.score.value, found.model) == (pytest.approx(0.4), "always x, y")


def test_the_best_constant_of_numbers_is_their_mean(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    gold, trained = ([row[2] for row in alike_rows(start, n)] for start, n in ((1000, 10), (0, 20)))
    error = np.sqrt(np.mean((np.array(gold) - np.mean(trained)) ** 2))
    found = majority_floor(task(tmp_path, tiny_checkpoint, "alike", tasks__alike__metric="rmse")[1])
    assert found.score.value == pytest.approx(error)
    assert found.model == f"always {np.mean(trained):.4g}"
    without = majority_floor(task(tmp_path, tiny_checkpoint, "alike")[1])
    assert without.score.value is None
    assert without.score.reason == "all 10 predictions are equal"


def test_an_untouched_encoder_classifies_as_scikit_learn_on_its_vectors(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    found = untouched_floor(*task(tmp_path, tiny_checkpoint))
    train, dev = (mood_rows(*rows) for rows in ((0, 36), (1000, 12)))
    x, new = (mean_vectors(tiny_checkpoint, [row[0] for row in rows]) for rows in (train, dev))
    model = LogisticRegression(max_iter=1000).fit(x, [row[1] for row in train])
    assert found.score.value == pytest.approx(model.score(new, [row[1] for row in dev]))
    assert found.model == "logistic regression"


def test_an_untouched_encoder_reads_pairs_with_their_interaction(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    changes = {"tasks__alike__kind": "regression", "tasks__alike__head": ...}
    found = untouched_floor(*task(tmp_path, tiny_checkpoint, "alike", **changes))
    features, gold = [], []
    for rows in (alike_rows(0, 20), alike_rows(1000, 10)):
        u, v = (mean_vectors(tiny_checkpoint, [str(row[i]) for row in rows]) for i in (0, 1))
        features.append(np.hstack([u, v, abs(u - v), u * v]))
        gold.append([row[2] for row in rows])
    predicted = Ridge().fit(features[0], gold[0]).predict(features[1])
    assert found.score.value == pytest.approx(pearsonr(gold[1], predicted)[0], abs=1e-3)
    assert found.model == "ridge regression"


def test_similarity_is_the_cosine_unless_its_metric_has_a_unit(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    loaded, data = task(tmp_path, tiny_checkpoint, "alike", tasks__alike__metric="spearman")
    found = untouched_floor(loaded, data)
    assert found.score == untouched_cosine(loaded, data.dev, data.max_length)["spearman"]
    other = untouched_floor(*task(tmp_path, tiny_checkpoint, "alike", tasks__alike__metric="mae"))
    assert other.model == "ridge regression"


def test_each_label_has_a_classifier_of_its_own(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    train, dev = (
        [(text, f"all|{mood}") for text, mood in mood_rows(*rows)] for rows in ((0, 36), (1000, 12))
    )
    write_csv(tmp_path / "mood.csv", ["text", "mood"], train)
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], dev)
    found = untouched_floor(*task(tmp_path, tiny_checkpoint, **SEVERAL))
    x, new = (mean_vectors(tiny_checkpoint, [row[0] for row in rows]) for rows in (train, dev))
    names = ("down", "up")
    gold, right = np.ones((12, 3)), np.ones((12, 3))
    for index, name in enumerate(names):
        model = LogisticRegression(max_iter=1000).fit(x, [name in row[1] for row in train])
        gold[:, index] = [name in row[1] for row in dev]
        right[:, index] = model.predict(new)
    assert found.score.value == pytest.approx(f1_score(gold, right, average="micro"))
