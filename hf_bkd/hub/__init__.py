"""Sending to the Hub and loading from it, and the cards that go with what is sent."""
