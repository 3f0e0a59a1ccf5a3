"""Networks, and how any network is asked for logits and features."""
