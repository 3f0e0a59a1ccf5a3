"""How the files beside this were made, with version 0.1.0 (commit 8173ff5); run again it needs that version.

PYTHONPATH=CHECKOUT python make.py
"""

import copy
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import datasets
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_bkd import (
    ClassMap,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    LangevinTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    MultiTeacher,
    OracleTeacher,
    ResidentDataset,
    VariationalTeacher,
    add_soft_labels,
    create_classifier,
    make_variational,
    only_soft_labels,
)

HERE = Path(__file__).resolve().parent
CARDS = Path(os.environ["PYTHONPATH"]) / "model_cards"
RECORD = {"examples": 5, "chosen by": "hand", "validation": {"accuracy": 0.5, "nll": 0.7, "ece": 0.1, "brier": 0.4}}


def reading():
    """The test, whose functions read what is written here."""
    (file,) = HERE.parent.glob("test_saved_by_*.py")
    spec = importlib.util.spec_from_file_location("reading", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SAVED = HERE
    return module


def tiny():
    network = test.Tiny()
    with torch.no_grad():
        network.body[1].running_mean.uniform_(-0.5, 0.5)
        network.body[1].running_var.uniform_(0.5, 2)
    return network.eval()


def cnn():
    network = create_classifier(
        "cnn6_small", 3, label_names=test.NAMES, in_chans=1, image_size=8, mean=[0.5], std=[0.25]
    )
    network.train()
    with torch.no_grad():
        network(pixel_values=torch.randn(16, 1, 8, 8) + 1)
    return network.eval()


def bert(classes: int = 3):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=20, max_position_embeddings=12, num_labels=classes, initializer_range=0.5, **sizes)
    return BertForSequenceClassification(config).eval()


def laplace(network, inputs, structure="kron", link="mc", **settings):
    labels = torch.arange(len(inputs["pixel_values"] if isinstance(inputs, dict) else inputs)) % 3
    batches = [{**inputs, "labels": labels}] if isinstance(inputs, dict) else [(inputs, labels)]
    fitted = LaplaceTeacher.fit(network, batches, batches, structure=structure, link=link, num_samples=5)
    teacher = LaplaceTeacher(network, fitted.curvature, 0.37, link, **settings)
    teacher.record = fitted.record
    return teacher


def text_laplace(network, inputs):
    batches = [{**inputs, "labels": torch.tensor([0, 1, 2, 0])}]
    return LaplaceTeacher.fit(network, batches, structure="diag", link="probit", prior_precision="marginal_likelihood")


def spread(network):
    """Another standard deviation for each weight, and factors of the same size."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("_log_std"):
                parameter.uniform_(-2, 0)
            elif name.endswith(("weight_factor", "bias_factor")):
                parameter.normal_(std=0.5)
    return network.eval()


def given(network):
    """A standard deviation for every parameter, as IVON leaves them."""
    return VariationalTeacher(network, {n: torch.rand_like(p) / 5 + 0.01 for n, p in network.named_parameters()})


def sampled(network, x, **how):
    batches = [(x, torch.arange(len(x)) % 3)]
    return LangevinTeacher.fit(network, batches, batches, chains=2, steps=60, burn_in=20, thinning=5, **how)


def teachers():
    plain, image, text = (test.INPUTS[kind] for kind in ("plain", "image", "text"))
    many = test.points(20)
    yield "plain/deterministic", DeterministicTeacher(tiny(), temperature=1.5)
    for structure, link in (("kron", "mc"), ("kron", "bridge"), ("diag", "probit"), ("full", "mc")):
        yield f"plain/laplace_{structure}_{link}", laplace(tiny(), many, structure, link, temperature=0.8)
    head = spread(make_variational(tiny(), "head", rank=2))
    yield "plain/variational_head", VariationalTeacher(head, temperature=3.0)
    full = spread(make_variational(tiny(), "full", prior_std=0.6, rank=1))
    yield "plain/variational_full", VariationalTeacher(full, tempering="post_average")
    yield "plain/ivon", given(tiny())
    yield "plain/langevin", sampled(tiny(), many)
    yield "plain/langevin_all", sampled(tiny(), many, parameters="all", sampler="sgld")
    yield "plain/dropout", MCDropoutTeacher(tiny(), temperature=2.0)
    members = [DeterministicTeacher(tiny(), 0.5), laplace(tiny(), many), given(tiny())]
    yield "plain/ensemble", EnsembleTeacher(members, 2.0, "per_sample")
    yield "plain/multi", MultiTeacher({"sure": members[0], "broad": members[1]}, "entropy", temperature=1.5)
    yield "plain/class_map", ClassMap(members[1], [4, 0, 4], 5)
    for name, noise in (("exact", {}), ("dirichlet", {"concentration": 4.0}), ("additive", {"variance": 0.01})):
        yield f"oracle/{name}", OracleTeacher(test.mixture(), **noise)
    yield "image/deterministic", DeterministicTeacher.fit(cnn(), [{**image, "labels": torch.arange(3)}])
    yield "image/laplace", laplace(cnn(), image, temperature=1.25, tempering="per_sample")
    yield "image/variational_full", VariationalTeacher(spread(make_variational(cnn(), "full")))
    yield "text/dropout", MCDropoutTeacher(bert())
    yield "text/laplace", text_laplace(bert(), text)
    yield "text/multi", MultiTeacher({"a": given(bert()), "b": ClassMap(DeterministicTeacher(bert(2)), [2, 0], 3)})


def labels():
    def made(who="image/laplace", **how):
        how = {"preprocess": test.PREPROCESS, "progress": False, "seed": 2} | how
        teacher = None if "folds" in how else test.load_teacher(who)
        return add_soft_labels(test.pictures(), teacher, 5, **how)

    folder = HERE / "labels"
    made(storage="float32").save_to_disk(folder / "float32")
    made(storage="float16", views=test.VIEWS).save_to_disk(folder / "views")
    folds = made(folds=3, fit=lambda rest, fold: laplace(cnn(), first_batch(rest)), storage="float16", variance="sum")
    folds.save_to_disk(folder / "folds")
    made("plain/multi", preprocess=test.quadrants).save_to_disk(folder / "several")
    for storage in ("float16", "uint8", "top_k"):
        made(storage=storage, top_k=2).to_parquet(folder / f"{storage}.parquet")
    named = made("image/deterministic", name="calm", storage="uint8")
    named = add_soft_labels(named, test.load_teacher("image/laplace"), 5, preprocess=test.PREPROCESS, name="wild")
    named.to_parquet(folder / "named.parquet")
    only_soft_labels(made(storage="float32")).to_parquet(folder / "alone.parquet")


def first_batch(rows):
    batch = next(iter(ResidentDataset.from_images(rows, test.PREPROCESS, progress=False).batches()))
    return {"pixel_values": batch["pixel_values"]}


def student():
    rows = ResidentDataset.from_images(datasets.load_from_disk(HERE / "labels" / "views"), test.PREPROCESS)
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationTrainingArguments(
            folder, max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to="none", disable_tqdm=True
        )
        trainer = DistillationTrainer(cnn(), args, train_dataset=rows)
        trainer.train()
        trainer.save_model(HERE / "student")
    (HERE / "student" / "training_args.bin").unlink()


def training():
    """Interrupted at step 7, after a checkpoint at step 5; and what it would have been."""
    interrupted = test.trainer(HERE / "training", SCRATCH)
    interrupted.add_callback(test.Interrupt())
    with suppress(KeyboardInterrupt):
        interrupted.train()
    assert [path.name for path in (HERE / "training").iterdir()] == ["checkpoint-5"]
    return test.resumed_training(SCRATCH / "whole training", SCRATCH)


def fit():
    """Interrupted in the third of four epochs, after a checkpoint of the second."""
    folder, logged, log = SCRATCH / "fit", [], DistillationTrainer.log

    def interrupt(self, logs, start_time=None):
        logged.append(logs)
        if len(logged) == 3:
            raise KeyboardInterrupt
        log(self, logs, start_time)

    folder.mkdir()
    test.write_data(folder)
    os.chdir(folder)
    DistillationTrainer.log = interrupt
    with suppress(SystemExit):
        test.command_line(test.fit_arguments())
    DistillationTrainer.log = log
    shutil.copytree("teacher.training", HERE / "teacher.training")
    shutil.rmtree("teacher.training")
    return test.resumed_fit()


def labelling():
    """One finished shard of each teacher or fold is left."""
    found = {}
    for name in ("views", "folds", "several"):
        folder = HERE / "labelling" / name
        whole = test.resumed_labels(name, folder)
        shards = sorted(folder.rglob("*.arrow"))
        for shard in shards:
            if "000001" in shard.name or "000002" in shard.name:
                shard.unlink()
        again = test.resumed_labels(name, Path(shutil.copytree(folder, SCRATCH / name)))
        assert again["probs"] == whole["probs"] and 0 < again["asked"] < whole["asked"]
        found[name] = again
    return found


def study():
    """Without its last arm's record and student, and without results and report."""
    folder = HERE / "study"
    arms = test.resumed_study(folder)
    for name in ("results.json", "report.md", "arms/all/seed-0/laplace.json"):
        (folder / name).unlink()
    for picture in folder.glob("*.png"):
        picture.unlink()
    for arm in ("laplace", "one-hot"):
        shutil.rmtree(folder / "students" / "all" / "seed-0" / arm)
    return arms


def results():
    """Parts of published ones: of students, of teachers, of a posterior, of theory."""
    chosen = {
        "digits": {"one-hot", "deterministic", "Laplace"},
        "teachers_comparison": {"deterministic", "ensemble", "Laplace"},
        "proteins_multi_teacher": {"no teacher", "ESM-2 650M"},
    }
    for name, arms in chosen.items():
        content = json.loads((CARDS / name / "results.json").read_text())
        condition = content["arms"][0]["condition"]
        content["arms"] = [
            {key: value for key, value in arm.items() if key not in ("reliability", "history")}
            for arm in content["arms"]
            if arm["arm"] in arms and arm["condition"] == condition and arm["seed"] < 2
        ]
        assert len(content["arms"]) == 2 * len(arms), name
        write(f"results/{name}/results.json", content)
    content = json.loads((CARDS / "theory_divergence" / "results.json").read_text())
    content["claims"] = [claim | {"figures": []} for claim in content["claims"][:1]]
    titles = [claim["title"] for claim in content["claims"]]
    content["checks"] = [check for check in content["checks"] if check["claim"] in titles]
    write("results/theory_divergence/results.json", content)


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def write(name, content):
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    test = reading()
    SCRATCH = Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    for old in HERE.iterdir():
        if old.name not in ("make.py", "README.md"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    torch.manual_seed(0)
    for name, teacher in teachers():
        teacher.record = teacher.record or copy.deepcopy(RECORD)
        teacher.save_pretrained(HERE / "teachers" / name)
    for card in [*HERE.glob("teachers/*/*/README.md"), *HERE.glob("teachers/*/*/members/**/README.md")]:
        card.unlink()  # nothing reads them
    labels()
    student()
    expected = {"training": training(), "fit": fit(), "labelling": labelling(), "study": study()}
    results()
    names = [str(p.parent.relative_to(HERE / "teachers")) for p in sorted(HERE.glob("teachers/*/*/teacher.json"))]
    expected["teachers"] = {name: test.read_teacher(name) for name in names}
    names = sorted(path.name for path in HERE.glob("labels/*"))
    expected["labels"] = {name: test.read_labels(name, SCRATCH) for name in names}
    expected |= {"views": test.read_views(SCRATCH), "students": test.read_students()}
    reports = sorted(path.name for path in HERE.glob("results/*"))
    expected["reports"] = {
        name: test.report_numbers(Path(shutil.copytree(HERE / "results" / name, SCRATCH / "reports" / name)))
        for name in reports
    }
    write("expected.json", rounded(expected))
    shutil.rmtree(SCRATCH)
    sizes = [file.stat().st_size for file in HERE.rglob("*") if file.is_file()]
    print(f"{len(sizes)} files, {sum(sizes) / 1e3:.0f} kB", file=sys.stderr)
