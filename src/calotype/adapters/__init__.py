"""Adapters: small files that change what a network computes, beside its weights or in them.

change       the change of one layer: low rank (LoRA), Hadamard (LoHa), Kronecker (LoKr), whole, with magnitudes (DoRA)
formats      a file's keys, in the spelling of PEFT, diffusers or kohya, as changes of layers
names        what those spellings call the layers of a network
place        which layer of which component each change belongs to
host         the adapters of one component: run beside its weights, or fused into them and taken out again
layers       the part of that which runs in every forward pass
inversion    textual inversion: words that a text encoder learned, added and taken away
spans        where a tokenizer keeps words of several vectors
locate       where the file of an adapter is
write        the same changes in another spelling
"""
