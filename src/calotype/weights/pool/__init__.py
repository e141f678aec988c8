"""Files that are recognised by their keys and handed out as networks.

    config        `ModelConfig`, the place of one model's files and how they are used
    patterns      patterns of file names, and the names of shards
    sources       the files that a config means, shard by shard, fetched where they are on a hub
    usage         the type and the place of a network, and the wishes that cannot be met yet
    blank         networks without memory for their parameters
    known         `KnownModel`, what tells one network's files from others
    catalogue     `Catalogue`, the models that a pool knows; `CATALOGUE`, every network of calotype
    recognition   which known models a set of tensors holds, from names and shapes alone
    building      a recognised network, with its tensors
    report        what a pool found, as values
    pool          `ModelPool`

This module imports none of them.
"""
