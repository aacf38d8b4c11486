import dataclasses
import math

import pytest

from expander_sae.records import (
    EvaluationRecord,
    ExpanderSaeError,
    FrontierRecord,
    TrainingRecord,
    read_json,
    write_json,
)


def evaluation_record(**changes) -> EvaluationRecord:
    fields = {
        "name": "expander-d7", "kind": "expander", "d_in": 16, "n_latents": 64, "degree": 7, "k": 4,
        "signed": False, "construction": "balanced", "mask_seed": 0, "seed": 0, "learned_values": 464,
        "decoder_values": 448, "bytes_on_disk": 2000, "model_id": "tiny", "model_revision": "abc", "layer": 1,
        "split": "heldout", "keep_special_tokens": False, "outlier_medians": None, "tokens": 100,
        "outlier_tokens": 0, "fvu": 0.25, "explained_variance": 0.75, "rel_err": 0.5, "cosine": 0.9,
        "l0": 4.0, "dead_fraction": 0.1, "encode_tokens_per_second": 1000.0,
    }  # fmt: skip
    return EvaluationRecord(**(fields | changes))


def training_record(**changes) -> TrainingRecord:
    fields = {
        "name": "expander-d7", "steps": 10, "tokens": 1000, "seconds": 1.5, "tokens_per_second": 666.0,
        "final_loss": 0.3, "final_fvu": 0.3, "final_dead_fraction": 0.0, "config": {"lr": 1e-3},
    }  # fmt: skip
    return TrainingRecord(**(fields | changes))


def test_a_frontier_record_comes_back_from_json(tmp_path):
    record = FrontierRecord(
        variant="expander-d7", family="expander", seed=0, matched_degree=7, folder="saes/expander-d7-seed0",
        training=training_record(), evaluation=evaluation_record(ce_clean=3.0), retention_zero=0.8,
    )  # fmt: skip
    write_json(tmp_path / "record.json", record.to_dict())
    assert FrontierRecord.from_dict(read_json(tmp_path / "record.json")) == record


def test_nan_becomes_null_on_disk_and_nan_again(tmp_path):
    write_json(tmp_path / "record.json", training_record(final_loss=float("nan"), diverged=True).to_dict())
    back = TrainingRecord.from_dict(read_json(tmp_path / "record.json"))
    assert math.isnan(back.final_loss)
    assert back.diverged


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"surprise": 1}, "surprise"),
        ({"k": "four"}, r"EvaluationRecord\.k"),
        ({"k": True}, r"EvaluationRecord\.k"),
        ({"k": None}, r"EvaluationRecord\.k"),
        ({"name": 3}, r"EvaluationRecord\.name"),
    ],
)
def test_wrong_fields_are_one_clear_error(change, said):
    with pytest.raises(ExpanderSaeError, match=said):
        EvaluationRecord.from_dict(evaluation_record().to_dict() | change)


def test_a_missing_field_is_named():
    fields = evaluation_record().to_dict()
    del fields["fvu"]
    with pytest.raises(ExpanderSaeError, match="fvu"):
        EvaluationRecord.from_dict(fields)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluation_record().fvu = 0.0
