"""Captions: words of a tokenizer, search over a decoder's steps, scores, pictures."""
