"""Texts in words and their labels become tokens and labels of tokens, and a network of tokens goes the whole way."""

import datasets
import pytest
import torch
from datasets import ClassLabel, Features, List, Value
from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast, RobertaTokenizerFast, set_seed

from hf_bkd import DeterministicTeacher, UserError, add_soft_labels
from hf_bkd.data.batches import DatasetBatches
from hf_bkd.data.preprocessors import preprocessor_for, tokenizer_hash
from hf_bkd.soft_labels import check_against_teacher, read
from tests.cli.fitting_helpers import bert

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "new", "york", "##ish", "##er", "is", "big", "."]
TAGS = ["O", "B-LOC", "I-LOC"]
ROWS = [["New", "Yorkisher", "is", "big", "."], ["big"], ["is", "", "Yorkish"]]
LABELS = [[1, 2, 0, 0, 0], [0], [0, 0, 1]]


def tokenizer(**settings) -> BertTokenizerFast:
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(PIECES)}, **settings)


def tagger(length=16, names=TAGS) -> BertForTokenClassification:
    set_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    shape = {"vocab_size": len(PIECES), "num_labels": len(names), "max_position_embeddings": length}
    config = BertConfig(**small, **shape, pad_token_id=0)
    config.id2label = dict(enumerate(names))
    return BertForTokenClassification(config).eval()


def rows(words=ROWS, labels=LABELS, names=TAGS) -> datasets.Dataset:
    features = Features(
        {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))}
    )
    return datasets.Dataset.from_dict(
        {"id": [str(number) for number in range(len(words))], "tokens": words, "ner_tags": labels}, features=features
    )


def test_a_words_label_stands_at_its_first_piece_alone():
    dataset = rows()
    preprocessor = preprocessor_for(tagger(), dataset, tokenizer())
    assert preprocessor.columns == ("tokens",) and preprocessor.settings["words"]
    batch = preprocessor.labeled(dataset[:], [torch.tensor(each) for each in LABELS], range(3))
    assert batch["input_ids"].tolist() == [
        [2, 5, 6, 7, 8, 9, 10, 11, 3],
        [2, 10, 3, 0, 0, 0, 0, 0, 0],
        [2, 9, 6, 7, 3, 0, 0, 0, 0],
    ]
    none = -100
    assert batch["labels"].tolist() == [
        [none, 1, 2, none, none, 0, 0, 0, none],
        [none, 0, *[none] * 7],
        [none, 0, 1, *[none] * 6],  # the second word has no pieces
    ]
    assert "labels" not in preprocessor(dataset[:])


def test_labels_of_words_that_were_cut_off_are_gone():
    dataset = rows()
    preprocessor = preprocessor_for(tagger(length=5), dataset, tokenizer())
    batch = preprocessor.labeled(dataset[:], [torch.tensor(each) for each in LABELS])
    assert batch["labels"].tolist() == [
        [-100, 1, 2, -100, -100],
        [-100, 0, -100, -100, -100],
        [-100, 0, 1, -100, -100],
    ]


def test_padding_at_the_beginning_moves_the_labels_too():
    dataset, own = rows(), tokenizer(padding_side="left")
    network = tagger()
    network.config.summary_type = "last"  # as XLNet's, which is padded as its tokenizer says
    batch = preprocessor_for(network, dataset, own).labeled(dataset[:], [torch.tensor(each) for each in LABELS])
    assert batch["labels"][1].tolist() == [*[-100] * 7, 0, -100] and batch["input_ids"][1, -2] == 10


def test_rows_without_labels_and_with_too_few():
    dataset = rows(labels=[LABELS[0], [], LABELS[2]])
    preprocessor = preprocessor_for(tagger(), dataset, tokenizer())
    labels = [torch.tensor(each, dtype=torch.int64) for each in dataset["ner_tags"][:]]
    assert (preprocessor.labeled(dataset[:], labels)["labels"][1] == -100).all()
    labels[2] = labels[2][:2]
    with pytest.raises(UserError, match="row 12 of column tokens has 3 words or tokens, and 2 labels"):
        preprocessor.labeled(dataset[:], labels, [10, 11, 12])
    with pytest.raises(UserError, match="^a row of column tokens has 3 words"):
        preprocessor.labeled(dataset[:], labels)
    texts = datasets.Dataset.from_dict({"text": ["new york"]})
    with pytest.raises(UserError, match="column text isn't divided into words"):
        preprocessor_for(tagger(), texts, tokenizer()).labeled(texts[:], [torch.tensor([0, 1])])


def test_labels_of_columns_of_tokens_are_padded_as_these():
    dataset = datasets.Dataset.from_dict({"input_ids": [[2, 5, 3], [2, 3]], "labels": [[-100, 1, -100], [-100, 2]]})
    preprocessor = preprocessor_for(tagger(), dataset)
    batch = preprocessor.labeled(dataset[:], [torch.tensor(each) for each in dataset["labels"][:]])
    assert batch["labels"].tolist() == [[-100, 1, -100], [-100, 2, -100]]


class TestColumns:
    def columns(self, network, **columns):
        return preprocessor_for(network, datasets.Dataset.from_dict(columns), tokenizer()).columns

    def test_networks_of_tokens_read_words_and_others_texts_where_there_are_both(self):
        both = {"text": ["new york"], "tokens": [["new", "york"]]}
        assert self.columns(tagger(), **both) == ("tokens",)
        classifier = bert()
        classifier.resize_token_embeddings(30)
        assert self.columns(classifier, **both) == ("text",)
        assert self.columns(classifier, words=[["new", "york"]]) == ("words",)
        assert self.columns(tagger(), text=["new york"]) == ("text",)

    def test_of_several_columns_of_words_the_one_of_the_usual_name(self):
        assert self.columns(tagger(), lemmas=[["new"]], tokens=[["new"]]) == ("tokens",)
        with pytest.raises(UserError, match="the columns of words lemmas, forms"):
            self.columns(tagger(), lemmas=[["new"]], forms=[["new"]])

    def test_a_row_without_words_is_named(self):
        dataset = rows(words=[*ROWS[:2], None])
        with pytest.raises(UserError, match="row 2 of column tokens"):
            add_soft_labels(dataset, teacher(), progress=False)


def teacher(**how) -> DeterministicTeacher:
    made = DeterministicTeacher(tagger(**how))
    made.processing_class = tokenizer()
    return made


class TestLabeling:
    def test_words_are_labeled_token_by_token(self):
        dataset = rows()
        soft = add_soft_labels(dataset, teacher(), storage="float32", progress=False)
        labels = read(soft)
        with torch.no_grad():
            inputs = tokenizer()(ROWS, is_split_into_words=True, padding=True, return_tensors="pt")
            probs = torch.softmax(tagger()(**inputs).logits, dim=-1)
        mask = inputs["attention_mask"].bool()
        torch.testing.assert_close(labels.values, probs[mask], atol=1e-6, rtol=1e-5)
        assert labels.lengths.tolist() == [9, 3, 5] and labels.record.positions == "tokens"
        assert labels.record.dataset.identity["columns"] == ["tokens"]
        assert check_against_teacher(soft, teacher()) < 1e-6

    def test_classes_go_by_name(self):
        plain = read(add_soft_labels(rows(), teacher(), storage="float32", progress=False))
        swapped = rows(names=["I-LOC", "O", "B-LOC"])
        moved = read(add_soft_labels(swapped, teacher(), storage="float32", progress=False))
        assert torch.equal(moved.values, plain.values[:, [2, 0, 1]])
        with pytest.raises(UserError, match="the teacher has 3 classes and the dataset's column ner_tags has 4"):
            add_soft_labels(rows(names=[*TAGS, "MISC"]), teacher(), progress=False)

    def test_a_missing_row_is_left_out(self):
        dataset = rows(words=[ROWS[0], None, ROWS[2]])
        with pytest.warns(UserWarning, match="1 of 3 rows can't be read"):
            soft = add_soft_labels(dataset, teacher(), on_error="skip", progress=False)
        assert soft["id"][:] == ["0", "2"] and read(soft).lengths.tolist() == [9, 5]

    def test_the_record_knows_the_tokenizer(self):
        record = read(add_soft_labels(rows(), teacher(), progress=False)).record
        assert record.tokenizer == tokenizer_hash(preprocessor_for(tagger(), rows(), tokenizer()))
        cased = tokenizer(do_lower_case=False)
        assert record.tokenizer != tokenizer_hash(preprocessor_for(tagger(), rows(), cased))
        other = tokenizer_hash(preprocessor_for(tagger(length=5), rows(), tokenizer(model_max_length=4)))
        assert record.tokenizer == other  # how much is cut off shows in the number of tokens


def test_tokenizers_that_read_words_otherwise_have_other_hashes():
    vocabulary = {
        piece: number
        for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "N", "e", "w", "\u0120", "\u0120N"])
    }
    hashes = []
    for spaces in (False, True):
        own = RobertaTokenizerFast(vocab=vocabulary, merges=[("\u0120", "N")], add_prefix_space=spaces)
        hashes.append(tokenizer_hash(preprocessor_for(tagger(), rows(), own)))
    assert hashes[0] != hashes[1]


def test_batches_for_a_fit_have_the_labels_of_tokens():
    dataset = rows()
    batches = DatasetBatches(dataset, tagger(), preprocessor_for(tagger(), dataset, tokenizer()), batch_size=2)
    first, second = batches
    assert first["labels"].tolist() == [[-100, 1, 2, -100, -100, 0, 0, 0, -100], [-100, 0, *[-100] * 7]]
    assert second["labels"].tolist() == [[-100, 0, 1, -100, -100]] and second["input_ids"].shape == (1, 5)
    named = rows(names=["I-LOC", "O", "B-LOC"])
    first = next(iter(DatasetBatches(named, tagger(), preprocessor_for(tagger(), named, tokenizer()), batch_size=2)))
    assert first["labels"][0, 1:3].tolist() == [0, 1]
    with pytest.raises(UserError, match="row 1 of column ner_tags has no label"):
        empty = rows(labels=[LABELS[0], [], LABELS[2]])
        DatasetBatches(empty, tagger(), preprocessor_for(tagger(), empty, tokenizer()))
