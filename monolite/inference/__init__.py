"""Inference: what a model on this machine computes, in OpenAI's shapes.

    POST /v1/embeddings ──► core: which model, which texts ──► models: threads, kernels

Models belong to the installation, not to a tenant: all tenants see the same ones and share one
mapping of each. Nothing of a request is kept. A text that a model can't read whole is cut, and the
answer says so; a text with nothing to embed is refused. Where a model's file is damaged, requests
for it are 503 `model_unusable` and everything else goes on.
"""
