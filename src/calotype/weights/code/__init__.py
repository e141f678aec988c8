"""Code that others wrote: where it is, exactly which bytes it is, whether it may run, and running it apart.

    source        `Code`: the bytes of one source and their hash, and the reading of them from a folder or a hub
    imports       which files a file imports and which packages it asks for, read without running it
    locate        what `custom_pipeline=` means: a shipped name, a file, a folder, a repository on a hub
    offered       all code that a source offers, for who decides whether it may run
    consent       which code was approved: a file in the user's configuration folder
    namespace     the one place where code of others is run, after the check that it may

This module imports none of them.
"""
