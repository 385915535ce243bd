"""Frozen transformers with their tokenizers: loading, families, fingerprints."""
