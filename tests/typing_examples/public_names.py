"""A caller's program, for the type checker: public names are found, and their types are not ``Any``."""

from pathlib import Path
from typing import Any, assert_type

import datasets
from torch import nn

import hf_bkd
from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DeterministicTeacher,
    EnsembleTeacher,
    ImagePreprocessor,
    LaplaceTeacher,
    MultiTeacher,
    Predictive,
    SklearnTeacher,
    Teacher,
    UserError,
    VariationalTeacher,
    Views,
    add_soft_labels,
    aggregate_responses,
    convergence_noise,
    generate_responses,
    sentence_encoder,
    weighted_rows,
)


def fitted(network: nn.Module, train: BatchedDataset, validation: BatchedDataset) -> list[Teacher]:
    laplace = LaplaceTeacher.fit(network, train.batches(), validation.batches(), structure="kron")
    assert_type(laplace, LaplaceTeacher)
    scaled = DeterministicTeacher.fit(network, validation.batches())
    assert_type(scaled, DeterministicTeacher)
    return [laplace, scaled, EnsembleTeacher([laplace, scaled]), VariationalTeacher(network)]


def asked(teacher: Teacher, images: Any) -> Predictive:
    views = Views(CropAndFlip(padding=2), num_views=4, seed=0)
    assert_type(views.num_views, int | None)
    pixels = ImagePreprocessor(mean=(0.5,), std=(0.25,))
    add_soft_labels(images, MultiTeacher({"one": teacher}), 10, preprocessor=pixels, views=views, storage="top_k")
    prediction = teacher.predict({}, num_samples=10)
    assert_type(prediction, Predictive)
    assert_type(convergence_noise([0.1, 0.2], last=2), float)
    return prediction


def of_a_table(forest: Any, rows: Any) -> Any:
    teacher = SklearnTeacher.fit(forest, rows)
    assert_type(teacher, SklearnTeacher)
    labeled = add_soft_labels(rows, folds=5, fit=SklearnTeacher.fitting(forest))
    return weighted_rows(labeled, kd_lambda=0.5).weights


def sampled(model: nn.Module, encoder: nn.Module, tokenizer: Any, rows: datasets.Dataset) -> datasets.Dataset:
    responses = generate_responses(rows, model, 5, temperature=0.8, processing_class=tokenizer)
    taught = aggregate_responses(responses, "mean", sentence_encoder(encoder, tokenizer))
    assert_type(taught, datasets.Dataset)
    return taught


def saved(teacher: Teacher, folder: Path) -> Teacher:
    teacher.save_pretrained(folder)
    try:
        return Teacher.from_pretrained(folder)
    except UserError as error:
        raise SystemExit(str(error)) from None


def mistaken() -> None:
    print(hf_bkd.LaplaceTeachers)  # type: ignore[attr-defined]
    DeterministicTeacher.fit(network=1)  # type: ignore[arg-type, call-arg]
    add_soft_labels([], storages="top_k")  # type: ignore[call-arg]
