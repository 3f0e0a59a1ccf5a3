"""Advice about the adapters and prompts of language models."""

import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GgufConfig, LlamaForSequenceClassification
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

from hf_bkd import DeterministicTeacher, EnsembleTeacher, PromptedTeacher, Teacher, VariationalTeacher, tokenized
from hf_bkd.cli.distill import main as distill
from hf_bkd.cli.teacher import main as fit
from hf_bkd.hub.transfer import check_base_is_shared
from hf_bkd.utils.files import read_json
from tests.language.language_helpers import CHATS, TEMPLATE, llama, texts, tokenizer

from .following import advises, code, follow, refused

INPUTS = {"input_ids": torch.arange(2, 14).view(2, 6)}


def adapted(base: torch.nn.Module, seed: int = 0, **settings) -> torch.nn.Module:
    """The base model with a random adapter that changes its answers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 1, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | settings
    network = get_peft_model(base, LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    return network.eval()


def loaded(folder: str = "base", **settings) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


def posterior(network: torch.nn.Module) -> VariationalTeacher:
    """A Gaussian over a network's adapters, which is saved apart from its base model or not at all."""
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    return VariationalTeacher(network, {name: torch.ones_like(weight) for name, weight in weights.items()})


def answer(network: torch.nn.Module) -> torch.Tensor:
    return DeterministicTeacher(network).predict(INPUTS).mean


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    llama().save_pretrained("base")
    tokenizer().save_pretrained("base")
    return tmp_path


@advises(
    "IVON trains a language model's adapters",
    "teacher is of networks with a label for each example",
    "an ensemble of one language model is that model",
    "is of new adapters: pass --lora_rank",
    "the network has adapters already",
)
def test_commands_train_new_adapters_where_they_are_asked_to():
    DatasetDict(train=texts(4), validation=texts(2)).save_to_disk("texts")
    data = ["--dataset", "texts", "--max_steps", "1", "--use_cpu", "true"]
    asked = [
        (["--method", "laplace"], r"(--method \w+)"),
        (["--method", "ivon"], r"pass (--lora_rank \d)"),
        (["--method", "ensemble"], r"pass (--lora_rank \d)"),
        (["--method", "mc_dropout", "--drop_rate", "0.2"], r"pass (--lora_rank \d)"),
    ]
    for number, (words, advice) in enumerate(asked):
        words = [*words, "--model", "base", *data, "--output_dir", f"teacher-{number}"]
        message = refused(lambda words=words: fit(words, "hf-bkd"))
        if words[1] != "mc_dropout":  # which takes as long as the ensemble
            members = ["--members", "2"] if words[1] == "ensemble" else []
            fit([*words, *code(message, advice).split(), *members], "hf-bkd")
            assert Path(f"teacher-{number}", "teacher.json").is_file()
    words = ["--student", "base", "--kd_lambda", "0", *data, "--lora_rank", "1", "--output_dir"]
    distill([*words, "first"], "hf-bkd")
    again = ["--student", "first", *words[2:], "second"]
    option = code(refused(lambda: distill(again, "hf-bkd")), r"omit (--\w+)")
    del again[again.index(option) : again.index(option) + 2]
    distill(again, "hf-bkd")
    first, second = (load_file(Path(name, "adapter_model.safetensors")) for name in ("first", "second"))
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)


@advises("the adapters' base model is the folder ", "were saved over a base model in ")
def test_a_base_model_is_taken_from_where_others_have_it():
    base = loaded(dtype=torch.bfloat16)
    DeterministicTeacher(adapted(base)).save_pretrained("teacher")
    name = read_json(Path("teacher", "teacher.json"))["base"]["name"]
    message = refused(lambda: check_base_is_shared(name))
    kind = code(
        refused(lambda: Teacher.from_pretrained("teacher", network=loaded(dtype=torch.float32))), r"(dtype=[\w.]+)"
    )
    pushed = loaded(**follow(f"dict({kind})", torch=torch))
    pushed.config._name_or_path = pushed.name_or_path = "me/base"
    teacher = follow(code(message, r"by (Teacher\.from_pretrained\(.+?\))"), folder="teacher", base=pushed)
    teacher.save_pretrained("shared")
    check_base_is_shared(read_json(Path("shared", "teacher.json"))["base"]["name"])


@advises("the adapters' base model was loaded from ", "the base model's name is ")
def test_a_base_model_that_is_gone_is_saved_and_adapters_are_trained_over_it(folder):
    shutil.copytree("base", "old")
    base = loaded(str(folder / "old"))
    shutil.rmtree("old")
    message = refused(lambda: posterior(adapted(base)).save_pretrained("teacher"))
    network = adapted(loaded())
    own = follow(code(message, r"by (network\.get_base_model\(\))"), network=network)
    assert own is network.get_base_model()
    shutil.copytree("base", "old")
    posterior(adapted(base)).save_pretrained("teacher")

    Path("empty").mkdir()
    base = loaded()
    base.config._name_or_path = base.name_or_path = "empty"
    message = refused(lambda: posterior(adapted(base)).save_pretrained("other"))
    follow(code(message, r"by (hf_bkd\.models\.saving\.save_network\(.+?\))"), base=loaded(), folder="again")
    posterior(adapted(loaded("again"))).save_pretrained("other")
    assert Teacher.from_pretrained("other").num_classes == 97


@advises("the base model was loaded from a GGUF file")
def test_the_model_of_a_gguf_file_is_saved_before_it_has_adapters():
    base = loaded()
    base.config.quantization_config = GgufConfig()
    base.hf_quantizer = GgufHfQuantizer(base.config.quantization_config)
    message = refused(lambda: posterior(adapted(base)).save_pretrained("teacher"))
    plain = loaded()
    follow(code(message, r"by (hf_bkd\.models\.saving\.save_network\(.+?\))"), base=plain, folder="again")
    posterior(adapted(loaded("again"))).save_pretrained("teacher")


@advises(
    "holds no adapters (",
    "and a teacher's are saved as one",
    "the adapters are merged into the base model",
    "several members are one network of PEFT's",
    "the network's adapters are disabled",
)
def test_adapters_are_saved_and_taken_as_members():
    message = refused(lambda: EnsembleTeacher.from_adapters(["base"]))
    whole = follow(code(message, r"by (DeterministicTeacher\(network\))"), network=loaded())
    network = adapted(loaded())
    network.save_pretrained("adapter")
    member = EnsembleTeacher.from_adapters(["adapter"])
    assert EnsembleTeacher([whole, *member.members]).num_draws(1) == 2

    network.load_adapter("adapter", "second")
    message = refused(lambda: EnsembleTeacher([DeterministicTeacher(network)] * 2))
    both = follow(code(message, r"pass (EnsembleTeacher\.from_adapters\(network\))"), network=network)
    assert len(both.members) == 2

    network.base_model.set_adapter(["default", "second"])
    message = refused(lambda: posterior(network).save_pretrained("teacher"))
    follow(code(message, r"by (network\.set_adapter\(name\))"), network=network, name="second")
    DeterministicTeacher(network).save_pretrained("teacher")
    torch.testing.assert_close(Teacher.from_pretrained("teacher").predict(INPUTS).mean, answer(network))

    network.merge_adapter()
    message = refused(lambda: EnsembleTeacher.from_adapters(network))
    follow(code(message, r"call (network\.\w+\(\))"), network=network)
    assert len(EnsembleTeacher.from_adapters(network).members) == 2

    network.base_model.disable_adapter_layers()
    message = refused(lambda: DeterministicTeacher(network).save_pretrained("teacher"))
    follow(code(message, r"call (network\.[\w.]+\(\))"), network=network)
    DeterministicTeacher(network).save_pretrained("teacher")


@advises("is saved with its adapters apart")
def test_a_base_model_gets_a_place_before_a_posterior_over_its_adapters_is_saved():
    message = refused(lambda: posterior(adapted(llama())).save_pretrained("teacher"))
    plain = type("Network", (), {"get_base_model": staticmethod(llama)})
    follow(code(message, r"by (network\.get_base_model\(\)\.save_pretrained\(folder\))"), network=plain, folder="new")
    posterior(adapted(loaded("new"))).save_pretrained("teacher")


@advises("its posterior is of the adapters, which would be lost")
def test_a_classifiers_adapters_are_merged_before_a_posterior():
    model = adapted(LlamaForSequenceClassification(llama(num_labels=2).config), task_type="SEQ_CLS")
    message = refused(lambda: posterior(model).save_pretrained("teacher"))
    network = follow(code(message, r"that (model\.\w+\(\))"), model=model)
    posterior(network.requires_grad_(True)).save_pretrained("teacher")
    assert Teacher.from_pretrained("teacher").num_classes == 2


@advises("nothing says how prompts become the tokens")
def test_a_prompted_model_is_given_its_tokenizer():
    words = {"prompts": "{text} is", "label_words": {"a": " yes", "b": " no"}}
    message = refused(lambda: PromptedTeacher(llama(), **words))
    assert PromptedTeacher(llama(), **{code(message, r"pass (\w+)="): tokenizer()}, **words).num_classes == 2


@advises("neither marks what the assistant says", "rename its own, as by")
def test_answers_that_cannot_be_found_are_marked_or_completions():
    bare = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    own = tokenizer(bare.replace("+ '#'", "+ ('#' if loop.last else '')"))
    chats = Dataset.from_dict({"messages": CHATS[1:]})
    message = refused(lambda: tokenized(chats, own))
    whole = follow(code(message, r"pass (hf_bkd\.tokenized\(.+?\))"), dataset=chats, tokenizer=own)
    assert whole[0]["labels"][1:] == whole[0]["input_ids"][1:]
    marked = tokenizer(TEMPLATE)
    assert tokenized(chats, marked)[0]["labels"].count(-100) > 5
    completion, prompt = code(message, r"column (completion)"), code(message, r"into (prompt)")
    last = tokenized(Dataset.from_dict({prompt: [CHATS[1][:-1]], completion: [CHATS[1][-1:]]}), own)
    assert own.decode([token for token in last[0]["labels"] if token != -100]) == "bye bye#"

    dataset = Dataset.from_dict({"question": ["ab"], "answer": ["cd"]})
    message = refused(lambda: tokenized(dataset, own))
    renamed = follow(code(message, r"by (dataset\.rename_columns\(.+?\))"), dataset=dataset)
    assert tokenized(renamed, own)[0]["labels"].count(-100) == 2
