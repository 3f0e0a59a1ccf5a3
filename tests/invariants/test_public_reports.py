"""Twenty public bug reports about the same work in other libraries, brought here: right, or refused."""

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    LaplaceTeacher,
    UserError,
    add_soft_labels,
    create_classifier,
    import_soft_labels,
)
from hf_bkd.soft_labels import read

from ..properties.texts import CLS, SEP, network_of, numbers_of, tokenizer_of

NAMES = ["cat", "dog", "eel"]
X = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [3.0, 1.0, 0.0]], np.float32)
TEXTS = ["who where", "how", "when why how", "where where who"]
TOKENS = [[CLS, *numbers_of(text), SEP] for text in TEXTS]


def softmax(logits) -> np.ndarray:
    return torch.as_tensor(logits).double().softmax(dim=-1).numpy()


def linear(seed: int = 0, scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(3, 3)
    layer.weight.data = scale * torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 3)).astype("f4"))
    layer.bias.data = torch.tensor([0.5, -0.5, 0.0])
    return layer


def logits_of(layer: nn.Linear) -> np.ndarray:
    return X @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def points(labels=(0, 1, 2, 0)) -> datasets.Dataset:
    rows = datasets.Dataset.from_dict({"x": X.tolist()})
    return (
        rows
        if labels is None
        else rows.add_column("label", list(labels)).cast_column("label", datasets.ClassLabel(names=NAMES))
    )


def texts(labels=(0, 1, 2, 0)) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": TEXTS} | ({} if labels is None else {"label": list(labels)}))


def bert(kind: str = "bert", seed: int = 0):
    """A small network, without dropout so that a loss of its training can be computed by hand."""
    network = network_of(kind, 3, seed, None)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def tokenizer():
    return tokenizer_of(True, pad_token="[PAD]")


def answers(network, tokens=TOKENS) -> np.ndarray:
    with torch.no_grad():
        return softmax(torch.cat([network.eval()(input_ids=torch.tensor([row])).logits for row in tokens]))


def stored(dataset, name=None) -> np.ndarray:
    return read(dataset, name).probs.numpy().reshape(len(dataset), -1)


def labeled(dataset, network, **settings):
    teacher = network if hasattr(network, "predict") else DeterministicTeacher(network)
    return add_soft_labels(dataset, teacher, storage="float32", progress=False, **settings)


def trainer_of(folder, student, rows, **settings) -> DistillationTrainer:
    passed = {name: settings.pop(name) for name in list(settings) if name in PASSED}
    chosen = {"kd_lambda": 1.0, "logging_steps": 1, "per_device_train_batch_size": 4, "max_steps": 1} | settings
    chosen = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"} | chosen
    args = DistillationTrainingArguments(str(folder), **chosen)
    return DistillationTrainer(student, args, train_dataset=rows, **passed)


PASSED = ("eval_dataset", "compute_metrics", "processing_class", "teacher", "data_collator")


def divergence(target: np.ndarray, own: np.ndarray) -> float:
    return float((target * (np.log(target) - np.log(own))).sum(axis=1).mean())


def first_loss(trainer) -> float:
    trainer.train()
    return trainer.state.log_history[0]["loss"]


def test_setfit_320_rows_without_labels(tmp_path):
    """huggingface/setfit#320: distillation asked for labels that unlabeled texts don't have."""
    teacher, student = bert(), bert(seed=1)
    own = answers(student)
    rows = labeled(texts(None), teacher, processing_class=tokenizer())
    trainer = trainer_of(tmp_path, student, rows, processing_class=tokenizer(), eval_dataset=rows)
    assert first_loss(trainer) == pytest.approx(divergence(answers(teacher), own), rel=1e-4)
    assert trainer.predict(rows).predictions.shape == (4, 3)
    with pytest.raises(UserError, match="no row of the evaluation set has a label.*trainer.predict"):
        trainer.evaluate()
    with pytest.raises(UserError, match="no row of the evaluation set has a label"):
        trainer_of(
            tmp_path, student, rows, processing_class=tokenizer(), eval_dataset=rows, eval_strategy="epoch"
        )  # it was said after the first epoch, by an error about eval_loss, or never


def test_setfit_587_probabilities_in_the_order_of_sklearns_head():
    """huggingface/setfit#587: columns of predict_proba stand in the head's sorted order, not in the labels'."""
    features = datasets.ClassLabel(names=["eel", "cat", "dog"])
    rows = datasets.Dataset.from_dict({"id": list("abcd"), "label": [0, 1, 2, 0]}).cast_column("label", features)
    probs = softmax(X)  # by cat, dog, eel
    given = import_soft_labels(rows, probs, list("abcd"), "id", kind="probs", classes=NAMES, storage="float32")
    assert np.allclose(stored(given), probs[:, [2, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("online", [False, True])
def test_textbrewer_22_a_student_without_token_types(online, tmp_path):
    """airaria/TextBrewer#22: the teacher reads token_type_ids, the student's forward doesn't take them."""
    reader = tokenizer_of(True, pad_token="[PAD]", model_input_names=["input_ids", "attention_mask", "token_type_ids"])
    teacher, student = DeterministicTeacher(bert()), bert("distilbert", 1)
    teacher.processing_class = reader
    short = [("who", "how"), ("how", "who"), ("why", "when"), ("where", "why")]
    pairs = datasets.Dataset.from_dict(
        {"premise": [a for a, _ in short], "hypothesis": [b for _, b in short], "label": [0, 1, 2, 0]}
    )
    tokens = [[CLS, *numbers_of(a), SEP, *numbers_of(b), SEP] for a, b in short]
    kinds = torch.tensor([[0, 0, 0, 1, 1]] * 4)
    with torch.no_grad():
        target = softmax(teacher.network(input_ids=torch.tensor(tokens), token_type_ids=kinds).logits)
    own = answers(student, tokens)
    rows = pairs if online else labeled(pairs, teacher)
    settings = {"online_teacher": True, "teacher": teacher} if online else {}
    plain = tokenizer_of(True, pad_token="[PAD]")
    trainer = trainer_of(tmp_path, student, rows, processing_class=plain, **settings)
    assert first_loss(trainer) == pytest.approx(divergence(target, own), rel=1e-4)


@pytest.mark.parametrize("collate", ["padding", "pairs"])
def test_textbrewer_98_batches_of_a_loader(collate):
    """airaria/TextBrewer#98: batches that are no plain dict, as transformers' collators make them."""
    network, reader = bert(), tokenizer()
    rows = [{"input_ids": row, "labels": number} for row, number in zip(TOKENS, (0, 1, 2, 0), strict=True)]
    padding = transformers.DataCollatorWithPadding(reader)

    def pairs(given):
        batch = padding(given)
        return batch, batch.pop("labels")

    loader = DataLoader(rows, batch_size=2, collate_fn=padding if collate == "padding" else pairs)
    dataset = texts()
    settings = {"prior_precision": 1.0, "structure": "full"}
    from_loader = LaplaceTeacher.fit(network, loader, **settings)
    from_rows = LaplaceTeacher.fit(network, dataset, processing_class=reader, **settings)
    inputs = {"input_ids": torch.tensor([TOKENS[0]]), "attention_mask": torch.ones(1, len(TOKENS[0]), dtype=int)}
    assert torch.allclose(from_loader.predict(inputs).mean, from_rows.predict(inputs).mean, atol=1e-5)


def test_knowledge_distillation_pytorch_9_outputs_in_the_order_of_a_shuffled_loader():
    """haitongli/knowledge-distillation-pytorch#9: a teacher's outputs were fetched in another order than the rows."""
    order, layer = [2, 0, 3, 1], linear()
    rows = datasets.Dataset.from_dict({"id": list("abcd"), "x": X.tolist(), "label": [0, 1, 2, 0]})
    fetched = logits_of(layer)[order]
    given = import_soft_labels(rows, fetched, [list("abcd")[row] for row in order], "id", storage="float32")
    assert np.allclose(stored(given), softmax(logits_of(layer)), atol=1e-6)
    shuffled = given.shuffle(seed=1)
    assert np.allclose(stored(shuffled), softmax(np.array(shuffled["x"]) @ layer.weight.detach().numpy().T
                                                 + layer.bias.detach().numpy()), atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("flat", [False, True])
def test_laplace_107_a_single_logit(flat):
    """aleximmer/Laplace#107: a binary classifier of BCEWithLogitsLoss, which has one logit."""
    network = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)) if flat else nn.Linear(3, 1)
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "label": [0, 1, 1, 0]})
    for call in (
        lambda: LaplaceTeacher.fit(network, rows, prior_precision=1.0),
        lambda: labeled(rows, network),
        lambda: labeled(rows.remove_columns("label"), network),
    ):
        with pytest.raises(UserError):
            call()


class Flattened(nn.Module):
    """Two vectors a row, whose answers stand side by side."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.stack([x, -x], dim=1)).flatten(1, 2)


def test_laplace_265_a_head_whose_outputs_are_flattened():
    """aleximmer/Laplace#265: the logits are six, and the last layer's outputs three."""
    network = Flattened()
    with pytest.raises(UserError, match="not what its linear layer"):
        LaplaceTeacher.fit(network, points(), prior_precision=1.0)
    with pytest.raises(UserError, match=r"answered with probabilities \[2, 6\].*3 classes"):
        labeled(points(), network)
    network.num_classes = 6
    with torch.no_grad():
        by_hand = softmax(network(torch.tensor(X)))
    assert np.allclose(stored(labeled(points(None), network)), by_hand, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_laplace_246_networks_of_other_precision(dtype):
    """aleximmer/Laplace#246: a network in double precision gave results in single; and one in half."""
    layer = linear().to(dtype)
    exact = layer(torch.tensor(X, dtype=dtype)).detach()
    assert np.allclose(stored(labeled(points(), layer)), softmax(exact), atol=1e-6)
    teacher = LaplaceTeacher.fit(layer, points(), prior_precision=2.0, structure="full", link="probit")
    inputs = torch.tensor(X, dtype=torch.float64)
    ones = torch.cat([inputs, torch.ones(4, 1, dtype=torch.float64)], dim=1)
    hessian = 2.0 * torch.eye(12, dtype=torch.float64)
    for phi, z in zip(ones, exact.double(), strict=True):
        p = z.softmax(-1)
        hessian += torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(phi, phi))
    cov = torch.linalg.inv(hessian).reshape(3, 4, 3, 4)
    variance = torch.einsum("nd,cdce,ne->nc", ones, cov, ones)
    by_hand = (exact.double() / (1 + torch.pi / 8 * variance).sqrt()).softmax(-1)
    assert torch.allclose(teacher.predict({"input": torch.tensor(X)}).mean.double(), by_hand, atol=2e-3)


@pytest.mark.parametrize("setting", ["output_hidden_states", "output_attentions", "return_dict"])
def test_transformers_20887_outputs_with_hidden_states(setting, tmp_path):
    """huggingface/transformers#20887: output_hidden_states in the config, and evaluation gathered them all."""
    teacher, student = bert(), bert(seed=1)
    for each in (teacher, student):
        each.set_attn_implementation("eager")  # the one that has attentions to return
        setattr(each.config, setting, setting != "return_dict")
    rows = labeled(texts(), teacher, processing_class=tokenizer())
    expected = answers(bert())
    assert np.allclose(stored(rows), expected, atol=1e-5)
    seen = []

    def accuracy(given):
        seen.append(given.predictions)
        return {"accuracy": float((given.predictions.argmax(-1) == given.label_ids).mean())}

    trainer = trainer_of(
        tmp_path, student, rows, processing_class=tokenizer(), eval_dataset=texts(), compute_metrics=accuracy,
        kd_lambda=0.5,
    )  # fmt: skip
    by_hand = answers(bert(seed=1))
    assert trainer.evaluate()["eval_accuracy"] == float((by_hand.argmax(-1) == [0, 1, 2, 0]).mean())
    assert np.allclose(softmax(seen[0]), by_hand, atol=1e-5)
    assert np.allclose(softmax(trainer.predict(texts()).predictions), by_hand, atol=1e-5)


def test_sentence_transformers_2749_several_evaluation_sets(tmp_path):
    """huggingface/sentence-transformers#2749: KeyError 'eval_loss' for the best model of several sets."""
    sets = {"one": points(), "two": points((1, 1, 2, 0))}
    rows = labeled(points(), linear())
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "max_steps": -1}
    settings |= {"num_train_epochs": 3, "kd_lambda": 0.5, "learning_rate": 0.1}
    with pytest.raises(UserError, match="each of several evaluation sets has its own") as refused:
        trainer_of(tmp_path, linear(1), rows, eval_dataset=sets, **settings)
    advice = str(refused.value).partition("metric_for_best_model='")[2].partition("'")[0]
    for name, best in ((advice, min), ("eval_two_nll", min), ("two_accuracy", max)):
        named = trainer_of(tmp_path / name, linear(1), rows, eval_dataset=sets, metric_for_best_model=name, **settings)
        named.train()
        full = f"eval_{name.removeprefix('eval_')}"
        logged = [each[full] for each in named.state.log_history if full in each]
        assert named.state.best_metric == pytest.approx(best(logged))
    for name, given in (("f1", points()), ("one_f1", sets)):
        with pytest.raises(UserError, match="f1', and without compute_metrics an evaluation has (one_)?loss, "):
            trainer_of(tmp_path, linear(1), rows, eval_dataset=given, metric_for_best_model=name, **settings)


@pytest.mark.parametrize("remove", [True, False])
def test_transformers_22119_a_transform_makes_the_inputs(remove, tmp_path):
    """huggingface/transformers#22119: columns that a transform reads were removed before it was called."""
    reader, teacher, student = tokenizer(), bert(), bert(seed=1)

    def tokenized(rows):
        made = dict(reader(rows["text"], padding=True, return_tensors="pt"))
        return made | {name: rows[name] for name in rows if name != "text"}

    own = answers(student)
    rows = labeled(texts(), teacher, processing_class=reader)
    assert np.allclose(stored(rows), answers(teacher), atol=1e-5)
    transformed = labeled(texts().with_transform(tokenized), teacher)
    assert np.allclose(stored(transformed), answers(teacher), atol=1e-5)
    for given in (rows.with_transform(tokenized), transformed):
        trainer = trainer_of(tmp_path, student, given, remove_unused_columns=remove, processing_class=reader)
        state = {name: value.clone() for name, value in student.state_dict().items()}
        assert first_loss(trainer) == pytest.approx(divergence(answers(teacher), own), rel=1e-4)
        student.load_state_dict(state)


def test_transformers_13464_smoothed_labels_are_left_as_they_are(tmp_path):
    """huggingface/transformers#13464: label smoothing changed labels of -100 in place, and metrics read them."""
    seen = []

    def metrics(given):
        seen.append(given.label_ids.copy())
        return {"unlabeled": int((given.label_ids == -100).sum())}

    rows = datasets.Dataset.from_dict({"x": X.tolist(), "label": [0, -100, 2, -100]})
    layer = linear(1)
    trainer = trainer_of(
        tmp_path, layer, labeled(rows, linear()), eval_dataset=rows, compute_metrics=metrics, kd_lambda=0.5,
        label_smoothing_factor=0.3,
    )  # fmt: skip
    evaluated = trainer.evaluate()
    assert seen[0].tolist() == [0, -100, 2, -100] and evaluated["eval_unlabeled"] == 2
    own, target = np.log(softmax(logits_of(layer))), softmax(logits_of(linear()))
    soft = (target * (np.log(target) - own)).sum(axis=1)
    hard = [-(0.7 * own[row, label] + 0.1 * own[row].sum()) for row, label in ((0, 0), (2, 2))]
    by_hand = (
        0.5 * (sum(hard) + soft[0] + soft[2]) + soft[1] + soft[3]
    ) / 4  # rows without a label learn from the soft
    trainer.train()
    logged = next(each for each in trainer.state.log_history if "loss" in each)
    assert logged["loss"] == pytest.approx(by_hand, rel=1e-4)


def test_transformers_39616_metrics_in_metrics(tmp_path):
    """huggingface/transformers#39616: a report of each class by name, with arrays, could not be saved."""

    def metrics(given):
        right = given.predictions.argmax(-1) == given.label_ids
        return {"cat": {"recall": right[:1].mean(), "support": np.int64(1)}, "matrix": np.eye(3), "all": right.mean()}

    rows = labeled(points(), linear())
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "all", "kd_lambda": 0.5}
    trainer = trainer_of(tmp_path, linear(1), rows, eval_dataset=points(), compute_metrics=metrics, **settings)
    trainer.train()
    logged = [each for each in trainer.state.log_history if "eval_all" in each][0]
    assert logged["eval_matrix"] == np.eye(3).tolist()
    assert logged["eval_cat"]["support"] == 1


def test_datasets_5624_a_test_split_whose_labels_are_hidden(tmp_path):
    """huggingface/datasets#5624: GLUE's test split has -1 for every label."""
    hidden = points((-1, -1, -1, -1))
    layer, student = linear(), linear(1)
    assert np.allclose(stored(labeled(hidden, layer)), softmax(logits_of(layer)), atol=1e-6)
    trainer = trainer_of(tmp_path, student, labeled(points(), layer), kd_lambda=0.5)
    assert np.allclose(trainer.predict(hidden).predictions, logits_of(student), atol=1e-5)
    some = trainer.evaluate(points((0, -1, 1, -1)))
    right = logits_of(student)[[0, 2]].argmax(-1) == [0, 1]
    assert some["eval_accuracy"] == pytest.approx(right.mean())
    with pytest.raises(UserError, match="no row of the evaluation set has a label"):
        trainer.evaluate(hidden)
    with pytest.raises(UserError, match="label"):
        LaplaceTeacher.fit(layer, hidden, prior_precision=1.0)


def exif(image: Image.Image, orientation: int) -> datasets.Dataset:
    import io

    settings = Image.Exif()
    settings[274] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=settings)
    return {"bytes": file.getvalue(), "path": None}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("mode", [None, "RGB"])
def test_datasets_6739_photographs_that_a_camera_turned(streamed, mode):
    """huggingface/datasets#6739: images were read without the turn that their EXIF asks for."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype("uint8")
    upright = Image.fromarray(pixels)
    turned = upright.transpose(
        Image.Transpose.ROTATE_90
    )  # the turn by 270 degrees that orientation 6 asks for undoes it
    features = datasets.Features({"image": datasets.Image(mode=mode)})
    rows = datasets.Dataset.from_dict({"image": [exif(upright, 1), exif(turned, 6)]}, features=features)
    network = create_classifier("resnet20_cifar", 3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3).eval()
    normalized = (torch.tensor(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    by_hand = network(pixel_values=normalized).logits.softmax(-1).detach()
    given = rows.to_iterable_dataset() if streamed else rows
    assert np.allclose(stored(labeled(given, network)), by_hand.expand(2, 3), atol=1e-5)


def test_datasets_7880_split_folders_that_became_classes(tmp_path):
    """huggingface/datasets#7880: a folder of train and test without classes has the classes test and train."""
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / "data" / split / f"{number}.png")
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    network = create_classifier("resnet20_cifar", 2, image_size=8, mean=[0.5] * 3, std=[0.5] * 3).eval()
    named = create_classifier(
        "resnet20_cifar", 2, image_size=8, mean=[0.5] * 3, std=[0.5] * 3, label_names=["cat", "dog"]
    )
    with pytest.raises(UserError, match="test, train"):
        labeled(rows, named)
    with pytest.raises(UserError):
        LaplaceTeacher.fit(network, rows, prior_precision=1.0)


def test_torchdistill_333_the_teacher_is_left_as_it_was(tmp_path):
    """yoshitomo-matsubara/torchdistill#333: distillation froze a teacher's weights and set its mode."""
    network = nn.Sequential(linear(), nn.Dropout(0.5), nn.BatchNorm1d(3), linear(2)).train()
    network[0].eval()
    network[3].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [(each.training) for each in network.modules()], [each.requires_grad for each in network.parameters()]
    with torch.no_grad():
        exact = network[3](network[0](torch.tensor(X)) / (1 + 1e-5) ** 0.5)
    teacher = DeterministicTeacher(network)
    rows = labeled(points(), teacher)
    assert np.allclose(stored(rows), softmax(exact), atol=1e-5)
    for settings in ({}, {"online_teacher": True, "teacher": teacher}):
        trainer_of(tmp_path, linear(1), rows if not settings else points(), **settings).train()
    LaplaceTeacher.fit(network, points(), prior_precision=1.0)
    EnsembleTeacher([teacher, teacher]).predict({"input": torch.tensor(X)})
    assert flags == ([each.training for each in network.modules()], [p.requires_grad for p in network.parameters()])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(each.grad is None for each in network.parameters())


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_datasets_1872_a_format_that_hides_columns(kind, tmp_path):
    """huggingface/datasets#1872: columns that were added after set_format are not among those it shows."""
    rows = points()
    rows.set_format(kind, columns=["x"])
    layer, student = linear(), linear(1)
    own = softmax(logits_of(student))
    given = labeled(rows, layer)
    assert np.allclose(stored(given), softmax(logits_of(layer)), atol=1e-6)
    trainer = trainer_of(tmp_path, student, given, kd_lambda=0.5)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["distillation"] == pytest.approx(divergence(softmax(logits_of(layer)), own), rel=1e-4)
    assert logged["cross_entropy"] == pytest.approx(-np.log(own[range(4), [0, 1, 2, 0]]).mean(), rel=1e-4)


def test_pytorch_image_models_2421_a_network_without_its_head(tmp_path):
    """huggingface/pytorch-image-models#2421: reset_classifier(0) kept num_classes; features are no logits."""
    pictures = [Image.fromarray(np.full((32, 32, 3), 60 * number, "uint8")) for number in range(3)]
    rows = datasets.Dataset.from_dict({"image": pictures}, datasets.Features({"image": datasets.Image()}))
    made = timm.create_model("test_resnet", num_classes=0)
    reset = timm.create_model("test_resnet", num_classes=4)
    reset.reset_classifier(0)
    for network in (made, reset):
        for call in (
            lambda network=network: labeled(rows, network),
            lambda network=network: trainer_of(tmp_path, network, rows.add_column("label", [0, 1, 2]), kd_lambda=0.0),
        ):
            with pytest.raises(UserError, match="ResNet was built without a classification head"):
                call()
        network.reset_classifier(num_classes=3)  # as the advice says
        assert stored(labeled(rows, network)).shape == (3, 3)


@pytest.mark.parametrize("part", ["skip", "take", "shuffled"])
def test_accelerate_4080_a_part_of_a_stream_over_epochs(part, tmp_path):
    """huggingface/accelerate#4080: a second epoch of stream.skip(n) ended in an error about its shuffling."""
    layer, student = linear(), linear(1)
    stream = labeled(points(), layer).to_iterable_dataset()
    given = {"skip": stream.skip(2), "take": stream.take(2), "shuffled": stream.shuffle(seed=0).skip(2)}[part]
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 0.0}
    trainer = trainer_of(tmp_path, student, given, **settings)
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    rows = {"skip": [2, 3], "take": [0, 1]}.get(part)
    assert len(losses) == 3
    if rows is not None:
        by_hand = divergence(softmax(logits_of(layer))[rows], softmax(logits_of(student))[rows])
        assert losses == pytest.approx([by_hand] * 3, rel=1e-4)
