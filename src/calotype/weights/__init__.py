"""Files of weights, networks and pipelines, here or on a hub: reading them strictly and writing them atomically.

    repository    where files come from: `open_repository`, a folder or a hub
    hub           one commit of a repository on a hub, through its client; transfer: its large files, resumed
    modelscope    the same on ModelScope
    files         safetensors files: the header and its errors, memory-mapped tensors, a streaming writer
    shards        which file holds the weights, of which variant, in one piece or several
    needed        which files of a repository a component is made from
    component     one network: `load_network`, `save_network`
    registry      the classes that an index file may name, and nothing else; aliases: their older names, as data
    model_index   `model_index.json` as a value; strict_json: reading JSON
    foreign       a component of another library, whose files are checked as ours are
    components    a pipeline's components: `load_components`; saving: `save_components`
    pool          networks recognised by their keys in files that say nothing about themselves
    code          pipelines and units that others wrote, and consent to run them

This module imports none of them, so that reading an index does not import torch.
"""
