"""The trainer that distills, its arguments, and the datasets that it reads."""
