"""The cosine of an encoder's embeddings before any training."""

import pytest
import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from tests.helpers import alike_rows, two_tasks, write_two_tasks

from comity.evaluation.floors import untouched_cosine
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
