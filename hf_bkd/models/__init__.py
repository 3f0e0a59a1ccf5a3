"""Networks, and one way to call, save and load any network.

`calling` asks a network, whoever made it, for its logits; `heads` finds its classification head and the features that
enter it; `saving` writes and reads networks as safetensors. `classifier` wraps timm's networks for transformers;
`cifar_resnet` and `small_cnn` are networks for small images, which `registration` makes known to timm as soon as that
is imported, and `perceptron` takes features. `variational_layers` have a Gaussian distribution over their weights.
"""
