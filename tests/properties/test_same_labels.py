"""The same labels however they are asked for: in batches of any size, any order, a stream, at each step, by two."""

import datasets
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    LaplaceTeacher,
    UserError,
    add_soft_labels,
)
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.utils.processes import processes
from tests.two_processes import said_by_two

from .demands import Case, check_labels, check_refusal, counting, decoded, fast
from .numbers import linear, of_numbers
from .pictures import of_images
from .texts import of_pairs, of_texts, of_tokens

ANY = st.one_of(of_numbers(), of_texts(), of_pairs(), of_tokens(), of_images())
SAME = {"atol": 2e-6, "rtol": 0}  # sums of other lengths round in another way


def labeled(case: Case, teacher, dataset=None, **options) -> datasets.Dataset:
    chosen = {"progress": False, "processing_class": case.processing_class, "storage": "float32"} | options
    return add_soft_labels(case.dataset if dataset is None else dataset, teacher, 3, **chosen)


def teacher_of(kind: str, case: Case):
    """A teacher with a posterior where the network has a head over which one can be had; or ``None``."""
    if kind == "laplace":
        try:
            reader = preprocessor_for(case.network, case.dataset, case.processing_class)
            if reader is None:
                return DeterministicTeacher(case.network)
            batch = reader(case.dataset.with_format(None)[:])
            classes = len(case.expected[0])
            numbers = torch.arange(len(case.dataset)) % classes
            return LaplaceTeacher.fit(case.network, [batch | {"labels": numbers}], prior_precision=1.0, link="mc")
        except UserError:
            return DeterministicTeacher(case.network)
    teacher = DeterministicTeacher(case.network, temperature=1.5)
    return EnsembleTeacher([teacher, DeterministicTeacher(case.network)]) if kind == "ensemble" else teacher


def check_same(case: Case, kind: str, size: int, seed: int) -> bool:
    """Whether the case was labeled, and then in the same way each time."""
    if case.expected is None or any(row is None for row in case.expected):
        return False
    try:
        teacher = teacher_of(kind, case)
        whole = labeled(case, teacher)
    except UserError:
        return False
    classes = len(case.expected[0])
    probs, variance = decoded(whole, classes), np.asarray(whole["teacher_variance"][:] if "teacher_variance" in
                                                         whole.column_names else 0)  # fmt: skip
    for other in (labeled(case, teacher, batch_size=size), labeled(case, teacher, shard_rows=size)):
        np.testing.assert_allclose(decoded(other, classes), probs, **SAME)
        if "teacher_variance" in whole.column_names:
            np.testing.assert_allclose(other["teacher_variance"][:], variance, **SAME)
    order = np.random.default_rng(seed).permutation(len(whole))
    shuffled = labeled(case, teacher, case.dataset.select(order), batch_size=size)
    np.testing.assert_allclose(decoded(shuffled, classes), probs[order], **SAME)
    assert shuffled["example_id"][:] == np.asarray(whole["example_id"][:])[order].tolist()
    streamed = labeled(case, teacher, case.dataset.to_iterable_dataset(), batch_size=size)
    np.testing.assert_allclose(decoded(streamed, classes), probs, **SAME)
    return True


WAYS = (
    ANY,
    st.sampled_from(["deterministic", "laplace", "laplace", "ensemble"]),
    st.integers(1, 4),
    st.integers(0, 9),
)


def run_same(number: int) -> int:
    labelings = []

    @fast(number, *WAYS)
    def labels_are_the_same(case, kind, size, seed):
        labelings.append(check_same(case, kind, size, seed))

    labels_are_the_same()
    return sum(labelings)


def test_in_whatever_batches_order_and_stream():
    assert run_same(5) >= 2


@pytest.mark.slow
def test_in_whatever_batches_order_and_stream_often():
    assert run_same(250) >= 100


def run_several(number: int) -> int:
    """Several teachers with names, and their ensemble: each one's labels by hand, and the mean of them."""
    labelings = []

    @fast(number, st.one_of(of_texts(), of_images()), st.integers(0, 9))
    def each_has_its_own(case, seed):
        teachers = {name: DeterministicTeacher(case.network) for name in ("first", "second")}
        asked = [counting(each) for each in teachers.values()]
        try:
            soft = labeled(case, teachers, **case.options)
        except UserError as error:
            return check_refusal(case, error, max(asked, key=sum))
        for name in teachers:
            check_labels(case, soft, f"teacher_probs__{name}")
        check_labels(case, labeled(case, EnsembleTeacher(list(teachers.values())), **case.options))
        labelings.append(soft)

    each_has_its_own()
    return len(labelings)


def test_several_teachers():
    assert run_several(5) >= 2


@pytest.mark.slow
def test_several_teachers_often():
    assert run_several(150) >= 50


def losses_of(folder, student: nn.Module, rows: datasets.Dataset, case: Case, **changes) -> list[float]:
    settings = {"kd_lambda": 1.0, "num_train_epochs": 2, "per_device_train_batch_size": 3, "logging_steps": 1}
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
    teacher = changes.pop("teacher", None)
    args = DistillationTrainingArguments(output_dir=str(folder), learning_rate=0.01, **settings, **quiet, **changes)
    trainer = DistillationTrainer(
        student, args, train_dataset=rows, processing_class=case.processing_class, teacher=teacher
    )
    trainer.train()
    return [entry["distillation"] for entry in trainer.state.log_history if "distillation" in entry]


def run_online(folder, number: int) -> int:
    """Losses from stored labels are those with the teacher at hand; both may be refused."""
    trainings = []

    brought = st.one_of(of_numbers(), of_texts(), of_tokens()).filter(
        lambda case: case.plain and len(case.dataset) > 1
    )

    @fast(number, brought, st.integers(0, 9))
    def stored_is_online(case, seed):
        teacher = DeterministicTeacher(case.network, temperature=2.0)
        teacher.processing_class = case.processing_class
        torch.manual_seed(seed)
        student = type(case.network)(case.network.config) if hasattr(case.network, "config") else None
        if student is None:
            student = nn.Sequential(linear(next(case.network.parameters()).shape[1], len(case.expected[0]), seed))
            if type(case.network).__name__ in ("OfTwo", "Named"):
                student = type(case.network)(student[0])
        start = {name: value.clone() for name, value in student.state_dict().items()}
        try:
            stored = losses_of(folder, student, labeled(case, teacher), case)
        except UserError:
            return
        student.load_state_dict(start)
        online = {"online_teacher": True, "teacher_samples": 3, "teacher_seed": 0, "teacher": teacher}
        assert losses_of(folder, student, case.dataset, case, **online) == pytest.approx(stored, rel=1e-4, abs=1e-6)
        trainings.append(stored)

    stored_is_online()
    return len(trainings)


def test_stored_is_online(tmp_path):
    assert run_online(tmp_path, 4) >= 1


@pytest.mark.slow
def test_stored_is_online_often(tmp_path):
    assert run_online(tmp_path, 60) >= 20


CASES = 25


def drawn_labels() -> list[str]:
    """What a process has of each case that is drawn, as text; the reason where it is refused."""
    said: list[str] = []

    @fast(CASES, ANY, st.integers(1, 3))
    def label(case, size):
        teacher = DeterministicTeacher(case.network)
        try:
            soft = labeled(case, teacher, shard_rows=size, on_error="skip")
            said.append(str([soft["teacher_probs"][:], soft.features["teacher_provenance"].names]))
        except UserError as error:
            said.append(f"refused: {error}")

    label()
    return said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")
def test_two_processes_make_the_labels_of_one(tmp_path):
    both = said_by_two(lambda rank: [processes().num_processes, drawn_labels()], tmp_path)
    alone = drawn_labels()
    assert sum(not each.startswith("refused") for each in alone) >= CASES / 3
    assert both == [[2, alone]] * 2
