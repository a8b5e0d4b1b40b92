"""In: a trained encoder and its message graph. Out: the table of embeddings, computed layer by
layer in node chunks, its files, and answers to questions such as "which drugs for this disease?".
It knows no training.
"""
