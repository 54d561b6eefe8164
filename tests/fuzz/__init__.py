"""Fuzzing of everything that reads bytes which somebody else wrote.

`targets` has one small target a parser: a function that takes any bytes and raises when a promise of the parser does
not hold. Two drivers feed them:

- `python -m tests.fuzz` replays the committed corpus and then draws mutations of it from a seed: deterministic, needs
  nothing but the packages, and runs in the test suite.
- `python -m tests.fuzz.guided` lets atheris (libFuzzer) follow the coverage and makes the corpus.

`scripts/fuzz` runs either, and sets up what it needs.
"""
