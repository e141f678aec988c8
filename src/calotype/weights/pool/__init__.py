"""Files that are recognised by their keys and handed out as networks, one for each `ModelConfig`.

config        `ModelConfig`, the place of one model's files and how they are used
sources       the files that a config means, shard by shard
known         `KnownModel`, what tells one network's files from others
catalogue     `Catalogue`, the models that a pool knows
recognition   which known models a set of tensors holds, from names and shapes alone
building      a recognised network, with its tensors
pool          `ModelPool`
"""
