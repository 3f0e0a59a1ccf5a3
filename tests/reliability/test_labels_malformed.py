"""Malformed inputs of labeling from Python: each ends in one sentence with row, column and what to do.

The sentences are written out: they are what a user gets.
"""

import io
import zlib

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    UserError,
    Views,
    import_soft_labels,
    join_soft_labels,
    only_soft_labels,
)
from hf_bkd.data.columns import as_classification, class_numbers, find_columns
from hf_bkd.data.loading import load_splits, load_stream
from hf_bkd.data.subsets import check_labeled
from hf_bkd.soft_labels import attach, read
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    RECORD,
    Answer,
    Teacher,
    image_teacher,
    images,
    quiet,
    some_probs,
    text_inputs,
    texts,
)


def undecoded(number: int, content: bytes | None) -> datasets.Dataset:
    """Images of which one has other bytes."""
    cells = images(8).cast_column("picture", datasets.Image(decode=False))["picture"][:]
    cells[number] = None if content is None else {"bytes": content, "path": None}
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"picture": cells, "label": [0] * 8}, features=features)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def bomb() -> bytes:
    """A small file of 40,000 x 40,000 pixels, by its header."""
    content = bytearray(png(Image.new("L", (4, 4))))
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def label_images(dataset, **how):
    return quiet(dataset, image_teacher(), preprocessor=PREPROCESS, batch_size=2, shard_rows=4, **how)


def label_texts(dataset=None, teacher=None, **how):
    return quiet(dataset or texts(), teacher or Teacher(), **{"preprocessor": text_inputs} | how)


def labels_of(values, feature=None):
    feature = feature or datasets.ClassLabel(num_classes=4)
    table = {"x": [[0.0]] * len(values), "label": pa.array(values)}
    dataset = datasets.Dataset(datasets.table.InMemoryTable(pa.table(table)))
    dataset.info.features["label"] = feature
    return dataset


class Odd(Teacher):
    """Answers or describes itself in another way."""

    def __init__(self, answer=None, **described):
        super().__init__()
        self.answer, self.described = answer, described

    def predict(self, inputs, num_samples, generator):
        right = super().predict(inputs, num_samples, generator)
        return right if self.answer is None else self.answer(right)

    def describe(self):
        return {name: value for name, value in (super().describe() | self.described).items() if value is not ...}


def nan_in_row(number):
    """Of the second batch of four rows: called by its number in the dataset."""
    calls = []

    def answer(right):
        calls.append(1)
        if len(calls) == 2:
            right.mean[number] = float("nan")
        return right

    return answer


def imported(values, ids=("text 0", "text 1"), **how):
    return import_soft_labels(texts(2), values, list(ids), "text", **how)


CASES = {
    "no image": lambda: label_images(undecoded(5, None)),
    "no image in views": lambda: label_images(undecoded(5, None), views=Views(CropAndFlip(1), num_views=2)),
    "no image, in memory": lambda: BatchedDataset.from_images(undecoded(5, None), PREPROCESS),
    "no image in folds": lambda: quiet(
        undecoded(5, None), folds=2, fit=lambda *_: image_teacher(), preprocessor=PREPROCESS
    ),
    "corrupt image": lambda: label_images(undecoded(6, b"no image")),
    "empty image": lambda: label_images(undecoded(6, b"")),
    "truncated image": lambda: label_images(undecoded(6, png(Image.effect_noise((64, 64), 9).convert("RGB"))[:900])),
    "decompression bomb": lambda: label_images(undecoded(7, bomb())),
    "corrupt image, in memory": lambda: BatchedDataset.from_images(undecoded(3, b"no image"), PREPROCESS),
    "palette": lambda: label_images(undecoded(2, png(Image.new("P", (2, 2))))),
    "16 bits": lambda: label_images(undecoded(2, png(Image.fromarray(np.zeros((2, 2), np.uint16))))),
    "other size": lambda: label_images(undecoded(3, png(Image.new("RGB", (3, 2))))),
    "other channels": lambda: label_images(undecoded(3, png(Image.new("L", (2, 2))))),
    "empty split": lambda: quiet(texts(0), Teacher(), preprocessor=text_inputs),
    "empty split, in memory": lambda: BatchedDataset.from_images(images(0), PREPROCESS),
    "missing text": lambda: label_texts(
        datasets.Dataset.from_dict({"text": ["a", "b", None, "d"]}), batch_size=4, shard_rows=2
    ),
    "first text missing": lambda: label_texts(datasets.Dataset.from_dict({"text": [None, "b"]})),
    "preprocessor of another column": lambda: label_texts(preprocessor=lambda batch: {"x": batch["sentence"]}),
    "preprocessor of batches of four": lambda: label_texts(
        texts(6),
        preprocessor=lambda b: {"x": text_inputs(b)["x"].reshape(-1, 3) if len(b["text"]) < 3 else 1 / 0},
        batch_size=3,
    ),
    "ragged features": lambda: quiet(datasets.Dataset.from_dict({"x": [[1.0, 2, 3], [1.0]]}), Teacher()),
    "features of another width": lambda: quiet(datasets.Dataset.from_dict({"x": [[1.0, 2.0]] * 4}), Teacher()),
    "texts without a preprocessor": lambda: quiet(texts().remove_columns("number"), Teacher()),
    "NaN in features": lambda: quiet(
        datasets.Dataset.from_dict({"x": [[0.0, 0, 0]] * 5 + [[float("nan"), 0, 0]]}), Teacher(), shard_rows=4
    ),
    "only labels": lambda: quiet(datasets.Dataset.from_dict({"label": [0, 1]}), Teacher()),
    "NaN in an answer": lambda: label_texts(teacher=Odd(nan_in_row(2)), batch_size=4, shard_rows=4),
    "an answer of logits": lambda: label_texts(teacher=Odd(lambda right: Answer(right.mean.log(), None))),
    "an answer of counts": lambda: label_texts(teacher=Odd(lambda right: Answer(right.mean * 7, None))),
    "an answer of another shape": lambda: label_texts(teacher=Odd(lambda right: Answer(right.mean[:, :3], None))),
    "an answer of one row": lambda: label_texts(teacher=Odd(lambda right: Answer(right.mean[:1], None))),
    "negative variance": lambda: label_texts(teacher=Odd(lambda right: Answer(right.mean, -right.variance))),
    "temperature inf": lambda: label_texts(teacher=Odd(temperature=float("inf"))),
    "temperature nan": lambda: label_texts(teacher=Odd(temperature=float("nan"))),
    "temperature 0": lambda: label_texts(teacher=Odd(temperature=0)),
    "temperature hot": lambda: label_texts(teacher=Odd(temperature="hot")),
    "no temperature": lambda: label_texts(teacher=Odd(temperature=...)),
    "no weights": lambda: label_texts(teacher=Odd(weights=...)),
    "num_samples 2.5": lambda: label_texts(num_samples=2.5),
    "num_samples 0": lambda: label_texts(num_samples=0),
    "num_samples True": lambda: label_texts(num_samples=True),
    "num_samples '3'": lambda: label_texts(num_samples="3"),
    "num_samples None": lambda: label_texts(num_samples=None),
    "num_samples nan": lambda: label_texts(num_samples=float("nan")),
    "batch_size -1": lambda: label_texts(batch_size=-1),
    "shard_rows 0": lambda: label_texts(shard_rows=0),
    "top_k 0": lambda: label_texts(storage="top_k", top_k=0),
    "storage int4": lambda: label_texts(storage="int4"),
    "variance all": lambda: label_texts(variance="all"),
    "mixed_precision fp8": lambda: label_texts(mixed_precision="fp8"),
    "folds 1": lambda: quiet(texts(), folds=1, fit=lambda *_: Teacher(), preprocessor=text_inputs),
    "folds 11": lambda: quiet(texts(), folds=11, fit=lambda *_: Teacher(), preprocessor=text_inputs),
    "folds '3'": lambda: quiet(texts(), folds="3", fit=lambda *_: Teacher(), preprocessor=text_inputs),
    "ragged import": lambda: imported([[1.0, 2.0], [1.0]]),
    "import of strings": lambda: imported([["a", "b"], ["c", "d"]]),
    "import of None": lambda: imported(None),
    "import of complex": lambda: imported(np.ones((2, 2), complex)),
    "import of one row": lambda: imported([1.0, 2.0]),
    "import of NaN": lambda: imported([[0.0, 1.0], [float("nan"), 1.0]]),
    "import of one class": lambda: imported([[1.0], [2.0]]),
    "import with ids of lists": lambda: imported(np.ones((2, 2)), ids=(["text 0"], ["text 1"])),
    "import with ids twice": lambda: imported(np.ones((2, 2)), ids=("text 0", "text 0")),
    "import at temperature inf": lambda: imported(np.ones((2, 2)), temperature=float("inf")),
    "import at temperature '2'": lambda: imported(np.ones((2, 2)), temperature="hot"),
    "label out of range": lambda: class_numbers(labels_of([0, 1, 7]), "label"),
    "label -2": lambda: class_numbers(labels_of([0, -2, 1]), "label"),
    "label None": lambda: class_numbers(labels_of([0, 1, None]), "label"),
    "label 0.5": lambda: class_numbers(labels_of([0.5, 1.0], datasets.Value("float64")), "label"),
    "label 'a'": lambda: class_numbers(labels_of(["a", "b"], datasets.Value("string")), "label"),
    "label 10**12": lambda: class_numbers(labels_of([0, 10**12], datasets.Value("int64")), "label"),
    "labels in memory": lambda: BatchedDataset.from_images(
        images(3).remove_columns("label").add_column("label", [0, None, 1]), PREPROCESS
    ),
    "labels of strings in memory": lambda: find_columns(
        images(2).remove_columns("label").add_column("label", ["a", "b"])
    ),
    "labels of a network": lambda: as_classification(
        texts(3).add_column("label", [0, 1, 10**12]), "text", input_column="text"
    ),
    "labels of a network, negative": lambda: as_classification(
        texts(3).add_column("label", [0, 1, -5]), "text", input_column="text"
    ),
    "labels of a network, of floats": lambda: as_classification(
        texts(3).add_column("label", [0.5, 1.5, 1.0]), "text", input_column="text"
    ),
    "unlabeled rows": lambda: check_labeled(datasets.Dataset.from_dict({"label": [0, -1, None]}), "test"),
    "own example_id": lambda: label_texts(texts().add_column("example_id", list(range(10)))),
    "own teacher_variance": lambda: label_texts(texts().add_column("teacher_variance", [0.1] * 10)),
    "an empty name": lambda: load_splits(""),
    "a blank name": lambda: load_stream(" ", "train"),
    "too few rows of labels": lambda: attach(texts(), some_probs(9, 4), RECORD),
    "labels of one number": lambda: attach(texts(), np.ones(10), RECORD),
    "labels of nothing": lambda: attach(texts(), some_probs(10, 4), {}),
    "no labels": lambda: read(texts()),
    "no labels to join": lambda: join_soft_labels(texts(), texts()),
    "labels of no rows of these": lambda: join_soft_labels(texts(prefix="other"), only_soft_labels(label_texts())),
}

SENTENCES = {
    "no image": (
        "row 5 of column picture holds no image: leave such rows out with dataset.filter(lambda row: "
        "row['picture'] is not None)"
    ),
    "no image in views": (
        "row 5 of column picture holds no image: leave such rows out with dataset.filter(lambda row: "
        "row['picture'] is not None)"
    ),
    "no image, in memory": (
        "row 5 of column picture holds no image: leave such rows out with dataset.filter(lambda row: "
        "row['picture'] is not None)"
    ),
    "no image in folds": (
        "row 5 of column picture holds no image: leave such rows out with dataset.filter(lambda row: "
        "row['picture'] is not None)"
    ),
    "corrupt image": (
        "row 6 of column picture holds an image that can't be read (UnidentifiedImageError: cannot identify "
        "image file): mend it, or leave the row out with dataset.select([i for i in range(len(dataset)) if i "
        "!= 6])"
    ),
    "empty image": (
        "row 6 of column picture holds an image that can't be read (UnidentifiedImageError: cannot identify "
        "image file): mend it, or leave the row out with dataset.select([i for i in range(len(dataset)) if i "
        "!= 6])"
    ),
    "truncated image": (
        "row 6 of column picture holds an image that can't be read (OSError: image file is truncated): mend "
        "it, or leave the row out with dataset.select([i for i in range(len(dataset)) if i != 6])"
    ),
    "decompression bomb": (
        "row 7 of column picture holds an image that can't be read (DecompressionBombError: Image size "
        "(1600000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.): "
        "mend it, or leave the row out with dataset.select([i for i in range(len(dataset)) if i != 7])"
    ),
    "corrupt image, in memory": (
        "row 3 of column picture holds an image that can't be read (UnidentifiedImageError: cannot identify "
        "image file): mend it, or leave the row out with dataset.select([i for i in range(len(dataset)) if i "
        "!= 3])"
    ),
    "palette": (
        "row 2: images of mode P can't be read as 8-bit channels: use dataset.cast_column(column, "
        "datasets.Image(mode='RGB')) first"
    ),
    "16 bits": (
        "row 2: images of mode I;16 have more than 8 bits a channel, and would be clipped: scale them with "
        "dataset.map(lambda row: {'image': PIL.Image.fromarray((numpy.asarray(row['image']) / "
        "257).round().astype('uint8'))}), where 257 is for 0 .. 65535 and HIGHEST / 255 for numbers from 0 to HIGHEST"
    ),
    "other size": (
        "the images differ in size or mode ([(3, 2, 2), (3, 2, 3)]): bring them to one size first, or begin "
        "their views with RandomResizedCrop (--augmentation resized_crop); datasets.Image(mode='RGB') brings them to "
        "one mode"
    ),
    "other channels": (
        "row 3: the images differ in size or mode ([(1, 2, 2), (3, 2, 2)]): bring them to one size first, or begin "
        "their views with RandomResizedCrop (--augmentation resized_crop); datasets.Image(mode='RGB') brings them to "
        "one mode"
    ),
    "empty split": "the dataset to label is empty",
    "empty split, in memory": "the dataset of images is empty",
    "missing text": (
        "the preprocessor can't read row 2, where text is missing (AttributeError: 'NoneType' object has no "
        "attribute 'encode'): mend or leave out that row, or pass another preprocessor"
    ),
    "first text missing": (
        "the preprocessor can't read row 0, where text is missing (AttributeError: 'NoneType' object has no "
        "attribute 'encode'): mend or leave out that row, or pass another preprocessor"
    ),
    "preprocessor of another column": (
        "the preprocessor can't read row 0 (KeyError: 'sentence'): mend or leave out that row, or pass "
        "another preprocessor"
    ),
    "preprocessor of batches of four": (
        "the preprocessor can't read rows 0 to 2 together (ZeroDivisionError: division by zero): mend or "
        "leave out that row, or pass another preprocessor"
    ),
    "ragged features": (
        "the columns x are not a network's inputs as they are; pass preprocessor=, a function from rows to "
        "inputs (for images: preprocessor=ImagePreprocessor.for_model(network))"
    ),
    "features of another width": (
        "the teacher can't answer rows 0 to 3 (RuntimeError: The size of tensor a (2) must match the size of "
        "tensor b (3) at non-singleton dimension 1): compare what the preprocessor makes of them with the "
        "inputs that its network takes"
    ),
    "texts without a preprocessor": (
        "the columns text are not a network's inputs as they are; pass preprocessor=, a function from rows "
        "to inputs (for images: preprocessor=ImagePreprocessor.for_model(network))"
    ),
    "NaN in features": (
        "row 5 of the soft labels holds a value that is not a finite number (sum nan, minimum nan, 1 such "
        "rows): pass class probabilities, not logits or counts, and label again"
    ),
    "only labels": (
        "the columns label are not a network's inputs as they are; pass preprocessor=, a function from rows "
        "to inputs (for images: preprocessor=ImagePreprocessor.for_model(network))"
    ),
    "NaN in an answer": (
        "row 6 of the soft labels holds a value that is not a finite number (sum nan, minimum nan, 1 such "
        "rows): pass class probabilities, not logits or counts, and label again"
    ),
    "an answer of logits": (
        "row 0 of the soft labels holds a negative probability (sum -6.048, minimum -2.373, 10 such rows): "
        "pass class probabilities, not logits or counts, and label again"
    ),
    "an answer of counts": (
        "row 0 of the soft labels does not sum to one (sum 7, minimum 0.6522, 10 such rows): pass class "
        "probabilities, not logits or counts, and label again"
    ),
    "an answer of another shape": (
        "the teacher answered with probabilities [10, 3], and for 10 examples of 4 classes they would be "
        "[10, 4]: its num_classes or its predict is wrong"
    ),
    "an answer of one row": (
        "the teacher answered with probabilities [1, 4], and for 10 examples of 4 classes they would be [10, "
        "4]: its num_classes or its predict is wrong"
    ),
    "negative variance": "a variance is negative or no finite number: the teacher's draws must have diverged",
    "temperature inf": "the teacher's temperature must be above 0 and finite, and it is inf",
    "temperature nan": "the teacher's temperature must be above 0 and finite, and it is nan",
    "temperature 0": "the teacher's temperature must be above 0 and finite, and it is 0",
    "temperature hot": "the teacher's temperature must be above 0 and finite, and it is 'hot'",
    "no temperature": ("the teacher's describe() doesn't say its temperature, which the labels' record needs: add it"),
    "no weights": "the teacher's describe() doesn't say its weights, which the labels' record needs: add it",
    "num_samples 2.5": "num_samples must be a whole number of at least 1, and it is 2.5",
    "num_samples 0": "num_samples must be a whole number of at least 1, and it is 0",
    "num_samples True": "num_samples must be a whole number of at least 1, and it is True",
    "num_samples '3'": "num_samples must be a whole number of at least 1, and it is '3'",
    "num_samples None": "num_samples must be a whole number of at least 1, and it is None",
    "num_samples nan": "num_samples must be a whole number of at least 1, and it is nan",
    "batch_size -1": "batch_size must be a whole number of at least 1, and it is -1",
    "shard_rows 0": "shard_rows must be a whole number of at least 1, and it is 0",
    "top_k 0": "top_k must be a whole number of at least 1, and it is 0",
    "storage int4": "storage is 'int4'; it must be one of float16, float32, uint8, top_k, sampled",
    "variance all": "variance is 'all'; it must be one of auto, full, sum, none",
    "mixed_precision fp8": "mixed_precision is 'fp8'; it must be one of None, bf16, fp16",
    "folds 1": "folds must be a whole number of at least 2, and it is 1",
    "folds 11": "folds must be between 2 and the number of rows (10), and it is 11",
    "folds '3'": "folds must be a whole number of at least 2, and it is '3'",
    "ragged import": (
        "values must be an array of numbers, and their rows differ in length: pass a float array [M, C]"
    ),
    "import of strings": "values must be an array of numbers, and they are <U1: pass a float array [M, C]",
    "import of None": "values must be an array of numbers, and they are object: pass a float array [M, C]",
    "import of complex": "values must be an array of numbers, and they are complex128: pass a float array [M, C]",
    "import of one row": (
        "values must be [M, C] or [S, M, C] with an id for each of M; they are [2], and there are 2 ids"
    ),
    "import of NaN": "the values of 1 examples are not finite (the first: row 1)",
    "import of one class": (
        "soft labels must be [rows, classes] or [rows, views, classes] with at least two classes, and these are [2, 1]"
    ),
    "import with ids of lists": "an id is ['text 0'], of type list: pass texts or whole numbers",
    "import with ids twice": "1 of the ids occur more than once (the first: 'text 0')",
    "import at temperature inf": "temperature must be above 0 and finite, and it is inf",
    "import at temperature '2'": "temperature must be above 0 and finite, and it is 'hot'",
    "label out of range": (
        "row 2 of column label has the class number 7, which must be 0 to 3, or -1 for no label: mend the labels"
    ),
    "label -2": (
        "row 1 of column label has the class number -2, which must be 0 to 3, or -1 for no label: mend the labels"
    ),
    "label None": (
        "row 2 of column label has no label: leave such rows out with dataset.filter(lambda row: "
        "row['label'] is not None)"
    ),
    "label 0.5": (
        "the labels in column label are not class numbers but Value('float64'): use "
        "dataset.class_encode_column('label')"
    ),
    "label 'a'": (
        "the labels in column label are not class numbers but Value('string'): use "
        "dataset.class_encode_column('label')"
    ),
    "label 10**12": (
        "row 1 of column label asks for num_classes=1,000,000,000,001 and at most 1,048,576 are allowed: if "
        "you trust it, set hf_bkd.utils.limits.LIMITS.num_classes or the environment variable "
        "HF_BKD_MAX_NUM_CLASSES"
    ),
    "labels in memory": (
        "row 1 of column label has no label: leave such rows out with dataset.filter(lambda row: "
        "row['label'] is not None)"
    ),
    "labels of strings in memory": (
        "the labels in column label are not class numbers but Value('string'): use "
        "dataset.class_encode_column('label')"
    ),
    "labels of a network": (
        "row 2 of column label asks for num_classes=1,000,000,000,001 and at most 1,048,576 are allowed: if "
        "you trust it, set hf_bkd.utils.limits.LIMITS.num_classes or the environment variable "
        "HF_BKD_MAX_NUM_CLASSES"
    ),
    "labels of a network, negative": (
        "row 2 of column label has the class number -5, which must be at least 0, or -1 for no label: mend the labels"
    ),
    "labels of a network, of floats": (
        "the labels in column label are neither class numbers nor names but Value('float64')"
    ),
    "unlabeled rows": "2 of the 3 examples of the split 'test' have no label",
    "own example_id": (
        "the dataset has a column example_id of its own, a name that soft labels need: pass "
        "dataset.rename_column('example_id', 'own_example_id')"
    ),
    "own teacher_variance": (
        "the dataset has a column teacher_variance of its own, a name that soft labels need: pass "
        "dataset.rename_column('teacher_variance', 'own_teacher_variance')"
    ),
    "an empty name": "the name of the dataset is empty: pass a folder, or a name on the Hub",
    "a blank name": "the name of the dataset is empty: pass a folder, or a name on the Hub",
    "too few rows of labels": "9 rows of soft labels were given for a dataset of 10 rows",
    "labels of one number": (
        "soft labels must be [rows, classes] or [rows, views, classes] with at least two classes, and these are [10]"
    ),
    "labels of nothing": (
        "teacher_provenance holds no record of this library (format, temperature, tempering, ...): label "
        "again with add_soft_labels"
    ),
    "no labels": "the dataset has no column teacher_probs; add it with add_soft_labels(dataset, teacher)",
    "no labels to join": "the labels need teacher_probs and example_id, and they have only text, number",
    "labels of no rows of these": (
        "10 of 10 examples have no soft labels (the first ids: 7161479269669700077, 7366020270557418007, "
        "-3687878140706321729): the labels were made for other images, another split or another size; label "
        "these with add_soft_labels"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ends_in_this_sentence(case):
    with pytest.raises(UserError) as error:
        CASES[case]()
    assert str(error.value) == SENTENCES[case]
