"""Language models of GGUF files: they are trained and saved as any others, or refused before."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GgufConfig, LlamaForCausalLM
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, Teacher
from hf_bkd.cli import main
from hf_bkd.language import tokenized
from hf_bkd.models.gguf import is_of_gguf
from hf_bkd.models.saving import save_network
from hf_bkd.utils.errors import UserError

from .language_helpers import llama, texts, tokenizer


def of_gguf() -> LlamaForCausalLM:
    """A network with the marks that transformers gives those of a GGUF file."""
    network, quantization = llama(), GgufConfig()
    network.config.quantization_config = quantization
    network.hf_quantizer, network.is_quantized = GgufHfQuantizer(quantization), True
    network.quantization_method = quantization.quant_method
    with pytest.raises(ValueError, match="not serializable"):
        network.save_pretrained("nowhere")
    return network


def trainer(network, folder) -> DistillationTrainer:
    args = DistillationTrainingArguments(str(folder), kd_lambda=0.0, max_steps=1, report_to=[], use_cpu=True)
    rows = tokenized(texts(), tokenizer())
    return DistillationTrainer(network, args, train_dataset=rows, processing_class=tokenizer())


def test_a_teacher_of_a_gguf_file_is_saved(tmp_path):
    teacher = DeterministicTeacher(of_gguf())
    teacher.save_pretrained(tmp_path / "teacher")
    assert Teacher.from_pretrained(tmp_path / "teacher").fingerprint() == teacher.fingerprint()


def test_a_student_of_a_gguf_file_is_trained_and_saved(tmp_path):
    student = of_gguf()
    trained = trainer(student, tmp_path)
    trained.train()
    trained.save_model(tmp_path / "student")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "student")
    assert not is_of_gguf(loaded)
    for own, saved in zip(student.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(own, saved)


def test_adapters_over_a_gguf_file_are_refused_before_they_are_trained_and_over_what_was_saved_of_it_they_are_not(
    tmp_path,
):
    config = LoraConfig(r=1, task_type="CAUSAL_LM")
    base = of_gguf()
    with pytest.raises(
        UserError, match="loaded from a GGUF file.*save it first, by hf_bkd.models.saving.save_network"
    ):
        trainer(get_peft_model(of_gguf(), config), tmp_path)
    save_network(base, tmp_path / "base")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    trainer(get_peft_model(loaded, config), tmp_path).train()


def test_weights_that_are_in_blocks_still_are_refused(tmp_path):
    network = of_gguf()
    network.register_buffer("blocks", torch.zeros(3, dtype=torch.uint8))
    for use in (lambda: save_network(network, tmp_path / "saved"), lambda: trainer(network, tmp_path)):
        with pytest.raises(UserError, match="in the blocks of its GGUF file"):
            use()


@pytest.mark.parametrize(
    "words",
    [
        ["label", "--teacher", "{folder}", "--output_dir", "{folder}/labels"],
        ["distill", "--student", "{folder}", "--output_dir", "{folder}/student", "--kd_lambda", "0"],
        ["teacher", "fit", "--method", "deterministic", "--model", "{folder}", "--output_dir", "{folder}/teacher"],
    ],
)
def test_commands_say_what_to_do_with_a_gguf_file(tmp_path, capsys, words):
    (tmp_path / "small.Q4_1.gguf").write_bytes(b"GGUF")
    texts().save_to_disk(tmp_path / "texts")
    with pytest.raises(SystemExit):
        main([word.format(folder=tmp_path) for word in words] + ["--dataset", str(tmp_path / "texts")])
    error = capsys.readouterr().err
    assert "it holds small.Q4_1.gguf" in error and "save_network" in error
