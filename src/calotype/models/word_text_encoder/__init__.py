"""Whole words to hidden states: a vocabulary of words, their vectors, and a small transformer over them."""

from calotype.models.word_text_encoder.config import WordTextEncoderConfig
from calotype.models.word_text_encoder.module import WordEmbeddings, WordTextEncoder
from calotype.models.word_text_encoder.tokenizer import WordTokenizer, WordTokens

__all__ = ["WordEmbeddings", "WordTextEncoder", "WordTextEncoderConfig", "WordTokenizer", "WordTokens"]
