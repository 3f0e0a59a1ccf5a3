"""Soft labels of next tokens: what is stored at which position, whatever the batch, and what is refused."""

import json

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import (
    BertConfig,
    BertLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    add_soft_labels,
    check_against_teacher,
    join_soft_labels,
    only_soft_labels,
)
from hf_bkd.language import tokenized
from hf_bkd.soft_labels import pack_soft_labels, read
from hf_bkd.utils.errors import UserError

from .language_helpers import CHATS, V, llama, texts, tokenizer


def labeled(rows=None, network=None, **settings) -> Dataset:
    teacher = DeterministicTeacher(llama() if network is None else network)
    settings = {"processing_class": tokenizer(), "progress": False} | settings
    return add_soft_labels(texts() if rows is None else rows, teacher, **settings)


def expected(row: dict, network=None) -> torch.Tensor:
    """The distribution of the token after each position, of a row by itself."""
    with torch.no_grad():
        return (llama() if network is None else network)(torch.tensor([row["input_ids"]])).logits[0].softmax(dim=-1)


def columns(dataset: Dataset) -> dict:
    return {name: dataset[name][:] for name in dataset.column_names}


def test_entry_t_is_the_distribution_of_token_t_plus_1_and_there_is_none_for_the_last():
    dataset = labeled(storage="float32")
    for row in dataset:
        stored = torch.tensor(row["teacher_probs"])
        torch.testing.assert_close(stored[:-1], expected(row)[:-1], rtol=1e-5, atol=1e-7)
        assert not stored[-1].any()
    record = read(dataset).record
    assert record.positions == "next tokens" and record.tokenizer is not None and record.chat_template is None


def test_only_what_the_assistant_says_is_labeled_and_the_template_is_recorded():
    dataset = labeled(Dataset.from_dict({"messages": CHATS}))
    for row in dataset:
        there = [any(probs) for probs in row["teacher_probs"]]
        assert there == [label != -100 for label in row["labels"][1:]] + [False]
    assert read(dataset).record.chat_template is not None


def test_sampled_labels_are_16_tokens_with_the_larger_of_their_probability_and_tau():
    dataset = labeled()
    assert dataset.features["teacher_tokens"].feature.feature.dtype == "uint16"
    assert dataset.features["teacher_tokens"].feature.length == dataset.features["teacher_probs"].feature.length == 16
    exact = torch.cat([expected(row)[:-1] for row in dataset])
    stored = read(dataset).probs
    stored = stored[stored.any(dim=-1)]
    kept = stored > 0
    assert (kept.sum(dim=-1) == 16).all()
    tau = stored.where(kept, 1).amin(dim=-1, keepdim=True)
    torch.testing.assert_close(stored[kept], torch.maximum(exact, tau)[kept], rtol=2e-3, atol=1e-6)
    assert labeled(seed=1)["teacher_tokens"] != dataset["teacher_tokens"] == labeled(seed=0)["teacher_tokens"]


def test_all_tokens_of_a_vocabulary_are_the_whole_distribution():
    whole, kept = read(labeled(storage="float16")).probs, read(labeled(top_k=V)).probs
    torch.testing.assert_close(kept, whole, rtol=2e-3, atol=1e-6)


def test_the_largest_probabilities_are_kept_and_the_rest_is_known():
    dataset = labeled(storage="top_k", top_k=5)
    row = dataset[0]
    exact = expected(row)[0].topk(5)
    assert row["teacher_tokens"][0] == exact.indices.tolist()
    torch.testing.assert_close(torch.tensor(row["teacher_probs"][0]), exact.values, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(read(dataset).probs[0].sum(), torch.tensor(1.0))


def test_labels_do_not_depend_on_the_batch():
    dataset = labeled(storage="float32")
    alone = labeled(storage="float32", batch_size=1)
    torch.testing.assert_close(read(dataset).probs, read(alone).probs, rtol=1e-5, atol=1e-7)
    assert columns(labeled())["teacher_tokens"] == columns(labeled(batch_size=1))["teacher_tokens"]
    backwards = labeled(tokenized(texts(), tokenizer()).select(range(5, -1, -1)))
    assert backwards["teacher_tokens"][::-1] == labeled()["teacher_tokens"][:]


def test_rows_that_are_packed_have_the_labels_of_their_texts():
    rows = tokenized(texts(4), tokenizer())
    single = labeled(rows)
    whole = [[entry for row in rows[name] for entry in row] for name in ("input_ids", "labels")]
    lengths = [len(row) for row in rows["input_ids"]]
    packed = Dataset.from_dict({"input_ids": whole[:1], "labels": whole[1:], "seq_lengths": [lengths]})
    values = labeled(packed, storage="float32")
    exact = torch.cat([torch.tensor(row["teacher_probs"]) for row in labeled(rows, storage="float32")])
    torch.testing.assert_close(torch.tensor(values[0]["teacher_probs"]), exact, rtol=1e-5, atol=1e-7)
    assert len(single) == 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_packed_rows_are_asked_about_in_half_precision(seed):
    rows = tokenized(texts(2), tokenizer())["input_ids"][:]
    packed = Dataset.from_dict({"input_ids": [sum(rows, [])], "seq_lengths": [[len(row) for row in rows]]})
    assert labeled(packed, llama(seed).bfloat16()).num_rows == 1


def test_draws_are_averaged_before_they_are_sampled_and_their_variance_is_summed():
    members = [llama(0), llama(1), llama(2)]
    teacher = EnsembleTeacher([DeterministicTeacher(each) for each in members])
    dataset = add_soft_labels(texts(), teacher, processing_class=tokenizer(), progress=False, top_k=V)
    row = dataset[2]
    each = torch.stack([expected(row, member) for member in members])
    dense = torch.zeros(len(row["input_ids"]), V)
    dense.scatter_(1, torch.tensor(row["teacher_tokens"]), torch.tensor(row["teacher_probs"]))
    torch.testing.assert_close(dense[:-1], each.mean(dim=0)[:-1], rtol=2e-3, atol=1e-6)
    summed = each.var(dim=0).sum(dim=-1)[:-1]
    torch.testing.assert_close(torch.tensor(row["teacher_variance"])[:-1], summed, rtol=1e-4, atol=1e-7)


def test_a_labeling_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    class Killed(DeterministicTeacher):
        calls = 0

        def predict(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 4:  # the first is the look at the first rows
                raise KeyboardInterrupt
            return super().predict(*args, **kwargs)

    settings = {"processing_class": tokenizer(), "progress": False, "shard_rows": 2, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        add_soft_labels(texts(), Killed(llama()), **settings)
    assert len(list(tmp_path.glob("*.arrow"))) == 2
    assert json.loads((tmp_path / "labelling.json").read_text())["positions"] == "next tokens"
    again = add_soft_labels(texts(), Killed(llama()), **settings)
    assert columns(again) == columns(labeled(shard_rows=2))
    assert columns(again)["teacher_tokens"] == columns(labeled())["teacher_tokens"]


def test_the_teacher_says_the_same_again_and_labels_find_their_rows():
    dataset = labeled()
    teacher = DeterministicTeacher(llama())
    teacher.processing_class = tokenizer()
    assert check_against_teacher(dataset, teacher) == 0
    with pytest.raises(UserError, match="differs by"):
        check_against_teacher(dataset, DeterministicTeacher(llama(1)))
    rows = tokenized(texts(), tokenizer())
    joined = join_soft_labels(rows, only_soft_labels(dataset))
    assert joined["teacher_tokens"] == dataset["teacher_tokens"]


def test_saved_labels_are_read_as_they_were(tmp_path):
    dataset = labeled()
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "labels.parquet")
    for loaded in (Dataset.load_from_disk(tmp_path / "saved"), Dataset.from_parquet(str(tmp_path / "labels.parquet"))):
        assert torch.equal(read(loaded).probs, read(dataset).probs)


def test_a_network_whose_packed_texts_see_each_other_is_refused():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "ffn_dim": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 1}
    network = OPTForCausalLM(OPTConfig(vocab_size=V, num_attention_heads=2, max_position_embeddings=64, **sizes))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10)
    packed = Dataset.from_dict({"input_ids": [[5, 6, 7, 8, 9, 10]], "seq_lengths": [[3, 3]]})
    with pytest.raises(UserError, match="lets the texts of a packed row see each other"):
        labeled(packed, network.eval())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": V + 1}, "top_k is 98, and the language model's vocabulary has 97 tokens"),
        ({"top_k": 0}, "top_k must be"),
        ({"storage": "uint8"}, "storage"),
        ({"max_length": 1}, "max_length"),
        ({"mean_log_probs": True}, "the teacher predicts next tokens"),
        ({"processing_class": None}, "nothing says how texts become the tokens of LlamaForCausalLM"),
        ({"preprocessor": lambda rows: rows, "processing_class": None}, "is asked about tokens"),
        ({"rows": Dataset.from_dict({"text": ["a" * 70]})}, "row 0 has 71 tokens, and LlamaForCausalLM 64 positions"),
    ],
)
def test_what_can_not_be_labeled_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        labeled(**settings)


@pytest.mark.parametrize("storage", ["sampled", "top_k", "float32"])
def test_rows_without_anything_to_learn_have_no_labels(storage):
    rows = Dataset.from_dict({"input_ids": [[5], [6, 7]], "labels": [[5], [-100, -100]]})
    for dataset in (labeled(rows, storage=storage), labeled(rows.select([0]), storage=storage)):
        assert not any(number for row in dataset["teacher_probs"] for entry in row for number in entry)
        assert [len(row) for row in dataset["teacher_probs"]] == [len(row) for row in dataset["input_ids"]]
        read(dataset)


def test_a_longer_text_is_cut_where_it_is_asked_for():
    dataset = labeled(Dataset.from_dict({"text": ["a" * 70]}), max_length=64)
    assert len(dataset[0]["input_ids"]) == len(dataset[0]["teacher_probs"]) == 64


def test_max_length_does_not_pass_over_rows_of_tokens_and_other_networks():
    with pytest.raises(UserError, match="the rows are tokens already"):
        labeled(tokenized(texts(), tokenizer()), max_length=5)


def test_streams_and_networks_that_see_what_comes_are_refused():
    stream = IterableDataset.from_generator(lambda: iter([{"text": "abc"}]), features=texts().features)
    with pytest.raises(UserError, match="load it without streaming"):
        labeled(stream)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = BertLMHeadModel(BertConfig(vocab_size=V, **sizes)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10)
    with pytest.raises(UserError, match="sees what comes after a token"):
        labeled(network=network)


def test_language_models_that_are_not_causal_are_refused(tmp_path):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    network = T5ForConditionalGeneration(T5Config(vocab_size=V, **sizes))
    for rows in (texts(), tokenized(texts(), tokenizer()).remove_columns("labels")):
        with pytest.raises(UserError, match="T5ForConditionalGeneration is no causal language model"):
            labeled(rows, network)
    args = DistillationTrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(UserError, match="T5ForConditionalGeneration is no causal language model"):
        DistillationTrainer(network, args, train_dataset=labeled())


def test_other_labels_are_not_sampled():
    from hf_bkd.soft_labels.storage import encode

    with pytest.raises(UserError, match="is for the vocabularies of language models"):
        encode(torch.full((1, 3), 1 / 3).numpy(), "sampled")


def test_rows_are_packed_with_their_labels_and_their_record():
    pytest.importorskip("trl")
    dataset = labeled()
    packed = pack_soft_labels(dataset, 40)
    assert len(packed) < len(dataset) and max(map(len, packed["input_ids"])) <= 40
    entries = {tuple(ids): probs for ids, probs in zip(dataset["input_ids"], dataset["teacher_probs"], strict=True)}
    for row in packed:
        start = 0
        for length in row["seq_lengths"]:
            ids = tuple(row["input_ids"][start : start + length])
            assert row["teacher_probs"][start : start + length] == entries[ids]
            start += length
    assert read(packed).record.dataset.rows == len(packed)


def test_members_of_an_ensemble_without_a_tokenizer_read_by_that_of_the_others(tmp_path):
    members = [DeterministicTeacher(llama(seed)) for seed in (0, 1)]
    members[1].processing_class = tokenizer()
    teacher = EnsembleTeacher(members)
    expected = columns(add_soft_labels(texts(), teacher, processing_class=tokenizer(), progress=False))
    teacher.save_pretrained(tmp_path)
    for each in (teacher, tmp_path):
        made = columns(add_soft_labels(texts(), each, progress=False))
        assert (
            made["teacher_tokens"] == expected["teacher_tokens"] and made["teacher_probs"] == expected["teacher_probs"]
        )
