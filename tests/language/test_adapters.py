"""Ensembles of a language model's adapters: one base model in memory, adapters alone on disk, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from hf_bkd import (
    DeterministicTeacher,
    EnsembleTeacher,
    MCDropoutTeacher,
    MultiTeacher,
    Teacher,
    VariationalTeacher,
    add_soft_labels,
)
from hf_bkd.models.adapters import sharing
from hf_bkd.teachers.loading import load_teacher
from hf_bkd.utils.errors import UserError

from .language_helpers import llama, texts, tokenizer

INPUTS = {"input_ids": torch.arange(2, 14).view(2, 6)}
LARGER = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3}


def adapted(base: torch.nn.Module, seed: int = 0, **settings) -> PeftModel:
    """The base model with a random adapter that changes its answers."""
    torch.manual_seed(seed)
    settings = {"r": 1, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    network = get_peft_model(sharing(base), LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    return network.eval()


@pytest.fixture
def base(tmp_path) -> torch.nn.Module:
    llama(**LARGER).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base")


@pytest.fixture
def folders(base, tmp_path) -> list[Path]:
    """Five adapters, as PEFT saves them."""
    for seed in range(5):
        adapted(base, seed).save_pretrained(tmp_path / f"adapter-{seed}")
    return [tmp_path / f"adapter-{seed}" for seed in range(5)]


def size(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


def weights_in_memory(teacher: EnsembleTeacher) -> int:
    """The bytes that the weights of all members take, each counted once."""
    seen = {each.data_ptr(): each.nbytes for member in teacher.members for each in member.network.parameters()}
    return sum(seen.values())


def test_the_average_of_adapters_is_that_of_networks_of_their_own(folders, tmp_path):
    teacher = EnsembleTeacher.from_adapters(folders)
    probs = []
    for folder in folders:
        own = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), folder).eval()
        with torch.no_grad():
            probs.append(own(**INPUTS).logits.softmax(dim=-1))
    answer = teacher.predict(INPUTS)
    torch.testing.assert_close(answer.mean, torch.stack(probs).mean(dim=0))
    torch.testing.assert_close(answer.variance, torch.stack(probs).var(dim=0))
    assert answer.variance.max() > 1e-3 and teacher.num_draws(10) == 5


def test_the_base_model_is_in_memory_once_and_five_adapters_add_less_than_a_twentieth_to_the_disk(folders, tmp_path):
    teacher = EnsembleTeacher.from_adapters(folders)
    teacher.save_pretrained(tmp_path / "teacher")
    own = sum(each.nbytes for each in teacher.network.parameters() if each.requires_grad is False)
    whole = sum(each.nbytes for each in AutoModelForCausalLM.from_pretrained(tmp_path / "base").parameters())
    for each in (teacher, Teacher.from_pretrained(tmp_path / "teacher")):
        one = weights_in_memory(EnsembleTeacher(each.members[:1])) - whole
        assert 0 < one < own and weights_in_memory(each) == whole + 5 * one
    assert 0 < size(tmp_path / "teacher", "*.safetensors") < 0.05 * size(tmp_path / "base", "*.safetensors")
    assert not list((tmp_path / "teacher").rglob("tokenizer.json"))


def test_a_tokenizer_that_is_not_the_base_models_is_saved_once(folders, tmp_path):
    own = tokenizer(template="{{ messages[0]['content'] }}")
    for folder in folders[:2]:
        own.save_pretrained(folder)
    teacher = EnsembleTeacher.from_adapters(folders[:2])
    teacher.save_pretrained(tmp_path / "teacher")
    assert len(list((tmp_path / "teacher").rglob("tokenizer.json"))) == 1
    for member in Teacher.from_pretrained(tmp_path / "teacher").members:
        assert member.processing_class.chat_template == own.chat_template


def test_a_saved_ensemble_of_adapters_is_the_same_and_labels_the_same(folders, tmp_path):
    teacher = EnsembleTeacher.from_adapters(folders[:2])
    teacher.save_pretrained(tmp_path / "teacher")
    loaded, _ = load_teacher(str(tmp_path / "teacher"))
    assert torch.equal(loaded.predict(INPUTS).mean, teacher.predict(INPUTS).mean)
    assert loaded.fingerprint() == teacher.fingerprint()
    labels = [add_soft_labels(texts(3), each, progress=False) for each in (teacher, tmp_path / "teacher")]
    assert labels[0]["teacher_probs"][:] == labels[1]["teacher_probs"][:]
    assert labels[0]["teacher_variance"][0][0] > 0
    both = MultiTeacher({"one": loaded, "other": DeterministicTeacher(adapted(llama(1, **LARGER)))})
    assert both.predict(INPUTS).mean.shape == (2, 6, 97)


def test_all_adapters_of_a_network_are_members_and_one_network_is_not_several(base, folders, tmp_path):
    network = PeftModel.from_pretrained(base, folders[0], adapter_name="first")
    network.load_adapter(folders[1], "second")
    teacher = EnsembleTeacher.from_adapters(network)
    expected = EnsembleTeacher.from_adapters(folders[:2]).predict(INPUTS).mean
    torch.testing.assert_close(teacher.predict(INPUTS).mean, expected)
    assert network.active_adapter == "first"
    with pytest.raises(UserError, match="one adapter is active at a time"):
        EnsembleTeacher([DeterministicTeacher(network), DeterministicTeacher(network)])


def test_an_adapter_of_any_name_is_saved_and_loaded_by_itself(base, folders, tmp_path):
    network = PeftModel.from_pretrained(base, folders[0], adapter_name="mine")
    teacher = DeterministicTeacher(network)
    teacher.save_pretrained(tmp_path / "teacher")
    assert not list((tmp_path / "teacher").rglob("model.safetensors"))
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert loaded.fingerprint() == teacher.fingerprint()
    assert torch.equal(loaded.predict(INPUTS).mean, teacher.predict(INPUTS).mean)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear", "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
        {"trainable_token_indices": [3, 4]},
        {"task_type": None},
    ],
)
def test_adapters_of_every_layer_are_saved_and_loaded_by_themselves(base, tmp_path, settings):
    teacher = DeterministicTeacher(adapted(base, **settings))
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert loaded.fingerprint() == teacher.fingerprint()
    assert torch.equal(loaded.predict(INPUTS).mean, teacher.predict(INPUTS).mean)


def test_adapters_that_transformers_loaded_are_as_those_of_peft(base, folders, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(folders[0])
    teacher, expected = (
        DeterministicTeacher(network),
        DeterministicTeacher(PeftModel.from_pretrained(base, folders[0])),
    )
    assert teacher.fingerprint() == expected.fingerprint()
    assert torch.equal(teacher.predict(INPUTS).mean, expected.predict(INPUTS).mean)
    with torch.no_grad():
        torch.testing.assert_close(teacher.predict(INPUTS).mean, network(**INPUTS).logits.softmax(dim=-1))
    teacher.save_pretrained(tmp_path / "teacher")
    assert Teacher.from_pretrained(tmp_path / "teacher").fingerprint() == teacher.fingerprint()


def test_a_posterior_over_adapters_of_any_name_is_saved_and_loaded(base, folders, tmp_path):
    network = PeftModel.from_pretrained(base, folders[0], adapter_name="0")
    std = {name: torch.full_like(each, 0.1) for name, each in network.named_parameters() if "lora_" in name}
    teacher = VariationalTeacher(network, std)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    one, other = (each.predict(INPUTS, 3, torch.Generator().manual_seed(0)) for each in (teacher, loaded))
    assert torch.equal(one.mean, other.mean) and one.variance.max() > 0
    assert len(loaded.std) == len(std) and loaded.fingerprint() == teacher.fingerprint()


def test_adapters_of_a_half_precision_base_are_loaded_over_the_same_numbers(base, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    teacher = DeterministicTeacher(adapted(half))
    teacher.save_pretrained(tmp_path / "teacher")
    assert Teacher.from_pretrained(tmp_path / "teacher").fingerprint() == teacher.fingerprint()
    with pytest.raises(UserError, match="saved over a base model in bfloat16, and the network that was passed is in"):
        Teacher.from_pretrained(tmp_path / "teacher", network=base)


def test_disabled_adapters_are_not_saved_as_if_they_were_enabled(base, tmp_path):
    network = adapted(base)
    network.base_model.disable_adapter_layers()
    with pytest.raises(UserError, match="adapters are disabled"):
        DeterministicTeacher(network).save_pretrained(tmp_path / "teacher")
    network.base_model.enable_adapter_layers()
    DeterministicTeacher(network).save_pretrained(tmp_path / "teacher")
    again = Teacher.from_pretrained(tmp_path / "teacher")
    torch.testing.assert_close(again.predict(INPUTS).mean, DeterministicTeacher(network).predict(INPUTS).mean)


def test_a_posterior_over_a_classifiers_adapters_is_not_saved_without_them(tmp_path):
    config = llama(num_labels=2).config
    network = get_peft_model(
        LlamaForSequenceClassification(config), LoraConfig(r=1, lora_dropout=0.5, task_type="SEQ_CLS")
    ).eval()
    stds = {name: torch.ones_like(weight) for name, weight in network.named_parameters() if weight.requires_grad}
    for teacher in (VariationalTeacher(network, stds), MCDropoutTeacher(network)):
        with pytest.raises(UserError, match="its posterior is of the adapters, which would be lost"):
            teacher.save_pretrained(tmp_path / "teacher")
    DeterministicTeacher(network).save_pretrained(tmp_path / "teacher")
    assert Teacher.from_pretrained(tmp_path / "teacher").num_classes == 2


def test_a_base_model_with_added_tokens_is_saved_as_transformers_loads_it(base, tmp_path):
    base.resize_token_embeddings(101)
    network = adapted(base)
    DeterministicTeacher(network).save_pretrained(tmp_path / "teacher")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher" / "network")
    with torch.no_grad():
        torch.testing.assert_close(again(**INPUTS).logits, network(**INPUTS).logits, atol=1e-3, rtol=1e-3)
    assert not (tmp_path / "teacher" / "network" / "network.json").exists()


def test_a_base_model_of_another_name_than_the_adapters_have_is_warned_of(base, folders, tmp_path, caplog):
    EnsembleTeacher.from_adapters(folders[:1], base=base)
    shutil.copytree(tmp_path / "base", tmp_path / "elsewhere" / "base")
    moved = AutoModelForCausalLM.from_pretrained(tmp_path / "elsewhere" / "base")
    EnsembleTeacher.from_adapters(folders[:1], base=moved)
    assert not caplog.text
    llama(1, **LARGER).save_pretrained(tmp_path / "base-chat")
    EnsembleTeacher.from_adapters(folders[:1], base=AutoModelForCausalLM.from_pretrained(tmp_path / "base-chat"))
    assert "were trained over" in caplog.text


def test_a_base_model_that_moved_can_be_passed_and_is_noted(folders, tmp_path):
    EnsembleTeacher.from_adapters(folders[:2]).save_pretrained(tmp_path / "teacher")
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(UserError, match=r"need their base model.*pass it in Python"):
        load_teacher(str(tmp_path / "teacher"))
    moved = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    teacher = Teacher.from_pretrained(tmp_path / "teacher", network=moved)
    teacher.save_pretrained(tmp_path / "teacher")
    assert Teacher.from_pretrained(tmp_path / "teacher").fingerprint() == teacher.fingerprint()


def test_a_base_model_that_changed_is_refused(base, folders, tmp_path):
    EnsembleTeacher.from_adapters(folders[:2]).save_pretrained(tmp_path / "teacher")
    llama(1, **LARGER).save_pretrained(tmp_path / "base")
    for network in (None, llama(1, **LARGER)):
        with pytest.raises(UserError, match="are of another base model than"):
            Teacher.from_pretrained(tmp_path / "teacher", network=network)
    assert Teacher.from_pretrained(tmp_path / "teacher", network=base)


def test_over_a_base_model_without_a_place_adapters_are_saved_merged_where_that_is_the_same(tmp_path):
    teacher = DeterministicTeacher(adapted(llama()))
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    torch.testing.assert_close(loaded.predict(INPUTS).mean, teacher.predict(INPUTS).mean)
    with pytest.raises(UserError, match="nobody says where its base model is"):
        MCDropoutTeacher(adapted(llama(), lora_dropout=0.1)).save_pretrained(tmp_path / "dropout")


def saved(network: PeftModel, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder


def test_what_is_no_ensemble_of_adapters_is_refused(base, folders, tmp_path):
    llama(1, **LARGER).save_pretrained(tmp_path / "other")
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    small = llama()
    small.name_or_path = str(tmp_path / "base")
    words = saved(adapted(base), tmp_path / "words")
    tokenizer(words=[*map(chr, range(90, 32, -1)), "<pad>", "#"]).save_pretrained(words)
    tokenizer().save_pretrained(saved(adapted(base), tmp_path / "same words"))
    merged = adapted(base)
    merged.merge_adapter()
    prompts = get_peft_model(sharing(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    cases = [
        ([], "an ensemble needs at least one member, and there are no adapters"),
        ([folders[0], saved(adapted(other), tmp_path / "adapter of other")], "are of different base models"),
        ([tmp_path / "same words", words], "have another tokenizer or chat template"),
        ([saved(adapted(base, task_type="SEQ_CLS"), tmp_path / "classifier")], "are of the task SEQ_CLS"),
        ([tmp_path / "base"], "holds no adapters"),
        ([saved(adapted(small), tmp_path / "small")], "has adapters of another base model"),
        ([saved(adapted(base, bias="lora_only"), tmp_path / "biases")], "own biases"),
        ([saved(adapted(base, init_lora_weights="pissa"), tmp_path / "pissa")], "began by changing the base model"),
        ([saved(prompts, tmp_path / "prompts")], "adds tokens of its own to each row"),
        (merged, "the adapters are merged into the base model"),
        (base, "has no adapters of PEFT"),
    ]
    for adapters, message in cases:
        with pytest.raises(UserError, match=message):
            EnsembleTeacher.from_adapters(adapters)


def test_adapters_that_change_their_base_model_are_loaded_by_themselves(base, folders, tmp_path):
    for name, settings in (("biases", {"bias": "lora_only"}), ("prompts", None)):
        tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        network = get_peft_model(sharing(base), tuning) if settings is None else adapted(base, **settings)
        teacher, _ = load_teacher(str(saved(network.eval(), tmp_path / name)))
        with torch.no_grad():
            expected = network(**INPUTS).logits.softmax(dim=-1)
        torch.testing.assert_close(teacher.predict(INPUTS).mean, expected)
        if settings is None:
            with pytest.raises(UserError, match="adds tokens of its own"):
                teacher.save_pretrained(tmp_path / "teacher")
            continue
        teacher.save_pretrained(tmp_path / "teacher")  # merged, which is the same
        torch.testing.assert_close(Teacher.from_pretrained(tmp_path / "teacher").predict(INPUTS).mean, expected)
    embedded = saved(adapted(base, target_modules=["embed_tokens"]), tmp_path / "embedded")  # PEFT saves it too
    assert EnsembleTeacher.from_adapters([folders[0], embedded]).num_draws(1) == 2
