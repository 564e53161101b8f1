"""Pretrained weights from the hub or a file: read without running anything, or refused."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import nn

# Where the weights of a file may belong in a network: all of it as saved here, a backbone of
# timm's, or a CNN for the convolutional half of the hybrid.
PREFIXES = ("", "backbone.", "backbone.patch_embed.backbone.")
POSITIONS = "backbone.pos_embed"


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """{name: tensor} of a .safetensors file, or of a .pth with tensors and nothing that runs."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is not a weights file: give a .safetensors or .pth file, "imagenet" or "none".'
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path.name} was refused: damaged, or more than weights; save it as .safetensors."
        ) from error
    state = _table_inside(state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{path.name} holds no table of named weights; save model.state_dict() as .safetensors."
        )
    return state


def from_hub(build: Callable[[], nn.Module], name: str) -> nn.Module:
    """What build returns, without timm's long retries where the hub cannot be reached.

    Then timm looks into the cache folder only; OSError with the remedy where that lacks them.
    """
    offline = hub.HF_HUB_OFFLINE
    # One look first: timm retries a dead line for 57 s [measured].
    hub.HF_HUB_OFFLINE = offline or not _hub_answers()
    try:
        return build()
    except OSError as error:
        raise OSError(
            f"The pretrained weights of {name} are not in the cache folder {hub.HF_HUB_CACHE} and "
            f"{hub.ENDPOINT} did not give them: copy that folder from a connected machine (log in "
            'first, for a gated encoder), or give weights="FILE.safetensors", or weights="none" '
            "for random ones."
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = offline


def load_weights(net: nn.Module, state: dict[str, torch.Tensor], origin: str) -> None:
    """None; net takes the weights of a file, all that its part of the network needs, or ValueError.

    origin: what the sentences call the file.
    """
    net_state = net.state_dict()
    prefix = _prefix_of(state, net_state)
    if prefix is None:
        first = next(iter(state), "nothing")
        raise ValueError(f"{origin} holds no weights of {net.network}; its first is {first!r}.")
    state = {prefix + name: value for name, value in state.items()}
    if prefix:
        state = _fit_backbone(net, state, net_state, prefix, origin)
    for name, value in net_state.items():
        needed = name.startswith(prefix) and not name.endswith("num_batches_tracked")
        if needed and name not in state:
            raise ValueError(f"{origin} does not fit {net.network}: it lacks {name}.")
        if name in state and state[name].shape != value.shape:
            raise ValueError(
                f"{origin} does not fit {net.network}: {name} is {tuple(state[name].shape)} in the "
                f"file and {tuple(value.shape)} in the network."
            )
    shared = {name: value for name, value in state.items() if name in net_state}
    net.load_state_dict(net_state | shared)


# --- helpers -----------------------------------------------------------------------------------


def _table_inside(state):
    """The weights of a training's file, which often lie under "state_dict" or "model"."""
    if isinstance(state, dict):
        for key in ("state_dict", "model"):
            if key in state:
                return state[key]
    return state


def _hub_answers():
    """bool, whether the hub can be reached; an HTTP error is an answer too."""
    try:
        urlopen(Request(hub.ENDPOINT, method="HEAD"), timeout=5).close()
    except OSError as error:
        return isinstance(error, HTTPError)
    return True


def _prefix_of(state, net_state):
    """str of PREFIXES under which a file's names are names of the network; None: under none."""
    for prefix in PREFIXES:
        if any(prefix + name in net_state for name in state):
            return prefix
    return None


def _fit_backbone(net, state, net_state, prefix, origin):
    """{name: tensor} of a backbone file: without another head, positions resampled to this grid."""
    # The classifier of a CNN for the hybrid has no counterpart there: load_weights drops it.
    if prefix == "backbone." and net.network != "hybrid":
        state |= _untrained_head(net, state, net_state, prefix, origin)
    if POSITIONS in state and POSITIONS in net_state:
        state[POSITIONS] = resample_abs_pos_embed(
            state[POSITIONS], list(net.grid), num_prefix_tokens=net.prefix_tokens
        )
    return state


def _untrained_head(net, state, net_state, prefix, origin):
    """{name: tensor} of the network's head, with a warning, where the file's has other outputs."""
    head = prefix + net.backbone.pretrained_cfg["classifier"]
    weight = f"{head}.weight"
    if weight not in state or state[weight].shape == net_state[weight].shape:
        return {}
    warnings.warn(
        f"{origin}: its head of {len(state[weight])} outputs is left out, "
        "the new head is untrained.",
        stacklevel=5,
    )
    return {name: net_state[name] for name in (weight, f"{head}.bias")}
