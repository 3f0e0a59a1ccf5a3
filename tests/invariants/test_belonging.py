"""Promise 4: a column that does not belong is refused with a sentence that says what is wrong and what to do.

Every case is tried on the two ways into a training: decoded images (`BatchedDataset`), and the trainer's check of a
plain `datasets.Dataset`; texts have the second only.
"""

import json
from typing import NamedTuple

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_bkd import BatchedDataset, DistillationTrainer, DistillationTrainingArguments, ImagePreprocessor, UserError
from hf_bkd.data.columns import is_soft_label_column
from hf_bkd.soft_labels import add_soft_labels
from hf_bkd.soft_labels.reading import SPOT_CHECKED_ROWS, stored_labels

N, NAMES = 40, ["cat", "dog", "eel"]
PREPROCESSOR = ImagePreprocessor((0.5,), (0.25,))
OTHER_EXAMPLES = "soft labels of .* rows.* were made for other examples .*another dataset, split or order; label this"


class Answer(NamedTuple):
    mean: torch.Tensor
    variance: None = None


class Teacher:
    """Says something else of each input, and the same of the same input."""

    def __init__(self, num_classes):
        self.num_classes = num_classes

    def predict(self, inputs, num_samples, generator):
        flat = inputs["pixel_values"].flatten(1)
        return Answer(torch.softmax(flat[:, : self.num_classes] * 3, dim=-1))

    def describe(self):
        return {
            "num_classes": self.num_classes,
            "temperature": 1.0,
            "tempering": "post_average",
            "weights": "none",
        }


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    """A Trainer makes its output folder."""
    monkeypatch.chdir(tmp_path)


def images(seed=0, names=NAMES, number=N):
    arrays = np.random.default_rng(seed).integers(256, size=(number, 4, 4), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [Image.fromarray(array) for array in arrays], "label": np.arange(number) % len(names)}
    return datasets.Dataset.from_dict(rows, features=features)


def texts(seed=0, names=NAMES, number=N):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {"text": [f"text {seed} {i}" for i in range(number)], "label": np.arange(number) % len(names)}
    return datasets.Dataset.from_dict(rows, features=features)


def text_inputs(batch):
    codes = [[ord(letter) / 100 for letter in text.ljust(12)[:12]] for text in batch["text"]]
    return {"pixel_values": torch.tensor(codes)}


def label(dataset, preprocessor=None):
    if preprocessor is None:
        preprocessor = PREPROCESSOR if "image" in dataset.column_names else text_inputs
    classes = dataset.features["label"].num_classes
    return add_soft_labels(dataset, Teacher(classes), 1, preprocessor=preprocessor, progress=False)


def moved(dataset, labeled):
    """``dataset`` with the soft-label columns of ``labeled``, row by row."""
    ours = [name for name in labeled.column_names if is_soft_label_column(name)]
    return datasets.concatenate_datasets([dataset, labeled.select_columns(ours).flatten_indices()], axis=1)


def with_probs(dataset, change):
    probs = np.array(dataset["teacher_probs"][:])
    change(probs)
    feature = datasets.List(datasets.Value("float32"))
    return dataset.remove_columns("teacher_probs").add_column("teacher_probs", probs.tolist(), feature=feature)


def decode(dataset):
    return BatchedDataset.from_images(dataset, PREPROCESSOR, progress=False)


def exchange(dataset):
    """The labels of ``dataset`` for images that were decoded before."""
    plain = dataset.remove_columns([name for name in dataset.column_names if is_soft_label_column(name)])
    return decode(plain).with_soft_labels(dataset)


def check(dataset, allow_unrecorded=False):
    stored_labels(dataset, None, None, allow_unrecorded)


class OfImages(torch.nn.Linear):
    def forward(self, pixel_values):
        return super().forward(pixel_values.flatten(1))


def start_training(dataset, allow_unrecorded=False):
    of_texts = "text" in dataset.column_names
    model, processing = (OfImages(12, 3), text_inputs) if of_texts else (OfImages(16, 3), PREPROCESSOR)
    arguments = DistillationTrainingArguments(
        "output", use_cpu=True, report_to="none", allow_unrecorded_labels=allow_unrecorded
    )
    DistillationTrainer(model, arguments, train_dataset=dataset, processing_class=processing)


WAYS = [(images, decode), (images, exchange), (images, check), (images, start_training), (texts, check)]
each_way = pytest.mark.parametrize(("make", "use"), WAYS, ids=[f"{m.__name__}-{u.__name__}" for m, u in WAYS])


@each_way
class TestRefused:
    def test_labels_of_other_examples(self, make, use):
        with pytest.raises(UserError, match=OTHER_EXAMPLES):
            use(moved(make(), label(make(seed=1))))

    def test_labels_of_another_split(self, make, use):
        parts = make().train_test_split(test_size=0.5, seed=0)
        with pytest.raises(UserError, match=OTHER_EXAMPLES):
            use(moved(parts["train"], label(parts["test"])))

    def test_rows_that_were_shuffled_after_labeling(self, make, use):
        with pytest.raises(UserError, match=OTHER_EXAMPLES):
            use(moved(make().shuffle(seed=0), label(make())))

    def test_labels_that_were_shuffled(self, make, use):
        with pytest.raises(UserError, match=OTHER_EXAMPLES):
            use(moved(make(), label(make()).shuffle(seed=0)))

    def test_two_rows_that_were_exchanged(self, make, use):
        order = [*range(7), 8, 7, *range(9, N)]
        with pytest.raises(UserError, match=r"of 2 of 40 rows.* \(first: row 7\)"):
            use(moved(make().select(order), label(make())))

    def test_labels_without_the_ids_that_came_with_them(self, make, use):
        with pytest.raises(UserError, match="came with a column example_id and it is gone.*: keep it .*or label this"):
            use(moved(make(), label(make()).remove_columns("example_id")))

    def test_classes_in_another_order(self, make, use):
        with pytest.raises(
            UserError, match="for other classes than the dataset's: class 1 is 'dog' there and 'eel' here; label it ag"
        ):
            use(moved(make(names=["cat", "eel", "dog"]), label(make())))

    def test_classes_of_other_names(self, make, use):
        with pytest.raises(UserError, match="class 0 is 'cat' there and 'lion' here; label it again"):
            use(moved(make(names=["lion", "dog", "eel"]), label(make())))

    def test_another_number_of_classes(self, make, use):
        with pytest.raises(
            UserError,
            match="teacher_probs has 3 classes and the dataset's column label has 4: label it with a teacher",
        ):
            use(moved(make(names=[*NAMES, "fox"]), label(make())))

    def test_nan(self, make, use):
        broken = with_probs(label(make()), lambda probs: probs.__setitem__((5, 1), np.nan))
        with pytest.raises(
            UserError, match="row 5 of the soft labels holds a value that is not a finite .*label again"
        ):
            use(broken)

    def test_counts(self, make, use):
        with pytest.raises(
            UserError, match="row 0 of the soft labels does not sum to one .*not logits or counts, and la"
        ):
            use(with_probs(label(make()), lambda probs: probs.__imul__(10)))

    def test_logits(self, make, use):
        with pytest.raises(
            UserError, match="row 0 of the soft labels holds a negative .*not logits or counts, and label"
        ):
            use(with_probs(label(make()), lambda probs: np.log(probs, out=probs)))

    def test_a_record_of_something_else(self, make, use):
        feature = datasets.ClassLabel(names=['{"temperature": "high"}'])
        labeled = label(make()).remove_columns("teacher_provenance")
        with pytest.raises(UserError, match="teacher_provenance holds no record of this library .*: label again"):
            use(labeled.add_column("teacher_provenance", [0] * N, feature=feature))


@each_way
class TestAccepted:
    def test_as_labeled(self, make, use):
        use(label(make()))

    def test_moved_to_the_same_rows(self, make, use):
        use(moved(make(), label(make())))

    @pytest.mark.parametrize(
        "change",
        [
            lambda dataset: dataset.shuffle(seed=0),
            lambda dataset: dataset.select([5, 5, 3, 30]),
            lambda dataset: dataset.filter(lambda row: row["label"] != 1),
            lambda dataset: dataset.sort("label"),
            lambda dataset: dataset.train_test_split(test_size=0.3, seed=0)["train"],
            lambda dataset: datasets.concatenate_datasets([dataset.select(range(25, N)), dataset.select(range(25))]),
            lambda dataset: datasets.concatenate_datasets([dataset, dataset.shuffle(seed=1)]),
            lambda dataset: dataset.map(lambda row: {"length": 1}),
        ],
        ids=["shuffled", "selected", "filtered", "sorted", "split", "halves", "twice", "mapped"],
    )
    def test_rows_that_kept_their_labels(self, make, use, change):
        use(change(label(make())))

    def test_after_disk_and_parquet(self, make, use, tmp_path):
        label(make()).save_to_disk(tmp_path / "disk")
        use(datasets.load_from_disk(tmp_path / "disk"))
        label(make()).to_parquet(tmp_path / "train.parquet")
        use(datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=tmp_path)["train"])


BY_HAND = "teacher_probs has no teacher_provenance, so nobody .*: label with add_soft_labels, or pass allow_unrec"


@pytest.mark.parametrize("use", [check, start_training])
@pytest.mark.parametrize(
    ("make", "place"),
    [(images, lambda dataset: dataset), (texts, lambda dataset: dataset), (images, decode), (images, exchange)],
    ids=["images", "texts", "decoded", "exchanged"],
)
def test_labels_added_by_hand_are_refused_unless_allowed(make, place, use):
    dataset = place(by_hand(make()))
    with pytest.raises(UserError, match=BY_HAND):
        use(dataset)
    use(dataset, allow_unrecorded=True)


def by_hand(dataset):
    return dataset.add_column("teacher_probs", [[0.2, 0.3, 0.5]] * N)


@pytest.mark.parametrize("use", [decode, exchange])
def test_labels_of_images_of_another_size_are_refused(use):
    """Though they have no ids, and so nothing else tells."""
    labeled = label(images())
    record = json.loads(labeled.features["teacher_provenance"].names[0])
    assert record["dataset"]["image_size"] == [1, 4, 4]
    record["dataset"] |= {"image_size": [1, 8, 8], "content_column": None, "identity": None}
    feature = datasets.ClassLabel(names=[json.dumps(record)])
    changed = labeled.remove_columns(["teacher_provenance", "example_id"])
    with pytest.raises(UserError, match=r"made for images of .* \[1, 8, 8\], and these are \[1, 4, 4\]: use"):
        use(changed.add_column("teacher_provenance", [0] * N, feature=feature))


@pytest.mark.parametrize("use", [decode, exchange])
def test_another_normalization_is_refused_with_both(use):
    labeled = label(images(), ImagePreprocessor((0.4,), (0.25,)))
    with pytest.raises(
        UserError,
        match=r"normalized with {'mean': \[0.4\], .*prepared with {'mean': \[0.5\], .*use the same ImagePreprocessor",
    ):
        use(labeled)


def test_labels_of_fewer_rows_are_refused():
    resident = decode(images())
    for dataset in (label(images()).select(range(30)), label(images()).select([0]), images().select(range(30))):
        with pytest.raises(UserError, match=f"labels of {len(dataset)} rows were given for a dataset of {N} rows"):
            resident.with_soft_labels(dataset)


def test_fewer_classes_than_the_labels_that_were_decoded_are_refused():
    """Where the column is called neither label nor labels, so that its name does not tell."""
    dataset = images().cast_column("label", datasets.Value("int64")).add_column("teacher_probs", [[0.5, 0.5]] * N)
    with pytest.raises(
        UserError, match="teacher_probs has 2 classes and the dataset's labels go up to 2: label it with"
    ):
        decode(dataset)


def test_an_image_column_of_another_name_is_recognized():
    check(label(images()).rename_column("image", "picture"))
    with pytest.raises(UserError, match=OTHER_EXAMPLES):
        check(moved(images().shuffle(seed=0), label(images())).rename_column("image", "picture"))


def test_a_text_that_became_tokens_is_accepted():
    check(label(texts()).map(lambda row: {"input_ids": [len(row["text"])]}, remove_columns="text"))


def test_a_large_dataset_is_checked_in_many_places_and_names_its_own_rows():
    number = 3 * SPOT_CHECKED_ROWS + 5
    labeled = label(texts(number=number))
    check(labeled)
    half = number // 2
    wrong = datasets.concatenate_datasets(
        [
            labeled.select(range(half)),
            moved(
                labeled.select_columns(["text", "label"]).select([*range(half + 1, number), half]),
                labeled.select(range(half, number)),
            ),
        ]
    )
    with pytest.raises(UserError, match=r"of \d+ of \d+ rows looked at were made") as error:
        check(wrong)
    first = int(str(error.value).partition("first: row ")[2].partition(")")[0])
    assert half <= first < half + 3
