"""The perceptron over features: its scale, its layers, and what it keeps."""

import pytest
import torch

from hf_bkd import Perceptron
from hf_bkd.models.heads import classification_head


def features(rows: int = 50) -> torch.Tensor:
    values = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.01, 0.0])
    return values + torch.tensor([5.0, -300.0, 0.0, 7.0])


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_logits_are_those_of_its_layers_on_one_scale(hidden):
    network, x = Perceptron(4, 3, hidden, dropout=0.5).eval(), features()
    network.standardize(x)
    scaled = (x - x.mean(dim=0)) / torch.where(x.std(dim=0) > 0, x.std(dim=0), 1.0)
    assert scaled[:, 3].abs().max() == 0  # a constant feature says nothing, and is no division by zero
    expected = scaled
    for layer in (each for each in network.body if isinstance(each, torch.nn.Linear)):
        expected = torch.relu(expected @ layer.weight.T + layer.bias)
    expected = expected @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), expected)
    assert classification_head(network) == ("head", network.head) and network.num_classes == 3


def test_it_keeps_its_scale_its_widths_and_its_weights(tmp_path):
    network, x = Perceptron(4, 3, (6,), dropout=0.2), features()
    network.standardize(x)
    network.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin")) and (tmp_path / "model.safetensors").is_file()
    loaded = Perceptron.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.eval()(x), network.eval()(x), rtol=0, atol=0)
    assert loaded.body[2].p == 0.2
