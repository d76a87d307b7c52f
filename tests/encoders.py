"""Encoders for tests."""

from pathlib import Path
from typing import Any

from comity.model.bert import Bert
from comity.model.checkpoint import load_encoder


def load_bert(folder: Path, **options: Any) -> Bert:
    """The encoder of a checkpoint, typed as a BERT."""
    encoder = load_encoder(str(folder), **options).encoder
    assert isinstance(encoder, Bert)
    return encoder
