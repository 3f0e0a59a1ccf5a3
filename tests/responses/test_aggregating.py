"""k answers become a completion; means, variances and choices by hand, and a student that is trained on them."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    UserError,
    add_soft_labels,
    aggregate_responses,
    sentence_encoder,
    tokenized,
)
from hf_bkd.responses import embedding_estimates
from hf_bkd.responses.aggregating import combined_means
from tests.language.language_helpers import CHATS, TEXTS, learned, llama, tokenizer

from .response_helpers import POINTS, answered, bert, by_hand, on_the_plane, prompts

ANSWERS = [["a", "b", "b", "c"], ["d", "d", "a", "c"]]


def points(texts: list[str]) -> np.ndarray:
    return np.array([POINTS[text] for text in texts])


def nearest(texts: list[str], combined: np.ndarray) -> str:
    cosines = points(texts) @ combined / np.linalg.norm(points(texts), axis=1) / np.linalg.norm(combined)
    return texts[int(cosines.argmax())]


def test_single_and_all():
    made = by_hand(ANSWERS)
    single = aggregate_responses(made, "single")
    assert single.to_dict() == {"prompt": ["prompt 0", "prompt 1"], "completion": ["a", "d"], "response": [0, 0]}
    whole = aggregate_responses(made, "all")
    assert whole["completion"][:] == [*ANSWERS[0], *ANSWERS[1]]
    assert whole["prompt"][:] == ["prompt 0"] * 4 + ["prompt 1"] * 4 and whole["response"][:] == [0, 1, 2, 3] * 2
    some = aggregate_responses(made, "all", responses=[3, 1])
    assert some["completion"][:] == ["c", "b", "c", "d"] and some["response"][:] == [3, 1, 3, 1]


def test_estimates_are_those_of_numpy():
    estimates = embedding_estimates(by_hand(ANSWERS), on_the_plane)
    for row, texts in enumerate(ANSWERS):
        x = points(texts)
        np.testing.assert_allclose(estimates.mean[row], x.mean(axis=0), rtol=1e-6)
        assert estimates.variance[row].item() == pytest.approx(x.var(axis=0, ddof=1).mean() / 4, rel=1e-6)
        assert estimates.within[row].item() == pytest.approx(x.var(axis=0, ddof=1).mean(), rel=1e-6)
    assert estimates.between is None
    known = embedding_estimates(by_hand(ANSWERS), on_the_plane, variance=0.4)
    np.testing.assert_allclose(known.variance, 0.1)
    assert embedding_estimates(by_hand([["a"]]), on_the_plane).variance is None


def test_draws_of_the_weights_count_as_what_is_independent():
    estimates = embedding_estimates(by_hand(ANSWERS, draws=[0, 1, 0, 1]), on_the_plane)
    for row, texts in enumerate(ANSWERS):
        x = points(texts)
        means = np.stack([x[[0, 2]].mean(axis=0), x[[1, 3]].mean(axis=0)])
        within = (x[[0, 2]].var(axis=0, ddof=1) + x[[1, 3]].var(axis=0, ddof=1)) / 2
        of_means = means.var(axis=0, ddof=1)
        assert estimates.variance[row].item() == pytest.approx(of_means.mean() / 2, rel=1e-6)
        assert estimates.within[row].item() == pytest.approx(within.mean(), rel=1e-6)
        assert estimates.between[row].item() == pytest.approx((of_means - within / 2).mean(), rel=1e-6)


def test_answers_of_one_draw_of_several_do_not_tell_the_variance_between_draws():
    made = by_hand(ANSWERS, draws=[0, 1, 0, 1])
    estimates = embedding_estimates(made, on_the_plane, responses=[0, 2])
    x = points([ANSWERS[0][0], ANSWERS[0][2]])
    assert estimates.variance is None and estimates.between is None
    assert estimates.within[0].item() == pytest.approx(x.var(axis=0, ddof=1).mean(), rel=1e-6)
    of_two = embedding_estimates(made, on_the_plane, responses=[0, 1]).variance[0].item()
    assert of_two == pytest.approx(points(ANSWERS[0][:2]).var(axis=0, ddof=1).mean() / 2, rel=1e-6)
    student = by_hand(ANSWERS, weights="student")
    with pytest.raises(
        UserError, match="answers of the teacher all come from one of several draws .* pass responses="
    ):
        aggregate_responses(made, "inverse_variance", on_the_plane, student=student, responses=[0, 2])
    with pytest.raises(UserError, match="several of these come from one draw"):
        embedding_estimates(made, on_the_plane, variance=0.4)
    np.testing.assert_allclose(embedding_estimates(made, on_the_plane, 0.4, [0, 1]).variance, 0.2)


def test_the_answer_nearest_to_the_mean():
    made = aggregate_responses(by_hand(ANSWERS), "mean", on_the_plane)
    assert made["completion"][:] == [nearest(texts, points(texts).mean(axis=0)) for texts in ANSWERS] == ["c", "d"]
    assert made["response"][:] == [3, 0]
    assert aggregate_responses(by_hand(ANSWERS), "mean", on_the_plane, responses=[0, 1])["response"][:] == [0, 0]


def combined(own: np.ndarray, v: float, other: np.ndarray, v_other: float) -> np.ndarray:
    return (own / v + other / v_other) / (1 / v + 1 / v_other)


def test_inverse_variances_are_those_of_the_estimates():
    teacher, student = [["a", "b"], ["a", "d"]], [["b", "c", "b"], ["a", "c", "b"]]
    made = aggregate_responses(
        by_hand(teacher), "inverse_variance", on_the_plane, student=by_hand(student, weights="student")
    )
    expected = []
    for own, other in zip(teacher, student, strict=True):
        x, y = points(own), points(other)
        v, v_other = x.var(axis=0, ddof=1).mean() / 2, y.var(axis=0, ddof=1).mean() / 3
        expected.append(nearest(own, combined(x.mean(axis=0), v, y.mean(axis=0), v_other)))
    assert made["completion"][:] == expected == ["b", "d"]
    alone = aggregate_responses(by_hand(teacher), "mean", on_the_plane)
    assert alone["completion"][:] == ["a", "a"]  # two are equally near to their mean: the student made the difference


def test_one_answer_needs_a_known_variance():
    teacher, student = by_hand([["a"], ["b"]]), by_hand([["b", "c"]] * 2, weights="student")
    known = {"student": student, "variance": 0.5}
    assert aggregate_responses(teacher, "inverse_variance", on_the_plane, **known)["completion"][:] == ["a", "b"]
    with pytest.raises(UserError, match="the teacher's estimate is unknown with k = 1: .*or pass variance="):
        aggregate_responses(teacher, "inverse_variance", on_the_plane, student=student)
    with pytest.raises(UserError, match="the student's estimate is unknown with k = 1: .*or pass student_variance="):
        aggregate_responses(student, "inverse_variance", on_the_plane, student=teacher)
    assert len(aggregate_responses(teacher, "mean", on_the_plane)) == 2


def test_answers_that_are_all_the_same_count_alone_or_equally():
    same, spread = [["a", "a"]], [["b", "c"]]
    for own, other, expected in ((same, spread, "a"), (spread, [["b", "b"]], "b")):
        made = aggregate_responses(
            by_hand(own), "inverse_variance", on_the_plane, student=by_hand(other, weights="student")
        )
        assert made["completion"][:] == [expected]


def test_the_oracle_is_that_of_the_released_code():
    own, many = [["a", "b", "d"]], [["b", "c", "b", "b", "c", "b", "b", "c"]]
    made = aggregate_responses(by_hand(own), "oracle", on_the_plane, oracle=by_hand(many, seed=1))
    x, y = points(own[0]), points(many[0])
    mixed = combined(x.mean(axis=0), x.var(axis=0).mean(), y.mean(axis=0), y.var(axis=0, ddof=1).mean())
    assert made["completion"][:] == [nearest(own[0], mixed)] == ["b"]
    assert aggregate_responses(by_hand(own), "mean", on_the_plane)["completion"][:] == ["d"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: aggregate_responses(rows, "median"), "method is 'median'; it must be one of single, all, mean"),
        (lambda rows: aggregate_responses(rows), "method='mean' needs encoder: pass hf_bkd.sentence_encoder"),
        (lambda rows: aggregate_responses(rows, "inverse_variance", on_the_plane), "needs student: pass generate_"),
        (lambda rows: aggregate_responses(rows, "oracle", on_the_plane), "needs oracle: pass generate_responses"),
        (lambda rows: aggregate_responses(rows, "all", student=rows), "method='all' doesn't take student: omit it"),
        (lambda rows: aggregate_responses(rows, "mean", on_the_plane, variance=1.0), "doesn't take variance: omit"),
        (
            lambda rows: aggregate_responses(rows, "inverse_variance", on_the_plane, student=rows),
            "student holds answers of the same weights by the same seed",
        ),
        (
            lambda rows: aggregate_responses(
                rows, "inverse_variance", on_the_plane, student=by_hand([["a", "b"]], weights="s")
            ),
            "student answers other prompts than the dataset",
        ),
        (
            lambda rows: aggregate_responses(rows, "oracle", on_the_plane, oracle=by_hand(ANSWERS, weights="other")),
            "oracle holds answers of other weights",
        ),
        (lambda rows: aggregate_responses(rows, "single", responses=[4]), r"it is \[4\]: there are 4, numbered from"),
        (lambda rows: aggregate_responses(rows, "single", responses=[]), r"responses must be numbers of answers"),
        (lambda rows: aggregate_responses(rows, "single", responses=3), r"responses must be numbers of answers"),
        (lambda rows: aggregate_responses(rows, "single", responses=[1.0]), r"responses must be numbers of answers"),
        (lambda rows: aggregate_responses(rows, "mean", on_the_plane, responses=[0, 0]), "each once"),
        (lambda rows: aggregate_responses(rows, "mean", "MiniLM"), "encoder is a str, and has to be a function"),
        (lambda rows: aggregate_responses(rows, "mean", bert()), "encoder is a BertModel, and has to be a function"),
        (lambda rows: aggregate_responses(rows, "mean", tokenizer()), "encoder is a .*, and has to be a function"),
        (lambda rows: aggregate_responses(rows, "mean", lambda texts: [[1.0], [1.0, 2.0]]), "no array of numbers"),
        (lambda rows: aggregate_responses(rows.select([]), "mean", on_the_plane), "the dataset is empty"),
        (lambda rows: aggregate_responses(rows.remove_columns("prompt"), "all"), "answers need their column prompt"),
        (lambda rows: aggregate_responses(DatasetDict(train=rows), "all"), "this is a DatasetDict: pass one split"),
        (
            lambda rows: aggregate_responses(rows.map(shorter), "all"),
            "row 0 of column teacher_responses has 3 answers, and the record says 4 to each prompt",
        ),
        (
            lambda rows: aggregate_responses(
                rows, "inverse_variance", on_the_plane, student=by_hand(ANSWERS, weights="s").select([1, 0])
            ),
            "student answers other prompts than the dataset",
        ),
        (
            lambda rows: aggregate_responses(
                rows, "inverse_variance", on_the_plane, student=by_hand(ANSWERS, weights="s"), variance=0.0
            ),
            "variance must be above 0",
        ),
        (lambda rows: aggregate_responses(rows, "mean", lambda texts: torch.ones(2)), r"returned \[2\] for 4 texts"),
        (
            lambda rows: aggregate_responses(rows, "mean", lambda texts: torch.full((len(texts), 2), torch.nan)),
            "embeddings that are no finite numbers",
        ),
        (lambda rows: aggregate_responses(prompts(), "single"), "has no columns teacher_responses and teacher_"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call(by_hand(ANSWERS))


def shorter(row):
    return {"teacher_responses": row["teacher_responses"][:3]}


def test_the_first_of_equally_near_answers_is_taught_whatever_rounding_says():
    made = by_hand([["a", "b"], ["e", "a"], ["d", "c"]])  # two are as far from their mean, and opposite ones have none
    for kind in (torch.float32, torch.float64):
        for sign in (1, -1):
            encoded = lambda texts: on_the_plane(texts).to(kind) * (1 + sign * 3e-8)  # noqa: B023, E731
            assert aggregate_responses(made, "mean", encoded)["response"][:] == [0, 0, 0]


@pytest.mark.parametrize("rows", [prompts(), Dataset.from_dict({"messages": CHATS * 2})])
def test_a_student_learns_the_chosen_answers_and_their_labels(rows, tmp_path):
    teacher = learned(llama(), tokenized(Dataset.from_dict({"text": TEXTS}), tokenizer()), 20).eval()
    made = answered(rows, teacher, 3, max_new_tokens=10)
    chosen = aggregate_responses(made, "mean", sentence_encoder(bert(), tokenizer()))
    labeled = add_soft_labels(
        chosen, DeterministicTeacher(teacher), processing_class=tokenizer(), top_k=8, progress=False
    )
    taught = labeled[0]
    completion = chosen[0]["completion"]
    text = completion if isinstance(completion, str) else completion[0]["content"]
    assert sum(label != -100 for label in taught["labels"]) == len(text) + 1
    args = DistillationTrainingArguments(
        tmp_path, kd_lambda=1.0, num_train_epochs=1, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = DistillationTrainer(llama(3), args, train_dataset=labeled, processing_class=tokenizer())
    assert trainer.train().training_loss > 0


def test_variances_are_what_the_means_really_have_and_an_independent_student_halves_them():
    rows, k, width = 400, 5, 6
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(rows, 1, width))

    def sampled(weights: str) -> tuple[Dataset, dict[str, np.ndarray]]:
        points = truth + rng.normal(size=(rows, k, width))
        texts = [[f"{weights} {row} {number}" for number in range(k)] for row in range(rows)]
        table = {
            text: point for own, at in zip(texts, points, strict=True) for text, point in zip(own, at, strict=True)
        }
        return by_hand(texts, weights=weights), table

    (teacher, of_teacher), (student, of_student) = sampled("teacher"), sampled("student")
    own, other = (
        embedding_estimates(made, lambda texts, at=at: np.stack([at[text] for text in texts]))
        for made, at in ((teacher, of_teacher), (student, of_student))
    )

    def error(mean: torch.Tensor) -> float:
        return float((mean - torch.from_numpy(truth[:, 0])).square().mean())

    assert error(own.embeddings[:, 0]) == pytest.approx(1, rel=0.05)
    assert error(own.mean) == pytest.approx(1 / k, rel=0.06)
    assert own.variance.mean().item() == pytest.approx(1 / k, rel=0.03)
    both = error(combined_means(own.mean, own.variance, other.mean, other.variance))
    assert 1 / k / 2 < both < 1.15 / k / 2  # a little more, as weights are estimated too
