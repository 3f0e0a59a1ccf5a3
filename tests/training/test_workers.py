"""What worker processes are handed is picklable: where they are spawned, as on macOS and Windows, they get copies."""

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import DataLoader

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, Views, add_soft_labels
from hf_bkd.data.augmentations import CutMix
from hf_bkd.data.preprocessors import preprocessor_for
from tests.cli.fitting_helpers import bert, tokenizer
from tests.cli.fitting_helpers import texts as classified_texts
from tests.data.test_preprocessor_for import image, photographs, timm_vit
from tests.soft_labels.test_any_network import brought

CASES = ["photographs", "image processor", "texts", "pairs", "features", "sound"]


def copied(what):
    return pickle.loads(bytes(ForkingPickler.dumps(what)))


def assert_same(one, other):
    assert sorted(one) == sorted(other)
    for name, value in one.items():
        assert_same(value, other[name]) if isinstance(value, dict) else torch.testing.assert_close(value, other[name])


def trainer_of(network, rows, processing_class, online, folder, **settings):
    args = DistillationTrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, online_teacher=online, kd_lambda=1.0
    )
    teacher = DeterministicTeacher(network)
    teacher.processing_class = processing_class
    rows = rows if online else add_soft_labels(rows, teacher, progress=False, **settings)
    asked = teacher if online else None
    return DistillationTrainer(network, args, train_dataset=rows, teacher=asked, processing_class=processing_class)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("online", [False, True])
def test_a_training_set_is_read_the_same_by_a_copy(case, online, tmp_path):
    network, rows, processing_class = brought()[case]
    reads = preprocessor_for(network, rows, processing_class)
    assert_same(dict(reads(rows[:2])), dict(copied(reads)(rows[:2])))
    dataset, collate, _ = trainer_of(network, rows, processing_class, online, tmp_path)._train
    there, gather = copied((dataset, collate))
    assert_same(collate(dataset.__getitems__([0, 1])), gather(there.__getitems__([0, 1])))


def test_so_are_views_that_mix_images(tmp_path):
    rows = photographs([image(160, 160, seed=seed) for seed in range(3)])
    trainer = trainer_of(timm_vit(), rows, None, False, tmp_path, views=Views(CutMix(1.0), num_views=2))
    dataset = trainer._train.dataset
    assert_same(dataset.__getitems__([0, 2]), copied(dataset).__getitems__([0, 2]))


def test_so_are_tokens_of_several_lengths():
    rows = classified_texts(6, 0).map(lambda row: dict(tokenizer()(row["text"]))).remove_columns("text")
    reads = preprocessor_for(bert(), rows)
    assert_same(dict(reads(rows[:4])), dict(copied(reads)(rows[:4])))


@pytest.mark.slow
def test_spawned_workers_read_a_training_set(tmp_path):
    network, rows, processing_class = brought()["texts"]
    dataset, collate, _ = trainer_of(network, rows, processing_class, False, tmp_path)._train
    loader = DataLoader(dataset, 4, collate_fn=collate, num_workers=1, multiprocessing_context="spawn")
    assert_same(next(iter(loader)), collate(dataset.__getitems__([0, 1, 2, 3])))
