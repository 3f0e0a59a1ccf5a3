"""Loading, and the parts of a dataset: what comes out, and one sentence for what can't be loaded or split."""

from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_bkd import UserError
from hf_bkd.data.columns import as_image_classification, find_columns
from hf_bkd.data.loading import load_splits
from hf_bkd.data.subsets import few_first, few_shot, stratified_split, with_label_noise

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def numbers(count, start=0):
    return datasets.Dataset.from_dict({"number": list(range(start, start + count))})


def labeled(labels, num_classes=None):
    feature = datasets.ClassLabel(num_classes=num_classes or max(labels) + 1)
    features = datasets.Features({"number": datasets.Value("int64"), "label": feature})
    return datasets.Dataset.from_dict({"number": range(len(labels)), "label": labels}, features=features)


class TestLoading:
    def test_a_folder_of_parquet_files(self, tmp_path):
        numbers(7).to_parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
        numbers(2, 7).to_parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
        numbers(3).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
        splits = load_splits(str(tmp_path), ("train", "test"))
        assert splits["train"]["number"][:] == list(range(9))
        assert splits["test"]["number"][:] == [0, 1, 2]

    def test_a_relative_path(self, tmp_path, monkeypatch):
        numbers(3).to_parquet(tmp_path / "mine" / "train.parquet")
        monkeypatch.chdir(tmp_path)
        for name in ("mine", "./mine", "../" + tmp_path.name + "/mine"):
            assert load_splits(name)["train"]["number"][:] == [0, 1, 2]

    def test_a_path_in_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        numbers(3).to_parquet(tmp_path / "mine" / "train.parquet")
        assert load_splits("~/mine")["train"]["number"][:] == [0, 1, 2]

    def test_what_save_to_disk_wrote(self, tmp_path):
        datasets.DatasetDict(train=numbers(3), test=numbers(2)).save_to_disk(tmp_path / "both")
        splits = load_splits(str(tmp_path / "both"), ("train", "test"))
        assert {name: len(split) for name, split in splits.items()} == {"train": 3, "test": 2}
        numbers(4).save_to_disk(tmp_path / "one")
        assert load_splits(str(tmp_path / "one"), ("train",))["train"]["number"][:] == [0, 1, 2, 3]

    def test_one_saved_split_keeps_its_name(self, tmp_path):
        numbers(4).to_parquet(tmp_path / "data" / "test.parquet")
        load_splits(str(tmp_path / "data"))["test"].save_to_disk(tmp_path / "one")
        assert list(load_splits(str(tmp_path / "one"))) == ["test"]

    def test_a_missing_split_is_named(self, tmp_path):
        numbers(3).to_parquet(tmp_path / "train.parquet")
        with pytest.raises(UserError, match=r"has no split 'test', only train$"):
            load_splits(str(tmp_path), ("train", "test"))

    @pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "../folder", "~/no_such_folder", "a/b/c"])
    def test_a_path_that_does_not_exist(self, name):
        with pytest.raises(UserError, match=f"^there is no folder {name}; pass the path .* or its name on the Hub$"):
            load_splits(name)

    @pytest.mark.parametrize("name", ["uoft-cs/cifar100", "mnist", "no-such/folder"])
    def test_a_hub_that_cannot_be_reached(self, name):
        with pytest.raises(
            UserError,
            match=f"^the Hub could not deliver '{name}' .*; check the name, log in .* or pass a local folder$",
        ):
            load_splits(name)

    def test_folders_without_data(self, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "readme.xyz").write_text("nothing")
        for name in ("empty", "notes"):
            with pytest.raises(UserError, match=rf"^\S*{name} holds no dataset that can be read: .*data files"):
                load_splits(str(tmp_path / name))

    def test_broken_files(self, tmp_path):
        (tmp_path / "parquet").mkdir()
        (tmp_path / "parquet" / "train.parquet").write_bytes(b"not at all")
        (tmp_path / "json").mkdir()
        (tmp_path / "json" / "dataset_dict.json").write_text('{"splits": ["tr')
        (tmp_path / "half").mkdir()
        (tmp_path / "half" / "dataset_dict.json").write_text('{"splits": ["train"]}')
        for name in ("parquet", "json", "half"):
            with pytest.raises(UserError, match=rf"^\S*{name} holds no dataset that can be read: \S") as error:
                load_splits(str(tmp_path / name))
            assert "\n" not in str(error.value)

    @pytest.mark.skipif(not (REAL / "trec").is_dir(), reason="shared/data is not here")
    def test_trec(self):
        splits = load_splits(str(REAL / "trec"), ("train", "test"))
        assert len(splits["test"]) == 500
        assert splits["train"].features["coarse_label"].num_classes == 6

    def test_a_folder_of_several_datasets(self, tmp_path):
        for name in ("yeast", "ecoli"):
            numbers(3).to_parquet(tmp_path / name / "train.parquet")
        configs = "".join(f"- config_name: {name}\n  data_files: {name}/*\n" for name in ("yeast", "ecoli"))
        (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
        with pytest.raises(UserError, match="holds no dataset that can be read: Config name is missing"):
            load_splits(str(tmp_path))


class TestColumns:
    image = datasets.Image()
    label = datasets.ClassLabel(num_classes=2)

    def dataset(self, **features):
        return datasets.Dataset.from_dict({name: [] for name in features}, features=datasets.Features(features))

    @pytest.mark.parametrize("name", ["label", "labels", "fine_label"])
    def test_are_found_whatever_their_names(self, name):
        dataset = self.dataset(coarse_label=self.label, **{name: self.label}, img=self.image)
        assert find_columns(dataset) == ("img", name)
        assert as_image_classification(dataset).features == datasets.Features(image=self.image, label=self.label)

    def test_label_comes_before_fine_label(self):
        assert find_columns(self.dataset(fine_label=self.label, label=self.label, a=self.image)) == ("a", "label")

    def test_no_image_or_no_label(self):
        with pytest.raises(UserError, match="no column of images, only text, label"):
            find_columns(self.dataset(text=datasets.Value("string"), label=self.label))
        with pytest.raises(UserError, match=r"no labels column \(label, labels or fine_label\), only image, kind"):
            find_columns(self.dataset(image=self.image, kind=self.label))

    @pytest.mark.parametrize("kind", ["string", "float32", "bool"])
    def test_labels_that_are_no_class_numbers(self, kind):
        with pytest.raises(
            UserError, match=rf"column label are not class numbers but .*{kind}.*class_encode_column\('la"
        ):
            find_columns(self.dataset(image=self.image, label=datasets.Value(kind)))
        find_columns(self.dataset(image=self.image, label=datasets.Value("uint8")))

    def test_their_rows_stay(self):
        images = [Image.fromarray(np.full((2, 2), i, np.uint8)) for i in range(4)]
        features = datasets.Features(img=self.image, fine_label=self.label, coarse_label=self.label)
        dataset = datasets.Dataset.from_dict(
            {"img": images, "fine_label": [0, 1, 1, 0], "coarse_label": [0, 0, 0, 0]}, features=features
        )
        found = as_image_classification(dataset)
        assert found["label"][:] == [0, 1, 1, 0]
        assert [np.asarray(image)[0, 0] for image in found["image"]] == [0, 1, 2, 3]


class TestParts:
    def test_the_first_few(self):
        assert few_first(numbers(5), 3)["number"][:] == [0, 1, 2]
        assert len(few_first(numbers(5), 9)) == len(few_first(numbers(5), None)) == 5

    @pytest.mark.parametrize("size", [10, 33, 80])
    def test_a_stratified_split_has_every_class_in_proportion(self, size):
        labels = [0] * 50 + [1] * 30 + [2] * 20
        part, rest = stratified_split(labeled(labels), size, seed=3)
        assert sorted(part["number"][:] + rest["number"][:]) == list(range(100))
        assert len(part) == size
        for label, count in Counter(part["label"][:]).items():
            assert abs(count - size * labels.count(label) / 100) <= 1
        assert all(labels[number] == label for number, label in zip(part["number"], part["label"], strict=True))

    def test_a_stratified_split_depends_on_its_seed_alone(self):
        dataset = labeled([0, 1] * 50)
        first, second, other = (stratified_split(dataset, 20, seed)[0]["number"][:] for seed in (0, 0, 1))
        assert first == second != other

    @pytest.mark.parametrize(("labels", "size"), [([0, 1, 2] * 10, 2), ([0, 1, 2] * 10, 28), ([0] * 10 + [1], 4)])
    def test_a_split_that_would_miss_a_class_is_refused(self, labels, size):
        with pytest.raises(UserError, match=f"{len(labels)} examples of .* can't be split into {size} and the rest"):
            stratified_split(labeled(labels), size, seed=0)

    def test_few_shots_of_each_class(self):
        labels = np.random.default_rng(0).permutation([0] * 20 + [1] * 7 + [2] * 5).tolist()
        found = few_shot(labeled(labels), 5, seed=1)
        assert Counter(found["label"][:]) == {0: 5, 1: 5, 2: 5}
        assert len(set(found["number"])) == 15
        assert [labels[number] for number in found["number"]] == found["label"][:]
        assert found["number"][:] == sorted(found["number"])

    def test_few_shots_depend_on_the_seed_and_reach_every_example(self):
        dataset = labeled([0] * 10 + [1] * 10)
        drawn = [tuple(few_shot(dataset, 3, seed)["number"]) for seed in range(40)]
        assert tuple(few_shot(dataset, 3, 0)["number"]) == drawn[0]
        assert len(set(drawn)) > 35
        assert set().union(*drawn) == set(range(20))

    def test_more_shots_than_there_are(self):
        with pytest.raises(UserError, match="class 1 has 3 examples, fewer than the 4 asked for"):
            few_shot(labeled([0] * 9 + [1] * 3 + [2] * 9), 4, seed=0)


class TestLabelNoise:
    rate, classes = 0.3, 5

    def test_replaces_that_share_uniformly(self):
        clean = np.arange(20_000) % self.classes
        noisy, _ = with_label_noise(labeled(clean.tolist()), self.rate, seed=0)
        labels = np.asarray(noisy["label"][:])
        changed = np.mean(labels != clean)
        expected = self.rate * (1 - 1 / self.classes)  # a label may be replaced by itself
        assert abs(changed - expected) < 4 * np.sqrt(expected * (1 - expected) / len(clean))
        shifts = np.bincount((labels - clean)[labels != clean] % self.classes, minlength=self.classes)[1:]
        assert shifts.max() / shifts.min() < 1.15

    def test_bayes_probabilities_are_the_frequencies_of_many_draws(self):
        dataset = labeled([0, 1, 4, 4], self.classes)
        draws = 200
        frequencies = np.zeros((4, self.classes))
        for seed in range(draws):
            noisy, bayes = with_label_noise(dataset, self.rate, seed)
            frequencies[range(4), noisy["label"][:]] += 1 / draws
        assert bayes.dtype == np.float32
        assert (np.abs(frequencies - bayes) < 4 * np.sqrt(bayes * (1 - bayes) / draws)).all()
        assert bayes[0].tolist() == pytest.approx([0.76, 0.06, 0.06, 0.06, 0.06])
        assert bayes[3].argmax() == 4

    def test_keeps_the_rest(self):
        dataset = labeled([0, 1, 2, 3, 4] * 4)
        noisy, bayes = with_label_noise(dataset, self.rate, seed=0)
        assert noisy["number"][:] == list(range(20))
        assert noisy.features["label"] == dataset.features["label"]
        assert bayes.shape == (20, 5)
        assert with_label_noise(dataset, self.rate, seed=0)[0]["label"][:] == noisy["label"][:]
        assert with_label_noise(dataset, self.rate, seed=1)[0]["label"][:] != noisy["label"][:]

    def test_none_and_all(self):
        dataset = labeled([0, 1, 2, 3, 4] * 40)
        clean, certain = with_label_noise(dataset, 0.0, seed=0)
        assert clean["label"][:] == dataset["label"][:]
        assert np.array_equal(certain, np.eye(5)[dataset["label"][:]])
        noisy, uniform = with_label_noise(dataset, 1.0, seed=0)
        assert np.mean(np.asarray(noisy["label"][:]) == np.asarray(dataset["label"][:])) < 0.4
        assert uniform == pytest.approx(0.2)

    @pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
    def test_a_share_outside_zero_to_one_is_refused(self, rate):
        with pytest.raises(UserError, match=f"between 0 and 1, and it is {rate}"):
            with_label_noise(labeled([0, 1]), rate, seed=0)
