"""Advice about language models."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import BertConfig, BertLMHeadModel, DataCollatorForLanguageModeling

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    add_soft_labels,
    import_token_log_probs,
    tokenized,
)
from hf_bkd.cli.label import main as label
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.soft_labels import read
from tests.language.language_helpers import CHATS, TEMPLATE, V, learned, llama, texts, tokenizer

from .following import advises, code, follow, refused

SETTINGS = {"report_to": [], "use_cpu": True, "max_steps": 1, "disable_tqdm": True}


def teacher() -> DeterministicTeacher:
    return DeterministicTeacher(learned(llama(), tokenized(texts(8), tokenizer())))


def labeled(rows=None, **settings) -> Dataset:
    settings = {"processing_class": tokenizer(), "progress": False} | settings
    return add_soft_labels(texts(8) if rows is None else rows, teacher(), **settings)


def trained(folder, rows, student=None, collator=None, **settings) -> DistillationTrainer:
    processing = settings.pop("processing_class", tokenizer())
    args = DistillationTrainingArguments(str(folder), **SETTINGS | settings)
    student = llama(1) if student is None else student
    made = DistillationTrainer(student, args, train_dataset=rows, processing_class=processing, data_collator=collator)
    made.train()
    return made


@advises("predicts the next of a row's input_ids")
def test_texts_become_tokens_before_a_training(tmp_path):
    refused(lambda: trained(tmp_path, texts(), kd_lambda=0.0))
    trained(tmp_path, tokenized(texts(), tokenizer()), kd_lambda=0.0)


@advises("the batches of a language model need input_ids")
def test_a_collator_gets_tokens(tmp_path):
    def collate(rows):
        return {name: torch.tensor([row[name][:4] for row in rows]) for name in rows[0] if name == "input_ids"} or {
            "labels": torch.zeros(len(rows))
        }

    keep = {"kd_lambda": 0.0, "remove_unused_columns": False}
    refused(lambda: trained(tmp_path, texts(), collator=collate, **keep))
    trained(tmp_path, tokenized(texts(), tokenizer()), collator=collate, **keep)


@advises(" positions: pass max_length=")
def test_longer_texts_are_cut():
    long = Dataset.from_dict({"text": ["a" * 80]})
    message = refused(lambda: preprocessor_for(llama(), tokenized(long, tokenizer())))
    assert "max_length=64" in message
    rows = tokenized(long, tokenizer(), max_length=64)
    assert preprocessor_for(llama(), rows)(rows[:])["input_ids"].shape == (1, 64)


@advises("has no chat template that writes them")
def test_a_chat_template_is_set():
    chats, own = Dataset.from_dict({"messages": CHATS}), tokenizer(None)
    refused(lambda: tokenized(chats, own))
    own.chat_template = TEMPLATE
    assert len(tokenized(chats, own)) == len(CHATS)


@advises("sees what comes after a token")
def test_a_decoder_is_set_to_be_one():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = BertLMHeadModel(BertConfig(vocab_size=V, **sizes)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10)

    def answers(of):
        return add_soft_labels(texts(2), DeterministicTeacher(of), processing_class=tokenizer(), progress=False)

    refused(lambda: answers(network))
    causal = BertLMHeadModel(BertConfig(vocab_size=V, is_decoder=True, **sizes)).eval()
    causal.load_state_dict(network.state_dict())
    assert "teacher_tokens" in answers(causal).column_names


@advises("a language model is asked about tokens", "nothing says how texts become the tokens of")
def test_a_language_model_is_given_its_tokenizer():
    refused(lambda: labeled(preprocessor=dict, processing_class=None))
    refused(lambda: labeled(processing_class=None))
    assert len(labeled(processing_class=tokenizer())) == 8


@advises("and one is labeled at a time", "the data_collator makes no batch of the rows")
def test_one_split_is_labeled_and_rows_with_labels_are_collated_here(tmp_path):
    message = refused(lambda: labeled(DatasetDict(train=texts(8), test=texts(2))))
    rows = labeled(follow(code(message, r"pass (dataset\[.+\])"), dataset=DatasetDict(train=texts(8))))
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    message = refused(lambda: trained(tmp_path, rows, collator=collator))
    trained(tmp_path, rows, **{code(message, r"leave data_(collator) out"): None})


@advises("what is sampled or cut there has a bias at")
def test_labels_of_another_temperature_are_made_at_it(tmp_path):
    refused(lambda: trained(tmp_path, labeled(), teacher_temperature=2.0))
    warm = teacher()
    warm.temperature = 2.0
    rows = add_soft_labels(texts(8), warm, processing_class=tokenizer(), progress=False)
    assert trained(tmp_path, rows, teacher_temperature=2.0).teacher_temperature == 2
    assert trained(tmp_path, labeled()).teacher_temperature == 1


@advises("was made for messages by another chat template")
def test_a_student_takes_the_teachers_template(tmp_path):
    rows = labeled(Dataset.from_dict({"messages": CHATS}))
    other = tokenizer(TEMPLATE.replace("<", "["))
    refused(lambda: trained(tmp_path, rows, processing_class=other))
    trained(tmp_path, rows, processing_class=tokenizer())
    trained(tmp_path, labeled(Dataset.from_dict({"messages": CHATS}), processing_class=other), processing_class=other)


@advises("holds the whole vocabulary of")
def test_a_wider_student_learns_from_sampled_labels(tmp_path):
    refused(lambda: trained(tmp_path, labeled(storage="float16"), llama(1, vocab_size=128)))
    trained(tmp_path, labeled(storage="sampled"), llama(1, vocab_size=128))


@advises("and this is for a label of each example or token")
def test_a_language_model_is_a_teacher_as_it_is():
    rows = tokenized(texts(4), tokenizer())
    refused(lambda: LaplaceTeacher.fit(llama(), rows, rows, processing_class=tokenizer()))
    assert len(add_soft_labels(rows, DeterministicTeacher(llama()), progress=False)) == 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, network in (("teacher", teacher().network), ("small", llama(1))):
        network.save_pretrained(name)
        tokenizer().save_pretrained(name)
    DatasetDict(train=texts(4)).save_to_disk("texts")
    return tmp_path


@advises("a language model's labels are the texts' own tokens")
def test_the_command_needs_no_label_column(folder):
    words = ["--teacher", "teacher", "--dataset", "texts", "--output_dir", "labeled"]
    refused(lambda: label([*words, "--label_column", "text"]))
    label(words)
    assert read(Dataset.load_from_disk("labeled")).lengths is not None


@advises("the chat template writes a prompt otherwise when a completion follows")
def test_completions_of_a_changing_prompt_stand_in_messages():
    said = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "oh"}]
    own = tokenizer(TEMPLATE.replace("{% for", "{{ 'long ' if messages|length > 1 else 'a' }}{% for", 1))
    message = refused(lambda: tokenized(Dataset.from_dict({"prompt": [said[0]], "completion": [said[1]]}), own))
    column = code(message, r"in one column '(\w+)'")
    rows = tokenized(Dataset.from_dict({column: [[*said[0], *said[1]]]}), own)
    assert own.decode([token for token in rows[0]["labels"] if token != -100]) == "oh#"
    taught = follow(f"dict({code(message, r'pass (taught=[^,]+),')})")
    whole = tokenized(Dataset.from_dict({"prompt": [said[0]], "completion": [said[1]]}), own, **taught)
    assert whole[0]["labels"][1:] == whole[0]["input_ids"][1:]


@advises("adds a loss of its routers")
def test_the_loss_of_routers_is_turned_off(tmp_path):
    student = llama(1, output_router_logits=True)
    message = refused(lambda: trained(tmp_path, labeled(), student))
    follow(code(message, r"set (.+)$"), model=student)
    trained(tmp_path, labeled(), student)


@advises(
    "nothing says how large the vocabulary is",
    "log-probabilities belong to tokens, and the dataset has no input_ids",
    ", and no log-probability is of it",
    ": pass num_tokens=, the vocab_size of the model",
)
def test_log_probabilities_are_given_to_tokens_of_a_known_vocabulary():
    own, rows = tokenizer(), tokenized(Dataset.from_dict({"text": ["ab"]}), tokenizer())
    ids = rows[0]["input_ids"]
    entries = [[None, *({token: -0.25} for token in ids[1:])]]

    def given(dataset, **settings):
        return import_token_log_probs(dataset, entries, **{"predicts": "own"} | settings)

    message = refused(lambda: given(Dataset.from_dict({"text": ["ab"]}), processing_class=own))
    made = follow(code(message, r"pass (.+?\)), or"), dataset=Dataset.from_dict({"text": ["ab"]}), tokenizer=own)
    assert made[0]["input_ids"] == ids
    refused(lambda: given(rows))
    small = refused(lambda: given(rows, num_tokens=5))
    assert "vocab_size" in small
    message = refused(lambda: given(rows, processing_class=own, predicts="next"))
    settings = follow(f"dict({code(message, r'or pass (predicts=[^ ]+)')})")
    stored = given(rows, processing_class=own, **settings)
    assert given(rows, num_tokens=llama().config.vocab_size)["teacher_tokens"][:] == stored["teacher_tokens"][:]
    assert [position[0] for position in stored[0]["teacher_tokens"]][:-1] == ids[1:]
