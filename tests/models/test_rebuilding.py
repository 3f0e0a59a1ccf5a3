"""A transformers model that its class doesn't make anew from its config is never loaded as another network."""

import logging
import re

import pytest
import torch
import transformers
from torch import nn

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, Teacher, UserError
from hf_bkd.models import saving
from hf_bkd.models.loading_code import loading_of
from hf_bkd.models.rebuilding import difference_when_loaded
from hf_bkd.models.saving import load_network
from tests.cli.fitting_helpers import bert, texts, tokenizer
from tests.data.test_preprocessor_for import vit, wav2vec

INPUTS = {"input_ids": torch.tensor([[3, 5, 7, 2]])}


def with_relu():
    network = bert()
    network.bert.encoder.layer[0].intermediate.intermediate_act_fn = nn.ReLU()
    return network


def with_its_own_forward():
    network = bert()
    forward = network.forward
    network.forward = lambda **inputs: {"logits": 2 * forward(**inputs).logits}
    return network


def with_another_epsilon():
    network = bert()
    network.bert.embeddings.LayerNorm.eps = 1.0
    return network


def with_two_layers():
    network = bert()
    network.classifier = nn.Sequential(network.classifier, nn.Tanh())
    return network


CHANGED = {
    "activation": (with_relu, "intermediate_act_fn is ReLU, and its class makes it GELUActivation"),
    "forward": (with_its_own_forward, "the forward of the network was exchanged"),
    "number": (with_another_epsilon, "eps of bert.embeddings.LayerNorm is 1.0, and its class makes it 1e-12"),
    "head": (with_two_layers, "classifier.0.weight is .*, and its class makes it absent"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_teacher_is_saved_as_a_plain_module_and_loaded_as_it_is(case, tmp_path, caplog):
    make, difference = CHANGED[case]
    teacher = DeterministicTeacher(make().eval())
    expected = teacher.predict(INPUTS).mean
    assert not torch.equal(expected, DeterministicTeacher(bert().eval()).predict(INPUTS).mean)
    saving._warn_of_plain.cache_clear()
    with caplog.at_level(logging.WARNING):
        teacher.save_pretrained(tmp_path / "teacher")
    assert (
        re.search(difference, difference_when_loaded(teacher.network)) and "is saved as a plain module" in caplog.text
    )
    with pytest.raises(UserError, match=r"plain nn.Module \(transformers.*: from Python, pass network="):
        Teacher.from_pretrained(tmp_path / "teacher")
    again = Teacher.from_pretrained(tmp_path / "teacher", make())
    assert torch.equal(again.predict(INPUTS).mean, expected)


def test_a_student_is_warned_of_and_not_loaded_without_its_code(tmp_path, caplog):
    args = DistillationTrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        max_steps=1,
        kd_lambda=0.0,
    )
    trainer = DistillationTrainer(with_relu(), args, train_dataset=texts(9, 0), processing_class=tokenizer())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "intermediate_act_fn is ReLU, and its class makes it GELUActivation" in caplog.text
    trainer.save_model()
    student = trainer.model.eval()
    assert "from_pretrained" not in loading_of(student).code
    with pytest.raises(UserError, match="pass network="):
        load_network(tmp_path)
    assert torch.allclose(load_network(tmp_path, with_relu())(**INPUTS).logits, student(**INPUTS).logits, atol=1e-6)
    ordinary = DistillationTrainer(bert(), args, train_dataset=texts(9, 0), processing_class=tokenizer())
    ordinary.save_model()  # into the same folder
    loaded, trained = (each(**INPUTS).logits for each in (load_network(tmp_path), ordinary.model.eval()))
    assert torch.allclose(loaded, trained, atol=1e-6)


@pytest.mark.parametrize("make", [bert, vit, wav2vec])
def test_what_is_as_its_config_says_is_saved_as_ever(make, tmp_path):
    network = make()
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.7  # which does nothing in what is loaded
    assert difference_when_loaded(network) is None
    DeterministicTeacher(network).save_pretrained(tmp_path / "teacher")
    assert isinstance(Teacher.from_pretrained(tmp_path / "teacher").network, transformers.PreTrainedModel)


def test_a_hook_of_the_users_is_a_difference_and_accelerates_is_none():
    network = bert()
    network.enable_input_require_grads()
    assert difference_when_loaded(network) is None
    handle = network.classifier.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert difference_when_loaded(network) == "classifier has a hook"
    handle.remove()
    network._original_forward, network.forward = network.forward, network.forward  # as accelerate does
    assert "forward" in vars(network) and difference_when_loaded(network) is None
