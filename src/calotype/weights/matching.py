"""The keys of a weight file held against the tensors of a network: one to one, or an error that names what is not."""

import logging
import re
from collections.abc import Iterable, Mapping

from calotype.errors import WeightsError, listed
from calotype.nn.network import Network
from calotype.weights.shards import WeightFile

logger = logging.getLogger(__name__)


def matched_keys(network: Network, file: WeightFile) -> dict[str, str]:
    """The key in the file of every tensor of the network. Raises `WeightsError` unless they match one to one."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    left = [key for key in file.entries if key not in expected and any(re.fullmatch(p, key) for p in network.ignores)]
    if left:
        logger.info(
            "%s: %s, which a %s does not take", file.path, ", ".join(counted("left out", left)), type(network).__name__
        )
    taken = [key for key in file.entries if key not in left]
    keys = {_renamed(key, network.renames, expected): key for key in taken}
    shapes = {name: file.entries[key].shape for name, key in keys.items()}
    problems = [
        *counted("missing", [repr(name) for name in expected if name not in keys]),
        *counted("unexpected", [repr(key) for name, key in keys.items() if name not in expected]),
        *counted("misshapen", list(_misshapen(expected, shapes))),
    ]
    if len(keys) < len(taken):
        lost = sorted(set(taken) - set(keys.values()))
        problems += counted("repeated under an older name", [repr(key) for key in lost])
    if problems:
        hint = prefix_hint(expected, keys)
        raise WeightsError(f"{file.path} does not fit {type(network).__name__}: {'; '.join(problems)}{hint}")
    return {name: keys[name] for name in expected}


def _renamed(key: str, renames: Iterable[tuple[str, str]], expected: Mapping[str, object]) -> str:
    if key in expected:
        return key
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _misshapen(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            yield f"{name!r} is {list(found[name])}, expected {list(shape)}"


def counted(what: str, items: list[str]) -> list[str]:
    """A problem and what has it, the first few of them, as a list of one sentence or of none."""
    return [f"{len(items)} {what}: {listed(items)}"] if items else []


def prefix_hint(expected: Iterable[str], found: Iterable[str]) -> str:
    """What to do when the keys of the file differ from the expected ones by one prefix only."""
    names, keys = set(expected), set(found)
    if not names or not keys:
        return ""
    for sign, longer, shorter in (("without", keys, names), ("with", names, keys)):
        probe = min(shorter)
        for key in longer:
            prefix = key.removesuffix(probe)
            if prefix and prefix != key and {prefix + name for name in shorter} <= longer:
                return f"; did you mean the same keys {sign} the prefix {prefix!r}? Rename them and save the file again"
    return ""
