"""The whole chain of commands through a Hub: each shares what it made, and the next one reads it from there."""

import numpy as np
from huggingface_hub import ModelCard

from hf_bkd.cli import main

QUICK = "--use_cpu --disable_tqdm 1 --num_train_epochs 3 --learning_rate 0.03 --license cc-by-4.0"


def test_teacher_labels_student_and_measures(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, number in (("train.csv", 90), ("held_out.csv", 30)):
        kinds = np.arange(number) % 3
        values = rng.normal(size=(number, 2)).round(3) + 4 * np.eye(3)[kinds, :2]
        rows = [f"{a},{b},{['x', 'y', 'z'][kind]}" for (a, b), kind in zip(values, kinds, strict=True)]
        (tmp_path / name).write_text("\n".join(["a,b,label", *rows]) + "\n")

    def run(line: str) -> list[str]:
        main([*line.split(), *("" if line.startswith(("label", "evaluate")) else QUICK).split()])
        return capsys.readouterr().out.strip().splitlines()

    teacher, labels, student = (f"tester/chain-{name}" for name in ("teacher", "labels", "student"))
    fit = "teacher fit --method deterministic --model mlp-8 --dataset train.csv --output_dir teacher"
    assert run(f"{fit} --push_to_hub {teacher} --private")[-1] == f"pushed: {hub.address}/{teacher}"
    assert hub.repos["models", teacher].private
    labeled = f"label --teacher {teacher} --dataset train.csv --output_dir labels"
    assert run(f"{labeled} --push-to-hub={labels}")[-1] == f"pushed: {labels}"
    distilled = f"distill --student mlp-4 --dataset {labels} --eval_dataset held_out.csv --output_dir student"
    distilled += f" --push_to_hub --hub_model_id {student}"
    assert run(distilled)[-1].startswith("pushed: ")
    assert run(distilled)[0].startswith("student is finished")
    measured = run(f"evaluate {student} --dataset held_out.csv --push_to_hub")
    assert measured[-1].startswith("pushed: ")
    card = ModelCard.load(student)
    accuracy = next(float(value) for name, value in [measured[1].split()[:2]] if name == "accuracy")
    results = [each for each in card.data.eval_results if each.metric_type == "accuracy"]
    assert accuracy == round(next(each.metric_value for each in results if each.dataset_split == "train"), 4)
    assert card.data.license == "cc-by-4.0" and "model.safetensors" in hub.head(student).files
