"""Advice where two sides say different things: images and pixels, texts and tokens, names and numbers."""

import datasets
import numpy as np

from hf_bkd import DeterministicTeacher, create_classifier

from ..properties.texts import CLS, SEP, numbers_of
from .following import advises, code, follow, refused
from .things import (
    TEXTS,
    Seeing,
    answers,
    bert,
    by_hand,
    labeled,
    linear,
    pictures,
    pixels,
    points,
    same,
    stored,
    texts,
    tokenizer,
)

BOTH = (r"pass (dataset\.\w+\(.*?\)), so", r"right, (dataset\.\w+\(.*?\))")
TOKENS = [[CLS, *numbers_of(text), SEP] for text in TEXTS]


@advises("pass dataset.remove_columns('pixel_values'), so that the images are read")
def test_images_or_the_pixels_beside_them_are_removed():
    network = create_classifier("resnet20_cifar", 3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3).eval()
    others = pixels(pictures()).flip(-1) + 1
    dataset = pictures().remove_columns("label").add_column("pixel_values", others.tolist())
    message = refused(lambda: labeled(dataset, network))
    for pattern, inputs in zip(BOTH, (pixels(pictures()), others), strict=True):
        same(stored(labeled(follow(code(message, pattern), dataset=dataset), network)), by_hand(network, inputs))


@advises("they are another tokenizer's; pass dataset.remove_columns")
def test_texts_or_the_tokens_beside_them_are_removed():
    network, others = bert(), [[CLS, *[8] * (len(row) - 2), SEP] for row in TOKENS]
    dataset = texts(None).add_column("input_ids", others)
    message = refused(lambda: labeled(dataset, network, processing_class=tokenizer()))
    tokens = np.concatenate([by_hand(network, [row]) for row in others])
    for pattern, expected in zip(BOTH, (answers(network), tokens), strict=True):
        given = follow(code(message, pattern), dataset=dataset)
        same(stored(labeled(given, network, processing_class=tokenizer())), expected)


@advises("finds a text's end by its padding token")
def test_a_decoder_is_told_the_padding_of_the_tokens():
    network = bert("gpt2")
    longest = max(map(len, TOKENS))
    rows = [row + [1] * (longest - len(row)) for row in TOKENS]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in TOKENS]
    dataset = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": mask})
    follow(code(refused(lambda: labeled(dataset, network)), r"or set (.*)"), network=network)
    same(stored(labeled(dataset, network)), np.concatenate([by_hand(network, [row]) for row in TOKENS]))


@advises("set teacher.processing_class to it, or pass processing_class=")
def test_a_function_that_was_not_saved_is_passed(tmp_path):
    def own(rows):
        return {"pixel_values": pixels(datasets.Dataset.from_dict(rows, pictures().select_columns("image").features))}

    teacher = DeterministicTeacher(Seeing())
    teacher.processing_class = own
    teacher.save_pretrained(tmp_path)
    dataset = pictures().select_columns("image")
    loaded = DeterministicTeacher.from_pretrained(tmp_path, network=Seeing())
    message = refused(lambda: labeled(dataset, loaded))
    passed = labeled(dataset, loaded, **{code(message, r"pass (\w+)="): own})
    follow(f"{code(message, r'set (teacher.processing_class)')} = own", teacher=loaded, own=own)
    for soft in (passed, labeled(dataset, loaded)):
        same(stored(soft), by_hand(Seeing(), pixels(pictures())))


class Config:
    """Of a network whose classes are called by numbers in another order."""

    id2label = {0: "2", 1: "0", 2: "1"}
    num_labels = 3


@advises("holds numbers, and the classes are called")
def test_numbers_are_said_to_be_names_or_places():
    from .test_data import fitted

    network, dataset = linear(), points()
    network.config = Config()
    message = refused(lambda: fitted(dataset, network))
    as_names = follow(code(message, r"use (dataset\.cast_column\(.*\)) if"), dataset=dataset)
    same(fitted(as_names, network), fitted(points((1, 2, 0, 1))))
    places = follow(f"dict({code(message, r'or (names=.*) in it')})")
    as_places = dataset.cast_column("label", datasets.ClassLabel(**places))
    same(fitted(as_places, network), fitted(points()))


@advises("and its config.label2id")
def test_names_of_a_config_are_brought_to_one_order():
    network = bert()
    network.config.id2label = {0: "cat", 1: "dog", 2: "eel"}
    network.config.label2id = {"cat": 2, "dog": 1, "eel": 0}
    message = refused(lambda: labeled(texts(), network, processing_class=tokenizer()))
    follow(code(message, r"set (config\.label2id = \{.*?\})"), config=network.config)
    same(stored(labeled(texts(), network, processing_class=tokenizer())), answers(network))
