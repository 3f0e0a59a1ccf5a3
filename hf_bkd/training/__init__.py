"""The trainer that distils, its arguments, and what it reads."""
