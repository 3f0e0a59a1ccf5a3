"""Label words after prompts: probabilities as by hand, whatever the batch, the padding and the tokenizer."""

import logging

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from hf_bkd import DeterministicTeacher, EnsembleTeacher, PromptedTeacher, Teacher, UserError, add_soft_labels
from hf_bkd.models.calling import call_network, logits_of
from hf_bkd.models.prompted_network import PromptedNetwork, continuations
from hf_bkd.soft_labels import read
from hf_bkd.utils.random import standard_normal

from .language_helpers import TEMPLATE, V, llama, tokenizer
from .language_helpers import WORDS as SIGNS
from .prompted_helpers import PROMPTS, TEXTS, WORDS, answers, by_hand, prompted, rows


def expected(network, prompts=PROMPTS, texts=TEXTS, **settings) -> torch.Tensor:
    """Probabilities [P, B, C]."""
    return torch.stack(
        [torch.stack([by_hand(network, prompt.format(text=text), **settings) for text in texts]) for prompt in prompts]
    )


def others() -> dict[str, torch.nn.Module]:
    torch.manual_seed(1)
    sizes = {"vocab_size": V, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 1}
    opt = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1}
    made = {
        "absolute positions": GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=1)),
        "positions by the mask": OPTForCausalLM(
            OPTConfig(vocab_size=V, num_attention_heads=2, max_position_embeddings=64, **opt)
        ),
    }
    for network in made.values():
        for weight in network.parameters():
            weight.data.mul_(8)
    return {name: network.eval() for name, network in made.items()}


def test_probabilities_are_those_by_hand_and_prompts_are_draws():
    answer, by_prompt = answers(prompted()), expected(llama())
    torch.testing.assert_close(answer.samples, by_prompt, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(answer.mean, by_prompt.mean(dim=0), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(answer.variance, by_prompt.var(dim=0), rtol=1e-3, atol=1e-7)
    assert prompted().num_draws(10) == 2
    assert (by_prompt[0] - by_prompt[1]).abs().max() > 0.01  # else two prompts would prove nothing


@pytest.mark.parametrize("name", ["absolute positions", "positions by the mask"])
def test_other_architectures_say_what_they_say_alone(name):
    network = others()[name]
    torch.testing.assert_close(answers(prompted(network)).samples, expected(network), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_the_batch_nor_the_side_of_padding_changes_an_answer(side, monkeypatch):
    own = tokenizer()
    own.padding_side = side
    teacher = prompted(own=own)
    together = answers(teacher).mean
    alone = torch.cat([answers(teacher, [text]).mean for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-8)
    monkeypatch.setattr("hf_bkd.models.prompted_network.TOKENS_AT_ONCE", 1)
    torch.testing.assert_close(answers(teacher).mean, alone, rtol=1e-5, atol=1e-8)


def test_a_network_that_keeps_all_logits_says_the_same(monkeypatch):
    whole = answers(prompted()).mean
    monkeypatch.setattr("hf_bkd.models.prompted_network.argument_names", lambda network: ["input_ids"])
    torch.testing.assert_close(answers(prompted()).mean, whole, rtol=1e-5, atol=1e-8)


def test_as_few_passes_as_the_words_need_tell_them_all():
    made = continuations([[1, 2, 3], [1, 2, 4], [1, 5], [6], [7, 8]])
    assert sorted(each.stem for each in made) == [[1, 2], [7]]
    assert sorted(word for each in made for word in each.words) == [
        (0, [1, 2, 3]), (1, [1, 2, 4]), (2, [1, 5]), (3, [6]), (4, [7, 8])
    ]  # fmt: skip


def test_members_are_averaged_after_each_prompt():
    networks = [llama(0), llama(1), llama(2)]
    ensemble = EnsembleTeacher([DeterministicTeacher(each) for each in networks])
    each = torch.stack([expected(network) for network in networks])  # [M, P, B, C]
    answer = answers(prompted(ensemble))
    torch.testing.assert_close(answer.mean, each.mean(dim=(0, 1)), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(answer.variance, each.mean(dim=0).var(dim=0), rtol=1e-3, atol=1e-7)
    single = answers(prompted(ensemble, prompts=PROMPTS[0]))
    torch.testing.assert_close(single.samples, each[:, 0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(single.variance, each[:, 0].var(dim=0), rtol=1e-3, atol=1e-7)
    assert prompted(ensemble, prompts=PROMPTS[0]).num_draws(10) == 3


class Shaken(Teacher):
    """Adds noise to the head's weights, the same for all that is asked with one seed."""

    method = "shaken"

    def noise(self, number: int, generator: torch.Generator) -> torch.Tensor:
        head = self.network.lm_head.weight
        return torch.stack([0.1 * standard_normal(tuple(head.shape), head, generator) for _ in range(number)])

    def draw_logits(self, inputs, num_samples, generator):
        head, draws = self.network.lm_head.weight, []
        for noise in self.noise(num_samples, generator):
            head.data += noise
            draws.append(logits_of(call_network(self.network, inputs)))
            head.data -= noise
        return torch.stack(draws)


def test_all_words_and_prompts_are_asked_with_the_same_draws_of_the_weights():
    generator = torch.Generator().manual_seed(3)
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=torch.Generator().manual_seed(3)))
    network, made = llama(), []
    for noise in Shaken(network).noise(2, torch.Generator().manual_seed(seed)):
        own = llama()
        own.lm_head.weight.data += noise
        made.append(expected(own))
    answer = answers(prompted(Shaken(network)), num_samples=2, generator=generator)
    torch.testing.assert_close(answer.samples, torch.stack(made, dim=1).flatten(0, 1), rtol=1e-3, atol=1e-6)
    again = answers(prompted(Shaken(network)), num_samples=2, generator=generator)
    assert not torch.equal(again.mean, answer.mean)  # the generator went on


def test_messages_are_written_by_the_chat_template_and_an_answer_is_gone_on_with():
    chat = [{"role": "system", "content": "say {{it}}"}, {"role": "user", "content": "{text}?"}]
    begun = [{"role": "user", "content": "{text}?"}, {"role": "assistant", "content": "It is"}]
    template = TEMPLATE.replace("message['content'] + '#'", "message['content']")
    own = tokenizer(template)
    written = ["<s>say {{it}}<u>{text}?<a>", "<u>{text}?<a>It is"]
    answer = answers(prompted(own=own, prompts=[chat, begun]))
    torch.testing.assert_close(answer.samples, expected(llama(), written), rtol=1e-4, atol=1e-7)
    single = prompted(own=own, prompts=chat)
    torch.testing.assert_close(answers(single).mean, answer.samples[0], rtol=1e-5, atol=1e-8)


def test_words_omit_their_space_where_the_prompt_ends_in_one():
    signs = ["\n" if sign == "~" else sign for sign in SIGNS]
    own = tokenizer(words=signs)
    words = {"no": ["no", "ba"], "yes": "ye", "other": ["ok"]}
    answer = answers(prompted(own=own, prompts="{text}\n"))
    torch.testing.assert_close(
        answer.mean, expected(llama(), ["{text}\n"], words=words, own=own)[0], rtol=1e-4, atol=1e-7
    )


def test_special_tokens_before_a_text_stand_before_a_prompt_and_not_before_its_words():
    from tokenizers.processors import TemplateProcessing

    own = tokenizer()
    own.backend_tokenizer.post_processor = TemplateProcessing(single="# $A #", special_tokens=[("#", 1)])
    assert own("a")["input_ids"] == [1, *tokenizer()("a")["input_ids"], 1]
    answer = answers(prompted(own=own))
    torch.testing.assert_close(answer.samples, expected(llama(), before=(1,)), rtol=1e-4, atol=1e-7)


def test_what_it_says_of_nothing_is_divided_out():
    teacher = prompted().calibrate(["N/A", ""])
    free = torch.stack([expected(llama(), texts=[text])[:, 0] for text in ("N/A", "")]).mean(dim=0)
    divided = expected(llama()) / free[:, None]
    by_prompt = divided / divided.sum(dim=-1, keepdim=True)
    answer = answers(teacher)
    torch.testing.assert_close(answer.samples, by_prompt, rtol=1e-3, atol=1e-6)
    assert teacher.record["calibrated on"] == ["N/A", ""]
    again = teacher.calibrate(["N/A", ""])  # not on top of the former
    torch.testing.assert_close(answers(again).mean, answer.mean)
    assert again.fingerprint() != prompted().fingerprint()
    with pytest.raises(UserError, match="takes a list of texts"):
        teacher.calibrate("N/A")


def test_a_class_that_nothing_speaks_for_is_divided_out_too():
    sure = llama()
    with torch.no_grad():
        sure.lm_head.weight.mul_(100)  # so that probabilities are 0 in float32
    teacher = prompted(sure, prompts="{text} A:")
    raw = answers(teacher).samples  # looked at before the calibration, which is of one text
    assert (raw == 0).any()
    calibrated = teacher.calibrate(["one"])
    torch.testing.assert_close(answers(calibrated, ["one"]).mean, torch.full((1, 3), 1 / 3), rtol=1e-3, atol=0)
    assert answers(calibrated).mean.isfinite().all()


def test_a_teacher_is_saved_and_loaded(tmp_path):
    chat = [{"role": "user", "content": "{text}?"}]
    teacher = prompted(prompts=[*PROMPTS, chat], temperature=2.0).calibrate()
    teacher.save_pretrained(tmp_path)
    loaded = Teacher.from_pretrained(tmp_path)
    assert isinstance(loaded, PromptedTeacher) and loaded.fingerprint() == teacher.fingerprint()
    assert torch.equal(answers(loaded).mean, answers(teacher).mean)
    assert loaded.record == teacher.record and loaded.class_names == ["no", "yes", "other"]
    card = (tmp_path / "README.md").read_text()
    assert "# prompted teacher" in card and "3 classes" in card


def test_a_teacher_of_an_ensemble_is_saved_with_its_tokenizer(tmp_path):
    ensemble = EnsembleTeacher([DeterministicTeacher(llama(0)), DeterministicTeacher(llama(1))])
    teacher = prompted(ensemble)
    assert ensemble.processing_class is None  # the user's own stays as it was
    teacher.save_pretrained(tmp_path)
    assert torch.equal(answers(Teacher.from_pretrained(tmp_path)).mean, answers(teacher).mean)


def test_adapters_over_one_model_are_saved_without_it(tmp_path):
    peft = pytest.importorskip("peft")
    llama().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    for seed in range(2):
        torch.manual_seed(seed)
        base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        peft.get_peft_model(base, config).save_pretrained(tmp_path / f"adapter-{seed}")
    ensemble = EnsembleTeacher.from_adapters([tmp_path / "adapter-0", tmp_path / "adapter-1"])
    teacher = PromptedTeacher(ensemble, prompts=PROMPTS, label_words=WORDS)  # the tokenizer lies beside the base
    teacher.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("model.safetensors"))
    loaded = Teacher.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(answers(loaded).mean, answers(teacher).mean)
    each = torch.stack([expected(member.network) for member in ensemble.members])
    torch.testing.assert_close(answers(teacher).mean, each.mean(dim=(0, 1)), rtol=1e-4, atol=1e-6)


def test_other_words_prompts_and_templates_are_other_teachers():
    chat = [{"role": "user", "content": "{text}?"}]
    teachers = [
        prompted(),
        prompted(label_words=WORDS | {"yes": " ay"}),
        prompted(prompts=PROMPTS[:1]),
        prompted(llama(1)),
        prompted(prompts=chat),
        prompted(own=tokenizer(TEMPLATE.replace("'<a>'", "'<b>'")), prompts=chat),
    ]
    assert len({each.fingerprint() for each in teachers}) == len(teachers)


def test_longer_rows_lose_their_beginnings_and_are_counted(caplog):
    texts = ["short", "x" * 50 + "the very end", "y" * 70 + "z"]
    teacher = prompted()  # 64 positions, of which words take two and a prompt six or more
    with caplog.at_level(logging.WARNING):
        answer = answers(teacher, texts)
    assert "2 of 3 rows have no room beside the prompts in 62 tokens" in caplog.text
    for number, prompt in enumerate(PROMPTS):
        room = 62 - len(prompt.format(text=""))
        cut = torch.stack([by_hand(llama(), prompt.format(text=text[-room:])) for text in texts])
        torch.testing.assert_close(answer.samples[number], cut, rtol=1e-4, atol=1e-7)
    with pytest.raises(UserError, match="prompt 0 has 66 tokens by itself, and LlamaForCausalLM room for 62"):
        answers(prompted(prompts="{text}" + "a" * 66))


def test_numbers_and_other_columns_are_written_into_prompts():
    table = Dataset.from_dict({"title": ["one", "two"], "year": [1984, 5]})
    teacher = prompted(prompts="{title} ({year}):")
    labeled = add_soft_labels(table, teacher, storage="float32", progress=False)
    own = torch.stack([by_hand(llama(), f"{row['title']} ({row['year']}):") for row in table])
    torch.testing.assert_close(read(labeled).probs, own, rtol=1e-4, atol=1e-7)
    assert read(labeled).record.dataset.identity["columns"] == ["title", "year"]


def test_the_only_column_of_texts_is_the_text():
    named = rows().rename_column("text", "sentence")
    labeled = add_soft_labels(named, prompted(), storage="float32", progress=False)
    torch.testing.assert_close(read(labeled).probs, expected(llama()).mean(dim=0), rtol=1e-4, atol=1e-7)


WRONG = [
    ({"prompts": []}, "there are no prompts"),
    ({"prompts": ["Q: text A:"]}, "prompt 0 names no column"),
    ({"prompts": ["{text} {"]}, "prompt 0 has a brace that names no column"),
    ({"prompts": ["{text} {}"]}, "something else than a column's name in braces"),
    ({"prompts": ["{text!r}"]}, "something else than a column's name in braces"),
    ({"prompts": [["{text}"]]}, "must be a text or messages"),
    ({"prompts": ["{text} \u00fc:"]}, "doesn't know all signs of prompt 0"),
    ({"prompts": [[{"role": "user", "content": "{text}"}]], "own": tokenizer(None)}, "has no chat template"),
    ({"prompts": [[{"role": "", "content": "{text}"}]]}, "the chat template can't write prompt 0"),
    ({"label_words": {"no": " no"}}, "two or more classes"),
    ({"label_words": [" no", " yes"]}, "two or more classes"),
    ({"label_words": {"no": " no", "yes": []}}, "class yes has no label word"),
    ({"label_words": {"no": " no", "yes": ["", " yes"]}}, "class yes has a label word without signs"),
    ({"label_words": {"no": " no", "yes": [" "]}}, "class yes has a label word without signs"),
    ({"label_words": {"no": " no", "yes": " no"}}, "the beginning of ' no', so that no and yes would count it both"),
    ({"label_words": {"no": " no", "none": " none"}}, "the label word ' no' is, in tokens, the beginning of ' none'"),
    ({"label_words": {"no": [" none", " no"], "yes": " yes"}}, "so that it would count twice"),
    ({"label_words": {"no": " no", "yes": " \u00fc"}}, "doesn't know all signs of the label word"),
    ({"model": torch.nn.Linear(2, 2)}, "Linear is no causal language model"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_can_not_be_asked_is_refused(settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        prompted(**settings)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_numbers_words_otherwise_than_a_members_is_warned_of(caplog):
    member = DeterministicTeacher(llama())
    member.processing_class = tokenizer(words=[SIGNS[0], SIGNS[1], *SIGNS[:1:-1]])
    with caplog.at_level(logging.WARNING):
        teacher = prompted(EnsembleTeacher([member, DeterministicTeacher(llama(1))]))
    assert "the tokenizer numbers words otherwise" in caplog.text
    assert teacher.network.training == llama().train().training  # nobody's network is put into another mode


def test_words_that_end_alike_are_no_beginnings():
    prompted(label_words={"no": " no.", "none": " none."})


def test_a_model_that_was_not_trained_to_predict_is_refused():
    from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    with pytest.raises(UserError, match="T5ForConditionalGeneration is no causal language model"):
        prompted(T5ForConditionalGeneration(T5Config(vocab_size=V, **sizes)))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    network = BertLMHeadModel(BertConfig(vocab_size=V, **sizes)).eval()
    for weight in network.parameters():
        weight.data.mul_(5)
    with pytest.raises(UserError, match="sees what comes after a token"):
        prompted(network)
    with pytest.raises(UserError, match="has the token .*, and LlamaForCausalLM knows 60 tokens"):
        prompted(llama(vocab_size=60))
    with pytest.raises(UserError, match="nothing says how prompts become the tokens of LlamaForCausalLM"):
        PromptedTeacher(llama(), prompts=PROMPTS, label_words=WORDS)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (rows().rename_columns({"text": "a"}).add_column("b", TEXTS), "names the column {text}, and the dataset has"),
        (rows(names=("no", "yes")), "the teacher has 3 classes and the dataset's column label has 2"),
        (rows(names=("no", "yes", "maybe")), "can't be matched by name"),
        (rows(["one", " "]), "row 1: the row's text is empty"),
        (Dataset.from_dict({"text": ["one", None]}), "row 1 of column text"),
        (Dataset.from_dict({"text": [["one"], ["two"]]}), "only texts and numbers can be written"),
    ],
)
def test_rows_that_can_not_be_asked_about_are_refused(dataset, message):
    with pytest.raises(UserError, match=message):
        add_soft_labels(dataset, prompted(), progress=False)


def test_labels_and_other_tokenizers_are_kept_out_of_prompts():
    with pytest.raises(UserError, match="names the column {label}, which holds the labels"):
        add_soft_labels(rows(), prompted(prompts="{text} is {label}:"), progress=False)
    other = tokenizer(words=[SIGNS[0], SIGNS[1], *SIGNS[:1:-1]])
    with pytest.raises(UserError, match="is not the one that the prompts' label words were divided by"):
        add_soft_labels(rows(), prompted(), processing_class=other, progress=False)


def test_a_word_without_a_space_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        prompted(label_words={"no": "no", "yes": " yes"})
    assert "the label word 'no' follows prompt 0 without a space, as 'Q: a A:no'" in caplog.text
    assert "'yes'" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prompted(prompts='{text}: "', label_words={"no": "no", "yes": "yes"})
    assert not caplog.text


def test_the_network_is_one_of_its_classes():
    network = prompted().network
    assert isinstance(network, PromptedNetwork) and network.num_classes == 3
    inputs = prompted().preprocessor_for(rows())({"text": TEXTS})
    torch.testing.assert_close(network(**inputs).exp(), answers(prompted()).mean, rtol=1e-5, atol=1e-8)
