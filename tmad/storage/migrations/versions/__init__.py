"""The steps: NNNN_words.py, each tested from the schema before it, on both databases."""
