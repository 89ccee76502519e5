"""Instruments on language models: decoder, partial forward, path patching, edges, head scores, generation."""
