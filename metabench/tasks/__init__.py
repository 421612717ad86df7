"""Few-shot tasks of wide networks: regression, and classification of unseen classes."""
