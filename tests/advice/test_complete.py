"""Every message whose advice is code is followed by a test, but for those that are listed with a reason."""

from . import (  # noqa: F401
    test_adapters,
    test_commands,
    test_data,
    test_draws,
    test_kinds,
    test_label_columns,
    test_language,
    test_networks,
    test_responses,
    test_soft_labels,
    test_studies,
    test_tables,
    test_training,
    test_two_sides,
)
from .following import CODE, FOLLOWED, messages

NOT_FOLLOWED = {  # a piece of the message -> why
    "is a folder here: pass --push_to_hub with": "pushes to a Hub, as tests/hub does",
    "holds PEFT's adapters without their network": "needs PEFT, which the tests do not install",
    "diverged, its {} is": "needs a study whose student diverges; a lower learning rate is no promise",
    "are in the blocks of its GGUF file": "needs a GGUF file, of which the tests have none",
    "most often the memory is too small": "needs a machine whose memory is too small",
}


def test_every_advice_is_followed_or_listed():
    left = []
    for message in messages():
        known = [piece for piece in (*FOLLOWED, *NOT_FOLLOWED) if piece in message.text]
        if CODE.search(message.remedy) and not known:
            left.append(f"{message.place}: {message.text}")
    assert not left, "\n".join(left)


def test_what_is_followed_or_listed_is_a_message_still():
    texts = [message.text for message in messages()]
    for piece in (*FOLLOWED, *NOT_FOLLOWED):
        assert any(piece in text for text in texts), piece
    assert not set(FOLLOWED) & set(NOT_FOLLOWED)
