"""A tiny language model, its tokenizer and what they read, for tests."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

V = 97
TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'][0] + '>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '#' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)
WORDS = ["<pad>", "#", *map(chr, range(32, 127))]
TEXTS = ["abcdef ghij", "the cat sat on the mat", "one two three", "xyz", "to be or not to be", "a b c d e f g"]
CHATS = [
    [{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}],
    [
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "ok"},
        {"role": "assistant", "content": "bye bye"},
    ],
]


def tokenizer(template: str | None = TEMPLATE, words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token for each printable character; ``#``, which occurs in no text here, ends a text."""
    own = list(dict.fromkeys(words))
    backend = Tokenizer(
        models.BPE(vocab={word: number for number, word in enumerate(own)}, merges=[], unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="#", unk_token="<pad>")
    made.chat_template = template
    return made


def llama(seed: int = 0, vocab_size: int = V, **settings) -> LlamaForCausalLM:
    """Two layers, random, in evaluation mode."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"max_position_embeddings": 64}
    config = LlamaConfig(
        vocab_size=vocab_size,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **(sizes | settings),
    )
    network = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(20)  # so that its answers differ
    return network


def texts(count: int = 6) -> Dataset:
    return Dataset.from_dict({"text": [TEXTS[number % len(TEXTS)] + str(number) for number in range(count)]})


def learned(network: nn.Module, rows: Dataset, steps: int = 60) -> nn.Module:
    """The network after some steps on the rows, by which it says something of their tokens."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(steps):
        ids = torch.tensor([rows[step % len(rows)]["input_ids"]])
        network(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return network
