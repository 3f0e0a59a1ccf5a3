"""For whatever pair of network and dataset is drawn: the labels computed by hand, or a refusal before any work."""
