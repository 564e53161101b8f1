"""Pretrained weights from the hub or a file: read without running anything, fitted, or refused in a sentence."""

import pickle
import warnings
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed


def read_weights(path):
    """{name: tensor} of a .safetensors file, or of a .pth that holds tensors and nothing that runs."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is not a weights file: give a .safetensors or .pth file, "imagenet" or "none".'
        )
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path.name} was refused: damaged, or more than weights; save it as .safetensors."
        ) from error
    state = next(
        (state[k] for k in ("state_dict", "model") if isinstance(state, dict) and k in state), state
    )
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{path.name} holds no table of named weights; save model.state_dict() as .safetensors."
        )
    return state


def from_hub(build, name):
    offline = hub.HF_HUB_OFFLINE
    try:  # one look first: timm retries a dead line for 57 s [measured]
        offline or urlopen(Request(hub.ENDPOINT, method="HEAD"), timeout=5).close()
    except OSError as error:
        hub.HF_HUB_OFFLINE = not isinstance(error, HTTPError)  # an HTTP error is an answer
    try:
        return build()
    except OSError as error:
        raise OSError(
            f"The pretrained weights of {name} are not in the cache folder {hub.HF_HUB_CACHE} and {hub.ENDPOINT} did "
            "not give them: copy that folder from a connected machine (log in first, for a gated encoder), "
            'or give weights="FILE.safetensors", or weights="none" for random ones.'
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = offline


def load_weights(net, state, origin):
    own = net.state_dict()
    inside = (
        "",
        "backbone.",
        "backbone.patch_embed.backbone.",
    )  # saved here, by timm, or a CNN for the hybrid
    prefix = next((p for p in inside if any(p + name in own for name in state)), None)
    if prefix is None:
        raise ValueError(
            f"{origin} holds no weights of {net.network}; its first is {next(iter(state), 'nothing')!r}."
        )
    state = {prefix + name: value for name, value in state.items()}
    if prefix:
        state = _foreign(net, state, own, prefix, origin)
    for name, value in own.items():
        if (
            name not in state
            and name.startswith(prefix)
            and not name.endswith("num_batches_tracked")
        ):
            raise ValueError(f"{origin} does not fit {net.network}: it lacks {name}.")
        if name in state and state[name].shape != value.shape:
            raise ValueError(
                f"{origin} does not fit {net.network}: {name} is {tuple(state[name].shape)} in the file "
                f"and {tuple(value.shape)} in the network."
            )
    net.load_state_dict(own | {name: value for name, value in state.items() if name in own})


def _foreign(net, state, own, prefix, origin):
    """{name: tensor} of a backbone file: another head is left out, positions are resampled to this grid."""
    head = (
        prefix + net.backbone.pretrained_cfg["classifier"]
        if prefix == "backbone." and net.network != "hybrid"
        else "-"
    )
    if f"{head}.weight" in state and state[f"{head}.weight"].shape != own[f"{head}.weight"].shape:
        outputs = len(state[f"{head}.weight"])
        warnings.warn(
            f"{origin}: its head of {outputs} outputs is left out, the new head is untrained.",
            stacklevel=4,
        )
        state |= {f"{head}.{part}": own[f"{head}.{part}"] for part in ("weight", "bias")}
    place = "backbone.pos_embed"
    if place in state and place in own:
        state[place] = resample_abs_pos_embed(
            state[place], list(net.grid), num_prefix_tokens=net.prefix_tokens
        )
    return state
