"""Networks of texts, tokenizers of many habits, and texts that they may not have met."""

import datasets
import numpy as np
import torch
import transformers
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from .brought import class_names, extras, in_order, labels, options, table, with_repeats
from .demands import Case, answer

WORDS = ["who", "where", "when", "why", "how"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PAD, UNK, CLS, SEP = range(4)
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VOCABULARY, POSITIONS = len(SPECIAL) + len(WORDS), 7


def network_of(kind: str, classes: int, seed: int, names: list[str] | None) -> transformers.PreTrainedModel:
    """A network whose weights are large enough that each word and its place tell."""
    own = {} if names is None else {"id2label": dict(enumerate(names))}
    own |= {"num_labels": classes, "pad_token_id": PAD, "vocab_size": VOCABULARY, "initializer_range": 0.6}
    torch.manual_seed(seed)
    if kind == "bert":
        config = transformers.BertConfig(**SMALL, **own, max_position_embeddings=POSITIONS)
        return transformers.BertForSequenceClassification(config).eval()
    if kind == "roberta":  # positions begin behind the padding token's number
        config = transformers.RobertaConfig(**SMALL, **own, max_position_embeddings=POSITIONS + 1, type_vocab_size=2)
        return transformers.RobertaForSequenceClassification(config).eval()
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            dim=8, n_layers=1, n_heads=2, hidden_dim=8, **own, max_position_embeddings=POSITIONS
        )
        return transformers.DistilBertForSequenceClassification(config).eval()
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=POSITIONS, **own)
    return transformers.GPT2ForSequenceClassification(config).eval()


def tokenizer_of(framed: bool, extra: int = 0, **settings) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of whole words, with a frame of special tokens or without, and ``extra`` words too many."""
    words = [*SPECIAL, *WORDS, *(f"extra{number}" for number in range(extra))]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **settings)


def numbers_of(text: str) -> list[int]:
    return [SPECIAL.__len__() + WORDS.index(word) if word in WORDS else UNK for word in text.split()]


def tokens_by_hand(text: str, framed: bool, longest: int, cut_before: bool) -> list[int]:
    """What a text's tokens are, cut so that they and their frame are no more than the network can read."""
    tokens = numbers_of(text)
    room = longest - 2 * framed
    if len(tokens) > room:
        tokens = tokens[len(tokens) - room :] if cut_before else tokens[:room]
    return [CLS, *tokens, SEP] if framed else tokens


a_text = st.lists(st.sampled_from([*WORDS, "unseen"]), min_size=1, max_size=9).map(" ".join)
STRANGE = [None, None, None, None, "empty", "blank", "missing", "no padding", "vocabulary", "other padding", "second"]
TOKENIZERS = st.fixed_dictionaries(
    {
        "padding_side": st.sampled_from(["right", "right", "left"]),
        "truncation_side": st.sampled_from(["right", "right", "left"]),
        "model_max_length": st.sampled_from([10**30, 10**30, 5, 64]),
    }
)


@st.composite
def of_texts(draw) -> Case:
    """A network of texts, a tokenizer and the dataset that they are to label."""
    kind = draw(st.sampled_from(["bert", "roberta", "distilbert", "gpt2"]))
    classes, framed = draw(st.integers(2, 4)), draw(st.booleans())
    own, names, places = draw(class_names(classes))
    network = network_of(kind, classes, draw(st.integers(0, 9)), names)
    strange, settings = draw(st.sampled_from(STRANGE)), draw(TOKENIZERS)
    padding = {"no padding": {}, "other padding": {"pad_token": "[UNK]"}}.get(strange, {"pad_token": "[PAD]"})
    tokenizer = tokenizer_of(framed, 3 * (strange == "vocabulary"), **settings, **padding)
    texts = draw(st.lists(a_text, min_size=1, max_size=6))
    place = draw(st.integers(0, len(texts) - 1))
    if strange in ("empty", "blank", "missing"):
        texts[place] = {"empty": "", "blank": "  ", "missing": None}[strange]
    texts = draw(with_repeats(texts))
    column = draw(st.sampled_from(["text", "sentence", "review"]))
    string = datasets.Value(draw(st.sampled_from(["string", "large_string"])))
    parts = [({column: texts}, {column: string}), draw(labels(len(texts), own)), draw(extras(len(texts)))]
    if strange == "second":
        parts.append(({"title": ["who"] * len(texts)}, {"title": string}))
    if draw(st.booleans()):
        parts.append(({"score": [0.5] * len(texts)}, {"score": datasets.Value("float32")}))
    dataset = table(draw, *parts)
    longest = min(POSITIONS, settings["model_max_length"])
    cut_before = settings["truncation_side"] == "left"

    def by_hand(text: str | None) -> np.ndarray | None:
        tokens = [] if text is None else tokens_by_hand(text, framed, longest, cut_before)
        if not tokens:
            return None
        inputs = {"input_ids": torch.tensor([tokens]), "attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
        return in_order(answer(network, **inputs), named(places, dataset, classes))

    named_wrong = strange in ("vocabulary",)
    expected = None if named_wrong else [by_hand(text) for text in texts]
    plain = strange in (None, "empty" if framed else None, "blank" if framed else None) and places is not None
    return Case(network, dataset, expected, plain, tokenizer, draw(options(len(texts))))


def named(places: list[int] | None, dataset: datasets.Dataset, classes: int) -> list[int] | None:
    """The places, or the network's own order where the dataset doesn't say what its classes are called in order."""
    features = [dataset.features.get(name) for name in ("label", "labels", "fine_label")]
    return places if any(isinstance(each, datasets.ClassLabel) for each in features) else list(range(classes))


@st.composite
def of_pairs(draw) -> Case:
    """A network of pairs of texts, in columns of usual names that stand in any order."""
    classes = draw(st.integers(2, 3))
    network = network_of("bert", classes, draw(st.integers(0, 9)), None)
    says_kinds = draw(st.booleans())
    inputs_made = ["input_ids", "attention_mask"] + ["token_type_ids"] * says_kinds
    tokenizer = tokenizer_of(True, pad_token="[PAD]", model_input_names=inputs_made)
    first, second = draw(st.sampled_from([("premise", "hypothesis"), ("question", "context"), ("text", "text_pair")]))
    short = st.lists(st.sampled_from(WORDS), min_size=0, max_size=2).map(" ".join)
    pairs = draw(with_repeats(draw(st.lists(st.tuples(short, short), min_size=1, max_size=5))))
    string = datasets.Value("string")
    values = {first: [pair[0] for pair in pairs], second: [pair[1] for pair in pairs]}
    dataset = table(
        draw, (values, {first: string, second: string}), draw(labels(len(pairs), ["a", "b", "c"][:classes]))
    )
    expected = []
    for a, b in pairs:
        left, right = [CLS, *numbers_of(a), SEP], [*numbers_of(b), SEP]
        kinds = torch.tensor([[0] * len(left) + [int(says_kinds)] * len(right)])
        inputs = {"input_ids": torch.tensor([left + right]), "token_type_ids": kinds}
        expected.append(answer(network, **inputs))
    return Case(network, dataset, expected, True, tokenizer, draw(options(len(pairs))))


@st.composite
def of_tokens(draw) -> Case:
    """A network of tokens, and a dataset of tokens of one length or several, with their mask or without."""
    kind, classes = draw(st.sampled_from(["bert", "roberta", "gpt2"])), draw(st.integers(2, 3))
    network = network_of(kind, classes, draw(st.integers(0, 9)), None)
    rows = draw(st.lists(st.lists(st.integers(UNK, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=5))
    if draw(st.booleans()):
        rows = [row[:1] * 3 for row in rows]
    strange = draw(st.sampled_from([None, None, None, "missing", "too large", "too long"]))
    place = draw(st.integers(0, len(rows) - 1))
    if strange is not None:
        rows[place] = {"missing": None, "too large": [VOCABULARY + 5], "too long": [UNK] * 30}[strange]
    rows = draw(with_repeats(rows))
    columns = {"input_ids": rows}
    if draw(st.booleans()):
        columns["attention_mask"] = [None if row is None else [1] * len(row) for row in rows]
    dtype = draw(st.sampled_from(["int64", "int32", "int16"]))
    features = {name: datasets.List(datasets.Value(dtype)) for name in columns}
    dataset = table(
        draw, (columns, features), draw(labels(len(rows), ["a", "b", "c"][:classes])), draw(extras(len(rows)))
    )
    expected = [
        answer(network, input_ids=torch.tensor([row]))
        if row is not None and max(row) < VOCABULARY and len(row) <= POSITIONS - (kind == "roberta")
        else None
        for row in rows
    ]
    return Case(network, dataset, expected, strange is None, None, draw(options(len(rows))))
