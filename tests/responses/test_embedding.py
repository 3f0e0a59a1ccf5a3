"""Encoders of texts: what they make of tokens, which kinds of embeddings are read, and what encodes nothing."""

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaModel, T5Config, T5Model

from hf_bkd import UserError, aggregate_responses, sentence_encoder
from hf_bkd.responses import embedding_estimates
from tests.language.language_helpers import TEXTS, WORDS, V, llama, tokenizer

from .response_helpers import bert, by_hand, on_the_plane

ANSWERS = [["a", "b", "b", "c"], ["d", "d", "a", "c"]]


@pytest.mark.parametrize(
    "form",
    [
        lambda points: points.half(),
        lambda points: points.numpy().astype(np.float16),
        lambda points: points.tolist(),
        list,
        lambda points: points.requires_grad_(),
        lambda points: points.to(torch.bfloat16),
    ],
)
def test_embeddings_of_any_kind_are_read(form):
    expected = embedding_estimates(by_hand(ANSWERS), on_the_plane).mean
    made = embedding_estimates(by_hand(ANSWERS), lambda texts: form(on_the_plane(texts))).mean
    assert made.dtype == torch.float64 and not made.requires_grad
    np.testing.assert_allclose(made, expected, atol=5e-3)


def test_models_that_encode_no_texts_are_refused_and_others_need_no_padding_token():
    own, sizes = tokenizer(), {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    roberta = RobertaModel(
        RobertaConfig(vocab_size=V, **sizes, intermediate_size=16, max_position_embeddings=34, pad_token_id=0)
    )
    assert sentence_encoder(roberta, own)(["a" * 500]).shape == (1, 16)  # 33 positions behind the padding's
    with pytest.raises(UserError, match="max_length is 40, and RobertaModel reads 33 tokens"):
        sentence_encoder(roberta, own, max_length=40)
    with pytest.raises(UserError, match="LlamaForCausalLM returns no last_hidden_state: pass what AutoModel"):
        sentence_encoder(llama(), own)(["a"])
    with pytest.raises(UserError, match="T5Model has a decoder too: pass model.get_encoder"):
        sentence_encoder(T5Model(T5Config(vocab_size=V, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)), own)
    with pytest.raises(UserError, match="numbered up to 97, and BertModel knows 97"):
        sentence_encoder(bert(), tokenizer(words=[*WORDS, "~~", "~~~"]))
    expected = sentence_encoder(bert(), own)(TEXTS)
    own.pad_token = None
    np.testing.assert_allclose(sentence_encoder(bert(), own)(TEXTS), expected, atol=1e-6)
    assert own.pad_token is None


def test_sentence_encoder_is_the_mean_of_the_states_of_each_texts_own_tokens():
    model, own = bert(), tokenizer()
    model.train()
    encode = sentence_encoder(model, own, batch_size=2, normalize=False)
    made = encode(TEXTS)
    assert model.training
    model.eval()
    for text, embedding in zip(TEXTS, made, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([own(text)["input_ids"]])).last_hidden_state
        np.testing.assert_allclose(embedding, states[0].mean(dim=0), atol=1e-5)
    unit = sentence_encoder(model, own)(TEXTS)
    np.testing.assert_allclose(unit, made / made.norm(dim=1, keepdim=True), atol=1e-5)
    assert sentence_encoder(model, own)(["a" * 500]).shape == (1, 16)  # cut to the model's positions
    assert sentence_encoder(model, own)(["", "a"]).isfinite().all()


class WithEncode:
    def encode(self, texts: list[str]) -> np.ndarray:
        return on_the_plane(texts).numpy()


def test_an_object_with_a_method_encode_is_an_encoder():
    assert aggregate_responses(by_hand(ANSWERS), "mean", WithEncode())["completion"][:] == ["c", "d"]
