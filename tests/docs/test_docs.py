"""The code on the pages runs, with a small network and a few images in the place of the reader's."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import timm
import torch

import hf_bkd
from hf_bkd import teachers
from hf_bkd.cli import main
from hf_bkd.losses import kl_to_target
from hf_bkd.models.saving import save_network
from hf_bkd.soft_labels import attach, read
from hf_bkd.soft_labels.storage import STORAGES
from hf_bkd.study import Arm
from hf_bkd.teachers.loading import load_teacher
from tests.language.language_helpers import llama, tokenizer
from tests.soft_labels.label_helpers import quiet
from tests.soft_labels.test_problems import KINDS

from . import published
from .conftest import CLASSES, save_like, write_photos
from .pages import ROOT, block, blocks, commands, numbers, run, shape

pytestmark = pytest.mark.usefixtures("blank_pictures")

WHOLE = {
    "quick_start.md": ("digits",), "own_images.md": ("photographs",), "own_texts.md": ("texts",),
    "features.md": ("table", "sound"), "sharing.md": ("photographs", "hub"), "troubleshooting.md": ("numbers",),
    "tables.md": ("table",), "multi_label.md": ("articles",), "regression.md": ("houses",), "tokens.md": ("news",),
    "language.md": ("classifying",),
}  # fmt: skip
COMMANDS = {"language.md": ["evaluate", "label", "distill", "evaluate", "teacher", "label", "label"]}
MEASURES = {"regression.md": {"eval_rmse", "eval_nll", "eval_coverage"}}
SHORT = {command: ["--max_steps", "2", "--use_cpu", "1"] for command in ("teacher", "distill")}
IN_PARTS = {
    "README.md", "gpu.md", "label_format.md", "own_teacher.md", "posteriors.md", "processes.md", "responses.md",
    "several_teachers.md", "students.md", "studies.md", "teachers.md", "temperature_and_lambda.md", "theory.md",
}  # fmt: skip


def test_every_page_with_code_is_run_here():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | {"README.md"}
    assert {page for page in pages if blocks(page)} == WHOLE.keys() | IN_PARTS


def test_pages_say_what_the_published_results_do():
    for page in published.pages():
        assert page.read_text() == published.written(page), "python -m tests.docs.published writes it"
    assert {name for page in published.pages() for name in published.quoted(page)} == published.MADE.keys()


def test_the_reference_has_every_public_name():
    pages = " ".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: hf_bkd\.(\S+)", pages, re.MULTILINE)) | {"CropAndFlip"}  # with its module
    assert set(hf_bkd.__all__) <= shown
    assert hf_bkd.__all__ == sorted(hf_bkd._HOME)


@pytest.mark.parametrize("page", WHOLE)
def test_a_page_that_is_a_program_runs_from_top_to_bottom(quick, page, capsys, request):
    for fixture in WHOLE[page]:
        request.getfixturevalue(fixture)
    world = {}
    for expected, printed in run(page, world, capsys):
        assert list(map(shape, printed)) == list(map(shape, expected))
    measures = MEASURES.get(page, {"eval_accuracy", "eval_nll", "eval_ece"})
    assert measures < world["trainer"].evaluate().keys()


@pytest.mark.parametrize("page", WHOLE)
def test_the_commands_of_a_page_do_the_same(page, capsys, request):
    if page == "tables.md":
        pytest.importorskip("skops")
    for fixture in WHOLE[page]:
        request.getfixturevalue(fixture)
    usual = ["teacher", "label", "distill", "evaluate"]
    assert [words[0] for words in commands(page)] == COMMANDS.get(page, usual)
    for words in commands(page):
        main([*words, *SHORT.get(words[0], [])])
    assert re.search(r"(accuracy|rmse) \d\.\d{4}", capsys.readouterr().out)


@pytest.mark.parametrize(("number", "fixture"), [(0, "photos"), (1, "texts")])
def test_the_readmes_examples_print_what_it_shows(quick, number, fixture, capsys, request):
    request.getfixturevalue(fixture)
    ((expected, printed),) = run("README.md", {}, capsys, number)
    assert list(map(shape, printed)) == list(map(shape, expected))


def test_the_readmes_commands_lead_from_chats_to_a_students_card(chats, capsys):
    save_like("my-llm", "my-small-llm", llama(1))
    words = [each for each in commands("../README.md") if "chats" in each]
    assert [each[0] for each in words] == ["evaluate", "label", "distill", "evaluate"]
    for each in words:
        main([*each, *SHORT.get(each[0], [])])
    assert re.search(r"nll \d\.\d{4}", capsys.readouterr().out)
    card = Path("student/README.md").read_text()
    assert "LORA, rank 8, alpha 16" in card and "of each next token on held-out examples" in card


@pytest.fixture
def trivia(texts, chats):
    Path("trivia").mkdir()
    rows = [json.dumps({"question": f"how many are {n} and {n}", "answer": str(2 * n)}) for n in range(4)]
    Path("trivia", "train.jsonl").write_text("\n".join(rows))


def test_answers_are_sampled_chosen_and_taught_as_the_page_says(quick, trivia, capsys):
    for seed in range(3):
        llama(seed).save_pretrained(f"my-llm-{seed}")
        tokenizer().save_pretrained(f"my-llm-{seed}")
    world = {}
    run("responses.md", world, capsys)
    assert world["chosen"].column_names == ["prompt", "completion", "response"] and len(world["chosen"]) == 4
    assert world["taught"].column_names[3:5] == ["input_ids", "labels"] and len(world["taught"]) == 4
    assert len(world["labeled"]) == 4 and world["estimates"].between.shape == (4,)
    assert len(world["combined"]) == 4 and world["other"].state.global_step == 2


def test_answers_are_sampled_and_taught_by_the_commands_of_the_page(trivia, capsys):
    for words in commands("responses.md"):
        main([*words, *SHORT.get(words[0], [])])
    assert len(datasets.load_from_disk("answers")) == 4 and "student in taught-student" in capsys.readouterr().out


def test_the_page_on_students_loads_them(tmp_path):
    class Network(torch.nn.Linear):
        def __init__(self, width):
            super().__init__(width, CLASSES)

    network, own = timm.create_model("test_resnet", num_classes=CLASSES), Network(64)
    save_network(network, "student")
    save_network(own, "my-student")
    world = {"Network": Network}
    for number in range(len(blocks("students.md"))):
        exec(blocks("students.md")[number].code, world)
    assert torch.equal(world["student"].fc.weight, network.fc.weight) and world["teacher"].num_classes == CLASSES
    assert torch.equal(world["network"].weight, own.weight) and "classify" in world


@pytest.mark.slow
def test_the_numbers_of_the_quick_start_come_out(capsys):
    ((expected, printed),) = run("quick_start.md", {}, capsys)
    np.testing.assert_allclose(numbers(printed), numbers(expected), atol=0.03)


@pytest.mark.slow
def test_the_readmes_numbers_of_images_come_out(capsys):
    write_photos({"train": 600, "validation": 200, "test": 500})
    ((expected, printed),) = run("README.md", {}, capsys, 0)
    np.testing.assert_allclose(numbers(printed), numbers(expected), atol=0.05)


@pytest.mark.parametrize("words", ["make_variational(network", "IVON("])
def test_posteriors_are_trained_as_the_page_says_and_answer(world, words):
    exec(block("posteriors.md", words), world)
    exec(block("teachers.md", "teacher.predict("), world)
    assert world["prediction"].variance.shape == (12, CLASSES)
    assert (world["prediction"].variance > 0).all()


def test_a_student_is_sampled_and_reported_as_the_page_says(world):
    exec(block("posteriors.md", "LangevinTeacher.fit"), world)
    assert world["prediction"].samples.shape == (100, 12, CLASSES)
    assert {"posterior_mean", "map", "credible_sets"} < world["report"].keys()


def test_a_student_knows_it_in_one_pass_and_makes_sets_as_the_page_says(world):
    copies = [copy.deepcopy(world["network"]) for _ in range(2)]
    torch.nn.init.normal_(copies[1].timm_model.fc.weight)
    world["ensemble"] = hf_bkd.EnsembleTeacher([hf_bkd.DeterministicTeacher(each) for each in copies])
    images = world["images"]
    turned = {"image": [image.rotate(90) for image in images["image"]], "label": images["label"][:]}
    others = datasets.Dataset.from_dict(turned, images.features)
    world |= {"dataset": images, "validation": others, "test": images}
    exec(block("posteriors.md", "mean_log_probs=True"), world)
    assert world["epistemic"].shape == (12,) and (world["epistemic"] > 0).all()
    assert isinstance(load_teacher("student")[0], hf_bkd.DirichletStudent)
    exec(block("posteriors.md", "sets_of_student"), world)
    assert world["sets"].shape == (12, CLASSES) and 0 <= world["coverage"] <= 1


def test_teachers_are_cross_fitted_saved_and_loaded_as_the_page_says(world):
    world["fit"] = lambda rest, fold: hf_bkd.DeterministicTeacher(world["network"], temperature=1.0 + fold)
    exec(block("teachers.md", "folds=3"), world)
    assert read(world["labeled"]).provenance["folds"]["number"] == 3
    exec(block("teachers.md", "my-teacher"), world)
    assert isinstance(world["teacher"], hf_bkd.DeterministicTeacher)


def test_the_worked_example_labels_is_saved_and_loaded(world):
    world["train"] = world["images"]
    exec(block("own_teacher.md", "class ShiftTeacher"), world)
    probs = np.array(world["labeled"]["teacher_probs"])
    assert probs.shape == (12, CLASSES)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=2e-3)
    loaded, batch = world["teacher"], {"pixel_values": torch.randn(4, 1, 8, 8)}
    assert type(loaded).__name__ == "ShiftTeacher" and loaded.max_shift == 2
    saved = world["ShiftTeacher"](world["network"], max_shift=2)
    draws = [t.predict(batch, 5, torch.Generator().manual_seed(1)) for t in (saved, loaded)]
    torch.testing.assert_close(draws[0].mean, draws[1].mean, rtol=0, atol=0)
    assert (draws[0].variance > 0).any()


def test_the_worked_example_is_declared_as_a_specification(world, monkeypatch):
    monkeypatch.setitem(teachers.SPECIFICATIONS, "shift", None)  # so that it is removed afterwards
    world["train"] = world["images"]
    exec(block("own_teacher.md", "class ShiftTeacher"), world)
    exec(block("own_teacher.md", "class Shift(TeacherSpec)"), world)
    spec = Arm("shifted", teacher=world["Shift"](max_shift=2)).teacher
    fitted = spec.fit(SimpleNamespace(trained=lambda: hf_bkd.DeterministicTeacher(world["network"])))
    assert (fitted.method, fitted.max_shift, teachers.spec_by_name("shift").max_shift) == ("shift", 2, 1)


@pytest.fixture
def label(world):
    """A way to label three views of each image."""
    views = hf_bkd.Views(hf_bkd.CropAndFlip(padding=2), num_views=3, seed=5)

    def label(**options):
        images, teacher, preprocessor = (world[name] for name in ("images", "teacher", "preprocessor"))
        return hf_bkd.add_soft_labels(
            images, teacher, preprocessor=preprocessor, views=views, progress=False, **options
        )

    return label


@pytest.mark.parametrize("storage", STORAGES)
def test_the_plain_reader_reads_every_storage(label, storage):
    labeled = label(storage=storage, top_k=2)
    hf_bkd.only_soft_labels(labeled).to_parquet("labels.parquet")
    code = block("label_format.md", "pyarrow.parquet")
    assert "hf_bkd" not in code
    exec(code, plain := {})
    probs = read(labeled).probs
    np.testing.assert_allclose(plain["probs"], probs / probs.sum(dim=-1, keepdim=True), rtol=0, atol=1e-6)
    assert plain["probs"].shape == (12, 3, CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_reader_reads_every_kind(quick, kind):
    teacher, dataset, preprocessor, storage = KINDS[kind]
    labeled = quiet(dataset(9), teacher(), preprocessor=preprocessor, **{"storage": "auto"} | storage)
    hf_bkd.only_soft_labels(labeled).to_parquet("labels.parquet")
    exec(block("label_format.md", "pyarrow.parquet"), plain := {})
    labels = read(labeled)
    expected = labels.values if kind.startswith(("multi", "labels", "regr")) else normalized(labels.values)
    np.testing.assert_allclose(plain["probs"][:, 0], expected, rtol=1e-6, atol=1e-6)
    if labels.lengths is not None:
        assert plain["lengths"].to_pylist() == labels.lengths.tolist()


def normalized(probs):
    return probs / probs.sum(dim=-1, keepdim=True)


def test_the_plain_views_are_the_pictures_that_were_labeled(world, label):
    exec(block("label_format.md", "def crop_and_flip"), plain := {"np": np})
    labeled, preprocessor = label(), world["preprocessor"]
    dataset = hf_bkd.BatchedDataset.from_images(labeled, preprocessor)
    for view in range(3):
        dataset.set_epoch(view)
        shown = dataset[list(range(12))]["pixel_values"]
        for row in range(12):
            image = np.asarray(labeled[row]["image"])[:, :, None]
            picture = plain["crop_and_flip"](image, labeled[row]["example_id"], 5, view, padding=2)
            expected = preprocessor.normalize(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])[0]
            torch.testing.assert_close(shown[row], expected, rtol=0, atol=1e-6)


def test_work_goes_on_as_the_page_of_processes_says(world):
    exec(block("processes.md", 'folder="shards"'), world)
    assert read(world["labeled"]).num_classes == CLASSES
    world["trainer"] = hf_bkd.DistillationTrainer(world["student"], world["args"], train_dataset=world["train"])
    exec(block("processes.md", "resume_from_checkpoint"), world)
    assert world["trainer"].state.global_step == 2


def test_labels_and_images_lie_where_the_page_of_gpus_says(world, capsys):
    run("gpu.md", world | {"torch": torch}, capsys)


def test_the_theory_page_computes_what_it_says(world):
    world["torch"] = torch
    for words in ("GaussianMixture", "score_gram", "nearest_student", "adam_floor"):
        exec(block("theory.md", words), world)
    torch.testing.assert_close(world["student"](world["x"]).softmax(dim=-1), world["p"])
    divergence = kl_to_target(world["p"], world["nearest"](world["x"])).mean().item()
    assert world["cost"] == pytest.approx(divergence, rel=0.2)
    assert world["floor"] == pytest.approx(0.002 / 4 * world["variances"].sqrt().sum().item(), rel=1e-4)
    for words in ("score_gram", "conjugate_posterior"):
        exec(block("theory.md", words), world)
    assert 0 < world["floor"] == pytest.approx(0.02 * world["noise"] / 4)
    assert world["cost"].rank > 0 and world["cost"].variance == pytest.approx(0, abs=1e-9)
    assert sum(world["cost"]) == pytest.approx(world["cost"].total)
    theory = world["theory"]
    world |= {"responses": torch.randn(5, 3), "other": theory.average_responses(torch.randn(4, 3))}
    exec(block("theory.md", "inverse_variance_combine"), world)
    assert (world["both"].variance < world["teacher"].variance).all()
    exec(block("theory.md", "lambda_schedule"), world)
    assert world["args"].lambda_schedule == "adaptive"


def test_a_temperature_is_recorded_and_lambda_adapts_as_the_page_says(world):
    page = "temperature_and_lambda.md"
    exec(block(page, "teacher.temperature"), world)
    assert read(world["labeled"]).provenance["temperature"] == 2
    probs = world["teacher_probs"].numpy()
    teacher = {"method": "variational", "num_classes": CLASSES}
    record = {"format": 1, "temperature": 1.0, "tempering": "post_average", "num_samples": 10, "teacher": teacher}
    labeled = attach(world["images"], probs, record | {"dataset": {}}, variance=0.01 * probs)
    world["labeled"] = hf_bkd.BatchedDataset.from_images(labeled, world["preprocessor"])
    exec(block(page, 'lambda_schedule="adaptive"'), world)
    exec(block(page, "DiagnosticsCallback"), world)
    logged = world["trainer"].state.log_history
    assert {"gradient_noise_one_hot", "gradient_noise_stored", "mc_variance", "lambda_hat"} < set(logged[0])


def test_lambda_follows_the_errors_of_cross_fitted_labels_as_the_page_says(world):
    images = datasets.concatenate_datasets([world["images"]] * -(-50 // len(world["images"])))
    options = {"preprocessor": world["preprocessor"], "folds": 3, "progress": False}
    labeled = hf_bkd.add_soft_labels(
        images, fit=lambda rest, fold: hf_bkd.DeterministicTeacher(world["network"]), **options
    )
    world["labeled"] = hf_bkd.BatchedDataset.from_images(labeled, world["preprocessor"])
    exec(block("temperature_and_lambda.md", 'lambda_schedule="bias_aware"'), world)
    world["trainer"].train()
    assert 0 < world["trainer"].state.log_history[-1].get("kd_lambda", 1) <= 1


def test_several_teachers_label_and_are_imported_as_the_page_says(world):
    world |= {
        name: hf_bkd.DeterministicTeacher(world["network"], temperature=t) for name, t in (("wide", 1), ("deep", 2))
    }
    rows = {"accession": ["a", "b"], "label": [0, 1]}
    features = {"accession": datasets.Value("string"), "label": datasets.ClassLabel(num_classes=CLASSES)}
    world["proteins"] = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    world |= {"logits": np.eye(CLASSES)[[1, 0]], "accessions": ["b", "a"]}
    exec(block("several_teachers.md", "MultiTeacher"), world)
    assert {"teacher_probs__wide", "teacher_probs__deep"} < set(world["labeled"].column_names)
    assert world["args"].combine == "mixture"
    exec(block("several_teachers.md", "import_soft_labels"), world)
    assert np.argmax(world["labeled"]["teacher_probs__esm"], axis=1).tolist() == [0, 1]


def test_a_study_of_ones_own_runs_as_the_page_says(desk, monkeypatch):
    few = "--seeds 0 --num_train_epochs 1 --report_to none --arms one-hot,average-entropy-weights"
    monkeypatch.setattr("sys.argv", ["mine", *few.split()])
    count = np.arange(36)
    kinds = {"features": datasets.List(datasets.Value("float32"), length=2), "id": datasets.Value("string")}
    kinds |= {"label": datasets.ClassLabel(num_classes=CLASSES)}
    rows = {"features": np.stack([count % 3, count / 36], axis=1).tolist(), "id": list(map(str, count))}
    rows = datasets.Dataset.from_dict(rows | {"label": (count % 3).tolist()}, datasets.Features(kinds))
    world = {"train": rows, "validation": rows, "test": rows, "ids": rows["id"][:]}
    world |= {"first_logits": np.eye(3)[count % 3], "second_logits": 3 * np.eye(3)[count % 3]}
    code, chosen = block("studies.md", "from hf_bkd.study"), '"prior_precision": (10.0, 100.0)'
    assert chosen in code
    exec(code.replace(chosen, f'{chosen}, "steps": 400, "burn_in": 100'), world)  # short chains
    page = (desk / "runs" / "mine" / "report.md").read_text()
    assert "| average, entropy weights |" in page
    assert "## What the students do not know" in page
