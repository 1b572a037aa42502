"""Models: a file that is mapped, and what computes with it.

    checkpoint (safetensors, tokenizer.json) ──model add──► NAME.model ──mapped──► Encoder
                                             checkpoint.py  file.py               encoder.py

A checkpoint is quantized once. The file is read where it lies, by all tenants, and never written
again; its checksums are compared each time it is opened, and a damaged one is refused by its name.
`registry.py` knows which are installed. Heavy packages (numpy, tokenizers) are imported when the
first model is opened, safetensors only when one is added.
"""
