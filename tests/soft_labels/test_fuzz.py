"""Whatever a column and its record hold, reading gives distributions or a UserError: ten thousand cases.

Half of them are valid ones in which something was changed, so that they get past the first check.
"""

import contextlib
import copy
import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_bkd import UserError, Views
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.identity import Identity, summarized_ids
from hf_bkd.soft_labels.joining import join_soft_labels
from hf_bkd.soft_labels.layout import Layout
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.soft_labels.record import decode_record, make_record
from hf_bkd.soft_labels.storage import encode
from hf_bkd.soft_labels.writing import _feature_of as feature_of
from tests.soft_labels.label_helpers import PREPROCESS, STORAGES, VIEWS, Teacher, images, some_probs

C = 4


FUZZED = {}


def cases(number):
    return settings(
        max_examples=number, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


def fuzzed(number, *strategies):
    """Below, tried with so many cases; a fiftieth of them in the fast tests."""

    def known(body):
        FUZZED[body.__name__] = (number, strategies, body)
        return body

    return known


numbers = st.one_of(
    st.integers(-2, 7),
    st.sampled_from([2**31, 2**63, 10**400, 0.5, 1.0, float("nan"), float("inf"), -0.0, 1e-320, 1e308]),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5))
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def a_record():
    return make_record(
        Teacher(C).describe(),
        images(),
        num_samples=3,
        seed=0,
        storage="float16",
        identity=Identity(("picture",)),
        preprocessing=PREPROCESS.to_dict(),
        ids=summarized_ids(np.arange(6)),
        image_size=[3, 2, 2],
        views=VIEWS.to_dict(),
    ).to_json()


RECORD = a_record()
PATHS = [(key,) for key in RECORD]
PATHS += [(key, inner) for key, value in RECORD.items() if isinstance(value, dict) for inner in value]
PATHS += [("dataset", "identity", name) for name in ("form", "columns")]
PATHS += [("views", "transforms", 0), ("views", "transforms", 0, "name"), ("views", "transforms", 0, "padding")]


@st.composite
def changed_records(draw):
    """A valid record in which one to three values were replaced, removed or added."""
    record = copy.deepcopy(RECORD)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        part = record
        for key in path[:-1]:
            places = part if isinstance(part, dict) else dict(enumerate(part))  # a list may stand where a dict did
            inner = places.get(key)
            part = inner if isinstance(inner, dict | list) else part
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if not isinstance(part, dict):
            continue
        if what == "replace":
            part[path[-1]] = draw(junk)
        elif what == "remove":
            part.pop(path[-1], None)
        else:
            part[draw(st.text(max_size=5))] = draw(junk)
    return record


@st.composite
def encoded_records(draw):
    """JSON of anything, of a changed record, or of one whose text was cut, doubled or overwritten."""
    text = json.dumps(draw(st.one_of(junk, changed_records(), st.just(RECORD))))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=3)) + text[draw(st.integers(at, len(text))) :]
    return text


value = st.one_of(numbers, st.floats(0, 1), st.none())


@st.composite
def valid_parts(draw):
    """Arrays [N, V * L] of distributions, as they are stored."""
    views, rows = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    probs = some_probs(rows * views, C, seed=draw(st.integers(0, 50))).reshape(rows, views, C)
    parts = encode(probs, draw(st.sampled_from(STORAGES)), top_k=draw(st.integers(1, 5)))
    return views, {name: part.reshape(rows, -1) for name, part in parts.items()}


@st.composite
def changed_parts(draw):
    """Lists of lists in which a few numbers, rows or columns were changed."""
    views, parts = draw(valid_parts())
    found = {name: part.tolist() for name, part in parts.items()}
    for _ in range(draw(st.integers(0, 2))):
        part = found[draw(st.sampled_from(sorted(found)))]
        row = draw(st.integers(0, len(part) - 1))
        what = draw(st.sampled_from(["number", "shorter", "longer", "all longer", "nothing", "junk"]))
        if what == "number" and part[row]:
            part[row][draw(st.integers(0, len(part[row]) - 1))] = draw(value)
        elif what == "shorter" and part[row]:
            part[row] = part[row][:-1]
        elif what == "longer" and part[row]:
            part[row] = [*part[row], draw(value)]
        elif what == "all longer":
            part[:] = [None if r is None else [*r, draw(value)] for r in part]
        elif what == "nothing":
            part[row] = None
        elif part[row]:
            part[row] = draw(st.lists(value, max_size=C))
    return draw(st.sampled_from([views, views, views, 1, 2])), parts, found


def check_distribution(probs, rows, num_classes=C):
    assert probs.dtype == torch.float32 and probs.shape[0] == rows and probs.shape[-1] == num_classes
    assert torch.isfinite(probs).all() and (probs >= 0).all()
    assert ((probs.sum(dim=-1) - 1).abs() <= 5.1e-3).all()


def features_of(kind, text, views=1):
    record = text or json.dumps(RECORD | {"views": {"number": views}})
    return datasets.Features({"teacher_probs": kind, "teacher_provenance": datasets.ClassLabel(names=[record])})


PLAIN = datasets.List(datasets.Value("float16"), length=C)
BYTES = datasets.List(datasets.Value("uint8"), length=C)
TOP = {
    name: datasets.List(datasets.Value(kind), length=length)
    for name, kind, length in (("classes", "uint8", 2), ("probs", "float16", 2), ("tail", "float16", 1))
}
KINDS = [PLAIN, BYTES, TOP, datasets.LargeList(datasets.Value("float32")), datasets.List(datasets.Value("float32"))]
OTHERS = [datasets.Value("float32"), datasets.Image(), {"a": PLAIN}, [datasets.Value("float32")], {"probs": PLAIN}]


@fuzzed(3000, encoded_records(), st.sampled_from(KINDS * 3 + OTHERS), st.booleans())
def any_record(text, kind, with_label):
    features = features_of(kind, text)
    if with_label:
        features["label"] = datasets.ClassLabel(names=["0", "1", "2", "3"])
    try:
        record = decode_record(features["teacher_provenance"])
        layout = Layout.of(features)
    except UserError:
        return
    assert record.to_json()["format"] == 1 and repr(layout.record) == repr(record)  # NaN is not equal to itself
    assert layout.num_views >= 1 and layout.num_classes >= 0
    assert record.num_views >= 1 and (record.draws is None or isinstance(record.draws, int))
    with contextlib.suppress(UserError):
        record.shown_views()


@fuzzed(1000, st.one_of(junk, changed_records().map(lambda record: record.get("views"))))
def any_record_of_views(record):
    try:
        views = Views.from_dict(record)
    except UserError:
        return
    assert Views.from_dict(views.to_dict()) == views


@fuzzed(3500, changed_parts(), st.booleans())
def any_rows_one_by_one(drawn, as_arrays):
    views, parts, found = drawn
    kind = {"uint8": "uint8"}.get(str(parts["probs"].dtype), "float32")
    feature = {name: datasets.List(datasets.Value(kind)) for name in parts} if len(parts) > 1 else None
    layout = Layout.of(features_of(feature or datasets.List(datasets.Value(kind)), None, views))
    rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    rows = rows if len(parts) > 1 else [row["probs"] for row in rows]
    if as_arrays and len(parts) == 1:
        rows = [row if row is None or None in row else np.asarray(row) for row in rows]
    try:
        probs = layout.of_rows(rows)
    except UserError:
        return
    check_distribution(probs, len(rows))


@fuzzed(
    500, st.lists(st.one_of(junk, st.dictionaries(st.sampled_from(["probs", "tail", "classes"]), junk)), min_size=1)
)
def any_rows_of_anything(rows):
    for kind in (PLAIN, BYTES, TOP):
        try:
            check_distribution(Layout.of(features_of(kind, None)).of_rows(rows), len(rows))
        except UserError:
            continue


def as_arrow(values, dtype, fixed):
    kind = pa.from_numpy_dtype(dtype)
    width = len(values[0] or [])
    fixed = fixed and width and all(row is not None and len(row) == width for row in values)
    return pa.array(values, pa.list_(kind, width) if fixed else pa.list_(kind))


@fuzzed(
    2000,
    changed_parts(),
    st.sampled_from([None, np.float64, np.float32, np.int64, np.uint8, np.uint16]),
    st.booleans(),
    st.one_of(st.none(), encoded_records()),
)
def any_columns(drawn, dtype, fixed, text):
    """Read whole, checked for a training, and joined."""
    views, parts, found = drawn
    try:
        arrays = {name: as_arrow(rows, dtype or parts[name].dtype, fixed) for name, rows in found.items()}
    except (pa.ArrowException, OverflowError, TypeError):
        return  # which no column can hold
    rows = len(found["probs"])
    dataset = dataset_of(arrays, text, views)
    try:
        labels = read(dataset)
    except UserError:
        labels = None
    if labels is not None:
        check_distribution(labels.probs, rows, labels.num_classes)
    for use in (lambda: stored_labels(dataset, None, C), lambda: stored_labels(dataset.to_iterable_dataset(), 2.0, C)):
        try:
            use()
        except UserError:
            continue


def dataset_of(arrays, text, views):
    column = pa.StructArray.from_arrays(list(arrays.values()), list(arrays)) if len(arrays) > 1 else arrays["probs"]
    table = pa.table({"teacher_probs": column, "teacher_provenance": pa.array([0] * len(column), pa.int64())})
    features = features_of(feature_of_any(column.type), text, views)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def feature_of_any(kind):
    if pa.types.is_struct(kind):
        return {field.name: feature_of_any(field.type) for field in kind}
    if pa.types.is_list(kind):
        return datasets.List(feature_of(kind.value_type))
    return feature_of(kind)


@pytest.mark.parametrize("share", [0.02, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("what", FUZZED)
def test(what, share):
    number, strategies, body = FUZZED[what]
    cases(int(share * number))(given(*strategies)(body))()


def test_the_fuzzer_reaches_what_is_accepted():
    """Unchanged, each of its cases is read."""

    @cases(30)
    @given(valid_parts())
    def accepted(drawn):
        views, parts = drawn
        arrays = {name: as_arrow(part.tolist(), part.dtype, True) for name, part in parts.items()}
        column = (
            pa.StructArray.from_arrays(list(arrays.values()), list(arrays)) if len(arrays) > 1 else arrays["probs"]
        )
        rows = len(parts["probs"])
        table = pa.table({"teacher_probs": column, "teacher_provenance": pa.array([0] * rows, pa.int64())})
        features = features_of(feature_of_any(column.type), None, views)
        check_distribution(read(datasets.Dataset(table, info=datasets.DatasetInfo(features=features))).probs, rows)

    accepted()


@pytest.mark.parametrize("ids", [[None, 1], [1.5, 2.5], ["a", "b"]])
def test_ids_that_are_none_are_no_examples(ids):
    probs = {"teacher_probs": [[0.25] * 4] * 2, "example_id": ids}
    with pytest.raises(UserError):
        join_soft_labels(images(2), datasets.Dataset.from_dict(probs), allow_unrecorded=True)
