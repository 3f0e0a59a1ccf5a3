"""Networks, and one way to call, save and load any network.

`calling` asks a network, whoever made it, for its logits, its classification head and the features that enter the
head; `saving` writes and reads networks as safetensors. `classifier` wraps timm's networks for transformers;
`cifar_resnet` and `small_cnn` register networks for small images with timm, and `perceptron` takes features.
`variational_layers` have a Gaussian distribution over their weights.
"""
