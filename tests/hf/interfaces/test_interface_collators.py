"""The data collators of transformers; what they give is tried in ecosystem/test_hf_trainer.py."""

from __future__ import annotations

import inspect

import torch
from interface_table import IDS, complete, small
from transformers import default_data_collator
from transformers.data import data_collator

ROWS = [{"input_ids": row, "labels": row} for row in IDS.tolist()]
HONOURED = {
    "DefaultDataCollator": "below",
    "DataCollatorWithPadding": "test_hf_trainer.py",
    "DataCollatorForSeq2Seq": "test_hf_trainer.py",
    "DataCollatorForLanguageModeling": "test_hf_trainer.py, with mlm=False",
    "DataCollatorWithFlattening": "test_hf_trainer.py, with all its outputs",
}
UNCONCERNED = {
    "DataCollatorForMultipleChoice": "of a head that softmap has not",
    "DataCollatorForTokenClassification": "of a head that softmap has not",
    "DataCollatorForWholeWordMask": "of masked language models: softmap's maps are causal",
    "DataCollatorForSOP": "of masked language models",
    "DataCollatorForPermutationLanguageModeling": "of XLNet",
    "DataCollatorMixin": "a base",
}


def test_every_name_is_decided() -> None:
    found = inspect.getmembers(data_collator, inspect.isclass)
    complete({n for n, _ in found if "DataCollator" in n}, HONOURED, UNCONCERNED)


def test_rows_of_one_length_are_stacked() -> None:
    model, batch = small(), default_data_collator(ROWS)
    torch.testing.assert_close(model(**batch).loss, model(IDS, labels=IDS).loss)
