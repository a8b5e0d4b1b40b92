"""The embeddings: computed layer by layer in chunks of nodes, their files, and questions to them.

In: a trained encoder and its message graph. Out: the table of embeddings, and answers to questions
such as "which drugs for this disease?". This room knows no training.
"""
