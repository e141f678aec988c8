"""Files of weights, networks and pipeline folders: reading them strictly and writing them atomically.

    files         safetensors files: the header and its errors, memory-mapped tensors, a streaming writer
    atomic        files and folders that appear whole or not at all
    component     one network: `load_network`, `save_network`
    registry      the classes that an index file may name, and nothing else
    model_index   `model_index.json` as a value
    components    a pipeline folder: `load_components`, `save_components`

This module imports none of them, so that reading an index does not import torch.
"""
