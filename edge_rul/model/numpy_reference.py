"""The network as plain functions of arrays, to read and to check the engines against.

Owns the arithmetic of inference once more, without torch: a block is a function of its input and its parameters.
Must not import torch. Slow on purpose: nothing here is fused, folded or skipped.

`params` is a dict of dicts, one a block, each splatted into its function as keywords:

    cnn     kernel_w1 (3, c_in, 64), bias_b1, bn1_gamma, bn1_beta, bn1_mean, bn1_var (64,); likewise 2 and 3
    lstm    W_ih_l0_fwd (in, 4H), W_hh_l0_fwd (H, 4H), b_l0_fwd (4H,), gates in the order i, f, g, o;
            likewise l0_bwd, l1_fwd, l1_bwd; b is the sum of torch's two biases
    attn    W_q, W_k, W_v, W_o (512, 512), b_q, b_k, b_v, b_o (512,), ln_gamma, ln_beta (512,), num_heads
    funnel  W1 (512, 256), b1 (256,), W2, b2, W3, b3
    rul     W1, b1, ..., W4, b4
    hs      W1, b1, ..., W3, b3

Every matrix is (in, out), so that a layer reads `x @ W + b`; torch stores the transpose.

Parameters are held, and so everything is computed, in float64. The exact value of the float32 weights is what a
reference should give: the difference from a float32 engine is then that engine's own rounding, a few 1e-6 at an RUL
of 125, where a float32 reference would add as much again.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors

Array = npt.NDArray[Any]
Params = dict[str, dict[str, Any]]

EPS = 1e-5  # of BatchNorm and LayerNorm, torch's default
CNN_CHANNELS = (64, 128, 64)


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def sigmoid(x: Array) -> Array:
    out: Array = 0.5 * (1.0 + np.tanh(0.5 * x))  # does not overflow, which 1 / (1 + exp(-x)) does
    return out


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: Array = e / e.sum(axis=-1, keepdims=True)
    return out


def cnn_frontend(x: Array, **p: Array) -> Array:
    """x: (B, T, c_in) -> (B, T, 64): three times convolution over time, BatchNorm with running statistics, ReLU."""
    h, T = x, x.shape[1]
    for i in (1, 2, 3):
        kernel = p[f"kernel_w{i}"]  # (3, in, out)
        padded = np.pad(h, ((0, 0), (1, 1), (0, 0)))  # (B, T + 2, in)
        h = sum((padded[:, k : k + T] @ kernel[k] for k in range(3)), p[f"bias_b{i}"])  # (B, T, out)
        h = (h - p[f"bn{i}_mean"]) / np.sqrt(p[f"bn{i}_var"] + EPS)  # (B, T, out)
        h = relu(h * p[f"bn{i}_gamma"] + p[f"bn{i}_beta"])  # (B, T, out)
    return h  # (B, T, 64)


def _lstm(h: Array, W_ih: Array, W_hh: Array, b: Array) -> Array:
    """h: (B, T, in) -> (B, T, H), one direction of one layer, from zero states."""
    B, T, _ = h.shape
    H = W_hh.shape[0]
    state, cell = np.zeros((B, H)), np.zeros((B, H))
    out = np.empty((B, T, H))
    for t in range(T):
        i, f, g, o = np.split(h[:, t] @ W_ih + state @ W_hh + b, 4, axis=-1)  # each (B, H)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)  # (B, H)
        state = sigmoid(o) * np.tanh(cell)  # (B, H)
        out[:, t] = state
    return out


def bilstm_encoder(h: Array, **p: Array) -> Array:
    """h: (B, T, 64) -> (B, T, 512): as many layers as `p` has, the forward half first."""
    layer = 0
    while f"W_ih_l{layer}_fwd" in p:
        fwd, bwd = (tuple(p[f"{kind}_l{layer}_{way}"] for kind in ("W_ih", "W_hh", "b")) for way in ("fwd", "bwd"))
        forward = _lstm(h, *fwd)  # (B, T, 256)
        backward = _lstm(h[:, ::-1], *bwd)[:, ::-1]  # (B, T, 256), read from the newest cycle, put back in order
        h = np.concatenate([forward, backward], axis=-1)  # (B, T, 512)
        layer += 1
    return h


def attention_block(h: Array, *, num_heads: int, **p: Array) -> Array:
    """h: (B, T, 512) -> (B, T, 512): LayerNorm(h + self-attention), every cycle."""
    B, T, D = h.shape
    E = D // num_heads

    def heads(name: str) -> Array:
        projected = h @ p[f"W_{name}"] + p[f"b_{name}"]  # (B, T, 512)
        split: Array = projected.reshape(B, T, num_heads, E).transpose(0, 2, 1, 3)  # (B, H, T, 64)
        return split

    q, k, v = heads("q"), heads("k"), heads("v")
    weights = softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(E))  # (B, H, T, T)
    context = (weights @ v).transpose(0, 2, 1, 3).reshape(B, T, D)  # (B, T, 512)
    out: Array = h + context @ p["W_o"] + p["b_o"]  # (B, T, 512)
    out = (out - out.mean(axis=-1, keepdims=True)) / np.sqrt(out.var(axis=-1, keepdims=True) + EPS)  # (B, T, 512)
    result: Array = out * p["ln_gamma"] + p["ln_beta"]  # (B, T, 512)
    return result


def _dense(h: Array, p: Mapping[str, Array]) -> Array:
    """x @ W1 + b1, ReLU, x @ W2 + b2, ... with no ReLU after the last."""
    n = len(p) // 2
    for i in range(1, n + 1):
        h = h @ p[f"W{i}"] + p[f"b{i}"]
        h = relu(h) if i < n else h
    return h


def fc_funnel(h: Array, **p: Array) -> Array:
    """h: (B, T, 512) -> (B, 32): the last cycle only."""
    return _dense(h[:, -1], p)


def rul_head(z: Array, **p: Array) -> Array:
    """z: (B, 32) -> (B,) RUL, at least 0."""
    return relu(_dense(z, p))[:, 0]


def health_head(z: Array, **p: Array) -> Array:
    """z: (B, 32) -> (B, C) raw logits."""
    return _dense(z, p)


def dual_task_model(x: Array, params: Params) -> tuple[Array, Array]:
    """x: (B, T, c_in) normalised -> rul (B,) and logits (B, C), float32. ValueError for another shape."""
    c_in = params["cnn"]["kernel_w1"].shape[1]
    if x.ndim != 3 or x.shape[2] != c_in or x.shape[1] < 1:
        raise ValueError(f"input has shape {x.shape}, expected (B, T, {c_in}) with T at least 1")
    h = cnn_frontend(x, **params["cnn"])  # (B, T, 64)
    h = bilstm_encoder(h, **params["lstm"])  # (B, T, 512)
    h = attention_block(h, **params["attn"])  # (B, T, 512)
    z = fc_funnel(h, **params["funnel"])  # (B, 32)
    rul, logits = rul_head(z, **params["rul"]), health_head(z, **params["hs"])  # (B,), (B, C)
    return rul.astype(np.float32), logits.astype(np.float32)


def build_random_params(
    seed: int = 0,
    c_in: int = 14,
    lstm_hidden: int = 256,
    num_heads: int = 8,
    shared_dim: int = 32,
    num_classes: int = 3,
) -> Params:
    """Parameters drawn from `seed` within +-1/sqrt(fan in), for a smoke test. ValueError as in DualTaskModel.

    The RUL head's last bias is 62.5, the middle of C-MAPSS's labels: from 0 its ReLU would often answer 0 for all.
    """
    rng = np.random.default_rng(seed)
    H, D = lstm_hidden, 2 * lstm_hidden
    if min(c_in, H, num_heads, shared_dim, num_classes) < 1:
        raise ValueError("every size must be at least 1")
    _check_heads(D, num_heads)

    def draw(fan_in: int, *shape: int) -> Array:
        return np.asarray(rng.uniform(-1.0, 1.0, shape) / np.sqrt(fan_in))

    def dense(*widths: int) -> dict[str, Any]:
        p: dict[str, Any] = {}
        for i, (a, b) in enumerate(pairwise(widths), start=1):
            p[f"W{i}"], p[f"b{i}"] = draw(a, a, b), draw(a, b)
        return p

    cnn: dict[str, Any] = {}
    for i, (a, b) in enumerate(zip((c_in, *CNN_CHANNELS), CNN_CHANNELS, strict=False), start=1):
        cnn |= {f"kernel_w{i}": draw(3 * a, 3, a, b), f"bias_b{i}": draw(3 * a, b)}
        cnn |= {f"bn{i}_gamma": np.ones(b), f"bn{i}_beta": np.zeros(b)}
        cnn |= {f"bn{i}_mean": np.zeros(b), f"bn{i}_var": np.ones(b)}
    lstm: dict[str, Any] = {}
    for layer, a in enumerate((CNN_CHANNELS[-1], D)):
        for way in ("fwd", "bwd"):
            lstm |= {
                f"W_ih_l{layer}_{way}": draw(H, a, 4 * H),
                f"W_hh_l{layer}_{way}": draw(H, H, 4 * H),
                f"b_l{layer}_{way}": draw(H, 4 * H),
            }
    attn: dict[str, Any] = {"num_heads": num_heads, "ln_gamma": np.ones(D), "ln_beta": np.zeros(D)}
    for name in "qkvo":
        attn |= {f"W_{name}": draw(D, D, D), f"b_{name}": draw(D, D)}
    rul = dense(shared_dim, 64, 32, 16, 1)
    rul["b4"] = np.array([62.5])
    return {
        "cnn": cnn,
        "lstm": lstm,
        "attn": attn,
        "funnel": dense(D, 256, 64, shared_dim),
        "rul": rul,
        "hs": dense(shared_dim, 32, 16, num_classes),
    }


def params_from_weights(weights: Mapping[str, Array], num_heads: int) -> Params:
    """A torch state dict as arrays -> params. ValueError for a missing weight, and for heads that do not divide.

    num_heads: which the weights' shapes do not tell.
    """

    def get(name: str) -> Array:
        if name not in weights:
            raise ValueError(f"there is no weight {name!r}")
        return weights[name].astype(np.float64)

    def dense(block: str) -> dict[str, Any]:
        steps = sorted(
            int(k.split(".")[2]) for k in weights if k.startswith(f"{block}.layers.") and k.endswith("weight")
        )
        p: dict[str, Any] = {}
        for i, step in enumerate(steps, start=1):
            p[f"W{i}"], p[f"b{i}"] = get(f"{block}.layers.{step}.weight").T, get(f"{block}.layers.{step}.bias")
        return p

    cnn: dict[str, Any] = {}
    for i in (1, 2, 3):
        cnn[f"kernel_w{i}"] = get(f"cnn.conv{i}.weight").transpose(2, 1, 0)  # (3, in, out)
        cnn[f"bias_b{i}"] = get(f"cnn.conv{i}.bias")
        for ours, theirs in (("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            cnn[f"bn{i}_{ours}"] = get(f"cnn.bn{i}.{theirs}")
    lstm: dict[str, Any] = {}
    for layer in range(sum(k.startswith("lstm.lstm.weight_ih_l") for k in weights) // 2):
        for way, suffix in (("fwd", ""), ("bwd", "_reverse")):
            end = f"l{layer}{suffix}"
            lstm[f"W_ih_l{layer}_{way}"] = get(f"lstm.lstm.weight_ih_{end}").T  # (in, 4H)
            lstm[f"W_hh_l{layer}_{way}"] = get(f"lstm.lstm.weight_hh_{end}").T  # (H, 4H)
            lstm[f"b_l{layer}_{way}"] = get(f"lstm.lstm.bias_ih_{end}") + get(f"lstm.lstm.bias_hh_{end}")  # (4H,)
    attn: dict[str, Any] = {"num_heads": num_heads}
    w, b = get("attn.mha.in_proj_weight"), get("attn.mha.in_proj_bias")  # (3D, D), (3D,)
    _check_heads(w.shape[1], num_heads)
    for name, W, bias in zip("qkv", np.split(w, 3), np.split(b, 3), strict=True):
        attn |= {f"W_{name}": W.T, f"b_{name}": bias}
    attn |= {"W_o": get("attn.mha.out_proj.weight").T, "b_o": get("attn.mha.out_proj.bias")}
    attn |= {"ln_gamma": get("attn.norm.weight"), "ln_beta": get("attn.norm.bias")}
    blocks = {"funnel": dense("funnel"), "rul": dense("rul_head"), "hs": dense("health_head")}
    return {"cnn": cnn, "lstm": lstm, "attn": attn, **blocks}


def load_params(path: Path, num_heads: int) -> Params:
    """params from a bundle's weights.safetensors. OSError, SafetensorError or ValueError if it does not serve."""
    return params_from_weights(load_tensors(path.read_bytes()), num_heads)


def _check_heads(d_model: int, num_heads: int) -> None:
    if num_heads < 1 or d_model % num_heads:
        raise ValueError(f"num_heads is {num_heads}, which does not divide d_model {d_model}")
