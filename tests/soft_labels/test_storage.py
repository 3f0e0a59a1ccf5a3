"""The codec: what each storage keeps, compared with plain float64 arithmetic, and that nobody loops over rows."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hf_bkd import UserError
from hf_bkd.likelihoods import CATEGORICAL, Bernoulli, Gaussian
from hf_bkd.soft_labels.storage import check_parts, chosen_storage, decode, encode
from tests.soft_labels.label_helpers import STORAGES, some_probs

SIZES = [2, 3, 10, 256, 257]
LABELS, NUMBERS = Bernoulli(), Gaussian()
TINY = 2.0**-40  # of float32 arithmetic, where a bound is met exactly


def hard_cases(classes):
    """Peaked, uniform, with exact zeros, with ties, at the edges of float16, and plain ones: float64 [N, C]."""
    rng = np.random.default_rng(classes)
    one_hot = np.eye(classes)[[0, classes - 1]]
    uniform = np.full((1, classes), 1 / classes)
    peaked = np.full((4, classes), 0.0)
    for row, rest in enumerate([1e-3, 3e-5, 6e-8, 1e-30]):
        peaked[row] = rest / (classes - 1)
        peaked[row, -1] = 1 - rest
    zeros = rng.dirichlet(np.ones(classes), 3) * (rng.random((3, classes)) < 0.5)
    zeros[:, 0] += 1 - zeros.sum(axis=1)
    ties = np.ones((2, classes))
    ties[1, : classes // 2] = 2
    dirichlet = rng.dirichlet(np.full(classes, 0.05), 5)
    cases = [one_hot, uniform, peaked, zeros, ties / ties.sum(axis=1, keepdims=True), dirichlet]
    return np.concatenate([*cases, some_probs(20, classes)])


def there_and_back(probs, storage, top_k=10):
    parts = {part: torch.from_numpy(values) for part, values in encode(probs, storage, top_k).items()}
    check_parts({name: part[:, None] for name, part in parts.items()}, probs.shape[-1])
    found = decode(parts, probs.shape[-1])
    assert found.dtype == torch.float32 and found.shape == probs.shape
    return found.double().numpy()


def kept_of_top_k(probs, k):
    """Plain Python: the k largest, the first of equal ones first, and what is left."""
    order = [sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))[:k] for row in probs]
    kept = np.array([[row[c] for c in chosen] for row, chosen in zip(probs, order, strict=True)])
    return np.array(order), kept, np.clip(probs.sum(axis=1) - kept.sum(axis=1), 0, 1)


def plain_top_k(probs, k):
    order, kept, tail = kept_of_top_k(probs, k)
    kept, tail = kept.astype(np.float16).astype(np.float64), tail.astype(np.float16).astype(np.float64)
    result = np.zeros_like(probs)
    for row in range(len(probs)):
        others = [c for c in range(probs.shape[1]) if c not in set(order[row])]
        result[row, others] = tail[row] / max(len(others), 1)
        result[row, order[row]] = kept[row]
    return result / result.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", SIZES)
class TestAgainstPlainArithmetic:
    def test_float32_is_exact(self, classes):
        probs = hard_cases(classes).astype(np.float32)
        assert np.array_equal(there_and_back(probs, "float32"), probs.astype(np.float64))

    def test_float16_is_within_its_bound(self, classes):
        probs = hard_cases(classes)
        found = there_and_back(probs, "float16")
        assert np.array_equal(found, probs.astype(np.float16).astype(np.float64))
        assert (np.abs(found - probs) <= 2.0**-11 * probs + 2.0**-25).all()

    def test_uint8_is_within_its_bound(self, classes):
        probs = hard_cases(classes)
        stored = encode(probs, "uint8")["probs"]
        assert stored.dtype == np.uint8 and np.array_equal(stored, np.rint(255 * np.sqrt(probs)))
        before = (stored.astype(np.float64) / 255) ** 2
        assert (np.abs(np.sqrt(before) - np.sqrt(probs)) <= 1 / 510 + TINY).all()
        found = there_and_back(probs, "uint8")
        np.testing.assert_allclose(found, before / before.sum(axis=1, keepdims=True), rtol=1e-5, atol=0)
        hellinger = np.sqrt(((np.sqrt(found) - np.sqrt(probs)) ** 2).sum(axis=1) / 2)
        assert (hellinger < np.sqrt(classes) / 360).all()

    @pytest.mark.parametrize("k", [1, 2, 10, 300])
    def test_top_k_is_within_its_bound(self, classes, k):
        probs = hard_cases(classes)
        order, kept, tail = kept_of_top_k(probs, k)
        stored = encode(probs, "top_k", k)
        assert np.array_equal(stored["classes"], order)
        assert stored["classes"].dtype == (np.uint8 if classes <= 256 else np.int32)
        assert np.array_equal(stored["probs"], kept.astype(np.float16))
        assert np.abs(stored["tail"][:, 0] - tail).max() <= 2.0**-11
        found = there_and_back(probs, "top_k", k)
        np.testing.assert_allclose(found, plain_top_k(probs, k), rtol=1e-5, atol=1e-12)
        variation = np.abs(found - probs).sum(axis=1) / 2
        assert (variation <= tail + 2.0**-9).all()

    @pytest.mark.parametrize("storage", STORAGES)
    def test_what_is_read_is_a_distribution(self, classes, storage):
        found = there_and_back(hard_cases(classes), storage, 3)
        exact = storage in ("uint8", "top_k")
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5 if exact else 5e-3)

    @pytest.mark.parametrize("storage", STORAGES)
    def test_views_are_stored_one_by_one(self, classes, storage):
        probs = hard_cases(classes)[:24]
        many = encode(probs.reshape(8, 3, classes), storage, 4)
        alone = encode(probs, storage, 4)
        assert set(many) == set(alone)
        for name, part in alone.items():
            assert np.array_equal(many[name], part.reshape(8, 3, -1))
        tensors = {name: torch.from_numpy(part) for name, part in many.items()}
        check_parts(tensors, classes)
        expected = decode({name: torch.from_numpy(part) for name, part in alone.items()}, classes)
        assert torch.equal(decode(tensors, classes), expected.reshape(8, 3, classes))


class TestWorstCases:
    def test_the_bound_of_uint8_is_reached(self):
        """A root half way between two steps."""
        root = np.arange(0.5, 255) / 255
        probs = np.stack([root**2, 1 - root**2], axis=1)
        stored = encode(probs, "uint8")["probs"] / 255
        assert np.abs(stored - np.sqrt(probs)).max() == pytest.approx(1 / 510, rel=1e-9)

    def test_classes_too_many_and_small_for_uint8_are_refused_and_not_divided_by_zero(self):
        """Below 1 / 510**2 each is stored as zero, and of so many the bounds alone would allow that."""
        parts = {"probs": torch.zeros(1, 1, 300_000, dtype=torch.uint8)}  # as earlier versions wrote them
        with pytest.raises(UserError, match=r"does not sum to one \(sum 0"):
            check_parts(parts, 300_000)

    def test_ties_at_the_last_place_go_to_the_first_classes(self):
        probs = np.array([[0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25]])
        assert encode(probs, "top_k", 2)["classes"].tolist() == [[1, 2], [0, 1]]
        np.testing.assert_allclose(there_and_back(probs, "top_k", 2)[1], 0.25, atol=2e-4)

    def test_the_tail_is_shared_equally(self):
        probs = np.array([[0.5, 0.25, 0.125, 0.125, 0.0]])
        expected = np.array([[0.5, 0.25, *[0.25 / 3] * 3]])
        np.testing.assert_allclose(there_and_back(probs, "top_k", 2), expected, rtol=1e-6)

    def test_the_tail_of_a_sum_above_one_is_not_negative(self):
        probs = np.array([[0.5015, 0.5015, 0.0]])
        assert encode(probs, "top_k", 2)["tail"] == 0
        assert encode(probs, "top_k", 5)["tail"] == 0

    def test_float16_input_is_not_summed_in_float16(self):
        probs = np.full((1, 1000), 1e-3, np.float16)
        tail = encode(probs, "top_k", 10)["tail"].astype(float).item()
        assert tail == pytest.approx(990 * float(np.float16(1e-3)), rel=2**-10)


class TestArguments:
    @pytest.mark.parametrize("storage", ["int8", "", "FLOAT16", None])
    def test_an_unknown_storage_is_refused(self, storage):
        with pytest.raises(UserError, match="it must be one of float16, float32, uint8, top_k"):
            encode(np.ones((1, 2)) / 2, storage)

    @pytest.mark.parametrize("k", [0, -3])
    def test_top_k_below_one_is_refused(self, k):
        with pytest.raises(UserError, match=f"top_k must be a whole number of at least 1, and it is {k}"):
            encode(np.ones((1, 2)) / 2, "top_k", k)


def parts(**values):
    return {name: torch.tensor(value)[:, None] for name, value in values.items()}


HALF = {"probs": [[0.5, 0.25]], "tail": [[0.25]]}
BAD_PARTS = {
    "a class that is not there": (parts(classes=[[0, 4]], **HALF), "names a class outside 0 to 3"),
    "a negative class": (parts(classes=[[-1, 2]], **HALF), "names a class outside 0 to 3"),
    "half a class": (parts(classes=[[0.5, 2.0]], **HALF), "names a class outside 0 to 3"),
    "no class": (parts(classes=[[float("nan"), 2.0]], **HALF), "names a class outside 0 to 3"),
    "a class twice": (parts(classes=[[2, 2]], **HALF), "names a class twice"),
    "a missing tail": (parts(classes=[[0, 1]], probs=[[0.5, 0.25]], tail=[[0.0]]), "does not sum to one .sum 0.75"),
    "a tail of nothing": (
        parts(classes=[[0, 1]], probs=[[0.5, 0.5]], tail=[[float("nan")]]),
        "not a finite number",
    ),
    "a negative tail": (parts(classes=[[0, 1]], probs=[[0.75, 0.5]], tail=[[-0.25]]), "holds a negative"),
    "a tail of no classes": (
        parts(classes=[[0, 1, 2, 3]], probs=[[0.25, 0.25, 0.25, 0.0]], tail=[[0.25]]),
        "leaves something to other classes though it names all of them",
    ),
    "bytes that sum to more": (parts(probs=torch.full((2, 4), 255, dtype=torch.uint8).tolist()), "not sum to one"),
    "zero bytes": ({"probs": torch.zeros(2, 1, 4, dtype=torch.uint8)}, "does not sum to one .sum 0"),
    "full bytes": ({"probs": torch.full((2, 1, 4), 255, dtype=torch.uint8)}, "does not sum to one .sum 4"),
    "bytes beside classes": (
        {"probs": torch.tensor([[[255]]], dtype=torch.uint8), "classes": torch.tensor([[[9]]])} | parts(tail=[[0.0]]),
        "names a class outside",
    ),
}


@pytest.mark.parametrize("what", BAD_PARTS)
def test_parts_that_hold_no_distribution_are_refused(what):
    given, message = BAD_PARTS[what]
    with pytest.raises(UserError, match=f"row 0 of the soft labels .*{message}.*label again"):
        check_parts(given, 4)


def test_the_row_and_the_view_are_named():
    probs = torch.full((5, 3, 4), 0.25)
    probs[2, 1] = 0.5
    probs[4] = 0.5
    with pytest.raises(UserError, match=r"row 2, view 1, of .* does not sum to one \(sum 2, .* 2 such rows"):
        check_parts({"probs": probs}, 4)


@pytest.mark.parametrize("storage", STORAGES)
def test_decoding_takes_a_few_tensor_operations_however_many_rows(storage):
    def operations(rows):
        parts = {name: torch.from_numpy(part) for name, part in encode(some_probs(rows, 1000), storage).items()}
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            decode(parts, 1000)
        return sum(event.count for event in seen.key_averages() if event.key.startswith("aten::"))

    many = operations(512)
    assert many == operations(2)
    assert many < 60


def test_a_distribution_too_flat_for_uint8_is_refused_when_it_is_written():
    flat = np.full((1, 262_144), 1 / 262_144)
    with pytest.raises(UserError, match="less than 1 / 260,100: use float16 or top_k"):
        encode(flat, "uint8")
    assert encode(flat, "float16")["probs"].any()


def labels_and_back(probs, storage):
    parts = {part: torch.from_numpy(values) for part, values in encode(probs, storage, likelihood=LABELS).items()}
    check_parts({name: part[:, None] for name, part in parts.items()}, probs.shape[-1], likelihood=LABELS)
    return parts["probs"], decode(parts, probs.shape[-1], LABELS).double().numpy()


class TestOfLabels:
    """Each probability by itself, over all sizes, both ends and the middles between two steps."""

    STEPS = np.sin((np.arange(255) + 0.5) * np.pi / 510) ** 2
    PROBS = np.concatenate([[0, 1, 1e-30, 6e-8, 1 - 1e-9, 0.5], np.linspace(0, 1, 1001), STEPS])[:, None]

    def test_floats_are_within_their_bounds(self):
        for storage, bound in [("float32", 2.0**-24 * self.PROBS), ("float16", 2.0**-11 * self.PROBS + 2.0**-25)]:
            _, back = labels_and_back(self.PROBS, storage)
            assert (np.abs(back - self.PROBS) <= bound).all()

    def test_bytes_are_within_their_bounds(self):
        stored, back = labels_and_back(self.PROBS, "uint8")
        assert stored.dtype == torch.uint8 and stored.min() == 0 and stored.max() == 255
        angles = np.arcsin(np.sqrt(back.clip(0, 1))) - np.arcsin(np.sqrt(self.PROBS))
        fine = self.PROBS < 0.99  # where float32 is
        assert np.abs(angles[fine]).max() <= np.pi / 1020 + 1e-6
        assert np.abs(back - self.PROBS).max() <= np.pi / 1020 + 1e-6
        assert back[0] == 0 and back[1] == pytest.approx(1, abs=1e-7)

    def test_the_bound_of_bytes_is_nearly_reached(self):
        exact = np.rint(510 / np.pi * np.arcsin(np.sqrt(self.STEPS))) * np.pi / 510
        stored, _ = labels_and_back(self.STEPS[:, None], "uint8")
        assert np.abs(stored[:, 0].numpy() * np.pi / 510 - exact).max() < 1e-12
        assert np.abs(exact - np.arcsin(np.sqrt(self.STEPS))).max() == pytest.approx(np.pi / 1020, rel=1e-9)

    def test_rows_need_no_sum(self):
        for probs in (np.zeros((2, 3)), np.ones((2, 3)), np.full((2, 1), 0.25)):
            for storage in LABELS.storages:
                np.testing.assert_allclose(labels_and_back(probs, storage)[1], probs, atol=2e-3)


class TestOfNumbers:
    def test_floats_are_within_their_bounds(self):
        values = np.concatenate([-(10.0 ** np.arange(-9, 5)), 10.0 ** np.arange(-9, 5), [0, 65504]])[:, None]
        for storage, bound in [("float32", 2.0**-24), ("float16", 2.0**-11)]:
            parts = {"probs": torch.from_numpy(encode(values, storage, likelihood=NUMBERS)["probs"])}
            back = decode(parts, 1, NUMBERS).double().numpy()
            assert (np.abs(back - values) <= bound * np.abs(values) + (storage == "float16") * 2.0**-25).all()

    def test_what_float16_cannot_hold_is_refused(self):
        with pytest.raises(UserError, match="holds numbers up to 65504, and one is 100000: use float32"):
            encode(np.array([[1e5], [0.0]]), "float16", likelihood=NUMBERS)

    def test_what_float16_holds_too_coarsely_is_said(self):
        years = 2000 + np.arange(20)[:, None] / 10
        with pytest.warns(UserWarning, match="more than 1/64 of their standard deviation"):
            encode(years, "float16", likelihood=NUMBERS)

    def test_and_nothing_of_numbers_that_fit(self, recwarn):
        encode(np.random.default_rng(0).normal(size=(50, 3)), "float16", likelihood=NUMBERS)
        encode(np.full((50, 1), 2000.3), "float16", likelihood=NUMBERS)
        assert not recwarn.list


@pytest.mark.parametrize(
    ("likelihood", "storage", "expected"),
    [(CATEGORICAL, "auto", "float16"), (LABELS, "auto", "float16"), (NUMBERS, "auto", "float32")]
    + [(CATEGORICAL, "top_k", "top_k"), (LABELS, "uint8", "uint8"), (NUMBERS, "float16", "float16")],
)
def test_the_storage_is_the_kinds_own_or_the_one_asked_for(likelihood, storage, expected):
    assert chosen_storage(storage, likelihood) == expected
