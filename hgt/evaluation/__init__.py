"""In: embeddings, a decoder and the facts that were held out. Out: ranks, classification figures,
geometry, and a `ValidationReport` whose checks accept or reject the embeddings. It knows neither
how embeddings were trained nor the run folder that they lie in.
"""
