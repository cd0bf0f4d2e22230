"""Captioning: tokenizer, beam search, scores, and plots of attention."""
