"""What a shared record, file or image may ask for is bounded, and refused before memory is.

Findings F15, F17 and F18 of the attack on reliability, with their kinds.
"""

import json
import multiprocessing
import resource
from pathlib import Path

import datasets
import pytest

from hf_bkd import UserError, Views
from hf_bkd.hub.transfer import pushing_to, without_tokens
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.utils.files import read_json
from hf_bkd.utils.limits import LIMITS, Limits
from tests.soft_labels.label_helpers import PREPROCESS, RECORD, image_teacher, images, quiet

FORK = multiprocessing.get_context("fork")
SPARE = 400 * 2**20  # bytes beside what the process has
TOP_K = {"classes": [[0, 1]] * 4, "probs": [[0.75, 0.125]] * 4, "tail": [[0.125]] * 4}


def with_record(**record) -> datasets.Dataset:
    """Top-2 labels of four rows, with this record."""
    kinds = {"classes": "int32", "probs": "float16", "tail": "float16"}
    features = {name: datasets.List(datasets.Value(kind)) for name, kind in kinds.items()}
    cells = [{name: TOP_K[name][row] for name in TOP_K} for row in range(4)]
    feature = datasets.ClassLabel(names=[json.dumps(RECORD | record)])
    return datasets.Dataset.from_dict(
        {"teacher_probs": cells, "teacher_provenance": [0] * 4},
        features=datasets.Features({"teacher_probs": features, "teacher_provenance": feature}),
    )


def in_little_memory(call) -> str:
    """How a call ends in a child that may ask for few bytes more than it has."""
    queue = FORK.SimpleQueue()

    def child():
        lines = Path("/proc/self/status").read_text().splitlines()
        used = int(next(line for line in lines if line.startswith("VmSize")).split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE,) * 2)
        try:
            call()
            queue.put("done")
        except UserError as error:
            queue.put(str(error))
        except BaseException as error:
            queue.put(f"RAW {type(error).__name__}: {error}")

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    return "killed" if queue.empty() else queue.get()


def views_of(**transform) -> dict:
    return {"number": 2, "seed": 0, "transforms": [transform]}


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (lambda: read(with_record(teacher={"num_classes": 2**31})).probs, "num_classes=2,147,483,648"),
        (lambda: read(with_record(teacher={"num_classes": 10**12})).probs, "num_classes=1,000,000,000,000"),
        (lambda: read(with_record(teacher={"num_classes": 2**20 + 1})).probs, "num_classes=1,048,577"),
        (lambda: stored_labels(with_record(teacher={"num_classes": 2**31}), None, None), "num_classes=2,147"),
        (lambda: read(with_record(teacher={"num_classes": 4}, views={"number": 2**40})), "num_views=1,099"),
        (lambda: read(with_record(teacher={"num_classes": 4, "num_draws": 2**40})), "num_draws=1,099"),
        (
            lambda: Views.from_dict(views_of(name="RandomResizedCrop", size=30_000)),
            "view_pixels=30,000",
        ),
        (lambda: Views.from_dict(views_of(name="CropAndFlip", padding=10**9)), "padding=1,000,000,000"),
        (lambda: Views.from_dict(views_of(name="CropAndFlip") | {"number": 2**50}), "num_views="),
    ],
)
def test_records_that_ask_for_too_much(call, asked):
    told = in_little_memory(call)
    assert asked in told and "allowed: if you trust it, set hf_bkd.utils.limits.LIMITS." in told, told


def test_a_record_within_the_limits_is_read_in_little_memory():
    assert in_little_memory(lambda: read(with_record(teacher={"num_classes": 2**20})).probs) == "done"


def test_labels_that_become_too_much_when_decoded(monkeypatch):
    monkeypatch.setattr(LIMITS, "label_numbers", 4 * 1000 - 1)
    with pytest.raises(UserError, match="label_numbers=4,000 and at most 3,999 are allowed"):
        assert read(with_record(teacher={"num_classes": 1000})).probs is None


def test_limits_can_be_changed(monkeypatch):
    monkeypatch.setattr(LIMITS, "num_classes", 3)
    with pytest.raises(UserError, match="num_classes=4 and at most 3 are allowed"):
        read(with_record(teacher={"num_classes": 4}))
    monkeypatch.setenv("HF_BKD_MAX_NUM_CLASSES", "5")
    assert Limits().num_classes == 5
    for value in ("0", "-1", "many", ""):
        monkeypatch.setenv("HF_BKD_MAX_NUM_CLASSES", value)
        with pytest.raises(UserError, match=f"must be a whole number above 0, and it is '{value}'"):
            Limits()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 100_000, "asks for json_depth="),
        (b'{"a":' * 100_000, "asks for json_depth="),
        (b"[" * 101 + b"]" * 101, "asks for json_depth=101 and at most 100"),
        (b"\xff\xfe", "is not text in UTF-8: write it again, or delete it"),
        (b"", "holds no JSON"),
        (b"{", "holds no JSON"),
        (b"[]", "must hold a JSON object, and it holds list"),
        (b"null", "must hold a JSON object, and it holds NoneType"),
    ],
)
def test_json_of_every_kind_is_read_or_refused(tmp_path, content, sentence):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_json(tmp_path / "file.json")


def test_json_that_is_large_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot read .*: No such file or directory"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_json(tmp_path)
    (tmp_path / "file.json").write_text('{"a": [1, {"b": null}]}')
    assert read_json(tmp_path / "file.json") == {"a": [1, {"b": None}]}
    monkeypatch.setattr(LIMITS, "json_bytes", 10)
    with pytest.raises(UserError, match="asks for json_bytes=23 and at most 10"):
        read_json(tmp_path / "file.json")


def test_large_images_are_named(monkeypatch):
    monkeypatch.setattr(LIMITS, "image_pixels", 3)
    with pytest.raises(UserError, match="row 0 of column picture holds an image of 2 x 2 pixels, and at most 3 are"):
        quiet(images(), image_teacher(), preprocessor=PREPROCESS)


TOKEN = "hf_" + "Abcd1234" * 4


@pytest.mark.parametrize(
    "text",
    [
        f"401 for {TOKEN}",
        f"https://user:{TOKEN}@huggingface.co/x",
        "https://user:pass%20word@proxy:80/x",
        f"Authorization: Bearer {TOKEN}",
        "authorization: bearer secret.of.other.kind",
        f"?token={TOKEN}&x=1",
        "odd+token/=",
        "odd%2Btoken%2F%3D",
    ],
)
def test_tokens_are_stripped_from_what_is_quoted(text):
    shown = without_tokens(text, "odd+token/=")
    assert "***" in shown
    for secret in (TOKEN, "pass%20word", "secret.of.other.kind", "odd+token", "odd%2Btoken"):
        assert secret not in shown
    with pytest.raises(UserError) as error, pushing_to("me/labels", "odd+token/="):
        raise ValueError(text)
    assert TOKEN not in str(error.value) and "odd+token" not in str(error.value)


def test_what_is_no_token_stays():
    text = "see hf_bkd.soft_labels of https://huggingface.co/datasets/me/hf_bkd_labels"
    assert without_tokens(text) == text
